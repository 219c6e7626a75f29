"""Choosing points: samples of clouds and meshes, and the centres and neighbours of a network."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ea_pointcloud._checks import (
    check_count,
    check_device,
    check_lengths,
    check_mask,
    check_no_empty_cloud,
    check_positive,
    check_xyz,
    values_readable,
)
from ea_pointcloud.ops import _backend
from ea_pointcloud.ops._coordinates import to_float32, valid_points
from ea_pointcloud.ops._reference import cycle_order
from ea_pointcloud.ops.neighbors import at_most, gather_points, knn

SAMPLINGS = ("first", "random", "fps")  # how points are chosen from a stored cloud


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
    order = torch.arange(len(xyz), device=xyz.device)
    first = order.new_full((int(group.max()) + 1,), len(xyz))
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
        message = "the mesh has no face with a positive area; nothing can be sampled from it"
        raise ValueError(message)
    source = "cpu" if generator is None else generator.device
    draw = torch.rand(3, num_points, generator=generator, device=source, dtype=torch.float64)
    draw = draw.to(vertices.device)
    # Searching the strictly increasing part only: right=True skips zero-area faces.
    face = torch.searchsorted(total, draw[0] * total[-1], right=True).clamp_(max=len(faces) - 1)
    root = draw[1].sqrt()
    u, v, w = 1 - root, root * (1 - draw[2]), root * draw[2]
    points = u[:, None] * a[face] + v[:, None] * b[face] + w[:, None] * c[face]
    return points.to(vertices.dtype), face


class PyramidLevel(NamedTuple):
    """One level: S centres among the N points of the level below, with K neighbours each.

    Attributes:
        xyz: (B, S, 3) centres.
        center: (B, S) int64, their indices among the points below.
        neighbor: (B, S, K) int64, the points below nearest to each centre, nearest first.
    """

    xyz: Tensor
    center: Tensor
    neighbor: Tensor

    def to(self, *target: object, **options: object) -> "PyramidLevel":
        """Move all three, with the arguments of :meth:`torch.Tensor.to` for a device."""
        return PyramidLevel(*(tensor.to(*target, **options) for tensor in self))  # pyright: ignore


Pyramid = tuple[PyramidLevel, ...]


def build_pyramid(
    xyz: Tensor,
    num_samples: Sequence[int],
    k: int | Sequence[int],
    *,
    lengths: Tensor | None = None,
) -> Pyramid:
    """Sample a cloud level by level, and find the neighbours of each centre.

    The levels depend on the coordinates alone, so they can be computed ahead of the network: on a
    side stream, for the next batch while this one trains, outside autocast, or once for clouds
    that are evaluated many times. Farthest point sampling starts at the outermost point, so no
    level depends on the order of the points (exact ties of distance aside).

    Args:
        xyz: (B, N, 3) points, any frame and unit.
        num_samples: S of each level.
        k: K of each level, or one for all; a level below with fewer points gives all it has.
        lengths: (B,) valid points of each padded cloud of ``xyz``; all N if omitted.

    Returns:
        One level for each entry of ``num_samples``; ``xyz`` of a level is ``below[b, center]``.

    Raises:
        ValueError: if a shape is wrong, a count below 1, or ``k`` and ``num_samples`` differ in
            length.
    """
    counts = [k] * len(num_samples) if isinstance(k, int) else list(k)
    if len(counts) != len(num_samples):
        raise ValueError(
            f"k must be an int or have one entry for each of the {len(num_samples)} levels in "
            f"num_samples, got {len(counts)}"
        )
    levels = []
    for centers, neighbors in zip(num_samples, counts, strict=True):
        start = outermost_point(xyz, lengths)
        center = farthest_point_sample(xyz, centers, lengths=lengths, start=start)
        center_xyz = gather_points(xyz, center)
        _, neighbor = knn(center_xyz, xyz, at_most(neighbors, xyz.shape[1]), lengths=lengths)
        levels.append(PyramidLevel(center_xyz, center, neighbor))
        xyz, lengths = center_xyz, None  # centres are always real points
    return tuple(levels)


def masked_pyramid(
    xyz: Tensor, mask: Tensor | None, num_samples: Sequence[int], k: Sequence[int]
) -> Pyramid:
    """:func:`build_pyramid` of clouds (B, N, 3) whose padding may be anywhere."""
    if mask is None:
        return build_pyramid(xyz, num_samples, k)
    order = _real_points_first(xyz, mask)
    first, *others = build_pyramid(gather_points(xyz, order), num_samples, k, lengths=mask.sum(1))
    neighbor = order.gather(1, first.neighbor.flatten(1)).view_as(first.neighbor)
    return (PyramidLevel(first.xyz, order.gather(1, first.center), neighbor), *others)


def knn_graph(xyz: Tensor, mask: Tensor | None, k: int) -> Pyramid:
    """One level: all points of clouds (B, N, 3), and the real points nearest to each."""
    check_xyz("xyz", xyz)
    k = at_most(k, xyz.shape[1])
    if mask is None:
        _, neighbor = knn(xyz, xyz, k)
    else:
        order = _real_points_first(xyz, mask)
        points = xyz.masked_fill(~mask[..., None], 0)
        _, neighbor = knn(points, gather_points(points, order), k, lengths=mask.sum(1))
        neighbor = order.gather(1, neighbor.flatten(1)).view_as(neighbor)
    own = torch.arange(xyz.shape[1], device=xyz.device).expand(xyz.shape[:2])
    return (PyramidLevel(xyz, own, neighbor),)


def _real_points_first(xyz: Tensor, mask: Tensor) -> Tensor:
    """(B, N) int64 order that brings padding to the end, as the operators need it."""
    check_xyz("xyz", xyz)
    check_mask(mask, xyz)
    check_no_empty_cloud(mask)
    return mask.byte().argsort(dim=1, descending=True, stable=True)


def check_levels(pyramid: Pyramid, count: int, levels: str) -> None:
    """Raise unless a pyramid has the ``count`` levels of this network, ``levels`` in words."""
    if len(pyramid) != count:
        remedy = "build it with build_pyramid() of this model"
        raise ValueError(f"pyramid must have {levels}, got {len(pyramid)}; {remedy}")
