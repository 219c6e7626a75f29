"""Descriptors of the surface at a point: eigen features, shape diameter, geodesic distances."""

import torch
from torch import Tensor

from ea_pointcloud._checks import check_lengths, check_xyz
from ea_pointcloud.ops.neighbors import ball_query, gather_points, knn
from ea_pointcloud.ops.sampling import farthest_point_sample

RADII = (0.1, 0.2, 0.4)  # of the unit sphere
NEIGHBORS = 64
EIGEN_CHANNELS = 6 * len(RADII) + 1
CONES = (0.87, 0.7)  # cosines of half the opening: 30 and 45 degrees
DIAMETER_CHANNELS = 4 * len(CONES)
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
GEODESIC_CHANNELS = 4 + len(QUANTILES)
_CHUNK = 65_536  # queries at a time: 50 MB of neighbours
_LANDMARKS = 32
_ENTRIES = 3  # points of a sample through which a path may enter it
_GRAPH_NEIGHBORS = 8
_AIR = 3.0  # cost of a path through the air, relative to one along the surface
_NORMAL_NEIGHBORS = 16
_OPPOSITE = 5  # points of the far side that are averaged
_NOTHING_OPPOSITE = 2.0  # the diameter of the unit sphere


@torch.no_grad()
def eigen_features(xyz: Tensor, *, lengths: Tensor | None = None) -> Tensor:
    """Describe the neighbourhood of each point by the eigenvalues of its covariance.

    For balls of three radii r (0.1, 0.2, 0.4): the standard deviations s1 >= s2 >= s3 of the
    neighbours along their principal axes, over r; linearity (s1 - s2) / s1 and planarity
    (s2 - s3) / s1; and the distance of their mean from the point, over r. Last, the distance from
    the origin. Neighbours are the first 64 in index order, so clouds whose points are in random
    order are described alike whatever their density; shuffle others first. Not differentiable.

    Args:
        xyz: (B, N, 3) points in the unit sphere.
        lengths: (B,) valid points of each padded cloud; all N if omitted.

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
    chunks = []
    for chunk in xyz.split(max(1, _CHUNK // len(xyz)), dim=1):
        columns = []
        for radius in RADII:
            idx, count = ball_query(chunk, xyz, radius, k, lengths=lengths)
            columns += _spread(gather_points(xyz, idx, offset=-chunk), count, radius)
        chunks.append(torch.cat([*columns, chunk.norm(dim=-1, keepdim=True)], dim=-1))
    return torch.cat(chunks, dim=1)


def _spread(neighbors: Tensor, count: Tensor, radius: float) -> list[Tensor]:
    """Columns of neighbours (B, n, K, 3) relative to their point, the first ``count`` of them."""
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
    return [deviation / radius, linearity, planarity, mean.norm(dim=-1, keepdim=True) / radius]


@torch.no_grad()
def shape_diameter(xyz: Tensor) -> Tensor:
    """Distance to the opposite side of the object, and to whatever lies in front of the surface.

    Along the normal in both directions: the mean distance of the five nearest points within a cone,
    2 where there are none. The inward direction of a cloud is unknown, so the smaller comes first.
    Both for cones of 30 and 45 degrees (half the opening), then the medians of all four over 16
    neighbours. Quadratic in N.

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
    # The points of the same sheet are not opposite.
    same_sheet = 3 * sq_dist[..., min(1, k - 1)].sqrt().median(dim=1).values[:, None, None]
    rows = []
    for part, normal in zip(xyz.split(256, dim=1), normals(xyz).split(256, dim=1), strict=True):
        dist = torch.cdist(part, xyz, compute_mode="donot_use_mm_for_euclid_dist")
        along = normal @ xyz.transpose(1, 2) - (normal * part).sum(-1, keepdim=True)
        along = along / dist.clamp_min(1e-9)
        far = dist > same_sheet
        columns = []
        for cosine in CONES:
            sides = [_nearest_in(dist, far & (sign * along > cosine)) for sign in (1.0, -1.0)]
            columns += [torch.minimum(*sides), torch.maximum(*sides)]
        rows.append(torch.stack(columns, dim=-1))
    found = torch.cat(rows, dim=1)
    return torch.cat([found, gather_points(found, idx).median(dim=2).values], dim=-1)


def normals(xyz: Tensor) -> Tensor:
    """(B, N, 3) unit normals of arbitrary sign, from the 16 nearest points."""
    _, idx = knn(xyz, xyz, min(_NORMAL_NEIGHBORS, xyz.shape[1]))
    neighbors = gather_points(xyz, idx)
    centered = neighbors - neighbors.mean(2, keepdim=True)
    return torch.linalg.eigh(centered.transpose(-1, -2) @ centered).eigenvectors[..., 0]


def _nearest_in(dist: Tensor, chosen: Tensor) -> Tensor:
    """(B, n) mean of the smallest chosen entries of (B, n, N) distances."""
    count = min(_OPPOSITE, dist.shape[-1])
    inside = dist.masked_fill(~chosen, _NOTHING_OPPOSITE)
    return inside.topk(count, dim=-1, largest=False).values.mean(-1)


@torch.no_grad()
def average_geodesic_distance(xyz: Tensor) -> Tensor:
    """Distribution of the geodesic distances from each point to the rest of the object.

    To 32 farthest points, see :func:`geodesic_distances`. Over their mean for the whole cloud:
    mean, the same scaled to 0..1, maximum, quantiles (5, 25, 50, 75, 95 %); last that mean itself.
    Extremities score high and the middle low, however the object is bent.

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
    dist = geodesic_distances(xyz, farthest_point_sample(xyz, min(_LANDMARKS, xyz.shape[1])))
    scale = dist.mean((1, 2), keepdim=True)
    dist = dist / scale.clamp_min(1e-9)
    mean = dist.mean(-1, keepdim=True)
    low, high = mean.amin(1, keepdim=True), mean.amax(1, keepdim=True)
    quantiles = torch.quantile(dist, dist.new_tensor(QUANTILES), dim=-1).movedim(0, -1)
    scaled = (mean - low) / (high - low).clamp_min(1e-9)
    return torch.cat(
        [mean, scaled, dist.amax(-1, keepdim=True), quantiles, scale.expand_as(mean)], dim=-1
    )


def geodesic_distances(xyz: Tensor, landmarks: Tensor) -> Tensor:
    """(B, N, L) float32 distances along the surface to landmarks, (B, L) indices into ``xyz``.

    Along the graph of the 8 nearest neighbours, and through the air at three times the distance.
    """
    sq_dist, idx = knn(xyz, xyz, min(_GRAPH_NEIGHBORS + 1, xyz.shape[1]))
    step = sq_dist.sqrt()[..., None]  # (B, N, K, 1)
    away = gather_points(xyz, landmarks)
    dist = _AIR * torch.cdist(xyz, away, compute_mode="donot_use_mm_for_euclid_dist")
    # No path has more steps than points. The check for convergence waits for the device.
    for count in range(xyz.shape[1]):
        shorter = (gather_points(dist, idx) + step).amin(2)  # the point itself is among the nearest
        if count % 16 == 15 and torch.equal(shorter, dist):
            break
        dist = shorter
    return dist


def geodesic_distances_by(xyz: Tensor, sample: Tensor) -> Tensor:
    """(B, N, S) distances along the surface to a sample (B, S, 3), on the graph of its points only.

    The graph of few points has few steps, so distances cost little.
    """
    everyone = torch.arange(sample.shape[1], device=sample.device).expand(len(sample), -1)
    between = geodesic_distances(sample, everyone)
    sq_dist, idx = knn(xyz, sample, min(_ENTRIES, sample.shape[1]))
    return (gather_points(between, idx) + sq_dist.sqrt()[..., None]).amin(2)
