"""PLY: a header that describes a table, then the table as text or bytes.

numpy parses the tables. Open3D 0.20 does not serve here: it drops labels of type char, short,
ushort and uint, rounds the vertices of meshes to float32, returns uninitialised memory for a
truncated file, and crashes the process where a polygon names a vertex that does not exist.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ea_pointcloud.io.columns import points_from_columns
from ea_pointcloud.io.common import (
    INCOMPLETE,
    LOOK,
    SOURCE,
    CloudFileError,
    Lines,
    Mesh,
    Options,
    Points,
    ignored,
    number_lines,
    parse_rows,
    read_bytes,
    truncated,
    whole_number,
)
from ea_pointcloud.io.polygons import read_polygons, strip, triangulate

TYPES = {
    **{"char": "b", "uchar": "B", "short": "h", "ushort": "H", "int": "i", "uint": "I"},
    **{"int8": "b", "uint8": "B", "int16": "h", "uint16": "H", "int32": "i", "uint32": "I"},
    **{"float": "f", "double": "d", "float32": "f", "float64": "d"},
}  # to the codes that struct and numpy share
BYTE_ORDERS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
PLURALS = {"vertex": "vertices", "face": "faces"}
FACE_LISTS = ("vertex_indices", "vertex_index")
STRIPS = ("tristrips", "tristrip")
END = re.compile(rb"[\r\n]end_header[ \t]*(\r?\n|\r)")


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


class _Content(NamedTuple):
    columns: dict[str, np.ndarray]  # of the vertices
    lists: dict[str, list[np.ndarray]]  # of each other element: (R, K) corners for every K
    notes: tuple[str, ...]


def read_ply(path: Path, options: Options) -> Points | Mesh:
    """Read a point cloud, or a mesh where the file has faces or triangle strips."""
    data = read_bytes(path)
    order, elements, start = _read_header(path, data)
    vertex = next((element for element in elements if element.name == "vertex"), None)
    if vertex is None or vertex.count == 0:
        raise CloudFileError(f"{path.name}: the header promises no vertices; {SOURCE}")
    if order:
        content = _parse_binary(path, data, order, elements, start)
    else:
        content = _parse_ascii(path, data, elements, start)
    points = points_from_columns(path, content.columns, options.columns, content.notes)
    polygons = content.lists.get("face", [])
    strips = [strip(row) for name in STRIPS for rows in content.lists.get(name, []) for row in rows]
    if not polygons and not strips:
        return points
    vertices = points.xyz.astype(np.float64)
    faces = np.concatenate([triangulate(vertices, polygons), *strips])
    left = [part for part in ("labels", "colors") if getattr(points, part) is not None]
    notes = points.notes
    if left:
        notes += (f"{' and '.join(left)} of the vertices are left out: points are drawn from the "
                  "surface",)  # fmt: skip
    return Mesh(vertices, faces, notes)


def _read_header(path: Path, data: bytes) -> tuple[str, list[_Element], int]:
    """Return the byte order ("" for text), the elements and where the rows start."""
    end = END.search(data)
    if not data.startswith(b"ply") or end is None:
        raise CloudFileError(
            f"{path.name}: has no PLY header from 'ply' to 'end_header': it is not a PLY file, or "
            f"{INCOMPLETE.removeprefix('it is ')}"
        )
    # Where lines end in a carriage return alone, a line feed behind it is a byte of the rows.
    start = end.end() - (end[1] == b"\r\n" and b"\n" not in data[: end.start() + 1])
    order = None
    elements: list[_Element] = []
    for number, line in number_lines(data[: end.start()].decode("ascii", errors="replace"))[1:]:
        match line.split():
            case ["comment" | "obj_info", *_]:
                pass
            case ["format", name, *_] if name in BYTE_ORDERS:
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
                    f"PLY header; {LOOK}"
                )
    if order is None:
        raise CloudFileError(f"{path.name}: the header names no known format; {SOURCE}")
    for element in elements:
        names = {field.name for field in element.properties}
        if (not names and element.count) or len(names) < len(element.properties):
            raise CloudFileError(
                f"{path.name}: the header gives element {element.name[:30]!r} no property, or one "
                f"twice; {SOURCE}"
            )
    return order, elements, start


def _parse_ascii(path: Path, data: bytes, elements: list[_Element], start: int) -> _Content:
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


def _from_corners(path: Path, rows: Lines, element: _Element) -> Lines:
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


def _ascii_columns(path: Path, rows: Lines, element: _Element) -> dict[str, np.ndarray]:
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


def _vertex_list(path: Path) -> CloudFileError:
    return CloudFileError(
        f"{path.name}: its vertices have a list property, which is not supported; export without it"
    )


def _parse_binary(
    path: Path, data: bytes, order: str, elements: list[_Element], start: int
) -> _Content:
    columns: dict[str, np.ndarray] = {}
    lists: dict[str, list[np.ndarray]] = {}
    for element in elements:
        if element.has_list:
            if element.name == "vertex":
                raise _vertex_list(path)
            lists[element.name], start = _binary_lists(path, data, order, element, start)
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


class _List(NamedTuple):
    before: int  # bytes of the row between the list before, or the start, and this one
    width: int  # bytes of its length
    is_signed: bool
    size: int  # bytes of a value
    is_wanted: bool


def _binary_lists(
    path: Path, data: bytes, order: str, element: _Element, start: int
) -> tuple[list[np.ndarray], int]:
    """Read rows of varying length; return the lists of corners, grouped by length, and the end."""
    lists: list[_List] = []
    fixed, code = 0, ""
    for field in element.properties:
        size = np.dtype(field.code).itemsize
        if field.count_code is None:
            fixed += size
            continue
        is_wanted = not code and field.name in FACE_LISTS
        code = order + field.code if is_wanted else code
        width = np.dtype(field.count_code).itemsize
        lists.append(_List(fixed, width, field.count_code.islower(), size, is_wanted))
        fixed = 0
    if len(lists) > 1 or lists[0].width > 1:
        lengths, places, at = _walk(data, order, lists, fixed, element.count, start)
    elif (length := _common_length(data, lists[0], fixed, element.count, start)) is not None:
        row = lists[0].before + 1 + length * lists[0].size + fixed
        lengths = np.full(element.count, length)
        places = start + lists[0].before + 1 + row * np.arange(element.count)
        at = start + row * element.count
    else:
        lengths, places, at = _walk_bytes(data, lists[0], fixed, element.count, start)
    if at > len(data):
        raise truncated(path, element.plural, element.count, max(len(lengths) - 1, 0))
    return _gathered(data, code, lengths, places) if code else [], at


def _common_length(data: bytes, only: _List, after: int, count: int, start: int) -> int | None:
    """The length of the list in each row, where it is the same in all of them."""
    at = start + only.before
    if at >= len(data) or count == 0:
        return None
    row = only.before + 1 + data[at] * only.size + after
    if start + row * count > len(data):
        return None
    lengths = np.ndarray((count,), np.uint8, data, at, (row,))
    return data[at] if (lengths == data[at]).all() else None


Rows = tuple[np.ndarray, np.ndarray, int]  # lengths and places of the lists, and the end


def _walk_bytes(data: bytes, only: _List, after: int, count: int, start: int) -> Rows:
    """Step over rows of one list whose length is a byte; stops behind the end of the data."""
    lengths, places = [], []
    at, end, after = start + only.before, len(data), after + 1 + only.before
    size = only.size
    while len(places) < count and at < end:  # a million rows take a quarter of a second
        length = data[at]
        lengths.append(length)
        places.append(at + 1)
        at += after + size * length
    at -= only.before
    return np.array(lengths), np.array(places), at if len(places) == count else end + 1


def _walk(data: bytes, order: str, lists: list[_List], after: int, count: int, start: int) -> Rows:
    """Step over rows of any lists; stops behind the end of the data."""
    byte_order = "little" if order == "<" else "big"
    lengths, places = [], []
    at = start
    for _ in range(count):
        for entry in lists:
            at += entry.before
            number = data[at : at + entry.width]
            length = max(int.from_bytes(number, byte_order, signed=entry.is_signed), 0)
            at += entry.width
            if entry.is_wanted:
                lengths.append(length)
                places.append(at)
            at += entry.size * length
        at += after
        if at > len(data):
            break
    return np.array(lengths), np.array(places), at


def _gathered(data: bytes, code: str, lengths: np.ndarray, places: np.ndarray) -> list[np.ndarray]:
    """(R, K) int64 for each length K > 0: the numbers that start at ``places`` in ``data``."""
    content = np.frombuffer(data, np.uint8)
    size = np.dtype(code).itemsize
    groups = []
    for length in np.unique(lengths):
        if length <= 0:
            continue
        chosen = places[lengths == length]
        rows = np.lib.stride_tricks.sliding_window_view(content, int(length) * size)[chosen]
        groups.append(rows.view(code).astype(np.int64))
    return groups
