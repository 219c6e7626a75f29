"""Finding neighbours: the k nearest, those within a ball, the nearest in a space of features."""

import torch
from torch import Tensor
from torch.nn import functional as F

from ea_pointcloud._checks import (
    check_features,
    check_lengths,
    check_mask,
    check_pair,
    check_positive,
    check_range,
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
