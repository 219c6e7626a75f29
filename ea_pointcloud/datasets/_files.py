"""Where data sets lie on disk."""

import os
from pathlib import Path

ROOT_VARIABLE = "EA_POINTCLOUD_DATA"


def data_root(root: str | Path | None) -> Path:
    """The data root: the argument, else ``$EA_POINTCLOUD_DATA``, else ``./data``."""
    return Path(root or os.environ.get(ROOT_VARIABLE) or "data").expanduser()


def find_folder(root: str | Path | None, folder: str, marker: str) -> Path:
    """The data set's folder: ``ROOT/folder``, or ``ROOT`` itself where it holds ``marker``.

    Raises:
        FileNotFoundError: naming every place that was looked at.
    """
    base = data_root(root)
    for candidate in (base / folder, base):
        if (candidate / marker).is_file():
            return candidate
    raise FileNotFoundError(
        f"no {marker} in {base / folder} or {base}; put the data set there, or set data.root or "
        f"${ROOT_VARIABLE} to the folder above it (see data/README.md)"
    )
