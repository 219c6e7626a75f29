"""What networks that keep every point to their pooling have in common."""

import torch
from torch import Tensor

from ea_pointcloud._checks import check_no_empty_cloud
from ea_pointcloud.models.base import Classifier, stem_input
from ea_pointcloud.nn import MemoryPooling
from ea_pointcloud.nn.edge_conv import at_most
from ea_pointcloud.ops import PyramidLevel, gather_points, knn


class AllPointsClassifier(Classifier):
    """A classifier that pools over all points of a cloud, and so has to know which are real."""

    memory_pooling: MemoryPooling  # of a network whose pooling has one

    def pool(self, token: Tensor, mask: Tensor | None) -> Tensor:
        """(B, C) of the tokens (B, N, C) of all points."""
        parts = []
        for kind in self.config.pooling.split("_"):
            if kind == "max":
                parts.append(token.amax(1))  # padded points are -inf
            elif kind == "memory":
                parts.append(self.memory_pooling(token, mask))
            elif mask is None:
                parts.append(token.mean(1))
            else:
                total = token.masked_fill(~mask[..., None], 0).sum(1)
                parts.append(total / mask.sum(1, keepdim=True))
        return torch.cat(parts, dim=-1)


def graph_of(xyz: Tensor, mask: Tensor | None, num_neighbors: int) -> tuple[PyramidLevel, ...]:
    """One level: all points of clouds (B, N, 3), and the real points nearest to each."""
    points = real_points(xyz, None, mask, 0)
    nearest = at_most(num_neighbors, xyz.shape[1])
    if mask is None:
        _, neighbor = knn(points, points, nearest)
    else:  # the operator wants padding last
        order = mask.byte().argsort(dim=1, descending=True, stable=True)
        real_first = gather_points(points, order)
        _, neighbor = knn(points, real_first, nearest, lengths=mask.sum(1))
        neighbor = order.gather(1, neighbor.flatten(1)).view_as(neighbor)
    return (PyramidLevel(xyz, places(xyz), neighbor),)


def the_graph(pyramid: tuple[PyramidLevel, ...]) -> Tensor:
    """(B, N, K) int64, the neighbours that :func:`graph_of` found.

    Raises:
        ValueError: if it is the pyramid of another network.
    """
    if len(pyramid) != 1:
        raise ValueError(
            f"pyramid must have 1 level, the first graph, got {len(pyramid)}; build it with "
            "build_pyramid() of this model"
        )
    return pyramid[0].neighbor


def places(xyz: Tensor) -> Tensor:
    """(B, N) int64, the place of each point."""
    return torch.arange(xyz.shape[1], device=xyz.device).expand(xyz.shape[:2])


def real_points(
    xyz: Tensor, features: Tensor | None, mask: Tensor | None, feature_channels: int
) -> Tensor:
    """(B, N, 3 + F) checked points, padded ones zero whatever they were."""
    points = stem_input(xyz, features, mask, feature_channels)
    if mask is None:
        return points
    check_no_empty_cloud(mask)
    return points.masked_fill(~mask[..., None], 0)


def without_padding(token: Tensor, mask: Tensor | None) -> Tensor:
    """Tokens that no padded point wins the maximum of."""
    return token if mask is None else token.masked_fill(~mask[..., None], -torch.inf)
