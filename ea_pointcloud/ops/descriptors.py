"""How the surface around each point is shaped: numbers that no rotation changes."""

import torch
from torch import Tensor

from ea_pointcloud._checks import check_lengths, check_xyz
from ea_pointcloud.ops.gather import gather_points
from ea_pointcloud.ops.neighbors import ball_query

RADII = (0.1, 0.2, 0.4)  # of the unit sphere
NEIGHBORS = 64
LOCAL_SHAPE_CHANNELS = 6 * len(RADII) + 1
# Queries handled at a time: 50 MB of neighbours.
_CHUNK = 65_536


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
