"""Clouds of different sizes as one padded tensor with a mask, True = real point."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ea_pointcloud.datasets._splits import SPLIT_SEED
from ea_pointcloud.ops import farthest_point_sample, random_point_sample

_CHUNK = 256  # clouds handled at a time


def pad(arrays: Sequence[np.ndarray], value: int) -> Tensor:
    """(n, Nmax, ...) of arrays (N, ...), filled up with ``value``."""
    shape = (len(arrays), max(map(len, arrays)), *arrays[0].shape[1:])
    padded = np.full(shape, value, arrays[0].dtype)
    for row, array in zip(padded, arrays, strict=True):
        row[: len(array)] = array
    return torch.from_numpy(padded)


def length_mask(arrays: Sequence[np.ndarray]) -> Tensor:
    """(n, Nmax) bool of arrays (N, ...): the real points come first."""
    lengths = torch.tensor([len(array) for array in arrays])
    return torch.arange(int(lengths.max())) < lengths[:, None]


def in_chunks(function: Callable[[Tensor, Tensor], Tensor], xyz: Tensor, mask: Tensor) -> Tensor:
    """``function(xyz, mask)`` for so many clouds at a time that memory stays bounded."""
    chunks = zip(xyz.split(_CHUNK), mask.split(_CHUNK), strict=True)
    return torch.cat([function(*chunk) for chunk in chunks])


def choose_real_points(xyz: Tensor, mask: Tensor, num_points: int, sampling: str) -> Tensor:
    """Indices (n, num_points) of the points to keep, the same at every call.

    The real points of a shorter cloud come first in its choice, then repetitions: padding.

    Args:
        xyz: (n, N, 3).
        mask: (n, N) bool, the real points first.
        num_points: 1 <= num_points <= N.
        sampling: ``"first"``, ``"random"`` or ``"fps"``.
    """
    generator = torch.Generator().manual_seed(SPLIT_SEED)

    def choose(xyz: Tensor, mask: Tensor) -> Tensor:
        lengths = mask.sum(1)
        if sampling == "random":
            return random_point_sample(xyz, num_points, lengths=lengths, generator=generator)
        if sampling == "fps":
            return farthest_point_sample(xyz, num_points, lengths=lengths)
        return torch.arange(num_points).expand(len(xyz), -1)

    return in_chunks(choose, xyz, mask)
