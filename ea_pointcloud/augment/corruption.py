"""Sensor corruption for training: outliers, crops and partial views.

Batched, on the tensor's device, seeded by a generator, never in place.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from ea_pointcloud._checks import check_fraction, check_probability, check_xyz, real_points

_SPREAD = 0.5  # standard deviation of outliers, in radii of the cloud
# Of the depth image that decides what is hidden: cells across the cloud over the root of its
# points, and how far behind the first point of its cell another is still visible, in cells. By F1
# against hidden-point removal, 200 shapes of ModelNet10: 0.78, 0.74, 0.72 of 512, 1,024, 2,048.
_CELLS = 0.8
_BEHIND = 1.0


def random_outliers(
    xyz: Tensor,
    max_ratio: float,
    *,
    mask: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Turn a fraction of each cloud's points, from U(0, max_ratio), into outliers.

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
    center, radius = _center_and_radius(xyz.masked_fill(~real[..., None], 0.0), real)
    noise = torch.randn(xyz.shape, generator=generator, device=xyz.device, dtype=xyz.dtype)
    moved = (draw < ratio) & real
    return torch.where(moved[..., None], center + noise * radius * _SPREAD, xyz)


def random_crop(
    xyz: Tensor,
    max_ratio: float,
    *,
    mask: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Crop each cloud by a plane of random direction.

    Args:
        xyz: (B, N, 3).
        max_ratio: 0 <= max_ratio < 1; a fraction from U(0, max_ratio) of each cloud is cropped.
        mask: (B, N) bool, True = real point; padding has no influence.
        generator: of all draws.

    Returns:
        mask: (B, N) bool, False = cropped, or padding; at least one point of each cloud stays.
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


def random_partial_view(
    xyz: Tensor,
    prob: float,
    *,
    mask: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Turn some clouds into partial views: hide all points that a distant camera cannot see.

    Cameras lie on the upper half of the sphere (y up). A point hides those behind it in its cell of
    a coarse depth image, which is fast and batched, and agrees with
    :func:`~ea_pointcloud.robustness.visibility.visible_points` about three of four points (F1).

    Args:
        xyz: (B, N, 3).
        prob: fraction of the clouds that become partial views, 0 to 1.
        mask: (B, N) bool, True = real point; padding has no influence.
        generator: of all draws.

    Returns:
        mask: (B, N) bool, False = hidden, or padding; at least one point of each cloud stays.
    """
    check_xyz("xyz", xyz)
    check_probability("prob", prob)
    real = real_points(mask, xyz)
    batch = len(xyz)
    chosen = torch.rand(batch, generator=generator, device=xyz.device) < prob
    draw = torch.randn(batch, 3, 3, generator=generator, device=xyz.device, dtype=xyz.dtype)
    draw[:, 1, 0] = draw[:, 1, 0].abs()
    # The first column of Q is the first drawn direction up to its sign, which decides the side.
    frame, scale = torch.linalg.qr(draw)
    frame = frame * scale[:, :1, :1].sign()
    center, radius = _center_and_radius(xyz.masked_fill(~real[..., None], 0.0), real)
    nearness, *image = ((xyz - center) / radius @ frame).unbind(-1)  # 1 = nearest to the camera
    cells = (_CELLS * real.sum(1, keepdim=True).sqrt()).floor().clamp_min(1)  # (B, 1) across
    most = int(_CELLS * xyz.shape[1] ** 0.5) + 2
    hidden = torch.zeros_like(real)
    for offset in (0.0, 0.5):  # two images, half a cell apart: fewer gaps in the front
        row, column = (((at + 1) / 2 * cells + offset).clamp_min(0) for at in image)
        row, column = row.minimum(cells).floor(), column.minimum(cells).floor()
        cell = (row * most + column).long()
        cell = cell.masked_fill(~real, most * most)  # padding has one of its own
        nearest = nearness.new_full((batch, most * most + 1), -torch.inf)
        nearest = nearest.scatter_reduce(1, cell, nearness, "amax").gather(1, cell)
        hidden = hidden | (nearness < nearest - _BEHIND * 2 / cells)
    return real & ~(hidden & chosen[:, None])


def _center_and_radius(xyz: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (B, 1, 3) and largest distance from it (B, 1, 1) of the real points."""
    weight = real[..., None].to(xyz.dtype)
    center = (xyz * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True)
    sq_dist = (xyz - center).square().sum(-1).masked_fill(~real, 0.0)
    radius = sq_dist.amax(1).sqrt()[:, None, None]
    return center, radius.clamp_min(torch.finfo(xyz.dtype).tiny)
