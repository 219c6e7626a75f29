"""The operators in plain PyTorch: readable, on every device, and the oracle for all others.

Coordinates come as float32. A squared distance is ``((dx*dx) + (dy*dy)) + (dz*dz)``, computed on
separate coordinate planes with one rounding a step, so that every implementation can repeat it bit
for bit. Points past ``lengths`` and points that are not finite are never returned.
"""

import torch
from torch import Tensor
from torch._higher_order_ops.while_loop import while_loop

# Rows of distances handled at a time: 8 MB of float32 stay in cache, and N never meets S in memory.
_CHUNK_ELEMENTS = 2**21


def farthest_point_sample(
    xyz: Tensor, num_samples: int, lengths: Tensor | None, start: Tensor
) -> Tensor:
    """See :func:`ea_pointcloud.ops.farthest_point_sample`."""
    batch, num_points = xyz.shape[:2]
    x, y, z = _planes(xyz)  # (B, N) each
    valid = _valid(xyz, lengths)
    # Picked, padded and non-finite points stand at -1, below every distance of a point to pick.
    farthest = torch.where(valid, torch.inf, -1.0)
    last = torch.where(valid.gather(1, start[:, None]), start[:, None], _first(valid))  # (B, 1)
    if torch.compiler.is_exporting():
        order = _order_by_loop((x, y, z), num_samples, farthest, last)
        return cycle_order(order, num_samples, valid.sum(1))
    order = torch.empty(batch, min(num_samples, num_points), dtype=torch.long, device=xyz.device)
    total, term = torch.empty_like(x), torch.empty_like(x)
    for step in range(order.shape[1]):
        order[:, step] = last[:, 0]
        torch.sub(x, x.gather(1, last), out=total).square_()
        torch.sub(y, y.gather(1, last), out=term).square_()
        total.add_(term)
        torch.sub(z, z.gather(1, last), out=term).square_()
        total.add_(term)
        # fmin ignores the NaN distance of a non-finite point, which stays at -1.
        torch.fmin(farthest, total, out=farthest)
        farthest.scatter_(1, last, -1.0)
        last = farthest.argmax(1, keepdim=True)  # the first of equal maxima
    return cycle_order(order, num_samples, valid.sum(1))


def _order_by_loop(
    planes: tuple[Tensor, Tensor, Tensor], num_samples: int, farthest: Tensor, last: Tensor
) -> Tensor:
    """(B, S) picks as one loop operator: the steps above would unroll to thousands of nodes.

    A loop cannot write into what it was given, so it makes new tensors. Picks past the number of
    points are meaningless.
    """
    batch = last.shape[0]  # not len(), which an export would take for a constant
    order = last.new_zeros(batch, num_samples)
    step = torch.zeros((), dtype=torch.long, device=last.device)

    def unfinished(step: Tensor, order: Tensor, farthest: Tensor, last: Tensor) -> Tensor:
        return step < num_samples

    def pick(
        step: Tensor, order: Tensor, farthest: Tensor, last: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        order = order.scatter(1, step.expand(batch, 1), last)
        dx, dy, dz = (plane - plane.gather(1, last) for plane in planes)
        farthest = torch.fmin(farthest, dx * dx + dy * dy + dz * dz).scatter(1, last, -1.0)
        return step + 1, order, farthest, farthest.argmax(1, keepdim=True)

    return while_loop(unfinished, pick, (step, order, farthest, last))[1]


def knn(query: Tensor, points: Tensor, k: int, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
    """See :func:`ea_pointcloud.ops.knn`."""
    sq_dist, idx = [], []
    valid = _valid(points, lengths)
    for chunk in _chunks(query, points):
        chunk_sq_dist, chunk_idx = _smallest(_sq_dist(chunk, points, valid), k)
        sq_dist.append(chunk_sq_dist)
        idx.append(chunk_idx)
    all_sq_dist, all_idx = torch.cat(sq_dist, 1), torch.cat(idx, 1)
    # Fewer than k valid points: the remaining places repeat the nearest.
    missing = torch.arange(k, device=points.device) >= valid.sum(1)[:, None, None]
    return (
        torch.where(missing, all_sq_dist[..., :1], all_sq_dist),
        torch.where(missing, all_idx[..., :1], all_idx),
    )


def ball_query(
    query: Tensor, points: Tensor, radius: float, k: int, lengths: Tensor | None
) -> tuple[Tensor, Tensor]:
    """See :func:`ea_pointcloud.ops.ball_query`."""
    num_points = points.shape[1]
    limit = torch.tensor(radius, dtype=torch.float32, device=points.device).square()
    position = torch.arange(num_points, device=points.device)
    valid = _valid(points, lengths)
    idx, count = [], []
    for chunk in _chunks(query, points):
        sq_dist = _sq_dist(chunk, points, valid)
        hit = (sq_dist <= limit) & chunk.isfinite().all(-1, keepdim=True)  # (B, S, N)
        slots = torch.where(hit, position, num_points).topk(k, largest=False, sorted=True).values
        _, nearest = _smallest(sq_dist, 1)
        first = torch.where(slots[..., :1] < num_points, slots[..., :1], nearest)
        idx.append(torch.where(slots < num_points, slots, first))
        count.append(hit.sum(-1).clamp_(max=k))
    return torch.cat(idx, 1), torch.cat(count, 1)


def gather(features: Tensor, idx: Tensor, offset: Tensor | None) -> Tensor:
    """(B, N, C), (B, S, K) -> (B, S, K, C), ``features[b, idx[b, s, k]] + offset[b, s]``."""
    if torch.compiler.is_exporting():  # which cannot relate the sizes of a flat view
        flat = idx.flatten(1)[..., None].expand(-1, -1, features.shape[-1])
        rows = features.gather(1, flat).unflatten(1, idx.shape[1:])
        return rows if offset is None else rows + offset[:, :, None]
    # A flat index_select is twice as fast on CPUs as an expanded gather or advanced indexing.
    rows = features.reshape(-1, features.shape[-1]).index_select(0, _flat(idx, features.shape[1]))
    rows = rows.view(*idx.shape, features.shape[-1])
    return rows if offset is None else rows.add_(offset[:, :, None])


def interpolate(features: Tensor, idx: Tensor, weight: Tensor) -> Tensor:
    """(B, N, C), (B, S, K) -> (B, S, C), ``sum_k weight[b, s, k] * features[b, idx[b, s, k]]``."""
    wide = torch.promote_types(features.dtype, torch.float32)
    rows = gather(features, idx, None).to(wide)
    return (rows * weight.to(wide)[..., None]).sum(2).to(features.dtype)


def scatter(values: Tensor, idx: Tensor, num_points: int, weight: Tensor | None) -> Tensor:
    """(B, S, C), (B, S, K) -> (B, N, C), the transpose of :func:`interpolate`."""
    batch, _, channels = values.shape
    wide = torch.promote_types(values.dtype, torch.float32)
    rows = values.to(wide)[:, :, None]
    rows = (
        rows.expand(*idx.shape, channels) if weight is None else rows * weight.to(wide)[..., None]
    )
    total = rows.new_zeros(batch * num_points, channels)
    total.index_add_(0, _flat(idx, num_points), rows.reshape(-1, channels))
    return total.view(batch, num_points, channels).to(values.dtype)


def max_pool(features: Tensor) -> tuple[Tensor, Tensor]:
    """(B, S, K, C) -> greatest values (B, S, C), and which neighbour has them, int32."""
    values, winner = features.max(2)
    return values, winner.to(torch.int32)


def max_unpool(values: Tensor, winner: Tensor, num_neighbors: int) -> Tensor:
    """(B, S, C) -> (B, S, K, C), each value at the neighbour ``winner`` says and 0 elsewhere."""
    batch, centers, channels = values.shape
    placed = values.new_zeros(batch, centers, num_neighbors, channels)
    return placed.scatter_(2, winner.long()[:, :, None], values[:, :, None])


def gather_max(features: Tensor, idx: Tensor) -> tuple[Tensor, Tensor]:
    """(B, N, C), (B, S, K) -> greatest gathered values (B, S, C), and whose they are, int32."""
    values, winner = max_pool(gather(features, idx, None))
    return values, idx.gather(2, winner.long()).to(torch.int32)


def scatter_max(values: Tensor, winner: Tensor, num_points: int) -> Tensor:
    """(B, S, C) -> (B, N, C), the sum of the values of each winner."""
    wide = values.to(torch.promote_types(values.dtype, torch.float32))
    total = wide.new_zeros(len(values), num_points, values.shape[-1])
    return total.scatter_add_(1, winner.long(), wide).to(values.dtype)


def _flat(idx: Tensor, num_points: int) -> Tensor:
    """(B * S * K,) rows of the (B * N, C) view that ``idx`` (B, S, K) means."""
    offset = torch.arange(idx.shape[0], device=idx.device) * num_points
    return (idx + offset[:, None, None]).flatten()


def _planes(xyz: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    x, y, z = xyz.unbind(-1)
    return x.contiguous(), y.contiguous(), z.contiguous()


def _valid(xyz: Tensor, lengths: Tensor | None) -> Tensor:
    """(B, N) bool: finite and within the cloud's length."""
    valid = xyz.isfinite().all(-1)
    if lengths is None:
        return valid
    return valid & (torch.arange(xyz.shape[1], device=xyz.device) < lengths[:, None])


def _first(valid: Tensor) -> Tensor:
    """(B, 1) index of each cloud's first valid point."""
    return valid.byte().argmax(1, keepdim=True)


def _chunks(query: Tensor, points: Tensor) -> tuple[Tensor, ...]:
    """Split the queries so that one block of distances keeps to the size above."""
    if torch.compiler.is_exporting():  # the sizes may not be known yet
        return (query,)
    rows = max(1, _CHUNK_ELEMENTS // max(1, points.shape[0] * points.shape[1]))
    return query.split(rows, dim=1)


def _sq_dist(query: Tensor, points: Tensor, valid: Tensor) -> Tensor:
    """(B, S, N) squared distances, NaN to invalid points, else infinite from invalid queries.

    ``topk`` sorts NaN behind infinity, so an invalid point loses even to one that overflows.
    """
    qx, qy, qz = query.unsqueeze(2).unbind(-1)  # (B, S, 1)
    x, y, z = points.unsqueeze(1).unbind(-1)  # (B, 1, N)
    total = (qx - x).square_()
    total.add_((qy - y).square_())
    total.add_((qz - z).square_())
    total.masked_fill_(~query.isfinite().all(-1, keepdim=True), torch.inf)
    return total.masked_fill_(~valid[:, None, :], torch.nan)


def _smallest(sq_dist: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k smallest of each row, ascending, the lowest index first among equals.

    ``topk`` leaves the order of equal values open, so rows in which equals meet (within the k, or
    across its border) are redone with unique integer keys. That is rare on real coordinates.
    """
    if torch.compiler.is_exporting():  # which cannot look at values
        return _smallest_keys(sq_dist, k)
    value, idx = sq_dist.topk(min(k + 1, sq_dist.shape[-1]), largest=False, sorted=True)
    tied = (value[..., 1:] == value[..., :-1]).any(-1)  # (B, S)
    value, idx = value[..., :k].contiguous(), idx[..., :k].contiguous()
    if bool(tied.any()):
        value[tied], idx[tied] = _smallest_keys(sq_dist[tied], k)
    return value, idx


def _smallest_keys(sq_dist: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The same by keys of distance and index: the bits of a non-negative float sort like it."""
    position = torch.arange(sq_dist.shape[-1], device=sq_dist.device)
    keys = (sq_dist.view(torch.int32).long() << 32) | position
    key = keys.topk(k, largest=False, sorted=True).values
    return (key >> 32).int().view(torch.float32), key & 0xFFFFFFFF


def cycle_order(order: Tensor, num_samples: int, count: Tensor) -> Tensor:
    """(B, S) of ``order`` (B, M), repeated from its start past ``count`` (B,)."""
    position = torch.arange(num_samples, device=order.device)
    return order.gather(1, position % count.clamp(1, order.shape[1])[:, None])
