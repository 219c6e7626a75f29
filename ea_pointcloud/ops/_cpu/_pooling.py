"""The maximum over neighbours, and what gradients need: its transpose, and interpolation's."""

from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from ea_pointcloud.ops import _reference
from ea_pointcloud.ops._cpu import _pool
from ea_pointcloud.ops._cpu._kernel import kernel, unbits

# bfloat16 is unknown to numba: its bit pattern is the upper half of that of the float32.
_STORED = {torch.float32: torch.int32, torch.bfloat16: torch.int16}
# Of each dtype, the bit pattern of infinity, and all bits but the sign.
_PATTERNS = {
    torch.float32: (np.int32(0x7F800000), np.int32(0x7FFFFFFF)),
    torch.bfloat16: (np.int16(0x7F80), np.int16(0x7FFF)),
}


def max_pool(features: Tensor) -> tuple[Tensor, Tensor]:
    """(B, S, K, C) -> greatest values (B, S, C), and which neighbour has them, int32."""
    if features.dtype not in _STORED:
        return _reference.max_pool(features)
    batch, centers, neighbors, channels = features.shape
    stored = features.contiguous().view(_STORED[features.dtype])
    rows = stored.view(batch * centers, neighbors, channels)
    values = rows.new_empty(batch * centers, channels)
    winner = rows.new_empty(batch * centers, channels, dtype=torch.int32)
    _over_rows(_find, neighbors * channels, rows, values, winner)
    shape = (batch, centers, channels)
    return values.view(features.dtype).view(shape), winner.view(shape)


def max_unpool(values: Tensor, winner: Tensor, num_neighbors: int) -> Tensor:
    """(B, S, C) -> (B, S, K, C), each value at the neighbour ``winner`` says and 0 elsewhere."""
    if values.dtype not in _STORED:
        return _reference.max_unpool(values, winner, num_neighbors)
    batch, centers, channels = values.shape
    rows = values.contiguous().view(_STORED[values.dtype]).view(batch * centers, channels)
    unpooled = rows.new_empty(batch * centers, num_neighbors, channels)
    chosen = winner.contiguous().view(batch * centers, channels)
    _over_rows(_unpool, num_neighbors * channels, rows, chosen, unpooled)
    return unpooled.view(values.dtype).view(batch, centers, num_neighbors, channels)


def gather_max(features: Tensor, idx: Tensor, winners: bool) -> tuple[Tensor, Tensor]:
    """See :func:`ea_pointcloud.ops._reference.gather_max`."""
    if features.dtype not in _STORED:
        return _reference.gather_max(features, idx, winners)
    batch, centers, neighbors = idx.shape
    channels = features.shape[-1]
    infinity, unsigned = _PATTERNS[features.dtype]
    stored = features.contiguous().view(_STORED[features.dtype])
    # Integers have vector maxima, which floats with their NaN have not.
    ordered = torch.empty_like(stored)
    rows = stored.flatten(0, 1), ordered.flatten(0, 1)
    _over_rows(_order, channels, *rows, infinity, unsigned)
    neighbor = idx.contiguous().view(batch * centers, neighbors)
    values = stored.new_empty(batch * centers, channels)
    shape = (batch, centers, channels)
    if not winners:
        _over_rows(_greatest, neighbors * channels, neighbor, ordered, values, unsigned)
        return values.view(features.dtype).view(shape), idx.new_empty(0, dtype=torch.int32)
    winner = stored.new_empty(batch * centers, channels, dtype=torch.int32)
    _over_rows(_find_greatest, neighbors * channels, neighbor, ordered, values, winner, unsigned)
    return values.view(features.dtype).view(shape), winner.view(shape)


def scatter_max(values: Tensor, winner: Tensor, num_points: int) -> Tensor:
    """(B, S, C) -> (B, N, C), the sum of the values of each winner, in float32."""
    if values.dtype not in _STORED:
        return _reference.scatter_max(values, winner, num_points)
    batch, centers, channels = values.shape
    total = values.new_zeros(batch, num_points, channels, dtype=torch.float32)
    stored = values.contiguous().view(_STORED[values.dtype])
    _over_rows(_add_to_winners, centers * channels, total, stored, winner.contiguous())
    return total.to(values.dtype)


def scatter(values: Tensor, idx: Tensor, num_points: int, weight: Tensor | None) -> Tensor:
    """(B, S, C), (B, S, K) -> (B, N, C), as :func:`ea_pointcloud.ops._reference.scatter`.

    Half precision is added up in float32. The copy of one cloud stays in the processor's cache,
    which is five times as fast as that of all.
    """
    if values.element_size() >= 4 or len(values) < 2:
        return _reference.scatter(values, idx, num_points, weight)
    weights = [None] * len(values) if weight is None else weight.split(1)
    clouds = zip(values.split(1), idx.split(1), weights, strict=True)
    return torch.cat([_reference.scatter(one, at, num_points, by) for one, at, by in clouds])


def _over_rows(function: Any, steps: int, *tensors: Any) -> None:
    arrays = [each.numpy() if isinstance(each, Tensor) else each for each in tensors]
    jobs = [(first, last, *arrays) for first, last in _pool.parts(len(arrays[0]), steps)]
    _pool.run(function, jobs)


@kernel
def _find(first, last, rows, values, winner):
    _, neighbors, channels = rows.shape
    for row in range(first, last):
        for channel in range(channels):
            values[row, channel] = rows[row, 0, channel]
            winner[row, channel] = 0
        for neighbor in range(1, neighbors):
            for channel in range(channels):
                pattern, best = rows[row, neighbor, channel], values[row, channel]
                value = unbits(pattern)
                wins = (value > unbits(best)) | (value != value)  # NaN is passed on
                values[row, channel] = pattern if wins else best
                winner[row, channel] = numba.int32(neighbor) if wins else winner[row, channel]


@kernel
def _order(first, last, rows, ordered, infinity, unsigned):
    """Integers that are ordered as the floats of these bit patterns: equal zeros, NaN above all."""
    for row in range(first, last):
        for channel in range(rows.shape[1]):
            pattern = rows[row, channel]
            magnitude = pattern & unsigned
            key = pattern ^ unsigned if pattern < 0 else pattern
            key = 0 if magnitude == 0 else key
            ordered[row, channel] = unsigned if magnitude > infinity else key


@kernel
def _restore(keys, unsigned):
    """The bit patterns of the floats again."""
    for channel in range(len(keys)):
        keys[channel] = keys[channel] ^ unsigned if keys[channel] < 0 else keys[channel]


@kernel
def _greatest(first, last, idx, ordered, values, unsigned):
    neighbors, channels = idx.shape[1], ordered.shape[2]
    centers = len(idx) // len(ordered)
    for row in range(first, last):
        cloud = row // centers
        for channel in range(channels):
            values[row, channel] = ordered[cloud, idx[row, 0], channel]
        # Four at a time, so that the best so far is stored and loaded less often; 0 to 2 twice.
        for start in range(0, neighbors, 4):
            a, b = idx[row, start], idx[row, min(start + 1, neighbors - 1)]
            c = idx[row, min(start + 2, neighbors - 1)]
            d = idx[row, min(start + 3, neighbors - 1)]
            for channel in range(channels):
                one = max(ordered[cloud, a, channel], ordered[cloud, b, channel])
                two = max(ordered[cloud, c, channel], ordered[cloud, d, channel])
                values[row, channel] = max(max(one, two), values[row, channel])
        _restore(values[row], unsigned)


@kernel
def _find_greatest(first, last, idx, ordered, values, winner, unsigned):
    neighbors, channels = idx.shape[1], ordered.shape[2]
    centers = len(idx) // len(ordered)
    for row in range(first, last):
        cloud, a = row // centers, numba.int32(idx[row, 0])
        for channel in range(channels):
            values[row, channel] = ordered[cloud, a, channel]
            winner[row, channel] = a
        for start in range(1, neighbors, 2):  # two at a time; of an even number the last twice
            a = numba.int32(idx[row, start])
            b = numba.int32(idx[row, min(start + 1, neighbors - 1)])
            for channel in range(channels):
                best, who = values[row, channel], winner[row, channel]
                one, two = ordered[cloud, a, channel], ordered[cloud, b, channel]
                who = a if one > best else who
                best = max(one, best)
                winner[row, channel] = b if two > best else who
                values[row, channel] = max(two, best)
        _restore(values[row], unsigned)


@kernel
def _add_to_winners(first, last, total, values, winner):
    _, centers, channels = values.shape
    for cloud in range(first, last):
        for center in range(centers):
            for channel in range(channels):
                value = unbits(values[cloud, center, channel])
                total[cloud, winner[cloud, center, channel], channel] += value


@kernel
def _unpool(first, last, rows, winner, unpooled):
    _, neighbors, channels = unpooled.shape
    for row in range(first, last):
        for neighbor in range(neighbors):
            for channel in range(channels):
                here = winner[row, channel] == neighbor
                unpooled[row, neighbor, channel] = rows[row, channel] if here else 0
