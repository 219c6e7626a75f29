"""Centres and neighbours of a network's levels, for clouds whose padding may be anywhere."""

import torch
from torch import Tensor

from ea_pointcloud._checks import check_mask, check_no_empty_cloud, check_xyz
from ea_pointcloud.nn.edge_conv import at_most
from ea_pointcloud.ops import PyramidLevel, build_pyramid, gather_points, knn

Pyramid = tuple[PyramidLevel, ...]


def masked_pyramid(
    xyz: Tensor, mask: Tensor | None, num_centers: tuple[int, ...], num_neighbors: tuple[int, ...]
) -> Pyramid:
    """:func:`~ea_pointcloud.ops.build_pyramid` of clouds (B, N, 3) with a mask (B, N)."""
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
