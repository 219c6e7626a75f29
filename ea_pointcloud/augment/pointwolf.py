"""Local deformation of clouds: PointWOLF. Batched, seeded by a generator, never in place."""

import math

import torch
from torch import Tensor

from ea_pointcloud._checks import check_at_least, check_xyz, real_points
from ea_pointcloud.ops import farthest_point_sample, gather_points

ANCHORS = 4
SIGMA = 0.5  # reach of an anchor, in the unit sphere
TURN = math.radians(10)  # about each axis, either way
STRETCH = 3.0  # the largest factor of an axis, the smallest is 1
SHIFT = 0.25  # along an axis, either way


def random_wolf(
    xyz: Tensor,
    strength: float = 1.0,
    *,
    mask: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """PointWOLF: bend each cloud smoothly around four anchors that move on their own.

    Anchors are spread over the cloud by farthest points. Each turns, stretches and shifts what is
    around it, each of the three with a chance of one half, stretch and shift along random axes.
    A point follows the anchors by Gaussian weights of its distances, measured along axes that are
    drawn once a cloud. The result is moved and scaled back to the centre and the radius that the
    cloud had, which for normalised clouds is the published normalisation.

    Args:
        xyz: (B, N, 3), about the size of the unit sphere.
        strength: 1 is as published for robust training (10 degrees, factors up to 3, shifts up to
            0.25), 0 changes nothing.
        mask: (B, N) bool, True = real point; padding has no influence.
        generator: of all draws.

    Returns:
        xyz: (B, N, 3) in the same order.

    Reference:
        Kim et al., Point cloud augmentation with weighted local transformations, ICCV 2021;
        settings of Ren et al., Benchmarking and analyzing point cloud classification under
        corruptions, ICML 2022.
    """
    check_xyz("xyz", xyz)
    check_at_least("strength", strength, 0)
    real = real_points(mask, xyz)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, device=xyz.device, dtype=xyz.dtype)

    def some_axes(*shape: int) -> Tensor:
        """(..., 3) zeros and ones, not all of them zero."""
        drawn = torch.randint(1, 8, shape, generator=generator, device=xyz.device)
        return (drawn[..., None] >> torch.arange(3, device=xyz.device) & 1).to(xyz.dtype)

    batch = len(xyz)
    # Padding must not be an anchor: it takes the place of a real point, which does not count twice.
    first = uniform(*real.shape).masked_fill(~real, -1.0).argmax(1)
    solid = torch.where(real[..., None], xyz, gather_points(xyz, first[:, None]))
    anchors = gather_points(solid, farthest_point_sample(solid, ANCHORS, start=first))  # (B, A, 3)

    happens = (uniform(batch, ANCHORS, 3, 1) < 0.5).to(xyz.dtype)
    angle = (2 * uniform(batch, ANCHORS, 3) - 1) * TURN * strength * happens[:, :, 0]
    axes = some_axes(batch, ANCHORS)
    factor = 1 + (STRETCH - 1) * strength * uniform(batch, ANCHORS, 3) * axes * happens[:, :, 1]
    shift = (2 * uniform(batch, ANCHORS, 3) - 1) * SHIFT * strength * axes * happens[:, :, 2]

    offset = solid[:, None] - anchors[:, :, None]  # (B, A, N, 3)
    turned = offset @ _rotation(angle).transpose(-1, -2)
    moved = turned * factor[:, :, None] + (anchors + shift)[:, :, None]
    sq_dist = (offset.square() * some_axes(batch)[:, None, None]).sum(-1)
    weight = torch.softmax(-sq_dist / (2 * SIGMA**2), dim=1)  # (B, A, N), sums to 1 over A
    bent = (moved * weight[..., None]).sum(1)

    center, radius = center_and_radius(solid, real)
    bent_center, bent_radius = center_and_radius(bent, real)
    back = (bent - bent_center) * (radius / bent_radius) + center
    return torch.where(real[..., None], back, xyz)


def _rotation(angle: Tensor) -> Tensor:
    """(..., 3, 3) turns about x, then y, then z by ``angle`` (..., 3)."""
    (a, b, c), (x, y, z) = angle.cos().unbind(-1), angle.sin().unbind(-1)
    rows = [
        c * b, c * y * x - z * a, c * y * a + z * x,
        z * b, z * y * x + c * a, z * y * a - c * x,
        -y, b * x, b * a,
    ]  # fmt: skip
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))


def center_and_radius(xyz: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (B, 1, 3) and largest distance from it (B, 1, 1) of the real points."""
    weight = real[..., None].to(xyz.dtype)
    center = (xyz * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True)
    sq_dist = (xyz - center).square().sum(-1).masked_fill(~real, 0.0)
    radius = sq_dist.amax(1).sqrt()[:, None, None]
    return center, radius.clamp_min(torch.finfo(xyz.dtype).tiny)
