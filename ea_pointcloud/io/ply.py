"""PLY: a header that describes a table, then the table as text or bytes.

numpy parses the tables. Open3D 0.20 does not serve here: it drops labels of type char, short,
ushort and uint, rounds the vertices of meshes to float32, returns uninitialised memory for a
truncated file, and crashes the process where a polygon names a vertex that does not exist.
"""

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ea_pointcloud.io.common import (
    CloudFileError,
    Lines,
    Mesh,
    Points,
    number_lines,
    parse_rows,
    points_from_columns,
    truncated,
    whole_number,
)
from ea_pointcloud.io.meshes import read_polygons, triangulate

TYPES = {
    **{"char": "b", "uchar": "B", "short": "h", "ushort": "H", "int": "i", "uint": "I"},
    **{"int8": "b", "uint8": "B", "int16": "h", "uint16": "H", "int32": "i", "uint32": "I"},
    **{"float": "f", "double": "d", "float32": "f", "float64": "d"},
}  # to the codes that struct and numpy share
BYTE_ORDERS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
PLURALS = {"vertex": "vertices", "face": "faces"}
FACE_LISTS = ("vertex_indices", "vertex_index")


class _Property(NamedTuple):
    name: str
    code: str
    count_code: str | None  # of a list: the type of its length


@dataclass(frozen=True)
class _Element:
    name: str
    count: int
    properties: list[_Property]

    @property
    def has_list(self) -> bool:
        return any(field.count_code for field in self.properties)

    @property
    def plural(self) -> str:
        return PLURALS.get(self.name, f"{self.name} rows")


def read_ply(path: Path) -> Points | Mesh:
    """Read a point cloud, or a mesh where the file has faces."""
    data = path.read_bytes()
    order, elements, start = _read_header(path, data)
    vertex = next((element for element in elements if element.name == "vertex"), None)
    if vertex is None or vertex.count == 0:
        raise CloudFileError(f"{path.name}: the header promises no vertices; export it again")
    if vertex.has_list:
        raise CloudFileError(
            f"{path.name}: its vertices have a list property, which is not read; export without it"
        )
    if order:
        columns, polygons = _parse_binary(path, data, order, elements, start)
    else:
        columns, polygons = _parse_ascii(path, data, elements, start)
    points = points_from_columns(path, columns)
    if not polygons:
        return points
    return Mesh(points.xyz.astype(np.float64), triangulate(polygons))


Content = tuple[dict[str, np.ndarray], list[np.ndarray]]  # vertex columns; (R, K) polygons per K


def _read_header(path: Path, data: bytes) -> tuple[str, list[_Element], int]:
    """Return the byte order ("" for text), the elements and where the rows start."""
    end = data.find(b"end_header")
    start = data.find(b"\n", end) + 1
    if not data.startswith(b"ply") or end < 0 or start == 0:
        raise CloudFileError(
            f"{path.name}: has no PLY header from 'ply' to 'end_header'; "
            "it is not a PLY file or truncated, copy it again"
        )
    order = None
    elements: list[_Element] = []
    for number, line in number_lines(data[:end].decode("ascii", errors="replace"))[1:]:
        match line.split():
            case ["comment" | "obj_info", *_]:
                pass
            case ["format", name, _] if name in BYTE_ORDERS:
                order = BYTE_ORDERS[name]
            case ["element", name, text] if (count := whole_number(text)) is not None:
                elements.append(_Element(name, count, []))
            case ["property", kind, name] if kind in TYPES and elements:
                elements[-1].properties.append(_Property(name, TYPES[kind], None))
            case ["property", "list", length, kind, name] if {length, kind} <= set(TYPES):
                elements[-1].properties.append(_Property(name, TYPES[kind], TYPES[length]))
            case _:
                raise CloudFileError(
                    f"{path.name}: line {number}: {line.strip()[:60]!r} is not understood in a "
                    "PLY header; export the file again"
                )
    if order is None:
        raise CloudFileError(f"{path.name}: the header names no known format; export it again")
    for element in elements:
        names = {field.name for field in element.properties}
        if not names or len(names) < len(element.properties):
            raise CloudFileError(
                f"{path.name}: the header gives element {element.name!r} no property, or one "
                "twice; export it again"
            )
    return order, elements, start


def _parse_ascii(path: Path, data: bytes, elements: list[_Element], start: int) -> Content:
    text = data[start:].decode("ascii", errors="replace")
    lines = number_lines(text, first=data[:start].count(b"\n") + 1)
    columns: dict[str, np.ndarray] = {}
    polygons: list[np.ndarray] = []
    for element in elements:
        rows, lines = lines[: element.count], lines[element.count :]
        if len(rows) < element.count:
            raise truncated(path, element.plural, element.count, len(rows))
        if element.name == "vertex":
            columns = _ascii_columns(path, rows, element)
        elif element.name == "face" and rows:
            if element.properties[0].name not in FACE_LISTS:
                raise CloudFileError(
                    f"{path.name}: its faces start with {element.properties[0].name!r} in place "
                    "of their vertices; export it again without"
                )
            polygons = read_polygons(path, rows)
    if lines:
        last = elements[-1]
        raise truncated(path, last.plural, last.count, last.count + len(lines))
    return columns, polygons


def _ascii_columns(path: Path, rows: Lines, element: _Element) -> dict[str, np.ndarray]:
    table = parse_rows(path, rows)
    if table.shape[1] != len(element.properties):
        raise CloudFileError(
            f"{path.name}: the header names {len(element.properties)} properties of a vertex, "
            f"line {rows[0][0]} has {table.shape[1]}; export it again"
        )
    return {
        field.name: _as_declared(path, field, values)
        for field, values in zip(element.properties, table.T, strict=True)
    }


def _as_declared(path: Path, field: _Property, values: np.ndarray) -> np.ndarray:
    """Keep the declared type where it decides the scale: a red of 1 is full or nearly black."""
    if field.code not in "BH":
        return values
    largest = np.iinfo(field.code).max
    if not ((values >= 0) & (values <= largest)).all():
        raise CloudFileError(
            f"{path.name}: a {field.name!r} is not within 0..{largest} as its type promises; "
            "declare it as float or int"
        )
    return values.astype(field.code)


def _parse_binary(
    path: Path, data: bytes, order: str, elements: list[_Element], start: int
) -> Content:
    columns: dict[str, np.ndarray] = {}
    polygons: list[np.ndarray] = []
    for element in elements:
        if element.has_list:
            groups, start = _binary_lists(path, data, order, element, start)
            polygons = groups if element.name == "face" else polygons
            continue
        row = np.dtype([(field.name, order + field.code) for field in element.properties])
        held = (len(data) - start) // row.itemsize
        if held < element.count:
            raise truncated(path, element.plural, element.count, held)
        if element.name == "vertex":
            table = np.frombuffer(data, row, element.count, start)
            columns = {
                field.name: table[field.name].astype(field.code) for field in element.properties
            }
        start += element.count * row.itemsize
    rest = len(data) - start
    if rest > 2:  # a line break at the end does no harm
        raise CloudFileError(
            f"{path.name}: holds {rest} bytes more than the header promises; "
            "correct the counts or export it again"
        )
    return columns, polygons


def _binary_lists(
    path: Path, data: bytes, order: str, element: _Element, start: int
) -> tuple[list[np.ndarray], int]:
    """Read rows of varying length; return the face lists, grouped by length, and the end."""
    by_length: dict[int, list[np.ndarray]] = {}
    done, ahead = 0, 1
    while done < element.count:
        row = _row_dtype(data, order, element, start)
        if row is None or start + row.itemsize > len(data):
            raise truncated(path, element.plural, element.count, done)
        count = min(ahead, element.count - done, (len(data) - start) // row.itemsize)
        table: np.ndarray = np.frombuffer(data, row, count, start)
        alike = np.ones(count, bool)
        for field in element.properties:
            if field.count_code:
                length = table[f"{field.name} length"]
                alike &= length == length[0]
        run = count if alike.all() else int(alike.argmin())
        # Nearly all meshes are all triangles: take ever longer runs while the length stays.
        ahead = ahead * 2 if run == count else 1
        for field in element.properties:
            if field.name in FACE_LISTS:
                values = table[field.name][:run].astype(np.int64)
                by_length.setdefault(values.shape[1], []).append(values)
        done, start = done + run, start + run * row.itemsize
    return [np.concatenate(by_length[length]) for length in sorted(by_length)], start


def _row_dtype(data: bytes, order: str, element: _Element, start: int) -> np.dtype | None:
    """The layout of the row at ``start`` with its lists as long as there; None past the end."""
    layout: list[tuple] = []
    for field in element.properties:
        if field.count_code:
            at = start + np.dtype(layout).itemsize
            if at + struct.calcsize(field.count_code) > len(data):
                return None
            (length,) = struct.unpack_from(order + field.count_code, data, at)
            if not 0 <= length <= len(data):
                return None
            layout.append((f"{field.name} length", order + field.count_code))
            layout.append((field.name, order + field.code, (int(length),)))
        else:
            layout.append((field.name, order + field.code))
    return np.dtype(layout)
