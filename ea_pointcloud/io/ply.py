"""PLY: a header that describes a table, then the table as text or bytes.

numpy parses the tables. Open3D 0.20 does not serve here: it drops labels of type char, short,
ushort and uint, rounds the vertices of meshes to float32, returns uninitialised memory for a
truncated file, and crashes the process where a polygon names a vertex that does not exist.
"""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ea_pointcloud.io.columns import points_from_columns
from ea_pointcloud.io.common import (
    INCOMPLETE,
    LOOK,
    SOURCE,
    CloudFileError,
    Meaning,
    Mesh,
    Options,
    Points,
    ignored,
    read_bytes,
    truncated,
    whole_number,
)
from ea_pointcloud.io.ply_rows import FACE_LISTS, Element, Property, binary_lists
from ea_pointcloud.io.polygons import read_polygons, strip, triangulate
from ea_pointcloud.io.tables import Lines, number_lines, parse_rows

TYPES = {
    **{"char": "b", "uchar": "B", "short": "h", "ushort": "H", "int": "i", "uint": "I"},
    **{"int8": "b", "uint8": "B", "int16": "h", "uint16": "H", "int32": "i", "uint32": "I"},
    **{"float": "f", "double": "d", "float32": "f", "float64": "d"},
}  # to the codes that struct and numpy share
BYTE_ORDERS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
FEW_CORNERS = "faces of one or two corners are left out"
STRIPS = ("tristrips", "tristrip")
END = re.compile(rb"[\r\n]end_header[ \t]*(\r?\n|\r)")


class _Content(NamedTuple):
    columns: dict[str, np.ndarray]  # of the vertices
    lists: dict[str, list[np.ndarray]]  # of each other element: (R, K) corners for every K
    notes: tuple[str, ...]


def read_ply(path: Path, options: Options) -> Points | Mesh:
    """Read a point cloud, or a mesh where the file has faces or triangle strips."""
    data = read_bytes(path)
    order, elements, start, meaning = _read_header(path, data)
    vertex = next((element for element in elements if element.name == "vertex"), None)
    if vertex is None or vertex.count == 0:
        raise CloudFileError(f"{path.name}: the header promises no vertices; {SOURCE}")
    if order:
        content = _parse_binary(path, data, order, elements, start)
    else:
        content = _parse_ascii(path, data, elements, start)
    points = points_from_columns(path, content.columns, options.columns, content.notes)
    faces = content.lists.get("face", [])
    polygons = [group for group in faces if group.shape[1] >= 3]
    strips = [strip(row) for name in STRIPS for rows in content.lists.get(name, []) for row in rows]
    if not polygons and not strips:
        notes = (FEW_CORNERS,) if faces else ()
        return points._replace(notes=points.notes + notes, **meaning._asdict())
    vertices = points.xyz.astype(np.float64)
    faces = np.concatenate([triangulate(vertices, polygons), *strips])
    return Mesh(vertices, faces, points.notes, points.colors, points.labels)


def _read_header(path: Path, data: bytes) -> tuple[str, list[Element], int, Meaning]:
    """Byte order ("" for text), elements, where the rows start, and what our comments say."""
    end = END.search(data)
    if not data.startswith(b"ply") or end is None:
        raise CloudFileError(
            f"{path.name}: has no PLY header from 'ply' to 'end_header': it is not a PLY file, or "
            f"{INCOMPLETE.removeprefix('it is ')}"
        )
    # Where lines end in a carriage return alone, a line feed behind it is a byte of the rows.
    start = end.end() - (end[1] == b"\r\n" and b"\n" not in data[: end.start() + 1])
    order, up = None, None
    names: dict[int, str] = {}
    elements: list[Element] = []
    for number, line in number_lines(data[: end.start()].decode("utf-8", errors="replace"))[1:]:
        match line.split():
            case ["comment", "label", text, *words] if words and whole_number(text) is not None:
                names[int(text)] = " ".join(words)
            case ["comment", "up", "x" | "y" | "z" as axis]:
                up = axis
            case ["comment" | "obj_info", *_]:
                pass
            case ["format", name, *_] if name in BYTE_ORDERS:
                order = BYTE_ORDERS[name]
            case ["element", name, text] if (count := whole_number(text)) is not None:
                elements.append(Element(name, count, []))
            case ["property", kind, name] if kind in TYPES and elements:
                elements[-1].properties.append(Property(name, TYPES[kind], None))
            case ["property", "list", length, kind, name] if {length, kind} <= set(TYPES):
                elements[-1].properties.append(Property(name, TYPES[kind], TYPES[length]))
            case _:
                raise CloudFileError(
                    f"{path.name}: line {number}: {line.strip()[:60]!r} is not understood in a "
                    f"PLY header; {LOOK}"
                )
    if order is None:
        raise CloudFileError(f"{path.name}: the header names no known format; {SOURCE}")
    for element in elements:
        own = {field.name for field in element.properties}
        if (not own and element.count) or len(own) < len(element.properties):
            raise CloudFileError(
                f"{path.name}: the header gives element {element.name[:30]!r} no property, or one "
                f"twice; {SOURCE}"
            )
    return order, elements, start, Meaning(names, up)


def _parse_ascii(path: Path, data: bytes, elements: list[Element], start: int) -> _Content:
    text = data[start:].decode("ascii", errors="replace")
    lines = number_lines(text, first=len(data[:start].splitlines()) + 1)
    columns: dict[str, np.ndarray] = {}
    lists: dict[str, list[np.ndarray]] = {}
    for element in elements:
        rows, lines = lines[: element.count], lines[element.count :]
        if len(rows) < element.count:
            raise truncated(path, element.plural, element.count, len(rows))
        if element.name == "vertex":
            columns = _ascii_columns(path, rows, element)
        elif rows and any(field.name in FACE_LISTS for field in element.properties):
            lists[element.name] = read_polygons(path, _from_corners(path, rows, element))
    notes = (ignored(len(lines), "lines"),) if lines else ()
    return _Content(columns, lists, notes)


def _from_corners(path: Path, rows: Lines, element: Element) -> Lines:
    """The rows without what stands before the list of corners."""
    before = []
    for field in element.properties:
        if field.name in FACE_LISTS:
            break
        before.append(field)
    if not before:
        return rows
    kept: Lines = []
    for number, line in rows:
        fields = line.split()
        at = 0
        for field in before:
            length = (whole_number(fields[at]) or 0) if field.count_code and at < len(fields) else 0
            at += 1 + length
        if at >= len(fields):
            raise CloudFileError(f"{path.name}: line {number} has no list of corners; {LOOK}")
        kept.append((number, " ".join(fields[at:])))
    return kept


def _ascii_columns(path: Path, rows: Lines, element: Element) -> dict[str, np.ndarray]:
    if element.has_list:
        raise _vertex_list(path)
    table = parse_rows(path, rows)
    if table.shape[1] != len(element.properties):
        raise CloudFileError(
            f"{path.name}: the header names {len(element.properties)} properties of a vertex, "
            f"line {rows[0][0]} has {table.shape[1]}; {LOOK}"
        )
    return {
        field.name: _as_declared(path, field, values)
        for field, values in zip(element.properties, table.T, strict=True)
    }


def _as_declared(path: Path, field: Property, values: np.ndarray) -> np.ndarray:
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


def _vertex_list(path: Path) -> CloudFileError:
    return CloudFileError(
        f"{path.name}: its vertices have a list property, which is not supported; leave it out"
    )


def _parse_binary(
    path: Path, data: bytes, order: str, elements: list[Element], start: int
) -> _Content:
    columns: dict[str, np.ndarray] = {}
    lists: dict[str, list[np.ndarray]] = {}
    for element in elements:
        if element.has_list:
            if element.name == "vertex":
                raise _vertex_list(path)
            lists[element.name], start = binary_lists(path, data, order, element, start)
            continue
        row = np.dtype([(field.name, order + field.code) for field in element.properties])
        held = (len(data) - start) // max(row.itemsize, 1)
        if held < element.count and row.itemsize:
            raise truncated(path, element.plural, element.count, held)
        if element.name == "vertex":
            table = np.frombuffer(data, row, element.count, start)
            columns = {
                field.name: table[field.name].astype(field.code) for field in element.properties
            }
        start += element.count * row.itemsize
    rest = len(data) - start
    notes = (ignored(rest, "bytes"),) if rest > 2 else ()  # a line break at the end
    return _Content(columns, lists, notes)
