"""External attention as a function: double normalisation, masked, streamed, linear in N."""

import torch
from torch import Tensor
from torch.nn import functional as F

from ea_pointcloud._checks import check_choice, check_count, check_mask

NORMS = ("double", "softmax")


def external_attention(
    features: Tensor,
    key_memory: Tensor,
    value_memory: Tensor,
    *,
    mask: Tensor | None = None,
    chunk: int | None = None,
    norm: str = "double",
    key_bias: Tensor | None = None,
) -> Tensor:
    """Attend from each point to two small learned memories instead of to the other points.

    With logits ``L = F K^T`` the published form takes a softmax over the points for each slot and
    then divides each point's row by its sum over the slots. Both together are exactly
    ``softmax_over_slots(L - logsumexp_over_points(L))``, which needs no epsilon, leaves padded
    points out, and streams. Normalised in float32 whatever the input dtype. Cost is O(N * M * C).

    Args:
        features: (B, N, C), or (B, N, H, C) for heads that share the memories.
        key_memory: (M, C).
        value_memory: (M, C).
        mask: (B, N) bool, True = real point; padded points get zeros and do not count.
        chunk: points handled at a time, which bounds the memory of inference to O(chunk * M)
            beside input and output; all N without it. The result is that of the whole cloud.
        norm: ``"double"`` as published, or ``"softmax"`` over the slots alone.
        key_bias: (M,) added to the logits; it cancels in the double normalisation.

    Returns:
        Same shape as ``features``, ``out[b, i] = sum_m A[b, i, m] value_memory[m]``.

    Raises:
        ValueError: if the shapes do not agree, ``chunk`` < 1, or ``norm`` is unknown.

    Reference:
        Guo et al., Beyond Self-attention: External Attention using Two Linear Layers for Visual
        Tasks, 2021, arXiv 2105.02358, section 3.
    """
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
    check_choice("norm", norm, NORMS)
    if chunk is not None:
        check_count("chunk", chunk)

    num_points = features.shape[1]
    size = num_points if chunk is None else min(chunk, num_points)
    parts = features.split(size, dim=1)
    padding = None if mask is None else ~mask.view(*mask.shape, *[1] * (features.ndim - 2))
    paddings = [None] * len(parts) if padding is None else padding.split(size, dim=1)

    if len(parts) == 1:  # the logits are used twice, form them once
        logits = _logits(parts[0], key_memory, key_bias)
        over_points = _logsumexp(logits, padding) if norm == "double" else None
        return _attend(logits, over_points, value_memory, padding, features.dtype)

    over_points = None
    if norm == "double":
        for part, part_padding in zip(parts, paddings, strict=True):
            partial = _logsumexp(_logits(part, key_memory, key_bias), part_padding)
            over_points = partial if over_points is None else over_points.logaddexp(partial)
    outputs = []
    for part, part_padding in zip(parts, paddings, strict=True):
        logits = _logits(part, key_memory, key_bias)
        outputs.append(_attend(logits, over_points, value_memory, part_padding, features.dtype))
    return torch.cat(outputs, dim=1)


def _logits(features: Tensor, key_memory: Tensor, key_bias: Tensor | None) -> Tensor:
    """(B, n, ..., M) in at least float32."""
    logits = F.linear(features, key_memory, key_bias)
    return logits if logits.dtype == torch.float64 else logits.float()


def _logsumexp(logits: Tensor, padding: Tensor | None) -> Tensor:
    """(B, 1, ..., M) over the real points."""
    if padding is not None:
        logits = logits.masked_fill(padding, -torch.inf)
    return logits.logsumexp(dim=1, keepdim=True)


def _attend(
    logits: Tensor,
    over_points: Tensor | None,
    value_memory: Tensor,
    padding: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    if over_points is not None:
        logits = logits - over_points
    if padding is not None:  # a cloud of padding only has infinite logits, and NaN gradients
        logits = logits.masked_fill(padding, 0.0)
    # Leaving autocast's or the caller's dtype aside, the product runs in the memory's dtype.
    out = logits.softmax(dim=-1).to(value_memory.dtype) @ value_memory
    if padding is not None:
        out = out.masked_fill(padding, 0.0)
    return out.to(dtype)
