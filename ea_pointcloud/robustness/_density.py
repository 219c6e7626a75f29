"""Corruptions that remove points, or change the density."""

import torch
from torch.nn import functional as F

from ea_pointcloud.ops import gather_points
from ea_pointcloud.robustness._clouds import PUBLISHED_POINTS, Clouds, Draws, nearest_to
from ea_pointcloud.robustness._noise import MOST_CLUSTERS


def cutout(clouds: Clouds, severity: int, draws: Draws) -> Clouds:
    """ModelNet40-C ``cutout``: 2, 3, 5, 7 or 10 holes of 30 points."""
    size = clouds.scaled_count(30)
    for _ in range((2, 3, 5, 7, 10)[severity - 1]):
        clouds = clouds.kept(~nearest_to(clouds, draws.point(clouds), size))
    return clouds


def density(clouds: Clouds, severity: int, draws: Draws) -> Clouds:
    """ModelNet40-C ``density``: as many neighbourhoods of 100 as the severity lose 3/4 of it."""
    size = clouds.scaled_count(100)
    for _ in range(severity):
        cluster = nearest_to(clouds, draws.point(clouds), size)
        lost = draws.rank(cluster) < (size * 3 // 4)[:, None]
        clouds = clouds.kept(~lost)
    return clouds


def density_inc(clouds: Clouds, severity: int, draws: Draws) -> Clouds:
    """ModelNet40-C ``density_inc``: half the points, some neighbourhoods as dense as before.

    As many neighbourhoods of 100 (of the 1,024 that stay) as the severity are kept whole; the rest
    is drawn, with repetition, from all other points.
    """
    total = (clouds.lengths // 2).clamp_min(1)
    size = (total * 100 / PUBLISHED_POINTS).round().long()
    others, dense = clouds, torch.zeros_like(clouds.mask)
    for _ in range(severity):
        cluster = nearest_to(others, draws.point(others), size)
        others, dense = others.kept(~cluster), dense | cluster
    left = total - size * severity
    batch, most = len(total), int(left.max())
    order = others.mask.byte().argsort(dim=1, descending=True, stable=True)
    drawn = order.gather(1, draws.integers(others.lengths, batch, most))
    mask = torch.arange(most, device=left.device) < left[:, None]
    return clouds.kept(dense).joined(Clouds(gather_points(clouds.xyz, drawn), mask))


def dropout_global(clouds: Clouds, severity: int, draws: Draws) -> Clouds:
    """ModelNet-C ``dropout_global``: 25 % to 75 % of the points are lost."""
    kept = (0.75, 0.625, 0.5, 0.375, 0.25)[severity - 1]
    count = (clouds.lengths * kept).long().clamp_min(1)
    return clouds.kept(draws.rank(clouds.mask) < count[:, None])


def dropout_local(clouds: Clouds, severity: int, draws: Draws) -> Clouds:
    """ModelNet-C ``dropout_local``: one to seven holes, 100 times the severity points together."""
    total = clouds.scaled_count(100 * severity)
    batch, most = len(total), int(total.max())
    holes = draws.integers(torch.full_like(total, MOST_CLUSTERS), batch) + 1
    own = F.one_hot(draws.integers(holes, batch, most), MOST_CLUSTERS)  # (B, most, 7)
    counts = torch.arange(most, device=total.device) < total[:, None]
    sizes = (own * counts[..., None]).sum(1)  # (B, 7)
    for size in sizes.unbind(1):
        clouds = clouds.kept(~nearest_to(clouds, draws.point(clouds), size))
    return clouds
