"""The operators in PyTorch Geometric's shapes: flat points with a batch vector in, edges out.

Drop-in replacements of the functions of the same names in ``torch_geometric.nn``, which need a
compiled wheel that PyPI does not have; torch_geometric itself is not needed. Where its versions
differ from device to device, these keep to the contract of :mod:`ea_pointcloud.ops`: exact in
float32, ties to the lowest index, the same integers everywhere. A point that is not finite has no
edges. Nothing returned carries a gradient.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from ea_pointcloud._checks import check_choice, check_count, check_positive
from ea_pointcloud.ops import neighbors, sampling
from ea_pointcloud.ops._ragged import (
    Search,
    cloud_sizes,
    find_edges,
    flat_xyz,
    padded_rows,
    padding_groups,
)

FLOWS = ("source_to_target", "target_to_source")


def fps(
    x: Tensor,
    batch: Tensor | None = None,
    ratio: float | Tensor = 0.5,
    random_start: bool = True,
    batch_size: int | None = None,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Pick a share of each cloud's points, each the farthest from all picked so far.

    See :func:`ea_pointcloud.ops.farthest_point_sample` for the order. A cloud of n points gives
    ``ceil(ratio * n)`` picks, multiplied in float32 as in PyTorch Geometric.

    Args:
        x: (N, D) points, 1 <= D <= 3, or (N,); non-finite points are never picked.
        batch: (N,) integers, ascending, the cloud of each point; one cloud if omitted.
        ratio: share in (0, 1], one for all or a tensor (B,) with one for each cloud.
        random_start: begin at a random point of each cloud instead of its first.
        batch_size: number of clouds B; if omitted, the highest id in ``batch`` and one.
        generator: source of the random starts, on any device.

    Returns:
        (S,) int64, rows of ``x``, cloud after cloud, each in the order of picking.

    Raises:
        ValueError: if a shape is wrong, ``batch`` is not sorted, an id is outside 0..B-1, or
            ``ratio`` is outside (0, 1].
    """
    xyz = flat_xyz("x", x)
    size = cloud_sizes("batch", batch, xyz, batch_size)
    num_picks = _num_picks(ratio, size)
    start = torch.zeros_like(size)
    if random_start:
        source = "cpu" if generator is None else generator.device
        draw = torch.rand(len(size), generator=generator, device=source, dtype=torch.float64)
        start = (draw.cpu() * size).long()
    first = num_picks.cumsum(0) - num_picks  # where each cloud's picks begin in the result
    picks = torch.empty(int(num_picks.sum()), dtype=torch.long, device=xyz.device)
    for group in padding_groups(size):
        rows = padded_rows(size, group, xyz.device)  # (G, N)
        most = int(num_picks[group].max())
        order = sampling.farthest_point_sample(
            xyz[rows], most, lengths=size[group].to(xyz.device), start=start[group].to(xyz.device)
        )
        place = torch.arange(most)
        real = place < num_picks[group, None]  # (G, S)
        target = (first[group, None] + place)[real]
        picks[target.to(xyz.device)] = rows.gather(1, order)[real.to(xyz.device)]
    return picks


def knn(
    x: Tensor,
    y: Tensor,
    k: int,
    batch_x: Tensor | None = None,
    batch_y: Tensor | None = None,
    cosine: bool = False,
    num_workers: int = 1,
    batch_size: int | None = None,
) -> Tensor:
    """Find the ``k`` points of ``x`` nearest to each point of ``y`` in the same cloud.

    Exact; the lowest index wins a tie. Fewer points in a cloud give fewer edges.

    Args:
        x: (N, D) points to search, 1 <= D <= 3, or (N,).
        y: (M, D) queries, in the frame and unit of ``x``, or (M,).
        k: neighbours of each query, >= 1.
        batch_x: (N,) integers, ascending, the cloud of each point; one cloud if omitted.
        batch_y: (M,) integers, ascending, the cloud of each query; one cloud if omitted.
        cosine: not supported; neighbours by angle are those of the rows scaled to length one.
        num_workers: accepted for PyTorch Geometric's sake, ignored.
        batch_size: number of clouds B; if omitted, the highest id and one.

    Returns:
        (2, E) int64: row 0 is a query, ascending, and row 1 one of its neighbours, nearest first.

    Raises:
        ValueError: if a shape is wrong, a batch vector is not sorted, an id is outside 0..B-1,
            ``k`` < 1, or ``cosine`` is true.
    """
    _check_euclidean(cosine)
    check_count("k", k)
    return _bipartite(x, y, k, _nearest, batch_x, batch_y, batch_size)


def knn_graph(
    x: Tensor,
    k: int,
    batch: Tensor | None = None,
    loop: bool = False,
    flow: str = "source_to_target",
    cosine: bool = False,
    num_workers: int = 1,
    batch_size: int | None = None,
) -> Tensor:
    """Connect each point to the ``k`` nearest of its cloud.

    Exact; the lowest index wins a tie. Fewer points in a cloud give fewer edges. Without ``loop``
    a point is left out of its own neighbours by index, so coinciding points stay connected.

    Args:
        x: (N, D) points, 1 <= D <= 3, or (N,).
        k: neighbours of each point, >= 1.
        batch: (N,) integers, ascending, the cloud of each point; one cloud if omitted.
        loop: count the point itself among its neighbours.
        flow: ``"source_to_target"`` for edges from neighbour to centre, ``"target_to_source"`` for
            edges from centre to neighbour.
        cosine: not supported; neighbours by angle are those of the rows scaled to length one.
        num_workers: accepted for PyTorch Geometric's sake, ignored.
        batch_size: number of clouds B; if omitted, the highest id in ``batch`` and one.

    Returns:
        (2, E) int64: with the default ``flow`` row 0 is a neighbour and row 1 its centre, otherwise
        the other way round; centres ascend, and the neighbours of one come nearest first.

    Raises:
        ValueError: if a shape is wrong, ``batch`` is not sorted, an id is outside 0..B-1, ``k`` <
            1, ``flow`` is unknown, or ``cosine`` is true.
    """
    _check_euclidean(cosine)
    check_count("k", k)
    return _graph(x, k, _nearest, batch, loop, flow, batch_size)


def radius(
    x: Tensor,
    y: Tensor,
    r: float,
    batch_x: Tensor | None = None,
    batch_y: Tensor | None = None,
    max_num_neighbors: int | None = 32,
    num_workers: int = 1,
    batch_size: int | None = None,
) -> Tensor:
    """Find the points of ``x`` within ``r`` of each point of ``y`` in the same cloud.

    Where there are more than ``max_num_neighbors``, the lowest indices are kept. The boundary
    belongs to the ball, as in :func:`ea_pointcloud.ops.ball_query`.

    Args:
        x: (N, D) points to search, 1 <= D <= 3, or (N,).
        y: (M, D) queries, in the frame and unit of ``x``, or (M,).
        r: > 0, in the unit of the coordinates.
        batch_x: (N,) integers, ascending, the cloud of each point; one cloud if omitted.
        batch_y: (M,) integers, ascending, the cloud of each query; one cloud if omitted.
        max_num_neighbors: most neighbours of a query, >= 1; all of them with ``None``.
        num_workers: accepted for PyTorch Geometric's sake, ignored.
        batch_size: number of clouds B; if omitted, the highest id and one.

    Returns:
        (2, E) int64: row 0 is a query, ascending, and row 1 one of its neighbours, ascending.

    Raises:
        ValueError: if a shape is wrong, a batch vector is not sorted, an id is outside 0..B-1, or
            ``r`` or ``max_num_neighbors`` is not positive.
    """
    search = _within(r, max_num_neighbors)
    return _bipartite(x, y, max_num_neighbors, search, batch_x, batch_y, batch_size)


def radius_graph(
    x: Tensor,
    r: float,
    batch: Tensor | None = None,
    loop: bool = False,
    max_num_neighbors: int | None = 32,
    flow: str = "source_to_target",
    num_workers: int = 1,
    batch_size: int | None = None,
) -> Tensor:
    """Connect each point to the points of its cloud within ``r``.

    Where there are more than ``max_num_neighbors``, the lowest indices are kept; the point itself
    counts with ``loop`` alone. Otherwise it is left out by index, so coinciding points stay
    connected. The boundary belongs to the ball.

    Args:
        x: (N, D) points, 1 <= D <= 3, or (N,).
        r: > 0, in the unit of the coordinates.
        batch: (N,) integers, ascending, the cloud of each point; one cloud if omitted.
        loop: count the point itself among its neighbours.
        max_num_neighbors: most neighbours of a point, >= 1; all of them with ``None``.
        flow: ``"source_to_target"`` for edges from neighbour to centre, ``"target_to_source"`` for
            edges from centre to neighbour.
        num_workers: accepted for PyTorch Geometric's sake, ignored.
        batch_size: number of clouds B; if omitted, the highest id in ``batch`` and one.

    Returns:
        (2, E) int64: with the default ``flow`` row 0 is a neighbour and row 1 its centre, otherwise
        the other way round; centres ascend, and so do the neighbours of one.

    Raises:
        ValueError: if a shape is wrong, ``batch`` is not sorted, an id is outside 0..B-1, ``r`` or
            ``max_num_neighbors`` is not positive, or ``flow`` is unknown.
    """
    search = _within(r, max_num_neighbors)
    return _graph(x, max_num_neighbors, search, batch, loop, flow, batch_size)


def _num_picks(ratio: float | Tensor, size: Tensor) -> Tensor:
    """(B,) picks of each cloud, on the CPU."""
    share = torch.as_tensor(ratio, dtype=torch.float32, device="cpu")
    if share.shape not in ((), (1,), size.shape):
        raise ValueError(
            f"ratio must be a number or have shape (B,) = ({len(size)},), got {tuple(share.shape)}"
        )
    if not bool(((share > 0) & (share <= 1)).all()):
        raise ValueError(f"ratio must be above 0 and at most 1, got {share.tolist()}")
    # Above 2**24 points float32 may round the product up past the size.
    return (size.float() * share).ceil().long().minimum(size)


def _check_euclidean(cosine: bool) -> None:
    if cosine:
        raise ValueError(
            "cosine must be False; for the nearest by angle, scale the points to length one with "
            "torch.nn.functional.normalize"
        )


def _nearest(query: Tensor, points: Tensor, k: int, lengths: Tensor) -> tuple[Tensor, Tensor]:
    _, idx = neighbors.knn(query, points, k, lengths=lengths)
    place = torch.arange(points.shape[1], device=points.device)
    valid = points.isfinite().all(-1) & (place < lengths[:, None])  # (G, N)
    return idx, valid.sum(1, keepdim=True) * query.isfinite().all(-1)


def _within(r: float, most: int | None) -> Search:
    check_positive("r", r)
    if most is not None:
        check_count("max_num_neighbors", most)

    def search(query: Tensor, points: Tensor, k: int, lengths: Tensor) -> tuple[Tensor, Tensor]:
        return neighbors.ball_query(query, points, float(r), k, lengths=lengths)

    return search


def _bipartite(
    x: Tensor,
    y: Tensor,
    limit: int | None,
    search: Search,
    batch_x: Tensor | None,
    batch_y: Tensor | None,
    batch_size: int | None,
) -> Tensor:
    points, query = flat_xyz("x", x), flat_xyz("y", y)
    if x.shape[1:] != y.shape[1:]:
        raise ValueError(
            f"x and y must have the same columns, got {tuple(x.shape)} and {tuple(y.shape)}"
        )
    if x.device != y.device:
        raise ValueError(
            f"x and y must be on one device, got {x.device} and {y.device}; move one with .to()"
        )
    size_x = cloud_sizes("batch_x", batch_x, points, batch_size)
    size_y = cloud_sizes("batch_y", batch_y, query, batch_size)
    if (batch_x is None) != (batch_y is None) and max(len(size_x), len(size_y)) > 1:
        missing = "batch_x" if batch_x is None else "batch_y"
        raise ValueError(f"{missing} must be given where the other side has several clouds")
    clouds = max(len(size_x), len(size_y))  # the last ones may be empty on one side
    size_x = F.pad(size_x, (0, clouds - len(size_x)))
    size_y = F.pad(size_y, (0, clouds - len(size_y)))
    return torch.stack(find_edges(points, query, size_x, size_y, limit, search, loop=True))


def _graph(
    x: Tensor,
    limit: int | None,
    search: Search,
    batch: Tensor | None,
    loop: bool,
    flow: str,
    batch_size: int | None,
) -> Tensor:
    check_choice("flow", flow, FLOWS)
    xyz = flat_xyz("x", x)
    size = cloud_sizes("batch", batch, xyz, batch_size)
    center, neighbor = find_edges(xyz, xyz, size, size, limit, search, loop=loop)
    return torch.stack((neighbor, center) if flow == "source_to_target" else (center, neighbor))
