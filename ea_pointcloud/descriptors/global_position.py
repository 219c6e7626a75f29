"""Descriptors of the position in the whole object: extrema, box, shape context, orientation.

Functions of clouds whose geodesic distances are given; networks are trained with all of them
together, :func:`~ea_pointcloud.descriptors.shape_features`.
"""

import torch
from torch import Tensor

from ea_pointcloud.ops.neighbors import gather_points

EXTREMUM_REACH = 0.35  # an extremum lies farther out than all landmarks within this distance
RINGS = (0.12, 0.25, 0.4, 0.55, 0.75, 1.0, 1.3, 1.7)  # borders between the rings
RADII = (0.15, 0.3, 0.6)  # of the unit sphere
EXTREMUM_CHANNELS = 10
BOX_CHANNELS = 13
CONTEXT_CHANNELS = 6 * (len(RINGS) + 1)
ORIENTATION_CHANNELS = 2 + 8 * len(RADII)


def extremum_features(xyz: Tensor, dist: Tensor, landmarks: Tensor, diameter: Tensor) -> Tensor:
    """Describe the nearest extremum, a landmark whose mean distance no landmark nearby exceeds.

    Args:
        xyz: (B, N, 3), y up.
        dist: (B, N, L) geodesic distances to the landmarks, their mean 1.
        landmarks: (B, L) int64, indices into ``xyz``.
        diameter: (B, N) of the object.

    Returns:
        (B, N, 10): distance to the nearest and to the second extremum; of the nearest the mean
        distance to all landmarks, the fraction of landmarks nearby and the mean diameter there, the
        number of extrema, its height and distance from the origin, and its ranks among the extrema
        by diameter and by mean distance (0 to 1).
    """
    remoteness = dist.mean(-1).gather(1, landmarks)  # (B, L)
    nearby = gather_points(dist, landmarks) < EXTREMUM_REACH  # (B, L, L)
    highest = remoteness[:, None].masked_fill(~nearby, -torch.inf).amax(-1)
    is_extremum = remoteness >= highest
    size = nearby.float().mean(-1)
    width = diameter.gather(1, landmarks)
    width = (nearby * width[:, None]).sum(-1) / nearby.sum(-1).clamp_min(1)
    count = is_extremum.sum(1, keepdim=True).float()
    position = gather_points(xyz, landmarks)
    described = torch.stack(
        [
            remoteness,
            size,
            width,
            count.expand_as(size),
            position[..., 1],
            position.norm(dim=-1),
            _rank_among(width, is_extremum),
            _rank_among(remoteness, is_extremum),
        ],
        dim=-1,
    )
    to_extremum = dist.masked_fill(~is_extremum[:, None], torch.inf)
    two = to_extremum.topk(min(2, dist.shape[-1]), dim=-1, largest=False)
    nearest, last = two.values[..., :1], two.values[..., -1:]
    second = torch.where(last.isfinite(), last, nearest)
    return torch.cat([nearest, second, gather_points(described, two.indices[..., 0])], dim=-1)


def box_features(xyz: Tensor, diameter: Tensor) -> Tensor:
    """Describe the position of each point in the object's own box.

    Args:
        xyz: (B, N, 3), y up.
        diameter: (B, N) of the object.

    Returns:
        (B, N, 13): distance from the mean along the principal axes, shortest first, without sign;
        ranks among all points (0 to 1) by height, distance from the origin, distance along the
        longest axis and from the up axis; the last itself; the standard deviations along the axes;
        the rank by diameter, and the diameter over its median.
    """
    centered = xyz - xyz.mean(1, keepdim=True)
    covariance = centered.transpose(1, 2) @ centered / xyz.shape[1]
    variance, axes = torch.linalg.eigh(covariance)
    along = (centered @ axes).abs()
    sideways = torch.hypot(xyz[..., 0], xyz[..., 2])
    ranked = [xyz[..., 1], xyz.norm(dim=-1), along[..., 2], sideways]
    median = diameter.median(dim=1, keepdim=True).values.clamp_min(1e-6)
    return torch.cat(
        [
            along,
            torch.stack([*map(_rank, ranked), sideways], dim=-1),
            variance.clamp_min(0).sqrt()[:, None].expand_as(along),
            torch.stack([_rank(diameter), diameter / median], dim=-1),
        ],
        dim=-1,
    )


def geodesic_shape_context(
    dist: Tensor, landmarks: Tensor, normals: Tensor, surface: Tensor
) -> Tensor:
    """Describe the object around a point ring by ring of geodesic distance.

    Args:
        dist: (B, N, L) geodesic distances to the landmarks, their mean 1.
        landmarks: (B, L) int64, indices into the N points.
        normals: (B, N, 3), unit; the sign does not matter.
        surface: (B, N, 4) values to average over the landmarks of a ring.

    Returns:
        (B, N, 54): for each of nine rings the fraction of landmarks that lie in it, how parallel
        their normals are to that of the point, and the means of ``surface``; 0 for an empty ring.

    Reference:
        Belongie et al., Shape matching and object recognition using shape contexts, PAMI 2002;
        along the surface as in Kalogerakis et al., Learning 3D mesh segmentation and labeling,
        SIGGRAPH 2010.
    """
    ring = torch.bucketize(dist.contiguous(), dist.new_tensor(RINGS), right=True)
    parallel = (normals @ gather_points(normals, landmarks).transpose(1, 2)).abs()
    values = gather_points(surface, landmarks)
    columns = []
    for number in range(len(RINGS) + 1):
        inside = (ring == number).to(dist.dtype)
        count = inside.sum(-1, keepdim=True)
        total = count.clamp_min(1)
        same = (inside * parallel).sum(-1, keepdim=True)
        columns += [count / dist.shape[-1], same / total, inside @ values / total]
    return torch.cat(columns, dim=-1)


def orientation_features(xyz: Tensor, sample: Tensor, normals: Tensor) -> Tensor:
    """Describe the orientation of the surface around each point.

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


def _rank(values: Tensor) -> Tensor:
    """(B, N) ranks of values (B, N), 0 to below 1."""
    return values.argsort(dim=1, stable=True).argsort(dim=1) / values.shape[1]


def _rank_among(values: Tensor, chosen: Tensor) -> Tensor:
    """(B, L) fraction of the other chosen values that are smaller; any number for the rest."""
    smaller = (values[:, None] < values[..., None]) & chosen[:, None]
    others = (chosen.sum(1, keepdim=True) - 1).clamp_min(1)
    return smaller.sum(-1) / others
