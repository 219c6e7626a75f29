"""The k nearest neighbours: small clouds are read whole, of large ones the boxes around a query."""

import numpy as np
import torch
from torch import Tensor

from ea_pointcloud.ops._cpu._boxes import box_gap, list_leaves, reach_of_nearest
from ea_pointcloud.ops._cpu._cloud import INF, LEAF, as_arrays, is_finite, pack, two_boxes
from ea_pointcloud.ops._cpu._kernel import ABOVE, kernel, unbits
from ea_pointcloud.ops._cpu._pool import parts, run
from ea_pointcloud.ops._cpu._select import (
    COUNTED,
    column_rows,
    first_candidates,
    gather_keys,
    largest,
    make_key,
    measure,
    shrink,
    sort_keys,
)

# From these numbers of points and of queries on, boxes save more than they cost.
BOXES_FROM = 3000
BOXES_FROM_QUERIES = 1024


def knn(query: Tensor, points: Tensor, k: int, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
    """See :func:`ea_pointcloud.ops.knn`."""
    queries, _ = as_arrays(query, None)
    batch, num_queries = queries.shape[:2]
    sq_dist = np.empty((batch, num_queries, k), np.float32)
    idx = np.empty((batch, num_queries, k), np.int64)
    if points.shape[1] < BOXES_FROM or num_queries < BOXES_FROM_QUERIES:
        clouds, sizes = as_arrays(points, lengths)
        rows = sq_dist.reshape(-1, k), idx.reshape(-1, k)
        ranges = parts(batch * num_queries, points.shape[1])
        run(_knn_rows, [(queries, clouds, sizes, i, j, *rows) for i, j in ranges])
    else:
        pairs = zip(*two_boxes(query, points, lengths, k), sq_dist, idx, queries, strict=True)
        jobs = []
        for boxes, blocks, distances, indices, centers in pairs:
            for i, j in parts(len(blocks.first), 1 << 17):
                jobs.append((boxes, blocks, i, j, distances, indices))
            if blocks.count < num_queries:
                _knn_invalid(centers, boxes.lowest, distances, indices)
        run(_knn_blocks, jobs)
    return torch.from_numpy(sq_dist), torch.from_numpy(idx)


@kernel
def _write(keys, count, table, ordered, sq_dist, idx, row):
    """Write the nearest of keys[:count] as a row, repeating the nearest where they are too few."""
    k = idx.shape[1]
    size = min(count, k)
    sort_keys(keys, count, table, ordered, size)
    for j in range(size):
        sq_dist[row, j] = unbits(np.int32(ordered[j] >> 32))
        idx[row, j] = ordered[j] & 0xFFFFFFFF
    for j in range(size, k):
        sq_dist[row, j] = sq_dist[row, 0] if size else np.float32(np.nan)
        idx[row, j] = idx[row, 0] if size else 0


@kernel
def _knn_rows(query, points, lengths, first_row, last_row, sq_dist, idx):
    """Rows of flattened queries (B, S, 3), each against all points of its cloud."""
    num_queries, k = query.shape[1], idx.shape[1]
    leaves = (points.shape[1] + LEAF - 1) // LEAF
    planes = np.empty((3, leaves, LEAF), np.float32)
    index = np.empty((leaves, LEAF), np.int32)
    sq_bits = np.empty((leaves, LEAF), np.int32)
    minima = np.empty((column_rows(k, leaves), LEAF), np.int32)
    keys = np.empty((leaves + 1) * LEAF, np.int64)
    table = np.empty((COUNTED // LEAF, LEAF), np.int32)
    ordered = np.empty(k, np.int64)
    cloud = first_row // num_queries
    count = pack(points[cloud], lengths[cloud], planes, index)
    for row in range(first_row, last_row):
        if row == (cloud + 1) * num_queries:
            cloud += 1
            count = pack(points[cloud], lengths[cloud], planes, index)
        s = row - cloud * num_queries
        x, y, z = query[cloud, s, 0], query[cloud, s, 1], query[cloud, s, 2]
        if not is_finite(x, y, z):
            x, y, z = INF, INF, INF
        used, wanted = (count + LEAF - 1) // LEAF, min(k, count)
        found = 0
        if count:
            found = first_candidates(planes, index, 0, used, x, y, z, wanted, sq_bits, minima, keys)
            found = shrink(keys, found, wanted)
        _write(keys, found, table, ordered, sq_dist, idx, row)


@kernel
def _knn_invalid(query, lowest, sq_dist, idx):
    """Rows of queries (S, 3) that are not finite: all points are infinitely far from them."""
    for row in range(len(query)):
        x, y, z = query[row, 0], query[row, 1], query[row, 2]
        if is_finite(x, y, z):
            continue
        for j in range(idx.shape[1]):
            sq_dist[row, j] = INF if len(lowest) else np.float32(np.nan)
            idx[row, j] = lowest[j if j < len(lowest) else 0] if len(lowest) else 0


@kernel
def _knn_blocks(boxes, blocks, first_block, last_block, sq_dist, idx):
    """Rows of the queries in some leaves of ``blocks``, against the points in ``boxes``."""
    k = min(idx.shape[1], boxes.count)
    leaves = (boxes.count + LEAF - 1) // LEAF
    bounds = np.empty((6, len(boxes.first)), np.float32)
    listed = np.empty(len(boxes.first), np.int32)
    gaps = np.empty(len(boxes.first), np.int32)
    first_leaves = min(leaves, k // LEAF + 2)
    sq_bits = np.empty((first_leaves, LEAF), np.int32)
    minima = np.empty((column_rows(k, first_leaves), LEAF), np.int32)
    keys = np.empty(3 * k + (first_leaves + 4) * LEAF, np.int64)
    table = np.empty((COUNTED // LEAF, LEAF), np.int32)
    ordered = np.empty(k, np.int64)
    for block in range(first_block, last_block):
        reach = reach_of_nearest(boxes, blocks, block, k)
        size = list_leaves(boxes, blocks, block, reach, bounds, listed)
        for n in range(LEAF):
            row = blocks.index[block, n]
            if row == ABOVE:
                break
            x, y = blocks.planes[0, block, n], blocks.planes[1, block, n]
            z = blocks.planes[2, block, n]
            count = search(boxes, x, y, z, k, bounds, listed, gaps, size, sq_bits, minima, keys)
            _write(keys, count, table, ordered, sq_dist, idx, row)


@kernel
def search(boxes, x, y, z, k, bounds, listed, gaps, size, sq_bits, minima, keys):
    """Collect the keys of the k nearest and few more of a query; returns how many."""
    if size == 0:
        return 0
    planes, index = boxes.planes, boxes.index
    closest = np.int32(ABOVE)
    for i in range(size):
        gaps[i] = box_gap(bounds, i, x, y, z)
        closest = min(closest, gaps[i])
    home = np.int32(size)
    for i in range(size):
        home = min(home, np.int32(i) if gaps[i] == closest else home)
    # As many neighbouring leaves as hold k points; the last may be short of them.
    leaves = (boxes.count + LEAF - 1) // LEAF
    first = np.int64(listed[home])
    last = first + 1
    while min(last * LEAF, boxes.count) - first * LEAF < k:
        if last < leaves:
            last += 1
        else:
            first -= 1
    count = first_candidates(planes, index, first, last, x, y, z, k, sq_bits, minima, keys)
    count = shrink(keys, count, k)
    worst = largest(keys, count)
    for i in range(size):
        leaf = np.int64(listed[i])
        if make_key(gaps[i], boxes.first[leaf]) > worst or first <= leaf < last:
            continue
        measure(planes, leaf, x, y, z, sq_bits, 0)
        count = gather_keys(sq_bits, 0, np.int32(worst >> 32), index, leaf, keys, count)
        if count > 2 * k + LEAF:
            count = shrink(keys, count, k)
            worst = largest(keys, count)
    return shrink(keys, count, k)
