"""Classes and splits of a folder, from the names of its files; nothing is opened here."""

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ea_pointcloud.io import READABLE

ONE_CATEGORY = "object"  # the name of the only one
TEST_FRACTION = 0.2  # of each class, where the folder itself has no test split
_SPLIT_FOLDERS = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}
_ARCHIVE_LEFTOVERS = {"__MACOSX"}
# Texts that lie beside clouds and have a suffix that clouds may have.
_NOT_CLOUDS = {"readme", "license", "licence", "copying", "notice", "changelog"}
# Outside the class folders these are lists and tables about the clouds, not clouds.
_TABLES = {".txt", ".csv", ".npy", ".npz", ".h5", ".hdf5"}


@dataclass(frozen=True)
class FolderListing:
    """The files of a folder of classes.

    Args:
        class_names: sorted.
        splits: ``"train"``, ``"val"`` and ``"test"``, each with (path relative to the root with
            ``/`` between its parts, class name) of its files, sorted.
    """

    class_names: tuple[str, ...]
    splits: dict[str, list[tuple[str, str]]]


def list_labelled_folder(root: Path, val_fraction: float) -> tuple[FolderListing, bool]:
    """Categories and splits of clouds with labelled points, and whether there are categories.

    As :func:`list_folder`, where one category is enough; or without category folders,
    ``SPLIT/file`` or ``file``. Then ``"object"`` is the only one.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if the folder cannot be understood.
    """
    folders = _subfolders(root) if root.is_dir() else []
    splits = {folder: _SPLIT_FOLDERS.get(folder.name.lower(), "") for folder in folders}
    if not root.is_dir() or (folders and not all(splits.values())):
        return list_folder(root, val_fraction, least=1), True
    if any(map(_subfolders, folders)):
        return list_folder(root, val_fraction, least=1), True
    files = [
        File(ONE_CATEGORY, split, path.relative_to(root).as_posix(), path.stem)
        for folder, split in (splits or {root: ""}).items()
        for path in _direct_clouds(folder)
    ]
    if not files:
        raise ValueError(
            f"{root} holds no readable cloud; put them into {root}/train/ and {root}/test/, or "
            f"into {root}/train/CATEGORY/ and so on"
        )
    _check_classes(root, files, least=1)
    return divide(files, val_fraction), False


def list_folder(root: Path, val_fraction: float, least: int = 2) -> FolderListing:
    """Find classes and splits: ``SPLIT/CLASS/file``, ``CLASS/SPLIT/file`` or ``CLASS/file``.

    Files may lie deeper inside a class. Hidden files, suffixes that no cloud has, and texts such as
    ``README.txt`` do not count. Where there is no val split it is set apart from train, where there
    is no split at all a test split before it; which files depends on their names within the class
    alone, and files that differ in their suffix only stay together. There must be ``least``
    classes.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if the folder cannot be understood; names what is in the way.
    """
    if not root.is_dir():
        raise FileNotFoundError(
            f"no folder {root}; give the folder that holds the class folders (data.root, or "
            "--data-root of evaluate and explain)"
        )
    _check_outside(root)
    folders = _subfolders(root)
    if not folders:
        raise ValueError(f"{root} holds no class folder; put the files into {root}/CLASS/")
    named = [folder for folder in folders if folder.name.lower() in _SPLIT_FOLDERS]
    if len(named) == len(folders):
        files = [file for folder in folders for file in _list_split(root, folder)]
    else:
        split = next(
            (each for each in named if _subfolders(each) and not _direct_clouds(each)), None
        )
        if split is not None:
            others = _first(folder.name for folder in folders if folder not in named)
            raise ValueError(
                f"{root} holds {split.name}, which looks like a split, beside {others}; move one "
                "of them elsewhere, so that there are splits or classes only"
            )
        files = [file for folder in folders for file in _list_class(root, folder)]
        _check_all_or_none(root, files)
    _check_classes(root, files, least)
    return divide(files, val_fraction)


def list_examples(root: Path) -> list[tuple[Path, str]]:
    """Files of ``root/CLASS/FILE`` in any readable format, without splits, with their class.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if it is laid out otherwise; says how it should be.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"no folder {root}; give a folder of examples, CLASS/FILE")
    _check_outside(root)
    folders = _subfolders(root)
    if not folders:
        raise ValueError(f"{root} holds no class folder; put the examples into {root}/CLASS/")
    if all(folder.name.lower() in _SPLIT_FOLDERS for folder in folders):
        splits = _first(folder.name for folder in folders)
        raise ValueError(f"{root} holds splits ({splits}), no classes; give {folders[0]}")
    return [(root / file.path, folder.name) for folder in folders
            for file in _list_class(root, folder)]  # fmt: skip


class File(NamedTuple):
    class_name: str
    split: str  # "" where the folder does not say
    path: str  # relative to the root
    name: str  # relative to the class folder, without suffix


def _list_split(root: Path, folder: Path) -> list[File]:
    """``SPLIT/CLASS/file``."""
    _check_outside(folder)
    classes = _subfolders(folder)
    if not classes:
        raise ValueError(
            f"{folder} holds no class folder; put the files into {folder}/CLASS/, or rename it if "
            "it is a class"
        )
    split = _SPLIT_FOLDERS[folder.name.lower()]
    return [file for each in classes for file in _list_class(root, each, split)]


def _list_class(root: Path, folder: Path, split: str = "") -> list[File]:
    """``CLASS/SPLIT/file`` or ``CLASS/file``; the files of a class in ``split`` if it is given."""
    files = []
    for path in _clouds(root, folder):
        inside = path.relative_to(folder)
        own = _SPLIT_FOLDERS.get(inside.parts[0].lower(), "") if len(inside.parts) > 1 else ""
        name = inside.with_suffix("").as_posix()
        files.append(File(folder.name, split or own, path.relative_to(root).as_posix(), name))
    if not files and split in ("", "train"):
        others = sorted({path.suffix.lower() or path.name for path in _visible(folder)})
        held = f"only {_first(others)}" if others else "nothing"
        raise ValueError(
            f"{folder} holds no readable cloud, {held}; add some ({' '.join(READABLE)}), remove "
            "the folder, or rename it to begin with a dot"
        )
    return files


def _check_all_or_none(root: Path, files: list[File]) -> None:
    within = next((file for file in files if file.split), None)
    outside = next((file for file in files if not file.split), None)
    if within and outside:
        raise ValueError(
            f"{root}: {within.path} lies in a split, {outside.path} does not; put all files of "
            "all classes into CLASS/train and CLASS/test, or none"
        )


def _check_classes(root: Path, files: list[File], least: int) -> None:
    """Raise unless there are enough classes and train has a shape of each."""
    splits: dict[str, set[str]] = {}
    for file in files:
        splits.setdefault(file.class_name, set()).add(file.split)
    found = set().union(*splits.values())
    if not found & {"", "train"}:
        raise ValueError(f"{root} has no train split, only {', '.join(sorted(found))}; add one")
    for name, own in sorted(splits.items()):
        if not own & {"", "train"}:
            raise ValueError(
                f"{root}: class {name!r} is in {' and '.join(sorted(own))} but not in train; "
                "add shapes of it to train, or remove it"
            )
    if len(splits) < least:
        raise ValueError(
            f"{root} holds a single class, {files[0].class_name}; a classifier needs at least 2 "
            "class folders"
        )


def divide(files: list[File], val_fraction: float) -> FolderListing:
    """Set apart the splits that are missing."""
    splits: dict[str, list[File]] = {"": [], "train": [], "val": [], "test": []}
    for file in files:
        splits[file.split].append(file)
    if splits[""]:
        splits["train"], splits["test"] = _hold_out(splits[""], TEST_FRACTION, "test")
    if not splits["val"]:
        splits["train"], splits["val"] = _hold_out(splits["train"], val_fraction, "val")
    return FolderListing(
        class_names=tuple(sorted({file.class_name for file in files})),
        splits={
            split: sorted((file.path, file.class_name) for file in splits[split])
            for split in ("train", "val", "test")
        },
    )


def _hold_out(files: list[File], fraction: float, salt: str) -> tuple[list[File], list[File]]:
    """The files that stay and those set apart: ``fraction`` of each class, one at least of two.

    Names are ordered by a hash, so that neither the order of listing nor files added to another
    class change anything.
    """

    def digest(key: tuple[str, str]) -> bytes:
        return hashlib.sha256(os.fsencode("/".join((salt, *key)))).digest()

    names: dict[str, set[str]] = {}
    for file in files:
        names.setdefault(file.class_name, set()).add(file.name)
    held: set[tuple[str, str]] = set()
    for class_name, own in names.items():
        order = sorted(((class_name, name) for name in own), key=digest)
        held.update(order[: min(max(1, round(len(order) * fraction)), len(order) - 1)])
    apart = [(file.class_name, file.name) in held for file in files]
    return (
        [file for file, is_held in zip(files, apart, strict=True) if not is_held],
        [file for file, is_held in zip(files, apart, strict=True) if is_held],
    )


def _visible(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.iterdir()
        if not path.name.startswith(".") and path.name not in _ARCHIVE_LEFTOVERS
    )


def _subfolders(folder: Path) -> list[Path]:
    return [path for path in _visible(folder) if path.is_dir()]


def _is_cloud(path: Path) -> bool:
    """By its name; a link that leads nowhere is one too, so that it is reported."""
    return path.name.lower().endswith(READABLE) and path.stem.lower() not in _NOT_CLOUDS


def _clouds(root: Path, folder: Path) -> Iterator[Path]:
    """The clouds of a class; links are followed unless they lead back to a folder they lie in."""
    return _walk(folder, frozenset({root.resolve(), folder.parent.resolve()}))


def _walk(folder: Path, above: frozenset[Path]) -> Iterator[Path]:
    here = folder.resolve()
    if here in above:
        return
    for path in _visible(folder):
        if path.is_dir():
            yield from _walk(path, above | {here})
        elif _is_cloud(path):
            yield path


def _direct_clouds(folder: Path) -> list[Path]:
    return [path for path in _visible(folder) if not path.is_dir() and _is_cloud(path)]


def _check_outside(folder: Path) -> None:
    """Raise for clouds that lie beside the class folders."""
    outside = [path for path in _direct_clouds(folder) if path.suffix.lower() not in _TABLES]
    if outside:
        raise ValueError(
            f"{folder} holds {len(outside)} clouds that are in no class folder "
            f"({_first(path.name for path in outside)}); move them into {folder}/CLASS/ or away"
        )


def _first(names: Iterable[str], count: int = 3) -> str:
    listed = list(names)
    return ", ".join(listed[:count]) + (", ..." if len(listed) > count else "")
