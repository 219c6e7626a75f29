"""The layouts in which data sets lie on disk: which one a folder has, and what its lists name.

Coordinates are not read here; that is the work of the data set classes.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from ea_pointcloud.datasets._files import NAMES_FILE
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
        title: what a person calls it.
        marker: the file that tells it, as a pattern; a folder of classes has none.
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


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").split() if path.is_file() else []


def _h5_listed(folder: Path, lists: dict[str, str], classes: int) -> Contents:
    """Of HDF5 files named by a list for each split, which may name paths on another disk."""
    counts, missing = {"classes": classes}, []
    for split, listing in lists.items():
        if not (folder / listing).is_file():
            missing.append(listing)
        names = [Path(line).name for line in _lines(folder / listing)]
        missing += [name for name in names if not (folder / name).is_file()]
        counts[split] = sum(_h5_length(folder / name) for name in names if name not in missing)
    return Contents(counts, tuple(missing))


def _h5_length(path: Path) -> int:
    """How many labels a file has.

    Raises:
        ValueError: if it cannot be read.
    """
    import h5py

    try:
        with h5py.File(path, "r") as file:
            return len(file["label"])  # pyright: ignore[reportArgumentType]
    except (OSError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} cannot be read as HDF5 with 'label' ({error}); download it again"
        ) from error


def _modelnet_h5(folder: Path) -> Contents:
    lists = {split: f"{split}_files.txt" for split in ("train", "test")}
    return _h5_listed(folder, lists, len(_lines(folder / NAMES_FILE)))


def _parts_h5(folder: Path) -> Contents:
    splits = [s for s in ("train", "val", "test") if (folder / _parts_list(s)).is_file()]
    categories = len(_lines(folder / H5_MARKER)) // 2  # a name and an id on each line
    return _h5_listed(folder, {split: _parts_list(split) for split in splits}, categories)


def _parts_list(split: str) -> str:
    return f"{split}_hdf5_file_list.txt"


def _parts_txt(folder: Path) -> Contents:
    counts, missing = {"classes": len(_lines(folder / TXT_MARKER)) // 2}, []
    for split in ("train", "val", "test"):
        listing = folder / "train_test_split" / f"shuffled_{split}_file_list.json"
        if not listing.is_file():
            continue
        entries = [Path(entry).parts[-2:] for entry in json.loads(listing.read_text("utf-8"))]
        counts[split] = len(entries)
        missing += [
            f"{synset}/{shape}.txt"
            for synset, shape in entries
            if not (folder / synset / f"{shape}.txt").is_file()
            and not (folder / synset / "points" / f"{shape}.pts").is_file()
        ]
    return Contents(counts, tuple(missing))


def listed_classes(folder: Path, layout: str) -> list[str]:
    """The class names that a folder's own list gives, of ModelNet's layouts."""
    # Beside the lists of all classes of the text layout lie those of ten of them.
    return max((_lines(path) for path in folder.glob(LAYOUTS[layout].marker)), key=len)


def resampled_files(folder: Path) -> tuple[list[str], dict[str, list[tuple[str, str]]]]:
    """Class names, and (path, class) of the files of each split, as the lists beside them say."""
    # Beside the lists of all classes lie those of ten of them.
    every = folder.glob(LAYOUTS["modelnet_txt"].marker)
    names_file = max(every, key=lambda path: len(_lines(path)))
    prefix = names_file.name.removesuffix("_shape_names.txt")
    splits = {}
    for split in ("train", "test"):
        shapes = _lines(folder / f"{prefix}_{split}.txt")
        names = [shape.rpartition("_")[0] for shape in shapes]  # of "night_stand_0001"
        paths = [f"{name}/{shape}.txt" for name, shape in zip(names, shapes, strict=True)]
        splits[split] = list(zip(paths, names, strict=True))
    return _lines(names_file), splits


def _modelnet_txt(folder: Path) -> Contents:
    names, splits = resampled_files(folder)
    listed = [path for files in splits.values() for path, _ in files]
    return Contents(
        {"classes": len(names), **{split: len(files) for split, files in splits.items()}},
        _absent(folder, listed),
    )


def _absent(folder: Path, names: Iterable[str]) -> tuple[str, ...]:
    return tuple(name for name in names if not (folder / name).is_file())


def _meshes(folder: Path) -> Contents:
    counts = {split: sum(1 for _ in folder.glob(f"*/{split}/*.off")) for split in ("train", "test")}
    return Contents({"classes": sum(1 for _ in folder.glob("*/train")), **counts})


def _scanobjectnn(folder: Path) -> Contents:
    files = {
        split: f"main_split/{prefix}_objectdataset_augmentedrot_scale75.h5"
        for split, prefix in (("train", "training"), ("test", "test"))
    }
    missing = _absent(folder, files.values())
    return Contents(
        {split: _h5_length(folder / file) for split, file in files.items() if file not in missing},
        missing,
    )


def _modelnet40_c(folder: Path) -> Contents:
    import numpy as np

    sets = [path for path in folder.glob("data_*_[1-5].npy")]
    label = np.load(folder / "label.npy", mmap_mode="r")
    return Contents({"sets": len(sets), "test": label.size})


def _modelnet_c(folder: Path) -> Contents:
    sets = [path for path in folder.glob("*_[0-4].h5")]
    return Contents({"sets": len(sets), "test": _h5_length(folder / "clean.h5")})


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
