"""Frames of clouds: the unit sphere, the axis that is up, and mirror images."""

import torch
from torch import Tensor

from ea_pointcloud._checks import check_choice, check_mask, check_xyz

AXES = ("x", "y", "z")
# Of mirrored files: there are none, x was negated, they were kept as they are.
MIRRORING = ("none", "undone", "kept")


def normalize_unit_sphere(xyz: Tensor, mask: Tensor | None = None) -> Tensor:
    """Move the mean to the origin and the farthest point to distance 1; padding becomes zero.

    A cloud whose points all coincide stays at the origin.
    """
    check_xyz("xyz", xyz)
    check_mask(mask, xyz)
    weight = xyz.new_ones(*xyz.shape[:2], 1)
    if mask is not None:
        weight = mask[..., None].to(xyz.dtype)
        xyz = xyz.masked_fill(~mask[..., None], 0.0)  # NaN times zero would be NaN
    # Relative to a real point first: equal points become exact zeros, far clouds keep digits.
    first = weight.argmax(1, keepdim=True).expand(-1, -1, 3)
    xyz = xyz - xyz.gather(1, first)
    centered = (xyz - (xyz * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True)) * weight
    radius = torch.linalg.norm(centered, dim=-1).amax(1)[:, None, None]
    return centered / radius.clamp_min(torch.finfo(xyz.dtype).tiny)


def to_y_up(xyz: Tensor, up_axis: str) -> Tensor:
    """Rotate (never mirror) so that ``up_axis`` becomes y; accepts (..., 3).

    From z up it is (x, y, z) -> (-x, z, y): a mesh that faces +y comes to face +z. The published
    ModelNet40 clouds are (x, z, y) of the meshes, the mirror image of that; their readers negate x
    (:func:`negate_x`).
    """
    check_choice("up_axis", up_axis, AXES)
    x, y, z = xyz.unbind(-1)
    turned = {"x": (-y, x, z), "y": (x, y, z), "z": (-x, z, y)}[up_axis]
    return torch.stack(turned, dim=-1)


def negate_x(xyz: Tensor) -> Tensor:
    """The mirror image (-x, y, z) of coordinates or normals (..., 3)."""
    return xyz * xyz.new_tensor((-1.0, 1.0, 1.0))
