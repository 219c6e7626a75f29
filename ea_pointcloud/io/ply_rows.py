"""The rows of PLY elements, where their length varies: lists of corners as bytes."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ea_pointcloud.io.common import truncated

PLURALS = {"vertex": "vertices", "face": "faces"}
FACE_LISTS = ("vertex_indices", "vertex_index")


class Property(NamedTuple):
    """A line of the header: a number of each row, or a list of numbers."""

    name: str
    code: str
    count_code: str | None  # of a list: the type of its length


@dataclass(frozen=True)
class Element:
    """A table, such as that of the vertices."""

    name: str
    count: int
    properties: list[Property]

    @property
    def has_list(self) -> bool:
        """Whether rows vary in length."""
        return any(field.count_code for field in self.properties)

    @property
    def plural(self) -> str:
        """What its rows are, for messages."""
        return PLURALS.get(self.name, f"{self.name} rows")


class _List(NamedTuple):
    before: int  # bytes of the row between the list before, or the start, and this one
    width: int  # bytes of its length
    is_signed: bool
    size: int  # bytes of a value
    is_wanted: bool


def binary_lists(
    path: Path, data: bytes, order: str, element: Element, start: int
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
