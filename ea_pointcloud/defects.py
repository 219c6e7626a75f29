"""What sensors do to clouds, for training: stray points, and sides that were not seen.

Batched, on the tensor's device, seeded by a generator, never in place.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from ea_pointcloud._checks import check_fraction, check_xyz, real_points
from ea_pointcloud.deformation import center_and_radius

_SPREAD = 0.5  # of stray points, in radii of the cloud


def random_stray(
    xyz: Tensor,
    max_ratio: float,
    *,
    mask: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Put some points anywhere: a share from U(0, max_ratio) of each cloud.

    They are spread normally around the cloud's centre, with half of its radius as the standard
    deviation along each axis, so that most of them lie beside the object and a few beyond it.

    Args:
        xyz: (B, N, 3).
        max_ratio: 0 <= max_ratio < 1.
        mask: (B, N) bool, True = real point; padding has no influence and stays.
        generator: of all draws.

    Returns:
        xyz: (B, N, 3) in the same order.
    """
    check_xyz("xyz", xyz)
    check_fraction("max_ratio", max_ratio)
    real = real_points(mask, xyz)
    draw = torch.rand(xyz.shape[:2], generator=generator, device=xyz.device)
    ratio = torch.rand(len(xyz), 1, generator=generator, device=xyz.device) * max_ratio
    center, radius = center_and_radius(xyz.masked_fill(~real[..., None], 0.0), real)
    noise = torch.randn(xyz.shape, generator=generator, device=xyz.device, dtype=xyz.dtype)
    moved = (draw < ratio) & real
    return torch.where(moved[..., None], center + noise * radius * _SPREAD, xyz)


def random_cut(
    xyz: Tensor,
    max_ratio: float,
    *,
    mask: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Choose points to leave out: all beyond a plane of any direction.

    Args:
        xyz: (B, N, 3).
        max_ratio: 0 <= max_ratio < 1; a share from U(0, max_ratio) of each cloud is beyond.
        mask: (B, N) bool, True = real point; padding has no influence.
        generator: of all draws.

    Returns:
        mask: (B, N) bool, False = left out, or padding; at least one point of each cloud stays.
    """
    check_xyz("xyz", xyz)
    check_fraction("max_ratio", max_ratio)
    real = real_points(mask, xyz)
    direction = torch.randn(len(xyz), 3, generator=generator, device=xyz.device, dtype=xyz.dtype)
    height = (xyz * F.normalize(direction, dim=1)[:, None]).sum(-1).masked_fill(~real, torch.inf)
    ratio = torch.rand(len(xyz), generator=generator, device=xyz.device) * max_ratio
    stay = ((1 - ratio) * real.sum(1)).ceil()
    rank = height.argsort(dim=1).argsort(dim=1)
    return (rank < stay[:, None]) & real
