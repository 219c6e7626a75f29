"""Sets of descriptors that networks are trained with, by name."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from ea_pointcloud.descriptors.global_position import (
    BOX_CHANNELS,
    CONTEXT_CHANNELS,
    EXTREMUM_CHANNELS,
    ORIENTATION_CHANNELS,
    box_features,
    extremum_features,
    geodesic_shape_context,
    orientation_features,
)
from ea_pointcloud.descriptors.surface import (
    DIAMETER_CHANNELS,
    EIGEN_CHANNELS,
    GEODESIC_CHANNELS,
    average_geodesic_distance,
    eigen_features,
    geodesic_distances_by,
    normals,
    shape_diameter,
)
from ea_pointcloud.ops.neighbors import gather_points, interpolate_features
from ea_pointcloud.ops.sampling import farthest_point_sample

SURFACE_CHANNELS = EIGEN_CHANNELS + DIAMETER_CHANNELS + GEODESIC_CHANNELS
GLOBAL_POSITION_CHANNELS = (
    EXTREMUM_CHANNELS + BOX_CHANNELS + CONTEXT_CHANNELS + ORIENTATION_CHANNELS
)
SHAPE_CHANNELS = SURFACE_CHANNELS + GLOBAL_POSITION_CHANNELS
# Everything but the eigen features is computed at this many points and interpolated to the others.
_REFERENCE_POINTS = 2048
_SAMPLE = 512  # evenly spread points that represent the object


@torch.no_grad()
def surface_features(xyz: Tensor, *, lengths: Tensor | None = None) -> Tensor:
    """Describe each point by its neighbourhood, the local diameter and its place on the surface.

    :func:`eigen_features`, then the shape diameter and the average geodesic distance. The latter
    two are computed at up to 2,048 farthest points and interpolated from the three nearest.

    Args:
        xyz: (B, N, 3) points in the unit sphere.
        lengths: (B,) valid points of each padded cloud; all N if omitted.

    Returns:
        (B, N, 36) float32; rows of padded points are meaningless.

    Raises:
        ValueError: if a shape is wrong.
    """
    local = eigen_features(xyz, lengths=lengths)
    rest = _at_reference_points(
        xyz.float(),
        lengths,
        lambda cloud: [shape_diameter(cloud), average_geodesic_distance(cloud)],
    )
    return torch.cat([local, rest], dim=-1)


@torch.no_grad()
def shape_features(xyz: Tensor, *, lengths: Tensor | None = None) -> Tensor:
    """Describe each point by :func:`surface_features` and by its position in the whole object.

    The nearest extremum, the position in the object's own box, the geodesic shape context and the
    orientation of the surface: see :mod:`ea_pointcloud.descriptors.global_position`. Invariant to
    rotations about the up axis (sampling aside), not to tilts.

    Args:
        xyz: (B, N, 3) points in the unit sphere, y up.
        lengths: (B,) valid points of each padded cloud; all N if omitted.

    Returns:
        (B, N, 139) float32; rows of padded points are meaningless.

    Raises:
        ValueError: if a shape is wrong.
    """
    local = eigen_features(xyz, lengths=lengths)
    return torch.cat([local, _at_reference_points(xyz.float(), lengths, _global)], dim=-1)


def _global(xyz: Tensor) -> list[Tensor]:
    """The columns of :func:`shape_features` after the eigen features, of clouds (B, N, 3)."""
    sample = farthest_point_sample(xyz, min(_SAMPLE, xyz.shape[1]))
    points = gather_points(xyz, sample)
    diameter = shape_diameter(xyz)
    dist = geodesic_distances_by(xyz, points)
    dist = dist / dist.mean((1, 2), keepdim=True).clamp_min(1e-9)
    normal = normals(xyz)
    smooth = diameter[..., 4:6]  # the medians of the narrow cone
    curved = eigen_features(xyz)[..., 9:11]  # linearity and planarity at the middle radius
    return [
        diameter,
        average_geodesic_distance(xyz),
        extremum_features(xyz, dist, sample, smooth[..., 0]),
        box_features(xyz, smooth[..., 0]),
        geodesic_shape_context(dist, sample, normal, torch.cat([smooth, curved], dim=-1)),
        orientation_features(xyz, points, normal),
    ]


def _at_reference_points(
    xyz: Tensor, lengths: Tensor | None, describe: Callable[[Tensor], list[Tensor]]
) -> Tensor:
    """(B, N, F): ``describe`` of up to 2,048 farthest points of each cloud, interpolated to all."""
    sizes = [xyz.shape[1]] * len(xyz) if lengths is None else lengths.tolist()
    rows = []
    for index, size in enumerate(sizes):
        cloud = reference = xyz[index : index + 1, :size]
        if size > _REFERENCE_POINTS:
            reference = gather_points(cloud, farthest_point_sample(cloud, _REFERENCE_POINTS))
        found = torch.cat(describe(reference), dim=-1)
        if size > _REFERENCE_POINTS:
            found = interpolate_features(cloud, reference, found)
        rows.append(F.pad(found, (0, 0, 0, xyz.shape[1] - size)))
    return torch.cat(rows)


# Name of data.features -> function of (xyz, lengths=...), channels.
DESCRIPTORS = {
    "eigen_features": (eigen_features, EIGEN_CHANNELS),
    "surface_features": (surface_features, SURFACE_CHANNELS),
    "shape_features": (shape_features, SHAPE_CHANNELS),
}
