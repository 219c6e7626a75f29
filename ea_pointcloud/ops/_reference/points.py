"""Farthest point sampling, nearest neighbours and ball query in plain PyTorch.

A squared distance is ``((dx*dx) + (dy*dy)) + (dz*dz)``,
computed on separate coordinate planes with one rounding a step, so that every implementation can
repeat it bit for bit. Points past ``lengths`` and points that are not finite are never returned.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from ea_pointcloud.ops._coordinates import valid_points

# Distances handled at a time: on a CPU 8 MB stay in cache; a GPU needs more of them to be busy.
_CHUNK_ELEMENTS = 2**21
_CHUNK_ELEMENTS_GPU = 2**25
# Picks of one CUDA graph: launching the kernels of a pick takes longer than running them.
_GRAPH_PICKS = 32


def farthest_point_sample(
    xyz: Tensor, num_samples: int, lengths: Tensor | None, start: Tensor
) -> Tensor:
    """See :func:`ea_pointcloud.ops.farthest_point_sample`."""
    batch, num_points = xyz.shape[:2]
    x, y, z = _planes(xyz)  # (B, N) each
    valid = valid_points(xyz, lengths)
    # Picked, padded and non-finite points stand at -1, below every distance of a point to pick.
    farthest = torch.where(valid, torch.inf, -1.0)
    last = torch.where(valid.gather(1, start[:, None]), start[:, None], _first(valid))  # (B, 1)
    if torch.compiler.is_exporting():
        order = _order_by_loop((x, y, z), num_samples, farthest, last)
        return cycle_order(order, num_samples, valid.sum(1))
    num_picks = min(num_samples, num_points)
    if xyz.is_cuda and not torch.cuda.is_current_stream_capturing():
        order = _order_by_graph((x, y, z), num_picks, farthest, last)
        return cycle_order(order, num_samples, valid.sum(1))
    order = torch.empty(batch, num_picks, dtype=torch.long, device=xyz.device)
    pick = _picker((x, y, z), farthest, last)
    for step in range(num_picks):
        order[:, step] = last[:, 0]
        pick()
    return cycle_order(order, num_samples, valid.sum(1))


def _picker(planes: Sequence[Tensor], farthest: Tensor, last: Tensor) -> Callable[[], None]:
    """A step of the sampling, in place: marks the pick ``last`` (B, 1) and puts the next there."""
    (x, *others), total, term = planes, torch.empty_like(farthest), torch.empty_like(farthest)

    def pick() -> None:
        torch.sub(x, x.gather(1, last), out=total).square_()
        for plane in others:
            torch.sub(plane, plane.gather(1, last), out=term).square_()
            total.add_(term)
        # fmin ignores the NaN distance of a non-finite point, which stays at -1.
        torch.fmin(farthest, total, out=farthest)
        farthest.scatter_(1, last, -1.0)
        torch.argmax(farthest, 1, keepdim=True, out=last)  # the first of equal maxima

    return pick


def _order_by_graph(
    planes: Sequence[Tensor], num_picks: int, farthest: Tensor, last: Tensor
) -> Tensor:
    """(B, S) picks by replaying a CUDA graph of ``_GRAPH_PICKS`` steps, recorded once a shape."""
    batch, num_points = farthest.shape
    device = farthest.device
    size = 1 << (num_points - 1).bit_length()  # clouds of similar sizes share a graph
    stream = torch.cuda.current_stream(device).cuda_stream
    state, picks, replay = _recorded(batch, size, device, stream)
    state[3].fill_(-1.0)  # no point beyond the cloud is picked
    for held, given in zip(state, (*planes, farthest, last), strict=True):
        held[:, : given.shape[1]].copy_(given)
    rounds = []
    for _ in range(-(-num_picks // _GRAPH_PICKS)):
        replay()
        rounds.append(picks.clone())
    return torch.cat(rounds, 1)[:, :num_picks]


@lru_cache(maxsize=16)
def _recorded(
    batch: int, num_points: int, device: torch.device, stream: int
) -> tuple[tuple[Tensor, ...], Tensor, Callable[[], None]]:
    """The state of a sampling, where its picks appear, and what advances it; of one stream each."""
    with torch.inference_mode(False):  # whose tensors could not be written outside of it
        planes = tuple(torch.zeros(batch, num_points, device=device) for _ in range(3))
        farthest = torch.zeros(batch, num_points, device=device)
        last = torch.zeros(batch, 1, dtype=torch.long, device=device)
        picks = torch.zeros(batch, _GRAPH_PICKS, dtype=torch.long, device=device)
        pick = _picker(planes, farthest, last)

    def advance() -> None:
        for step in range(_GRAPH_PICKS):
            picks[:, step] = last[:, 0]
            pick()

    return (*planes, farthest, last), picks, _record(advance, device)


def _record(function: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """A CUDA graph of the function; the function itself where nothing can be recorded."""
    with torch.cuda.device(device):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            function()  # once before: what is set up at a first call must not be recorded
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                function()
        except RuntimeError:
            return function
    return graph.replay


def _order_by_loop(
    planes: tuple[Tensor, Tensor, Tensor], num_samples: int, farthest: Tensor, last: Tensor
) -> Tensor:
    """(B, S) picks as one loop operator: the steps above would unroll to thousands of nodes.

    A loop cannot write into what it was given, so it makes new tensors. Picks past the number of
    points are meaningless.
    """
    from torch._higher_order_ops.while_loop import while_loop  # slow to import

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
    valid = valid_points(points, lengths)
    for chunk in _chunks(query, points):
        chunk_sq_dist, chunk_idx = _smallest(_sq_dist(chunk, points, valid), k)
        sq_dist.append(chunk_sq_dist)
        idx.append(chunk_idx)
    all_sq_dist, all_idx = torch.cat(sq_dist, 1), torch.cat(idx, 1)
    # Fewer than k valid points: the remaining slots repeat the nearest.
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
    valid = valid_points(points, lengths)
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


def _planes(xyz: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    x, y, z = xyz.unbind(-1)
    return x.contiguous(), y.contiguous(), z.contiguous()


def _first(valid: Tensor) -> Tensor:
    """(B, 1) index of each cloud's first valid point."""
    return valid.byte().argmax(1, keepdim=True)


def _chunks(query: Tensor, points: Tensor) -> tuple[Tensor, ...]:
    """Split the queries so that one block of distances keeps to the size above."""
    if torch.compiler.is_exporting():  # the sizes may not be known yet
        return (query,)
    elements = _CHUNK_ELEMENTS_GPU if query.is_cuda else _CHUNK_ELEMENTS
    rows = max(1, elements // max(1, points.shape[0] * points.shape[1]))
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
    # An export cannot look at values, and looking at them on a GPU means waiting for it.
    if torch.compiler.is_exporting() or sq_dist.is_cuda:
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
