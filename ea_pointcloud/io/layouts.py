"""What the columns of a table without names mean, by their number and values."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ea_pointcloud.io.columns import points_from_columns
from ea_pointcloud.io.common import CloudFileError, Points, suffix_of
from ea_pointcloud.io.values import UNIT_TOLERANCE, color_scale

MOST_UNNAMED = 16
SMALL_LABEL = 64  # a column behind colours is a label below it, and blue above
WIDTHS = {"n": 3, "c": 3, "a": 1, "i": 1, "l": 1, ".": 1}
LAYOUTS = {  # of the columns beyond xyz, the first that fits
    1: ("i",),
    2: ("i.",),
    3: ("n", "c"),
    4: ("nl", "n.", "ca", "cl", "ic", "ci"),
    5: ("cal", "icl", "ica"),
    6: ("nc", "cn"),
    7: ("ncl", "cnl", "can", "nca", "inc", "icn", "nci", "cni"),
    8: ("canl", "ncal", "incl", "icnl"),
}
LEADS = {".xyzn": "n", ".xyzrgb": "c"}  # what a suffix promises of the first columns ...
LAYOUTS_OF_PTS = {**LAYOUTS, 3: ("c", "n"), 4: ("ic",)}  # ... and of their number
ROLES = {"n": ("nx", "ny", "nz"), "c": ("r", "g", "b"), "a": ("alpha",), "i": ("intensity",)}
ROLES |= {"l": ("label",)}
OBVIOUS = ("n", "c", "nc", "cn", "nl")  # layouts that need no mention


def points_from_table(
    path: Path, table: np.ndarray, roles: Sequence[str] | None = None, *, is_array: bool = False
) -> Points:
    """Read a table without names; ``roles`` or else :func:`guess_roles` says what its columns are.

    Args:
        path: the file, for the message and its suffix.
        table: (N, C) numbers.
        roles: see :func:`~ea_pointcloud.io.columns.assign_roles`.
        is_array: it is an array of a binary format, whose axes are easily exchanged.

    Raises:
        CloudFileError: if it is no cloud.
    """
    width = table.shape[1]
    names = [f"column_{number}" for number in range(1, width + 1)]
    if roles is not None:
        return points_from_columns(path, dict(zip(names, table.T, strict=True)), roles)
    layout = guess_roles(path, table, is_array=is_array)
    if not layout:  # nearly all files
        return Points(table[:, :3])
    found = ["x", "y", "z"]
    for letter in layout:
        found += ROLES.get(letter, (names[len(found)],))
    notes = ()
    if layout not in OBVIOUS:
        notes = (f"{width} columns without names are taken as {' '.join(found)}; change that "
                 "with --columns (columns= in Python)",)  # fmt: skip
    return points_from_columns(path, dict(zip(found, table.T, strict=True)), notes=notes)


def guess_roles(path: Path, table: np.ndarray, *, is_array: bool = False) -> str:
    """Decide what the columns of a table without names are, from their number and values.

    ``LAYOUTS`` lists for each number of columns beyond xyz what is tried in this order: n normals,
    c red green blue, a alpha, i intensity, l label, ``.`` an extra. Normals have unit length in
    nine of ten rows, or are the only three columns beyond xyz and have a negative value. Colours
    are within 0..1, 0..255 or, if whole, 0..65535, and all whole or all fractions. Alpha is the
    same in all rows and at least a quarter. A label is whole, and below 64 behind colours. Where no
    layout fits, one of fewer columns is tried; the others become extras.

    Args:
        path: the file, for the message and its suffix.
        table: (N, C) numbers.
        is_array: a table of three rows counts as transposed.

    Returns:
        The letters of the columns beyond xyz.

    Raises:
        CloudFileError: if it has too few columns, or looks transposed or like features.
    """
    rows, width = table.shape
    suffix = suffix_of(path)
    required = 6 if suffix in (".xyzn", ".xyzrgb") else 3
    if width < required:
        raise CloudFileError(
            f"{path.name}: has {width} columns, {suffix or 'a cloud'} needs at least {required}; "
            "write one point per line"
        )
    if width == 3 or rows == 0:
        return ""
    many = f"has {rows} rows of {width} unnamed columns"
    transposed = CloudFileError(
        f"{path.name}: {many}, as if transposed; save one row for each point (array.T), or name "
        "the columns with --columns x,y,z,... (columns= in Python)"
    )
    if is_array and rows == 3 and width <= MOST_UNNAMED:
        raise transposed
    if width > MOST_UNNAMED:
        raise CloudFileError(
            f"{path.name}: {many}, more than a cloud has; if it is transposed, save one row for "
            "each point (array.T), else say which are coordinates with --columns (columns= in "
            "Python)"
        )
    rest = table[:, 3:]
    layout = next(_fitting(suffix, rest), "." * (width - 3))
    colors_of_points = rest.max() >= SMALL_LABEL or rest.max() <= 1
    sure = layout in ("i", "n") or ("." not in layout and colors_of_points)
    if rows == 3 and not (sure or "n" in layout):
        raise transposed
    return layout


def _fitting(suffix: str, rest: np.ndarray) -> Iterator[str]:
    """The layouts that fit, those of all columns first; shorter ones guess no intensity alone."""
    lead, width = LEADS.get(suffix, ""), rest.shape[1]
    layouts = LAYOUTS_OF_PTS if suffix == ".pts" else LAYOUTS
    shorter = [each for used in range(width - 1, 2, -1) for each in layouts.get(used, ())]
    for layout in (
        *layouts.get(width, ()),
        *(each for each in shorter if "i" not in each),
        *(each for each in shorter if each.startswith("ic")),
    ):
        if layout.startswith(lead) and _fits(layout, rest, lead):
            used = sum(WIDTHS[letter] for letter in layout)
            yield layout + "." * (width - used)
    if width == 3 and len(rest) != 3 and (rest < 0).any():
        yield "n"


def _fits(layout: str, rest: np.ndarray, lead: str) -> bool:
    at, scale = 0, 0
    for letter in layout:
        columns = rest[:, at : at + WIDTHS[letter]]
        promised = at == 0 and letter == lead
        at += WIDTHS[letter]
        if letter == "n" and not (promised or _is_unit(columns)):
            return False
        if letter == "c":
            scale = color_scale(columns)
            if not (promised or _is_color(columns)):
                return False
            if layout.startswith("ic") and scale == 1 and _is_color(rest[:, :3]):
                return False  # fractions: colours stand in front
        if letter == "a" and not _is_alpha(columns, scale):
            return False
        if letter == "l" and not _is_label(columns, SMALL_LABEL if "c" in layout else 2**53):
            return False
    return True


def _is_alpha(column: np.ndarray, scale: int) -> bool:
    opaque = SMALL_LABEL if scale == 255 else scale
    return bool((column == column[0]).all() and opaque <= column[0] <= scale)


def _is_unit(vectors: np.ndarray) -> bool:
    """Whether nearly all vectors have unit length, but for the missing: 0,0,0 or 1,1,1."""
    length = np.linalg.norm(vectors, axis=1)
    length = length[length > 0]
    if (vectors < 0).any():  # a white point among colours is no missing normal
        length = length[np.abs(length - 3**0.5) > 1e-6]
    return bool(len(length) and (np.abs(length - 1) < UNIT_TOLERANCE).mean() >= 0.9)


def _is_color(columns: np.ndarray) -> bool:
    low, high = columns.min(), columns.max()
    if not (low >= 0 and high <= 65535):
        return False
    if high <= 1:
        return True
    whole = (columns == np.round(columns)).all(0)
    return bool(whole.all() or (high <= 255 and not whole.any()))


def _is_label(column: np.ndarray, end: int) -> bool:
    return bool((column == np.round(column)).all() and column.min() >= -1 and column.max() < end)
