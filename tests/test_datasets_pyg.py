import random
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch_geometric.data import Data, InMemoryDataset
from torch_geometric.datasets import ModelNet as PyGModelNet
from torch_geometric.datasets import ShapeNet as PyGShapeNet
from torch_geometric.loader import DataLoader
from torch_geometric.transforms import FixedPoints, NormalizeScale, RandomJitter, RandomScale

from ea_pointcloud.augment.pipeline import Augmentation
from ea_pointcloud.augment.transforms import random_scale
from ea_pointcloud.datasets import FolderDataset, ProceduralShapes, ShapeNetPart
from ea_pointcloud.datasets.pyg import (
    CloudTransform,
    PyGDataset,
    apply_pyg,
    from_pyg,
    pyg_batches,
    to_pyg,
)
from ea_pointcloud.datasets.pyg_source import PyGShapes, open_pyg
from ea_pointcloud.io import Cloud, write_cloud
from ea_pointcloud.models import create_model
from ea_pointcloud.ops.frames import normalize_unit_sphere
from ea_pointcloud.training.recipe import load_recipe
from tests.test_cli import call
from tests.test_datasets_shapenetpart import CATEGORIES, make_shapes, write_txt
from tests.test_training import PARTS, QUICK


@pytest.fixture(scope="module")
def shapes() -> ProceduralShapes:
    return ProceduralShapes("test", num_shapes=14, num_points=50)


# --- samples and batches


def test_there_and_back_through_pygs_loader(shapes: ProceduralShapes) -> None:
    graphs = PyGDataset(shapes)
    assert len(graphs) == 14
    assert graphs.num_classes == 14
    assert torch.equal(graphs[2].part_label, shapes.part_label[2])
    back = from_pyg(next(iter(DataLoader(graphs, batch_size=4))))
    for name, value in shapes[[0, 1, 2, 3]].items():
        assert torch.equal(back[name], value)
    # What PyG's own data sets can do.
    assert torch.equal(graphs[5:7][1].pos, shapes.xyz[6])
    (shuffled,) = pyg_batches(graphs, 14, shuffle=True)
    assert sorted(shuffled["label"].tolist()) == list(range(14))


def test_part_labels_are_y_where_the_cloud_has_no_other() -> None:
    sample = {
        "xyz": torch.rand(5, 3),
        "mask": torch.tensor([True, True, True, False, False]),
        "part_label": torch.tensor([4, 4, 5, -1, -1]),
        "category": torch.tensor(1),
        "features": torch.rand(5, 2),
    }
    graph = to_pyg(sample)
    assert graph.y.tolist() == [4, 4, 5]  # the padding is gone
    assert torch.equal(graph.pos, sample["xyz"][:3])
    assert torch.equal(graph.x, sample["features"][:3])
    other = Data(pos=torch.rand(4, 3), x=torch.rand(4, 2), y=torch.arange(4))
    other.category = torch.tensor([0])
    (back,) = pyg_batches([graph, other], 2)
    assert back["part_label"].tolist() == [[4, 4, 5, -1], [0, 1, 2, 3]]
    assert back["category"].tolist() == [1, 0]
    assert back["mask"].sum(1).tolist() == [3, 4]
    assert torch.equal(back["features"][1], other.x)
    assert "label" not in back


def test_clouds_of_different_sizes_give_what_each_gives_alone() -> None:
    torch.manual_seed(0)
    model = create_model("ea_classifier_tiny", num_classes=5, feature_channels=2).eval()
    generator = torch.Generator().manual_seed(0)
    graphs = [
        Data(pos=torch.rand(n, 3, generator=generator), x=torch.rand(n, 2, generator=generator))
        for n in (40, 90, 7)
    ]
    batch = from_pyg(next(iter(DataLoader(graphs, batch_size=3))))
    assert batch["mask"].sum(1).tolist() == [40, 90, 7]
    with torch.no_grad():
        together = model(batch["xyz"], batch["features"], mask=batch["mask"])
        alone = torch.cat([model(graph.pos[None], graph.x[None]) for graph in graphs])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    single = from_pyg(graphs[0])  # no batch vector
    assert single["xyz"].shape == (1, 40, 3)


def test_a_folder_of_uneven_clouds_loses_its_padding(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for split, sizes in {"train": (30, 12), "test": (20,)}.items():
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            for size in sizes:
                xyz = rng.normal(size=(size, 3)).astype(np.float32)
                write_cloud(tmp_path / split / name / f"{size}.ply", Cloud(xyz, np.zeros(3)))
    graphs = PyGDataset(FolderDataset(tmp_path, split="trainval"))
    assert sorted(graph.num_nodes for graph in graphs) == [12, 12, 30, 30]


# --- transforms


def test_our_transforms_in_pygs_pipeline(shapes: ProceduralShapes) -> None:
    unit = CloudTransform(normalize_unit_sphere)
    scaled = CloudTransform(
        partial(random_scale, low=2.0, high=3.0, generator=torch.Generator().manual_seed(0))
    )
    graphs = PyGDataset(shapes, transform=scaled)
    factor = graphs[1].pos.norm(dim=1).max() / shapes.xyz[1].norm(dim=1).max()
    assert 2 <= factor <= 3
    torch.testing.assert_close(unit(graphs[1]).pos.norm(dim=1).max(), torch.tensor(1.0))
    assert "normalize_unit_sphere" in repr(unit)


def test_dropped_points_take_all_that_belongs_to_them(shapes: ProceduralShapes) -> None:
    generator = torch.Generator().manual_seed(0)
    drop = CloudTransform(partial(Augmentation(point_dropout=0.9), generator=generator))
    before = to_pyg(shapes[3])
    before.number = torch.arange(50)
    after = drop(before)
    assert before.num_nodes == 50  # not altered
    assert 0 < after.num_nodes < 50
    assert torch.equal(after.pos, before.pos[after.number])
    assert torch.equal(after.part_label, before.part_label[after.number])
    assert torch.equal(after.y, before.y)


def test_pygs_transforms_in_our_pipeline(shapes: ProceduralShapes) -> None:
    batch = shapes[[0, 5]]
    moved = apply_pyg(NormalizeScale(), batch)
    assert moved["xyz"].abs().amax((1, 2)).tolist() == pytest.approx([1, 1], abs=1e-4)
    for name in ("label", "part_label", "category"):
        assert torch.equal(moved[name], batch[name])
    assert torch.equal(batch["xyz"], shapes.xyz[[0, 5]])  # not altered
    fewer = apply_pyg(FixedPoints(8, replace=True), batch, generator=torch.Generator())
    assert fewer["xyz"].shape == (2, 8, 3)
    assert fewer["part_label"].shape == (2, 8)


@pytest.mark.parametrize(
    "transform", [RandomScale((0.5, 2)), RandomJitter(0.1), FixedPoints(9, replace=True)]
)
def test_a_generator_decides_what_pygs_transforms_draw(
    shapes: ProceduralShapes, transform: object
) -> None:
    def draw(seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return apply_pyg(transform, shapes[[0, 1]], generator=generator)["xyz"]

    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    first = draw(0)
    assert random.getstate() == states[0]
    assert np.array_equal(np.random.get_state()[1], states[1])  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), states[2])
    random.seed(7)
    torch.manual_seed(7)
    assert torch.equal(draw(0), first)
    assert not torch.equal(draw(1), first)


# --- PyG's own data sets


@pytest.fixture(scope="module")
def modelnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Boxes of two classes, z up, as what PyG's ModelNet downloads, processed by PyG."""
    root = tmp_path_factory.mktemp("pyg_modelnet")
    faces = ["0 1 3", "0 3 2", "4 5 7", "4 7 6", "0 1 5", "0 5 4", "2 3 7", "2 7 6", "0 2 6",
             "0 6 4", "1 3 7", "1 7 5"]  # fmt: skip
    corners = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], float)
    rng = np.random.default_rng(0)
    for name, height in (("bed", 1), ("sofa", 4)):
        for split, count in (("train", 20), ("test", 3)):
            folder = root / "raw" / name / split
            folder.mkdir(parents=True)
            for number in range(count):
                sides = np.array([1, 1, height]) * rng.uniform(0.9, 1.1, 3)
                lines = [" ".join(map(str, corner)) for corner in corners * sides]
                text = "\n".join(["OFF", "8 12 0", *lines, *(f"3 {face}" for face in faces)])
                (folder / f"{name}_{number:04d}.off").write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PyGModelNet, "raw_file_names", ["bed", "sofa"])
        PyGModelNet(str(root))
    return root


@pytest.fixture(scope="module")
def shapenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three categories as what PyG's ShapeNet downloads, processed by PyG; uneven clouds."""
    root = tmp_path_factory.mktemp("pyg_shapenet")
    counts = {"train": 24, "val": 6, "test": 6}
    splits = {
        split: make_shapes(seed, count, [20, 60, 45])
        for seed, (split, count) in enumerate(counts.items())
    }
    write_txt(root / "raw", splits)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PyGShapeNet, "raw_file_names", ["train_test_split"])
        PyGShapeNet(str(root), categories=list(CATEGORIES))
    return root


def test_meshes_of_pygs_modelnet(modelnet: Path) -> None:
    splits = {split: open_pyg(modelnet, split=split, up="z") for split in ("train", "val", "test")}
    assert [len(dataset) for dataset in splits.values()] == [36, 4, 6]
    for dataset in splits.values():
        assert dataset.class_names == ("bed", "sofa")  # the folders of its raw files
        assert dataset.xyz.shape == (len(dataset), 2048, 3)
        tall = (dataset.xyz[..., 1].amax(1) - dataset.xyz[..., 1].amin(1)) > 1.5
        assert torch.equal(tall, dataset.label == 1)  # y is up now
    again = open_pyg(modelnet, split="train", up="z")
    assert torch.equal(again.xyz, splits["train"].xyz)
    few = open_pyg(modelnet, split="test", num_points=9, stored_points=30)
    assert few[[0, 1]]["xyz"].shape == (2, 9, 3)
    assert repr(few).endswith("split='test', shapes=6, points=9, classes=2)")


def test_pygs_shapenet_is_what_we_read_ourselves(shapenet: Path) -> None:
    for split in ("train", "val", "test"):
        theirs, ours = open_pyg(shapenet, split=split), ShapeNetPart(shapenet / "raw", split=split)
        for name in ("xyz", "mask", "part_label", "category"):
            assert torch.equal(getattr(theirs, name), getattr(ours, name)), name
        assert theirs.part_names == ours.part_names
        assert theirs.parts == ours.parts
        assert theirs.category_names == tuple(CATEGORIES)
    drawn = open_pyg(shapenet, split="test", num_points=30, sampling="random")
    ours = ShapeNetPart(shapenet / "raw", split="test", num_points=30, sampling="random")
    for name, value in ours[[0, 1, 2]].items():
        assert torch.equal(drawn[[0, 1, 2]][name], value), name


class Balls(InMemoryDataset):
    """Somebody's own data set: nothing of it is known but pos and y."""

    def __init__(self, root: Path) -> None:
        super().__init__(str(root))
        self.load(self.processed_paths[0])

    @property
    def processed_file_names(self) -> list[str]:
        return ["train.pt"]

    def process(self) -> None:
        generator = torch.Generator().manual_seed(0)
        graphs = [
            Data(pos=torch.randn(30 + i, 3, generator=generator), y=torch.tensor([i % 3]))
            for i in range(30)
        ]
        self.save(graphs, self.processed_paths[0])


def test_any_data_set_of_pos_and_y(tmp_path: Path) -> None:
    graphs = Balls(tmp_path)
    held = PyGShapes(graphs, class_names=("a", "b", "c"))
    stored = open_pyg(tmp_path, split="train", val_fraction=0.2)
    val = open_pyg(tmp_path, split="val", val_fraction=0.2)
    assert (len(held), len(stored), len(val)) == (30, 24, 6)
    assert stored.class_names == ("0", "1", "2")
    assert held.class_names == ("a", "b", "c")
    assert val.label.bincount().tolist() == [2, 2, 2]
    assert held.mask.sum(1).tolist() == list(range(30, 60))
    expected = normalize_unit_sphere(graphs[4].pos[None])[0]
    torch.testing.assert_close(held[4]["xyz"], expected)
    # And back.
    assert torch.equal(PyGDataset(held)[4].pos, held[4]["xyz"])
    with pytest.raises(FileNotFoundError, match=r"holds no test split: .*train.pt; give the root"):
        open_pyg(tmp_path, split="test")


@pytest.mark.parametrize("task", ["classification", "segmentation"])
def test_training_on_pygs_data_sets(
    modelnet: Path,
    shapenet: Path,
    task: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    quick, root = (QUICK, modelnet) if task == "classification" else (PARTS, shapenet)
    values = [each for each in quick if not each.startswith(("data.shapes", "trainer.epochs"))]
    values += ["data.dataset=pyg", f"data.root={root}", "trainer.epochs=1", "data.num_points=16"]
    run = tmp_path / "run"
    assert call(monkeypatch, "train", "procedural", *values, "--run-dir", run) == 0
    assert call(monkeypatch, "evaluate", run, "--split", "test", "--json") == 0
    assert '"shapes": 6' in capsys.readouterr().out


# --- errors


def test_what_cannot_be_converted_says_why(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"xyz must have shape \(N, 3\), got \(2, 5, 3\); index one"
    ):
        to_pyg({"xyz": torch.zeros(2, 5, 3), "label": torch.zeros(2)})
    with pytest.raises(
        ValueError, match=r"the PyG batch has no pos; set data.pos to the coordinat"
    ):
        from_pyg(Data(x=torch.zeros(3, 1)))
    with pytest.raises(
        ValueError, match=r"y must have a value for each of 1 clouds or 4 points, g"
    ):
        from_pyg(Data(pos=torch.zeros(4, 3), y=torch.zeros(2)))
    with pytest.raises(ValueError, match=r"the PyG graph has no pos; set data.pos to the coord"):
        CloudTransform(normalize_unit_sphere)(Data(x=torch.zeros(3, 1)))
    with pytest.raises(ValueError, match=r"must keep the number of points, 4, got 2; .*FixedPoint"):
        CloudTransform(lambda xyz: xyz[:, :2])(Data(pos=torch.zeros(4, 3)))
    with pytest.raises(ValueError, match=r"the PyG data set \[\] is empty"):
        PyGShapes([])
    with pytest.raises(ValueError, match=r"graph 0 must have pos and y, got Data\(pos="):
        PyGShapes([Data(pos=torch.zeros(4, 3))])
    with pytest.raises(ValueError, match=r"graph 0 has no points, or some that are not finite"):
        PyGShapes([Data(pos=torch.full((4, 3), torch.nan), y=torch.zeros(1))])
    with pytest.raises(ValueError, match=r"graph 1 has 4 points and 1 labels in y; either every"):
        PyGShapes([Data(pos=torch.zeros(4, 3), y=torch.zeros(labels)) for labels in (4, 1)])
    with pytest.raises(
        ValueError, match=r"class_names must name all labels, which run from 2 to 2"
    ):
        PyGShapes([Data(pos=torch.rand(4, 3), y=torch.tensor([2]))], class_names=("a",))
    (tmp_path / "processed").mkdir()
    (tmp_path / "processed" / "train.pt").write_bytes(b"half a file")
    with pytest.raises(ValueError, match=r"train.pt cannot be read as a PyG data set .*process it"):
        open_pyg(tmp_path)
    with pytest.raises(ValueError, match=r"data.root must be set to the root of the PyG data set"):
        load_recipe("procedural", ["data.dataset=pyg"])
