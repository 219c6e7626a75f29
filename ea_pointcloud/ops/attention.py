"""External attention as a function: double normalisation, masked, in chunks, linear in N."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ea_pointcloud._checks import check_choice, check_count, check_mask
from ea_pointcloud.ops._attention_kernels import attend_in_kernels

NORMS = ("double", "softmax")
MAPS = (*NORMS, "points")


class SlotState(NamedTuple):
    """The sums over the points of a cloud, or of a part of it, for each slot of a memory.

    It is all that the attention of a point needs of the other points: with the state of the whole
    cloud, its points can be handled in parts. States of parts combine by :meth:`merge`.

    Args:
        lse: (B, 1, M), with heads (B, 1, H, M): the logsumexp of the logits over the points.
        content: (B, M, C), with heads (B, H, M, C): the mean of the features under the softmax of
            the logits over the points; None where it is not needed.
    """

    lse: Tensor
    content: Tensor | None = None

    def merge(self, other: "SlotState") -> "SlotState":
        """The state of both parts together."""
        lse = self.lse.logaddexp(other.lse)
        if self.content is None or other.content is None:
            return SlotState(lse)
        one, two = self._share(lse), other._share(lse)
        total = one * self.content + two * other.content
        return SlotState(lse, total.to(self.content.dtype))

    def _share(self, lse: Tensor) -> Tensor:
        """(B, M, 1) or (B, H, M, 1): the weight of this part; a part of padding has none."""
        nothing = self.lse.isneginf()
        return (self.lse - lse).masked_fill(nothing, -torch.inf).exp().movedim(1, -1)


def external_attention(
    features: Tensor,
    key_memory: Tensor,
    value_memory: Tensor,
    *,
    mask: Tensor | None = None,
    chunk: int | None = None,
    norm: str = "double",
    key_bias: Tensor | None = None,
    dynamic: bool = False,
    state: SlotState | None = None,
) -> Tensor:
    """Attend from each point to two small learned memories instead of to the other points.

    With logits ``L = F K^T`` the published form takes a softmax over the points for each slot and
    then divides each point's row by its sum over the slots. Both together are exactly
    ``softmax_over_slots(L - logsumexp_over_points(L))``, which needs no epsilon, leaves padded
    points out, and streams. Normalised in float32 whatever the input dtype. Cost is O(N * M * C).

    In the published form points learn of one another through the normaliser alone. With
    ``dynamic`` the slots read the cloud: the values become ``V + P^T F`` with ``P``, the softmax of
    ``L`` over the points. That is what is learned, and what each slot attends to in this cloud.

    On CUDA kernels serve it where ``ops._attention_kernels`` says so; ``chunk`` then has nothing to
    bound, and there is no second derivative.

    Args:
        features: (B, N, C), or (B, N, H, C) for heads that share the memories.
        key_memory: (M, C).
        value_memory: (M, C).
        mask: (B, N) bool, True = real point; padded points get zeros and do not count.
        chunk: points handled at a time, which bounds the memory of inference to O(chunk * M)
            beside input and output; all N if omitted. The result is that of the whole cloud.
        norm: ``"double"`` as published, or ``"softmax"`` over the slots alone.
        key_bias: (M,) added to the logits; it cancels in the double normalisation.
        dynamic: let the slots read the cloud, with the double normalisation only.
        state: of the whole cloud, see :func:`slot_state`, where ``features`` are a part of it.

    Returns:
        Same shape as ``features``, ``out[b, i] = sum_m A[b, i, m] value_memory[m]``.

    Raises:
        ValueError: if the shapes do not agree, ``chunk`` < 1, ``norm`` is unknown, or ``dynamic``
            is used without the double normalisation or with a state that has no content.

    Reference:
        Guo et al., Beyond Self-attention: External Attention using Two Linear Layers for Visual
        Tasks, 2021, arXiv 2105.02358, section 3.
    """
    _check(features, key_memory, value_memory, mask, key_bias, chunk)
    check_norm(norm, dynamic=dynamic)
    if dynamic and state is not None and state.content is None:
        raise ValueError("state must have content with dynamic=True; give slot_state() it too")
    if not dynamic:
        lse = None if state is None else state.lse
        found = attend_in_kernels(features, key_memory, value_memory, mask, norm, key_bias, lse)
        if found is not None:
            return found
    size = None if chunk is None or chunk >= features.shape[1] else chunk
    if norm == "double" and state is None and size is not None:
        state = slot_state(
            features, key_memory, mask=mask, chunk=size, key_bias=key_bias, dynamic=dynamic
        )
    outputs = [
        _attend_part(part, padding, key_memory, value_memory, norm, key_bias, dynamic, state)
        for part, padding in _parts(features, mask, size)
    ]
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)


def attention_map(
    features: Tensor,
    key_memory: Tensor,
    *,
    mask: Tensor | None = None,
    norm: str = "double",
    key_bias: Tensor | None = None,
    state: SlotState | None = None,
) -> Tensor:
    """The weight of every point in every memory slot: what :func:`external_attention` mixes by.

    Args:
        features: (B, N, C), or (B, N, H, C) for heads that share the memory.
        key_memory: (M, C).
        mask: (B, N) bool, True = real point; padded points get zeros and do not count.
        norm: ``"double"`` or ``"softmax"``, whose rows sum to 1 over the slots, or ``"points"``:
            the double normalisation before its second step, a softmax over the points whose
            columns sum to 1 over the points.
        key_bias: (M,) added to the logits.
        state: of the whole cloud, see :func:`slot_state`, where ``features`` are a part of it.

    Returns:
        (B, N, M) or (B, N, H, M), float32 or wider.

    Raises:
        ValueError: if the shapes do not agree or ``norm`` is unknown.
    """
    _check(features, key_memory, key_memory, mask, key_bias, None)
    check_choice("norm", norm, MAPS)
    [(_, padding)] = _parts(features, mask, None)
    logits = _logits(features, key_memory, key_bias)
    if norm != "softmax":
        logits = logits - (_logsumexp(logits, padding) if state is None else state.lse)
    weights = logits.exp() if norm == "points" else _over_slots(logits, padding)
    return weights if padding is None else weights.masked_fill(padding, 0.0)


def slot_state(
    features: Tensor,
    key_memory: Tensor,
    *,
    mask: Tensor | None = None,
    chunk: int | None = None,
    key_bias: Tensor | None = None,
    dynamic: bool = False,
) -> SlotState:
    """What the double normalisation needs of all points, for each memory slot; differentiable.

    Args:
        features: (B, N, C) or (B, N, H, C).
        key_memory: (M, C).
        mask: (B, N) bool, True = real point.
        chunk: points handled at a time; all N if omitted.
        key_bias: (M,) added to the logits.
        dynamic: gather the content of the slots too.

    Returns:
        ``lse[b, 0, m] = log sum_i exp(L[b, i, m])`` with ``L[b, i, m] = features[b, i] .
        key_memory[m]``, and ``content[b, m] = sum_i P[b, i, m] features[b, i]`` with
        ``P[b, i, m] = exp(L[b, i, m] - lse[b, 0, m])``.

    Raises:
        ValueError: if the shapes do not agree or ``chunk`` < 1.
    """
    _check(features, key_memory, key_memory, mask, key_bias, chunk)
    total = None
    for part, padding in _parts(features, mask, chunk):
        logits = _logits(part, key_memory, key_bias)
        lse = _logsumexp(logits, padding)
        state = SlotState(lse, _content(logits - lse, part, padding) if dynamic else None)
        total = state if total is None else total.merge(state)
    assert total is not None
    return total


def _check(
    features: Tensor,
    key_memory: Tensor,
    value_memory: Tensor,
    mask: Tensor | None,
    key_bias: Tensor | None,
    chunk: int | None,
) -> None:
    if features.ndim not in (3, 4):
        raise ValueError(
            f"features must have shape (B, N, C) or (B, N, H, C), got {tuple(features.shape)}"
        )
    channels = features.shape[-1]
    for name, memory in (("key_memory", key_memory), ("value_memory", value_memory)):
        if memory.shape != (len(key_memory), channels):
            raise ValueError(
                f"{name} must have shape (M, C) = ({len(key_memory)}, {channels}), "
                f"got {tuple(memory.shape)}"
            )
    if key_bias is not None and key_bias.shape != key_memory.shape[:1]:
        raise ValueError(
            f"key_bias must have shape (M,) = ({len(key_memory)},), got {tuple(key_bias.shape)}"
        )
    check_mask(mask, features)
    if chunk is not None:
        check_count("chunk", chunk)


def check_norm(norm: str, *, dynamic: bool) -> None:
    """Raise unless ``norm`` is known, and the double one for dynamic attention."""
    check_choice("norm", norm, NORMS)
    if dynamic and norm != "double":
        raise ValueError(f"norm must be 'double' with dynamic=True, got {norm!r}")


def _parts(
    features: Tensor, mask: Tensor | None, size: int | None
) -> list[tuple[Tensor, Tensor | None]]:
    """Pieces of at most ``size`` points, each with where its padding is, to fit the logits."""
    padding = None if mask is None else ~mask.view(*mask.shape, *[1] * (features.ndim - 2))
    if size is None:
        return [(features, padding)]
    pieces = features.split(size, dim=1)
    if padding is None:
        return [(piece, None) for piece in pieces]
    return list(zip(pieces, padding.split(size, dim=1), strict=True))


def _logits(features: Tensor, key_memory: Tensor, key_bias: Tensor | None) -> Tensor:
    """(B, n, ..., M) in at least float32."""
    logits = F.linear(features, key_memory, key_bias)
    return logits if logits.dtype == torch.float64 else logits.float()


def _logsumexp(logits: Tensor, padding: Tensor | None) -> Tensor:
    """(B, 1, ..., M) over the real points."""
    if padding is not None:
        logits = logits.masked_fill(padding, -torch.inf)
    return logits.logsumexp(dim=1, keepdim=True)


def _content(logits: Tensor, features: Tensor, padding: Tensor | None) -> Tensor:
    """(B, M, C) or (B, H, M, C): features (B, n, ..., C) under logits less their logsumexp."""
    if padding is not None:  # whatever it holds, NaN included, must not count
        logits = logits.masked_fill(padding, -torch.inf)
        features = features.masked_fill(padding, 0.0)
    weights = logits.exp().to(features.dtype)
    if features.ndim == 4:
        return weights.permute(0, 2, 3, 1).contiguous() @ features.transpose(1, 2).contiguous()
    return weights.transpose(1, 2) @ features


def _attend_part(
    part: Tensor,
    padding: Tensor | None,
    key_memory: Tensor,
    value_memory: Tensor,
    norm: str,
    key_bias: Tensor | None,
    dynamic: bool,
    state: SlotState | None,
) -> Tensor:
    """The attention of some points; of the whole cloud where there is no state."""
    logits, values = _logits(part, key_memory, key_bias), value_memory
    if norm == "double":  # of one part the logits serve both sums
        total = _logsumexp(logits, padding) if state is None else state.lse
        # What nothing is derived from is overwritten: a fresh map costs the CPU as much again.
        logits = logits - total if logits.requires_grad else logits.sub_(total)
    if dynamic:
        content = _content(logits, part, padding) if state is None else state.content
        assert content is not None
        values = value_memory + content
    return _attend(logits, values, padding).to(part.dtype)


def _over_slots(logits: Tensor, padding: Tensor | None) -> Tensor:
    """Softmax over the slots; rows of padded points are finite and meaningless."""
    if padding is not None:  # a cloud of padding only has infinite logits, and NaN gradients
        logits = logits.masked_fill(padding, 0.0)
    return logits.softmax(dim=-1)


def _attend(logits: Tensor, values: Tensor, padding: Tensor | None) -> Tensor:
    # Leaving autocast's or the caller's dtype aside, the product runs in the memory's dtype.
    weights = _over_slots(logits, padding).to(values.dtype)
    if values.ndim == 4:  # weights (B, n, H, M), values (B, H, M, C)
        out = (weights.transpose(1, 2).contiguous() @ values).transpose(1, 2)
    else:
        out = weights @ values
    return out if padding is None else out.masked_fill(padding, 0.0)
