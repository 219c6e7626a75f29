"""Clouds kept as a table of numbers: text files of any separator, npy and npz."""

import zipfile
from pathlib import Path

import numpy as np

from ea_pointcloud._formats.common import (
    CloudFileError,
    Lines,
    Points,
    number_lines,
    parse_rows,
    plain_name,
    points_from_columns,
    truncated,
)

COMMENTS = ("#", "//")
UNIT_TOLERANCE = 0.01  # how far from 1 a normal's length may be and still mark normals
NPZ_KEYS = {
    "xyz": ("xyz", "points", "pos", "data"),
    "normals": ("normals", "normal"),
    "colors": ("colors", "color", "rgb"),
    "labels": ("labels", "label"),
    "confidence": ("confidence",),
}


def read_text(path: Path) -> Points:
    """Read a table of numbers; the separator and a header line are recognised.

    Lines that start with ``#`` or ``//`` are comments, except a first one that names x, y and z.
    A decimal comma is understood where the separator is a semicolon.
    """
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    lines = number_lines(text)
    names = _column_names(lines[0][1]) if lines else None
    is_comment = bool(lines) and lines[0][1].lstrip().startswith(COMMENTS)
    if names and not is_comment:
        lines = lines[1:]
    lines = [(number, line) for number, line in lines if not line.lstrip().startswith(COMMENTS)]
    promised = None
    if path.suffix.lower() == ".pts" and lines and lines[0][1].strip().isdecimal():
        promised = int(lines[0][1])
        lines = lines[1:]
    if promised is not None and promised != len(lines):
        raise truncated(path, "points", promised, len(lines))
    if not lines:
        raise CloudFileError(f"{path.name}: holds no points; copy or export it again")

    delimiter = _delimiter(lines[0][1])
    if delimiter == ";":
        lines = [(number, line.replace(",", ".")) for number, line in lines]
    table = parse_rows(path, _without_last_delimiter(lines, delimiter), delimiter=delimiter)
    # A comment such as "x y z in metres" is no header.
    if names is None or (is_comment and len(names) != table.shape[1]):
        return points_from_width(path, table)
    if len(names) != table.shape[1]:
        raise CloudFileError(
            f"{path.name}: the header names {len(names)} columns ({' '.join(names)}), "
            f"line {lines[0][0]} has {table.shape[1]}; make them agree"
        )
    return points_from_columns(path, dict(zip(names, table.T, strict=True)))


def _delimiter(line: str) -> str | None:
    return next((sign for sign in ";," if sign in line), None)


def _without_last_delimiter(lines: Lines, delimiter: str | None) -> Lines:
    """Drop the separator that some exporters put at the end of each line."""
    if delimiter is None or not lines[0][1].rstrip().endswith(delimiter):
        return lines
    return [(number, line.rstrip().removesuffix(delimiter)) for number, line in lines]


def _column_names(line: str) -> list[str] | None:
    """The names of a header line; None where it names no x, y and z."""
    line = line.strip().lstrip("#/ ")
    delimiter = _delimiter(line)
    names = [plain_name(name) for name in line.rstrip(delimiter).split(delimiter)]
    return names if {"x", "y", "z"} <= set(names) else None


def points_from_width(path: Path, table: np.ndarray) -> Points:
    """Guess the meaning of columns without names from their number.

    ============  ===========================================================================
    columns       meaning
    ============  ===========================================================================
    3             xyz
    4             xyz label; a fourth column that is not of whole numbers is left out
    6             xyz normal where rows 3:6 have unit length, else xyz rgb
    7             as 6, and a label; a seventh that is not of whole numbers is left out
    otherwise     xyz; the rest is left out
    ============  ===========================================================================

    The suffix decides where it says more: ``.xyzn`` and ``.xyzrgb`` have 6 columns of that
    meaning, ``.pts`` is xyz, xyz intensity, xyz rgb, or xyz intensity rgb.
    """
    width = table.shape[1]
    suffix = path.suffix.lower()
    required = 6 if suffix in (".xyzn", ".xyzrgb") else 3
    if width < required:
        raise CloudFileError(
            f"{path.name}: has {width} columns, {suffix} needs at least {required}; "
            "write one point per line"
        )
    xyz, rest = table[:, :3], table[:, 3:]
    if suffix == ".xyzn":
        return Points(xyz, normals=rest[:, :3])
    if suffix == ".xyzrgb":
        return Points(xyz, colors=rest[:, :3])
    if suffix == ".pts":
        return Points(xyz, colors=rest[:, -3:] if width in (6, 7) else None)
    if width not in (4, 6, 7):
        return Points(xyz)
    labels = rest[:, -1] if width != 6 and _whole(rest[:, -1]) else None
    if width == 4:
        return Points(xyz, labels=labels)
    if _unit_length(rest[:, :3]):
        return Points(xyz, normals=rest[:, :3], labels=labels)
    return Points(xyz, colors=rest[:, :3], labels=labels)


def _whole(values: np.ndarray) -> bool:
    return bool(np.isfinite(values).all() and (values == np.round(values)).all())


def _unit_length(vectors: np.ndarray) -> bool:
    """True where all vectors have unit length but for some of length 0, as isolated points get."""
    length = np.linalg.norm(vectors, axis=1)
    length = length[length > 0]
    return bool(len(length) and (np.abs(length - 1) < UNIT_TOLERANCE).all())


def read_npy(path: Path) -> Points:
    """Read an (N, >= 3) array; the columns mean what they mean in a text file."""
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise _not_plain(path, error) from error
    return points_from_width(path, _checked_table(path, "the array", array))


def read_npz(path: Path) -> Points:
    """Read xyz (or points, pos, data) and the normals, colors, labels, confidence there are."""
    try:
        # Opened here: numpy leaves a damaged archive open when it raises.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            stored = list(archive)
            found = {
                part: archive[key]
                for part, keys in NPZ_KEYS.items()
                if (key := next((key for key in keys if key in stored), None))
            }
    except (ValueError, EOFError, OSError, zipfile.BadZipFile, AttributeError) as error:
        raise _not_plain(path, error) from error
    if "xyz" not in found:
        raise CloudFileError(
            f"{path.name}: has no array {', '.join(NPZ_KEYS['xyz'])}, only {', '.join(stored)}; "
            "save the coordinates as xyz"
        )
    points = points_from_width(path, _checked_table(path, "the array of points", found["xyz"]))
    shapes = {"normals": (3,), "colors": (3,), "labels": (), "confidence": ()}
    for part, columns in shapes.items():
        array = found.get(part)
        if array is None:
            continue
        if array.dtype.kind not in "fiu" or array.ndim == 0 or array.shape[1:] != columns:
            raise CloudFileError(
                f"{path.name}: {part} must hold numbers of shape "
                f"{('N', *columns)}, got {array.dtype} of shape {array.shape}"
            )
        points = points._replace(**{part: array})
    return points


def _not_plain(path: Path, error: Exception) -> CloudFileError:
    if "pickle" in str(error):
        return CloudFileError(
            f"{path.name}: holds Python objects, which can run code when loaded and are never "
            "read; save plain number arrays"
        )
    return CloudFileError(f"{path.name}: damaged or not a numpy file ({error}); copy it again")


def _checked_table(path: Path, what: str, array: np.ndarray) -> np.ndarray:
    if array.ndim != 2 or array.shape[1] < 3 or array.dtype.kind not in "fiu":
        raise CloudFileError(
            f"{path.name}: {what} must hold numbers of shape (N, >=3), one row a point, "
            f"got {array.dtype} of shape {array.shape}; save one cloud a file"
        )
    return array.astype(np.float64)
