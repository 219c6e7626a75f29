"""Where data sets lie on disk, and how processes take turns there."""

import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from ea_pointcloud.datasets.catalog import CATALOG

ROOT_VARIABLE = "EA_POINTCLOUD_DATA"
NAMES_FILE = "shape_names.txt"  # of ModelNet's HDF5 layout
MANIFEST = "manifest.json"  # of a folder that this package wrote

logger = logging.getLogger(__name__)


def data_root(root: str | Path | None) -> Path:
    """The data root: the argument, else ``$EA_POINTCLOUD_DATA``, else ``./data``."""
    return Path(root or os.environ.get(ROOT_VARIABLE) or "data").expanduser()


def find_folder(root: str | Path | None, folder: str, marker: str) -> Path:
    """The data set's folder: ``ROOT/folder``, or ``ROOT`` itself where it holds ``marker``.

    Raises:
        FileNotFoundError: naming every place that was looked at.
    """
    return find_layout(root, [(folder, marker)])[0]


def find_modelnet(root: str | Path | None, name: str) -> Path:
    """The folder of a set in ModelNet's HDF5 layout: ``NAME_ply_hdf5_2048``, ``NAME_hdf5_2048``.

    Raises:
        FileNotFoundError: naming every place that was looked at.
    """
    folders = (f"{name}_ply_hdf5_2048", f"{name}_hdf5_2048")
    return find_layout(root, [(folder, NAMES_FILE) for folder in folders])[0]


def find_layout(root: str | Path | None, layouts: Sequence[tuple[str, str]]) -> tuple[Path, str]:
    """The first folder that is there, and the marker it holds.

    Args:
        root: data root or the data set's folder itself, see :func:`data_root`.
        layouts: name of the folder and of a file that marks it, the preferred layout first.

    Raises:
        FileNotFoundError: naming every place that was looked at.
    """
    base = data_root(root)
    for folder, marker in layouts:
        for candidate in (base / folder, base):
            if (candidate / marker).is_file():
                return candidate, marker
    markers = " or ".join(dict.fromkeys(marker for _, marker in layouts))
    places = ", ".join(str(base / folder) for folder, _ in layouts)
    raise FileNotFoundError(
        f"no {markers} in {places} or {base}; {_how_to_get([folder for folder, _ in layouts])}set "
        f"data.root or ${ROOT_VARIABLE} to the folder above it (see data/README.md)"
    )


def _how_to_get(folders: Sequence[str]) -> str:
    for entry in CATALOG.values():
        command = f"ea-pointcloud data download {entry.name}"
        if entry.folder in folders:
            return f"run '{command}', or "
        if entry.prepared in folders:
            return f"run '{command}' and 'ea-pointcloud data prepare {entry.name}', or "
    return "put the data set there, or "


def replace_folder(new: Path, folder: Path) -> None:
    """Rename ``new`` to ``folder``; what is there already is kept until that is done."""
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    try:
        new.rename(folder)
    except OSError:
        if old.exists():
            old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def alone(lock: Path, busy: str) -> Iterator[None]:
    """Keep other processes out of the block; where one is in it, say ``busy`` and wait."""
    held = FileLock(lock)
    try:
        held.acquire(timeout=0)
    except Timeout:
        logger.warning("%s; waiting for it", busy)
        held.acquire()
    try:
        yield
    finally:
        held.release()
