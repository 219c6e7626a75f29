"""Where on the whole object a point lies: near which tip, in which part of it, facing where.

Functions on one batch of clouds whose distances along the surface are known; everything that
learns calls :func:`~ea_pointcloud.descriptors.whole_shape`.
"""

import torch
from torch import Tensor

from ea_pointcloud.ops.gather import gather_points

TIP_REACH = 0.35  # a tip is farther out than all within this distance along the surface
RINGS = (0.12, 0.25, 0.4, 0.55, 0.75, 1.0, 1.3, 1.7)  # where one ring ends and the next begins
RADII = (0.15, 0.3, 0.6)  # of the unit sphere
TIP_CHANNELS = 10
POSITION_CHANNELS = 13
RING_CHANNELS = 6 * (len(RINGS) + 1)
FACING_CHANNELS = 2 + 8 * len(RADII)


def tip_features(xyz: Tensor, dist: Tensor, landmarks: Tensor, thickness: Tensor) -> Tensor:
    """Describe the tip that is nearest along the surface.

    A tip is a landmark whose mean distance to all others no landmark nearby exceeds.

    Args:
        xyz: (B, N, 3), y up.
        dist: (B, N, L) distances along the surface to the landmarks, their mean 1.
        landmarks: (B, L) int64, places in ``xyz``.
        thickness: (B, N) of the object.

    Returns:
        (B, N, 10): distance to the nearest and to the second tip; of the nearest the mean distance
        to all landmarks, the share of landmarks nearby and the mean thickness there, the number
        of tips, its height and distance from the origin, and its places among the tips by
        thickness and by mean distance (0 to 1).
    """
    outness = dist.mean(-1).gather(1, landmarks)  # (B, L)
    between = gather_points(dist, landmarks)  # (B, L, L)
    near = between < TIP_REACH
    highest = outness[:, None].masked_fill(~near, -torch.inf).amax(-1)
    is_tip = outness >= highest
    size = near.float().mean(-1)
    thick = thickness.gather(1, landmarks)
    thick = (near * thick[:, None]).sum(-1) / near.sum(-1).clamp_min(1)
    count = is_tip.sum(1, keepdim=True).float()
    place = gather_points(xyz, landmarks)
    of_tip = torch.stack(
        [
            outness,
            size,
            thick,
            count.expand_as(size),
            place[..., 1],
            place.norm(dim=-1),
            _place_among(thick, is_tip),
            _place_among(outness, is_tip),
        ],
        dim=-1,
    )
    to_tip = dist.masked_fill(~is_tip[:, None], torch.inf)
    two = to_tip.topk(min(2, dist.shape[-1]), dim=-1, largest=False)
    nearest = two.values[..., :1]
    second = torch.where(two.values[..., -1:].isfinite(), two.values[..., -1:], nearest)
    return torch.cat([nearest, second, gather_points(of_tip, two.indices[..., 0])], dim=-1)


def position_features(xyz: Tensor, thickness: Tensor) -> Tensor:
    """Describe where in the object's own box a point lies.

    Args:
        xyz: (B, N, 3), y up.
        thickness: (B, N) of the object.

    Returns:
        (B, N, 13): distance from the mean along the principal axes, shortest first, without sign;
        places among all points (0 to 1) by height, distance from the origin, distance along the
        longest axis and from the up axis; the last itself; the standard deviations along the axes;
        the place by thickness, and thickness over its median.
    """
    centered = xyz - xyz.mean(1, keepdim=True)
    covariance = centered.transpose(1, 2) @ centered / xyz.shape[1]
    variance, axes = torch.linalg.eigh(covariance)
    along = (centered @ axes).abs()
    sideways = torch.hypot(xyz[..., 0], xyz[..., 2])
    ranked = [xyz[..., 1], xyz.norm(dim=-1), along[..., 2], sideways]
    median = thickness.median(dim=1, keepdim=True).values.clamp_min(1e-6)
    others = [*map(_place, ranked), sideways]
    return torch.cat(
        [
            along,
            torch.stack(others, dim=-1),
            variance.clamp_min(0).sqrt()[:, None].expand_as(along),
            torch.stack([_place(thickness), thickness / median], dim=-1),
        ],
        dim=-1,
    )


def ring_features(dist: Tensor, landmarks: Tensor, normals: Tensor, surface: Tensor) -> Tensor:
    """Describe the object as seen from a point along the surface, ring after ring.

    Args:
        dist: (B, N, L) distances along the surface to the landmarks, their mean 1.
        landmarks: (B, L) int64, places among the N points.
        normals: (B, N, 3), unit; the sign does not matter.
        surface: (B, N, 4) what is averaged over the landmarks of a ring.

    Returns:
        (B, N, 54): for each of nine rings the share of the landmarks that lie in it, how parallel
        their normals are to that of the point, and the means of ``surface``; 0 for an empty ring.

    Reference:
        Belongie et al., Shape matching and object recognition using shape contexts, PAMI 2002;
        along the surface as in Kalogerakis et al., Learning 3D mesh segmentation and labeling,
        SIGGRAPH 2010.
    """
    ring = torch.bucketize(dist.contiguous(), dist.new_tensor(RINGS), right=True)
    parallel = (normals @ gather_points(normals, landmarks).transpose(1, 2)).abs()
    there = gather_points(surface, landmarks)
    columns = []
    for number in range(len(RINGS) + 1):
        inside = (ring == number).to(dist.dtype)
        count = inside.sum(-1, keepdim=True)
        some = count.clamp_min(1)
        same = (inside * parallel).sum(-1, keepdim=True)
        columns += [count / dist.shape[-1], same / some, inside @ there / some]
    return torch.cat(columns, dim=-1)


def facing_features(xyz: Tensor, sample: Tensor, normals: Tensor) -> Tensor:
    """Describe how the surface around each point lies in space.

    Args:
        xyz: (B, N, 3), y up.
        sample: (B, S, 3) points of the object, evenly spread.
        normals: (B, N, 3), unit; the sign does not matter.

    Returns:
        (B, N, 26): how far the normal points up, and away from the origin; for balls of the radii
        0.15, 0.3 and 0.6 how far the longest and the shortest principal axis of the sample inside
        point up, and over the radius: the point's height above the mean inside, its distance from
        it, the standard deviations along the axes, longest first, and the distance from the mean
        along the shortest axis.
    """
    radial = (normals * xyz).sum(-1).abs() / xyz.norm(dim=-1).clamp_min(1e-6)
    columns = [normals[..., 1].abs()[..., None], radial[..., None]]
    dist = torch.cdist(xyz, sample, compute_mode="donot_use_mm_for_euclid_dist")
    squares = (sample[..., :, None] * sample[..., None, :]).flatten(2)  # (B, S, 9)
    for radius in RADII:
        inside = (dist < radius).to(xyz.dtype)
        count = inside.sum(-1, keepdim=True).clamp_min(1)
        mean = inside @ sample / count
        moments = (inside @ squares / count).unflatten(-1, (3, 3))
        covariance = moments - mean[..., :, None] * mean[..., None, :]
        variance, axes = torch.linalg.eigh(covariance.nan_to_num(0.0, 0.0, 0.0))
        deviation = variance.clamp_min(0).sqrt().flip(-1)
        offset = xyz - mean
        across = (axes[..., 0] * offset).sum(-1, keepdim=True).abs()
        columns += [
            axes[..., 1, 2:].abs(),
            axes[..., 1, :1].abs(),
            offset[..., 1:2] / radius,
            offset.norm(dim=-1, keepdim=True) / radius,
            deviation / radius,
            across / radius,
        ]
    return torch.cat(columns, dim=-1)


def _place(values: Tensor) -> Tensor:
    """(B, N) places of values (B, N) in ascending order, 0 to below 1."""
    return values.argsort(dim=1, stable=True).argsort(dim=1) / values.shape[1]


def _place_among(values: Tensor, chosen: Tensor) -> Tensor:
    """(B, L) share of the other chosen values that are smaller; any number for the rest."""
    smaller = (values[:, None] < values[..., None]) & chosen[:, None]
    others = (chosen.sum(1, keepdim=True) - 1).clamp_min(1)
    return smaller.sum(-1) / others
