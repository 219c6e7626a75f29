"""A cloud as the kernels read it: valid points in planes, of large clouds sorted into boxes.

Points near each other share a leaf of 64, leaves near each other a group of 32, and each leaf and
group has a box. The bound that a box gives is computed in the same float32 steps as a distance, and
rounding keeps order, so leaving a box out by its bound never changes a result.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ea_pointcloud.ops._cpu._kernel import ABOVE, bits, kernel, unbits
from ea_pointcloud.ops._cpu._pool import num_threads, run

LEAF = 64
GROUP = 32

NAN = np.float32(np.nan)
INF = np.float32(np.inf)


class Boxes(NamedTuple):
    """A cloud cut into L leaves and G = L / 32 groups.

    The last leaf with points may be short of them, and empty leaves fill the last group. There,
    coordinates are NaN, indices ABOVE every other, and boxes infinitely far.
    """

    planes: NDArray[np.float32]  # (3, L, 64) x, y, z
    index: NDArray[np.int32]  # (L, 64) index in the caller's cloud
    first: NDArray[np.int32]  # (L,) lowest index of each leaf
    leaves: NDArray[np.float32]  # (6, L) lowest x, highest x, lowest y, ...
    groups: NDArray[np.float32]  # (6, G)
    lowest: NDArray[np.int64]  # the lowest indices of valid points, ascending
    count: int  # valid points


def as_arrays(xyz: Tensor, lengths: Tensor | None) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Clouds (B, N, 3) without gaps between the numbers, and the points of each (B,)."""
    if lengths is None:
        sizes = np.full(len(xyz), xyz.shape[1])
    else:
        # Kernels trust the sizes, and a compiled graph skips the check of their values.
        sizes = lengths.long().clamp(0, xyz.shape[1]).contiguous().numpy()
    return xyz.contiguous().numpy(), sizes


def build(xyz: NDArray[np.float32], sizes: NDArray[np.int64], num_lowest: int) -> list[Boxes]:
    """Boxes of each cloud of xyz (B, N, 3), with its ``num_lowest`` lowest valid indices."""
    records = [np.empty((xyz.shape[1], 4), np.int32) for _ in xyz]
    counts = run(_collect, list(zip(xyz, sizes, records, strict=True)))
    records = [rows[:count] for rows, count in zip(records, counts, strict=True)]
    clouds = [_unfilled(rows, num_lowest) for rows in records]
    pieces = records
    # A large cloud is first cut into pieces, so that all threads have one to sort.
    while len(pieces) < 2 * num_threads() and min(map(len, pieces), default=0) > 4 * LEAF * GROUP:
        middles = run(_split, [(piece,) for piece in pieces])
        halves = zip(pieces, middles, strict=True)
        pieces = [half for piece, at in halves for half in (piece[:at], piece[at:])]
    run(_sort, [(piece,) for piece in pieces])
    run(_fill, list(zip(records, clouds, strict=True)))
    return clouds


def two_boxes(
    query: Tensor, points: Tensor, lengths: Tensor | None, num_lowest: int
) -> tuple[list[Boxes], list[Boxes]]:
    """Boxes of the points, and of the queries, which often are the points."""
    boxes = build(*as_arrays(points, lengths), num_lowest)
    same = query.data_ptr() == points.data_ptr() and query.shape == points.shape
    complete = all(cloud.count == points.shape[1] for cloud in boxes)
    if same and complete and query.stride() == points.stride():
        return boxes, boxes
    return boxes, build(*as_arrays(query, None), 0)


def _unfilled(records: NDArray[np.int32], num_lowest: int) -> Boxes:
    groups = max(1, -(-len(records) // (LEAF * GROUP)))
    leaves = groups * GROUP
    return Boxes(
        planes=np.empty((3, leaves, LEAF), np.float32),
        index=np.empty((leaves, LEAF), np.int32),
        first=np.empty(leaves, np.int32),
        leaves=np.empty((6, leaves), np.float32),
        groups=np.empty((6, groups), np.float32),
        lowest=records[:num_lowest, 3].astype(np.int64),
        count=len(records),
    )


@kernel
def is_finite(x, y, z):
    """Whether all three coordinates are."""
    return np.isfinite(x) and np.isfinite(y) and np.isfinite(z)


@kernel
def pack(xyz, size, planes, index):
    """Copy the valid points of xyz (N, 3) to planes (3, L, 64) in order; returns their number."""
    x, y, z = planes[0].reshape(-1), planes[1].reshape(-1), planes[2].reshape(-1)
    original = index.reshape(-1)
    count = 0
    for n in range(size):
        if is_finite(xyz[n, 0], xyz[n, 1], xyz[n, 2]):
            x[count], y[count], z[count] = xyz[n, 0], xyz[n, 1], xyz[n, 2]
            original[count] = n
            count += 1
    for n in range(count, len(original)):
        x[n], y[n], z[n] = NAN, NAN, NAN
        original[n] = ABOVE
    return count


@kernel
def _sortable(pattern):
    """An int32 ordered like the float32 of this bit pattern; undoes itself."""
    return pattern ^ ((pattern >> np.int32(31)) & np.int32(ABOVE))


@kernel
def _collect(xyz, size, records):
    """Copy the valid points of xyz (N, 3) to records (N, 4): sortable x, y, z, and the index."""
    count = 0
    for n in range(size):
        if is_finite(xyz[n, 0], xyz[n, 1], xyz[n, 2]):
            for axis in range(3):
                records[count, axis] = _sortable(bits(xyz[n, axis]))
            records[count, 3] = n
            count += 1
    return count


@kernel
def _swap(records, i, j):
    """Exchange two records, each of them one 16-byte move."""
    a, b, c, d = records[i, 0], records[i, 1], records[i, 2], records[i, 3]
    e, f, g, h = records[j, 0], records[j, 1], records[j, 2], records[j, 3]
    records[i, 0], records[i, 1], records[i, 2], records[i, 3] = e, f, g, h
    records[j, 0], records[j, 1], records[j, 2], records[j, 3] = a, b, c, d


@kernel
def _select(records, axis, middle):
    """Reorder records so that none before ``middle`` lies above any other along the axis."""
    low, high = 0, len(records)
    draw = np.int64(1)
    while high - low > 1:
        # From anywhere: a scan's own order, there and back for one, would defeat fixed positions.
        draw = (draw * 1103515245 + 12345) & 0x7FFFFFFF
        a = records[low + draw % (high - low), axis]
        draw = (draw * 1103515245 + 12345) & 0x7FFFFFFF
        b = records[low + draw % (high - low), axis]
        draw = (draw * 1103515245 + 12345) & 0x7FFFFFFF
        c = records[low + draw % (high - low), axis]
        pivot = max(min(a, b), min(max(a, b), c))
        # A comparison moves the border instead of deciding a branch, which nothing could predict.
        border = low
        for i in range(low, high):
            below = records[i, axis] < pivot
            _swap(records, i, border)
            border += below
        if middle < border:
            high = border
        elif border > low:
            low = border
        else:  # the pivot is the least: take out its equals, of which there may be many
            for i in range(low, high):
                equal = records[i, axis] == pivot
                _swap(records, i, border)
                border += equal
            low = border
        if middle <= low:
            return


@kernel
def _split(records):
    """Halve records across their widest axis, at a whole group or leaf; returns where."""
    count = len(records)
    axis = 0
    widest = np.float32(-1)
    for candidate in range(3):
        low = high = records[0, candidate]
        for i in range(count):
            low = min(low, records[i, candidate])
            high = max(high, records[i, candidate])
        width = unbits(_sortable(high)) - unbits(_sortable(low))
        if width > widest:
            widest = width
            axis = candidate
    unit = LEAF * GROUP if count > LEAF * GROUP else LEAF
    middle = (count + unit - 1) // unit // 2 * unit
    _select(records, axis, middle)
    return middle


@kernel
def _sort(records):
    """Split records until those of each leaf stand together."""
    stack = np.empty((64, 2), np.int64)  # more than halvings of any cloud that fits in memory
    stack[0, 0], stack[0, 1] = 0, len(records)
    depth = 1
    while depth > 0:
        depth -= 1
        low, high = stack[depth, 0], stack[depth, 1]
        while high - low > LEAF:
            middle = low + _split(records[low:high])
            stack[depth, 0], stack[depth, 1] = middle, high
            depth += 1
            high = middle


@kernel
def _fill(records, boxes):
    """Copy sorted records to their leaves, and bound leaves and groups."""
    planes, index = boxes.planes, boxes.index
    for group in range(boxes.groups.shape[1]):
        for axis in range(3):
            boxes.groups[2 * axis, group], boxes.groups[2 * axis + 1, group] = INF, -INF
    for leaf in range(len(index)):
        group, start = leaf // GROUP, leaf * LEAF
        count = min(LEAF, max(0, len(records) - start))
        first = np.int32(ABOVE)
        for n in range(count):
            index[leaf, n] = records[start + n, 3]
            first = min(first, index[leaf, n])
        boxes.first[leaf] = first
        for n in range(count, LEAF):
            index[leaf, n] = ABOVE
        for axis in range(3):
            low, high = INF, -INF
            for n in range(count):
                at = unbits(_sortable(records[start + n, axis]))
                planes[axis, leaf, n] = at
                low, high = min(low, at), max(high, at)
            for n in range(count, LEAF):
                planes[axis, leaf, n] = NAN
            bound = 2 * axis
            boxes.leaves[bound, leaf], boxes.leaves[bound + 1, leaf] = low, high
            boxes.groups[bound, group] = min(boxes.groups[bound, group], low)
            boxes.groups[bound + 1, group] = max(boxes.groups[bound + 1, group], high)
