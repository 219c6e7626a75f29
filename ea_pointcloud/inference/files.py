"""Which files are meant by paths of files and folders; they are not opened here."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ea_pointcloud.io import READABLE


@dataclass(frozen=True)
class Found:
    """A file to read.

    Args:
        path: as it was given, or below a folder as that was given.
        relative: its place below the folder given, or its name; below the folder's own name where
            there were several paths.
    """

    path: str
    relative: str


def find_files(
    paths: Sequence[str], *, recursive: bool = False, exclude: Path | None = None
) -> Iterator[Found]:
    """List files one by one: those given as they are, of folders those whose suffix is readable.

    Names in a folder are sorted, so the order is the same every time; only one folder's names are
    held at a time (and those of the folders above it). Hidden names and links to folders are left
    out.

    Args:
        paths: files and folders, in this order.
        recursive: also look into the folders inside.
        exclude: a file or folder that is left out, such as the results of this very run.

    Raises:
        ValueError: if a folder holds no readable file.
        OSError: if a folder cannot be listed.
    """
    for path in paths:
        if not Path(path).is_dir():
            yield Found(path, Path(path).name)
            continue
        below = "" if len(paths) == 1 else Path(path).resolve().name
        empty = True
        for found in _inside(path, below, recursive, exclude):
            empty = False
            yield found
        if empty:
            more = "" if recursive else "; add --recursive for the folders inside"
            raise ValueError(f"{path} holds no file that ends in {' '.join(READABLE)}{more}")


def _inside(folder: str, below: str, recursive: bool, exclude: Path | None) -> Iterator[Found]:
    with os.scandir(folder) as entries:
        names = sorted(
            (entry.name, entry.is_dir(follow_symlinks=False))
            for entry in entries
            if not entry.name.startswith(".")
        )
    for name, is_folder in names:
        path, relative = os.path.join(folder, name), os.path.join(below, name)  # noqa: PTH118
        if exclude is not None and name == exclude.name and _same(path, exclude):
            continue
        if is_folder:
            if recursive:
                yield from _inside(path, relative, recursive, exclude)
        elif name.lower().endswith(READABLE) and not Path(path).is_dir():
            yield Found(path, relative)


def _same(path: str, other: Path) -> bool:
    return Path(path).resolve() == other.resolve()
