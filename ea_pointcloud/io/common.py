"""What the readers of all formats share: error, results, names of columns, rows, values."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np


class CloudFileError(ValueError):
    """A file that cannot be read as a cloud; the message names file, place and remedy."""


class Points(NamedTuple):
    """Points as the file has them: any numeric dtype, colours and labels not yet interpreted."""

    xyz: np.ndarray  # (N, 3)
    normals: np.ndarray | None = None  # (N, 3)
    colors: np.ndarray | None = None  # (N, 3), 0..1 or the range of an integer type
    labels: np.ndarray | None = None  # (N,), whole numbers of any dtype
    confidence: np.ndarray | None = None  # (N,)


PARTS = ("normals", "colors", "labels", "confidence")  # of a point, beside xyz
Columns = dict[str, np.ndarray]  # to write: xyz float64, and the PARTS there are, colors in 0..1


class Mesh(NamedTuple):
    """Triangles as the file has them; the indices are not yet checked."""

    vertices: np.ndarray  # (V, 3) float64
    faces: np.ndarray  # (F, 3) int64


NORMAL_NAMES = (
    ("nx", "ny", "nz"),
    ("normal_x", "normal_y", "normal_z"),
    ("normalx", "normaly", "normalz"),
)
COLOR_NAMES = (("red", "green", "blue"), ("r", "g", "b"))
LABEL_NAMES = ("label", "labels", "class", "classification", "part_label", "scalar")
CONFIDENCE_NAME = "confidence"


def plain_name(name: str) -> str:
    """Lower case, without the ``scalar_`` that CloudCompare puts before its fields."""
    return name.strip().strip('"').lower().removeprefix("scalar_")


def points_from_columns(path: Path, columns: dict[str, np.ndarray]) -> Points:
    """Pick coordinates, normals, colours, labels and confidence out of named (N,) columns.

    Args:
        path: the file, for the message.
        columns: (N,) each; unknown names are left out.

    Raises:
        CloudFileError: if x, y or z is missing.
    """
    known = {plain_name(name): values for name, values in columns.items()}
    missing = [axis for axis in "xyz" if axis not in known]
    if missing:
        raise CloudFileError(
            f"{path.name}: has no column {' '.join(missing)}, only {' '.join(columns)}; "
            "name the coordinates x y z"
        )

    def group(choices: Sequence[tuple[str, ...]]) -> np.ndarray | None:
        found = [names for names in choices if all(name in known for name in names)]
        return np.stack([known[name] for name in found[0]], 1) if found else None

    label = next((known[name] for name in LABEL_NAMES if name in known), None)
    xyz = np.stack([known[axis] for axis in "xyz"], 1)
    confidence = known.get(CONFIDENCE_NAME)
    return Points(xyz, group(NORMAL_NAMES), group(COLOR_NAMES), label, confidence)


def whole_number(text: str) -> int | None:
    """The count that ``text`` is; None where it is not, or has more digits than any file needs."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 19 else None


Lines = list[tuple[int, str]]  # (line number from 1, text)


def number_lines(text: str, first: int = 1) -> Lines:
    """Number the lines of ``text`` and drop the blank ones."""
    lines = enumerate(text.splitlines(), first)
    return [(number, line) for number, line in lines if line and not line.isspace()]


def parse_rows(
    path: Path,
    lines: Lines,
    *,
    delimiter: str | None = None,
    columns: Sequence[int] | None = None,
    kind: type[float] | type[int] = float,
) -> np.ndarray:
    """Turn lines of numbers into a table.

    Args:
        path: the file, for the message.
        lines: R >= 1 lines.
        delimiter: one character; any white space without it.
        columns: those wanted, when lines may have further ones; all lines need the same number
            of columns without it.
        kind: float, or int for whole numbers.

    Returns:
        (R, C) float64 or int64.

    Raises:
        CloudFileError: if a field is not such a number or a line has too few or too many columns.
    """
    try:
        table = np.loadtxt(
            [line for _, line in lines],
            dtype=np.float64 if kind is float else np.int64,
            delimiter=delimiter,
            usecols=columns,
            comments=None,
            ndmin=2,
        )
        if len(table) != len(lines):  # numpy passes over a line without fields
            raise ValueError("a line has no columns")
    except ValueError as error:
        # numpy counts rows, people look for lines: find the place again in the file's own terms.
        fault = _first_fault(path, lines, delimiter, columns, kind)
        raise fault or CloudFileError(f"{path.name}: {error}") from None
    return table


def _first_fault(
    path: Path,
    lines: Lines,
    delimiter: str | None,
    columns: Sequence[int] | None,
    kind: type[float] | type[int],
) -> CloudFileError | None:
    first_number, first_line = lines[0]
    width = max(columns) + 1 if columns else len(first_line.split(delimiter))
    for number, line in lines:
        fields = line.split(delimiter)
        if len(fields) < width or (len(fields) > width and not columns):
            expected = f"needs {width}" if columns else f"line {first_number} has {width}"
            return CloudFileError(
                f"{path.name}: line {number} has {len(fields)} columns, {expected}; "
                "correct or remove that line"
            )
        for field in fields[:width]:
            try:
                kind(field)
            except ValueError:
                return CloudFileError(
                    f"{path.name}: line {number}: {field.strip()[:20]!r} is not a "
                    f"{'number' if kind is float else 'whole number'}; "
                    "correct or remove that line"
                )
    return None


def truncated(path: Path, what: str, promised: int, held: int) -> CloudFileError:
    """The error of a header that disagrees with what follows it."""
    advice = "it is truncated, copy it again" if held < promised else "correct the count"
    return CloudFileError(
        f"{path.name}: the header promises {promised} {what}, the file holds {held}; {advice}"
    )


def unit_normals(normals: np.ndarray) -> np.ndarray:
    """(N, 3) float32 of unit length; a zero normal stays zero."""
    normals = normals.astype(np.float64)
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    return np.divide(normals, length, out=np.zeros_like(normals), where=length > 0).astype("f4")


def unit_colors(path: Path, colors: np.ndarray) -> np.ndarray:
    """Scale colours to 0..1; numbers without an integer type of their own are 0..1 or 0..255."""
    if colors.dtype in (np.uint8, np.uint16):
        return (colors / np.iinfo(colors.dtype).max).astype(np.float32)
    if not ((colors >= 0) & (colors <= 255)).all():
        raise CloudFileError(
            f"{path.name}: colours must be within 0..1 or 0..255, got "
            f"{colors.min():g}..{colors.max():g}; rescale them or leave the columns out"
        )
    return (colors / (255 if colors.max() > 1 else 1)).astype(np.float32)


def whole_labels(path: Path, labels: np.ndarray) -> np.ndarray:
    """(N,) int64, or an error for a label that is not a whole number."""
    whole = np.isfinite(labels) & (labels == np.round(labels))
    whole &= np.abs(labels.astype(np.float64)) < 2.0**63
    if not whole.all():
        raise CloudFileError(
            f"{path.name}: the label of point {int(whole.argmin())} is "
            f"{labels[whole.argmin()]:g}; labels must be whole numbers of 64 bits, "
            "rename the column if it means something else"
        )
    return labels.astype(np.int64)
