"""The maximum over the neighbours of each centre."""

import torch
from torch import Tensor

from ea_pointcloud.ops import _backend
from ea_pointcloud.ops.gather import check_gather, gather_points


def max_over_neighbors(features: Tensor) -> Tensor:
    """Keep the greatest value of each channel among the neighbours; differentiable.

    The whole gradient goes to the first neighbour that has it, as ``torch.max`` does it. On CPUs
    that is where ``torch.max`` takes ten times as long as reading the features, forward and
    backward; ``amax``, which shares the gradient among equal values, is slower still.

    Args:
        features: (B, S, K, C) floating point, K >= 1.

    Returns:
        (B, S, C), NaN where a neighbour has one.

    Raises:
        ValueError: if the shape is another.
        TypeError: if the features are not floating point.
    """
    if features.ndim != 4 or features.shape[2] == 0:
        raise ValueError(
            f"features must have shape (B, S, K, C) with K >= 1, got {tuple(features.shape)}"
        )
    if not features.is_floating_point():
        raise TypeError(f"features must be floating point, got {features.dtype}; use .float()")
    if torch.compiler.is_exporting() or not (torch.is_grad_enabled() and features.requires_grad):
        return features.amax(2)
    if torch.compiler.is_compiling():  # compilers fuse it with what stands before
        return features.max(2).values
    return _backend.operators().max_pool(features)[0]


def gather_max(features: Tensor, idx: Tensor) -> Tensor:
    """Keep the greatest value of each channel among the points in ``idx``; differentiable.

    The same as :func:`max_over_neighbors` of what :func:`gather_points` reads, with its gradient,
    without ever storing the (B, S, K, C) pairs on a CPU. The gradient is summed in float32 in a
    fixed order.

    Args:
        features: (B, N, C) floating point.
        idx: (B, S, K) int64, each in 0..N-1, K >= 1.

    Returns:
        (B, S, C), ``out[b, s] = max_k features[b, idx[b, s, k]]``.

    Raises:
        ValueError: if a shape is another.
        TypeError: if ``idx`` is not int64 or the features are not floating point.
    """
    if torch.compiler.is_compiling():  # compilers fuse the gather with the maximum
        return max_over_neighbors(gather_points(features, idx))
    check_gather(features, idx)
    if idx.ndim != 3 or idx.shape[2] == 0:
        raise ValueError(f"idx must have shape (B, S, K) with K >= 1, got {tuple(idx.shape)}")
    if not features.is_floating_point():
        raise TypeError(f"features must be floating point, got {features.dtype}; use .float()")
    return _backend.operators().gather_max(features, idx)[0]
