"""The maximum over neighbours, and what gradients need: its transpose, and interpolation's."""

from typing import Any

import numba
import torch
from torch import Tensor

from ea_pointcloud.ops import _reference
from ea_pointcloud.ops._cpu import _pool
from ea_pointcloud.ops._cpu._kernel import kernel, unbits

# bfloat16 is unknown to numba: its bit pattern is the upper half of that of the float32.
_STORED = {torch.float32: torch.int32, torch.bfloat16: torch.int16}


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


def gather_max(features: Tensor, idx: Tensor) -> tuple[Tensor, Tensor]:
    """(B, N, C), (B, S, K) -> greatest gathered values (B, S, C), and whose they are, int32."""
    if features.dtype not in _STORED:
        return _reference.gather_max(features, idx)
    batch, centers, neighbors = idx.shape
    channels = features.shape[-1]
    stored = features.contiguous().view(_STORED[features.dtype])
    values = stored.new_empty(batch * centers, channels)
    winner = stored.new_empty(batch * centers, channels, dtype=torch.int32)
    neighbor = idx.contiguous().view(batch * centers, neighbors)
    _over_rows(_find_gathered, neighbors * channels, neighbor, stored, values, winner)
    shape = (batch, centers, channels)
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


def _over_rows(function: Any, steps: int, *tensors: Tensor) -> None:
    arrays = [tensor.numpy() for tensor in tensors]
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
def _find_gathered(first, last, idx, features, values, winner):
    neighbors, channels = idx.shape[1], features.shape[2]
    centers = len(idx) // len(features)
    for row in range(first, last):
        cloud, point = row // centers, idx[row, 0]
        for channel in range(channels):
            values[row, channel] = features[cloud, point, channel]
            winner[row, channel] = point
        for neighbor in range(1, neighbors):
            point = idx[row, neighbor]
            for channel in range(channels):
                pattern, best = features[cloud, point, channel], values[row, channel]
                value = unbits(pattern)
                wins = (value > unbits(best)) | (value != value)  # NaN is passed on
                values[row, channel] = pattern if wins else best
                winner[row, channel] = numba.int32(point) if wins else winner[row, channel]


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
