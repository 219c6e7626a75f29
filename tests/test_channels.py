"""Channels of points beside coordinates: from every layout through training to predictions."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from ea_pointcloud import Cloud, Predictor, create_model, evaluate, read_cloud, train, write_cloud
from ea_pointcloud.augment.pipeline import Augmentation
from ea_pointcloud.augment.transforms import transform_with_normals
from ea_pointcloud.datasets import (
    FolderDataset,
    ModelNet,
    OutOfCoreLoader,
    OutOfCoreModelNet,
    write_modelnet,
)
from ea_pointcloud.datasets._sampling import Preparation
from ea_pointcloud.datasets.prepare import prepare_folder
from ea_pointcloud.descriptors.channels import parse_features, rotate_points
from ea_pointcloud.export import export_model
from ea_pointcloud.io import CloudFileError
from ea_pointcloud.models import DataSpec
from ea_pointcloud.ops.frames import negate_x
from ea_pointcloud.training.recipe import load_recipe
from ea_pointcloud.training.tasks import task_of

FEATURES = ["normals", "intensity"]
INTENSITY = {"dull": 12_000.0, "shiny": 15_000.0}  # of materials; their shapes do not differ


def scan(kind: str, seed: int, points: int = 96) -> Cloud:
    """A sphere with its normals and the intensity of a material."""
    generator = np.random.default_rng(seed)
    normals = generator.normal(size=(points, 3))
    normals = (normals / np.linalg.norm(normals, axis=1, keepdims=True)).astype(np.float32)
    intensity = generator.normal(INTENSITY[kind], 300, points).astype(np.float32)
    return Cloud(2 * normals, np.zeros(3), normals=normals, intensity=intensity)


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """``scans/SPLIT/MATERIAL/file``."""
    seeds = iter(range(100))
    for split, count in (("train", 8), ("val", 3), ("test", 3)):
        for kind in INTENSITY:
            folder = tmp_path / "scans" / split / kind
            folder.mkdir(parents=True)
            for number in range(count):
                path = folder / f"{number}.{('ply', 'pcd')[number % 2]}"
                write_cloud(path, scan(kind, next(seeds)))
    return tmp_path / "scans"


def test_a_set_with_normals_and_intensity_from_files_to_onnx(scans: Path, tmp_path: Path) -> None:
    keys = {"data.features": FEATURES, "model.name": "pointnet", "data.num_points": 64,
            "data.stored_points": 96, "optim.lr": 5e-3}  # fmt: skip
    run = train(
        "folder", keys, data_root=scans, run_dir=tmp_path / "run", epochs=6, votes=2, device="cpu"
    )
    report = evaluate(run, device="cpu").reports[0]
    assert report.overall_accuracy == report.voted_accuracy == 1.0  # type: ignore[union-attr]
    predictor = Predictor.from_pretrained(run, "cpu")
    spec = predictor.model.data_spec
    assert spec.features == ("normals", "intensity")
    assert spec.feature_mean[:3] == (0, 0, 0)
    assert spec.feature_mean[3] == pytest.approx(13_500, rel=0.01)
    assert spec.feature_std[:3] == (1, 1, 1)
    assert spec.feature_std[3] == pytest.approx(np.hypot(1500, 300), rel=0.02)
    new = {kind: tmp_path / f"{kind}.ply" for kind in INTENSITY}
    for kind, path in new.items():
        write_cloud(path, scan(kind, seed=1000))
    for up in ("y", "z", "auto"):
        found = predictor.classify(list(new.values()), up=up, tta_rotations=2)
        assert [each.label for each in found] == list(INTENSITY)
    bare = Cloud(scan("dull", 0).xyz, np.zeros(3), normals=scan("dull", 0).normals, name="bare")
    with pytest.raises(ValueError, match=r"bare has no intensity, only normals; .*trained with"):
        predictor.classify(bare)
    with pytest.raises(ValueError, match=r"with normals, intensity, which this cloud has not"):
        predictor.classify(bare.xyz)
    exported = export_model(predictor.model, tmp_path / "model.onnx")
    assert exported.difference is not None
    assert exported.difference < 1e-4
    (features,) = (each for each in exported.description["inputs"] if each["name"] == "features")
    assert features["shape"] == ["batch", 64, 4]
    assert features["meaning"] == "normals, intensity of the points, in the units of the files"


def test_the_file_gives_what_the_cloud_has(scans: Path) -> None:
    """Each point keeps its own normal and intensity, in the axes and order of the coordinates."""
    dataset = FolderDataset(scans, split="test", up="z", features=FEATURES, stored_points=96)
    sample = dataset[0]
    assert sample["features"].shape == (96, 4)
    assert (sample["features"][:, :3] * sample["xyz"]).sum(-1).mean() > 0.7  # of a sphere
    cloud = read_cloud(scans / dataset.files[0])
    assert cloud.intensity is not None
    assert cloud.normals is not None
    stored = torch.from_numpy(cloud.normals[:, [0, 2, 1]]) * torch.tensor([-1.0, 1, 1])
    nearest = torch.cdist(sample["features"][:, :3], stored).argmin(1)
    assert sample["features"][:, 3].tolist() == cloud.intensity[nearest].tolist()
    again = FolderDataset(scans, split="test", up="z", features=FEATURES, stored_points=96)
    assert torch.equal(again[0]["features"], sample["features"])  # of the cache
    few = FolderDataset(scans, split="test", features=["intensity"], num_points=7, sampling="fps")
    assert few[0]["features"].shape == (7, 1)


def test_a_file_without_a_channel_is_named(scans: Path) -> None:
    write_cloud(scans / "train/dull/bare.ply", Cloud(np.eye(3, dtype="f4"), np.zeros(3)))
    words = r"train/dull/bare.ply: has no intensity, only coordinates; give a file that has it"
    with pytest.raises(CloudFileError, match=words):
        FolderDataset(scans, features=["intensity"])
    assert len(FolderDataset(scans, features=["intensity"], skip_bad=True)) == 16


def test_columns_name_the_channels_of_tables(tmp_path: Path) -> None:
    rows = np.column_stack([np.eye(4, 3), np.arange(4), 5 - np.arange(4)])
    for name in ("a/1.txt", "a/2.txt", "b/1.txt", "b/2.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        np.savetxt(tmp_path / name, rows)
    dataset = FolderDataset(tmp_path, features=["echo"], columns="x,y,z,_,echo")
    assert sorted(dataset[0]["features"].flatten().tolist()) == [2, 3, 4, 5]
    options = ["data.columns=x,y,z,_,echo", "data.features=[echo]", f"data.root={tmp_path}"]
    recipe = load_recipe("folder", options)
    assert (recipe.data.columns, recipe.data.features) == ("x,y,z,_,echo", ["echo"])
    assert recipe.model_config(2).feature_channels == 1


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """A set in ModelNet's layout whose points carry three channels."""
    generator = np.random.default_rng(0)

    def piece(count: int) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        xyz = generator.normal(size=(count, 20, 3)).astype(np.float32)
        channels = {
            "normal": xyz / np.linalg.norm(xyz, axis=-1, keepdims=True),
            "color": generator.integers(0, 256, xyz.shape).astype(np.uint8),
            "intensity": np.arange(count * 20).reshape(count, 20),
        }
        return 3 * xyz + 1, np.arange(count) % 2, channels

    return write_modelnet(tmp_path / "set", ["a", "b"], train=[piece(9), piece(7)], test=[piece(4)])


def test_channels_of_hdf5_files(stored: Path) -> None:
    features = ["intensity", "colors", "normals"]
    dataset = ModelNet(stored, split="trainval", features=features)
    assert dataset.features is not None
    with h5py.File(stored / "ply_data_train0.h5") as file:
        first = {name: np.asarray(file[name])[:9] for name in ("normal", "color", "intensity")}
    np.testing.assert_array_equal(dataset.features[:9, :, 0], first["intensity"])
    np.testing.assert_allclose(dataset.features[:9, :, 1:4], first["color"] / 255)
    np.testing.assert_array_equal(dataset.features[:9, :, 4:], first["normal"])
    mirrored = ModelNet(stored, split="trainval", features=features, mirrored=True)
    assert mirrored.features is not None
    np.testing.assert_array_equal(mirrored.features[:9, :, 4], -first["normal"][..., 0])
    assert torch.equal(mirrored.features[..., 5:], dataset.features[..., 5:])
    assert "features" not in ModelNet(stored)[0]
    with pytest.raises(ValueError, match=r"train0.h5 has no height \(data.features\), only color"):
        ModelNet(stored, features=["height"])


@pytest.mark.parametrize("sampling", ["first", "fps"])
def test_out_of_core_gives_the_same_channels(stored: Path, sampling: str) -> None:
    options: dict[str, Any] = {"split": "train", "features": ["normals", "intensity"],
                               "num_points": 6, "sampling": sampling}  # fmt: skip
    whole, outside = ModelNet(stored, **options), OutOfCoreModelNet(stored, **options)
    index = [3, 0, 5]
    for name, values in whole[index].items():
        assert torch.equal(outside[index][name], values)
    batches = list(OutOfCoreLoader(outside, 4, num_workers=0))
    assert torch.equal(torch.cat([each["features"] for each in batches]), whole.features)
    assert outside.num_bytes == len(outside) * 6 * 4 * 7


def test_preparation_keeps_channels(scans: Path, tmp_path: Path) -> None:
    preparation = Preparation(32, features=("intensity",))
    prepare_folder(scans, tmp_path / "mine_ply_hdf5_32", preparation, workers=0)
    dataset = ModelNet(tmp_path / "mine_ply_hdf5_32", name="mine", split="test", features=FEATURES)
    assert dataset.features is not None
    means = [float(dataset.features[dataset.label == label, :, 3].mean()) for label in (0, 1)]
    assert means == pytest.approx(list(INTENSITY.values()), rel=0.02)
    assert (dataset.features[..., :3] * dataset.xyz).sum(-1).mean() > 0.7  # of a sphere
    with pytest.raises(CloudFileError, match="has no echo, only normals intensity; give"):
        prepare_folder(scans, tmp_path / "other", Preparation(32, features=("echo",)), workers=0)


def write_resampled(folder: Path) -> Path:
    """``modelnet40_normal_resampled`` with some shapes of two classes."""
    generator = np.random.default_rng(0)
    lists: dict[str, list[str]] = {"train": [], "test": []}
    for name in ("airplane", "night_stand"):
        (folder / name).mkdir(parents=True)
        for number in range(6):
            normals = generator.normal(size=(40, 3))
            normals /= np.linalg.norm(normals, axis=1, keepdims=True)
            shape = f"{name}_{number:04}"
            np.savetxt(folder / name / f"{shape}.txt", np.hstack([normals, normals]), "%.6f", ",")
            lists["test" if number > 3 else "train"].append(shape)
    (folder / "modelnet40_shape_names.txt").write_text("airplane\nbed\nnight_stand\n")
    for split, shapes in lists.items():
        (folder / f"modelnet40_{split}.txt").write_text("\n".join(shapes))
    return folder


def test_modelnet_as_text_is_trained_with_normals(tmp_path: Path) -> None:
    folder = write_resampled(tmp_path / "modelnet40_normal_resampled")
    dataset = FolderDataset(folder, split="test", features="normals")
    assert dataset.class_names == ("airplane", "bed", "night_stand")  # of the list
    assert [Path(file).stem[-4:] for file in dataset.files] == ["0004", "0005"] * 2
    keys = {"data.features": ["normals"], "data.num_points": 32, "model.overrides.pooling": "max"}
    run = train(
        "modelnet40", keys, data_root=tmp_path, run_dir=tmp_path / "run", epochs=1, device="cpu",
        votes=0, precision="32-true",
    )  # fmt: skip
    model = Predictor.from_pretrained(run, "cpu").model
    assert model.config.feature_channels == 3
    assert evaluate(run, device="cpu").reports[0].shapes == 4


@pytest.mark.data
def test_the_published_text_files_are_trained_with_normals(data_root: Path, tmp_path: Path) -> None:
    keys = {"data.features": "normals", "data.num_points": 128, "data.val_fraction": 0.4}
    run = train(
        "modelnet40", keys, data_root=data_root / "modelnet40_normal_resampled_sample",
        run_dir=tmp_path / "run", epochs=1, device="cpu", votes=0, precision="32-true",
    )  # fmt: skip
    model = Predictor.from_pretrained(run, "cpu").model
    assert len(model.data_spec.class_names) == 40
    assert model.data_spec.mirroring == "undone"


SQUARE = "-1 0 -1 {}\n1 0 -1 {}\n1 0 1 {}\n-1 0 1 {}\n"  # y up; colours go from black to red in x
PLY = """ply
format ascii 1.0
element vertex 4
property float x
property float y
property float z
property uchar red
property uchar green
property uchar blue
property int label
element face 1
property list uchar int vertex_indices
end_header
"""


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.ply", PLY + SQUARE.format("0 0 0 4", "255 0 0 7", "255 0 0 7", "0 0 0 4")
         + "4 0 1 2 3\n"),
        ("a.off", "COFF\n4 1 0\n" + SQUARE.format(*["0 0 0 1", "1 0 0 1", "1 0 0 1", "0 0 0 1"])
         + "4 0 1 2 3\n"),
        ("a.obj", "".join(f"v {row}\n" for row in SQUARE.format(
            "0 0 0", "1 0 0", "1 0 0", "0 0 0").splitlines()) + "f 1 2 3 4\n"),
    ],
)  # fmt: skip
def test_points_of_a_mesh_have_the_colours_of_its_vertices(
    name: str, text: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(text)
    cloud = read_cloud(tmp_path / name, num_points=200)
    assert cloud.colors is not None
    x = cloud.xyz[:, 0] + cloud.center[0]
    np.testing.assert_allclose(cloud.colors[:, 0], (x + 1) / 2, atol=1e-6)
    assert not cloud.colors[:, 1:].any()
    assert cloud.normals is not None
    np.testing.assert_allclose(np.abs(cloud.normals), [[0, 1, 0]] * 200, atol=1e-6)
    if name == "a.ply":  # the label of the nearest corner, in triangles of two labels
        assert cloud.labels is not None
        assert set(cloud.labels[x > 0.5]) == {7}
        assert set(cloud.labels[x < -0.5]) == {4}
    again = read_cloud(tmp_path / name, num_points=200)
    np.testing.assert_array_equal(cloud.colors, again.colors)


def test_normals_stay_perpendicular_to_the_surface() -> None:
    generator = torch.Generator().manual_seed(0)
    xyz, tangent = torch.randn(2, 4, 50, 3, generator=generator)
    normals = torch.nn.functional.normalize(torch.linalg.cross(tangent, xyz), dim=-1)
    normals[:, :3] = 0
    augmentation = Augmentation(rotation="any", mirror=True, scale=(0.5, 2.0), shift=0.3)
    again = partial(generator.manual_seed, 1)
    moved, turned, kept = augmentation.with_normals(xyz, normals, generator=again())
    beside, _, _ = augmentation.with_normals(xyz + tangent, normals, generator=again())
    assert kept is None
    assert turned is not None
    assert ((beside - moved) * turned).sum(-1).abs().max() < 1e-4
    torch.testing.assert_close(turned[:, 3:].norm(dim=-1), torch.ones(4, 47))
    assert (turned[:, :3] == 0).all()
    alone, _ = augmentation(xyz, generator=again())
    torch.testing.assert_close(moved, alone)
    _, negated = transform_with_normals(negate_x, xyz, normals)
    torch.testing.assert_close(negated, negate_x(normals))


def test_training_mixes_rotates_and_drops_channels_with_their_points() -> None:
    options = ["data.features=[intensity,normals]", "augment.cutmix_prob=1", "augment.rotation=any",
               "augment.point_dropout=0.5", "data.num_points=16", "augment.scale=[1,1]",
               "augment.shift=0", "augment.normalize=false"]  # fmt: skip
    task = task_of(load_recipe("modelnet40", options))
    generator = torch.Generator().manual_seed(0)
    xyz = torch.nn.functional.normalize(torch.randn(6, 40, 3, generator=generator), dim=-1)
    stored = {"xyz": xyz, "features": torch.cat([xyz[..., :1] * 0 + 7, xyz], -1),
              "label": torch.arange(6)}  # fmt: skip
    before = {name: value.clone() for name, value in stored.items()}
    batch = task.augment(stored, generator)
    assert batch["features"].shape == (6, 16, 4)
    assert (batch["features"][..., 0] == 7).all()
    torch.testing.assert_close(batch["features"][..., 1:], batch["xyz"])  # a sphere's normals
    assert all(torch.equal(stored[name], value) for name, value in before.items())


def test_the_network_scales_channels_itself() -> None:
    spec = DataSpec(("a", "b"), features=("intensity",), feature_mean=(5e4,), feature_std=(1e3,))
    model = create_model("pointnet_classifier_tiny", data_spec=spec).eval()
    plain = create_model("pointnet_classifier_tiny", num_classes=2, feature_channels=1).eval()
    plain.load_state_dict(model.state_dict())
    xyz, values = torch.randn(2, 30, 3), torch.randn(2, 30, 1)
    torch.testing.assert_close(
        model(xyz, 1e3 * values + 5e4), plain(xyz, values), atol=1e-4, rtol=0
    )
    with pytest.raises(ValueError, match="features must have 1 channels as in the config"):
        model(xyz, values.expand(-1, -1, 2))


def test_names_of_features() -> None:
    assert parse_features("features", "none") == ()
    assert parse_features("features", "normals") == ("normals",)
    assert json.loads(json.dumps(DataSpec(("a", "b"), features=["intensity"]).features))  # type: ignore
    for wrong in (["label"], ["normals", "normals"], ["normals", "eigen_features"], [""], [3]):
        with pytest.raises(ValueError, match="features must "):
            parse_features("features", wrong)  # type: ignore[arg-type]
    for scale in ((1.0, 2.0), (0.0,), (float("nan"),)):
        with pytest.raises(ValueError, match="feature_std must be a finite number for each of "):
            DataSpec(("a", "b"), features=("echo",), feature_mean=(0.0,), feature_std=scale)


def test_only_vectors_turn() -> None:
    points = torch.arange(14.0).view(2, 7)
    turned = rotate_points(points, ("echo", "normals"), partial(torch.flip, dims=(-1,)))
    assert turned.tolist() == [[2, 1, 0, 3, 6, 5, 4], [9, 8, 7, 10, 13, 12, 11]]
