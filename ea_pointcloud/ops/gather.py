"""Reading features at indices, and carrying them from a few points to many."""

import torch
from torch import Tensor

from ea_pointcloud._checks import (
    check_device,
    check_features,
    check_pair,
    check_range,
    values_readable,
)
from ea_pointcloud.ops import _backend
from ea_pointcloud.ops.neighbors import knn


def gather_points(features: Tensor, idx: Tensor, *, offset: Tensor | None = None) -> Tensor:
    """Read the features of the points in ``idx``; differentiable in ``features`` and ``offset``.

    The gradient is summed in float32 or wider, in an order that does not change from run to run.

    Args:
        features: (B, N, C), any dtype; coordinates are features with C = 3.
        idx: (B, S) or (B, S, K) int64, each in 0..N-1.
        offset: (B, S, C) added to what each query reads, in the dtype of ``features``, without
            another pass over the result; minus the centre makes neighbours relative to it.

    Returns:
        (B, S, C) or (B, S, K, C), ``out[b, s, k] = features[b, idx[b, s, k]] + offset[b, s]``.

    Raises:
        ValueError: if the shapes do not agree.
        TypeError: if ``idx`` is not int64 or ``offset`` has another dtype than ``features``.
    """
    check_gather(features, idx)
    if offset is not None:
        expected = (idx.shape[0], idx.shape[1], features.shape[-1])  # not len(), which exports fix
        if offset.shape != expected:
            raise ValueError(
                f"offset must have shape (B, S, C) = {expected}, got {tuple(offset.shape)}"
            )
        if offset.dtype != features.dtype:
            raise TypeError(
                f"offset must have the dtype of features, {features.dtype}, got {offset.dtype}"
            )
        check_device("offset", offset, features)
    if idx.ndim == 2:
        return _backend.operators().gather(features, idx[..., None], offset)[:, :, 0]
    return _backend.operators().gather(features, idx, offset)


def check_gather(features: Tensor, idx: Tensor) -> None:
    """Raise unless ``idx`` (B, S) or (B, S, K) are points of ``features`` (B, N, C)."""
    check_features("features", features)
    batch, num_points = features.shape[:2]
    if idx.ndim not in (2, 3) or idx.shape[0] != batch:
        raise ValueError(
            f"idx must have shape (B, S) or (B, S, K) with B={batch}, got {tuple(idx.shape)}"
        )
    if idx.dtype != torch.long:
        raise TypeError(f"idx must be int64, got {idx.dtype}; convert with .long()")
    check_device("idx", idx, features)
    if (
        values_readable(idx)
        and idx.numel()
        and not 0 <= int(idx.min()) <= int(idx.max()) < num_points
    ):
        raise ValueError(
            f"idx must be between 0 and N-1={num_points - 1}, "
            f"got {int(idx.min())}..{int(idx.max())}"
        )


def interpolate_features(
    query: Tensor, points: Tensor, features: Tensor, k: int = 3, *, lengths: Tensor | None = None
) -> Tensor:
    """Carry features from ``points`` to ``query`` by inverse squared distance to the k nearest.

    A query that coincides with a point gets that point's features. Differentiable in ``features``;
    the weights are constants.

    Args:
        query: (B, S, 3) where features are wanted.
        points: (B, N, 3) where they are known.
        features: (B, N, C).
        k: neighbours to mix, 1 <= k <= N.
        lengths: (B,) valid points of each padded cloud of ``points``; all N if omitted.

    Returns:
        (B, S, C), ``sum_j w_j features[b, idx[b, s, j]]`` with ``w_j ~ 1 / sq_dist_j``, sum 1.

    Raises:
        ValueError: if the shapes do not agree or ``k`` is outside 1..N.

    Reference:
        Qi et al., PointNet++, NeurIPS 2017, section 3.4.
    """
    check_pair(query, points)
    check_features("features", features, like=points)
    check_device("features", features, points)
    if not features.is_floating_point():
        raise TypeError(f"features must be floating point, got {features.dtype}; use .float()")
    check_range("k", k, 1, points.shape[1], "N")
    sq_dist, idx = knn(query, points, k, lengths=lengths)
    # Relative to the nearest, so that neither tiny nor huge units overflow: 1 for the nearest.
    nearest = sq_dist[..., :1]
    weight = torch.where(nearest > 0, nearest / sq_dist.where(sq_dist > 0, 1.0), sq_dist == 0)
    # Where a cloud has fewer valid points than k, the other slots only repeat the nearest.
    repeats = (idx == idx[..., :1]) & (torch.arange(k, device=idx.device) > 0)
    weight = weight.masked_fill(repeats, 0.0)
    weight = weight / weight.sum(-1, keepdim=True)
    return _backend.operators().interpolate(features, idx, weight)
