"""Moving features on the GPU: gather, interpolate, and their transpose scatter, without atomics."""

# Triton types a kernel as the function it decorates, which has no launch options.
# pyright: reportCallIssue=false

import torch
import triton
import triton.language as tl
from torch import Tensor

from ea_pointcloud.ops._reference.features import flat_winners
from ea_pointcloud.ops._triton._common import power_of_two

_MAX_CHANNELS = 256  # of a program
_TILE = 2048  # values of a program: enough loads are in flight to keep the memory busy
_LIST_TILE = 512  # values that one warp of scatter reads at a time, of up to 16 entries
_WARPS = 4
_SUMS = 256  # of a program of scatter_max: a warp waits for the longest of its lists


def gather(features: Tensor, idx: Tensor, offset: Tensor | None) -> Tensor:
    """(B, N, C), (B, S, K) -> (B, S, K, C), ``features[b, idx[b, s, k]] + offset[b, s]``."""
    batch, num_queries, k = idx.shape
    channels = features.shape[-1]
    out = torch.empty(*idx.shape, channels, dtype=features.dtype, device=features.device)
    block = _channels(channels)
    rows = _TILE // block
    grid = (batch * triton.cdiv(num_queries * k, rows), triton.cdiv(channels, block))
    with torch.cuda.device_of(features):
        gather_rows[grid](
            features.contiguous(),
            idx.contiguous(),
            None if offset is None else offset.contiguous(),
            out,
            features.shape[1],
            num_queries * k,
            K=1 if offset is None else k,  # used for the offset only; fewer variants compile
            CHANNELS=channels,
            WIDE=_wide(features),
            ROWS=rows,
            BLOCK=block,
            num_warps=_WARPS,
        )
    return out


def interpolate(features: Tensor, idx: Tensor, weight: Tensor) -> Tensor:
    """(B, N, C), (B, S, K) -> (B, S, C), ``sum_k weight[b, s, k] * features[b, idx[b, s, k]]``."""
    batch, num_queries, k = idx.shape
    channels = features.shape[-1]
    out = torch.empty(batch, num_queries, channels, dtype=features.dtype, device=features.device)
    block = _channels(channels)
    rows = _TILE // block
    grid = (batch * triton.cdiv(num_queries, rows), triton.cdiv(channels, block))
    with torch.cuda.device_of(features):
        interpolate_rows[grid](
            features.contiguous(),
            idx.contiguous(),
            weight.contiguous(),
            out,
            features.shape[1],
            num_queries,
            K=k,
            CHANNELS=channels,
            WIDE=_wide(features),
            ROWS=rows,
            BLOCK=block,
            num_warps=_WARPS,
            enable_fp_fusion=False,
        )
    return out


def scatter(values: Tensor, idx: Tensor, num_points: int, weight: Tensor | None) -> Tensor:
    """(B, S, C), (B, S, K) -> (B, N, C), the transpose of :func:`interpolate`."""
    batch, _, channels = values.shape
    k = idx.shape[-1]
    out = torch.empty(batch, num_points, channels, dtype=values.dtype, device=values.device)
    num_rows = batch * num_points
    first = torch.arange(batch, device=idx.device)[:, None, None] * num_points
    order, begin = _entries((idx + first).flatten(), num_rows)
    block = _channels(channels)
    with torch.cuda.device_of(values):
        sum_lists[(num_rows, triton.cdiv(channels, block))](
            values.contiguous(),
            order if k == 1 else order // k,
            None if weight is None else weight.contiguous(),
            order,
            begin,
            out,
            CHANNELS=channels,
            WIDE=_wide(values),
            ENTRIES=min(16, _LIST_TILE // block),
            BLOCK=block,
            num_warps=1,
            enable_fp_fusion=False,
        )
    return out


def scatter_max(values: Tensor, winner: Tensor, num_points: int) -> Tensor:
    """(B, S, C) -> (B, N, C), ``out[b, n, c]`` the sum of the values whose ``winner`` is n."""
    batch, _, channels = values.shape
    out = torch.empty(batch, num_points, channels, dtype=values.dtype, device=values.device)
    order, begin = _entries(flat_winners(winner, num_points).flatten(), out.numel())
    with torch.cuda.device_of(values):
        sum_values[(triton.cdiv(out.numel(), _SUMS),)](
            values.contiguous(),
            order,
            begin,
            out,
            out.numel(),
            WIDE=_wide(values),
            BLOCK=_SUMS,
            num_warps=_WARPS,
        )
    return out


def _entries(keys: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Where each key below ``size`` stands among ``keys``: order[begin[key] : begin[key + 1]].

    In ascending order, which makes the sums repeatable.
    """
    # A radix sort of int32 takes half the passes.
    dtype = torch.int32 if size < 2**31 else torch.int64
    keys, order = keys.to(dtype).sort(stable=True)
    return order, torch.searchsorted(keys, torch.arange(size + 1, dtype=dtype, device=keys.device))


def _channels(channels: int) -> int:
    """Channels of a program."""
    return min(_MAX_CHANNELS, power_of_two(max(1, channels)))


def _wide(features: Tensor) -> tl.dtype:
    """What sums are formed in."""
    return tl.float64 if features.dtype == torch.float64 else tl.float32


@triton.jit(do_not_specialize=["num_points", "num_rows"])
def gather_rows(
    features_ptr,
    idx_ptr,
    offset_ptr,
    out_ptr,
    num_points,
    num_rows,
    K: tl.constexpr,
    CHANNELS: tl.constexpr,
    WIDE: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """ROWS of R = S * K: (N, C) ``features``, (R,) ``idx``, (S, C) ``offset`` -> (R, C) ``out``."""
    parts = tl.cdiv(num_rows, ROWS)
    cloud = (tl.program_id(0) // parts).to(tl.int64)
    row = tl.program_id(0) % parts * ROWS + tl.arange(0, ROWS)
    channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[None, :]
    inside = row < num_rows
    mask = inside[:, None] & (channel < CHANNELS)
    source = cloud * num_points + tl.load(idx_ptr + cloud * num_rows + row, mask=inside, other=0)
    value = tl.load(features_ptr + source[:, None] * CHANNELS + channel, mask=mask)
    if offset_ptr is not None:
        query = cloud * (num_rows // K) + row // K
        offset = tl.load(offset_ptr + query[:, None] * CHANNELS + channel, mask=mask)
        value = (value.to(WIDE) + offset.to(WIDE)).to(out_ptr.dtype.element_ty)
    out = cloud * num_rows + row
    tl.store(out_ptr + out[:, None] * CHANNELS + channel, value, mask=mask)


@triton.jit(do_not_specialize=["num_points", "num_rows"])
def interpolate_rows(
    features_ptr,
    idx_ptr,
    weight_ptr,
    out_ptr,
    num_points,
    num_rows,
    K: tl.constexpr,
    CHANNELS: tl.constexpr,
    WIDE: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """ROWS of S: (N, C) ``features``, (S, K) ``idx`` and ``weight`` -> (S, C) ``out``."""
    parts = tl.cdiv(num_rows, ROWS)
    cloud = (tl.program_id(0) // parts).to(tl.int64)
    row = tl.program_id(0) % parts * ROWS + tl.arange(0, ROWS)
    channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[None, :]
    inside = row < num_rows
    mask = inside[:, None] & (channel < CHANNELS)
    row += cloud * num_rows
    total = tl.zeros((ROWS, BLOCK), WIDE)
    for slot in range(K):
        index = tl.load(idx_ptr + row * K + slot, mask=inside, other=0)
        weight = tl.load(weight_ptr + row * K + slot, mask=inside, other=0.0)
        source = cloud * num_points + index
        value = tl.load(features_ptr + source[:, None] * CHANNELS + channel, mask=mask, other=0.0)
        total += value.to(WIDE) * weight.to(WIDE)[:, None]
    total = total.to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + row[:, None] * CHANNELS + channel, total, mask=mask)


@triton.jit
def sum_lists(
    values_ptr,
    source_ptr,
    weight_ptr,
    order_ptr,
    begin_ptr,
    out_ptr,
    CHANNELS: tl.constexpr,
    WIDE: tl.constexpr,
    ENTRIES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One point: the sum of the (B * S, C) ``values`` that list it -> its row of ``out``.

    Its entries are begin[point] to begin[point + 1]. An entry's ``source`` is its row of values,
    its ``order`` its index in the weights.
    """
    point = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[None, :]
    begin, end = tl.load(begin_ptr + point), tl.load(begin_ptr + point + 1)
    total = tl.zeros((ENTRIES, BLOCK), WIDE)
    for first in range(begin, end, ENTRIES):
        entry = first + tl.arange(0, ENTRIES)
        listed = entry < end
        mask = listed[:, None] & (channel < CHANNELS)
        source = tl.load(source_ptr + entry, mask=listed, other=0)
        value = tl.load(values_ptr + source[:, None] * CHANNELS + channel, mask=mask, other=0.0)
        value = value.to(WIDE)
        if weight_ptr is not None:
            entry_idx = tl.load(order_ptr + entry, mask=listed, other=0)
            weight = tl.load(weight_ptr + entry_idx, mask=listed, other=0.0)
            value *= weight.to(WIDE)[:, None]
        total += value
    total = tl.sum(total, axis=0, keep_dims=True).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + point * CHANNELS + channel, total, mask=channel < CHANNELS)


@triton.jit(do_not_specialize=["num_sums"])
def sum_values(
    values_ptr,
    order_ptr,
    begin_ptr,
    out_ptr,
    num_sums,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """BLOCK sums of single ``values``, each over its entries in ``order`` -> ``out``."""
    item = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = item < num_sums
    begin = tl.load(begin_ptr + item, mask=inside, other=0)
    size = tl.load(begin_ptr + item + 1, mask=inside, other=0) - begin
    total = tl.zeros((BLOCK,), WIDE)
    for number in range(tl.max(size, axis=0)):
        listed = number < size
        source = tl.load(order_ptr + begin + number, mask=listed, other=0)
        total += tl.load(values_ptr + source, mask=listed, other=0.0).to(WIDE)
    tl.store(out_ptr + item, total.to(out_ptr.dtype.element_ty), mask=inside)
