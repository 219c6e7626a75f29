"""Which column of a table means what, by its name or by the caller's word."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ea_pointcloud.io.common import (
    CloudFileError,
    Points,
    listing,
    plain_name,
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


def check_roles(columns: str | Sequence[str]) -> list[str]:
    """The roles of columns, one by one; ValueError where they cannot be meant."""
    roles = columns.split(",") if isinstance(columns, str) else list(columns)
    roles = [role.strip() for role in roles]
    names = [role.rpartition("=")[2] for role in roles]
    named = [name for name in names if name not in SKIPPED]
    renamed = sum("=" in role for role in roles)
    if len(set(named)) < len(named) or renamed not in (0, len(roles)) or not named:
        raise ValueError(
            f"columns must be different roles in order, as x,y,z,_,label, or NAME=ROLE for each, "
            f"got {','.join(roles)!r}"
        )
    return roles


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
        return Points(parts.pop("xyz"), notes=notes)._replace(**parts)
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
    return Points(parts.pop("xyz"), extras=extras, notes=notes)._replace(**parts)


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
    wanted = {role.rpartition("=")[0]: role.rpartition("=")[2] for role in roles}
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
