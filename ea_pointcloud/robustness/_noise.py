"""Corruptions that add noise to points, or outliers to the object."""

import torch
from torch.nn import functional as F

from ea_pointcloud.ops import gather_points
from ea_pointcloud.robustness._clouds import Clouds, Draws, pick

MOST_CLUSTERS = 7  # of ModelNet-C


def uniform(clouds: Clouds, severity: int, draws: Draws) -> Clouds:
    """ModelNet40-C ``uniform``: U(-c, c) on each coordinate, c = 0.01 times the severity."""
    reach = 0.01 * severity
    return clouds.moved(clouds.xyz + draws.uniform(*clouds.xyz.shape, low=-reach, high=reach))


def gaussian(clouds: Clouds, severity: int, draws: Draws) -> Clouds:
    """ModelNet40-C ``gaussian``: normal noise, then cut off at the cube from -1 to 1."""
    std = (0.01, 0.015, 0.02, 0.025, 0.03)[severity - 1]
    return clouds.moved((clouds.xyz + std * draws.normal(*clouds.xyz.shape)).clamp(-1, 1))


def jitter(clouds: Clouds, severity: int, draws: Draws) -> Clouds:
    """ModelNet-C ``jitter``: normal noise of standard deviation 0.01 times the severity."""
    return clouds.moved(clouds.xyz + 0.01 * severity * draws.normal(*clouds.xyz.shape))


def impulse(clouds: Clouds, severity: int, draws: Draws) -> Clouds:
    """ModelNet40-C ``impulse``: a few points jump by 0.1 along each axis, in either direction."""
    count = clouds.lengths // (30, 25, 20, 15, 10)[severity - 1]
    hit = draws.rank(clouds.mask) < count[:, None]
    return clouds.moved(clouds.xyz + 0.1 * draws.sign(*clouds.xyz.shape) * hit[..., None])


def upsampling(clouds: Clouds, severity: int, draws: Draws) -> Clouds:
    """ModelNet40-C ``upsampling``: copies of some points, or all, moved by U(-0.05, 0.05)."""
    count = clouds.lengths // (5, 4, 3, 2, 1)[severity - 1]
    copies = pick(clouds, draws.rank(clouds.mask), count)
    shift = draws.uniform(*copies.xyz.shape, low=-0.05, high=0.05)
    return clouds.joined(copies.moved(copies.xyz + shift))


def background(clouds: Clouds, severity: int, draws: Draws) -> Clouds:
    """ModelNet40-C ``background``: points spread evenly over the cube from -1 to 1."""
    count = clouds.lengths // (45, 40, 35, 30, 20)[severity - 1]
    batch, most = len(count), int(count.max())
    mask = torch.arange(most, device=count.device) < count[:, None]
    return clouds.joined(Clouds(draws.uniform(batch, most, 3, low=-1, high=1), mask))


def add_global(clouds: Clouds, severity: int, draws: Draws) -> Clouds:
    """ModelNet-C ``add_global``: 10 times the severity points spread evenly over the unit ball."""
    count = clouds.scaled_count(10 * severity)
    batch, most = len(count), int(count.max())
    direction = F.normalize(draws.normal(batch, most, 3), dim=-1)
    mask = torch.arange(most, device=count.device) < count[:, None]
    return clouds.joined(Clouds(direction * draws.uniform(batch, most, 1) ** (1 / 3), mask))


def add_local(clouds: Clouds, severity: int, draws: Draws) -> Clouds:
    """ModelNet-C ``add_local``: 100 times the severity points in one to seven normal clusters.

    They lie around points of the cloud, each with a standard deviation from U(0.075, 0.125); what
    falls outside the unit ball is mirrored at its surface.
    """
    count = clouds.scaled_count(100 * severity)
    batch, most = len(count), int(count.max())
    clusters = draws.integers(torch.full_like(count, MOST_CLUSTERS), batch) + 1
    centers = pick(clouds, draws.rank(clouds.mask), clouds.lengths.clamp_max(MOST_CLUSTERS)).xyz
    own = draws.integers(clusters.clamp_max(centers.shape[1]), batch, most)
    std = draws.uniform(batch, MOST_CLUSTERS, low=0.075, high=0.125).gather(1, own)
    xyz = gather_points(centers, own) + std[..., None] * draws.normal(batch, most, 3)
    sq_norm = xyz.square().sum(-1, keepdim=True)
    mask = torch.arange(most, device=count.device) < count[:, None]
    return clouds.joined(Clouds(torch.where(sq_norm > 1, xyz / sq_norm, xyz), mask))
