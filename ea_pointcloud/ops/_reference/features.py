"""Gathering, pooling and attention in plain PyTorch, and the transposes that their gradients need.

Features are summed in float32 or wider, in an order that does not change from run to run, and
rounded once.
"""

import torch
from torch import Tensor


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
    """(B, S, C), (B, S, K) -> (B, N, C), the transpose of :func:`interpolate`.

    ``out[b, n]`` is the sum of ``weight[b, s, k] * values[b, s]`` over ``idx[b, s, k] == n``.
    """
    batch, _, channels = values.shape
    wide = torch.promote_types(values.dtype, torch.float32)
    rows = values.to(wide)[:, :, None]
    rows = (
        rows.expand(*idx.shape, channels) if weight is None else rows * weight.to(wide)[..., None]
    )
    add = sum_sorted if values.is_cuda else _sum_in_order
    total = add(rows.reshape(-1, channels), _flat(idx, num_points), batch * num_points)
    return total.view(batch, num_points, channels).to(values.dtype)


def max_pool(features: Tensor) -> tuple[Tensor, Tensor]:
    """(B, S, K, C) -> greatest values (B, S, C), and which neighbour has them, int32.

    The first one of equal values, the last NaN or the first: the value is then NaN.
    """
    values, winner = features.max(2)
    return values, winner.to(torch.int32)


def max_unpool(values: Tensor, winner: Tensor, num_neighbors: int) -> Tensor:
    """(B, S, C) -> (B, S, K, C), each value at the neighbour ``winner`` says and 0 elsewhere."""
    batch, centers, channels = values.shape
    unpooled = values.new_zeros(batch, centers, num_neighbors, channels)
    return unpooled.scatter_(2, winner.long()[:, :, None], values[:, :, None])


def gather_max(features: Tensor, idx: Tensor, winners: bool) -> tuple[Tensor, Tensor]:
    """(B, N, C), (B, S, K) -> greatest gathered values (B, S, C), and whose they are, int32.

    Without ``winners``, which only a gradient needs, the second is empty.
    """
    pairs = gather(features, idx, None)
    if not winners:
        return pairs.amax(2), idx.new_empty(0, dtype=torch.int32)
    values, winner = max_pool(pairs)
    return values, idx.gather(2, winner.long()).to(torch.int32)


def scatter_max(values: Tensor, winner: Tensor, num_points: int) -> Tensor:
    """(B, S, C) -> (B, N, C), ``out[b, n, c]`` the sum of the values whose ``winner`` is n."""
    batch, _, channels = values.shape
    wide = values.to(torch.promote_types(values.dtype, torch.float32))
    if not values.is_cuda:
        total = wide.new_zeros(batch, num_points, channels)
        return total.scatter_add_(1, winner.long(), wide).to(values.dtype)
    slots = flat_winners(winner, num_points)
    total = sum_sorted(wide.reshape(-1, 1), slots.flatten(), batch * num_points * channels)
    return total.view(batch, num_points, channels).to(values.dtype)


def flat_winners(winner: Tensor, num_points: int) -> Tensor:
    """(B, S, C) int64, for each point of ``winner`` its slot in a flat (B, N, C)."""
    batch, _, channels = winner.shape
    first = torch.arange(batch, device=winner.device)[:, None, None] * num_points
    return (winner + first) * channels + torch.arange(channels, device=winner.device)


def _sum_in_order(rows: Tensor, keys: Tensor, size: int) -> Tensor:
    """(R, C) rows added up where their ``keys`` (R,) agree -> (size, C)."""
    return rows.new_zeros(size, rows.shape[1]).index_add_(0, keys, rows)


def sum_sorted(rows: Tensor, keys: Tensor, size: int) -> Tensor:
    """The same on a GPU, where ``index_add_`` adds atomically, in another order every time."""
    keys, order = keys.sort(stable=True)
    begin = torch.searchsorted(keys, torch.arange(size + 1, device=keys.device))
    return torch.segment_reduce(rows[order], "sum", offsets=begin, axis=0, initial=0, unsafe=True)


def attend(
    features: Tensor,
    key_memory: Tensor,
    value_memory: Tensor,
    key_bias: Tensor | None,
    mask: Tensor | None,
    slot_lse: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """(B, N, H, C) features -> their attention, and the (B, H, M) logarithms it subtracted.

    Args:
        features: (B, N, H, C) float32, float16 or bfloat16, as both memories.
        key_memory: (M, C).
        value_memory: (M, C).
        key_bias: (M,).
        mask: (B, N) bool, True = real point.
        slot_lse: (B, H, M) float32 to subtract from the logits before the softmax over the
            slots; the logsumexp over the points if omitted.
    """
    logits, padding = _logits(features, key_memory, key_bias, mask)
    lse = logits.masked_fill(padding, -torch.inf).logsumexp(1) if slot_lse is None else slot_lse
    weights = (logits - lse[:, None]).masked_fill(padding, 0.0).softmax(-1)
    out = (weights @ value_memory.float()).masked_fill(padding, 0.0)
    return out.to(features.dtype).contiguous(), lse.clone()


def attend_backward(
    grad: Tensor,
    features: Tensor,
    key_memory: Tensor,
    value_memory: Tensor,
    key_bias: Tensor | None,
    mask: Tensor | None,
    total: Tensor,
    coupled: bool,
    to_total: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients in features, key memory, value memory, key bias (M,), and ``total``.

    Args:
        grad: (B, N, H, C) in the result of :func:`attend`.
        features: as given to :func:`attend`, like the next four.
        key_memory: (M, C).
        value_memory: (M, C).
        key_bias: (M,).
        mask: (B, N).
        total: (B, H, M) float32, what :func:`attend` subtracted from the logits.
        coupled: whether that was the logsumexp of these logits.
        to_total: whether its gradient is wanted; what is returned for it means nothing otherwise.
    """
    logits, padding = _logits(features, key_memory, key_bias, mask)
    grad = grad.float().masked_fill(padding, 0.0)
    scores = (logits - total[:, None]).masked_fill(padding, 0.0)
    weights = scores.softmax(-1)
    to_weights = grad @ value_memory.float().T
    to_logits = weights * (to_weights - (weights * to_weights).sum(-1, keepdim=True))
    sums = to_logits.sum(1)  # (B, H, M)
    if coupled:
        point_softmax = scores.exp().masked_fill(padding, 0.0)
        to_logits = to_logits - point_softmax * sums[:, None]
    readable = features.float().masked_fill(padding, 0.0)
    weights = weights.masked_fill(padding, 0.0)
    return (
        (to_logits @ key_memory.float()).to(features.dtype),
        torch.einsum("bnhm,bnhc->mc", to_logits, readable).to(key_memory.dtype),
        torch.einsum("bnhm,bnhc->mc", weights, grad).to(value_memory.dtype),
        to_logits.sum((0, 1, 2)).to(key_memory.dtype),
        -sums,
    )


def _logits(
    features: Tensor, key_memory: Tensor, key_bias: Tensor | None, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """(B, N, H, M) float32, 0 in the padding, and (B, N, 1, 1) where that is."""
    padding = (
        torch.zeros((), dtype=torch.bool, device=features.device)
        if mask is None
        else ~mask[..., None, None]
    )
    logits = features.float().masked_fill(padding, 0.0) @ key_memory.float().T
    return logits if key_bias is None else logits + key_bias.float(), padding


def _flat(idx: Tensor, num_points: int) -> Tensor:
    """(B * S * K,) rows of the (B * N, C) view that ``idx`` (B, S, K) means."""
    offset = torch.arange(idx.shape[0], device=idx.device) * num_points
    return (idx + offset[:, None, None]).flatten()
