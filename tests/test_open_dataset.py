import json
import logging
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from ea_pointcloud.datasets import (
    FolderDataset,
    ModelNet,
    ProceduralShapes,
    ShapeNetPart,
    catalog,
    open_dataset,
    procedural,
)
from ea_pointcloud.datasets.layouts import recognize
from ea_pointcloud.models import DataSpec, EAClassifier, create_model
from ea_pointcloud.training import evaluate_classifier
from ea_pointcloud.training.labels import match_labels
from tests.test_cli import call
from tests.test_data_download import CONTENT, make_entry


def parts_folder(folder: Path) -> Path:
    """A small set of two categories in the HDF5 layout with part labels."""
    folder.mkdir(parents=True)
    (folder / "all_object_categories.txt").write_text("Cap\t02954340\nMug\t03797390\n")
    for split in ("train", "test"):
        with h5py.File(folder / f"ply_data_{split}0.h5", "w") as file:
            file["data"] = np.random.default_rng(0).normal(size=(4, 32, 3)).astype(np.float32)
            file["label"] = np.array([[0], [1], [0], [1]], np.uint8)
            file["pid"] = np.array([[6, 7], [36, 37]] * 2, np.uint8).repeat(16, 1)
        (folder / f"{split}_hdf5_file_list.txt").write_text(f"ply_data_{split}0.h5\n")
    return folder


def txt_folder(folder: Path) -> Path:
    """The same in the text layout."""
    (folder / "train_test_split").mkdir(parents=True)
    (folder / "synsetoffset2category.txt").write_text("Cap\t02954340\nMug\t03797390\n")
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        listed = []
        for synset, part in (("02954340", 6), ("03797390", 36)):
            for number in range(2):
                path = folder / synset / f"{split}{number}.txt"
                path.parent.mkdir(exist_ok=True)
                rows = np.concatenate([rng.normal(size=(20, 6)), np.full((20, 1), part)], 1)
                np.savetxt(path, rows)
                listed.append(f"shape_data/{synset}/{split}{number}")
        path = folder / "train_test_split" / f"shuffled_{split}_file_list.json"
        path.write_text(json.dumps(listed))
    return folder


def class_folder(folder: Path) -> Path:
    for name in ("cup", "lamp"):
        for number in range(4):
            path = folder / name / f"{number}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, np.random.default_rng(number).normal(size=(40, 3)))
    return folder


def test_opens_whatever_lies_in_a_folder(
    modelnet_folder: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.INFO, "ea_pointcloud")
    opened = open_dataset(modelnet_folder, split="val", num_points=16)
    assert isinstance(opened, ModelNet)
    assert (opened.name, opened.split, opened.xyz.shape[1]) == ("modelnet40", "val", 16)
    assert "opened as ModelNet (HDF5)" in caplog.text
    opened = open_dataset(parts_folder(tmp_path / "mine_hdf5_data"), split="test")
    assert isinstance(opened, ShapeNetPart)
    assert opened.name == "mine"
    assert opened.category_names == ("Cap", "Mug")
    opened = open_dataset(txt_folder(tmp_path / "mine_txt_normal"), split="trainval")
    assert isinstance(opened, ShapeNetPart)
    assert len(opened) == 4
    assert "opened as ShapeNetPart (text)" in caplog.text
    opened = open_dataset(class_folder(tmp_path / "own"), split="test", sampling="fps")
    assert isinstance(opened, FolderDataset)
    assert opened.class_names == ("cup", "lamp")
    assert "opened as folder of classes" in caplog.text
    monkeypatch.setitem(procedural._NUM_SHAPES, "val", 3)
    opened = open_dataset("procedural", split="val", num_points=8)
    assert isinstance(opened, ProceduralShapes)
    assert opened.xyz.shape == (3, 8, 3)


def test_opens_a_set_by_its_name(
    modelnet_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    root = modelnet_folder.parent
    monkeypatch.setenv("EA_POINTCLOUD_DATA", str(root))
    for name in ("modelnet40", "modelnet40_ply_hdf5_2048"):
        opened = open_dataset(name, split="trainval")
        assert isinstance(opened, ModelNet)
        assert opened.folder == modelnet_folder
    assert "train shapes: 200, official 9,840; test shapes: 40, official 2,468" in caplog.text
    monkeypatch.setenv("EA_POINTCLOUD_DATA", str(root / "nowhere"))
    opened = open_dataset("modelnet40", data_root=root)
    assert isinstance(opened, ModelNet)
    assert opened.folder == modelnet_folder
    monkeypatch.setenv("EA_POINTCLOUD_DATA", str(root))
    parts_folder(root / "hdf5_data")
    parts_folder(root / "other_hdf5_data")
    for name in ("shapenetpart", "other"):
        opened = open_dataset(name, split="test")
        assert isinstance(opened, ShapeNetPart)
        assert opened.name == name
    # Meshes only, until they are prepared; ModelNet's have z up.
    class_folder(root / "ModelNet10")
    opened = open_dataset("modelnet10", split="test")
    assert isinstance(opened, FolderDataset)
    plain = FolderDataset(root / "ModelNet10", split="test")
    assert torch.equal(opened.xyz[..., 1], plain.xyz[..., 2])
    shutil.copytree(modelnet_folder, root / "modelnet10_ply_hdf5_2048")
    assert isinstance(open_dataset("modelnet10", split="test"), ModelNet)


def test_what_cannot_be_opened(
    modelnet_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = modelnet_folder.parent
    monkeypatch.setenv("EA_POINTCLOUD_DATA", str(root))
    with pytest.raises(FileNotFoundError, match=r"run 'ea-pointcloud data download modelnet10', o"):
        open_dataset("modelnet10")
    with pytest.raises(
        FileNotFoundError, match=r"which holds modelnet40_ply_hdf5_2048; give its f"
    ):
        open_dataset("nothing")
    with pytest.raises(ValueError, match=r"holds several data sets; name one of modelnet40_ply_hd"):
        open_dataset(root)
    with pytest.raises(ValueError, match=r"split must be one of 'train', .* got 'validation'"):
        open_dataset(modelnet_folder, split="validation")
    text = tmp_path / "modelnet40_normal_resampled"
    text.mkdir()
    (text / "modelnet40_shape_names.txt").write_text("cup\n")
    with pytest.raises(ValueError, match=r"run 'ea-pointcloud data prepare modelnet40_normal_res"):
        open_dataset(text)
    corrupted = tmp_path / "modelnet_c"
    corrupted.mkdir()
    (corrupted / "clean.h5").touch()
    with pytest.raises(ValueError, match=r"is ModelNet-C \(HDF5\), which is not opened as clouds"):
        open_dataset(corrupted)
    with pytest.raises(FileNotFoundError, match=r"'.*data download modelnet10' and .* prepare mod"):
        ModelNet(tmp_path, name="modelnet10")


def test_layouts_of_sets_that_are_not_opened(tmp_path: Path) -> None:
    scans = tmp_path / "ScanObjectNN" / "main_split"
    scans.mkdir(parents=True)
    (scans / "training_objectdataset_augmentedrot_scale75.h5").touch()
    corrupted = tmp_path / "modelnet40_c"
    corrupted.mkdir()
    np.save(corrupted / "label.npy", np.zeros((5, 1)))
    assert recognize(scans.parent) == "scanobjectnn"
    assert recognize(corrupted) == "modelnet40_c"
    assert recognize(scans) is None


def reordered(folder: Path, order: list[int]) -> Path:
    """A copy of a ModelNet folder whose classes are numbered in another order."""
    copy = folder.with_name("reordered_ply_hdf5_2048")
    shutil.copytree(folder, copy)
    names = (folder / "shape_names.txt").read_text().split()
    (copy / "shape_names.txt").write_text("".join(f"{names[old]}\n" for old in order))
    for path in copy.glob("*.h5"):
        with h5py.File(path, "r+") as file:
            label = np.asarray(file["label"])
            file["label"][...] = np.argsort(order)[label]  # pyright: ignore
    return copy


def test_classes_in_another_order_are_matched_by_name(
    modelnet_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = np.random.default_rng(0).permutation(40).tolist()
    plain = ModelNet(modelnet_folder, split="test", num_points=64)
    shuffled = ModelNet(reordered(modelnet_folder, order), split="test", num_points=64)
    assert (plain.label != shuffled.label).any()
    spec = DataSpec(class_names=plain.class_names)
    assert match_labels(plain, spec) is plain
    matched = match_labels(shuffled, spec)
    assert isinstance(matched, ModelNet)
    assert torch.equal(matched.label, plain.label)
    assert (shuffled.label != plain.label).any()  # what was opened is not altered

    # A network that sees the clouds only, as any does.
    monkeypatch.setattr(
        evaluate_classifier, "class_logits", lambda model, batch: batch["xyz"].flatten(1)[:, :40]
    )
    model = create_model("ea_classifier_tiny", num_classes=40)
    assert isinstance(model, EAClassifier)
    model.data_spec = spec
    reports = [
        evaluate_classifier.evaluate_classifier(
            model.eval(),
            dataset,
            selection="any",
            votes=0,
            batch_size=40,
            device=torch.device("cpu"),
        )
        for dataset in (plain, shuffled)
    ]
    assert reports[0].confusion == reports[1].confusion
    assert reports[0].class_accuracy == reports[1].class_accuracy


def test_names_that_the_model_does_not_know(modelnet_folder: Path) -> None:
    dataset = ModelNet(modelnet_folder, split="test", num_points=8)
    more = DataSpec(class_names=("sphere", *dataset.class_names))
    matched = match_labels(dataset, more)
    assert isinstance(matched, ModelNet)
    assert torch.equal(matched.label, dataset.label + 1)  # the model may know more
    fewer = DataSpec(class_names=dataset.class_names[1:])
    with pytest.raises(ValueError, match=r"the data's classes \['shape00'\] are not the model's"):
        match_labels(dataset, fewer)


def test_parts_in_another_order_are_matched_by_name(tmp_path: Path) -> None:
    folder = parts_folder(tmp_path / "mine_hdf5_data")
    (folder / "seg_classes.json").write_text(json.dumps({"Cap": [0, 1], "Mug": [2, 3]}))
    for path in folder.glob("*.h5"):
        with h5py.File(path, "r+") as file:
            file["pid"][...] = np.array([[0, 1], [2, 3]] * 2).repeat(16, 1)  # pyright: ignore
    dataset = ShapeNetPart(folder, name="mine", split="test")
    dataset.part_label[0, 5] = -1  # as padding has it
    spec = DataSpec(
        class_names=("Mug/1", "Mug/0", "Cap/0", "Cap/1"),
        category_names=("Mug", "Cap"),
        parts=((0, 1), (2, 3)),
    )
    matched = match_labels(dataset, spec)
    assert isinstance(matched, ShapeNetPart)
    assert matched.category.tolist() == [1, 0, 1, 0]
    assert matched.parts == spec.parts
    for row in range(4):
        for point in (0, 5, 31):
            old, new = int(dataset.part_label[row, point]), int(matched.part_label[row, point])
            assert (old == new == -1) or dataset.part_names[old] == spec.class_names[new]
    strange = DataSpec(class_names=("Mug/0",), category_names=("Mug",), parts=((0,),))
    with pytest.raises(ValueError, match=r"the data's categories \['Cap'\] are not the model's"):
        match_labels(dataset, strange)


def test_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = make_entry("https://localhost:1/tiny.zip")
    monkeypatch.setitem(catalog.CATALOG, "tiny", entry)
    archive = tmp_path / "tiny.zip"
    archive.write_bytes(CONTENT)
    root = ("--root", tmp_path)
    download = ("data", "download", "tiny", *root, "--from-file", archive)
    assert call(monkeypatch, *download) == 0
    said = capsys.readouterr().err
    for part in (
        "licence   none",
        "cite      nobody",
        "is in place; next: ea-pointcloud data veri",
    ):
        assert part in said
    assert call(monkeypatch, *download) == 0
    assert "'ea-pointcloud data verify tiny' checks it, --force replaces it" in (
        capsys.readouterr().err
    )
    assert call(monkeypatch, "data", "download", "tiny", *root, "--manual") == 0
    assert "tiny.zip (" in capsys.readouterr().out

    assert call(monkeypatch, "data", "list", *root, "--json") == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["tiny"]["in_place"]
    assert not rows["modelnet40_c"]["in_place"]
    assert call(monkeypatch, "data", "list", *root) == 0
    assert "modelnet40_ply_hdf5_2048" in capsys.readouterr().out

    assert call(monkeypatch, "data", "verify", "tiny", *root, "--json") == 0
    assert json.loads(capsys.readouterr().out)["right"]
    (tmp_path / "tiny_ply_hdf5_2048" / "ply_data_test0.h5").unlink()
    assert call(monkeypatch, "data", "verify", "tiny", *root) == 1
    assert "DIFFERS" in capsys.readouterr().out

    class_folder(tmp_path / "own")
    prepare = ("data", "prepare", "own", *root, "--no-normals", "--points", 32)
    assert call(monkeypatch, *prepare) == 0
    assert "own_ply_hdf5_32: 6 train, 2 test shapes of 2 classes" in capsys.readouterr().err
    assert call(monkeypatch, *prepare) == 1
    assert "exists; replace it with --force" in capsys.readouterr().err
    assert call(monkeypatch, "data", "verify", tmp_path / "own_ply_hdf5_32") == 0
    assert "sha256 of ply_data_train0.h5" in capsys.readouterr().out
    assert call(monkeypatch, "data", "prepare", "tiny", *root) == 1
    assert "tiny needs no preparation; it is read as it is" in capsys.readouterr().err
    assert call(monkeypatch, "data", "verify", "modelnet10", *root) == 1
    assert "run 'ea-pointcloud data download modelnet10', or give --root" in capsys.readouterr().err
