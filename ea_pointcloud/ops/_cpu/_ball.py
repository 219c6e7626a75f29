"""Ball query: small clouds are read in index order, of large ones the boxes that a ball meets."""

import numpy as np
import torch
from torch import Tensor

from ea_pointcloud.ops._cpu._boxes import box_gap, list_leaves, reach_of_nearest
from ea_pointcloud.ops._cpu._cloud import INF, LEAF, as_arrays, is_finite, pack, two_boxes
from ea_pointcloud.ops._cpu._kernel import ABOVE, kernel, lowest_bit, within
from ea_pointcloud.ops._cpu._neighbors import search
from ea_pointcloud.ops._cpu._pool import parts, run
from ea_pointcloud.ops._cpu._select import COUNTED, largest, measure, shrink, sort_keys

# From these numbers of points and of queries on, boxes save more than they cost: in small balls.
# Large ones are full after a few leaves in the order of the points.
BOXES_FROM = 16384
BOXES_FROM_QUERIES = 1024

NONE = np.int32(-1)  # a limit that no distance keeps


def ball_query(
    query: Tensor, points: Tensor, radius: float, k: int, lengths: Tensor | None
) -> tuple[Tensor, Tensor]:
    """See :func:`ea_pointcloud.ops.ball_query`."""
    with np.errstate(over="ignore", under="ignore"):
        limit = (np.float32(radius) * np.float32(radius)).view(np.int32)
    queries, _ = as_arrays(query, None)
    batch, num_queries = queries.shape[:2]
    idx = np.empty((batch, num_queries, k), np.int64)
    count = np.empty((batch, num_queries), np.int64)
    if points.shape[1] < BOXES_FROM or num_queries < BOXES_FROM_QUERIES:
        clouds, sizes = as_arrays(points, lengths)
        rows = idx.reshape(-1, k), count.reshape(-1)
        ranges = parts(batch * num_queries, points.shape[1])
        run(_ball_rows, [(queries, clouds, sizes, limit, i, j, *rows) for i, j in ranges])
    else:
        pairs = zip(*two_boxes(query, points, lengths, 1), idx, count, queries, strict=True)
        jobs = []
        for boxes, blocks, hits, counts, centers in pairs:
            for i, j in parts(len(blocks.first), 1 << 17):
                jobs.append((boxes, blocks, limit, i, j, hits, counts))
            if blocks.count < num_queries:
                _ball_invalid(centers, boxes.lowest, hits, counts)
        run(_ball_blocks, jobs)
    return torch.from_numpy(idx), torch.from_numpy(count)


@kernel
def _ball_rows(query, points, lengths, limit, first_row, last_row, idx, count):
    """Rows of flattened queries (B, S, 3), each against the points of its cloud in their order."""
    num_queries, k = query.shape[1], idx.shape[1]
    leaves = (points.shape[1] + LEAF - 1) // LEAF
    planes = np.empty((3, leaves, LEAF), np.float32)
    index = np.empty((leaves, LEAF), np.int32)
    sq_bits = np.empty((leaves, LEAF), np.int32)
    cloud = first_row // num_queries
    used = (pack(points[cloud], lengths[cloud], planes, index) + LEAF - 1) // LEAF
    for row in range(first_row, last_row):
        if row == (cloud + 1) * num_queries:
            cloud += 1
            used = (pack(points[cloud], lengths[cloud], planes, index) + LEAF - 1) // LEAF
        s = row - cloud * num_queries
        x, y, z = query[cloud, s, 0], query[cloud, s, 1], query[cloud, s, 2]
        reach = limit
        if not is_finite(x, y, z):
            x, y, z, reach = INF, INF, INF, NONE
        found = 0
        for leaf in range(used):
            measure(planes, leaf, x, y, z, sq_bits, leaf)
            mask = within(sq_bits, leaf, reach)
            while mask != 0 and found < k:
                idx[row, found] = index[leaf, lowest_bit(mask) & np.uint64(LEAF - 1)]
                mask &= mask - np.uint64(1)
                found += 1
            if found == k:
                break
        count[row] = found
        if found == 0:
            idx[row, 0] = _first_nearest(sq_bits, index, used)
        for j in range(max(1, found), k):
            idx[row, j] = idx[row, 0]


@kernel
def _first_nearest(sq_bits, index, leaves):
    """The first point of least distance; zero without points."""
    nearest = np.int32(ABOVE)
    for leaf in range(leaves):
        for n in range(LEAF):
            nearest = min(nearest, sq_bits[leaf, n])
    for leaf in range(leaves):
        mask = within(sq_bits, leaf, nearest)
        if mask != 0:
            return index[leaf, lowest_bit(mask) & np.uint64(LEAF - 1)]
    return np.int32(0)


@kernel
def _ball_invalid(query, lowest, idx, count):
    """Rows of queries (S, 3) that are not finite: empty, with the first valid point."""
    for row in range(len(query)):
        x, y, z = query[row, 0], query[row, 1], query[row, 2]
        if not is_finite(x, y, z):
            count[row] = 0
            for j in range(idx.shape[1]):
                idx[row, j] = lowest[0] if len(lowest) else 0


@kernel
def _ball_blocks(boxes, blocks, limit, first_block, last_block, idx, count):
    """Rows of the queries in some leaves of ``blocks``, against the points in ``boxes``."""
    bounds = np.empty((6, len(boxes.first)), np.float32)
    listed = np.empty(len(boxes.first), np.int32)
    gaps = np.empty(len(boxes.first), np.int32)
    sq_bits = np.empty((2, LEAF), np.int32)
    minima = np.empty((1, LEAF), np.int32)
    k = idx.shape[1]
    keys = np.empty(3 * k + 8 * LEAF, np.int64)
    table = np.empty((COUNTED // LEAF, LEAF), np.int32)
    ordered = np.empty(k, np.int64)
    for block in range(first_block, last_block):
        size = list_leaves(boxes, blocks, block, limit, bounds, listed)
        empty = 0
        for n in range(LEAF):
            row = blocks.index[block, n]
            if row == ABOVE:
                break
            x, y = blocks.planes[0, block, n], blocks.planes[1, block, n]
            z = blocks.planes[2, block, n]
            found = _hits(boxes, x, y, z, limit, k, bounds, listed, gaps, size, sq_bits, keys)
            count[row] = min(found, k)
            empty += found == 0
            sort_keys(keys, found, table, ordered, count[row])
            for j in range(k):
                idx[row, j] = ordered[j if j < found else 0] >> 32
        if empty == 0:
            continue
        reach = reach_of_nearest(boxes, blocks, block, 1)
        size = list_leaves(boxes, blocks, block, reach, bounds, listed)
        for n in range(LEAF):
            row = blocks.index[block, n]
            if row == ABOVE:
                break
            if count[row] > 0:
                continue
            x, y = blocks.planes[0, block, n], blocks.planes[1, block, n]
            z = blocks.planes[2, block, n]
            found = search(boxes, x, y, z, 1, bounds, listed, gaps, size, sq_bits, minima, keys)
            sort_keys(keys, found, table, ordered, min(found, 1))
            for j in range(k):
                idx[row, j] = ordered[0] & 0xFFFFFFFF if found else 0


@kernel
def _hits(boxes, x, y, z, limit, k, bounds, listed, gaps, size, sq_bits, keys):
    """Collect the k lowest indices of a ball and few more, shifted to sort; returns how many."""
    for i in range(size):
        gaps[i] = box_gap(bounds, i, x, y, z)
    last = np.int32(ABOVE - 1)  # no higher index can be among the k lowest
    count = 0
    for i in range(size):
        leaf = np.int64(listed[i])
        if gaps[i] > limit or boxes.first[leaf] > last:
            continue
        measure(boxes.planes, leaf, x, y, z, sq_bits, 0)
        mask = within(sq_bits, 0, limit) & within(boxes.index, leaf, last)
        while mask != 0:
            n = lowest_bit(mask) & np.uint64(LEAF - 1)
            mask &= mask - np.uint64(1)
            keys[count] = np.int64(boxes.index[leaf, n]) << 32
            count += 1
        if count > k + LEAF:
            count = shrink(keys, count, k)
            last = np.int32(largest(keys, count) >> 32)
    return shrink(keys, count, k)
