"""Transforms of batches of clouds: on the tensor's device, seeded by a generator, never in place.

Every function takes (B, N, 3) coordinates, draws independently for each cloud, and returns a new
tensor. Generators live on the device of the coordinates.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from ea_pointcloud._checks import (
    check_at_least,
    check_choice,
    check_fraction,
    check_xyz,
)
from ea_pointcloud.ops import farthest_point_sample, gather_points, random_point_sample
from ea_pointcloud.ops.frames import AXES
from ea_pointcloud.ops.sampling import SAMPLINGS

ROTATIONS = ("none", "up", "tilt", "any")
TILT = math.pi / 6  # the largest angle of the rotation "tilt"
ELASTIC_ANCHORS = 4
ELASTIC_SIGMA = 0.5  # width of an anchor's weights, in the unit sphere


def transform_with_normals(
    transform: Callable[[Tensor], Tensor], xyz: Tensor, normals: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Apply a transform that is a matrix for each cloud, and the one that belongs to normals.

    That is the transposed inverse of the matrix, which keeps normals perpendicular to surfaces.

    Args:
        transform: of (B, M, 3), of any M: a rotation, mirroring or scaling.
        xyz: (B, N, 3).
        normals: (B, N, 3) of unit length, zero where there is none; or None.
    """
    if normals is None:
        return transform(xyz), None
    axes = torch.eye(3, dtype=xyz.dtype, device=xyz.device).expand(len(xyz), 3, 3)
    moved = transform(torch.cat([xyz, axes], dim=1))
    matrix = moved[:, -3:]  # of rows: x -> x @ matrix
    inverse, _ = torch.linalg.inv_ex(matrix)
    return moved[:, :-3], F.normalize(normals @ inverse.transpose(1, 2), dim=-1)


def random_scale(
    xyz: Tensor, low: float, high: float, *, generator: torch.Generator | None = None
) -> Tensor:
    """Multiply each axis of each cloud by its own factor from U(low, high)."""
    check_xyz("xyz", xyz)
    if not 0 < low <= high:
        raise ValueError(f"low and high must satisfy 0 < low <= high, got {low} and {high}")
    return xyz * _uniform(xyz, (len(xyz), 1, 3), low, high, generator)


def random_shift(xyz: Tensor, limit: float, *, generator: torch.Generator | None = None) -> Tensor:
    """Move each cloud along each axis by U(-limit, limit)."""
    check_xyz("xyz", xyz)
    check_at_least("limit", limit, 0)
    return xyz + _uniform(xyz, (len(xyz), 1, 3), -limit, limit, generator)


def random_jitter(
    xyz: Tensor, std: float, clip: float, *, generator: torch.Generator | None = None
) -> Tensor:
    """Add normal noise to each coordinate, cut off at ``clip``."""
    check_xyz("xyz", xyz)
    check_at_least("std", std, 0)
    check_at_least("clip", clip, 0)
    noise = torch.randn(xyz.shape, generator=generator, device=xyz.device, dtype=xyz.dtype)
    return xyz + (noise * std).clamp_(-clip, clip)


def random_rotate_up(
    xyz: Tensor,
    *,
    limit: float = math.pi,
    up_axis: str = "y",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Rotate each cloud about its up axis by U(-limit, limit) radians."""
    check_xyz("xyz", xyz)
    check_choice("up_axis", up_axis, AXES)
    angle = _uniform(xyz, (len(xyz), 1), -limit, limit, generator)
    cos, sin = angle.cos(), angle.sin()
    up = AXES.index(up_axis)
    out = xyz.clone()
    first, second = xyz[..., (up + 1) % 3], xyz[..., (up + 2) % 3]
    out[..., (up + 1) % 3] = cos * first - sin * second
    out[..., (up + 2) % 3] = sin * first + cos * second
    return out


def random_rotate(xyz: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    """Rotate each cloud by a rotation drawn uniformly from all rotations.

    Reference:
        Shoemake, Uniform random rotations, Graphics Gems III, 1992.
    """
    check_xyz("xyz", xyz)
    q = torch.randn(len(xyz), 4, generator=generator, device=xyz.device, dtype=xyz.dtype)
    return _rotated(xyz, F.normalize(q, dim=1))


def random_tilt(xyz: Tensor, limit: float, *, generator: torch.Generator | None = None) -> Tensor:
    """Rotate each cloud about an axis of any direction by U(0, limit) radians."""
    check_xyz("xyz", xyz)
    check_at_least("limit", limit, 0)
    axis = torch.randn(len(xyz), 3, generator=generator, device=xyz.device, dtype=xyz.dtype)
    half = _uniform(xyz, (len(xyz), 1), 0.0, limit / 2, generator)
    return _rotated(xyz, torch.cat([half.cos(), half.sin() * F.normalize(axis, dim=1)], dim=1))


def random_mirror(
    xyz: Tensor, *, up_axis: str = "y", generator: torch.Generator | None = None
) -> Tensor:
    """Mirror half of the clouds, by chance, in an upright plane through the origin."""
    check_xyz("xyz", xyz)
    check_choice("up_axis", up_axis, AXES)
    mirrored = torch.rand(len(xyz), generator=generator, device=xyz.device) < 0.5
    across = (AXES.index(up_axis) + 2) % 3  # x where y is up
    sign = xyz.new_ones(len(xyz), 1, 3)
    sign[:, 0, across] -= 2 * mirrored.to(xyz.dtype)
    return xyz * sign


def random_elastic(
    xyz: Tensor, strength: float, *, generator: torch.Generator | None = None
) -> Tensor:
    """Deform each cloud smoothly around four anchors that rotate, stretch and move independently.

    At an anchor: a rotation about a random axis by up to ``strength`` * 60 degrees, a factor for
    each axis between 1 / (1 + strength) and 1 + strength, and a shift of up to ``strength`` * 0.5.
    Points between anchors follow them, by weights that fall off along random axes.

    Args:
        xyz: (B, N, 3), about the size of the unit sphere.
        strength: 0 changes nothing.
        generator: of all draws.

    Reference:
        Kim et al., Point cloud augmentation with weighted local transformations, ICCV 2021.
    """
    check_xyz("xyz", xyz)
    check_at_least("strength", strength, 0)
    batch = len(xyz)
    start = random_point_sample(xyz, 1, generator=generator)[:, 0]
    anchors = gather_points(
        xyz, farthest_point_sample(xyz, ELASTIC_ANCHORS, start=start)
    )  # (B, A, 3)
    offset = xyz[:, None] - anchors[:, :, None]  # (B, A, N, 3)
    # At least one axis counts; leaving others out makes whole slabs move together.
    axes = torch.randint(1, 8, (batch, ELASTIC_ANCHORS), generator=generator, device=xyz.device)
    counts = axes[..., None] >> torch.arange(3, device=xyz.device) & 1  # (B, A, 3)
    sq_dist = (offset.square() * counts[:, :, None]).sum(-1)
    weight = torch.softmax(-sq_dist / (2 * ELASTIC_SIGMA**2), dim=1)  # (B, A, N), sums to 1 over A
    limit = strength * math.pi / 3
    rotated = random_tilt(offset.flatten(0, 1), limit, generator=generator).view_as(offset)
    shape = (batch, ELASTIC_ANCHORS, 1, 3)
    log_factor = math.log1p(strength)
    factor = _uniform(xyz, shape, -log_factor, log_factor, generator).exp()
    shift = _uniform(xyz, shape, -strength / 2, strength / 2, generator)
    moved = rotated * factor + anchors[:, :, None] + shift
    return (moved * weight[..., None]).sum(1)


def random_point_dropout(
    xyz: Tensor, max_ratio: float, *, generator: torch.Generator | None = None
) -> Tensor:
    """Point dropout of a fraction from U(0, max_ratio) of each cloud.

    Returns a mask instead of copying points over the dropped ones, which would give the copied
    point extra weight in the attention's softmax over the points.

    Returns:
        mask: (B, N) bool, False = dropped; at least one point of each cloud stays.
    """
    check_xyz("xyz", xyz)
    check_fraction("max_ratio", max_ratio)
    ratio = _uniform(xyz, (len(xyz), 1), 0.0, max_ratio, generator)
    draw = torch.rand(xyz.shape[:2], generator=generator, device=xyz.device)
    mask = draw >= ratio
    keep = draw.argmax(1, keepdim=True)
    return mask.scatter(1, keep, True)


def choose_points(
    xyz: Tensor, num_points: int, sampling: str, *, generator: torch.Generator | None = None
) -> Tensor:
    """Indices (B, num_points) of the points to keep: the first, a random set, or by farthest point.

    More points than there are repeats the order from its start.
    """
    check_choice("sampling", sampling, SAMPLINGS)
    if sampling == "random":
        return random_point_sample(xyz, num_points, generator=generator)
    if sampling == "fps":
        return farthest_point_sample(xyz, num_points)
    check_at_least("num_points", num_points, 1)
    check_xyz("xyz", xyz)
    order = torch.arange(num_points, device=xyz.device) % xyz.shape[1]
    return order.expand(len(xyz), -1)


def _rotated(xyz: Tensor, quaternion: Tensor) -> Tensor:
    """Rotate clouds (B, N, 3) by unit quaternions (B, 4), the real part first."""
    w, x, y, z = quaternion.unbind(1)
    rotation = torch.stack(
        [
            1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
            2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
            2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
        ],
        dim=1,
    ).view(-1, 3, 3)  # fmt: skip
    return xyz @ rotation.transpose(1, 2)


def _uniform(
    like: Tensor,
    shape: tuple[int, ...],
    low: float,
    high: float,
    generator: torch.Generator | None,
) -> Tensor:
    draw = torch.rand(shape, generator=generator, device=like.device, dtype=like.dtype)
    return low + draw * (high - low)
