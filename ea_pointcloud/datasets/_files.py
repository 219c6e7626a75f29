"""Where data sets lie on disk."""

import os
from collections.abc import Sequence
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
    return find_layout(root, [(folder, marker)])[0]


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
        f"no {markers} in {places} or {base}; put the data set there, or set data.root or "
        f"${ROOT_VARIABLE} to the folder above it (see data/README.md)"
    )
