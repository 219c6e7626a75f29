"""The layouts in which data sets lie on disk: which one a folder has, and what its lists name.

Coordinates are read by the data set classes, not here.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from ea_pointcloud.datasets._files import (
    NAMES_FILE,
    open_h5,
    plain_name,
    read_json,
    read_lines,
)
from ea_pointcloud.datasets._part_files import H5_MARKER, TXT_MARKER


@dataclass(frozen=True)
class Contents:
    """What a folder holds.

    Args:
        counts: shapes of each split, ``"classes"``, and ``"sets"`` of corrupted ones.
        missing: files that the folder's own lists name and that are not there.
    """

    counts: dict[str, int]
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Layout:
    """A way of laying out a data set.

    Args:
        title: its name in messages.
        marker: the file that identifies it, as a pattern; a folder of classes has none.
        contents: counts what a folder in this layout holds.
    """

    title: str
    marker: str
    contents: Callable[[Path], Contents]


def recognize(folder: Path) -> str | None:
    """The key of the folder's layout in :data:`LAYOUTS`, None where no marker is there."""
    for key, layout in LAYOUTS.items():
        if layout.marker and any(folder.glob(layout.marker)):
            return key
    return None


def find_root(folder: Path, layout: str) -> Path:
    """Where below ``folder`` the set begins: archives have it in one folder, in two, or in none."""
    marker = LAYOUTS[layout].marker
    level = [folder]
    for _ in range(3):
        found = [each for each in level if marker and any(each.glob(marker))]
        if found:
            return found[0]
        level = [child for each in level for child in sorted(each.iterdir()) if child.is_dir()]
    while not marker and len(inside := list(folder.iterdir())) == 1 and inside[0].is_dir():
        folder = inside[0]
    return folder


def listed_classes(folder: Path, layout: str) -> list[str]:
    """The class names that a folder's own list gives, of ModelNet's layouts."""
    return _words(_names_file(folder, layout))


def resampled_files(folder: Path) -> tuple[list[str], dict[str, list[tuple[str, str]]]]:
    """Class names, and (path, class) of the files of each split, as the lists beside them say."""
    names_file = _names_file(folder, "modelnet_txt")
    prefix = names_file.name.removesuffix("_shape_names.txt")
    splits = {}
    for split in ("train", "test"):
        listing = folder / f"{prefix}_{split}.txt"
        shapes = _words(listing)
        names = [shape.rpartition("_")[0] for shape in shapes]  # of "night_stand_0001"
        paths = [f"{name}/{shape}.txt" for name, shape in zip(names, shapes, strict=True)]
        paths = [plain_name(path, listing) for path in paths]
        splits[split] = list(zip(paths, names, strict=True))
    return _words(names_file), splits


def _words(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").split() if path.is_file() else []


def _names_file(folder: Path, layout: str) -> Path:
    # Beside the lists of all classes of the text layout lie those of ten of them.
    return max(folder.glob(LAYOUTS[layout].marker), key=lambda path: len(_words(path)))


def _absent(folder: Path, names: Iterable[str]) -> tuple[str, ...]:
    return tuple(name for name in names if not (folder / name).is_file())


def _h5_length(path: Path) -> int:
    """How many labels a file has."""
    with open_h5(path, "label") as (label,):
        return len(label)


def _h5_listed(folder: Path, lists: dict[str, str], classes: int) -> Contents:
    """Of HDF5 files named by a list for each split, which may name paths on another disk."""
    counts, missing = {"classes": classes}, _absent(folder, lists.values())
    for split, listing in lists.items():
        names = [Path(line).name for line in _words(folder / listing)]
        absent = _absent(folder, names)
        missing += absent
        counts[split] = sum(_h5_length(folder / name) for name in names if name not in absent)
    return Contents(counts, missing)


def _modelnet_h5(folder: Path) -> Contents:
    lists = {split: f"{split}_files.txt" for split in ("train", "test")}
    return _h5_listed(folder, lists, len(_words(folder / NAMES_FILE)))


def _parts_h5(folder: Path) -> Contents:
    lists = {split: f"{split}_hdf5_file_list.txt" for split in ("train", "val", "test")}
    there = {split: name for split, name in lists.items() if (folder / name).is_file()}
    categories = len(read_lines(folder / H5_MARKER))
    return _h5_listed(folder, there, categories)


def _parts_txt(folder: Path) -> Contents:
    counts, missing = {"classes": len(read_lines(folder / TXT_MARKER))}, []
    for split in ("train", "val", "test"):
        listing = folder / "train_test_split" / f"shuffled_{split}_file_list.json"
        if not listing.is_file():
            continue
        names = [plain_name(str(entry), listing) for entry in read_json(listing)]
        entries = [Path(name).parts[-2:] for name in names]
        counts[split] = len(entries)
        missing += [
            f"{synset}/{shape}.txt"
            for synset, shape in entries
            if not (folder / synset / f"{shape}.txt").is_file()
            and not (folder / synset / "points" / f"{shape}.pts").is_file()
        ]
    return Contents(counts, tuple(missing))


def _modelnet_txt(folder: Path) -> Contents:
    names, splits = resampled_files(folder)
    counts = {split: len(files) for split, files in splits.items()}
    listed = [path for files in splits.values() for path, _ in files]
    return Contents({"classes": len(names), **counts}, _absent(folder, listed))


def _meshes(folder: Path) -> Contents:
    counts = {split: sum(1 for _ in folder.glob(f"*/{split}/*.off")) for split in ("train", "test")}
    return Contents({"classes": sum(1 for _ in folder.glob("*/train")), **counts})


def _scanobjectnn(folder: Path) -> Contents:
    files = {
        split: f"main_split/{prefix}_objectdataset_augmentedrot_scale75.h5"
        for split, prefix in (("train", "training"), ("test", "test"))
    }
    missing = _absent(folder, files.values())
    there = {split: file for split, file in files.items() if file not in missing}
    return Contents({split: _h5_length(folder / file) for split, file in there.items()}, missing)


def _modelnet40_c(folder: Path) -> Contents:
    import numpy as np

    label = np.load(folder / "label.npy", mmap_mode="r")
    return Contents({"sets": len(list(folder.glob("data_*_[1-5].npy"))), "test": label.size})


def _modelnet_c(folder: Path) -> Contents:
    sets = len(list(folder.glob("*_[0-4].h5")))
    return Contents({"sets": sets, "test": _h5_length(folder / "clean.h5")})


LAYOUTS: dict[str, Layout] = {
    "modelnet_h5": Layout("ModelNet (HDF5)", NAMES_FILE, _modelnet_h5),
    "parts_h5": Layout("ShapeNetPart (HDF5)", H5_MARKER, _parts_h5),
    "parts_txt": Layout("ShapeNetPart (text)", TXT_MARKER, _parts_txt),
    "modelnet_txt": Layout("ModelNet (text)", "*_shape_names.txt", _modelnet_txt),
    "scanobjectnn": Layout("ScanObjectNN (HDF5)", "main_split/*objectdataset*.h5", _scanobjectnn),
    "modelnet40_c": Layout("ModelNet40-C (NPY)", "label.npy", _modelnet40_c),
    "modelnet_c": Layout("ModelNet-C (HDF5)", "clean.h5", _modelnet_c),
    "meshes": Layout("folder of classes", "", _meshes),
}
