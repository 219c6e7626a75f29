"""Finding neighbours: the k nearest, and those within a ball."""

from torch import Tensor

from ea_pointcloud._checks import check_lengths, check_pair, check_positive, check_range
from ea_pointcloud.ops import _backend


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
        lengths: (B,) valid points of each padded cloud of ``points``; all N without it.

    Returns:
        sq_dist: (B, S, K) float32 squared distances, ascending.
        idx: (B, S, K) int64, ``points[b, idx[b, s, j]]`` is the j-th nearest of ``query[b, s]``.

    Raises:
        ValueError: if the shapes do not agree or ``k`` is outside 1..N.
    """
    check_pair(query, points)
    check_lengths(lengths, points)
    check_range("k", k, 1, points.shape[1], "N")
    return _backend.operators().knn(query.detach().float(), points.detach().float(), k, lengths)


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
        lengths: (B,) valid points of each padded cloud of ``points``; all N without it.

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
    return _backend.operators().ball_query(
        query.detach().float(), points.detach().float(), radius, k, lengths
    )
