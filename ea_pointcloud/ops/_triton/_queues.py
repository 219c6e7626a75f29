"""Nearest-first selection by one warp a query: every lane keeps a short sorted queue of keys.

A key is a squared distance and an index in one int64, ``bits << 32 | index``, so that the order of
keys is the order promised to callers: by distance, then by index. A lane that sees more of the
nearest than its queue is deep drops some; the result is certain up to the smallest key dropped. All
tensors have shape (ROWS, LANES), one row for each query and warp, even where a row holds one value:
its lanes then repeat it, and no value ever changes threads.
"""

# Triton types static_range as a class that cannot be iterated.
# pyright: reportGeneralTypeIssues=false
# Triton has no iterable unpacking.
# ruff: noqa: RUF005

import triton
import triton.language as tl

from ea_pointcloud.ops._triton._common import INFINITY, NO_INDEX, is_finite

LANES = tl.constexpr(32)
NO_KEY = tl.constexpr(0x7FFFFFFF_7FFFFFFF)  # above every key; NO_INDEX in both halves


def queue_depth(k: int) -> int:
    """Keys a lane keeps: of scattered points, few queries drop one of their ``k`` nearest.

    The nearest fall on 32 lanes at random, so a lane holds Poisson(k / 32) of them. The chance that
    any lane drops one is 0 up to k = 3, and at most 0.5 %, 0.6 %, 1.9 % and 0.8 % in the next rows.
    """
    return next(depth for most, depth in _DEPTHS if k <= most)


_DEPTHS = ((1, 1), (2, 2), (8, 3), (16, 4), (32, 5), (64, 8))


@triton.jit
def load_query(query_ptr, row):
    """(ROWS, 1) coordinates each; of a query that is not finite, infinities.

    Then every valid point is at a distance of infinity, and the others still at NaN.
    """
    x = tl.load(query_ptr + row * 3)
    y = tl.load(query_ptr + row * 3 + 1)
    z = tl.load(query_ptr + row * 3 + 2)
    finite = is_finite(x, y, z)
    infinity = float("inf")
    return (
        tl.where(finite, x, infinity),
        tl.where(finite, y, infinity),
        tl.where(finite, z, infinity),
    )


@triton.jit
def make_key(bits, index):
    """(ROWS, LANES) int64 keys; those of points that are not valid, at a distance NaN, are NO_KEY.

    Valid points are at infinity at most, whose bits only those of NaN exceed, whatever their sign.
    """
    key = (bits.to(tl.int64) << 32) | index
    return tl.where((bits & 0x7FFFFFFF) <= INFINITY, key, NO_KEY)


@triton.jit
def empty_queue(ROWS: tl.constexpr, DEPTH: tl.constexpr):
    """A tuple of DEPTH slots, ascending."""
    queue = ()
    for _ in tl.static_range(DEPTH):
        queue = queue + (tl.full((ROWS, LANES), NO_KEY, tl.int64),)
    return queue


@triton.jit
def push(queue, key, DEPTH: tl.constexpr):
    """Insert a key into each lane's queue of DEPTH; also returns the largest, which falls out."""
    kept = ()
    for slot in tl.static_range(DEPTH):
        smaller = key < queue[slot]
        kept = kept + (tl.where(smaller, key, queue[slot]),)
        key = tl.where(smaller, queue[slot], key)
    return kept, key


@triton.jit
def pop_all(queue, found, start, K: tl.constexpr, DEPTH: tl.constexpr, GROUPS: tl.constexpr):
    """Write the K smallest keys of each row into ``found`` from slot ``start`` on, ascending.

    ``found`` is a tuple of GROUPS tensors, lane l of the g-th the slot ``g * LANES + l``.
    """
    ahead = tl.arange(0, LANES)[None, :] - start
    for rank in range(K):
        # In halves: an int32 minimum over a warp is one instruction, an int64 one about thirty.
        bits, index = (queue[0] >> 32).to(tl.int32), queue[0].to(tl.int32)
        least = tl.min(bits, axis=1, keep_dims=True)
        first = tl.min(tl.where(bits == least, index, NO_INDEX), axis=1, keep_dims=True)
        taken = (bits == least) & (index == first)
        key = (least.to(tl.int64) << 32) | first
        written = ()
        for group in tl.static_range(GROUPS):
            here = ahead == rank - group * LANES
            written = written + (tl.where(here, key, found[group]),)
        found = written
        left = ()
        for slot in tl.static_range(DEPTH - 1):
            left = left + (tl.where(taken, queue[slot + 1], queue[slot]),)
        queue = left + (tl.where(taken, NO_KEY, queue[DEPTH - 1]),)
    return found


@triton.jit
def count_certain(found, bound, K: tl.constexpr, GROUPS: tl.constexpr):
    """(ROWS, LANES) int32: how many of the first K found keys are certain.

    ``bound`` is not above any dropped key, and NO_KEY if none was dropped: then all are certain,
    the slots left empty included.
    """
    lane = tl.arange(0, LANES)[None, :]
    count = tl.full(found[0].shape, 0, tl.int32)
    for group in tl.static_range(GROUPS):
        certain = (found[group] <= bound) & (lane + group * LANES < K)
        count += tl.sum(certain.to(tl.int32), axis=1, keep_dims=True)
    return count


@triton.jit
def key_before(found, count, GROUPS: tl.constexpr):
    """(ROWS, LANES) int64: the last of the first ``count`` found keys, -1 if there is none."""
    lane = tl.arange(0, LANES)[None, :]
    last = tl.full(found[0].shape, -1, tl.int64)
    for group in tl.static_range(GROUPS):
        before = tl.where(lane + group * LANES < count, found[group], -1)
        last = tl.maximum(last, tl.max(before, axis=1, keep_dims=True))
    return last


@triton.jit
def store_found(sq_dist_ptr, idx_ptr, row, inside, found, K: tl.constexpr, GROUPS: tl.constexpr):
    """Store K slots a row; those without a key repeat the nearest, or index 0 without any."""
    lane = tl.arange(0, LANES)[None, :]
    nearest = tl.min(found[0], axis=1, keep_dims=True)
    for group in tl.static_range(GROUPS):
        column = lane + group * LANES
        key = tl.where(found[group] == NO_KEY, nearest, found[group])
        bits, index = (key >> 32).to(tl.int32), key.to(tl.int32)
        index = tl.where(key == NO_KEY, 0, index)
        mask = inside & (column < K)
        tl.store(sq_dist_ptr + row * K + column, bits.to(tl.float32, bitcast=True), mask=mask)
        tl.store(idx_ptr + row * K + column, index.to(tl.int64), mask=mask)
