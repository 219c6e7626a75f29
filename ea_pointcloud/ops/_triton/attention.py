"""External attention on the GPU, forward: the features are read twice and written once.

The map of points and slots is never stored. One pass sums over the points for each slot, a second
forms the logits again, normalises them over the slots, and mixes the values. A cloud's points are
shared out among programs whose results are joined in a fixed order: no atomics, so that a call
repeats bit for bit. The gradients are in ``attention_backward``.
"""

# Triton types a kernel as the function it decorates, which has no launch options.
# pyright: reportCallIssue=false

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ea_pointcloud._device import tf32_allowed
from ea_pointcloud.ops._triton._common import parts_of, power_of_two

_PROGRAMS = 512  # of a sum over points: about four for each of an H100's 132 multiprocessors
_TILE = 4096  # logits of a program, 32 registers a thread
_JOINED_SLOTS = 16


class Tiles(NamedTuple):
    """How the points of each cloud and head are shared out, in tiles of ``points``.

    Attributes:
        points: of a tile.
        per_split: tiles that one program of a sum goes through.
        splits: programs a cloud and head.
    """

    points: int
    per_split: int
    splits: int


def attend(
    features: Tensor,
    key_memory: Tensor,
    value_memory: Tensor,
    key_bias: Tensor | None,
    mask: Tensor | None,
    slot_lse: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """See :func:`ea_pointcloud.ops._reference.attend`."""
    batch, num_points, heads, _ = features.shape
    features = features.contiguous()
    shared = shared_arguments(features, key_memory, key_bias, mask)
    with torch.cuda.device_of(features):
        if slot_lse is None:
            total = _slot_lse(features, len(key_memory), shared)
        else:
            total = slot_lse.clone(memory_format=torch.contiguous_format)
        out = torch.empty_like(features)
        points = _tile_points(len(key_memory))
        mix_values[(batch * parts_of(num_points, points) * heads,)](
            features,
            value_ptr=value_memory.contiguous(),
            total_ptr=total,
            out_ptr=out,
            **shared,
            POINTS=points,
            num_warps=4,
            num_stages=2,
        )
    return out, total


def shared_arguments(
    features: Tensor, key_memory: Tensor, key_bias: Tensor | None, mask: Tensor | None
) -> dict[str, object]:
    """What every kernel takes."""
    _, num_points, heads, channels = features.shape
    exact = features.dtype == torch.float32 and not tf32_allowed()
    return {
        "key_ptr": key_memory.contiguous(),
        "bias_ptr": None if key_bias is None else key_bias.contiguous(),
        "mask_ptr": None if mask is None else mask.contiguous(),
        "num_points": num_points,
        "heads": heads,
        "CHANNELS": channels,
        "SLOTS": len(key_memory),
        "WIDTH": slots_width(len(key_memory)),
        # An exact product is unrolled into single multiplications: registers spill beyond 16.
        "BLOCK": min(16 if exact else 64, channels_width(channels)),
        "PRECISION": "ieee" if exact else "tf32",
    }


def slots_width(slots: int) -> int:
    """Slots of a tile: all of them, and at least what a matrix product takes."""
    return max(16, power_of_two(slots))


def channels_width(channels: int) -> int:
    """All channels, and at least what a matrix product takes."""
    return max(16, power_of_two(channels))


def share_out(features: Tensor, points: int) -> Tiles:
    """Split the points so that even one large cloud keeps the GPU busy."""
    batch, num_points, heads, _ = features.shape
    tiles = parts_of(num_points, points)
    per_split = parts_of(tiles, max(1, _PROGRAMS // (batch * heads)))
    return Tiles(points, per_split, parts_of(tiles, per_split))


def _tile_points(slots: int) -> int:
    return min(64, _TILE // slots_width(slots))


def _slot_lse(features: Tensor, slots: int, shared: dict[str, object]) -> Tensor:
    """(B, H, M) float32, the logsumexp over the points."""
    batch, _, heads, _ = features.shape
    tiles = share_out(features, _tile_points(slots))
    parts = features.new_empty(batch, heads, tiles.splits, slots, dtype=torch.float32)
    sum_exponentials[(batch * tiles.splits * heads,)](
        features,
        parts_ptr=parts,
        splits=tiles.splits,
        per_split=tiles.per_split,
        **shared,
        POINTS=tiles.points,
        num_warps=4,
        num_stages=2,
    )
    if tiles.splits == 1:
        return parts[:, :, 0]
    total = parts.new_empty(batch, heads, slots)
    join_parts[(batch * heads, parts_of(slots, _JOINED_SLOTS))](
        parts,
        total,
        tiles.splits,
        SLOTS=slots,
        SPLITS=power_of_two(tiles.splits),
        WIDTH=_JOINED_SLOTS,
        num_warps=4,
    )
    return total


@triton.jit
def rows_of_tile(mask_ptr, cloud, head, first, num_points, heads, POINTS: tl.constexpr):
    """Rows in (B * N * H, C) of a tile's points, which of them exist, and which of those count."""
    point = first + tl.arange(0, POINTS)
    inside = point < num_points
    point = cloud.to(tl.int64) * num_points + point
    counts = inside
    if mask_ptr is not None:
        counts = inside & (tl.load(mask_ptr + point, mask=inside, other=0) != 0)
    return point * heads + head, inside, counts


@triton.jit
def products(
    rows_ptr,
    row,
    counts,
    memory_ptr,
    CHANNELS: tl.constexpr,
    SLOTS: tl.constexpr,
    POINTS: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """(POINTS, WIDTH) float32, each row times each slot of the (SLOTS, CHANNELS) memory.

    Rows that do not count are not read: they may hold anything.
    """
    slot = tl.arange(0, WIDTH)[None, :]
    result = tl.zeros((POINTS, WIDTH), tl.float32)
    for first in range(0, CHANNELS, BLOCK):
        channel = first + tl.arange(0, BLOCK)
        rows = tl.load(
            rows_ptr + row[:, None] * CHANNELS + channel[None, :],
            mask=counts[:, None] & (channel < CHANNELS)[None, :],
            other=0.0,
        )
        memory = tl.load(
            memory_ptr + slot * CHANNELS + channel[:, None],
            mask=(slot < SLOTS) & (channel < CHANNELS)[:, None],
            other=0.0,
        )
        result = tl.dot(rows, memory, result, input_precision=PRECISION)
    return result


@triton.jit
def slot_values(values_ptr, SLOTS: tl.constexpr, WIDTH: tl.constexpr):
    """(WIDTH,) float32 of a vector with SLOTS entries, 0 beyond them or without a vector."""
    values = tl.zeros((WIDTH,), tl.float32)
    if values_ptr is not None:
        slot = tl.arange(0, WIDTH)
        values += tl.load(values_ptr + slot, mask=slot < SLOTS, other=0.0).to(tl.float32)
    return values


@triton.jit
def softmax_over_slots(logits, SLOTS: tl.constexpr, WIDTH: tl.constexpr):
    """(POINTS, WIDTH), 0 beyond the SLOTS."""
    logits = tl.where(tl.arange(0, WIDTH)[None, :] < SLOTS, logits, float("-inf"))
    weights = tl.exp(logits - tl.max(logits, axis=1)[:, None])
    return weights / tl.sum(weights, axis=1)[:, None]


@triton.jit(do_not_specialize=["num_points", "heads", "splits", "per_split"])
def sum_exponentials(
    features_ptr,
    key_ptr,
    bias_ptr,
    mask_ptr,
    parts_ptr,
    num_points,
    heads,
    splits,
    per_split,
    CHANNELS: tl.constexpr,
    SLOTS: tl.constexpr,
    POINTS: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One split of a cloud and head -> (B, H, splits, M), the logsumexp over its points."""
    head = tl.program_id(0) % heads
    split = tl.program_id(0) // heads % splits
    cloud = tl.program_id(0) // heads // splits
    bias = slot_values(bias_ptr, SLOTS, WIDTH)
    high = tl.full((WIDTH,), float("-inf"), tl.float32)
    total = tl.zeros((WIDTH,), tl.float32)
    begin = split * per_split
    for tile in range(begin, min(begin + per_split, tl.cdiv(num_points, POINTS))):
        row, _, counts = rows_of_tile(
            mask_ptr, cloud, head, tile * POINTS, num_points, heads, POINTS
        )
        logits = products(
            features_ptr, row, counts, key_ptr, CHANNELS, SLOTS, POINTS, WIDTH, BLOCK, PRECISION
        )
        logits = tl.where(counts[:, None], logits + bias[None, :], float("-inf"))
        higher = tl.maximum(high, tl.max(logits, axis=0))
        base = tl.where(higher == float("-inf"), 0.0, higher)  # no point counted yet
        total = total * tl.exp(high - base) + tl.sum(tl.exp(logits - base[None, :]), axis=0)
        high = higher
    slot = tl.arange(0, WIDTH)
    part = ((cloud * heads + head) * splits + split).to(tl.int64)
    tl.store(parts_ptr + part * SLOTS + slot, high + tl.log(total), mask=slot < SLOTS)


@triton.jit(do_not_specialize=["splits"])
def join_parts(
    parts_ptr, total_ptr, splits, SLOTS: tl.constexpr, SPLITS: tl.constexpr, WIDTH: tl.constexpr
):
    """WIDTH slots of one cloud and head: logarithms of sums (splits, M) -> that of all (M,)."""
    pair = tl.program_id(0).to(tl.int64)
    split = tl.arange(0, SPLITS)[:, None]
    slot = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    parts = tl.load(
        parts_ptr + (pair * splits + split) * SLOTS + slot[None, :],
        mask=(split < splits) & (slot < SLOTS)[None, :],
        other=float("-inf"),
    )
    high = tl.max(parts, axis=0)
    base = tl.where(high == float("-inf"), 0.0, high)
    total = high + tl.log(tl.sum(tl.exp(parts - base[None, :]), axis=0))
    tl.store(total_ptr + pair * SLOTS + slot, total, mask=slot < SLOTS)


@triton.jit(do_not_specialize=["num_points", "heads"])
def mix_values(
    features_ptr,
    key_ptr,
    value_ptr,
    bias_ptr,
    mask_ptr,
    total_ptr,
    out_ptr,
    num_points,
    heads,
    CHANNELS: tl.constexpr,
    SLOTS: tl.constexpr,
    POINTS: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One tile of points of one head: (B, N, H, C) ``features`` -> ``out``."""
    # Neighbouring programs take the heads of the same points, which lie side by side in memory.
    head = tl.program_id(0) % heads
    tiles = tl.cdiv(num_points, POINTS)
    tile = tl.program_id(0) // heads % tiles
    cloud = tl.program_id(0) // heads // tiles
    row, inside, counts = rows_of_tile(
        mask_ptr, cloud, head, tile * POINTS, num_points, heads, POINTS
    )
    logits = products(
        features_ptr, row, counts, key_ptr, CHANNELS, SLOTS, POINTS, WIDTH, BLOCK, PRECISION
    )
    shift = slot_values(bias_ptr, SLOTS, WIDTH)
    shift -= slot_values(total_ptr + (cloud * heads + head) * SLOTS, SLOTS, WIDTH)
    weights = softmax_over_slots(logits + shift[None, :], SLOTS, WIDTH)
    weights = tl.where(counts[:, None], weights, 0.0).to(value_ptr.dtype.element_ty)
    slot = tl.arange(0, WIDTH)[:, None]
    for first in range(0, CHANNELS, BLOCK):
        channel = first + tl.arange(0, BLOCK)[None, :]
        values = tl.load(
            value_ptr + slot * CHANNELS + channel,
            mask=(slot < SLOTS) & (channel < CHANNELS),
            other=0.0,
        )
        mixed = tl.dot(weights, values, input_precision=PRECISION).to(out_ptr.dtype.element_ty)
        tl.store(
            out_ptr + row[:, None] * CHANNELS + channel,
            mixed,
            mask=inside[:, None] & (channel < CHANNELS),
        )
