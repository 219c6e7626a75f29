"""The maximum over the neighbours of each centre."""

import torch
from torch import Tensor

from ea_pointcloud.ops import _backend


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
