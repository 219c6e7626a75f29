"""Which column of a table means what: by its name, by the caller's word, or by its values."""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from ea_pointcloud.io.common import (
    UNIT_TOLERANCE,
    CloudFileError,
    Points,
    color_scale,
    listing,
    suffix_of,
)


def _triples(*patterns: str, of: str) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(pattern.format(letter) for letter in of) for pattern in patterns)


TRIPLES = {
    "xyz": _triples("{}", "pos_{}", "position_{}", "coord_{}", "{}_coord", "{}coord", of="xyz")
    + _triples("points:{}", "points_{}", of="012"),  # of ParaView
    "normals": _triples("n{}", "n_{}", "normal_{}", "normal{}", "normals_{}", of="xyz")
    + _triples("normals:{}", "normals_{}", of="012"),
    "colors": (
        ("red", "green", "blue"),
        *_triples("{}", "{}f", "color_{}", "colour_{}", "rgb_{}", "diffuse_{}", of="rgb"),
        *((f"{start}red", f"{start}green", f"{start}blue") for start in ("diffuse_", "color_")),
    ),
}
SINGLES = {
    "labels": (
        *("label", "labels", "class", "classification", "part_label", "part_labels", "class_id"),
        *("class_label", "sem_label", "semantic_label", "semantic", "semantics", "semantic_class"),
        *("label_id", "classid", "seg_label", "segmentation", "seg", "pid", "part", "part_id"),
    ),
    "intensity": ("intensity", "intensities", "reflectance", "reflectivity", "remission", "i"),
    "confidence": ("confidence",),
}
PACKED_COLORS = ("rgb", "rgba")  # 0xAARRGGBB in 4 bytes, whatever type the file gives them
SKIPPED = ("_", "")  # roles of columns to leave out
MAP_NAMES = (  # of coordinates on a map, in the order of x, y, z
    *(("easting", "northing", height) for height in ("elevation", "height", "z", "altitude")),
    *(("e", "n", height) for height in ("h", "z")),
)
DEGREES = {"lon", "lat", "longitude", "latitude", "long"}

MOST_UNNAMED = 16
SMALL_LABEL = 64  # a column behind colours is a label below it, and blue above
WIDTHS = {"n": 3, "c": 3, "a": 1, "i": 1, "l": 1, ".": 1}
ROLES = {"n": ("nx", "ny", "nz"), "c": ("r", "g", "b"), "a": ("alpha",), "i": ("intensity",)}
ROLES |= {"l": ("label",)}
LAYOUTS = {  # of the columns beyond xyz, the first that fits
    1: ("i",),
    2: ("i.",),
    3: ("n", "c"),
    4: ("nl", "ca", "cl", "ic", "ci", "n."),
    5: ("cal", "icl", "ica"),
    6: ("nc", "cn"),
    7: ("ncl", "cnl", "can", "nca", "inc", "icn", "nci", "cni"),
    8: ("canl", "ncal", "incl", "icnl"),
}
LEADS = {".xyzn": "n", ".xyzrgb": "c"}  # what a suffix promises of the first columns ...
LAYOUTS_OF_PTS = {**LAYOUTS, 3: ("c", "n"), 4: ("ic",)}  # ... and of their number
OBVIOUS = ("", "n", "c", "nc", "cn", "nl")


@lru_cache(1000)
def plain_name(name: str) -> str:
    """Lower case, without a unit in brackets or CloudCompare's ``scalar_``."""
    name = re.sub(r"\s*[\[(][^\])]*[\])]$", "", name.strip().strip("\"'"))
    return name.strip().lower().removeprefix("scalar_")


def points_from_columns(
    path: Path,
    columns: Mapping[str, np.ndarray],
    roles: Sequence[str] | None = None,
    notes: tuple[str, ...] = (),
) -> Points:
    """Pick coordinates, normals, colours, labels and so on out of named (N,) columns.

    Args:
        path: the file, for the message.
        columns: (N,) each; those of unknown names become extras.
        roles: see :func:`assign_roles`.
        notes: about the file.

    Raises:
        CloudFileError: if x, y or z is missing, or the roles do not fit.
    """
    if roles is not None:
        named = zip(assign_roles(path, list(columns), roles), columns.values(), strict=True)
        columns = {role: values for role, values in named if role not in SKIPPED}
    known: dict[str, str] = {}
    for name in columns:
        known.setdefault(plain_name(name), name)

    def pick(names: tuple[str, ...]) -> list[np.ndarray]:
        return [columns[known.pop(name)] for name in names]

    parts: dict[str, np.ndarray] = {}
    for part, choices in TRIPLES.items() if len(columns) > 3 else [("xyz", TRIPLES["xyz"])]:
        found = next((names for names in choices if known.keys() >= set(names)), None)
        if found:
            parts[part] = np.stack(pick(found), 1)
    if "xyz" not in parts:
        raise no_coordinates(path, list(columns))
    if not known:  # nearly all files
        return Points(**parts, notes=notes)
    for part, choices in SINGLES.items():
        found = next((name for name in choices if name in known), None)
        if found:
            (parts[part],) = pick((found,))
    packed = next((name for name in PACKED_COLORS if name in known), "")
    if packed and "colors" not in parts and columns[known[packed]].dtype.itemsize == 4:
        (bits,) = pick((packed,))
        bits = np.ascontiguousarray(bits).view(np.uint32)
        parts["colors"] = np.stack([bits >> 16, bits >> 8, bits], 1).astype(np.uint8)
    extras = {_extra_name(name): columns[name] for name in known.values()}
    return Points(**parts, extras=extras, notes=notes)


def _extra_name(name: str) -> str:
    name = name.strip()
    return name[7:] if name.lower().startswith("scalar_") else name


def assign_roles(path: Path, names: Sequence[str], roles: Sequence[str]) -> list[str]:
    """The name that each column goes by from here on.

    Args:
        path: the file, for the message.
        names: those in the file.
        roles: one for each column in order, where ``_`` skips one and those beyond the last are
            skipped too; or ``NAME=ROLE`` for the columns that the file names differently.

    Raises:
        CloudFileError: if there are more roles than columns, or no such column.
    """
    if not any("=" in role for role in roles):
        if len(roles) > len(names):
            raise CloudFileError(
                f"{path.name}: --columns gives {len(roles)} roles, the file has {len(names)} "
                f"columns ({listing(names)}); give one for each, _ to skip one"
            )
        return [*roles, *[SKIPPED[0]] * (len(names) - len(roles))]
    wanted = dict(role.rpartition("=")[::2] for role in roles)
    found = {name: wanted.get(name, wanted.get(plain_name(name))) for name in names}
    unknown = [name for name in wanted if name not in found and plain_name(name) not in
               map(plain_name, found)]  # fmt: skip
    if unknown or "" in wanted:
        raise CloudFileError(
            f"{path.name}: has no column {listing(unknown or roles)}, only {listing(names)}; "
            "write --columns NAME=ROLE for each column to be renamed"
        )
    taken = set(wanted.values())
    return [found[name] or (SKIPPED[0] if plain_name(name) in taken else name) for name in names]


def no_coordinates(path: Path, names: Sequence[str]) -> CloudFileError:
    """The error of a table whose columns are not named x, y and z."""
    plain = {plain_name(name): name for name in names}
    missing = [axis for axis in "xyz" if axis not in plain]
    remedy = "name them with --columns x,y,z or NAME=x,... (columns= in Python)"
    if on_map := next((axes for axes in MAP_NAMES if plain.keys() >= set(axes)), None):
        pairs = zip(on_map, "xyz", strict=True)
        renamed = ",".join(f"{plain[name]}={axis}" for name, axis in pairs)
        remedy = f"map coordinates are read with --columns {renamed} (columns= in Python)"
    elif plain.keys() & DEGREES:
        remedy = "longitude and latitude are degrees: project them to metres first"
    return CloudFileError(
        f"{path.name}: no columns are named {' '.join(missing)}, only {listing(names)}; {remedy}"
    )


def points_from_table(
    path: Path, table: np.ndarray, roles: Sequence[str] | None = None, *, is_array: bool = False
) -> Points:
    """Read a table without names; ``roles`` or else :func:`guess_roles` says what its columns are.

    Args:
        path: the file, for the message and its suffix.
        table: (N, C) numbers.
        roles: see :func:`assign_roles`.
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
        return Points(table)
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
        is_array: a table of three rows is taken for a transposed one.

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
    if width == 3:
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
    """The layouts that fit, those of all columns first."""
    lead, width = LEADS.get(suffix, ""), rest.shape[1]
    layouts = LAYOUTS_OF_PTS if suffix == ".pts" else LAYOUTS
    for used in range(width, min(width, 3) - 1, -1):
        for layout in layouts.get(used, ()):
            if layout.startswith(lead) and _fits(layout, rest, lead):
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
