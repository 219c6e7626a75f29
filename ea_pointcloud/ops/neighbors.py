"""Neighbours: finding them, reading features at them, their maximum."""

import torch
from torch import Tensor
from torch.nn import functional as F

from ea_pointcloud._checks import (
    check_device,
    check_features,
    check_lengths,
    check_mask,
    check_pair,
    check_positive,
    check_range,
    values_readable,
)
from ea_pointcloud.ops import _backend
from ea_pointcloud.ops._coordinates import to_float32


def knn(
    query: Tensor, points: Tensor, k: int, *, lengths: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Find the ``k`` nearest points of each query, sorted by distance.

    Exact; the lowest index wins a tie. A cloud with fewer than ``k`` valid points repeats the
    nearest. Nothing returned carries a gradient. Cost is O(B * S * N); the S x N distances are
    formed in blocks and never stored whole.

    Args:
        query: (B, S, 3) in the frame and unit of ``points``.
        points: (B, N, 3) points to search.
        k: neighbours per query, 1 <= k <= N.
        lengths: (B,) valid points of each padded cloud of ``points``; all N if omitted.

    Returns:
        sq_dist: (B, S, K) float32 squared distances, ascending.
        idx: (B, S, K) int64, ``points[b, idx[b, s, j]]`` is the j-th nearest of ``query[b, s]``.

    Raises:
        ValueError: if the shapes do not agree or ``k`` is outside 1..N.
    """
    check_pair(query, points)
    check_lengths(lengths, points)
    check_range("k", k, 1, points.shape[1], "N")
    points, query = to_float32(points, lengths, query)
    return _backend.operators().knn(query, points, k, lengths)


def ball_query(
    query: Tensor, points: Tensor, radius: float, k: int, *, lengths: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Find up to ``k`` points within ``radius`` of each query.

    Hits come in index order, not by distance; use :func:`knn` where the nearest matter. Short rows
    repeat their first hit, and a query without a hit gets its single nearest point and count 0, so
    ``idx`` is always safe to gather with. Nothing returned carries a gradient. Cost is
    O(B * S * N).

    Args:
        query: (B, S, 3) centres, in the frame and unit of ``points``.
        points: (B, N, 3) points to search.
        radius: > 0, in the unit of the coordinates; the boundary belongs to the ball.
        k: slots per query, 1 <= k <= N.
        lengths: (B,) valid points of each padded cloud of ``points``; all N if omitted.

    Returns:
        idx: (B, S, K) int64, ``points[b, idx[b, s, j]]`` is the j-th hit of ``query[b, s]``.
        count: (B, S) int64, hits found, 0..k.

    Raises:
        ValueError: if the shapes do not agree, ``radius`` <= 0 or ``k`` is outside 1..N.

    Reference:
        Qi et al., PointNet++, NeurIPS 2017, section 3.2.
    """
    check_pair(query, points)
    check_lengths(lengths, points)
    check_positive("radius", radius)
    check_range("k", k, 1, points.shape[1], "N")
    points, query = to_float32(points, lengths, query)
    return _backend.operators().ball_query(query, points, radius, k, lengths)


@torch.no_grad()
def feature_neighbors(features: Tensor, k: int, *, mask: Tensor | None = None) -> Tensor:
    """Find the ``k`` nearest points of each point, itself among them, in the space of features.

    For any number of channels, in plain PyTorch on every device. Distances come out of a matrix
    product, ``|x|^2 - 2 x y + |y|^2`` in float32 around the mean of the cloud: where two differ by
    no more than its rounding, either may count as the nearer. For coordinates :func:`knn` is exact.
    Nothing returned carries a gradient. Cost is O(B * N^2 * C), memory O(B * N^2).

    Args:
        features: (B, N, C), any floating dtype; finite where ``mask`` is True.
        k: neighbours per point, 1 <= k <= N.
        mask: (B, N) bool, True = real point; others are nobody's neighbours.

    Returns:
        (B, N, K) int64, ``features[b, idx[b, n, j]]`` is the j-th nearest of ``features[b, n]``. A
        cloud with fewer than ``k`` real points repeats the nearest; rows of padded points are
        valid indices and mean nothing.

    Raises:
        ValueError: if the shapes do not agree or ``k`` is outside 1..N.
    """
    check_features("features", features)
    check_mask(mask, features)
    check_range("k", k, 1, features.shape[1], "N")
    with torch.autocast(features.device.type, enabled=False):
        points = features if features.dtype == torch.float64 else features.float()
        if mask is None:
            points = points - points.mean(1, keepdim=True)
        else:
            points = points.masked_fill(~mask[..., None], 0)
            points = points - points.sum(1, keepdim=True) / mask.sum(1)[:, None, None].clamp_min(1)
        sq_norm = points.square().sum(-1)
        # Up to |x|^2 of the point itself, which does not change the order of its neighbours.
        sq_dist = torch.baddbmm(sq_norm[:, None], points, points.transpose(1, 2), alpha=-2)
        if mask is not None:
            sq_dist = sq_dist.masked_fill(~mask[:, None], torch.inf)
        if torch.compiler.is_exporting():  # what runs elsewhere may meet clouds of fewer points
            sq_dist = F.pad(sq_dist, (0, k), value=torch.inf)
        found, idx = sq_dist.topk(k, largest=False)
    if mask is None and not torch.compiler.is_exporting():
        return idx
    return torch.where(found.isinf(), idx[..., :1], idx)


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
    winners = torch.is_grad_enabled() and features.requires_grad
    return _backend.operators().gather_max(features, idx, winners)[0]


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


def at_most(wanted: int, available: int) -> int:
    """``min()``, which an export turns into a number computed when the program runs."""
    return wanted if wanted <= available else available
