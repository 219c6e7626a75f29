"""Partial views of an object: by a camera (occlusion) or a LiDAR.

Hidden points of a cloud are found by hidden-point removal, those of a mesh by ray casting. The
published sets were made from the meshes.
"""

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ea_pointcloud._checks import check_choice, check_count, check_range
from ea_pointcloud.robustness._clouds import Clouds, Draws, normalize_box

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Distance from the origin in the cube from -1 to 1, and lowest and highest elevation in degrees.
_CAMERA = (3.0, 30.0, 60.0)
_LIDAR = (5.0, 22.5, 22.5)
_LIDAR_RATIO = 0.75  # points left by lidar over points left by occlusion
_BEAM = math.radians(1)  # between two beams of the LiDAR
_WIDTH, _HEIGHT, _FOCAL = 1080, 720, 365.0  # of the camera, in pixels
# Of the sphere that hidden-point removal mirrors points at, over the distance of the farthest one:
# between 20 and 30, by which it agrees best with rays (20 views of meshes of ModelNet10 by 1,024
# and 2,048 points: F1 of the visible points 0.841, 0.847 and 0.839, 0.856; by 100 0.785, 0.833).
_FLIP = 25.0


def occlusion(clouds: Clouds, severity: int, draws: Draws) -> Clouds:
    """ModelNet40-C ``occlusion`` of points: those visible to a camera, at most half."""
    clouds = normalize_box(clouds)
    camera = _viewpoints(len(clouds.xyz), severity, draws, _CAMERA)
    seen = clouds.kept(visible_points(clouds.xyz, camera, clouds.mask))
    half = (clouds.lengths // 2).clamp_min(1)
    return seen.kept(draws.rank(seen.mask) < half[:, None])


def lidar(clouds: Clouds, severity: int, draws: Draws) -> Clouds:
    """ModelNet40-C ``lidar`` of points: those hit by beams a degree apart, at most 3/8."""
    clouds = normalize_box(clouds)
    sensor = _viewpoints(len(clouds.xyz), severity, draws, _LIDAR)
    swept = _swept(clouds.kept(visible_points(clouds.xyz, sensor, clouds.mask)), sensor)
    most = (clouds.lengths // 2 * _LIDAR_RATIO).long().clamp_min(1)
    return swept.kept(draws.rank(swept.mask) < most[:, None])


def visible_points(xyz: Tensor, camera: Tensor, mask: Tensor | None = None) -> Tensor:
    """Find the points of each cloud that are visible from its camera, by hidden-point removal.

    Runs on the CPU, cloud by cloud: about 10 ms for 1,024 points. Points without a hull, such as
    three or those of a line, are all visible.

    Args:
        xyz: (B, N, 3), any unit.
        camera: (B, 3), outside the clouds.
        mask: (B, N) bool, True = real point.

    Returns:
        (B, N) bool, at least one True a cloud.

    Reference:
        Katz et al., Direct visibility of point sets, SIGGRAPH 2007.
    """
    import open3d

    seen = np.zeros(xyz.shape[:2], dtype=bool)
    real = np.ones_like(seen) if mask is None else mask.cpu().numpy()
    for row, points, eye, own in zip(
        seen, xyz.double().cpu().numpy(), camera.double().cpu().numpy(), real, strict=True
    ):
        idx = np.flatnonzero(own)
        farthest = float(np.linalg.norm(points[idx] - eye, axis=1).max())
        cloud = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(points[idx]))
        try:
            _, found = cloud.hidden_point_removal(eye, _FLIP * farthest)
        except RuntimeError:  # fewer than four points, or all in a line: they have no hull
            found = range(len(idx))
        row[idx[np.asarray(found, dtype=int)]] = True
    return torch.from_numpy(seen).to(xyz.device)


def scan_mesh(
    vertices: Tensor,
    faces: Tensor,
    name: str,
    severity: int,
    *,
    num_points: int = 1024,
    generator: torch.Generator | None = None,
) -> Tensor:
    """ModelNet40-C ``occlusion`` or ``lidar`` of a mesh: the points hit by rays of the sensor.

    Args:
        vertices: (V, 3), y up, any unit.
        faces: (F, 3) int64.
        name: ``"occlusion"`` or ``"lidar"``.
        severity: 1 to 5, the viewpoint of the sensor.
        num_points: of ``"occlusion"``; ``"lidar"`` has 3/4 of that. Points are repeated where
            fewer rays hit the mesh.
        generator: of the viewpoint and the draw; by default torch's own.

    Returns:
        (num_points, 3) in the dtype of ``vertices``, in the cube from -1 to 1.

    Raises:
        ValueError: if an argument is impossible or no ray hits the mesh.
    """
    check_choice("name", name, ("occlusion", "lidar"))
    check_range("severity", severity, 1, 5)
    check_count("num_points", num_points)
    whole = torch.ones(1, len(vertices), dtype=torch.bool, device=vertices.device)
    box = normalize_box(Clouds(vertices[None], whole)).xyz[0]
    draws = Draws(box, generator)
    camera = _viewpoints(1, severity, draws, _CAMERA if name == "occlusion" else _LIDAR)
    hits = torch.from_numpy(_hits(box, faces, camera[0])).to(box)[None]  # (1, n, 3)
    if not hits.shape[1]:
        raise ValueError("no ray hits the mesh; is it thinner than a pixel, or without faces?")
    found = Clouds(hits, torch.ones(hits.shape[:2], dtype=torch.bool, device=hits.device))
    if name == "lidar":
        found, num_points = _swept(found, camera).compact(), int(num_points * _LIDAR_RATIO)
    rank = draws.rank(found.mask)[0].argsort()
    order = rank[torch.arange(num_points, device=rank.device) % len(rank)]
    chosen = Clouds(found.xyz[:, order], found.mask[:, order])
    return (normalize_box(chosen) if name == "occlusion" else chosen).xyz[0]


def _hits(vertices: Tensor, faces: Tensor, camera: Tensor) -> "NDArray[np.float32]":
    """(n, 3) first hits of the mesh by the rays of a pinhole camera that looks at the origin."""
    import open3d

    array = open3d.core.Tensor.from_numpy
    scene = open3d.t.geometry.RaycastingScene()
    scene.add_triangles(
        array(np.ascontiguousarray(vertices.cpu().numpy(), dtype=np.float32)),
        array(np.ascontiguousarray(faces.cpu().numpy(), dtype=np.uint32)),
    )
    rays = scene.create_rays_pinhole(
        fov_deg=math.degrees(2 * math.atan(_WIDTH / 2 / _FOCAL)),
        center=array(np.zeros(3, dtype=np.float32)),
        eye=array(camera.cpu().numpy().astype(np.float32)),
        up=array(np.array([0, 1, 0], dtype=np.float32)),
        width_px=_WIDTH,
        height_px=_HEIGHT,
    )
    distance = scene.cast_rays(rays)["t_hit"].numpy()
    start, direction = np.split(rays.numpy(), 2, axis=-1)
    hit = np.isfinite(distance)
    return start[hit] + distance[hit][:, None] * direction[hit]


def _viewpoints(
    batch: int, severity: int, draws: Draws, sensor: tuple[float, float, float]
) -> Tensor:
    """(B, 3) positions around the y axis: a fifth of the circle for each severity."""
    distance, lowest, highest = sensor
    middle = 2 * math.pi * severity / 5
    azimuth = draws.uniform(batch, low=middle - math.pi / 5, high=middle + math.pi / 5)
    elevation = draws.uniform(batch, low=math.radians(lowest), high=math.radians(highest))
    flat = elevation.cos()
    direction = torch.stack([flat * azimuth.sin(), elevation.sin(), flat * azimuth.cos()], dim=-1)
    return distance * direction


def _swept(clouds: Clouds, sensor: Tensor) -> Clouds:
    """Points moved onto the nearest beam; those in the half of the space between two are lost."""
    offset = clouds.xyz - sensor[:, None]
    distance = offset.norm(dim=-1)
    angle = torch.acos((offset[..., 1] / distance).clamp(-1, 1))  # from the y axis
    first = angle.masked_fill(~clouds.mask, torch.inf).amin(1, keepdim=True)
    number = (angle - first) / _BEAM
    beam = number.floor()
    hit = ((number - beam) >= 0.25) & ((number - beam) < 0.75)
    # The highest point alone is always on the edge between two beams.
    hit |= ~hit.any(1, keepdim=True)
    snapped = first + (beam + 0.5) * _BEAM
    azimuth = torch.atan2(offset[..., 0], offset[..., 2])
    flat = distance * snapped.sin()
    on_beam = torch.stack(
        [flat * azimuth.sin(), distance * snapped.cos(), flat * azimuth.cos()], dim=-1
    )
    return clouds.moved(on_beam + sensor[:, None]).kept(hit)
