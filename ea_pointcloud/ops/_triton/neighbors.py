"""Nearest neighbours and ball query on the GPU: one warp a query, exact, every point looked at.

Clouds of more than ``SCAN_POINTS`` and the k nearest go to ``large_neighbors``, which prunes.
"""

# Triton types a kernel as the function it decorates, which has no launch options, and static_range
# as a class that cannot be iterated.
# pyright: reportCallIssue=false, reportGeneralTypeIssues=false
# Triton has no iterable unpacking.
# ruff: noqa: RUF005

import torch
import triton
import triton.language as tl
from torch import Tensor

from ea_pointcloud.ops import _reference
from ea_pointcloud.ops._triton import large_neighbors
from ea_pointcloud.ops._triton._common import INFINITY, NO_INDEX, is_finite, sq_dist_bits
from ea_pointcloud.ops._triton._queues import (
    LANES,
    NO_KEY,
    count_certain,
    empty_queue,
    key_before,
    load_query,
    make_key,
    pop_all,
    push,
    queue_depth,
    store_found,
)

SCAN_POINTS = 30_000  # beyond, sorting the cloud first pays
MAX_K = 64  # the deepest queues; rarely asked for more
ROWS = 1  # queries, and warps, of a program: several would wait for the slowest, at barriers

# A rough key is a distance whose last ten bits are replaced by the iteration in which a lane saw
# the point.
_ITERATION = tl.constexpr(0x3FF)
_ROUGH = tl.constexpr(0x7FFFFC00)
assert (_ITERATION.value + 1) * LANES.value >= SCAN_POINTS
# Points between two looks at whether all balls are full.
_BALL_STRIDE = tl.constexpr(256)


def knn(query: Tensor, points: Tensor, k: int, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
    """See :func:`ea_pointcloud.ops.knn`."""
    if k > MAX_K:
        return _reference.knn(query, points, k, lengths)
    query = query.contiguous()
    shape = (*query.shape[:2], k)
    sq_dist = torch.empty(shape, dtype=torch.float32, device=query.device)
    idx = torch.empty(shape, dtype=torch.long, device=query.device)
    with torch.cuda.device_of(query):
        if points.shape[1] > SCAN_POINTS:
            large_neighbors.launch_knn(query, points, lengths, sq_dist, idx)
            return sq_dist, idx
        planes = _to_planes(points, lengths)
        scan_knn[_grid(query)](
            query,
            planes,
            sq_dist,
            idx,
            query.shape[1],
            planes.shape[-1],
            K=k,
            DEPTH=queue_depth(k),
            GROUPS=triton.cdiv(k, LANES.value),
            ROWS=ROWS,
            num_warps=ROWS,
            enable_fp_fusion=False,
        )
    return sq_dist, idx


def ball_query(
    query: Tensor, points: Tensor, radius: float, k: int, lengths: Tensor | None
) -> tuple[Tensor, Tensor]:
    """See :func:`ea_pointcloud.ops.ball_query`."""
    query = query.contiguous()
    idx = torch.empty(*query.shape[:2], k, dtype=torch.long, device=query.device)
    count = torch.empty(query.shape[:2], dtype=torch.long, device=query.device)
    # A kernel gets it through a double, which holds every float32.
    sq_radius = torch.tensor(radius, dtype=torch.float32, device="cpu").square().item()
    with torch.cuda.device_of(query):
        planes = _to_planes(points, lengths)
        scan_ball[_grid(query)](
            query,
            planes,
            idx,
            count,
            query.shape[1],
            planes.shape[-1],
            k,
            sq_radius,
            ROWS=ROWS,
            num_warps=ROWS,
            enable_fp_fusion=False,
        )
    return idx, count


def _grid(query: Tensor) -> tuple[int]:
    batch, num_queries = query.shape[:2]
    return (batch * -(-num_queries // ROWS),)


def _to_planes(points: Tensor, lengths: Tensor | None) -> Tensor:
    """(B, 3, P) coordinates, P a multiple of the lanes, NaN where there is no valid point."""
    batch, num_points = points.shape[:2]
    padded = num_points + -num_points % LANES.value
    planes = torch.empty(batch, 3, padded, dtype=torch.float32, device=points.device)
    block = 256
    split_planes[(batch * triton.cdiv(padded, block),)](
        points,
        None if lengths is None else lengths.contiguous(),
        planes,
        num_points,
        padded,
        *points.stride(),
        BLOCK=block,
        num_warps=block // 32,
    )
    return planes


@triton.jit(do_not_specialize=["num_points", "padded", "cloud_step", "point_step", "axis_step"])
def split_planes(
    xyz_ptr,
    lengths_ptr,
    planes_ptr,
    num_points,
    padded,
    cloud_step,
    point_step,
    axis_step,
    BLOCK: tl.constexpr,
):
    """(B, N, 3) ``xyz`` of any strides -> (B, 3, P) ``planes``, NaN where there is no valid point.

    So the one mark of a point that does not count is the distance NaN, at no cost in the scans.
    """
    parts = tl.cdiv(padded, BLOCK)
    cloud = (tl.program_id(0) // parts).to(tl.int64)
    point = tl.program_id(0) % parts * BLOCK + tl.arange(0, BLOCK)
    at = xyz_ptr + cloud * cloud_step + point.to(tl.int64) * point_step
    valid = point < num_points
    if lengths_ptr is not None:
        valid &= point < tl.load(lengths_ptr + cloud)
    x = tl.load(at, mask=valid, other=0.0)
    y = tl.load(at + axis_step, mask=valid, other=0.0)
    z = tl.load(at + axis_step * 2, mask=valid, other=0.0)
    valid &= is_finite(x, y, z)
    out = planes_ptr + cloud * 3 * padded + point
    tl.store(out, tl.where(valid, x, float("nan")), mask=point < padded)
    tl.store(out + padded, tl.where(valid, y, float("nan")), mask=point < padded)
    tl.store(out + padded * 2, tl.where(valid, z, float("nan")), mask=point < padded)


@triton.jit
def _bits_at(planes_ptr, padded, point, x, y, z):
    dx = x - tl.load(planes_ptr + point)
    dy = y - tl.load(planes_ptr + padded + point)
    dz = z - tl.load(planes_ptr + padded * 2 + point)
    return sq_dist_bits(dx, dy, dz)


@triton.jit(do_not_specialize=["num_queries", "padded"])
def scan_knn(
    query_ptr,
    planes_ptr,
    sq_dist_ptr,
    idx_ptr,
    num_queries,
    padded,
    K: tl.constexpr,
    DEPTH: tl.constexpr,
    GROUPS: tl.constexpr,
    ROWS: tl.constexpr,
):
    """ROWS queries (S, 3) of a cloud, (3, P) ``planes`` -> (S, K) ``sq_dist`` and ``idx``.

    The first scan orders points by rough keys of 32 bits, at a third of the cost, and gives those
    that it kept their exact keys. A row is certain up to the rough distance of what it dropped:
    that is not above the exact one. If that is not the whole row, scans by exact keys follow, each
    from the last certain key on and certain of DEPTH more at least.
    """
    parts = tl.cdiv(num_queries, ROWS)
    cloud = (tl.program_id(0) // parts).to(tl.int64)
    row = tl.program_id(0) % parts * ROWS + tl.arange(0, ROWS)[:, None]
    inside = row < num_queries
    row = cloud * num_queries + tl.minimum(row, num_queries - 1)
    x, y, z = load_query(query_ptr, row)
    planes_ptr += cloud * 3 * padded
    lane = tl.arange(0, LANES)[None, :]

    rough = ()
    for _ in tl.static_range(DEPTH):
        rough = rough + (tl.full((ROWS, LANES), NO_INDEX, tl.int32),)
    rough_dropped = tl.full((ROWS, LANES), NO_INDEX, tl.int32)
    for first in range(0, padded, LANES):
        key = (_bits_at(planes_ptr, padded, first + lane, x, y, z) & _ROUGH) | (first // LANES)
        kept = ()
        for slot in tl.static_range(DEPTH):
            kept = kept + (tl.minimum(rough[slot], key),)
            key = tl.maximum(rough[slot], key)
        rough = kept
        rough_dropped = tl.minimum(rough_dropped, key)

    queue = ()
    for slot in tl.static_range(DEPTH):
        # An empty slot reads any point and is emptied again.
        point = tl.minimum((rough[slot] & _ITERATION) * LANES + lane, padded - 1)
        bits = _bits_at(planes_ptr, padded, point, x, y, z)
        key = make_key(tl.where(rough[slot] == NO_INDEX, NO_INDEX, bits), point)
        kept, key = push(queue, key, slot)
        queue = kept + (key,)

    found = empty_queue(ROWS, GROUPS)
    start = tl.full((ROWS, LANES), 0, tl.int32)
    found = pop_all(queue, found, start, K, DEPTH, GROUPS)
    bound = tl.min(rough_dropped & _ROUGH, axis=1, keep_dims=True)
    bound = tl.where(bound > INFINITY, NO_KEY, bound.to(tl.int64) << 32)
    count = count_certain(found, bound, K, GROUPS)
    while tl.min(count) < K:
        floor = key_before(found, count, GROUPS)
        queue = empty_queue(ROWS, DEPTH)
        dropped = tl.full((ROWS, LANES), NO_KEY, tl.int64)
        for first in range(0, padded, LANES):
            key = make_key(_bits_at(planes_ptr, padded, first + lane, x, y, z), first + lane)
            queue, key = push(queue, tl.where(key > floor, key, NO_KEY), DEPTH)
            dropped = tl.minimum(dropped, key)
        found = pop_all(queue, found, count, K, DEPTH, GROUPS)
        bound = tl.min(dropped, axis=1, keep_dims=True)
        count = count_certain(found, bound, K, GROUPS)
    store_found(sq_dist_ptr, idx_ptr, row, inside, found, K, GROUPS)


@triton.jit(do_not_specialize=["num_queries", "padded", "k"])
def scan_ball(
    query_ptr,
    planes_ptr,
    idx_ptr,
    count_ptr,
    num_queries,
    padded,
    k,
    sq_radius,
    ROWS: tl.constexpr,
):
    """ROWS queries (S, 3) of a cloud, (3, P) ``planes`` -> (S, K) ``idx`` and (S,) ``count``."""
    parts = tl.cdiv(num_queries, ROWS)
    cloud = (tl.program_id(0) // parts).to(tl.int64)
    row = tl.program_id(0) % parts * ROWS + tl.arange(0, ROWS)[:, None]
    inside = row < num_queries
    row = cloud * num_queries + tl.minimum(row, num_queries - 1)
    x, y, z = load_query(query_ptr, row)
    limit = tl.where(x < float("inf"), sq_radius, -1.0)
    planes_ptr += cloud * 3 * padded
    out = idx_ptr + row * k
    lane = tl.arange(0, LANES)[None, :]

    count = tl.full((ROWS, LANES), 0, tl.int32)
    first = tl.full((ROWS, LANES), NO_INDEX, tl.int32)
    near_bits = tl.full((ROWS, LANES), INFINITY + 1, tl.int32)  # above valid points, below NaN
    nearest = tl.full((ROWS, LANES), NO_INDEX, tl.int32)
    begin = 0
    while (begin < padded) & (tl.min(count) < k):
        end = tl.minimum(begin + _BALL_STRIDE, padded)
        for start in range(begin, end, LANES):
            point = start + lane
            bits = _bits_at(planes_ptr, padded, point, x, y, z)
            hit = bits.to(tl.float32, bitcast=True) <= limit  # false for NaN
            column = count + tl.cumsum(hit.to(tl.int32), axis=1) - 1
            tl.store(out + column, point.to(tl.int64), mask=inside & hit & (column < k))
            count += tl.sum(hit.to(tl.int32), axis=1, keep_dims=True)
            first = tl.minimum(first, tl.where(hit, point, NO_INDEX))
            bits &= 0x7FFFFFFF  # NaN of either sign
            nearer = bits < near_bits  # a lane sees its points in order, so the first of equals
            nearest = tl.where(nearer, point, nearest)
            near_bits = tl.where(nearer, bits, near_bits)
        begin = end

    least = tl.min(near_bits, axis=1, keep_dims=True)
    nearest = tl.where(near_bits == least, nearest, NO_INDEX)
    nearest = tl.min(nearest, axis=1, keep_dims=True)
    first = tl.min(first, axis=1, keep_dims=True)
    rest = tl.where(first == NO_INDEX, nearest, first)
    rest = tl.where(rest == NO_INDEX, 0, rest)  # a cloud without a valid point
    for start in range(0, k, LANES):
        column = start + lane
        mask = inside & (column >= count) & (column < k)
        tl.store(out + column, (rest + tl.zeros_like(column)).to(tl.int64), mask=mask)
    count = tl.minimum(count, k).to(tl.int64)
    tl.store(count_ptr + row + lane, count, mask=inside & (lane == 0))
