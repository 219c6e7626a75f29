"""Coordinates as the operators take them: float32, and which of them are valid points."""

import torch
from torch import Tensor


def valid_points(xyz: Tensor, lengths: Tensor | None) -> Tensor:
    """(B, N) bool: finite and within the cloud's length."""
    valid = xyz.isfinite().all(-1)
    if lengths is None:
        return valid
    return valid & (torch.arange(xyz.shape[1], device=xyz.device) < lengths[:, None])


def to_float32(xyz: Tensor, lengths: Tensor | None, *others: Tensor) -> tuple[Tensor, ...]:
    """Clouds (B, N, 3), and ``others`` (B, S, 3) in their frame, as float32 without a gradient.

    Float64 coordinates far from the origin (surveys, UTM) are first moved by the centre of their
    cloud: at 4.5e6 m float32 has steps of half a metre. A cloud that is wider than its centre is
    far loses nothing that matters, and keeps its coordinates.
    """
    tensors = [each.detach() for each in (xyz, *others)]
    if all(each.dtype != torch.float64 for each in tensors):
        return tuple(each.float() for each in tensors)
    valid = valid_points(xyz, lengths)[..., None]  # (B, N, 1)
    wide = tensors[0].double()
    low = wide.masked_fill(~valid, torch.inf).amin(1, keepdim=True)
    high = wide.masked_fill(~valid, -torch.inf).amax(1, keepdim=True)
    center = low + (high - low) / 2  # (B, 1, 3)
    far = center.abs() > high - low  # False without a valid point
    center = center.where(far, 0.0)
    return tuple((each.double() - center).float() for each in tensors)
