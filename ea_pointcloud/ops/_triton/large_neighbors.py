"""The k nearest of large clouds on the GPU: one warp a query walks the boxes that it can reach."""

# Triton types a kernel as the function it decorates, which has no launch options, and static_range
# as a class that cannot be iterated.
# pyright: reportCallIssue=false, reportGeneralTypeIssues=false

import torch
import triton
import triton.language as tl
from torch import Tensor

from ea_pointcloud.ops._coordinates import valid_points
from ea_pointcloud.ops._triton._common import (
    NO_INDEX,
    box_bits,
    morton_order,
    sort_into_blocks,
    sq_dist_bits,
)
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

BLOCK_POINTS = 64  # two of them hold the most neighbours of a query


def launch_knn(
    query: Tensor, points: Tensor, lengths: Tensor | None, sq_dist: Tensor, idx: Tensor
) -> None:
    """Fill (B, S, K) ``sq_dist`` and ``idx``; see :func:`ea_pointcloud.ops.knn`.

    The points are sorted into blocks with boxes, and the blocks into groups with boxes. A query
    looks at every block whose box is not farther than the k-th of a few points near it, of which
    there are a handful on a surface.
    """
    k = idx.shape[-1]
    blocks = sort_into_blocks(points, valid_points(points, lengths), BLOCK_POINTS)
    group_low = _by_group(blocks.low, torch.inf).amin(-1)
    group_high = _by_group(blocks.high, -torch.inf).amax(-1)
    # Programs that run at the same time then read the same blocks.
    order = morton_order(query, query.isfinite().all(-1))
    walk_knn[(query.shape[0] * query.shape[1],)](
        query,
        order,
        blocks.xyz,
        blocks.index,
        blocks.low,
        blocks.high,
        group_low,
        group_high,
        sq_dist,
        idx,
        query.shape[1],
        blocks.low.shape[-1],
        group_low.shape[-1],
        BLOCK=BLOCK_POINTS,
        K=k,
        DEPTH=queue_depth(k),
        GROUPS=triton.cdiv(k, LANES.value),
        num_warps=1,
        enable_fp_fusion=False,
    )


def _by_group(corner: Tensor, empty: float) -> Tensor:
    """(B, 3, Q) corners of blocks -> (B, 3, G, LANES), filled up with empty boxes."""
    lanes = LANES.value
    corner = torch.nn.functional.pad(corner, (0, -corner.shape[-1] % lanes), value=empty)
    return corner.view(*corner.shape[:2], corner.shape[-1] // lanes, lanes)


@triton.jit
def _box_bits_at(low_ptr, high_ptr, step, at, x, y, z):
    """Bits of the bound of box ``at`` in (3, step) corners; infinite past the last."""
    inside = at < step
    empty = float("inf")
    low_x = tl.load(low_ptr + at, mask=inside, other=empty)
    low_y = tl.load(low_ptr + step + at, mask=inside, other=empty)
    low_z = tl.load(low_ptr + step * 2 + at, mask=inside, other=empty)
    high_x = tl.load(high_ptr + at, mask=inside, other=-empty)
    high_y = tl.load(high_ptr + step + at, mask=inside, other=-empty)
    high_z = tl.load(high_ptr + step * 2 + at, mask=inside, other=-empty)
    return box_bits(x, y, z, low_x, low_y, low_z, high_x, high_y, high_z)


@triton.jit
def _keys_at(xyz_ptr, index_ptr, step, at, x, y, z):
    """Keys of the points ``at`` in (3, step) planes."""
    dx = x - tl.load(xyz_ptr + at)
    dy = y - tl.load(xyz_ptr + step + at)
    dz = z - tl.load(xyz_ptr + step * 2 + at)
    index = tl.load(index_ptr + at)
    return tl.where(index < 0, NO_KEY, make_key(sq_dist_bits(dx, dy, dz), index))


@triton.jit(do_not_specialize=["num_queries", "num_blocks", "num_groups"])
def walk_knn(
    query_ptr,
    order_ptr,
    xyz_ptr,
    index_ptr,
    low_ptr,
    high_ptr,
    group_low_ptr,
    group_high_ptr,
    sq_dist_ptr,
    idx_ptr,
    num_queries,
    num_blocks,
    num_groups,
    BLOCK: tl.constexpr,
    K: tl.constexpr,
    DEPTH: tl.constexpr,
    GROUPS: tl.constexpr,
):
    """One query of (S, 3), Q blocks of BLOCK points, G groups of LANES blocks -> (K,) results.

    A block is passed over only where the bound of its box is above the limit, the distance of the
    k-th among the points seen at first: it then holds no point that could be returned, not even by
    a lower index at an equal distance.
    """
    cloud = (tl.program_id(0) // num_queries).to(tl.int64)
    lane = tl.arange(0, LANES)[None, :]
    one = tl.arange(0, 1)[:, None]  # (1, 1): the row
    row = cloud * num_queries + tl.load(order_ptr + tl.program_id(0) + one)
    x, y, z = load_query(query_ptr, row)
    # Bounds need finite coordinates; all distances of such a query are infinite: no box is too far.
    finite = x < float("inf")
    box_x, box_y, box_z = (
        tl.where(finite, x, 0.0),
        tl.where(finite, y, 0.0),
        tl.where(finite, z, 0.0),
    )
    num_sorted = num_blocks * BLOCK
    xyz_ptr += cloud * 3 * num_sorted
    index_ptr += cloud * num_sorted
    low_ptr += cloud * 3 * num_blocks
    high_ptr += cloud * 3 * num_blocks
    group_low_ptr += cloud * 3 * num_groups
    group_high_ptr += cloud * 3 * num_groups

    # The limit: from the block with the nearest box in the group with the nearest box, and the
    # block before or after it, as the last block alone may have few points.
    nearest = tl.full((1, LANES), NO_KEY, tl.int64)
    for first in range(0, num_groups, LANES):
        group = first + lane
        bits = _box_bits_at(group_low_ptr, group_high_ptr, num_groups, group, box_x, box_y, box_z)
        nearest = tl.minimum(nearest, (bits.to(tl.int64) << 32) | group)
    block = tl.min(nearest).to(tl.int32) * LANES + lane
    bits = _box_bits_at(low_ptr, high_ptr, num_blocks, block, box_x, box_y, box_z)
    start = tl.min((bits.to(tl.int64) << 32) | block).to(tl.int32)
    start = tl.minimum(tl.maximum(start - 1, 0), tl.maximum(num_blocks - 2, 0))
    queue = empty_queue(1, DEPTH)
    for first in range(start * BLOCK, tl.minimum(start + 2, num_blocks) * BLOCK, LANES):
        key = _keys_at(xyz_ptr, index_ptr, num_sorted, first + lane, x, y, z)
        queue, key = push(queue, key, DEPTH)
    found = empty_queue(1, GROUPS)
    count = tl.full((1, LANES), 0, tl.int32)
    found = pop_all(queue, found, count, K, DEPTH, GROUPS)
    limit = (key_before(found, count + K, GROUPS) >> 32).to(tl.int32)

    while tl.min(count) < K:
        floor = key_before(found, count, GROUPS)
        queue = empty_queue(1, DEPTH)
        dropped = tl.full((1, LANES), NO_KEY, tl.int64)
        for first in range(0, num_groups, LANES):
            group = first + lane
            bits = _box_bits_at(
                group_low_ptr, group_high_ptr, num_groups, group, box_x, box_y, box_z
            )
            near_group = tl.where((bits <= limit) & (group < num_groups), group, NO_INDEX)
            at_group = tl.min(near_group)
            while at_group != NO_INDEX:
                block = at_group * LANES + lane
                bits = _box_bits_at(low_ptr, high_ptr, num_blocks, block, box_x, box_y, box_z)
                near_block = tl.where((bits <= limit) & (block < num_blocks), block, NO_INDEX)
                at_block = tl.min(near_block)
                while at_block != NO_INDEX:
                    for part in tl.static_range(BLOCK // LANES):
                        at = at_block * BLOCK + part * LANES + lane
                        key = _keys_at(xyz_ptr, index_ptr, num_sorted, at, x, y, z)
                        queue, key = push(queue, tl.where(key > floor, key, NO_KEY), DEPTH)
                        dropped = tl.minimum(dropped, key)
                    at_block = tl.min(tl.where(near_block > at_block, near_block, NO_INDEX))
                at_group = tl.min(tl.where(near_group > at_group, near_group, NO_INDEX))
        found = pop_all(queue, found, count, K, DEPTH, GROUPS)
        bound = tl.min(dropped, axis=1, keep_dims=True)
        count = count_certain(found, bound, K, GROUPS)
    store_found(sq_dist_ptr, idx_ptr, row, lane < LANES, found, K, GROUPS)
