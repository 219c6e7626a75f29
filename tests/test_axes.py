"""Published clouds of ModelNet40 are mirror images of their meshes, and are not read as such."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor
from torch_geometric.data import Data

from ea_pointcloud import Predictor
from ea_pointcloud.datasets import (
    FolderDataset,
    ModelNet,
    OutOfCoreLoader,
    OutOfCoreModelNet,
    open_dataset,
    write_modelnet,
)
from ea_pointcloud.datasets._sampling import Preparation
from ea_pointcloud.datasets.axes import find_mirroring
from ea_pointcloud.datasets.catalog import CATALOG, MODELNET40_CLASSES
from ea_pointcloud.datasets.prepare import prepare_folder
from ea_pointcloud.datasets.pyg_source import PyGShapes
from ea_pointcloud.datasets.verify import verify_prepared
from ea_pointcloud.io import conventional_up, read_cloud, write_mesh
from ea_pointcloud.io.read import assumed_up
from ea_pointcloud.models import DataSpec
from ea_pointcloud.ops import knn
from ea_pointcloud.ops.frames import negate_x, normalize_unit_sphere, to_y_up
from ea_pointcloud.training.data import open_split
from ea_pointcloud.training.evaluate_run import evaluate_run
from ea_pointcloud.training.fit import train
from ea_pointcloud.training.recipe import load_recipe
from tests.test_cli import call

CPU = torch.device("cpu")
MIRROR = torch.tensor([-1.0, 1.0, 1.0])
CHOICES = [("auto", "undone"), (True, "undone"), (False, "kept")]


@pytest.fixture
def published(modelnet_folder: Path) -> Path:
    """The small set of ``modelnet_folder`` with the official names: a published set."""
    names = "".join(f"{name}\n" for name in MODELNET40_CLASSES)
    (modelnet_folder / "shape_names.txt").write_text(names)
    return modelnet_folder


def stored(folder: Path, part: str = "test0") -> Tensor:
    with h5py.File(folder / f"ply_data_{part}.h5", "r") as file:
        return torch.from_numpy(np.asarray(file["data"]))


def write_text(folder: Path, shapes: int = 2) -> Path:
    """Two classes in the layout of ``modelnet40_normal_resampled``, with its official names."""
    rng = np.random.default_rng(0)
    lists: dict[str, list[str]] = {"train": [], "test": []}
    for name in ("airplane", "night_stand"):
        (folder / name).mkdir(parents=True)
        for number in range(2 * shapes):
            normal = rng.normal(size=(40, 3))
            normal /= np.linalg.norm(normal, axis=1, keepdims=True)
            rows = np.concatenate([rng.normal(size=(40, 3)), normal], 1)
            shape = f"{name}_{number + 1:04d}"
            np.savetxt(folder / name / f"{shape}.txt", rows, fmt="%.6f", delimiter=",")
            lists["train" if number < shapes else "test"].append(shape)
    for split, names in lists.items():
        (folder / f"modelnet40_{split}.txt").write_text("".join(f"{name}\n" for name in names))
    names = "".join(f"{name}\n" for name in MODELNET40_CLASSES)
    (folder / "modelnet40_shape_names.txt").write_text(names)
    return folder


def test_which_sets_are_mirrored(published: Path, tmp_path: Path) -> None:
    assert {name for name, entry in CATALOG.items() if entry.mirrored} == {
        "modelnet40_ply_hdf5_2048", "modelnet40_normal_resampled", "modelnet40_c", "modelnet_c"
    }  # fmt: skip
    for mirrored, mirroring in CHOICES:
        assert find_mirroring(published, mirrored) == mirroring
    # The names decide, not the folder's name nor the order of the names.
    renamed = published.rename(tmp_path / "mine_hdf5_2048")
    listing = renamed / "shape_names.txt"
    listing.write_text("\n".join(reversed(MODELNET40_CLASSES)))
    assert find_mirroring(renamed) == "undone"
    listing.write_text("\n".join(MODELNET40_CLASSES[:10]))
    assert [find_mirroring(renamed, choice) for choice in ("auto", False)] == ["none", "none"]
    assert find_mirroring(renamed, True) == "undone"
    # Meshes are not mirrored, whatever their classes are called.
    for name in MODELNET40_CLASSES:
        (tmp_path / "ModelNet40" / name / "train").mkdir(parents=True)
    assert find_mirroring(tmp_path / "ModelNet40") == "none"


@pytest.mark.parametrize(("mirrored", "mirroring"), CHOICES)
def test_published_clouds_in_memory_and_streamed(
    published: Path, mirrored: bool | str, mirroring: str
) -> None:
    expected = stored(published) * (MIRROR if mirroring == "undone" else 1)
    held = ModelNet(published, split="test", mirrored=mirrored)
    assert held.mirroring == mirroring
    assert torch.equal(held.xyz, expected)
    out_of_core = OutOfCoreModelNet(published, split="test", mirrored=mirrored, num_points=16)
    assert out_of_core.mirroring == mirroring
    assert torch.equal(out_of_core[list(range(40))]["xyz"], expected[:, :16])
    assert torch.equal(out_of_core[3]["xyz"], expected[3, :16])
    assert torch.equal(
        torch.cat([batch["xyz"] for batch in OutOfCoreLoader(out_of_core, 16)]), expected[:, :16]
    )
    for resident in (True, False):
        options = [f"data.root={published}", f"data.mirrored={str(mirrored).lower()}"]
        data = load_recipe(
            "modelnet40_ea", [*options, f"data.in_memory={str(resident).lower()}"]
        ).data
        opened = open_split(data, "test")
        assert opened.mirroring == mirroring
        assert torch.equal(opened[[0, 7]]["xyz"], expected[[0, 7], :1024])


def test_other_sets_are_read_as_they_are(modelnet_folder: Path) -> None:
    """Forty classes of other names, as anybody may have."""
    held = ModelNet(modelnet_folder, split="test")
    assert held.mirroring == "none"
    assert torch.equal(held.xyz, stored(modelnet_folder))
    assert torch.equal(
        ModelNet(modelnet_folder, split="test", mirrored=True).xyz, negate_x(held.xyz)
    )


def test_folder_name_without_ply(published: Path, tmp_path: Path) -> None:
    plain = ModelNet(published, split="test")
    published.rename(tmp_path / "modelnet40_rebuilt_hdf5_2048")
    for opened in (
        ModelNet(tmp_path, name="modelnet40_rebuilt", split="test"),
        OutOfCoreModelNet(tmp_path, name="modelnet40_rebuilt", split="test"),
        open_dataset("modelnet40_rebuilt", split="test", data_root=tmp_path),
    ):
        assert opened.name == "modelnet40_rebuilt"
        assert torch.equal(opened[:]["xyz"], plain.xyz)  # pyright: ignore[reportArgumentType]
    with pytest.raises(
        FileNotFoundError, match=r"no shape_names.txt in .*a_ply_hdf5_2048, .*a_hdf5_2048 or "
    ):
        ModelNet(tmp_path, name="a")


def test_opening_says_which(published: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    opened = open_dataset(published, split="test")
    assert opened.mirroring == "undone"
    assert "opened as ModelNet (HDF5), stored mirrored, x negated" in caplog.text


@pytest.mark.parametrize(("mirrored", "mirroring"), CHOICES)
def test_text_as_a_folder_of_classes(tmp_path: Path, mirrored: bool | str, mirroring: str) -> None:
    """The recipe ``folder`` reads the text layout too."""
    folder = write_text(tmp_path / "set", shapes=4)
    opened = FolderDataset(folder, mirrored=mirrored, num_workers=0)
    assert opened.mirroring == mirroring
    plain = FolderDataset(folder, mirrored=False, num_workers=0)
    sign = MIRROR if mirroring == "undone" else 1
    assert torch.allclose(opened.xyz, plain.xyz * sign, atol=1e-6)


def test_graphs(tmp_path: Path) -> None:
    graphs = [Data(pos=torch.randn(9, 3), y=torch.tensor([label])) for label in (0, 1)]
    plain, negated = PyGShapes(graphs), PyGShapes(graphs, mirrored=True)
    assert (plain.mirroring, negated.mirroring) == ("none", "undone")
    assert torch.allclose(negated.xyz, negate_x(plain.xyz), atol=1e-6)


@pytest.mark.parametrize("up", ["x", "y", "z"])
def test_prepared_text(tmp_path: Path, up: str) -> None:
    folder = write_text(tmp_path / "set")
    made = {}
    for choice in ("auto", False):
        target = tmp_path / f"{choice}_ply_hdf5_32"
        preparation = Preparation(points=32, up=up, mirrored=choice)
        made[choice] = prepare_folder(folder, target, preparation, workers=0)
        assert all(finding.right for finding in verify_prepared(target))
        assert json.loads((target / "manifest.json").read_text()) == made[choice]
    assert [each["mirroring"] for each in made.values()] == ["undone", "kept"]
    # Official ids, in the order of the rows.
    assert made["auto"]["ids"] == {
        "ply_data_train0.h5": [
            "airplane_0001",
            "airplane_0002",
            "night_stand_0001",
            "night_stand_0002",
        ],
        "ply_data_test0.h5": [
            "airplane_0003",
            "airplane_0004",
            "night_stand_0003",
            "night_stand_0004",
        ],
    }
    for part in ("train0", "test0"):
        files = [tmp_path / f"{choice}_ply_hdf5_32/ply_data_{part}.h5" for choice in made]
        with h5py.File(files[0]) as right, h5py.File(files[1]) as kept:
            for key in ("data", "normal"):
                found, plain = (torch.from_numpy(np.asarray(file[key])) for file in (right, kept))
                assert torch.allclose(found, plain * MIRROR, atol=1e-6)
    # Forty official names and our manifest: what was made is right-handed and stays so, and what
    # was left mirrored is known to be.
    opened = [ModelNet(tmp_path / f"{choice}_ply_hdf5_32", split="test") for choice in made]
    assert [each.mirroring for each in opened] == ["none", "undone"]
    assert torch.allclose(opened[0].xyz, opened[1].xyz, atol=1e-6)


def test_preparation_with_another_choice_starts_anew(tmp_path: Path) -> None:
    folder = write_text(tmp_path / "set")
    bad = folder / "night_stand" / "night_stand_0004.txt"
    text = bad.read_text()
    bad.write_text("nothing")
    target = tmp_path / "out"
    with pytest.raises(ValueError, match="1 files cannot be prepared"):
        prepare_folder(folder, target, Preparation(points=8, mirrored=False), workers=0)
    bad.write_text(text)
    prepare_folder(folder, target, Preparation(points=8), workers=0)
    whole = prepare_folder(folder, tmp_path / "whole", Preparation(points=8), workers=0)
    assert torch.equal(stored(target, "train0"), stored(tmp_path / "whole", "train0"))
    assert whole["mirroring"] == "undone"


def test_sets_that_we_write_are_right_handed(tmp_path: Path) -> None:
    xyz = np.random.default_rng(0).normal(size=(3, 8, 3)).astype(np.float32)
    xyz -= xyz.mean(1, keepdims=True)
    xyz /= np.linalg.norm(xyz, axis=2).max(1)[:, None, None]
    piece = (xyz, np.array([0, 39, 1]))
    folder = write_modelnet(tmp_path / "set", MODELNET40_CLASSES, train=[piece], test=[piece])
    assert torch.equal(ModelNet(folder, split="test").xyz, torch.from_numpy(xyz))
    assert all(finding.right for finding in verify_prepared(folder))
    counts = json.loads((folder / "manifest.json").read_text())["counts"]
    assert {name for name, count in counts["train"].items() if count} == {
        "airplane",
        "bathtub",
        "xbox",
    }


def test_what_is_refused(
    published: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    wrong = r"mirrored must be one of 'auto', True, False, got 'maybe'"
    with pytest.raises(ValueError, match=wrong):
        ModelNet(published, mirrored="maybe")
    with pytest.raises(ValueError, match=wrong):
        OutOfCoreModelNet(published, mirrored="maybe")
    with pytest.raises(ValueError, match=wrong):
        Preparation(mirrored="maybe")
    with pytest.raises(ValueError, match=rf"recipe modelnet40_ea: data.{wrong}"):
        load_recipe("modelnet40_ea", ["data.mirrored=maybe"])
    with pytest.raises(
        ValueError,
        match=r"data.mirrored belongs to data.dataset=modelnet, folder or pyg, got True "
        r"with procedural; leave it out",
    ):
        load_recipe("procedural", ["data.mirrored=true"])
    (published / "manifest.json").write_text("[]")
    with pytest.raises(ValueError, match="must hold a JSON object, got list; prepare"):
        ModelNet(published)
    with pytest.raises(ValueError, match=r"mirroring must be one of 'none', 'undone', 'kept', got"):
        DataSpec(class_names=("a", "b"), mirroring="left")
    assert (
        call(monkeypatch, "data", "prepare", write_text(tmp_path / "set"), "--mirrored", "maybe")
        == 1
    )
    assert (
        "--mirrored must be one of 'auto', 'true', 'false', got 'maybe'" in capsys.readouterr().err
    )


def test_prepare_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_text(tmp_path / "set")
    for choice, said in (
        ("auto", "stored mirrored, x negated"),
        ("false", "stored mirrored and left so"),
    ):
        out = tmp_path / choice
        assert (
            call(
                monkeypatch,
                "data",
                "prepare",
                folder,
                "--points",
                16,
                "--mirrored",
                choice,
                "--output",
                out,
            )
            == 0
        )
        assert f"{folder}: {said}" in capsys.readouterr().err


BOX = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], float)
BOX_FACES = np.array(
    [[0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1],
     [2, 3, 7], [2, 7, 6], [0, 2, 6], [0, 6, 4], [1, 5, 7], [1, 7, 3]]
)  # fmt: skip
HANDS = ("airplane", "bathtub")  # what the right- and the left-handed shape are called
# A network and a training of seconds.
HANDED = [
    "data.num_points=128", "data.val_fraction=0.2", "trainer.epochs=12", "trainer.batch_size=16",
    "trainer.device=cpu", "optim.warmup_epochs=1", "optim.lr=0.01", "augment.shift=0.05",
    "augment.scale=[0.9,1.1]", "model.size=tiny", "model.overrides.num_centers=[32,16]",
    "model.overrides.num_neighbors=[8,8]", "model.overrides.embed_channels=[16,32]",
    "model.overrides.stem_channels=16", "model.overrides.fuse_channels=64",
    "model.overrides.head_channels=[32]", "model.overrides.dropout=0.1", "eval.votes=0",
]  # fmt: skip


def write_hand(path: Path, left: bool, rng: np.random.Generator) -> None:
    """A mesh with z up: a post with a long arm towards +x at its foot, a short one to +y on top.

    The left-handed one is its mirror image, which no turn makes the same.
    """
    high, long, short = rng.uniform((0.9, 0.8, 0.4), (1.1, 1.0, 0.6))
    boxes = [
        BOX * (0.15, 0.15, high),
        BOX * (long, 0.15, 0.15),
        BOX * (0.15, short, 0.15) + (0, 0, high - 0.15),
    ]
    vertices = np.concatenate(boxes) * (-1 if left else 1, 1, 1)
    angle = rng.uniform(-0.3, 0.3)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    vertices[:, :2] = vertices[:, :2] @ turn.T
    faces = np.concatenate([BOX_FACES + 8 * number for number in range(len(boxes))])
    write_mesh(path, vertices, faces)


@pytest.fixture(scope="module")
def hands(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Meshes, and their clouds as ModelNet40 was published: (x, z, y), with its names."""
    root = tmp_path_factory.mktemp("hands")
    folder = root / "published" / "modelnet40_ply_hdf5_2048"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for split, count in (("train", 160), ("test", 40)):
        label = np.arange(count) % 2
        clouds = []
        for number, left in enumerate(label.tolist()):
            path = root / "meshes" / split / HANDS[left] / f"{number:03d}.off"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_hand(path, bool(left), rng)
            xyz = torch.from_numpy(read_cloud(path, num_points=256, seed=number).xyz)
            clouds.append(normalize_unit_sphere(xyz[None, :, [0, 2, 1]])[0].numpy())
        with h5py.File(folder / f"ply_data_{split}0.h5", "w") as file:
            file["data"], file["label"] = np.stack(clouds), label[:, None].astype(np.uint8)
        (folder / f"{split}_files.txt").write_text(f"ply_data_{split}0.h5\n")
    (folder / "shape_names.txt").write_text("\n".join(MODELNET40_CLASSES))
    return root


def accuracy_on_meshes(run: Path, meshes: Path) -> float:
    paths = sorted((meshes / "test").rglob("*.off"))
    found = Predictor.from_pretrained(run, device="cpu").classify(paths, up="z")
    assert isinstance(found, list)
    return sum(each.label == path.parent.name for each, path in zip(found, paths, strict=True)) / 40


def accuracy_on_clouds(run: Path, root: Path) -> float:
    return evaluate_run(run, "test", CPU, data_root=root).reports[0].overall_accuracy  # pyright: ignore


def test_a_mirrored_set_teaches_its_own_meshes(
    hands: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The two classes are mirror images of one another, so that handedness decides."""
    root = hands / "published"
    recipe = load_recipe("modelnet40_ea", [f"data.root={root}", *HANDED])
    run = train(recipe, tmp_path / "run")
    assert "MB in memory, stored mirrored, x negated" in capsys.readouterr().err
    assert accuracy_on_clouds(run, root) >= 0.95
    assert accuracy_on_meshes(run, hands / "meshes") >= 0.95

    # What was asked for, and what was done.
    assert "  mirrored: auto\n" in (run / "recipe.yaml").read_text()
    assert json.loads((run / "versions.json").read_text())["mirroring"] == "undone"
    for weights in ("best", "last"):
        config = json.loads((run / weights / "config.json").read_text())
        assert config["data"]["mirroring"] == "undone"

    # The same clouds in a right-handed set: the rule follows the set, not the weights.
    test = ModelNet(root, split="test")
    piece = (test.xyz.numpy(), test.label.numpy())
    other = tmp_path / "other" / "modelnet40_ply_hdf5_2048"
    write_modelnet(other, MODELNET40_CLASSES, train=[piece], test=[piece])
    reports = [evaluate_run(run, "test", CPU, data_root=each) for each in (root, other.parent)]
    assert [each.mirroring for each in reports] == ["undone", "none"]
    assert reports[0].reports[0].confusion == reports[1].reports[0].confusion  # pyright: ignore


def test_mirror_images_kept_on_purpose(hands: Path, tmp_path: Path) -> None:
    """As other codes train: good on the set's clouds, and every mesh is taken for the other."""
    root = hands / "published"
    options = [f"data.root={root}", *HANDED, "data.mirrored=false"]
    run = train(load_recipe("modelnet40_ea", options), tmp_path / "run")
    assert json.loads((run / "best" / "config.json").read_text())["data"]["mirroring"] == "kept"
    assert accuracy_on_clouds(run, root) >= 0.95
    assert accuracy_on_meshes(run, hands / "meshes") <= 0.05


def two_way(first: Tensor, second: Tensor) -> float:
    """Mean distance to the nearest point of the other cloud, there plus back, in unit spheres."""
    one, two = (normalize_unit_sphere(cloud[None]) for cloud in (first, second))
    return sum(
        float(knn(query, points, 1)[0].sqrt().mean()) for query, points in ((one, two), (two, one))
    )


def meshes(data_root: Path) -> dict[str, Tensor]:
    folder = data_root / "modelnet40_off_sample"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    shapes = ("airplane_0004", "airplane_0002", "bathtub_0152")
    clouds = {}
    for name in shapes:
        (path,) = folder.rglob(f"{name}.off")
        clouds[name] = to_y_up(torch.from_numpy(read_cloud(path, num_points=10_000).xyz), "z")
    return clouds


@pytest.mark.data
def test_real_text_agrees_with_real_meshes(data_root: Path, tmp_path: Path) -> None:
    expected = meshes(data_root)
    folder = data_root / "modelnet40_normal_resampled_sample"
    manifest = prepare_folder(folder, tmp_path / "out", Preparation(points=10_000), workers=0)
    found = {}
    for split, part in (("trainval", "train"), ("test", "test")):
        shapes = ModelNet(tmp_path / "out", split=split)
        found |= dict(zip(manifest["ids"][f"ply_data_{part}0.h5"], shapes.xyz, strict=True))
    assert len(found) == 9
    for name, mesh in expected.items():
        assert two_way(found[name], mesh) < 0.06
        assert two_way(negate_x(found[name]), mesh) > 0.08  # as they are stored
    with h5py.File(tmp_path / "out" / "ply_data_train0.h5") as file:
        normal = torch.from_numpy(np.asarray(file["normal"]))
    # The normals of the nearest points of the mesh are those of the cloud, up to their sign.
    mesh = data_root / "modelnet40_off_sample" / "airplane" / "train" / "airplane_0004.off"
    cloud = read_cloud(mesh, num_points=10_000)
    assert cloud.normals is not None
    place = manifest["ids"]["ply_data_train0.h5"].index("airplane_0004")
    posed = normalize_unit_sphere(to_y_up(torch.from_numpy(cloud.xyz), "z")[None])
    idx = knn(found["airplane_0004"][None], posed, 1)[1][0, :, 0]
    normals = to_y_up(torch.from_numpy(cloud.normals), "z")[idx]

    def agreement(vectors: Tensor) -> float:
        return float((vectors * normals).sum(-1).abs().mean())

    assert agreement(normal[place]) > 0.9 > 0.85 > agreement(negate_x(normal[place]))


@pytest.mark.data
def test_real_sets_that_are_mirrored_and_that_are_not(data_root: Path) -> None:
    folder = data_root / "modelnet10_ply_hdf5_2048"
    ten = ModelNet(data_root, name="modelnet10", split="test", num_points=64)
    assert ten.mirroring == "none"
    assert torch.equal(ten.xyz, stored(folder)[:, :64])
    folder = data_root / "modelnet40_rebuilt_hdf5_2048"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    for split, part, files in (("trainval", "train", 5), ("test", "test", 2)):
        forty = ModelNet(data_root, name="modelnet40_rebuilt", split=split)
        assert forty.mirroring == "undone"
        listed = (folder / f"ply_data_{part}_{number}_id2file.json" for number in range(files))
        ids = [Path(entry).stem for path in listed for entry in json.loads(path.read_text())]
        for name, mesh in meshes(data_root).items():
            if name in ids:
                cloud = forty.xyz[ids.index(name)]
                assert two_way(cloud, mesh) < 0.06
                assert two_way(negate_x(cloud), mesh) > 0.1  # as they are stored


def test_the_axis_that_a_format_has_up() -> None:
    assert [conventional_up(name) for name in ("a.off", "b/C.STL", "s.laz", "s.pcd")] == ["z"] * 4
    assert [conventional_up(name) for name in ("a.ply", "a.glb", "off.npy", "a.obj")] == ["y"] * 4
    assert [conventional_up(name) for name in ("a.off.gz", "B.PCD.GZ")] == ["z", "z"]
    assert [conventional_up(name) for name in ("a.ply.gz", "a.h5#3", "off")] == ["y"] * 3
    assert (
        assumed_up(["a.off.gz", "b.off", "c.ply.gz", "d.h5#2"]) == "y up in .h5 .ply, z up in .off"
    )
