"""Clouds concatenated in a flat tensor: checks, padding for the operators, and edges.

The sizes of the clouds are kept on the CPU, where they decide the shapes of the padded batches.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from ea_pointcloud._checks import check_count

# Clouds are padded to the largest, unless that makes more than this many times the points.
_MOST_PADDING = 2
# Candidate edges formed at a time: 128 MB of indices.
_CHUNK_ELEMENTS = 2**24

# (query (G, S, 3), points (G, N, 3), k, lengths (G,)) -> idx (G, S, K) and count (G, S): the first
# ``count`` of a row are true neighbours.
Search = Callable[[Tensor, Tensor, int, Tensor], tuple[Tensor, Tensor]]


def flat_xyz(name: str, points: Tensor) -> Tensor:
    """(N, 3) float32 or float64 of (N, D), D <= 3, or (N,); zero columns change no distance."""
    if not isinstance(points, Tensor):
        raise TypeError(
            f"{name} must be a torch.Tensor, got {type(points).__name__}; use torch.as_tensor"
        )
    columns = points[:, None] if points.ndim == 1 else points
    if columns.ndim != 2 or not 1 <= columns.shape[1] <= 3:
        raise ValueError(
            f"{name} must be coordinates of shape (N, D) with 1 <= D <= 3, or (N,), "
            f"got {tuple(points.shape)}; wider features have no fast neighbours here"
        )
    if not points.is_floating_point():
        raise TypeError(
            f"{name} must be floating point, got {points.dtype}; convert with {name}.float()"
        )
    wide = torch.promote_types(points.dtype, torch.float32)
    return F.pad(columns.detach().to(wide), (0, 3 - columns.shape[1]))


def cloud_sizes(name: str, batch: Tensor | None, xyz: Tensor, batch_size: int | None) -> Tensor:
    """(B,) number of points of each cloud, on the CPU; empty clouds have 0."""
    if batch_size is not None:
        check_count("batch_size", batch_size)
    least = 1 if batch_size is None else batch_size
    if batch is None:
        size = torch.zeros(least, dtype=torch.long)
        size[0] = len(xyz)
        return size
    if batch.shape != (len(xyz),):
        raise ValueError(
            f"{name} must have shape (N,) = ({len(xyz)},), one id for each point, "
            f"got {tuple(batch.shape)}"
        )
    if batch.is_floating_point() or batch.dtype == torch.bool:
        raise TypeError(f"{name} must be integers, got {batch.dtype}; convert with .long()")
    batch = batch.long()
    # The sizes decide the shapes, so a batch on a GPU is waited for anyway: check it there too.
    if bool((batch.diff() < 0).any()):
        raise ValueError(
            f"{name} must be sorted, each cloud's points together; sort it and its points by "
            f"{name}.argsort(stable=True)"
        )
    if len(batch) and int(batch[0]) < 0:
        raise ValueError(f"{name} must not be negative, got {int(batch[0])}")
    size = batch.bincount(minlength=least).cpu()
    if batch_size is not None and len(size) > batch_size:
        raise ValueError(
            f"{name} must be between 0 and batch_size-1={batch_size - 1}, got {len(size) - 1}"
        )
    return size


def padding_groups(*sizes: Tensor) -> list[Tensor]:
    """Clouds to pad together, as ascending ids; a cloud that is empty in one of ``sizes`` is out.

    All in one group, or split by powers of two of the sizes, so that at most half is padding.
    """
    every = torch.stack(sizes)  # (1 or 2, B)
    used = (every > 0).all(0).nonzero()[:, 0]
    if len(used) == 0:
        return []
    every = every[:, used]
    if bool((every.amax(1) * len(used) <= _MOST_PADDING * every.sum(1)).all()):
        return [used]
    power = torch.frexp(every.double()).exponent
    _, group = power.unique(dim=1, return_inverse=True)
    return [used[group == one] for one in range(int(group.max()) + 1)]


def padded_rows(size: Tensor, group: Tensor, device: torch.device) -> Tensor:
    """(G, N) rows of the flat tensor, -1 in the padding.

    Indexing with -1 reads the last row, so the padding gathers safely.
    """
    start = (size.cumsum(0) - size)[group].to(device)
    column = torch.arange(int(size[group].max()), device=device)
    rows = start[:, None] + column
    return rows.masked_fill_(column >= size[group].to(device)[:, None], -1)


def find_edges(
    points: Tensor,
    query: Tensor,
    size_points: Tensor,
    size_query: Tensor,
    limit: int | None,
    search: Search,
    *,
    loop: bool,
) -> tuple[Tensor, Tensor]:
    """(E,) rows of ``query``, ascending, and of ``points``; without ``loop`` never the same row."""
    device = points.device
    centers, neighbors = [], []
    for group in padding_groups(size_points, size_query):
        point_rows = padded_rows(size_points, group, device)  # (G, N)
        query_rows = padded_rows(size_query, group, device)  # (G, S)
        cloud, lengths = points[point_rows], size_points[group].to(device)
        most = cloud.shape[1] if limit is None else int(limit)
        # One more than wanted makes up for the point itself, whether or not it is found.
        k = min(most if loop else most + 1, cloud.shape[1])
        for rows in query_rows.split(max(1, _CHUNK_ELEMENTS // (len(group) * k)), dim=1):
            idx, count = search(query[rows], cloud, k, lengths)
            neighbor = point_rows[:, :1, None] + idx  # (G, S, K), rows of points
            center = rows[..., None].expand_as(neighbor)
            keep = torch.arange(k, device=device) < count[..., None]
            keep &= center >= 0
            if not loop:
                keep &= center != neighbor
                keep &= keep.cumsum(-1) <= most
            # Four times as fast on CPUs as indexing with the mask.
            centers.append(center.masked_select(keep))
            neighbors.append(neighbor.masked_select(keep))
    if len(centers) == 1:  # its clouds, and so its centres, are in order
        return centers[0], neighbors[0]
    none = torch.empty(0, dtype=torch.long, device=device)
    center, order = torch.cat((none, *centers)).sort(stable=True)
    return center, torch.cat((none, *neighbors))[order]
