"""All index levels of a network at once: centres of centres, and the neighbours of each."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ea_pointcloud._checks import check_mask, check_no_empty_cloud, check_xyz
from ea_pointcloud.ops.neighbors import at_most, gather_points, knn
from ea_pointcloud.ops.sampling import farthest_point_sample, outermost_point


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
    xyz: Tensor, mask: Tensor | None, num_centers: tuple[int, ...], num_neighbors: tuple[int, ...]
) -> Pyramid:
    """:func:`build_pyramid` of clouds (B, N, 3) with a mask (B, N)."""
    _check(xyz, mask)
    if mask is None:
        return build_pyramid(xyz, num_centers, num_neighbors)
    order = _padding_last(mask)
    first, *others = build_pyramid(
        gather_points(xyz, order), num_centers, num_neighbors, lengths=mask.sum(1)
    )
    neighbor = order.gather(1, first.neighbor.flatten(1)).view_as(first.neighbor)
    return (PyramidLevel(first.xyz, order.gather(1, first.center), neighbor), *others)


def knn_graph(xyz: Tensor, mask: Tensor | None, num_neighbors: int) -> Pyramid:
    """One level: all points of clouds (B, N, 3), and the real points nearest to each."""
    _check(xyz, mask)
    k = at_most(num_neighbors, xyz.shape[1])
    if mask is None:
        _, neighbor = knn(xyz, xyz, k)
    else:
        points = xyz.masked_fill(~mask[..., None], 0)
        order = _padding_last(mask)
        _, neighbor = knn(points, gather_points(points, order), k, lengths=mask.sum(1))
        neighbor = order.gather(1, neighbor.flatten(1)).view_as(neighbor)
    return (PyramidLevel(xyz, point_idx(xyz), neighbor),)


def point_idx(xyz: Tensor) -> Tensor:
    """(B, N) int64, the index of each point."""
    return torch.arange(xyz.shape[1], device=xyz.device).expand(xyz.shape[:2])


def check_levels(pyramid: Pyramid, count: int, levels: str) -> None:
    """Raise unless a pyramid has the ``count`` levels of this network.

    Args:
        pyramid: from ``build_pyramid()``.
        count: levels of the network.
        levels: the same in words.

    Raises:
        ValueError: if it has another number of levels.
    """
    if len(pyramid) != count:
        raise ValueError(
            f"pyramid must have {levels}, got {len(pyramid)}; build it with build_pyramid() of "
            "this model"
        )


def _check(xyz: Tensor, mask: Tensor | None) -> None:
    check_xyz("xyz", xyz)
    check_mask(mask, xyz)
    check_no_empty_cloud(mask)


def _padding_last(mask: Tensor) -> Tensor:
    """(B, N) int64 order that brings real points to the front, as the operators need it."""
    return mask.byte().argsort(dim=1, descending=True, stable=True)
