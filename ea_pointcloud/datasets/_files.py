"""Folders and files of data sets: finding, reading and replacing them, and locks."""

import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from ea_pointcloud.datasets.catalog import CATALOG, entry_of_folder
from ea_pointcloud.descriptors.channels import channel_width
from ea_pointcloud.io.values import unit_colors

ROOT_VARIABLE = "EA_POINTCLOUD_DATA"
NAMES_FILE = "shape_names.txt"  # of ModelNet's HDF5 layout
MANIFEST = "manifest.json"  # of a folder that this package wrote
_SHOWN = 5  # files that an error or a warning lists

logger = logging.getLogger(__name__)


def data_root(root: str | Path | None) -> Path:
    """The data root: the argument, else ``$EA_POINTCLOUD_DATA``, else ``./data``."""
    return Path(root or os.environ.get(ROOT_VARIABLE) or "data").expanduser()


def find_modelnet(root: str | Path | None, name: str) -> Path:
    """The folder of a set in ModelNet's HDF5 layout: ``NAME_ply_hdf5_2048``, ``NAME_hdf5_2048``.

    Raises:
        FileNotFoundError: names every place that was looked at.
    """
    folders = (f"{name}_ply_hdf5_2048", f"{name}_hdf5_2048")
    return find_layout(root, [(folder, NAMES_FILE) for folder in folders])[0]


def find_layout(root: str | Path | None, layouts: Sequence[tuple[str, str]]) -> tuple[Path, str]:
    """The first folder that is there, and the marker it holds.

    Args:
        root: data root or the data set's folder itself, see :func:`data_root`.
        layouts: name of the folder and of a file that marks it, the preferred layout first.

    Raises:
        FileNotFoundError: names every place that was looked at.
    """
    base = data_root(root)
    for folder, marker in layouts:
        for candidate in (base / folder, base):
            if (candidate / marker).is_file():
                return candidate, marker
    markers = " or ".join(dict.fromkeys(marker for _, marker in layouts))
    folders = ", ".join(str(base / folder) for folder, _ in layouts)
    raise FileNotFoundError(
        f"no {markers} in {folders} or {base}; {_how_to_get([folder for folder, _ in layouts])}set "
        f"data.root (--data-root of evaluate and explain) or ${ROOT_VARIABLE} to the folder above "
        "it (see data/README.md)"
    )


def _how_to_get(folders: Sequence[str]) -> str:
    for entry in CATALOG.values():
        command = f"ea-pointcloud data download {entry.name}"
        if entry.folder in folders:
            return f"run '{command}', or "
        if entry.prepared in folders:
            return f"run '{command}' and 'ea-pointcloud data prepare {entry.name}', or "
    return "put the data set there, or "


def remedy(path: Path, own: str = "correct that file") -> str:
    """What to do about a wrong file: one of a published set can be downloaded or made again.

    Args:
        path: the file.
        own: what to do about one of anything else.
    """
    for folder in path.absolute().parents:
        entry = entry_of_folder(folder.name)
        if entry is not None:
            step = "download" if folder.name == entry.folder else "prepare"
            return f"repair it, or get the set again (ea-pointcloud data {step} {entry.name})"
    return own


def read_lines(path: Path) -> list[str]:
    """The lines of a list that are not empty."""
    return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        ValueError: if it is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}); {remedy(path)}") from error


def plain_name(name: str, source: Path) -> str:
    """``name``, which ``source`` lists, if it stays in the folder of that file.

    Raises:
        ValueError: if it leads out of it.
    """
    path = Path(name)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(
            f"{source} lists {name[:80]!r}, which is not a path inside its folder; {remedy(source)}"
        )
    return name


def check_listed(path: Path) -> None:
    """Raise unless a file that a list names is there."""
    if not path.is_file():
        raise FileNotFoundError(
            f"no {path}, which its list names; {remedy(path, 'add it, or take it off the list')}"
        )


def no_list(path: Path, split: str, of: str) -> FileNotFoundError:
    """The error of a list of files that is missing."""
    own = f"name {of} of the {split} split there, one on each line"
    own += ", or measure on --split val" if split == "test" else ""
    return FileNotFoundError(f"no {path}; {remedy(path, own)}")


def not_finite(path: Path, what: str = "coordinates") -> ValueError:
    """The error of numbers that are NaN or infinite."""
    own = "take such points out and write it again"
    return ValueError(f"{path} holds {what} that are not finite; {remedy(path, own)}")


def counted_from(labels: np.ndarray, what: str, count: int) -> str:
    """What is wrong with labels of which some are not in 0..count - 1."""
    from_one = labels.min() == 1 and labels.max() == count
    hint = ", these from 1: subtract 1 from each" if from_one else ""
    return f"labels count {what} from 0{hint}"


def read_rows(path: Path, widths: tuple[int, ...]) -> np.ndarray:
    """(N, width) float32, as many columns as the first row has."""
    check_listed(path)
    try:
        text = path.read_text(encoding="ascii")
        values = np.array(text.split(), dtype=np.float32)
    except ValueError as error:
        raise ValueError(f"{path} must hold numbers ({error}); {remedy(path)}") from error
    width = len(text.partition("\n")[0].split())
    if width not in widths or values.size % width:
        raise ValueError(
            f"{path} must hold rows of {' or '.join(map(str, widths))} numbers, got {width} in the "
            f"first row and {values.size} in all; {remedy(path)}"
        )
    if not np.isfinite(values).all():
        raise not_finite(path, "numbers")
    return values.reshape(-1, width)


def last_column(path: Path, rows: np.ndarray) -> np.ndarray:
    """(N,) int64, the last column."""
    column = rows[:, -1]
    whole = column.astype(np.int64)
    if (whole != column).any():
        raise ValueError(
            f"{path} must have whole numbers as part labels in its last column, "
            f"got {column[whole != column][0]}; {remedy(path)}"
        )
    return whole


@contextmanager
def open_h5(path: Path, *keys: str) -> Iterator[list[Any]]:
    """The data sets ``keys`` of an HDF5 file that a list names, open for the block.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read.
    """
    import h5py

    check_listed(path)
    try:
        with h5py.File(path, "r") as file:
            found: list[Any] = [file[key] for key in keys]
            # Links and datasets may refer to any file that this process may read.
            away = [key for key, each in zip(keys, found, strict=True)
                    if not isinstance(each, h5py.Dataset) or each.is_virtual or each.external
                    or each.file.filename != file.filename]  # fmt: skip
            if away:
                raise KeyError(f"{away[0]} is in another file")
            yield found
    except (OSError, KeyError) as error:
        quoted = [repr(key) for key in keys]
        wanted = " and ".join(filter(None, [", ".join(quoted[:-1]), quoted[-1]]))
        raise ValueError(
            f"{path} cannot be read as HDF5 with {wanted} ({error}); "
            f"{remedy(path, 'write it again')}"
        ) from error


def read_h5(path: Path, *keys: str) -> list[np.ndarray]:
    """The arrays ``keys`` of an HDF5 file, see :func:`open_h5`."""
    with open_h5(path, *keys) as found:
        return [np.asarray(each) for each in found]


# Name of a feature -> those that published files and other programs give its data set.
_CHANNEL_KEYS = {
    "normals": ("normals", "normal"),
    "colors": ("colors", "color", "rgb"),
}


def read_h5_channels(
    path: Path, features: Sequence[str], rows: Any, shape: Sequence[int]
) -> np.ndarray:
    """Channels (n, N, F) float32 of the points of an HDF5 file.

    Args:
        path: the file.
        features: their names; colours come as 0..1, see ``Cloud.colors``.
        rows: what to read of each data set.
        shape: of the coordinates, (clouds, points, 3).

    Raises:
        ValueError: if the file lacks one, or it has another shape or values that are not finite.
    """
    import h5py

    found = []
    for name in features:
        with h5py.File(path, "r") as file:
            keys = list(file)
        key = next((key for key in _CHANNEL_KEYS.get(name, (name,)) if key in keys), None)
        if key is None:
            raise ValueError(
                f"{path} has no {name} (data.features), only {', '.join(sorted(keys))}; add a data "
                f"set {_CHANNEL_KEYS.get(name, (name,))[0]!r}, or leave it out"
            )
        with open_h5(path, key) as (stored,):
            width = channel_width(name)
            flat = tuple(stored.shape) == tuple(shape[:2]) and width == 1
            if not flat and tuple(stored.shape) != (*shape[:2], width):
                raise ValueError(
                    f"{path} must hold {key} {(*shape[:2], width)} beside its coordinates, got "
                    f"{tuple(stored.shape)}"
                )
            values = np.asarray(stored[rows])
        if name == "colors" and values.size:
            values = unit_colors(path, values)
        if not np.isfinite(values).all():
            raise not_finite(path, name)
        found.append(values.astype(np.float32).reshape(*values.shape[:2], width))
    return np.concatenate(found, axis=-1)


def bad_files(folder: Path, bad: Mapping[str, str], what: str) -> str:
    """A message with the first of the files that cannot be read.

    Args:
        folder: that holds them.
        bad: path -> reason.
        what: follows their number, like "of 30 files cannot be read".
    """
    lines = [f"  {path}: {reason}" for path, reason in sorted(bad.items())[:_SHOWN]]
    if len(bad) > _SHOWN:
        lines.append(f"  and {len(bad) - _SHOWN} more")
    return "\n".join([f"{folder}: {len(bad)} {what}:", *lines])


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
    """Keep other processes out of the block; where one is in it, warn with ``busy`` and wait."""
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
