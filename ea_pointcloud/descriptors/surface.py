"""How the surface around each point is shaped, and where on the whole surface the point lies."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from ea_pointcloud._checks import check_lengths, check_xyz
from ea_pointcloud.descriptors.global_position import (
    FACING_CHANNELS,
    POSITION_CHANNELS,
    RING_CHANNELS,
    TIP_CHANNELS,
    facing_features,
    position_features,
    ring_features,
    tip_features,
)
from ea_pointcloud.ops.gather import gather_points, interpolate_features
from ea_pointcloud.ops.neighbors import ball_query, knn
from ea_pointcloud.ops.sampling import farthest_point_sample

RADII = (0.1, 0.2, 0.4)  # of the unit sphere
NEIGHBORS = 64
LOCAL_SHAPE_CHANNELS = 6 * len(RADII) + 1
CONES = (0.87, 0.7)  # cosines of half the opening: 30 and 45 degrees
THICKNESS_CHANNELS = 4 * len(CONES)
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
GEODESIC_CHANNELS = 4 + len(QUANTILES)
SURFACE_SHAPE_CHANNELS = LOCAL_SHAPE_CHANNELS + THICKNESS_CHANNELS + GEODESIC_CHANNELS
PLACEMENT_CHANNELS = TIP_CHANNELS + POSITION_CHANNELS + RING_CHANNELS + FACING_CHANNELS
WHOLE_SHAPE_CHANNELS = SURFACE_SHAPE_CHANNELS + PLACEMENT_CHANNELS
# Queries handled at a time: 50 MB of neighbours.
_CHUNK = 65_536
# Thickness and geodesic distances are found at so many points and carried to all others.
_REFERENCE_POINTS = 2048
_LANDMARKS = 32
_SAMPLE = 512  # evenly spread points that stand for the object
_WAYS = 3  # points of the sample from which a way may start
_GRAPH_NEIGHBORS = 8
_AIR = 3.0  # what a way through the air costs, as against one along the surface
_NORMAL_NEIGHBORS = 16
_OPPOSITE = 5  # points of the far side that are averaged
_NOTHING_OPPOSITE = 2.0  # the unit sphere is no wider


@torch.no_grad()
def surface_shape(xyz: Tensor, *, lengths: Tensor | None = None) -> Tensor:
    """Describe each point by its neighbourhood, the thickness there, and its place on the surface.

    :func:`local_shape`, then :func:`thickness` and :func:`geodesic_spread`. The latter two are
    found at up to 2,048 farthest points; all others get the weighted mean of their three nearest.

    Args:
        xyz: (B, N, 3) points in the unit sphere.
        lengths: (B,) valid points of each padded cloud; all N without it.

    Returns:
        (B, N, 36) float32; rows of padded points are meaningless.

    Raises:
        ValueError: if a shape is wrong.
    """
    local = local_shape(xyz, lengths=lengths)
    whole = _by_reference(
        xyz.float(), lengths, lambda cloud: [thickness(cloud), geodesic_spread(cloud)]
    )
    return torch.cat([local, whole], dim=-1)


@torch.no_grad()
def whole_shape(xyz: Tensor, *, lengths: Tensor | None = None) -> Tensor:
    """Describe each point by :func:`surface_shape` and by its place in the object.

    Near which tip it lies, where in the object's own box, what the object looks like from there,
    ring after ring along the surface, and how the surface lies in space: see
    :mod:`ea_pointcloud.descriptors.global_position`. A turn about the up axis changes nothing
    (sampling aside), a tilt does. Found at up to 2,048 farthest points as the thickness is.

    Args:
        xyz: (B, N, 3) points in the unit sphere, y up.
        lengths: (B,) valid points of each padded cloud; all N without it.

    Returns:
        (B, N, 139) float32; rows of padded points are meaningless.

    Raises:
        ValueError: if a shape is wrong.
    """
    local = local_shape(xyz, lengths=lengths)
    return torch.cat([local, _by_reference(xyz.float(), lengths, _whole)], dim=-1)


def _whole(xyz: Tensor) -> list[Tensor]:
    """What :func:`whole_shape` adds to the local shape, of clouds (B, N, 3)."""
    sample = farthest_point_sample(xyz, min(_SAMPLE, xyz.shape[1]))
    points = gather_points(xyz, sample)
    thick = thickness(xyz)
    dist = _distances_by(xyz, points)
    dist = dist / dist.mean((1, 2), keepdim=True).clamp_min(1e-9)
    normals = _normals(xyz, min(_NORMAL_NEIGHBORS, xyz.shape[1]))
    even = thick[..., 4:6]  # the medians of the narrow cone
    bent = local_shape(xyz)[..., 9:11]  # linearity and planarity at the middle radius
    return [
        thick,
        geodesic_spread(xyz),
        tip_features(xyz, dist, sample, even[..., 0]),
        position_features(xyz, even[..., 0]),
        ring_features(dist, sample, normals, torch.cat([even, bent], dim=-1)),
        facing_features(xyz, points, normals),
    ]


def _distances_by(xyz: Tensor, sample: Tensor) -> Tensor:
    """(B, N, S) distances along the surface to a sample (B, S, 3), by way of its points alone.

    The graph of few points has few steps to go, so many distances cost little.
    """
    everyone = torch.arange(sample.shape[1], device=sample.device).expand(len(sample), -1)
    between = geodesic_distances(sample, everyone)
    sq_dist, idx = knn(xyz, sample, min(_WAYS, sample.shape[1]))
    return (gather_points(between, idx) + sq_dist.sqrt()[..., None]).amin(2)


def _by_reference(
    xyz: Tensor, lengths: Tensor | None, describe: Callable[[Tensor], list[Tensor]]
) -> Tensor:
    """(B, N, F): ``describe`` of up to 2,048 farthest points of each cloud, carried to all."""
    sizes = [xyz.shape[1]] * len(xyz) if lengths is None else lengths.tolist()
    rows = []
    for place, size in enumerate(sizes):
        cloud = xyz[place : place + 1, :size]
        reference = cloud
        if size > _REFERENCE_POINTS:
            reference = gather_points(cloud, farthest_point_sample(cloud, _REFERENCE_POINTS))
        found = torch.cat(describe(reference), dim=-1)
        if size > _REFERENCE_POINTS:
            found = interpolate_features(cloud, reference, found)
        rows.append(F.pad(found, (0, 0, 0, xyz.shape[1] - size)))
    return torch.cat(rows)


@torch.no_grad()
def thickness(xyz: Tensor) -> Tensor:
    """How far the other side of the object is, and how far whatever lies before the surface.

    Along the normal in both directions: the mean distance of the five nearest points within a cone,
    2 where there are none. Which direction is inward a cloud does not say, so the smaller comes
    first. For cones of 30 and 45 degrees (half the opening) both, then the medians of all four over
    16 neighbours. Quadratic in N.

    Args:
        xyz: (B, N, 3) points in the unit sphere.

    Returns:
        (B, N, 8) float32.

    Reference:
        Shapira et al., Consistent mesh partitioning and skeletonisation using the shape diameter
        function, The Visual Computer 2008.
    """
    check_xyz("xyz", xyz)
    xyz = xyz.float()
    k = min(_NORMAL_NEIGHBORS, xyz.shape[1])
    sq_dist, idx = knn(xyz, xyz, k)
    normals = _normals_among(gather_points(xyz, idx))
    # The sheet that a point lies in is not what lies opposite.
    near = 3 * sq_dist[..., min(1, k - 1)].sqrt().median(dim=1).values[:, None, None]
    rows = []
    for part, normal in zip(xyz.split(256, dim=1), normals.split(256, dim=1), strict=True):
        dist = torch.cdist(part, xyz, compute_mode="donot_use_mm_for_euclid_dist")
        along = normal @ xyz.transpose(1, 2) - (normal * part).sum(-1, keepdim=True)
        along = along / dist.clamp_min(1e-9)
        far = dist > near
        columns = []
        for cosine in CONES:
            sides = [_nearest_in(dist, far & (sign * along > cosine)) for sign in (1.0, -1.0)]
            columns += [torch.minimum(*sides), torch.maximum(*sides)]
        rows.append(torch.stack(columns, dim=-1))
    found = torch.cat(rows, dim=1)
    return torch.cat([found, gather_points(found, idx).median(dim=2).values], dim=-1)


def _normals(xyz: Tensor, k: int) -> Tensor:
    """(B, N, 3) unit normals of any sign, from the ``k`` nearest points."""
    _, idx = knn(xyz, xyz, k)
    return _normals_among(gather_points(xyz, idx))


def _normals_among(neighbors: Tensor) -> Tensor:
    centered = neighbors - neighbors.mean(2, keepdim=True)
    return torch.linalg.eigh(centered.transpose(-1, -2) @ centered).eigenvectors[..., 0]


def _nearest_in(dist: Tensor, chosen: Tensor) -> Tensor:
    """(B, n) mean of the smallest chosen entries of (B, n, N) distances."""
    count = min(_OPPOSITE, dist.shape[-1])
    inside = dist.masked_fill(~chosen, _NOTHING_OPPOSITE)
    return inside.topk(count, dim=-1, largest=False).values.mean(-1)


@torch.no_grad()
def geodesic_spread(xyz: Tensor) -> Tensor:
    """How far along the surface the rest of the object is from each point.

    Distances to 32 farthest points along the graph of the 8 nearest neighbours; what the graph does
    not join is joined by air at three times the distance. Over their mean for the whole cloud:
    mean, the same between 0 and 1, maximum, quantiles (5, 25, 50, 75, 95 %); last that mean itself.
    Tips score high and the middle low, however the object is bent.

    Args:
        xyz: (B, N, 3) points in the unit sphere.

    Returns:
        (B, N, 9) float32.

    Reference:
        Hilaga et al., Topology matching for fully automatic similarity estimation of 3D shapes,
        SIGGRAPH 2001.
    """
    check_xyz("xyz", xyz)
    xyz = xyz.float()
    landmarks = farthest_point_sample(xyz, min(_LANDMARKS, xyz.shape[1]))
    dist = geodesic_distances(xyz, landmarks)
    scale = dist.mean((1, 2), keepdim=True)
    dist = dist / scale.clamp_min(1e-9)
    mean = dist.mean(-1, keepdim=True)
    low, high = mean.amin(1, keepdim=True), mean.amax(1, keepdim=True)
    quantiles = torch.quantile(dist, dist.new_tensor(QUANTILES), dim=-1).movedim(0, -1)
    between = (mean - low) / (high - low).clamp_min(1e-9)
    return torch.cat(
        [mean, between, dist.amax(-1, keepdim=True), quantiles, scale.expand_as(mean)], dim=-1
    )


def geodesic_distances(xyz: Tensor, landmarks: Tensor) -> Tensor:
    """How far the landmarks are along the surface.

    Along the graph of the 8 nearest neighbours, and through the air at three times the distance.

    Args:
        xyz: (B, N, 3) float32.
        landmarks: (B, L) int64, places in ``xyz``.

    Returns:
        (B, N, L) float32.
    """
    sq_dist, idx = knn(xyz, xyz, min(_GRAPH_NEIGHBORS + 1, xyz.shape[1]))
    step = sq_dist.sqrt()[..., None]  # (B, N, K, 1)
    away = gather_points(xyz, landmarks)
    dist = _AIR * torch.cdist(xyz, away, compute_mode="donot_use_mm_for_euclid_dist")
    # No way has more steps than points. Asking whether all are found waits for the device.
    for count in range(xyz.shape[1]):
        shorter = (gather_points(dist, idx) + step).amin(2)  # the point itself is among the nearest
        if count % 16 == 15 and torch.equal(shorter, dist):
            break
        dist = shorter
    return dist


@torch.no_grad()
def local_shape(xyz: Tensor, *, lengths: Tensor | None = None) -> Tensor:
    """Describe the neighbourhood of each point by its spread along its own axes.

    For balls of three radii r (0.1, 0.2, 0.4): the standard deviations s1 >= s2 >= s3 of the
    neighbours along their principal axes, over r; linearity (s1 - s2) / s1 and planarity
    (s2 - s3) / s1; and how far their mean lies from the point, over r. Last, the distance from the
    origin. Neighbours are the first 64 in index order, so clouds whose points come in no
    particular order are described alike whatever their density; shuffle others first. Not
    differentiable.

    Args:
        xyz: (B, N, 3) points in the unit sphere.
        lengths: (B,) valid points of each padded cloud; all N without it.

    Returns:
        (B, N, 19) float32; rows of padded points are meaningless.

    Raises:
        ValueError: if a shape is wrong.

    Reference:
        Demantke et al., Dimensionality based scale selection in 3D lidar point clouds, ISPRS 2011.
    """
    check_xyz("xyz", xyz)
    check_lengths(lengths, xyz)
    xyz = xyz.float()
    k = min(NEIGHBORS, xyz.shape[1])
    size = max(1, _CHUNK // len(xyz))
    columns = []
    for part in xyz.split(size, dim=1):
        features = []
        for radius in RADII:
            idx, count = ball_query(part, xyz, radius, k, lengths=lengths)
            features += _spread(gather_points(xyz, idx, offset=-part), count, radius)
        columns.append(torch.cat([*features, part.norm(dim=-1, keepdim=True)], dim=-1))
    return torch.cat(columns, dim=1)


def _spread(neighbors: Tensor, count: Tensor, radius: float) -> list[Tensor]:
    """Features (B, n, .) of neighbours (B, n, K, 3) relative to their point, ``count`` of them."""
    real = torch.arange(neighbors.shape[2], device=neighbors.device) < count[..., None]
    weight = real[..., None].float()
    total = count.clamp_min(1)[..., None].float()
    mean = (neighbors * weight).sum(2) / total
    centered = (neighbors - mean[:, :, None]) * weight
    covariance = centered.transpose(-1, -2) @ centered / total[..., None]
    covariance = covariance.nan_to_num(0.0, 0.0, 0.0)  # of points that are not finite
    deviation = torch.linalg.eigvalsh(covariance).clamp_min(0).sqrt().flip(-1)  # s1, s2, s3
    first, second, third = deviation.split(1, dim=-1)
    widest = first.clamp_min(1e-6)
    linearity, planarity = (first - second) / widest, (second - third) / widest
    return [
        deviation / radius,
        linearity,
        planarity,
        mean.norm(dim=-1, keepdim=True) / radius,
    ]


# What points can be described by: name -> function of (xyz, lengths=...), channels.
DESCRIPTORS = {
    "local_shape": (local_shape, LOCAL_SHAPE_CHANNELS),
    "surface_shape": (surface_shape, SURFACE_SHAPE_CHANNELS),
    "whole_shape": (whole_shape, WHOLE_SHAPE_CHANNELS),
}
