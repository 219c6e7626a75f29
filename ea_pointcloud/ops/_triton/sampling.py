"""Farthest point sampling on the GPU: one program per cloud, exact, without a host synchronisation.

A cloud of up to ``REGISTER_POINTS`` lives in registers. A larger one is cut into blocks whose boxes
show which of them a pick can reach: about ten, so that a pick looks at a thousand or two of a
hundred thousand points, and at four or five thousand of a million.
"""

# Triton types a kernel as the function it decorates, which has no launch options.
# pyright: reportCallIssue=false

import torch
import triton
import triton.language as tl
from torch import Tensor

from ea_pointcloud.ops._coordinates import valid_points
from ea_pointcloud.ops._triton._common import (
    INFINITY,
    NO_INDEX,
    box_bits,
    is_finite,
    power_of_two,
    sort_into_blocks,
    sq_dist_bits,
)

REGISTER_POINTS = 16384
BLOCK_POINTS = 128  # small blocks are pruned better, and one row of a tile holds one
MAX_BLOCKS = 2048  # whose boxes and maxima stay in registers; beyond, the blocks grow
TILE_POINTS = 2048  # most picks reach fewer than sixteen blocks of 128
_BLOCKS_WARPS = 16
_REPEAT = tl.constexpr(256)

# By the size of the cloud, rounded up: more warps share the work of a pick and wait longer for each
# other. The largest leave each thread 128 registers.
_REGISTER_WARPS = {256: 1, 512: 2, 1024: 4, 2048: 4, 4096: 8, 8192: 16, 16384: 16}


def farthest_point_sample(
    xyz: Tensor, num_samples: int, lengths: Tensor | None, start: Tensor
) -> Tensor:
    """See :func:`ea_pointcloud.ops.farthest_point_sample`."""
    xyz, start = xyz.contiguous(), start.contiguous()
    idx = torch.empty(xyz.shape[0], num_samples, dtype=torch.long, device=xyz.device)
    with torch.cuda.device_of(xyz):
        if xyz.shape[1] <= REGISTER_POINTS:
            _launch_in_registers(xyz, lengths, start, idx)
        else:
            _launch_in_blocks(xyz, lengths, start, idx)
    return idx


def _launch_in_registers(xyz: Tensor, lengths: Tensor | None, start: Tensor, idx: Tensor) -> None:
    batch, num_points = xyz.shape[:2]
    size = max(power_of_two(num_points), min(_REGISTER_WARPS))
    sample_in_registers[(batch,)](
        xyz,
        None if lengths is None else lengths.contiguous(),
        start,
        idx,
        num_points,
        idx.shape[1],
        SIZE=size,
        num_warps=_REGISTER_WARPS[size],
        enable_fp_fusion=False,
    )


def _launch_in_blocks(xyz: Tensor, lengths: Tensor | None, start: Tensor, idx: Tensor) -> None:
    batch, num_points = xyz.shape[:2]
    size = max(BLOCK_POINTS, power_of_two(-(-num_points // MAX_BLOCKS)))
    valid = valid_points(xyz, lengths)
    blocks = sort_into_blocks(xyz, valid, size)
    # As in registers: the start stands above the others, and what is not valid below all.
    bits = (blocks.index == start[:, None]).int() + INFINITY.value
    bits = bits.masked_fill(blocks.index < 0, -1)
    shape = (batch, blocks.low.shape[-1], size)
    by_block, index = bits.view(shape), blocks.index.view(shape)
    top = by_block.amax(-1, keepdim=True)  # (B, Q, 1)
    best = index.masked_fill(by_block != top, NO_INDEX.value).amin(-1)
    leader = (top[..., 0].long() << 32) | (best.long() & 0xFFFFFFFF)
    sample_in_blocks[(batch,)](
        xyz,
        blocks.xyz,
        blocks.index,
        blocks.low,
        blocks.high,
        bits,
        leader,
        torch.empty_like(leader, dtype=torch.int32),
        valid.sum(1),
        idx,
        num_points,
        idx.shape[1],
        leader.shape[1],
        SIZE=size,
        ROWS=max(1, TILE_POINTS // size),
        BLOCKS=power_of_two(leader.shape[1]),
        num_warps=_BLOCKS_WARPS,
        # No load may be moved ahead of the stores of the round before.
        num_stages=1,
        enable_fp_fusion=False,
    )


@triton.jit(do_not_specialize=["num_points", "num_samples"])
def sample_in_registers(
    xyz_ptr, lengths_ptr, start_ptr, idx_ptr, num_points, num_samples, SIZE: tl.constexpr
):
    """One cloud a program: (N, 3) ``xyz`` -> (S,) ``idx``."""
    cloud = tl.program_id(0).to(tl.int64)
    xyz_ptr += cloud * num_points * 3
    idx_ptr += cloud * num_samples
    point = tl.arange(0, SIZE)
    inside = point < num_points
    x = tl.load(xyz_ptr + point * 3, mask=inside, other=0.0)
    y = tl.load(xyz_ptr + point * 3 + 1, mask=inside, other=0.0)
    z = tl.load(xyz_ptr + point * 3 + 2, mask=inside, other=0.0)
    valid = inside & is_finite(x, y, z)
    if lengths_ptr is not None:
        valid &= point < tl.load(lengths_ptr + cloud)
    start = tl.load(start_ptr + cloud)
    # The start stands above all others, so that it is the first pick if it is valid, and the first
    # valid point is if not. What is picked or not valid stands at -1, below every point to pick.
    bits = tl.where(valid, INFINITY + (point == start).to(tl.int32), -1)
    # A distance of a point that is not finite may be NaN, with bits below -1.
    x, y, z = tl.where(valid, x, 0.0), tl.where(valid, y, 0.0), tl.where(valid, z, 0.0)
    picks = _count_picks(tl.sum(valid.to(tl.int32), axis=0), num_samples)
    for pick in range(picks):
        top = tl.max(bits, axis=0)
        last = tl.min(tl.where(bits == top, point, NO_INDEX), axis=0)
        tl.store(idx_ptr + pick, last.to(tl.int64))
        at_x = tl.load(xyz_ptr + last * 3)
        at_y = tl.load(xyz_ptr + last * 3 + 1)
        at_z = tl.load(xyz_ptr + last * 3 + 2)
        bits = tl.minimum(bits, sq_dist_bits(x - at_x, y - at_y, z - at_z))
        bits = tl.where(point == last, -1, bits)
    _repeat_picks(idx_ptr, picks, num_samples)


@triton.jit(do_not_specialize=["num_points", "num_samples", "num_blocks"])
def sample_in_blocks(
    xyz_ptr,
    sorted_ptr,
    index_ptr,
    low_ptr,
    high_ptr,
    bits_ptr,
    leader_ptr,
    reached_ptr,
    count_ptr,
    idx_ptr,
    num_points,
    num_samples,
    num_blocks,
    SIZE: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    """One cloud a program: Q blocks of ``SIZE`` points each -> (S,) ``idx``.

    Scratch in global memory, which the L2 cache holds: ``bits`` (P,), each sorted point's squared
    distance to the picks, (Q,) ``leader``, the largest of each block and below it in the same word
    the lowest index that has it, and (Q,) ``reached``, a list of blocks to visit.

    A block is left alone where the bound of its box is not below its largest distance: then no
    distance in it can become smaller, and the order is that of the whole cloud. The block of the
    pick itself is always visited, for the pick to be marked.
    """
    cloud = tl.program_id(0).to(tl.int64)
    num_sorted = num_blocks.to(tl.int64) * SIZE
    xyz_ptr += cloud * num_points * 3
    sorted_ptr += cloud * num_sorted * 3
    index_ptr += cloud * num_sorted
    bits_ptr += cloud * num_sorted
    low_ptr += cloud * num_blocks * 3
    high_ptr += cloud * num_blocks * 3
    leader_ptr += cloud * num_blocks
    reached_ptr += cloud * num_blocks
    idx_ptr += cloud * num_samples

    block = tl.arange(0, BLOCKS)
    inside = block < num_blocks
    empty = float("inf")
    low_x = tl.load(low_ptr + block, mask=inside, other=empty)
    low_y = tl.load(low_ptr + num_blocks + block, mask=inside, other=empty)
    low_z = tl.load(low_ptr + num_blocks * 2 + block, mask=inside, other=empty)
    high_x = tl.load(high_ptr + block, mask=inside, other=-empty)
    high_y = tl.load(high_ptr + num_blocks + block, mask=inside, other=-empty)
    high_z = tl.load(high_ptr + num_blocks * 2 + block, mask=inside, other=-empty)
    leader = tl.load(leader_ptr + block, mask=inside, other=-1)
    picks = _count_picks(tl.load(count_ptr + cloud).to(tl.int32), num_samples)
    for pick in range(picks):
        top, best = (leader >> 32).to(tl.int32), leader.to(tl.int32)
        last = tl.min(tl.where(top == tl.max(top, axis=0), best, NO_INDEX), axis=0)
        # The best index of blocks without a valid point is -1, which only an empty cloud brings up.
        last = tl.maximum(last, 0)
        tl.store(idx_ptr + pick, last.to(tl.int64))
        at = last.to(tl.int64) * 3
        at_x = tl.load(xyz_ptr + at)
        at_y = tl.load(xyz_ptr + at + 1)
        at_z = tl.load(xyz_ptr + at + 2)
        bound = box_bits(at_x, at_y, at_z, low_x, low_y, low_z, high_x, high_y, high_z)
        reached = (bound < top) | (best == last)
        slot = tl.cumsum(reached.to(tl.int32), axis=0) - 1
        num_reached = tl.sum(reached.to(tl.int32), axis=0)
        tl.store(reached_ptr + slot, block, mask=reached)
        # Other threads read the list below. It also holds the stores to leader of this round back
        # until every thread has read those of the round before.
        tl.debug_barrier()
        for first in range(0, num_reached, ROWS):
            row = first + tl.arange(0, ROWS)
            listed = row < num_reached
            at_block = tl.load(reached_ptr + row, mask=listed, other=0)
            at_point = at_block.to(tl.int64)[:, None] * SIZE + tl.arange(0, SIZE)[None, :]
            index = tl.load(index_ptr + at_point, mask=listed[:, None], other=-1)
            dx = tl.load(sorted_ptr + at_point, mask=listed[:, None], other=0.0) - at_x
            at_plane = at_point + num_sorted
            dy = tl.load(sorted_ptr + at_plane, mask=listed[:, None], other=0.0) - at_y
            at_plane += num_sorted
            dz = tl.load(sorted_ptr + at_plane, mask=listed[:, None], other=0.0) - at_z
            bits = tl.load(bits_ptr + at_point, mask=listed[:, None], other=-1)
            bits = tl.minimum(bits, sq_dist_bits(dx, dy, dz))
            bits = tl.where(index == last, -1, bits)
            tl.store(bits_ptr + at_point, bits, mask=listed[:, None])
            row_top = tl.max(bits, axis=1)
            row_best = tl.min(tl.where(bits == row_top[:, None], index, NO_INDEX), axis=1)
            # In one word: the row's result changes threads once for its store, not twice.
            row_leader = (row_top.to(tl.int64) << 32) | (row_best.to(tl.int64) & 0xFFFFFFFF)
            tl.store(leader_ptr + at_block, row_leader, mask=listed)
        # Other threads read leader now, and the distances of the same blocks in later rounds. It
        # also keeps the list from being overwritten while it is read.
        tl.debug_barrier()
        leader = tl.load(leader_ptr + block, mask=reached, other=leader)
    _repeat_picks(idx_ptr, picks, num_samples)


@triton.jit
def _count_picks(num_valid, num_samples):
    """Picks before the order repeats; one at least, since a slot must hold some index."""
    return tl.maximum(tl.minimum(num_valid, num_samples), 1)


@triton.jit
def _repeat_picks(idx_ptr, picks, num_samples):
    """Fill the slots past the picks with the order from its start."""
    # One thread stored the picks, all read them.
    tl.debug_barrier()
    for first in range(picks, num_samples, _REPEAT):
        slot = first + tl.arange(0, _REPEAT)
        inside = slot < num_samples
        idx = tl.load(idx_ptr + slot % picks, mask=inside)
        tl.store(idx_ptr + slot, idx, mask=inside)
