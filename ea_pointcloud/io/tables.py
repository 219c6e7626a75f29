"""Clouds kept as a table of numbers: text files of any separator."""

from pathlib import Path

import numpy as np

from ea_pointcloud.io.common import (
    CloudFileError,
    Lines,
    Points,
    number_lines,
    parse_rows,
    plain_name,
    points_from_columns,
    truncated,
    whole_number,
)

COMMENTS = ("#", "//")
UNIT_TOLERANCE = 0.01  # how far from 1 a normal's length may be and still mark normals


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
    if path.suffix.lower() == ".pts" and lines:
        promised = whole_number(lines[0][1].strip())
        if promised is not None:
            lines = lines[1:]
            if promised != len(lines):
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
    6             xyz normal where columns 3:6 have unit length, but for 0,0,0 and, with
                  negative values elsewhere, 1,1,1, which becomes 0,0,0; else xyz rgb
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
    vectors = rest[:, :3]
    missing = _missing_normals(vectors)
    if _unit_length(vectors[~missing]):
        return Points(xyz, normals=np.where(missing[:, None], 0, vectors), labels=labels)
    return Points(xyz, colors=rest[:, :3], labels=labels)


def _whole(values: np.ndarray) -> bool:
    return bool(np.isfinite(values).all() and (values == np.round(values)).all())


def _missing_normals(vectors: np.ndarray) -> np.ndarray:
    """(N,) rows 1,1,1, which stand for a missing normal in files of ModelNet40; of colours none."""
    return (vectors == 1).all(1) & (vectors < 0).any()


def _unit_length(vectors: np.ndarray) -> bool:
    """True where all vectors have unit length but for some of length 0, as isolated points get."""
    length = np.linalg.norm(vectors, axis=1)
    length = length[length > 0]
    return bool(len(length) and (np.abs(length - 1) < UNIT_TOLERANCE).all())
