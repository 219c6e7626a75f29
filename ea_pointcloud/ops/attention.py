"""External attention as a function: double normalisation, masked, streamed, linear in N."""

import torch
from torch import Tensor
from torch.nn import functional as F

from ea_pointcloud._checks import check_choice, check_count, check_mask
from ea_pointcloud.ops import _backend

NORMS = ("double", "softmax")
MAPS = (*NORMS, "points")
# Where the kernels gain: beyond, each program would read a tile of points more than four times, and
# without tensor cores the products alone take longer than all the memory traffic that is saved.
_KERNEL_SLOTS = 256
_KERNEL_VALUES = 32768  # of a memory, 64 x 512
_KERNEL_EXACT_CHANNELS = 128


def external_attention(
    features: Tensor,
    key_memory: Tensor,
    value_memory: Tensor,
    *,
    mask: Tensor | None = None,
    chunk: int | None = None,
    norm: str = "double",
    key_bias: Tensor | None = None,
    over_points: Tensor | None = None,
) -> Tensor:
    """Attend from each point to two small learned memories instead of to the other points.

    With logits ``L = F K^T`` the published form takes a softmax over the points for each slot and
    then divides each point's row by its sum over the slots. Both together are exactly
    ``softmax_over_slots(L - logsumexp_over_points(L))``, which needs no epsilon, leaves padded
    points out, and streams. Normalised in float32 whatever the input dtype. Cost is O(N * M * C).

    On CUDA from compute capability 8.0, and for memories of up to 32,768 values and 256 slots in
    one dtype up to float32 (of 128 channels at most, where it may not take TF32), kernels read the
    features twice and write once, and never store the (N, M) weights; ``chunk`` then has nothing
    to bound. They have no second derivative.

    Args:
        features: (B, N, C), or (B, N, H, C) for heads that share the memories.
        key_memory: (M, C).
        value_memory: (M, C).
        mask: (B, N) bool, True = real point; padded points get zeros and do not count.
        chunk: points handled at a time, which bounds the memory of inference to O(chunk * M)
            beside input and output; all N without it. The result is that of the whole cloud.
        norm: ``"double"`` as published, or ``"softmax"`` over the slots alone.
        key_bias: (M,) added to the logits; it cancels in the double normalisation.
        over_points: what :func:`slot_logsumexp` gave for the whole cloud, where ``features`` are
            a part of it.

    Returns:
        Same shape as ``features``, ``out[b, i] = sum_m A[b, i, m] value_memory[m]``.

    Raises:
        ValueError: if the shapes do not agree, ``chunk`` < 1, or ``norm`` is unknown.

    Reference:
        Guo et al., Beyond Self-attention: External Attention using Two Linear Layers for Visual
        Tasks, 2021, arXiv 2105.02358, section 3.
    """
    _check(features, key_memory, value_memory, mask, key_bias, chunk)
    check_choice("norm", norm, NORMS)
    if _backend.has_attention(features.device.type) and not torch.compiler.is_exporting():
        dtype = _common_dtype(features, key_memory, value_memory, key_bias)
        if dtype is not None and _kernels_serve(key_memory, dtype) and features.numel():
            return _in_kernels(
                features, key_memory, value_memory, mask, norm, key_bias, over_points, dtype
            )
    size = None if chunk is None or chunk >= features.shape[1] else chunk
    if norm == "double" and over_points is None and size is not None:
        over_points = slot_logsumexp(features, key_memory, mask=mask, chunk=size, key_bias=key_bias)
    outputs = []
    for part, padding in _parts(features, mask, size):
        logits = _logits(part, key_memory, key_bias)
        if norm == "double":  # of one part the logits serve both sums
            total = _logsumexp(logits, padding) if over_points is None else over_points
            # What nothing is derived from is overwritten: a fresh map costs the CPU as much again.
            logits = logits - total if logits.requires_grad else logits.sub_(total)
        outputs.append(_attend(logits, value_memory, padding).to(features.dtype))
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)


def attention_map(
    features: Tensor,
    key_memory: Tensor,
    *,
    mask: Tensor | None = None,
    norm: str = "double",
    key_bias: Tensor | None = None,
    over_points: Tensor | None = None,
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
        over_points: what :func:`slot_logsumexp` gave for the whole cloud, where ``features`` are
            a part of it.

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
        logits = logits - (_logsumexp(logits, padding) if over_points is None else over_points)
    weights = logits.exp() if norm == "points" else _over_slots(logits, padding)
    return weights if padding is None else weights.masked_fill(padding, 0.0)


def slot_logsumexp(
    features: Tensor,
    key_memory: Tensor,
    *,
    mask: Tensor | None = None,
    chunk: int | None = None,
    key_bias: Tensor | None = None,
) -> Tensor:
    """The one sum over the points that the double normalisation needs, for each memory slot.

    Sums of parts of a cloud join by ``logaddexp``.

    Args:
        features: (B, N, C) or (B, N, H, C).
        key_memory: (M, C).
        mask: (B, N) bool, True = real point.
        chunk: points handled at a time; all N without it.
        key_bias: (M,) added to the logits.

    Returns:
        (B, 1, M) or (B, 1, H, M), ``log sum_i exp(features[b, i] . key_memory[m])``.

    Raises:
        ValueError: if the shapes do not agree or ``chunk`` < 1.
    """
    _check(features, key_memory, key_memory, mask, key_bias, chunk)
    total = None
    for part, padding in _parts(features, mask, chunk):
        partial = _logsumexp(_logits(part, key_memory, key_bias), padding)
        total = partial if total is None else total.logaddexp(partial)
    assert total is not None
    return total


def _common_dtype(features: Tensor, *memories: Tensor | None) -> torch.dtype | None:
    """What the products run in, or None where plain PyTorch is to say what does not fit."""
    dtypes = {tensor.dtype for tensor in (features, *memories) if tensor is not None}
    device = features.device.type
    if torch.is_autocast_enabled(device) and torch.float64 not in dtypes:
        return torch.get_autocast_dtype(device)
    return features.dtype if len(dtypes) == 1 else None


def _kernels_serve(key_memory: Tensor, dtype: torch.dtype) -> bool:
    slots, channels = key_memory.shape
    if dtype == torch.float32:
        fits = channels <= _KERNEL_EXACT_CHANNELS or _backend.tf32_allowed()
    else:
        fits = dtype in (torch.float16, torch.bfloat16)
    return fits and 0 < slots <= _KERNEL_SLOTS and 0 < slots * channels <= _KERNEL_VALUES


def _in_kernels(
    features: Tensor,
    key_memory: Tensor,
    value_memory: Tensor,
    mask: Tensor | None,
    norm: str,
    key_bias: Tensor | None,
    over_points: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    by_head = features if features.ndim == 4 else features[:, :, None]  # (B, N, H, C)
    shape = (len(features), by_head.shape[2], len(key_memory))
    if norm == "softmax":  # the double normalisation that subtracts nothing
        over_points = features.new_zeros(shape, dtype=torch.float32)
    elif over_points is not None:
        over_points = over_points.float().expand(len(features), *over_points.shape[1:])
        over_points = over_points.reshape(shape)
    out, _ = torch.ops.ea_pointcloud.attend(
        by_head.to(dtype),
        key_memory.to(dtype),
        value_memory.to(dtype),
        None if key_bias is None else key_bias.to(dtype),
        mask,
        over_points,
    )
    return out.reshape(features.shape).to(features.dtype)


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


def _over_slots(logits: Tensor, padding: Tensor | None) -> Tensor:
    """Softmax over the slots; rows of padded points are finite and meaningless."""
    if padding is not None:  # a cloud of padding only has infinite logits, and NaN gradients
        logits = logits.masked_fill(padding, 0.0)
    return logits.softmax(dim=-1)


def _attend(logits: Tensor, value_memory: Tensor, padding: Tensor | None) -> Tensor:
    # Leaving autocast's or the caller's dtype aside, the product runs in the memory's dtype.
    out = _over_slots(logits, padding).to(value_memory.dtype) @ value_memory
    return out if padding is None else out.masked_fill(padding, 0.0)
