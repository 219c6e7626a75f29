"""Clouds kept as named arrays of numbers: npy and npz, and what HDF5 shares with them."""

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from tokenize import TokenError
from typing import Protocol

import numpy as np

from ea_pointcloud.io.common import CloudFileError, Points
from ea_pointcloud.io.tables import points_from_width

NAMES = {
    "xyz": ("xyz", "points", "pos", "data", "coords", "coordinates", "positions"),
    "normals": ("normals", "normal"),
    "colors": ("colors", "color", "rgb"),
    "labels": ("labels", "label", "part_label", "seg", "pid", "classification"),
    "confidence": ("confidence",),
}
PER_POINT = {"normals": (3,), "colors": (3,), "labels": (), "confidence": ()}

# What numpy raises for damaged headers, archives and compressed arrays.
UNREADABLE = (
    *(ValueError, TypeError, AttributeError, OverflowError, EOFError, OSError),
    *(SyntaxError, TokenError, NotImplementedError, zipfile.BadZipFile, zlib.error),
)


class Stored(Protocol):
    """An array, or something on disk that is read by indexing it."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole."""
        ...

    @property
    def dtype(self) -> np.dtype:
        """Of the values."""
        ...

    def __getitem__(self, index: tuple[()] | int, /) -> np.ndarray: ...


def points_from_arrays(path: Path, arrays: Mapping[str, Stored], index: int | None) -> Points:
    """Pick one cloud out of named arrays; nothing but its parts is read.

    Args:
        path: the file, for the message.
        arrays: ``xyz`` (N, >= 3), the columns beyond xyz as in a text file, and normals (N, 3),
            colors (N, 3), labels (N,) and confidence (N,) under one of their ``NAMES``; or all of
            them with an axis of B clouds before. A label for each cloud is left out.
        index: which of the B clouds; None where there is one.

    Raises:
        CloudFileError: if there are no coordinates, a shape disagrees or ``index`` names no cloud.
    """
    key = next((name for name in NAMES["xyz"] if name in arrays), None)
    if key is None:
        raise CloudFileError(
            f"{path.name}: has no array {', '.join(NAMES['xyz'])}, only {', '.join(arrays)}; "
            "save the coordinates as xyz"
        )
    xyz = arrays[key]
    if len(xyz.shape) not in (2, 3) or xyz.shape[-1] < 3 or xyz.dtype.kind not in "fiu":
        raise CloudFileError(
            f"{path.name}: {key} must hold numbers of shape (N, >=3), one row a point, or "
            f"(B, N, >=3), got {xyz.dtype} of shape {xyz.shape}; save one row a point"
        )
    which = _which(path, xyz.shape[:-2], index)
    points = points_from_width(path, xyz[which].astype(np.float64))
    for part, columns in PER_POINT.items():
        values = _per_point(path, arrays, part, (*xyz.shape[:-1], *columns), which)
        if values is not None:
            points = points._replace(**{part: values})
    return points


def _which(path: Path, clouds: tuple[int, ...], index: int | None) -> tuple[()] | int:
    """The place of the wanted cloud, or () where the file is one cloud."""
    if not clouds:
        if index is not None:
            raise CloudFileError(f"{path.name}: holds one cloud; leave out #{index}")
        return ()
    (count,) = clouds
    if count == 1 and index is None:
        return 0
    if index is None or index >= count:
        fault = "" if index is None else f" and none is #{index}"
        raise CloudFileError(
            f"{path.name}: holds {count} clouds{fault}; "
            f"name one of them, {path.name}#0 to {path.name}#{count - 1}"
        )
    return index


def _per_point(
    path: Path,
    arrays: Mapping[str, Stored],
    part: str,
    shape: tuple[int, ...],
    which: tuple[()] | int,
) -> np.ndarray | None:
    lead = shape[: len(shape) - len(PER_POINT[part])]
    for name in NAMES[part]:
        if name not in arrays:
            continue
        array = arrays[name]
        if array.dtype.kind in "fiu":
            if array.shape == shape:
                return array[which]
            if part in ("labels", "confidence"):
                if array.shape == (*shape, 1):
                    return array[which][:, 0]
                if array.shape in (lead[:-1], (*lead[:-1], 1), (*lead[:-1], 1, 1)):
                    continue  # one for the whole cloud
        raise CloudFileError(
            f"{path.name}: {name} must hold numbers of shape {shape} beside {lead[-1]} points, "
            f"got {array.dtype} of shape {array.shape}; save one row for each point"
        )
    return None


def read_npy(path: Path, index: int | None) -> Points:
    """Read an (N, >= 3) array; the columns mean what they mean in a text file.

    Of a (B, N, >= 3) array, ``index`` says which cloud.
    """
    try:
        # Mapped, because the size of the file is then checked before memory is taken.
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except UNREADABLE as error:
        raise _not_plain(path, error) from error
    return points_from_arrays(path, {"xyz": array}, index)


def read_npz(path: Path, index: int | None) -> Points:
    """Read the arrays of :func:`points_from_arrays` from an npz file."""
    known = {name for names in NAMES.values() for name in names}
    try:
        # Opened here: numpy leaves a damaged archive open when it raises.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive if name in known}
            others = [name for name in archive if name not in known]
    except UNREADABLE as error:
        raise _not_plain(path, error) from error
    for name, array in arrays.items():
        if isinstance(array, bytes):  # what numpy makes of a member that it does not know
            raise _not_plain(path, ValueError(f"{name} is not an array"))
    if not arrays:
        raise CloudFileError(
            f"{path.name}: has no array {', '.join(NAMES['xyz'])}, only {', '.join(others)}; "
            "save the coordinates as xyz"
        )
    return points_from_arrays(path, arrays, index)


def _not_plain(path: Path, error: Exception) -> CloudFileError:
    if "pickle" in str(error) or "Python objects" in str(error):
        return CloudFileError(
            f"{path.name}: holds Python objects, which can run code when loaded and are never "
            "read; save plain number arrays"
        )
    return CloudFileError(f"{path.name}: damaged or not a numpy file ({error}); copy it again")
