"""Own clouds with labelled points: layouts, names, points without a part, from files to ONNX."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ea_pointcloud import Cloud, Predictor, evaluate, train, write_cloud
from ea_pointcloud.datasets import PartFolderDataset, ShapeNetPart
from ea_pointcloud.export import export_model
from ea_pointcloud.io import CloudFileError
from ea_pointcloud.metrics import PartIoU
from ea_pointcloud.training.recipe import load_recipe
from ea_pointcloud.training.tasks import SegmentationTask

LABELS = {"desk lamp": (0, 1), "mug": (1, 5)}  # of the lower and the upper half


def shape(category: str, seed: int, points: int = 80) -> Cloud:
    """An ellipsoid: wide for a mug, high for a lamp; a tenth of its points has no label."""
    generator = np.random.default_rng(seed)
    xyz = generator.normal(size=(points, 3))
    xyz /= np.linalg.norm(xyz, axis=1, keepdims=True)
    below, above = LABELS[category]
    labels = np.where(xyz[:, 1] > 0, above, below)
    labels[generator.random(points) < 0.1] = -1
    xyz *= (1, 2, 1) if category == "desk lamp" else (2, 1, 2)
    return Cloud(xyz.astype(np.float32), np.zeros(3), labels=labels.astype(np.int64))


@pytest.fixture
def shapes(tmp_path: Path) -> Path:
    """``SPLIT/CATEGORY/file`` in several formats."""
    seeds = iter(range(100))
    for split, count in (("train", 6), ("val", 2), ("test", 3)):
        for category in LABELS:
            folder = tmp_path / "shapes" / split / category
            folder.mkdir(parents=True)
            for number in range(count):
                suffix = ("ply", "npz", "csv")[number % 3]
                write_cloud(folder / f"{number}.{suffix}", shape(category, next(seeds)))
    return tmp_path / "shapes"


def test_a_set_with_ignored_points_from_files_to_onnx(shapes: Path, tmp_path: Path) -> None:
    names = {"mug": {"1": "body", "5": "rim"}}
    (shapes / "part_names.json").write_text(json.dumps(names))
    keys = {"data.num_points": 64, "data.stored_points": 80, "optim.lr": 5e-3,
            "trainer.batch_size": 6, "model.overrides.channels": 16}  # fmt: skip
    run = train(
        "parts", keys, data_root=shapes, run_dir=tmp_path / "run", epochs=4, votes=0, device="cpu",
        min_batches_per_epoch=6,
    )  # fmt: skip
    report = evaluate(run, device="cpu").reports[0]
    assert set(report.category_iou) == set(LABELS)  # type: ignore[union-attr]
    assert report.point_accuracy > 0.9  # type: ignore[union-attr]
    predictor = Predictor.from_pretrained(run, "cpu")
    spec = predictor.model.data_spec
    assert spec.class_names == ("desk lamp/0", "desk lamp/1", "mug/body", "mug/rim")
    new = shape("mug", seed=500)
    found = predictor.segment(new, category="MUG")
    assert {found.names[part] for part in found.labels} == {"mug/body", "mug/rim"}
    known = new.labels >= 0  # type: ignore[operator]
    upper = found.labels == spec.class_names.index("mug/rim")
    assert (upper == (new.labels == 5))[known].mean() > 0.85
    other = evaluate(run / "best", data=shapes, device="cpu")
    assert other.report.shapes == 6  # type: ignore[union-attr]
    exported = export_model(predictor.model, tmp_path / "model.onnx")
    assert exported.difference is not None
    assert exported.difference < 1e-4


def test_parts_of_categories_and_their_ids(shapes: Path) -> None:
    dataset = PartFolderDataset(shapes, split="test")
    assert dataset.category_names == ("desk lamp", "mug")
    assert dataset.parts == ((0, 1), (2, 3))
    assert dataset.part_names == ("desk lamp/0", "desk lamp/1", "mug/1", "mug/5")
    assert dataset.category.tolist() == [0, 0, 0, 1, 1, 1]
    sample = dataset[4]
    counted = sample["part_label"] >= 0
    assert 0.02 < (~counted).float().mean() < 0.25  # those that the file labels -1
    upper = sample["xyz"][:, 1] > 0.15
    assert (sample["part_label"][upper & counted] == 3).all()
    few = PartFolderDataset(shapes, split="test", num_points=9, sampling="fps")
    assert few[0]["part_label"].shape == (9,)


@pytest.mark.parametrize("divided", [True, False])
def test_a_set_without_categories(tmp_path: Path, divided: bool) -> None:
    for number in range(10):
        folder = tmp_path / ("test" if number > 7 else "train") if divided else tmp_path
        folder.mkdir(exist_ok=True)
        cloud = shape("mug", number)
        assert cloud.labels is not None
        np.savetxt(folder / f"{number}.txt", np.column_stack([cloud.xyz, cloud.labels]))
    with pytest.raises(CloudFileError, match=r"txt: has no labels; .* --columns x,y,z,label"):
        PartFolderDataset(tmp_path)
    (tmp_path / "part_names.json").write_text('{"5": "rim"}')
    dataset = PartFolderDataset(tmp_path, split="test", columns="x,y,z,label")
    assert (dataset.category_names, dataset.part_names) == (("object",), ("1", "rim"))
    assert len(dataset) == 2
    recipe = load_recipe("parts", [f"data.root={tmp_path}", "data.columns=x,y,z,label"])
    assert recipe.data.columns == "x,y,z,label"


def test_a_single_category_is_no_input_of_the_network(tmp_path: Path) -> None:
    from ea_pointcloud.models import DataSpec

    task = SegmentationTask(load_recipe("parts", [f"data.root={tmp_path}"]))
    one = DataSpec(("a", "b"), category_names=("object",), parts=((0, 1),))
    assert task.model(one).config.num_categories == 0
    two = replace(one, category_names=("x", "y"), parts=((0,), (1,)))
    assert task.model(two).config.num_categories == 2


@pytest.mark.parametrize(
    ("label", "words"),
    [(-2, r"has labels from -2 to -2; number the parts from 0, and give -1 to"),
     (2**24 + 1, r"number the parts from 0")],
)  # fmt: skip
def test_labels_that_are_none(shapes: Path, label: int, words: str) -> None:
    cloud = shape("mug", 0)
    write_cloud(shapes / "train/mug/bad.ply", replace(cloud, labels=np.full(len(cloud), label)))
    with pytest.raises(CloudFileError, match=words):
        PartFolderDataset(shapes)
    assert len(PartFolderDataset(shapes, skip_bad=True)) == 12


def test_folders_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no folder"):
        PartFolderDataset(tmp_path / "nowhere")
    (tmp_path / "train").mkdir()
    with pytest.raises(ValueError, match=r"holds no readable cloud; put them into .*/train/ and"):
        PartFolderDataset(tmp_path)
    one = replace(shape("mug", 0), labels=np.full(80, 3))
    for number in range(3):
        write_cloud(tmp_path / f"train/{number}.ply", one)
    with pytest.raises(ValueError, match="has 1 different labels; a segmenter needs at least 2"):
        PartFolderDataset(tmp_path)


def test_points_without_a_part_count_nowhere() -> None:
    task = SegmentationTask(load_recipe("psb_part", ["optim.iou_weight=1"]))
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 8, 4, generator=generator, requires_grad=True)
    label = torch.randint(4, (2, 8), generator=generator)
    label[:, 5:] = -1
    batch = {"part_label": label, "mask": torch.ones(2, 8, dtype=torch.bool)}
    loss = task.loss(logits, batch, 0.1)
    shorter = {name: value[:, :5] for name, value in batch.items()}
    torch.testing.assert_close(loss, task.loss(logits[:, :5], shorter, 0.1))
    metric = PartIoU([range(4)])
    metric.update(logits.detach(), label, torch.zeros(2, dtype=torch.long))
    expected = (logits[:, :5].argmax(-1) == label[:, :5]).float().mean()
    assert float(metric.compute()["point_accuracy"]) == pytest.approx(float(expected))
    none = {**batch, "part_label": torch.full_like(label, -1)}
    nothing = task.loss(logits, none)
    nothing.backward()
    assert bool(nothing.isfinite())
    assert logits.grad is not None
    assert not logits.grad.any()


def test_part_sets_with_names_of_two_words_and_points_without_a_part(tmp_path: Path) -> None:
    import h5py

    (tmp_path / "all_object_categories.txt").write_text("desk lamp\t001\nmug 002\n")
    generator = np.random.default_rng(0)
    part = generator.integers(0, 2, (4, 30)) + np.array([[0], [0], [2], [2]])
    part[:, ::5] = -1
    for split in ("train", "test"):
        (tmp_path / f"{split}_hdf5_file_list.txt").write_text(f"{split}.h5\n")
        with h5py.File(tmp_path / f"{split}.h5", "w") as file:
            file["data"] = xyz = generator.normal(size=(4, 30, 3)).astype(np.float32)
            file["label"], file["pid"] = np.array([[0], [0], [1], [1]]), part
            file["normal"], file["reflectance"] = xyz, xyz[..., 0] * 9
    dataset = ShapeNetPart(tmp_path, split="test", features=["reflectance", "normals"])
    assert dataset.category_names == ("desk lamp", "mug")
    assert dataset.parts == ((0, 1), (2, 3))
    assert torch.equal(dataset.part_label, torch.from_numpy(part))
    assert dataset.features is not None
    torch.testing.assert_close(dataset.features[..., 0], 9 * dataset.features[..., 1])
