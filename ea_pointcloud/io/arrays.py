"""Clouds kept as named arrays of numbers: npy and npz, and what HDF5 shares with them."""

import math
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import IO, Protocol

import numpy as np
from numpy.lib import format as npy

from ea_pointcloud.io.columns import points_from_columns
from ea_pointcloud.io.common import (
    DAMAGED,
    UNZIPPED_PER_BYTE,
    CloudFileError,
    Meaning,
    Options,
    Points,
    escaped,
    listing,
)
from ea_pointcloud.io.layouts import points_from_table

NAMES = {
    "xyz": (
        *("xyz", "points", "pos", "data", "coords", "coordinates", "positions", "coord"),
        *("position", "point", "pointcloud", "point_cloud", "pc", "pts"),
    ),
    "normals": ("normals", "normal"),
    "colors": ("colors", "color", "rgb", "colour", "colours"),
    "labels": (
        *("labels", "label", "part_label", "part_labels", "seg", "pid", "classification"),
        *("semantic", "semantic_label", "segment"),
    ),
    "confidence": ("confidence",),
    "intensity": ("intensity", "intensities", "reflectance", "remission"),
}
MEANING = ("label_ids", "label_names", "up")  # of an npz file of ours
FITS = (("i", "U"), ("u", "U"))
UNPACKED = 2**28  # bytes that a small archive may hold
PER_POINT = {"normals": (3,), "colors": (3,), "labels": (), "confidence": (), "intensity": ()}

# What numpy raises for damaged headers, archives and compressed arrays.
UNREADABLE = (
    *(ValueError, TypeError, AttributeError, OverflowError, EOFError, OSError, KeyError),
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


def points_from_arrays(path: Path, arrays: Mapping[str, Stored], options: Options) -> Points:
    """Pick one cloud out of named arrays; nothing but its parts is read.

    Args:
        path: the file, for the message.
        arrays: ``xyz`` (N, >= 3), the columns beyond xyz as in a text file, or x, y and z (N,),
            and normals (N, 3), colors (N, 3), labels, confidence and intensity (N,) under one of
            their ``NAMES``, with others of shape (N,) as extras; or all of them with an axis of B
            clouds before. A label for each cloud is left out.
        options: which of the B clouds, None where there is one; roles of the columns of ``xyz``.

    Raises:
        CloudFileError: if there are no coordinates, a shape disagrees or no such cloud is there.
    """
    known = {name.lower(): name for name in list(arrays)[::-1]}
    key = next((known[name] for name in NAMES["xyz"] if name in known), None)
    if key is None and len(arrays) == 1:  # numpy's name for what has none, or a table
        key = next((name for name in arrays if name == "arr_0" or arrays[name].dtype.names), None)
    if key is None:
        return _separate_columns(path, arrays, options)
    xyz = arrays[key]
    if xyz.dtype.names is not None and len(xyz.shape) == 1:
        return _structured(path, xyz[()], options)
    shape = xyz.shape
    if len(shape) not in (2, 3) or shape[-1] < 3 or xyz.dtype.kind not in "fiu":
        raise CloudFileError(
            f"{path.name}: {key} must hold numbers of shape (N, >=3), one row a point, or "
            f"(B, N, >=3), got {xyz.dtype} of shape {shape}; save one row a point"
        )
    if len(shape) == 3 and shape[1] == 3 != shape[2] and options.columns is None:
        raise CloudFileError(
            f"{path.name}: {key} of shape {shape} looks transposed, channels first; save one row "
            "for each point (array.transpose(0, 2, 1))"
        )
    which = _which(path, shape[:-2], options.index)
    table = xyz[which]
    if table.dtype.kind != "f" or table.dtype.itemsize not in (4, 8):
        table = table.astype(np.float64)
    points = points_from_table(path, table, options.columns, is_array=True)
    used = {key.lower()}
    for part, columns in PER_POINT.items():
        used.update(NAMES[part])
        values = _per_point(path, arrays, known, part, (*shape[:-1], *columns), which)
        if values is not None:
            points = points._replace(**{part: values})
    extras = {
        name: array[which]
        for name, array in arrays.items()
        if name.lower() not in used and array.shape == shape[:-1] and array.dtype.kind in "biuf"
    }
    return points._replace(extras={**points.extras, **extras})


def _separate_columns(path: Path, arrays: Mapping[str, Stored], options: Options) -> Points:
    """A cloud whose coordinates are arrays of their own."""
    flat = {name: array for name, array in arrays.items() if len(array.shape) in (1, 2)}
    flat = {
        name: array
        for name, array in flat.items()
        if array.dtype.kind in "biuf" and math.prod(array.shape) == max(array.shape, default=0) > 0
    }
    axes = [math.prod(flat[name].shape) for name in flat if name.lower() in ("x", "y", "z")]
    if not flat or (options.columns is None and (len(axes) != 3 or len(set(axes)) > 1)):
        shapes = listing((f"{name} {array.shape}" for name, array in arrays.items()), 6)
        raise CloudFileError(
            f"{path.name}: has no array {', '.join(NAMES['xyz'][:7])}, and no three x, y and z "
            f"of one length, only {shapes or 'none'}; save the coordinates as xyz"
        )
    count = axes[0] if axes else max(math.prod(array.shape) for array in flat.values())
    if options.index is not None:
        raise _one_cloud(path, options.index)
    same = {name: array for name, array in flat.items() if math.prod(array.shape) == count}
    columns = {name: array[()].reshape(-1) for name, array in same.items()}
    return points_from_columns(path, columns, options.columns)


def _structured(path: Path, rows: np.ndarray, options: Options) -> Points:
    """A cloud whose rows have fields; fields of several numbers are parts or several columns."""
    fields = {name: rows[name] for name in rows.dtype.names or ()}
    if any(values.ndim > 1 and name.lower() in NAMES["xyz"] for name, values in fields.items()):
        return points_from_arrays(path, fields, options)
    if options.index is not None:
        raise _one_cloud(path, options.index)
    columns = {name: values for name, values in fields.items() if values.ndim == 1}
    for name, values in fields.items():
        if values.ndim == 2:
            columns |= {f"{name}_{number}": row for number, row in enumerate(values.T)}
    columns = {name: values for name, values in columns.items() if values.dtype.kind in "biuf"}
    return points_from_columns(path, columns, options.columns)


def _one_cloud(path: Path, index: int) -> CloudFileError:
    return CloudFileError(f"{path.name}: holds one cloud; leave out #{index}")


def _which(path: Path, clouds: tuple[int, ...], index: int | None) -> tuple[()] | int:
    """The place of the wanted cloud, or () where the file is one cloud."""
    if not clouds:
        if index is not None:
            raise _one_cloud(path, index)
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
    known: Mapping[str, str],
    part: str,
    shape: tuple[int, ...],
    which: tuple[()] | int,
) -> np.ndarray | None:
    lead = shape[: len(shape) - len(PER_POINT[part])]
    for name in (known[name] for name in NAMES[part] if name in known):
        array = arrays[name]
        if array.dtype.kind in "fiu":
            if array.shape == shape:
                return array[which]
            if part == "colors" and array.shape == (*lead, 4):  # with alpha
                return array[which][:, :3]
            if not PER_POINT[part]:
                if array.shape == (*shape, 1):
                    return array[which][:, 0]
                if array.shape in (lead[:-1], (*lead[:-1], 1), (*lead[:-1], 1, 1)):
                    continue  # one for the whole cloud
        raise CloudFileError(
            f"{path.name}: {name} must hold numbers of shape {shape} beside {lead[-1]} points, "
            f"got {array.dtype} of shape {array.shape}; save one row for each point"
        )
    return None


@dataclass(frozen=True)
class _Array:
    """An array of an npy file or of a member of an archive, read when it is indexed."""

    open: Callable[[], IO[bytes]]
    shape: tuple[int, ...]
    dtype: np.dtype
    is_fortran: bool
    start: int  # of the values, in bytes

    def __getitem__(self, index: tuple[()] | int, /) -> np.ndarray:
        shape, start = self.shape, self.start
        if isinstance(index, int) and not self.is_fortran:  # only this cloud is read
            shape = shape[1:]
            start += index * math.prod(shape) * self.dtype.itemsize
        size = math.prod(shape) * self.dtype.itemsize
        with self.open() as file:
            file.seek(start)
            content = file.read(size)
        if len(content) < size:
            raise EOFError(f"it ends after {len(content)} of {size} bytes")
        values = np.frombuffer(content, self.dtype)
        values = values.reshape(shape, order="F" if self.is_fortran else "C")
        return values if shape != self.shape else values[index]


def _array(open_file: Callable[[], IO[bytes]], size: int) -> _Array:
    """Read the header of an array and compare what it declares with the ``size`` of its file."""
    with open_file() as file:
        version = npy.read_magic(file)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, is_fortran, dtype = read(file)
        start = file.tell()
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    needed = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or start + needed > size:
        raise ValueError(f"its header promises {needed} bytes, it holds {size - start}")
    return _Array(open_file, shape, dtype, is_fortran, start)


def read_npy(path: Path, options: Options) -> Points:
    """Read an (N, >= 3) array, or a structured one; columns mean what they mean in a text file.

    Of a (B, N, >= 3) array, ``index`` says which cloud.
    """
    try:
        array = _array(lambda: path.open("rb"), path.stat().st_size)
        return points_from_arrays(path, {"xyz": array}, options)
    except CloudFileError:
        raise
    except UNREADABLE as error:
        raise _not_plain(path, error) from error


def read_npz(path: Path, options: Options) -> Points:
    """Read the arrays of :func:`points_from_arrays` from an npz file."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            held = sum(member.file_size for member in members)
            if held > UNPACKED + UNZIPPED_PER_BYTE * path.stat().st_size:
                raise CloudFileError(
                    f"{path.name}: unpacks to {held:,} bytes, too many for its size; save the "
                    "cloud alone with np.savez"
                )
            arrays = {
                member.filename.removesuffix(".npy"): _array(
                    lambda member=member: archive.open(member), member.file_size
                )
                for member in members
            }
            meaning = _meaning({name: arrays.pop(name) for name in MEANING if name in arrays})
            return points_from_arrays(path, arrays, options)._replace(**meaning._asdict())
    except CloudFileError:
        raise
    except (*UNREADABLE, RuntimeError) as error:
        raise _not_plain(path, error) from error


def _meaning(arrays: Mapping[str, Stored]) -> Meaning:
    """What our own files say of their labels and axes; nothing where it does not fit."""
    ids, names, up = (arrays[name][()] if name in arrays else np.array([]) for name in MEANING)
    fit = ids.shape == names.shape and ids.ndim == 1 and (ids.dtype.kind, names.dtype.kind) in FITS
    table = dict(zip(ids.tolist(), names.tolist(), strict=True)) if fit else {}
    return Meaning(table, str(up) if str(up) in ("x", "y", "z") else None)


def _not_plain(path: Path, error: Exception) -> CloudFileError:
    if "pickle" in str(error) or "Python objects" in str(error):
        return CloudFileError(
            f"{path.name}: holds Python objects, which can run code when loaded and are never "
            "read; save plain number arrays"
        )
    reason = escaped(str(error))[:100] or "it ends early"
    return CloudFileError(f"{path.name}: damaged or not a numpy file ({reason}); {DAMAGED}")
