"""The gradients of external attention on the GPU, without storing the map of points and slots.

With logits L, the logarithms G subtracted from them, weights P = softmax_over_slots(L - G) and the
gradient dO that arrives, the derivative of the softmax is

    dS[n, m] = P[n, m] (dP[n, m] - sum_m' P[n, m'] dP[n, m'])    where    dP = dO V^T

Where G is the logsumexp of L over the points, each logit also reaches every point through it:

    dL[n, m] = dS[n, m] - exp(L[n, m] - G[m]) sum_n' dS[n', m]

That sum takes a pass of its own, which reads features and dO; a second pass reads both again and
writes the gradient of the features, dL K. The gradients of the memories, dL^T F and P^T dO, are
gathered on the way, one part a program, and added in a fixed order at the end.
"""

# Triton types a kernel as the function it decorates, which has no launch options.
# pyright: reportCallIssue=false

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ea_pointcloud.ops._triton._common import parts_of
from ea_pointcloud.ops._triton.attention import (
    channels_width,
    products,
    rows_of_tile,
    share_out,
    shared_arguments,
    slot_values,
    slots_width,
    softmax_over_slots,
)

_PROGRAMS = 256  # each keeps a part of the memories' gradients, which fills most of a processor
_TILE = 4096  # logits of a program; four such tiles are alive at once
_PART = 8192  # values of each memory's gradient that a program can keep in registers


def attend_backward(
    grad: Tensor,
    features: Tensor,
    key_memory: Tensor,
    value_memory: Tensor,
    key_bias: Tensor | None,
    mask: Tensor | None,
    total: Tensor,
    coupled: bool,
    to_total: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """See :func:`ea_pointcloud.ops._reference.attend_backward`."""
    batch, num_points, heads, channels = features.shape
    slots, width = len(key_memory), slots_width(len(key_memory))
    grad, features, total = grad.contiguous(), features.contiguous(), total.contiguous()
    points = min(128 // features.element_size(), _TILE // width)
    shared = {
        "value_ptr": value_memory.contiguous(),
        "total_ptr": total,
        **shared_arguments(features, key_memory, key_bias, mask),
        "POINTS": points,
    }
    with torch.cuda.device_of(features):
        sums = torch.zeros_like(total)  # (B, H, M) of dS over the points
        if coupled or to_total:
            sums = _score_sums(grad, features, total, points, shared)
        # Each program takes enough tiles for all parts together to be smaller than features.
        tiles = batch * heads * parts_of(num_points, points)
        programs = min(_PROGRAMS, parts_of(tiles * points, 4 * width))
        columns = min(channels_width(channels), _PART // width, 256 // features.element_size())
        to_features = torch.empty_like(features)
        to_key = total.new_empty(programs, slots, channels)
        to_value = torch.empty_like(to_key)
        to_bias = total.new_empty(programs, slots)
        gather_gradients[(programs, parts_of(channels, columns))](
            grad,
            features,
            sums_ptr=sums if coupled else None,
            to_features_ptr=to_features,
            to_key_ptr=to_key,
            to_value_ptr=to_value,
            to_bias_ptr=to_bias,
            tiles=tiles,
            **shared,
            COLUMNS=columns,
            num_warps=8,
            num_stages=1,
        )
        return (
            to_features,
            to_key.sum(0).to(key_memory.dtype),
            to_value.sum(0).to(value_memory.dtype),
            to_bias.sum(0).to(key_memory.dtype),
            -sums,
        )


def _score_sums(
    grad: Tensor, features: Tensor, total: Tensor, points: int, shared: dict[str, Any]
) -> Tensor:
    """(B, H, M) the gradients of the scores, summed over the points."""
    batch, _, heads, _ = features.shape
    tiles = share_out(features, points)
    parts = total.new_empty(batch, heads, tiles.splits, total.shape[-1])
    sum_scores[(batch * tiles.splits * heads,)](
        grad,
        features,
        parts_ptr=parts,
        splits=tiles.splits,
        per_split=tiles.per_split,
        **shared,
        num_warps=4,
        num_stages=2,
    )
    return parts.sum(2)


@triton.jit
def _score_gradients(
    grad_ptr,
    features_ptr,
    key_ptr,
    value_ptr,
    shift,
    row,
    counts,
    CHANNELS: tl.constexpr,
    SLOTS: tl.constexpr,
    POINTS: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """(POINTS, WIDTH) shifted logits, weights and dS; the latter two 0 where a point is padding."""
    scores = products(
        features_ptr, row, counts, key_ptr, CHANNELS, SLOTS, POINTS, WIDTH, BLOCK, PRECISION
    )
    scores += shift[None, :]
    weights = softmax_over_slots(scores, SLOTS, WIDTH)
    weights = tl.where(counts[:, None], weights, 0.0)
    to_weights = products(
        grad_ptr, row, counts, value_ptr, CHANNELS, SLOTS, POINTS, WIDTH, BLOCK, PRECISION
    )
    mean = tl.sum(weights * to_weights, axis=1)
    return scores, weights, weights * (to_weights - mean[:, None])


@triton.jit(do_not_specialize=["num_points", "heads", "splits", "per_split"])
def sum_scores(
    grad_ptr,
    features_ptr,
    key_ptr,
    value_ptr,
    bias_ptr,
    mask_ptr,
    total_ptr,
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
    """One split of a cloud and head -> (B, H, splits, M), the sum of dS over its points."""
    head = tl.program_id(0) % heads
    split = tl.program_id(0) // heads % splits
    cloud = tl.program_id(0) // heads // splits
    shift = slot_values(bias_ptr, SLOTS, WIDTH)
    shift -= slot_values(total_ptr + (cloud * heads + head) * SLOTS, SLOTS, WIDTH)
    sums = tl.zeros((WIDTH,), tl.float32)
    begin = split * per_split
    for tile in range(begin, min(begin + per_split, tl.cdiv(num_points, POINTS))):
        row, _, counts = rows_of_tile(
            mask_ptr, cloud, head, tile * POINTS, num_points, heads, POINTS
        )
        _, _, to_scores = _score_gradients(
            grad_ptr, features_ptr, key_ptr, value_ptr, shift, row, counts,
            CHANNELS, SLOTS, POINTS, WIDTH, BLOCK, PRECISION,
        )  # fmt: skip
        sums += tl.sum(to_scores, axis=0)
    slot = tl.arange(0, WIDTH)
    part = ((cloud * heads + head) * splits + split).to(tl.int64)
    tl.store(parts_ptr + part * SLOTS + slot, sums, mask=slot < SLOTS)


@triton.jit(do_not_specialize=["num_points", "heads", "tiles"])
def gather_gradients(
    grad_ptr,
    features_ptr,
    key_ptr,
    value_ptr,
    bias_ptr,
    mask_ptr,
    total_ptr,
    sums_ptr,
    to_features_ptr,
    to_key_ptr,
    to_value_ptr,
    to_bias_ptr,
    num_points,
    heads,
    tiles,
    CHANNELS: tl.constexpr,
    SLOTS: tl.constexpr,
    POINTS: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    COLUMNS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """COLUMNS of the channels, in one of every num_programs tiles.

    Writes those columns of the features' gradient, and a part (programs, M, C) of the memories'.
    """
    slot = tl.arange(0, WIDTH)[:, None]
    channel = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    in_memory = (slot < SLOTS) & (channel < CHANNELS)
    memory = slot * CHANNELS + channel
    bias = slot_values(bias_ptr, SLOTS, WIDTH)
    to_key = tl.zeros((WIDTH, COLUMNS), tl.float32)
    to_value = tl.zeros((WIDTH, COLUMNS), tl.float32)
    to_bias = tl.zeros((WIDTH,), tl.float32)
    for item in range(tl.program_id(0), tiles, tl.num_programs(0)):
        head = item % heads
        of_cloud = tl.cdiv(num_points, POINTS)
        cloud = item // heads // of_cloud
        pair = (cloud * heads + head) * SLOTS
        row, inside, counts = rows_of_tile(
            mask_ptr, cloud, head, item // heads % of_cloud * POINTS, num_points, heads, POINTS
        )
        shift = bias - slot_values(total_ptr + pair, SLOTS, WIDTH)
        scores, weights, to_logits = _score_gradients(
            grad_ptr, features_ptr, key_ptr, value_ptr, shift, row, counts,
            CHANNELS, SLOTS, POINTS, WIDTH, BLOCK, PRECISION,
        )  # fmt: skip
        if sums_ptr is not None:
            point_softmax = tl.exp(tl.where(counts[:, None], scores, float("-inf")))
            to_logits -= point_softmax * slot_values(sums_ptr + pair, SLOTS, WIDTH)[None, :]
        to_bias += tl.sum(to_logits, axis=0)
        dtype = features_ptr.dtype.element_ty
        to_logits, weights = to_logits.to(dtype), weights.to(dtype)
        at = row[:, None] * CHANNELS + channel
        in_row = channel < CHANNELS
        key = tl.load(key_ptr + memory, mask=in_memory, other=0.0)
        to_features = tl.dot(to_logits, key, input_precision=PRECISION)
        tl.store(to_features_ptr + at, to_features.to(dtype), mask=inside[:, None] & in_row)
        readable = counts[:, None] & in_row
        features = tl.load(features_ptr + at, mask=readable, other=0.0)
        to_key = tl.dot(tl.trans(to_logits), features, to_key, input_precision=PRECISION)
        grad = tl.load(grad_ptr + at, mask=readable, other=0.0)
        to_value = tl.dot(tl.trans(weights), grad, to_value, input_precision=PRECISION)
    part = tl.program_id(0).to(tl.int64) * SLOTS
    tl.store(to_key_ptr + part * CHANNELS + memory, to_key, mask=in_memory)
    tl.store(to_value_ptr + part * CHANNELS + memory, to_value, mask=in_memory)
    if tl.program_id(1) == 0:
        of_part = tl.arange(0, WIDTH)
        tl.store(to_bias_ptr + part + of_part, to_bias, mask=of_part < SLOTS)
