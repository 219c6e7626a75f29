from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from ea_pointcloud.datasets import ModelNet, open_dataset
from ea_pointcloud.datasets._modelnet_files import SCANOBJECTNN_CLASSES, SCANOBJECTNN_VARIANTS
from ea_pointcloud.datasets._splits import stratified_mask
from ea_pointcloud.datasets.writing import write_modelnet
from ea_pointcloud.ops.frames import normalize_unit_sphere
from ea_pointcloud.training.data import open_split
from ea_pointcloud.training.recipe import load_recipe
from tests.test_cli import call


def test_reads_the_published_layout(modelnet_folder: Path) -> None:
    test = ModelNet(modelnet_folder.parent, split="test")
    with h5py.File(modelnet_folder / "ply_data_test0.h5") as file:
        expected = np.asarray(file["data"])
    assert np.array_equal(test.xyz.numpy(), expected)
    assert test.label.tolist() == list(range(40))
    assert test.class_names[7] == "shape07"
    assert repr(test) == "ModelNet('modelnet40', split='test', shapes=40, points=2048, classes=40)"


def test_root_is_argument_then_variable_then_data(
    modelnet_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_folder = ModelNet(modelnet_folder, split="test")
    monkeypatch.setenv("EA_POINTCLOUD_DATA", str(modelnet_folder.parent))
    by_variable = ModelNet(split="test")
    monkeypatch.delenv("EA_POINTCLOUD_DATA")
    modelnet_folder.parent.joinpath("work").mkdir()
    modelnet_folder.parent.joinpath("data").mkdir()
    modelnet_folder.rename(modelnet_folder.parent / "data" / modelnet_folder.name)
    monkeypatch.chdir(modelnet_folder.parent)
    by_default = ModelNet(split="test")
    assert torch.equal(by_folder.xyz, by_variable.xyz)
    assert torch.equal(by_folder.xyz, by_default.xyz)


def test_val_is_a_fixed_tenth_of_each_class(modelnet_folder: Path) -> None:
    train, val, both = (ModelNet(modelnet_folder, split=s) for s in ("train", "val", "trainval"))
    assert len(train) + len(val) == len(both) == 200
    assert val.label.bincount(minlength=40).tolist() == [1] * 40  # a tenth of 5, at least one
    rows = {tuple(row) for row in both.xyz[:, 0].tolist()}
    assert {tuple(row) for row in torch.cat([train.xyz, val.xyz])[:, 0].tolist()} == rows
    again = ModelNet(modelnet_folder, split="val")
    assert torch.equal(val.xyz, again.xyz)


def test_stratified_share_of_large_and_tiny_classes() -> None:
    label = torch.tensor([0] * 50 + [1] * 2 + [2])
    mask = stratified_mask(label, 0.1)
    counts = [int(mask[label == value].sum()) for value in range(3)]
    assert counts == [5, 1, 0]  # a single sample stays in train


def test_point_choice(modelnet_folder: Path) -> None:
    whole = ModelNet(modelnet_folder, split="test")
    first = ModelNet(modelnet_folder, split="test", num_points=64)
    assert torch.equal(first.xyz, whole.xyz[:, :64])
    random = [
        ModelNet(modelnet_folder, split="test", num_points=64, sampling="random").xyz
        for _ in range(2)
    ]
    assert torch.equal(*random)
    assert not torch.equal(random[0], first.xyz)
    fps = ModelNet(modelnet_folder, split="test", num_points=64, sampling="fps")
    # Farthest points cover a cloud better than its first points: the largest gap is smaller.
    gap = [torch.cdist(whole.xyz, chosen).amin(2).amax(1).mean() for chosen in (fps.xyz, first.xyz)]
    assert gap[0] < 0.8 * gap[1]


def test_batches_by_index(modelnet_folder: Path) -> None:
    test = ModelNet(modelnet_folder, split="test", num_points=8)
    batch = test[[3, 1]]
    assert batch["xyz"].shape == (2, 8, 3)
    assert batch["label"].tolist() == [3, 1]


def test_any_number_of_classes(modelnet_folder: Path) -> None:
    renamed = modelnet_folder.rename(modelnet_folder.parent / "modelnet10_ply_hdf5_2048")
    names = renamed / "shape_names.txt"
    names.write_text("\n".join(f"c{i}" for i in range(50)))
    assert len(ModelNet(renamed.parent, name="modelnet10", split="test").class_names) == 50


def test_errors_name_the_file_and_the_remedy(modelnet_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="split must be one of 'train', 'val', 'test', 'trainval'"):
        ModelNet(modelnet_folder, split="validation")
    with pytest.raises(ValueError, match=r"val_fraction must be between 0 and 1, got 1.5"):
        ModelNet(modelnet_folder, val_fraction=1.5)
    with pytest.raises(ValueError, match="num_points must be at most the 2048 points stored, got"):
        ModelNet(modelnet_folder, num_points=4096)
    with pytest.raises(FileNotFoundError, match=r"no shape_names.txt in .*data/README.md"):
        ModelNet(tmp_path / "nowhere")
    h5 = modelnet_folder / "ply_data_test0.h5"
    with h5py.File(h5, "a") as file:
        file["label"][0] = 77
    with pytest.raises(
        ValueError, match=r"labels from 1 to 77, but shape_names.txt names 40 classe"
    ):
        ModelNet(modelnet_folder, split="test")
    with h5py.File(h5, "a") as file:
        file["label"][0] = 1
        file["data"][0, 0, 0] = np.nan
    with pytest.raises(ValueError, match=r"test0.h5 holds coordinates that are not finite"):
        ModelNet(modelnet_folder, split="test")
    with h5py.File(h5, "w") as file:
        file["data"] = np.zeros((3, 5, 2), np.float32)
        file["label"] = np.zeros((3, 1), np.uint8)
    with pytest.raises(ValueError, match=r"must hold data \(n, N, 3\) and label \(n, 1\), got \(3"):
        ModelNet(modelnet_folder, split="test")
    h5.write_bytes(b"half a download")
    with pytest.raises(ValueError, match=r"cannot be read as HDF5 with 'data' and 'label'"):
        ModelNet(modelnet_folder, split="test")
    h5.unlink()
    with pytest.raises(FileNotFoundError, match=r"no .*ply_data_test0.h5, which its list names"):
        ModelNet(modelnet_folder, split="test")
    (modelnet_folder / "test_files.txt").write_text("")
    with pytest.raises(ValueError, match=r"test_files.txt lists no file; write the name of"):
        ModelNet(modelnet_folder, split="test")
    (modelnet_folder / "test_files.txt").unlink()
    with pytest.raises(FileNotFoundError, match="data download modelnet40_ply_hdf5_2048"):
        ModelNet(modelnet_folder, split="test")
    (modelnet_folder / "shape_names.txt").write_text("")
    with pytest.raises(ValueError, match=r"shape_names.txt names no class"):
        ModelNet(modelnet_folder, split="test")


@pytest.mark.data
def test_real_modelnet10(data_root: Path) -> None:
    sizes = {s: len(ModelNet(data_root, name="modelnet10", split=s)) for s in ("train", "val")}
    test = ModelNet(data_root, name="modelnet10", split="test")
    assert sum(sizes.values()) == 3928
    assert sizes["val"] == 393
    assert len(test) == 899
    assert test.class_names[0] == "bathtub"
    assert float(test.xyz.norm(dim=-1).max()) < 1.01


# --- ScanObjectNN


def write_scans(root: Path, points: int = 40) -> None:
    """The published layout: scans in metres, with labels and a mask of the background."""
    rng = np.random.default_rng(0)
    for folder, stem in SCANOBJECTNN_VARIANTS.values():
        (root / "ScanObjectNN" / folder).mkdir(parents=True, exist_ok=True)
        for split, count in (("training", 60), ("test", 30)):
            path = root / "ScanObjectNN" / folder / f"{split}_{stem}.h5"
            with h5py.File(path, "w") as file:
                file["data"] = (3 + 0.4 * rng.normal(size=(count, points, 3))).astype(np.float32)
                file["label"] = np.arange(count) % 15
                file["mask"] = np.where(rng.random((count, points)) < 0.3, -1, 1)


@pytest.mark.parametrize("name", list(SCANOBJECTNN_VARIANTS))
def test_scanobjectnn_is_opened(tmp_path: Path, name: str) -> None:
    write_scans(tmp_path)
    folder, stem = SCANOBJECTNN_VARIANTS[name]
    opened = open_dataset(name, split="test", data_root=tmp_path)
    assert isinstance(opened, ModelNet)
    assert opened.class_names == SCANOBJECTNN_CLASSES
    assert len(opened) == 30
    with h5py.File(tmp_path / "ScanObjectNN" / folder / f"test_{stem}.h5") as file:
        scans = torch.from_numpy(np.asarray(file["data"]))
        assert opened.label.tolist() == np.asarray(file["label"]).tolist()
    assert torch.equal(opened.xyz, normalize_unit_sphere(scans))
    splits = [ModelNet(tmp_path, name=name, split=split) for split in ("train", "val")]
    assert [len(split) for split in splits] == [45, 15]
    recipe = load_recipe("scanobjectnn", [f"data.root={tmp_path}", f"data.name={name}"])
    assert len(open_split(replace(recipe.data, num_points=32), "train")) == 45


def test_scanobjectnn_by_its_folder_and_what_is_missing(tmp_path: Path) -> None:
    write_scans(tmp_path)
    by_folder = open_dataset(tmp_path / "ScanObjectNN", split="test")
    assert torch.equal(
        by_folder[:]["xyz"], ModelNet(tmp_path, name="scanobjectnn", split="test").xyz
    )
    (tmp_path / "ScanObjectNN" / "main_split" / "test_objectdataset.h5").unlink()
    with pytest.raises(FileNotFoundError, match=r"no main_split/test_objectdataset.h5 in .*Scan"):
        ModelNet(tmp_path, name="scanobjectnn_obj_bg", split="test")


def test_own_data_is_not_sent_to_a_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "mine_hdf5_2048"
    xyz, label = (
        np.random.default_rng(0).normal(size=(4, 8, 3)).astype("f4"),
        np.array([1, 2, 3, 3]),
    )
    write_modelnet(own, ("a", "b", "c"), train=[(xyz, label - 1)], test=[(xyz, label - 1)])
    (h5,) = own.glob("*test*.h5")
    with h5py.File(h5, "a") as file:
        file["label"][...] = label[:, None]
    with pytest.raises(ValueError, match=r"names from 0, these from 1: subtract 1 from each$"):
        ModelNet(own, split="test")
    with h5py.File(h5, "a") as file:
        file["label"][...] = 0
        file["data"][0, 0, 0] = np.nan
    with pytest.raises(ValueError, match=r"not finite; take such points out and write it again$"):
        ModelNet(own, split="test")
    (own / "test_files.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"name the HDF5 files of the test split there"):
        ModelNet(own, split="test")
    # What is listed as prepared can be verified by its name.
    made = own.rename(tmp_path / "modelnet10_ply_hdf5_2048")
    (made / "manifest.json").unlink()
    (made / "test_files.txt").write_text(f"{h5.name}\n")
    assert call(monkeypatch, "data", "verify", "modelnet10", "--root", tmp_path) == 1
    assert "classes" in capsys.readouterr().out
