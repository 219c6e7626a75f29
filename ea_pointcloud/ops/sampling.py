"""Choosing points: farthest point, random and voxel sampling of clouds, area sampling of meshes."""

import torch
from torch import Tensor

from ea_pointcloud._checks import (
    check_count,
    check_device,
    check_lengths,
    check_positive,
    check_xyz,
    values_readable,
)
from ea_pointcloud.ops import _backend
from ea_pointcloud.ops._coordinates import to_float32, valid_points
from ea_pointcloud.ops._reference import cycle_order


def farthest_point_sample(
    xyz: Tensor, num_samples: int, *, lengths: Tensor | None = None, start: int | Tensor = 0
) -> Tensor:
    """Pick points one after another, each the farthest from all picked so far.

    Exact: no point is skipped, the lowest index wins a tie, and no point is picked twice while an
    unpicked one is left. Where ``num_samples`` exceeds a cloud's length, the order repeats from
    its start. Non-finite points are never picked. The indices carry no gradient. Cost is
    O(B * S * N), sequential in S.

    Args:
        xyz: (B, N, 3) points, any frame and unit.
        num_samples: S >= 1.
        lengths: (B,) valid points of each padded cloud; all N if omitted.
        start: index of the first pick, one for all clouds or (B,) integers; where that is padding
            or a non-finite point, the first valid point is taken.

    Returns:
        idx: (B, S) int64, ``xyz[b, idx[b, j]]`` is the j-th pick of cloud b.

    Raises:
        ValueError: if a shape is wrong, ``num_samples`` < 1, or ``start`` is outside 0..N-1.

    Reference:
        Eldar et al., The farthest point strategy for progressive image sampling, 1997.
    """
    check_xyz("xyz", xyz)
    check_lengths(lengths, xyz)
    check_count("num_samples", num_samples)
    batch, num_points = xyz.shape[:2]
    if isinstance(start, int):
        if not 0 <= start < num_points:
            raise ValueError(f"start must be between 0 and N-1={num_points - 1}, got {start}")
        start = torch.full((batch,), start, dtype=torch.long, device=xyz.device)
    elif start.shape != (batch,):
        raise ValueError(
            f"start must be an int or have shape (B,) = ({batch},), got {tuple(start.shape)}"
        )
    else:
        if start.is_floating_point() or start.dtype == torch.bool:
            raise TypeError(f"start must be integers, got {start.dtype}; convert with .long()")
        check_device("start", start, xyz)
        if values_readable(start) and not bool(((start >= 0) & (start < num_points)).all()):
            raise ValueError(
                f"start must be between 0 and N-1={num_points - 1}, got {start.tolist()}"
            )
        start = start.long()
    (xyz,) = to_float32(xyz, lengths)
    return _backend.operators().farthest_point_sample(xyz, num_samples, lengths, start)


def outermost_point(xyz: Tensor, lengths: Tensor | None = None) -> Tensor:
    """The point of each cloud farthest from the origin: a start that no order of points changes.

    Args:
        xyz: (B, N, 3) points; non-finite ones are ignored.
        lengths: (B,) valid points of each padded cloud; all N if omitted.

    Returns:
        idx: (B,) int64, the lowest index among equals.
    """
    check_xyz("xyz", xyz)
    check_lengths(lengths, xyz)
    xyz = xyz.detach().to(torch.promote_types(xyz.dtype, torch.float32))
    x, y, z = xyz.unbind(-1)
    sq_norm = x * x + y * y + z * z  # a sum over an axis may take another order on each device
    invalid = ~valid_points(sq_norm[..., None], lengths)
    return sq_norm.masked_fill(invalid, -1.0).argmax(1)


def random_point_sample(
    xyz: Tensor,
    num_samples: int,
    *,
    lengths: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Pick points uniformly without replacement; past a cloud's length the picks repeat.

    Args:
        xyz: (B, N, 3) points; only their number and device matter.
        num_samples: S >= 1.
        lengths: (B,) valid points of each padded cloud; all N if omitted.
        generator: source of randomness, on the device of ``xyz``.

    Returns:
        idx: (B, S) int64.

    Raises:
        ValueError: if a shape is wrong or ``num_samples`` < 1.
    """
    check_xyz("xyz", xyz)
    check_lengths(lengths, xyz)
    check_count("num_samples", num_samples)
    batch, num_points = xyz.shape[:2]
    order = torch.rand(batch, num_points, generator=generator, device=xyz.device)
    if lengths is not None:
        padding = torch.arange(num_points, device=xyz.device) >= lengths[:, None]
        order = order.masked_fill(padding, 2.0)
    count = torch.full((batch,), num_points, device=xyz.device) if lengths is None else lengths
    return cycle_order(order.argsort(dim=1), num_samples, count)


def voxel_sample(xyz: Tensor, size: float) -> Tensor:
    """Keep one finite point of each occupied cube of a grid: the first in index order.

    Args:
        xyz: (N, 3) points of one cloud (the number kept depends on the data).
        size: edge of a cube, > 0, in the unit of the coordinates.

    Returns:
        idx: (S,) int64, ascending.

    Raises:
        ValueError: if the shape is wrong or ``size`` is not positive.
    """
    check_positive("size", size)
    if xyz.ndim != 2 or xyz.shape[-1] != 3:
        raise ValueError(f"xyz must have shape (N, 3), got {tuple(xyz.shape)}; call once per cloud")
    finite = xyz.isfinite().all(1).nonzero()[:, 0]
    if len(finite) == 0:
        raise ValueError("xyz has no finite point; drop empty clouds first")
    xyz = xyz[finite]
    cell = torch.floor((xyz - xyz.amin(0)) / size)  # as float: int64 would overflow far out
    _, group = torch.unique(cell, dim=0, return_inverse=True)
    first = torch.full((int(group.max()) + 1,), len(xyz), dtype=torch.long, device=xyz.device)
    order = torch.arange(len(xyz), device=xyz.device)
    return finite[first.scatter_reduce(0, group, order, "amin").sort().values]


def sample_surface(
    vertices: Tensor, faces: Tensor, num_points: int, *, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Draw points uniformly by area from a triangle mesh.

    Args:
        vertices: (V, 3) float.
        faces: (F, 3) int64 vertex indices; triangles without area are never chosen.
        num_points: >= 1.
        generator: source of randomness, on any device.

    Returns:
        points: (num_points, 3) in the dtype of ``vertices``.
        face: (num_points,) int64, the triangle each point lies on.

    Raises:
        ValueError: if a shape is wrong or the mesh has no face with a positive area.

    Reference:
        Osada et al., Shape distributions, ACM TOG 2002, section 4.2.
    """
    check_count("num_points", num_points)
    if vertices.ndim != 2 or vertices.shape[1] != 3:
        raise ValueError(f"vertices must have shape (V, 3), got {tuple(vertices.shape)}")
    if faces.ndim != 2 or faces.shape[1] != 3:
        raise ValueError(f"faces must have shape (F, 3), got {tuple(faces.shape)}")
    a, b, c = vertices[faces].unbind(1)  # (F, 3) each
    area = torch.linalg.norm(torch.linalg.cross((b - a).double(), (c - a).double()), dim=1)
    total = area.cumsum(0)
    if len(faces) == 0 or not float(total[-1]) > 0:
        raise ValueError(
            "the mesh has no face with a positive area; nothing can be sampled from it"
        )
    source = "cpu" if generator is None else generator.device
    draw = torch.rand(3, num_points, generator=generator, device=source, dtype=torch.float64)
    draw = draw.to(vertices.device)
    # Searching the strictly increasing part only: right=True skips zero-area faces.
    face = torch.searchsorted(total, draw[0] * total[-1], right=True).clamp_(max=len(faces) - 1)
    root = draw[1].sqrt()
    u, v, w = 1 - root, root * (1 - draw[2]), root * draw[2]
    points = u[:, None] * a[face] + v[:, None] * b[face] + w[:, None] * c[face]
    return points.to(vertices.dtype), face
