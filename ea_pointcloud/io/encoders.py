"""Clouds and meshes to the bytes of a file."""

import io
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from ea_pointcloud._files import printable
from ea_pointcloud.io.common import Columns, Meaning
from ea_pointcloud.io.hdf5 import encode_hdf5
from ea_pointcloud.io.las import encode_las, encode_laz
from ea_pointcloud.io.meshes import face_normals

FLOAT_FORMAT = "%.12g"  # a hundredth of a millimetre in UTM metres, and more than float32 has

SHORT_NAMES = {
    "xyz": ("x", "y", "z"),
    "normals": ("nx", "ny", "nz"),
    "colors": ("r", "g", "b"),
    "labels": ("label",),
    "confidence": ("confidence",),
    "intensity": ("intensity",),
}  # of extras their own


def encode_bare_text(columns: Columns) -> bytes:
    """What there is in the columns of ``.xyz``, ``.xyzn`` and ``.xyzrgb``, without a header."""
    return _table_text(np.concatenate(list(columns.values()), 1), " ")


def encode_pts(columns: Columns) -> bytes:
    """The number of points, then coordinates, intensity and colours of 0..255."""
    table = columns["xyz"]
    formats = [FLOAT_FORMAT] * 3
    if "intensity" in columns:
        table = np.concatenate([table, columns["intensity"][:, None]], 1)
        formats += [FLOAT_FORMAT]
    if "colors" in columns:
        table = np.concatenate([table, _bytes_of(columns["colors"])], 1)
        formats += ["%d"] * 3
    return f"{len(table)}\n".encode() + _table_text(table, " ", formats)


def encode_txt(columns: Columns) -> bytes:
    """All columns, separated by spaces, below a header."""
    return _named_text(columns, " ")


def encode_csv(columns: Columns, meaning: Meaning | None = None) -> bytes:
    """All columns, separated by commas, below a header; names of the labels in the last one."""
    text = _named_text(columns, ",")
    if not meaning or not meaning.label_names or "labels" not in columns:
        return text
    names = {
        label: re.sub(r"[^\w./ ()-]+", "_", name).strip(" -") or "_"
        for label, name in meaning.label_names.items()
    }
    header, *lines = text.decode().splitlines()
    parts = (names.get(label, "-") for label in columns["labels"].tolist())
    rows = (f"{line},{part}" for line, part in zip(lines, parts, strict=True))
    return "\n".join([f"{header},part", *rows, ""]).encode()


def encode_npy(columns: Columns) -> bytes:
    """Coordinates only, (N, 3) float64."""
    buffer = io.BytesIO()
    np.save(buffer, columns["xyz"], allow_pickle=False)
    return buffer.getvalue()


def encode_npz(columns: Columns, meaning: Meaning | None = None) -> bytes:
    """All parts, each an array of its own, labels in the smallest integers; names of the labels."""
    arrays: dict[str, Any] = dict(columns)
    if "labels" in columns:
        arrays["labels"] = _narrowest(columns["labels"])
    if meaning and meaning.label_names:
        ids, names = zip(*meaning.label_names.items(), strict=True)
        arrays |= {"label_ids": np.array(ids), "label_names": np.array(names, np.str_)}
    if meaning and meaning.up:
        arrays["up"] = np.array(meaning.up)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def encode_ply(columns: Columns, meaning: Meaning | None = None) -> bytes:
    """Binary: double coordinates, float normals, uchar colours, int label, the others as given.

    What labels and axes mean stands in comments of the header.
    """
    comments = ""
    if meaning:
        words = {label: printable(name) for label, name in meaning.label_names.items()}
        comments = "".join(f"comment label {label} {name}\n" for label, name in words.items())
        comments += f"comment up {meaning.up}\n" if meaning.up else ""
    layout = []
    for part, values in columns.items():
        if part == "colors":
            colors = zip(("red", "green", "blue"), _bytes_of(values).T, strict=True)
            layout += [(name, "|u1", column) for name, column in colors]
        else:
            layout += _fields(part, values, {"xyz": "<f8"})
    types = {"f8": "double", "f4": "float", "u1": "uchar", "i4": "int", "i1": "char"}
    types |= {"i2": "short", "u2": "ushort", "u4": "uint"}
    properties = "".join(f"property {types[code[1:]]} {name}\n" for name, code, _ in layout)
    header = (
        f"ply\nformat binary_little_endian 1.0\n{comments}"
        f"element vertex {len(columns['xyz'])}\n{properties}end_header\n"
    )
    return header.encode() + _packed(layout)


def encode_pcd(columns: Columns) -> bytes:
    """Binary: double coordinates and normals (Open3D wants one type), packed rgb, int label."""
    layout = []
    for part, values in columns.items():
        if part == "colors":
            red, green, blue = _bytes_of(values).astype(np.uint32).T
            layout.append(("rgb", "<u4", red << 16 | green << 8 | blue))
        elif part == "normals":
            normals = zip("xyz", values.T, strict=True)
            layout += [(f"normal_{axis}", "<f8", column) for axis, column in normals]
        else:
            layout += _fields(part, values, {"xyz": "<f8"})
    kinds = {"f": "F", "u": "U", "i": "I"}
    count = len(columns["xyz"])
    header = (
        "# .PCD v0.7 - Point Cloud Data file format\nVERSION 0.7\n"
        f"FIELDS {' '.join(name for name, _, _ in layout)}\n"
        f"SIZE {' '.join(code[2] for _, code, _ in layout)}\n"
        f"TYPE {' '.join(kinds[code[1]] for _, code, _ in layout)}\n"
        f"COUNT {' '.join('1' for _ in layout)}\n"
        f"WIDTH {count}\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS {count}\nDATA binary\n"
    )
    return header.encode() + _packed(layout)


def encode_off_mesh(vertices: np.ndarray, faces: np.ndarray) -> bytes:
    """OFF, as text."""
    header = f"OFF\n{len(vertices)} {len(faces)} 0\n".encode()
    return header + _table_text(vertices, " ") + _table_text(_with_three(faces), " ", "%d")


def encode_obj_mesh(vertices: np.ndarray, faces: np.ndarray) -> bytes:
    """OBJ, whose indices count from 1."""
    corners = "".join(f"f {a} {b} {c}\n" for a, b, c in (faces + 1).tolist())
    points = "".join(f"v {x:.12g} {y:.12g} {z:.12g}\n" for x, y, z in vertices.tolist())
    return (points + corners).encode()


def encode_ply_mesh(vertices: np.ndarray, faces: np.ndarray) -> bytes:
    """PLY, as text."""
    properties = "".join(f"property double {axis}\n" for axis in "xyz")
    header = (
        f"ply\nformat ascii 1.0\nelement vertex {len(vertices)}\n{properties}"
        f"element face {len(faces)}\nproperty list uchar int vertex_indices\nend_header\n"
    )
    return header.encode() + _table_text(vertices, " ") + _table_text(_with_three(faces), " ", "%d")


def encode_stl_mesh(vertices: np.ndarray, faces: np.ndarray) -> bytes:
    """STL, as text."""
    parts = ["solid mesh\n"]
    triangles = vertices[faces].tolist()
    for normal, corners in zip(face_normals(vertices, faces).tolist(), triangles, strict=True):
        parts.append("facet normal {:.9g} {:.9g} {:.9g}\nouter loop\n".format(*normal))
        parts += ["vertex {:.12g} {:.12g} {:.12g}\n".format(*corner) for corner in corners]
        parts.append("endloop\nendfacet\n")
    parts.append("endsolid mesh\n")
    return "".join(parts).encode()


CLOUD_ENCODERS: dict[str, Callable[..., bytes]] = {
    ".ply": encode_ply,
    ".pcd": encode_pcd,
    ".xyz": encode_bare_text,
    ".xyzn": encode_bare_text,
    ".xyzrgb": encode_bare_text,
    ".pts": encode_pts,
    ".txt": encode_txt,
    ".csv": encode_csv,
    ".npy": encode_npy,
    ".npz": encode_npz,
    ".h5": encode_hdf5,
    ".hdf5": encode_hdf5,
    ".las": encode_las,
    ".laz": encode_laz,
}
EXPLAINING = (".ply", ".npz", ".csv")  # what labels and axes mean, as far as they can
# What a format can hold beside the coordinates, where that is not everything, ...
HOLDS = {
    ".xyz": (),
    ".xyzn": ("normals",),
    ".xyzrgb": ("colors",),
    ".pts": ("colors", "intensity"),
    ".npy": (),
}
# ... and what it cannot do without.
NEEDS = {".xyzn": "normals", ".xyzrgb": "colors"}
MESH_ENCODERS: dict[str, Callable[[np.ndarray, np.ndarray], bytes]] = {
    ".off": encode_off_mesh,
    ".obj": encode_obj_mesh,
    ".ply": encode_ply_mesh,
    ".stl": encode_stl_mesh,
}


Field = tuple[str, str, np.ndarray]  # name, type, (N,) values


def _fields(part: str, values: np.ndarray, types: dict[str, str]) -> list[Field]:
    """The columns of a part or extra; labels, and integers of 64 bits, narrowed if they fit."""
    if part == "labels":
        values = _as_int32(values)
    elif values.dtype.itemsize == 8 and values.dtype.kind in "iu":
        narrow = np.iinfo(np.int32)
        fits = values.min() >= narrow.min and values.max() <= narrow.max
        values = values.astype(np.int32 if fits else np.float64)
    code = types.get(part, values.dtype.newbyteorder("<").str)
    names = zip(SHORT_NAMES.get(part, (part,)), np.atleast_2d(values.T), strict=True)
    return [(name, code, column) for name, column in names]


def _packed(layout: list[Field]) -> bytes:
    table = np.empty(len(layout[0][2]), dtype=[(name, code) for name, code, _ in layout])
    for name, _, values in layout:
        table[name] = values
    return table.tobytes()


def _narrowest(labels: np.ndarray) -> np.ndarray:
    """Labels in the smallest type of integers that holds them."""
    limits = ((code, np.iinfo(code)) for code in ("u1", "i1", "u2", "i2", "u4", "i4", "i8"))
    low, high = labels.min(), labels.max()
    return labels.astype(next(code for code, most in limits if most.min <= low <= high <= most.max))


def _bytes_of(colors: np.ndarray) -> np.ndarray:
    return np.round(colors * 255).astype(np.uint8)


def _as_int32(labels: np.ndarray) -> np.ndarray:
    limits = np.iinfo(np.int32)
    if labels.min() < limits.min or labels.max() > limits.max:
        raise ValueError(
            f"labels must fit 32 bits in .ply and .pcd, got {labels.min()}..{labels.max()}; "
            "write .npz"
        )
    return labels.astype(np.int32)


def _with_three(faces: np.ndarray) -> np.ndarray:
    return np.insert(faces, 0, 3, axis=1)


def _named_text(columns: Columns, delimiter: str) -> bytes:
    names = [name for part in columns for name in SHORT_NAMES.get(part, (part,))]
    table = np.concatenate([values.reshape(len(values), -1) for values in columns.values()], 1)
    whole = {part for part, values in columns.items() if values.dtype.kind in "iu"} | {"label"}
    precise = {part for part, values in columns.items() if part not in SHORT_NAMES}
    formats = ["%d" if name in whole else "%.17g" if name in precise else FLOAT_FORMAT
               for name in names]  # fmt: skip
    return f"{delimiter.join(names)}\n".encode() + _table_text(table, delimiter, formats)


def _table_text(
    table: np.ndarray, delimiter: str, formats: str | list[str] = FLOAT_FORMAT
) -> bytes:
    buffer = io.BytesIO()
    np.savetxt(buffer, table, fmt=formats, delimiter=delimiter)
    return buffer.getvalue()
