import logging
import os
import shutil
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from ea_pointcloud.datasets import FolderDataset, _files, _sampling, collate
from ea_pointcloud.io import Cloud, CloudFileError, read_cloud, write_cloud, write_mesh
from ea_pointcloud.training.recipe import load_recipe
from ea_pointcloud.training.tasks import ClassificationTask
from tests.test_cli import call

SUFFIXES = (".ply", ".xyz", ".npy", ".off")
CUBE = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], np.float64)
CUBE_FACES = np.array([[0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1]])


def write_shape(path: Path, *, points: int = 40, seed: int = 0) -> None:
    """A box: a rod along x where the folder's name begins with r, a slab otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sides = [3.0, 0.3, 0.3] if path.parent.name.startswith("r") else [2.0, 2.0, 0.1]
    if path.suffix == ".off":
        write_mesh(path, CUBE * sides, CUBE_FACES)
        return
    rng = np.random.default_rng(seed)
    xyz = (rng.random((points, 3)) * sides).astype(np.float32)
    write_cloud(path, Cloud(xyz, center=np.zeros(3)))


def write_classes(root: Path, counts: dict[str, int], **options: int) -> None:
    for name, count in counts.items():
        for index in range(count):
            path = root / name / f"{index:03d}{SUFFIXES[index % 4]}"
            write_shape(path, seed=index, **options)


def opened(root: Path, split: str = "train", **options: Any) -> FolderDataset:
    return FolderDataset(root, split=split, **{"stored_points": 64, "val_fraction": 0.1, **options})


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were read, not taken from the cache."""
    names: list[str] = []

    def recorded(path: Path, **options: Any) -> Cloud:
        names.append(Path(path).name)
        return read_cloud(path, **options)

    monkeypatch.setattr(_sampling, "read_cloud", recorded)
    return names


# --- layouts and splits


def test_split_folders(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", {"rod": 10, "slab": 20})
    write_classes(tmp_path / "Test", {"rod": 3})  # no slab to test, and an empty folder of them
    (tmp_path / "Test" / "slab").mkdir()
    train, val, test = (opened(tmp_path, split) for split in ("train", "val", "test"))
    assert train.class_names == test.class_names == ("rod", "slab")
    assert [len(train), len(val), len(test)] == [27, 3, 3]
    assert val.label.tolist() == [0, 1, 1]
    assert all(path.startswith("train/") for path in val.files)
    assert test.files == ("Test/rod/000.ply", "Test/rod/001.xyz", "Test/rod/002.npy")
    assert set(opened(tmp_path, "trainval").files) == {*train.files, *val.files}


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_a_val_folder_takes_the_place_of_a_share_of_train(tmp_path: Path, name: str) -> None:
    for split, count in (("train", 5), ("test", 2), (name, 3)):
        write_classes(tmp_path / split, {"rod": count, "slab": count})
    assert [len(opened(tmp_path, split)) for split in ("train", "val", "test")] == [10, 6, 4]


def test_split_folders_within_classes(tmp_path: Path) -> None:
    for name in ("rod", "slab"):
        for split, count in (("train", 5), ("test", 2)):
            for index in range(count):
                write_shape(tmp_path / name / split / f"{name}_{index}.off")
    assert [len(opened(tmp_path, split)) for split in ("train", "val", "test")] == [8, 2, 4]
    assert opened(tmp_path, "test").files[0] == "rod/test/rod_0.off"
    write_shape(tmp_path / "slab" / "more.off")
    with pytest.raises(ValueError, match=r"rod/test/rod_0.off lies in a split, slab/more.off does"):
        opened(tmp_path)


def test_classes_alone_are_divided_class_by_class(tmp_path: Path) -> None:
    counts = {"plane": 40, "rod": 10, "slab": 5, "train": 3, "z": 2, "zz": 1}
    write_classes(tmp_path, counts)  # "train" is a vehicle here: it holds files
    parts = {split: opened(tmp_path, split) for split in ("train", "val", "test")}
    of_class = {split: part.label.bincount(minlength=6).tolist() for split, part in parts.items()}
    assert of_class["test"] == [8, 2, 1, 1, 1, 0]  # a fifth, at least one of two
    assert of_class["val"] == [3, 1, 1, 1, 0, 0]  # a tenth of the rest
    assert of_class["train"] == [29, 7, 3, 1, 1, 1]
    files = [path for part in parts.values() for path in part.files]
    assert len(files) == len(set(files)) == sum(counts.values())


def test_the_division_depends_on_names_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_classes(tmp_path / "a", {"rod": 20, "slab": 20})
    first = {split: opened(tmp_path / "a", split).files for split in ("train", "val", "test")}
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    write_classes(tmp_path / "b", {"added": 30})
    listed = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda folder: reversed(sorted(listed(folder))))
    for split, files in first.items():
        again = opened(tmp_path / "b", split).files
        assert tuple(path for path in again if not path.startswith("added")) == files
        numbers = [Path(path).stem for path in files if path.startswith("rod")]
        others = [Path(path).stem for path in files if path.startswith("slab")]
        assert numbers != others or len(numbers) == 16  # each class is drawn on its own


def test_one_shape_in_two_formats_stays_on_one_side(tmp_path: Path) -> None:
    for name in ("rod", "slab"):
        for index in range(10):
            for suffix in (".ply", ".off"):
                write_shape(tmp_path / name / f"{index}{suffix}")
    for split, count in (("train", 14), ("val", 2), ("test", 4)):
        files = opened(tmp_path, split).files
        assert set(Counter(path.rpartition(".")[0] for path in files).values()) == {2}
        assert len(files) == 2 * count


def test_links_hidden_and_foreign_files(tmp_path: Path) -> None:
    root = tmp_path / "root"
    write_classes(root, {"rod": 4, "slab": 4})
    write_classes(tmp_path / "elsewhere", {"round": 4})
    (root / "round").symlink_to(tmp_path / "elsewhere" / "round")
    (root / "round" / "again").symlink_to(root)  # a circle
    (root / "rod" / "deeper").mkdir()
    write_shape(root / "rod" / "deeper" / "rod.ply")
    for name in (".DS_Store", "._000.ply", "Thumbs.db", "README.txt", "License.TXT", "cover.png"):
        (root / "rod" / name).write_text("no cloud")
    for name in ("classes.txt", "labels.csv", "notes.md"):
        (root / name).write_text("no cloud")
    (root / "__MACOSX" / "rod").mkdir(parents=True)
    (root / ".git").mkdir()
    files = [path for split in ("trainval", "test") for path in opened(root, split).files]
    assert Counter(Path(path).parts[0] for path in files) == {"rod": 5, "round": 4, "slab": 4}


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda root: None, r"root holds no class folder; put the files into .*root/CLASS/"),
        (
            lambda root: write_shape(root / "a.ply"),
            r"holds 1 clouds that are in no class folder \(a.ply\); move them into .*/CLASS/ or aw",
        ),
        (
            lambda root: (root / "train" / "a.txt").parent.mkdir(),
            r"root/train holds no class folder; put the files into .*train/CLASS/, or rename it",
        ),
        (
            lambda root: write_classes(root / "test", {"rod": 1, "slab": 1}),
            r"root has no train split, only test; add one",
        ),
        (
            lambda root: write_classes(root / "train", {"rod": 3}),
            "holds a single class, rod; a classifier needs at least 2 class folders",
        ),
        (
            lambda root: (
                write_classes(root / "train", {"rod": 3, "slab": 3}),
                write_classes(root / "test", {"round": 3}),
            ),
            "class 'round' is in test but not in train; add shapes of it to train, or remove it",
        ),
        (
            lambda root: (write_classes(root, {"rod": 3}), (root / "b").mkdir()),
            r"root/b holds no readable cloud, nothing; add some \(.ply .*or rename it to begin wit",
        ),
        (
            lambda root: (
                write_classes(root, {"rod": 3}),
                (root / "b").mkdir(),
                (root / "b" / "a.blend").write_text(""),
            ),
            r"root/b holds no readable cloud, only .blend; add some",
        ),
        (
            lambda root: (
                write_classes(root / "train", {"rod": 3, "slab": 3}),
                write_classes(root, {"docs": 1}),
            ),
            "holds train, which looks like a split, beside docs; move one of them elsewhere",
        ),
    ],
)
def test_folders_that_cannot_be_understood(
    tmp_path: Path, build: Callable[[Path], object], words: str
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    build(root)
    with pytest.raises(ValueError, match=words):
        opened(root)


def test_what_cannot_be_opened_says_why(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no folder .*none; give the folder that holds"):
        opened(tmp_path / "none")
    write_classes(tmp_path / "train", {"rod": 1, "slab": 1})
    with pytest.raises(ValueError, match=r"no shape for split 'val'; a class needs at least 2 sha"):
        opened(tmp_path, "val")
    with pytest.raises(ValueError, match=r"no shape for split 'test'; add test/CLASS/file, or mea"):
        opened(tmp_path, "test")
    for options, words in (
        ({"split": "dev"}, "split must be one of 'train', 'val', 'test', 'trainval', got 'dev'"),
        ({"num_points": 65}, "num_points must be between 0 and stored_points=64, got 65"),
        ({"up": "w"}, "up must be one of 'x', 'y', 'z', got 'w'"),
        ({"sampling": "last"}, "sampling must be one of 'first', 'random', 'fps'"),
        ({"stored_points": 0}, "stored_points must be at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=words):
            FolderDataset(tmp_path, **{"stored_points": 64, **options})


# --- clouds


def test_clouds_are_the_files_normalised_with_y_up(tmp_path: Path) -> None:
    write_classes(tmp_path, {"rod": 3, "slab": 3}, points=30)
    data = opened(tmp_path, "trainval", up="z")
    row = data.files.index(next(path for path in data.files if path.endswith(".ply")))
    xyz = read_cloud(tmp_path / data.files[row]).xyz.astype(np.float64)
    turned = np.stack([-xyz[:, 0], xyz[:, 2], xyz[:, 1]], 1)  # z up becomes y up
    turned -= turned.mean(0)
    turned /= np.linalg.norm(turned, axis=1).max()
    own = data.xyz[row][data.mask[row]].numpy()
    order, expected = np.lexsort(own.T), turned[np.lexsort(turned.T)]
    np.testing.assert_allclose(own[order], expected, atol=1e-6)
    assert not np.allclose(own, turned, atol=1e-3)  # the order of the file is gone


def test_smaller_clouds_have_a_mask_and_repeat_nothing(tmp_path: Path) -> None:
    for index, count in enumerate((5, 20, 100)):
        for name in ("rod", "slab"):
            write_shape(tmp_path / "train" / name / f"{index}.ply", points=count, seed=index)
    for choice in ("first", "random", "fps"):
        data = opened(tmp_path, "trainval", num_points=16, sampling=choice)
        assert data.xyz.shape == (6, 16, 3)
        assert data.mask.sum(1).tolist() == [5, 16, 16] * 2
        for xyz, mask in zip(data.xyz, data.mask, strict=True):
            assert len(xyz[mask].unique(dim=0)) == int(mask.sum())
            assert (xyz[~mask] == 0).all()
        assert data[[0, 3]]["xyz"].shape == (2, 5, 3)
        assert data[1]["mask"].all()
        assert set(data[torch.tensor([0, 1])]) == {"xyz", "mask", "label"}
    assert repr(data) == (
        f"FolderDataset({tmp_path.name!r}, split='trainval', shapes=6, points=5..16, classes=2)"
    )
    assert opened(tmp_path, "trainval").mask.sum(1).tolist() == [5, 20, 64] * 2


def test_each_mesh_has_a_seed_of_its_own(tmp_path: Path) -> None:
    for name in ("rod", "slab"):
        for index in range(2):
            write_shape(tmp_path / "train" / name / f"{index}.off")
    first = opened(tmp_path, "trainval")
    assert first.mask.all()
    assert not torch.equal(first.xyz[0], first.xyz[1])
    shutil.rmtree(tmp_path / ".ea_pointcloud")
    assert torch.equal(opened(tmp_path, "trainval").xyz, first.xyz)


@pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker processes:UserWarning")
def test_worker_processes_read_the_same(tmp_path: Path) -> None:
    write_classes(tmp_path, {"rod": 6, "slab": 6})
    here = opened(tmp_path, num_workers=0)
    shutil.rmtree(tmp_path / ".ea_pointcloud")
    there = opened(tmp_path, num_workers=2)
    assert there.files == here.files
    assert torch.equal(there.xyz, here.xyz)


def test_padding_never_matters_in_training(tmp_path: Path) -> None:
    for index, count in enumerate((12, 40, 60)):
        for name in ("rod", "slab"):
            write_shape(tmp_path / "train" / name / f"{index}.ply", points=count, seed=index)
    recipe = load_recipe(
        "folder", [f"data.root={tmp_path}", "data.num_points=32", "augment.point_dropout=0.5"]
    )
    task = ClassificationTask(recipe)
    stored = opened(tmp_path, "trainval")[[0, 1, 2, 3]]
    batch = task.augment(stored, torch.Generator().manual_seed(0))
    assert batch["xyz"].shape == (4, 32, 3)
    assert (batch["mask"].sum(1) <= torch.tensor([12, 32, 32, 12])).all()
    assert batch["mask"].any(1).all()
    other = {**stored, "xyz": stored["xyz"].masked_fill(~stored["mask"][..., None], 9.0)}
    again = task.augment(other, torch.Generator().manual_seed(0))
    assert torch.equal(again["mask"], batch["mask"])
    assert torch.equal(again["xyz"][batch["mask"]], batch["xyz"][batch["mask"]])


# --- bad files


def test_bad_files_are_listed_or_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, reads: list[str]
) -> None:
    write_classes(tmp_path, {"rod": 12, "slab": 12})
    (tmp_path / "rod" / "empty.ply").write_bytes(b"")
    (tmp_path / "rod" / "notes.txt").write_text("bought in May")
    (tmp_path / "rod" / "point.xyz").write_text("1 2 3\n1 2 3\n")
    (tmp_path / "slab" / "gone.ply").symlink_to(tmp_path / "nowhere.ply")
    (tmp_path / "slab" / "holes.xyz").write_text("0 0 0\n1 2 3\nnan 1 2\n4 4 4\n")
    for index in range(3):
        (tmp_path / "slab" / f"x{index}.off").write_text("OFF")
    with pytest.raises(CloudFileError) as error:
        opened(tmp_path)
    lines = str(error.value).splitlines()
    assert lines[0] == f"{tmp_path}: 8 of 32 files cannot be read as clouds:"
    assert lines[1] == "  rod/empty.ply: is empty (0 bytes); export it again from its source"
    assert lines[2].startswith("  rod/notes.txt: ")
    assert lines[3] == "  rod/point.xyz: has no extent: 2 points in one place"
    assert lines[4] == "  slab/gone.ply: No such file or directory (a link that leads nowhere)"
    assert lines[5].startswith("  slab/holes.xyz: 1 of 4 points have a coordinate that is not")
    assert lines[6] == "  and 3 more"
    assert "data.skip_bad=true" in lines[7]
    assert "data.drop_invalid=true" in lines[7]

    reads.clear()
    parts = [opened(tmp_path, split, skip_bad=True) for split in ("train", "val", "test")]
    assert sum(map(len, parts)) == 24
    assert len(reads) == 3 * 7  # the good ones were kept although the first attempt failed
    assert sum(" files are left out:" in record.message for record in caplog.records) >= 2
    assert f"{tmp_path}: " in caplog.text
    dropped = [opened(tmp_path, s, skip_bad=True, drop_invalid=True) for s in ("trainval", "test")]
    assert sum(map(len, dropped)) == 25


def test_a_class_of_bad_files_is_named(tmp_path: Path) -> None:
    write_classes(tmp_path, {"rod": 3})
    (tmp_path / "slab").mkdir()
    for index in range(3):
        (tmp_path / "slab" / f"{index}.ply").write_bytes(b"")
    with pytest.raises(ValueError, match=r"has no readable shape of slab to train on; add some"):
        opened(tmp_path, skip_bad=True)


# --- the cache


def test_only_what_changed_is_read_again(tmp_path: Path, reads: list[str]) -> None:
    write_classes(tmp_path, {"rod": 5, "slab": 5})
    first = opened(tmp_path)
    assert len(reads) == 10
    reads.clear()
    assert torch.equal(opened(tmp_path).xyz, first.xyz)
    opened(tmp_path, "test", num_points=16, sampling="fps", up="z")
    assert reads == []
    os.utime(tmp_path / "rod" / "001.xyz", (1, 1))
    write_shape(tmp_path / "slab" / "new.ply")
    (tmp_path / "slab" / "002.npy").unlink()
    opened(tmp_path)
    assert sorted(reads) == ["001.xyz", "new.ply"]
    reads.clear()
    opened(tmp_path, stored_points=32)  # other clouds, kept beside the first
    assert len(reads) == 10
    opened(tmp_path)
    assert len(reads) == 10


@pytest.mark.parametrize("damage", ["cut", "flip", "text", "other"])
def test_a_damaged_cache_is_made_anew(
    tmp_path: Path, damage: str, reads: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    import h5py

    write_classes(tmp_path, {"rod": 5, "slab": 5}, points=64)
    first = opened(tmp_path)
    (cache,) = (tmp_path / ".ea_pointcloud").glob("*.h5")
    content = bytearray(cache.read_bytes())
    if damage == "cut":
        del content[len(content) // 2 :]
    elif damage == "flip":
        with h5py.File(cache) as file:
            row = np.asarray(file["points"])[100].tobytes()
        content[content.index(row)] ^= 1
    if damage == "other":
        with h5py.File(cache, "r+") as file:
            lengths = file["length"]
            assert isinstance(lengths, h5py.Dataset)
            lengths[0] += 1
    else:
        cache.write_bytes(b"not HDF5" if damage == "text" else bytes(content))
    reads.clear()
    assert torch.equal(opened(tmp_path).xyz, first.xyz)
    assert len(reads) == 10
    assert "is damaged (" in caplog.text
    assert "is written again" in caplog.text
    opened(tmp_path)
    assert len(reads) == 10


def test_two_at_once_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write_classes(tmp_path, {"rod": 5, "slab": 5})
    names: list[str] = []
    started, waited = threading.Event(), threading.Event()

    def slow(path: Path, **options: Any) -> Cloud:
        names.append(path.name)
        started.set()
        assert waited.wait(30)
        return read_cloud(path, **options)

    class Waiting(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "another process is reading" in record.getMessage():
                waited.set()

    monkeypatch.setattr(_sampling, "read_cloud", slow)
    monkeypatch.setattr(_files.logger, "handlers", [Waiting()])
    results: list[FolderDataset] = []
    threads = [threading.Thread(target=lambda: results.append(opened(tmp_path))) for _ in range(2)]
    threads[0].start()
    assert started.wait(30)
    threads[1].start()
    for thread in threads:
        thread.join(60)
    assert len(names) == 10
    assert torch.equal(results[0].xyz, results[1].xyz)


def test_what_was_read_before_ctrl_c_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_classes(tmp_path, {"rod": 5, "slab": 5})
    names: list[str] = []

    def stopped(path: Path, **options: Any) -> Cloud:
        if len(names) == 6:
            raise KeyboardInterrupt
        names.append(path.name)
        return read_cloud(path, **options)

    monkeypatch.setattr(_sampling, "read_cloud", stopped)
    with pytest.raises(KeyboardInterrupt):
        opened(tmp_path)
    names.clear()
    opened(tmp_path)
    assert len(names) == 4


def test_a_root_that_cannot_be_written_has_its_cache_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reads: list[str]
) -> None:
    root = tmp_path / "root"
    write_classes(root, {"rod": 5, "slab": 5})
    (root / ".ea_pointcloud").write_text("in the way of the folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    opened(root)
    opened(root)
    assert len(reads) == 10
    assert len(list((tmp_path / "cache" / "ea_pointcloud").rglob("*.h5"))) == 1
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(OSError, match=r"can be written to; set XDG_CACHE_HOME to a folder that ca"):
        opened(root)


def test_a_full_disk_costs_the_cache_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import h5py

    write_classes(tmp_path, {"rod": 5, "slab": 5})

    def full(*_: object, **__: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(h5py.Group, "create_dataset", full)
    assert len(opened(tmp_path)) == 6
    assert "cannot be written (No space left on device)" in caplog.text
    assert list((tmp_path / ".ea_pointcloud").glob("*.h5*")) == []


# --- the command line


def test_two_classes_of_five_train_evaluate_and_classify(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("rod", "slab"):
        for index, count in enumerate((30, 64, 64, 90, 120)):
            path = tmp_path / "boxes" / name / f"{index}.ply"
            write_shape(path, points=count, seed=index)
    monkeypatch.chdir(tmp_path)
    options = ["data.root=boxes", "data.num_points=48", "data.stored_points=64", "eval.votes=2"]
    options += ["trainer.epochs=1", "trainer.min_batches_per_epoch=3", "trainer.device=cpu"]
    assert call(monkeypatch, "train", "folder", *options) == 0
    run = tmp_path / "runs" / "boxes-seed0"
    assert (run / "best" / "config.json").is_file()
    assert "reading" in capsys.readouterr().err
    assert call(monkeypatch, "evaluate", run, "--device", "cpu") == 0
    # The title of the table wraps where the path of the run is long.
    assert "test split, 2 shapes" in " ".join(capsys.readouterr().out.split())
    assert call(monkeypatch, "classify", "boxes/rod/0.ply", "--model", run, "--json") == 0
    assert '"label": "' in capsys.readouterr().out
    assert call(monkeypatch, "train", "folder") == 1
    assert "data.root must be set to the folder that holds the class" in capsys.readouterr().err
    assert call(monkeypatch, "train", "folder", "data.root=boxes", "data.num_points=3000") == 1
    assert "between 1 and data.stored_points=2048, got 3000" in capsys.readouterr().err


def test_clouds_of_different_sizes_are_collated() -> None:
    one = {"xyz": torch.ones(2, 3), "label": torch.tensor(4), "part_label": torch.tensor([0, 1])}
    two = {"xyz": torch.ones(3, 3), "label": torch.tensor(5), "part_label": torch.tensor([2, 0, 1]),
           "mask": torch.tensor([True, True, False])}  # fmt: skip
    batch = collate([one, two])
    assert batch["mask"].tolist() == [[True, True, False], [True, True, False]]
    assert batch["xyz"].shape == (2, 3, 3)
    assert batch["xyz"][0, 2].tolist() == [0, 0, 0]
    assert batch["part_label"].tolist() == [[0, 1, -1], [2, 0, 1]]
    assert batch["label"].tolist() == [4, 5]
    with pytest.raises(ValueError, match="samples must hold at least one"):
        collate([])


def test_a_loader_of_a_folder(tmp_path: Path) -> None:
    for name, counts in (("rod", (40, 50)), ("slab", (60, 70))):
        (tmp_path / name).mkdir()
        for count in counts:
            xyz = np.random.default_rng(count).normal(size=(count, 3))
            np.save(tmp_path / name / f"{count}.npy", xyz)
    dataset = opened(tmp_path)
    batch = next(iter(DataLoader(dataset, batch_size=len(dataset), collate_fn=collate)))
    lengths = [
        int(sample["mask"].sum()) for sample in map(dataset.__getitem__, range(len(dataset)))
    ]
    assert batch["mask"].sum(1).tolist() == lengths
