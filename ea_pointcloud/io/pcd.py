"""PCD: a header that describes a table, then the table as text, bytes or compressed bytes.

Open3D 0.20 does not serve here: it fills what is missing with uninitialised memory, reads a word
as 0, and misreads normals whose type differs from that of the coordinates.
"""

import re
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ea_pointcloud.io.columns import PACKED_COLORS, points_from_columns
from ea_pointcloud.io.common import (
    DAMAGED,
    INCOMPLETE,
    LOOK,
    CloudFileError,
    Options,
    Points,
    ignored,
    read_bytes,
    truncated,
)
from ea_pointcloud.io.tables import Lines, number_lines, parse_rows

KINDS = {"F": "f", "I": "i", "U": "u"}  # of TYPE, to numpy's
SIZES = {"F": (4, 8), "I": (1, 2, 4, 8), "U": (1, 2, 4, 8)}  # bytes
DATA = re.compile(rb"(?:^|[\r\n])DATA[ \t]+[^\r\n]*(\r?\n|\r|$)")
PADDING = "_"
LZF_EXPANSION = 88  # at most, as 3 bytes can stand for 264


class _Field(NamedTuple):
    name: str
    dtype: np.dtype
    count: int  # values a point

    def columns(self, values: np.ndarray) -> dict[str, np.ndarray]:
        """Name the columns of (N, count) values; none of padding."""
        if self.name == PADDING:
            return {}
        if self.count == 1:
            return {self.name: values[:, 0]}
        return {f"{self.name}_{number}": column for number, column in enumerate(values.T)}


class _Header(NamedTuple):
    fields: list[_Field]
    num_points: int
    storage: str
    start: int  # of the points, in bytes
    line: int  # of the first point, from 1

    @property
    def row(self) -> int:
        """Bytes a point."""
        return sum(field.dtype.itemsize * field.count for field in self.fields)


def read_pcd(path: Path, options: Options) -> Points:
    """Read a PCD file of any storage; fields of several values are columns of their own."""
    data = read_bytes(path)
    header = _read_header(path, data)
    notes = ()
    if header.storage == "ascii":
        columns, rest = _ascii_columns(path, data, header)
        notes = (ignored(rest, "lines"),) if rest else ()
    elif header.storage == "binary":
        held, rest = divmod(len(data) - header.start, header.row)
        if held < header.num_points:
            raise truncated(path, "points", header.num_points, held)
        rest += (held - header.num_points) * header.row
        notes = (ignored(rest, "bytes"),) if rest > 2 else ()  # a line break at the end
        columns = _binary_columns(data, header)
    elif header.storage == "binary_compressed":
        columns = _compressed_columns(path, data, header)
    else:
        raise CloudFileError(
            f"{path.name}: DATA is {header.storage[:30]!r}; it must be ascii, binary or "
            "binary_compressed"
        )
    return points_from_columns(path, columns, options.columns, notes)


def _read_header(path: Path, data: bytes) -> _Header:
    end = DATA.search(data)
    if end is None:
        raise CloudFileError(
            f"{path.name}: has no PCD header down to its DATA line: it is not a PCD file, or "
            f"{INCOMPLETE.removeprefix('it is ')}"
        )
    # Where lines end in a carriage return alone, a line feed behind it is a byte of the points.
    start = end.end() - (end[1] == b"\r\n" and b"\n" not in data[: end.end() - 1])
    lines = number_lines(data[:start].decode("ascii", errors="replace"))
    entries = {line.split()[0]: line.split()[1:] for _, line in lines}
    try:
        names, sizes, kinds = entries["FIELDS"], entries["SIZE"], entries["TYPE"]
        counts = entries.get("COUNT", ["1"] * len(names))
        fields = [
            _field(*description) for description in zip(names, kinds, sizes, counts, strict=True)
        ]
        width, height = (int(entries[key][0]) for key in ("WIDTH", "HEIGHT"))
        num_points, grid = int(*entries.get("POINTS", [width * height])), (width, height)
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise CloudFileError(
            f"{path.name}: the PCD header is incomplete or contradicts itself "
            f"({_reason(error)}); {LOOK}"
        ) from error
    if grid[0] * grid[1] != num_points or num_points <= 0:
        raise CloudFileError(
            f"{path.name}: the header promises {num_points} points in a grid of "
            f"{grid[0]} x {grid[1]}; {LOOK}"
        )
    line = len(data[:start].splitlines()) + 1
    return _Header(fields, num_points, " ".join(entries["DATA"]).lower(), start, line)


def _reason(error: Exception) -> str:
    return f"it has no {error.args[0]}" if isinstance(error, KeyError) else str(error)[:100]


def _field(name: str, kind: str, size: str, count: str) -> _Field:
    if kind not in KINDS or int(size) not in SIZES[kind]:
        raise ValueError(f"field {name} has type {kind} of {size} bytes")
    if int(count) < 1:
        raise ValueError(f"field {name} has {count} values")
    if name in PACKED_COLORS and (size, count) != ("4", "1"):
        raise ValueError(f"field {name} has {count} values of {size} bytes in place of one of 4")
    return _Field(name, np.dtype(f"<{KINDS[kind]}{size}"), int(count))


def _ascii_columns(path: Path, data: bytes, header: _Header) -> tuple[dict[str, np.ndarray], int]:
    """The columns, and how many lines follow the points."""
    text = data[header.start :].decode("ascii", errors="replace")
    lines: Lines = number_lines(text, first=header.line)
    if len(lines) < header.num_points:
        raise truncated(path, "points", header.num_points, len(lines))
    table = parse_rows(path, lines[: header.num_points])
    width = sum(field.count for field in header.fields)
    if table.shape[1] != width:
        raise CloudFileError(
            f"{path.name}: line {lines[0][0]} has not the {width} columns that the "
            f"header promises; {LOOK}"
        )
    columns: dict[str, np.ndarray] = {}
    at = 0
    for field in header.fields:
        values = _as_declared(path, field, table[:, at : at + field.count])
        columns |= field.columns(values)
        at += field.count
    return columns, len(lines) - header.num_points


def _as_declared(path: Path, field: _Field, values: np.ndarray) -> np.ndarray:
    """Keep the type where it matters: the bits of a packed colour, the scale of a byte."""
    if field.name not in PACKED_COLORS and field.dtype.kind == "f":
        return values
    if field.dtype.kind == "f":
        return values.astype(field.dtype)
    limits = np.iinfo(field.dtype)
    if not ((values >= limits.min) & (values <= limits.max)).all():
        raise CloudFileError(
            f"{path.name}: a {field.name[:30]!r} is not within {limits.min}..{limits.max} as its "
            "type promises; declare it as float"
        )
    return values.astype(field.dtype)


def _binary_columns(data: bytes, header: _Header) -> dict[str, np.ndarray]:
    # Padding fields may share a name, so numpy gets numbers.
    layout = [(str(i), field.dtype, (field.count,)) for i, field in enumerate(header.fields)]
    table = np.frombuffer(data, np.dtype(layout), header.num_points, header.start)
    columns: dict[str, np.ndarray] = {}
    for i, field in enumerate(header.fields):
        columns |= field.columns(table[str(i)])
    return columns


def _compressed_columns(path: Path, data: bytes, header: _Header) -> dict[str, np.ndarray]:
    """Columns of the compressed form, which holds one field after the other."""
    promised = header.num_points * header.row
    held = max(len(data) - header.start - 8, 0)
    packed, unpacked = struct.unpack_from("<II", data.ljust(header.start + 8, b"\0"), header.start)
    if packed > held:
        raise truncated(path, "compressed bytes", packed, held)
    if unpacked != promised:
        raise truncated(path, "bytes of points", promised, unpacked)
    body = data[header.start + 8 : header.start + 8 + packed]
    plain = _lzf_decompress(body, promised) if promised <= packed * LZF_EXPANSION else b""
    if len(plain) != promised:
        raise CloudFileError(f"{path.name}: its compressed points are damaged; {DAMAGED}")
    columns: dict[str, np.ndarray] = {}
    at = 0
    for field in header.fields:
        length = header.num_points * field.count
        values = np.frombuffer(plain, field.dtype, length, at)
        columns |= field.columns(values.reshape(header.num_points, field.count))
        at += length * field.dtype.itemsize
    return columns


def _lzf_decompress(data: bytes, size: int) -> bytes:
    """Undo LZF; stops where the data refers to what is not there or exceeds ``size``.

    A byte below 32 is followed by that many bytes and one more; others say how many bytes to
    repeat and how far back.
    """
    out = bytearray()
    at, end = 0, len(data)
    try:
        while at < end and len(out) < size:
            control = data[at]
            at += 1
            if control < 32:
                out += data[at : at + control + 1]
                at += control + 1
                continue
            length = control >> 5
            if length == 7:
                length += data[at]
                at += 1
            length += 2
            distance = ((control & 31) << 8) + data[at] + 1
            at += 1
            if distance > len(out):
                break
            if distance >= length:
                start = len(out) - distance
                out += out[start : start + length]
            else:  # the repeated bytes include some that are being written
                pattern = bytes(out[-distance:])
                out += (pattern * (length // distance + 1))[:length]
    except IndexError:  # the data ends within an instruction
        pass
    return bytes(out)
