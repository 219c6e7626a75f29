"""Baselines of the field on the same terms as our networks: PointNet and DGCNN."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from ea_pointcloud._checks import check_choice
from ea_pointcloud.models.base import POOLING, check_fields, classification_head
from ea_pointcloud.models.data_spec import DataSpec
from ea_pointcloud.models.knn_graph import (
    AllPointsClassifier,
    graph_of,
    places,
    real_points,
    the_graph,
    without_padding,
)
from ea_pointcloud.nn import EdgeConv, LinearNorm, TransformNet
from ea_pointcloud.ops import PyramidLevel

_LEAST = {"num_classes": 2, "feature_channels": 0}


@dataclass(frozen=True, kw_only=True)
class PointNetConfig:
    """Everything that fixes :class:`~ea_pointcloud.models.PointNetClassifier`.

    The defaults are the published network.

    Args:
        num_classes: classes told apart, >= 2.
        feature_channels: per-point features beside xyz (normals = 3), 0 without.
        local_channels: widths of the layers before the transform of features, which the last one
            makes as wide as itself.
        global_channels: widths of the layers after it; the last is pooled.
        transform_channels: widths of the layers of both transforms that read each point.
        transform_head_channels: widths of their layers after the maximum.
        orthogonality: weight of the squared distance of A A^T to the identity in the loss, for the
            transform A of features; 0 leaves it out.
        pooling: ``"max"`` or ``"max_mean"`` over the points.
        head_channels: widths of the layers before the logits.
        dropout: dropout after each of them.
    """

    num_classes: int
    feature_channels: int = 0
    local_channels: tuple[int, ...] = (64, 64)
    global_channels: tuple[int, ...] = (64, 128, 1024)
    transform_channels: tuple[int, ...] = (64, 128, 1024)
    transform_head_channels: tuple[int, ...] = (512, 256)
    orthogonality: float = 0.001
    pooling: str = "max"
    head_channels: tuple[int, ...] = (512, 256)
    dropout: float = 0.3

    def __post_init__(self) -> None:
        """Check the values; lists (from JSON or YAML) become tuples."""
        check_fields(self, _LEAST)
        check_choice("pooling", self.pooling, POOLING)
        _check_widths(self, "local_channels", "global_channels", "transform_channels")


@dataclass(frozen=True, kw_only=True)
class DGCNNConfig:
    """Everything that fixes :class:`~ea_pointcloud.models.DGCNNClassifier`.

    The defaults are the published network.

    Args:
        num_classes: classes told apart, >= 2.
        feature_channels: per-point features beside xyz (normals = 3), 0 without; the first graph is
            one of coordinates all the same.
        num_neighbors: neighbours of a point in every graph, itself among them.
        edge_channels: widths of the edge convolutions.
        fuse_channels: width after the concatenation of all of them.
        pooling: ``"max"`` or ``"max_mean"`` over the points.
        head_channels: widths of the layers before the logits.
        dropout: dropout after each of them.
    """

    num_classes: int
    feature_channels: int = 0
    num_neighbors: int = 20
    edge_channels: tuple[int, ...] = (64, 64, 128, 256)
    fuse_channels: int = 1024
    pooling: str = "max_mean"
    head_channels: tuple[int, ...] = (512, 256)
    dropout: float = 0.5

    def __post_init__(self) -> None:
        """Check the values; lists (from JSON or YAML) become tuples."""
        check_fields(self, _LEAST)
        check_choice("pooling", self.pooling, POOLING)
        _check_widths(self, "edge_channels")


def _check_widths(config: PointNetConfig | DGCNNConfig, *names: str) -> None:
    for name in names:
        if not getattr(config, name):
            raise ValueError(f"{name} must name at least one width, got none")


# ``tiny`` has about the multiply-accumulates of the point transformer's, at 512 points.
POINTNET_SIZES: dict[str, dict[str, Any]] = {
    "tiny": {
        "local_channels": (32, 32),
        "global_channels": (32, 64, 640),
        "transform_channels": (32, 64, 640),
        "transform_head_channels": (256, 128),
        "head_channels": (256, 128),
    },
    "base": {},
}
DGCNN_SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"edge_channels": (32, 32, 64, 64), "fuse_channels": 320},
    "base": {},
}


class PointNetEncoder(nn.Module):
    """PointNet below its pooling: every point alone, after two transforms that the cloud decides.

    Args:
        config: the architecture; the head's entries are not read.

    Shape:
        xyz (B, N, 3), features (B, N, F) or None, mask (B, N) bool or None
        -> (B, N, C), C the last of ``config.global_channels``; -inf at padded points.
    """

    def __init__(self, config: PointNetConfig) -> None:
        super().__init__()
        self.config = config
        options = {
            "point_channels": config.transform_channels,
            "head_channels": config.transform_head_channels,
        }
        self.turn_points = TransformNet(3, **options)
        self.local = _layers((3 + config.feature_channels, *config.local_channels))
        self.turn_features = TransformNet(config.local_channels[-1], **options)
        self.wide = _layers((config.local_channels[-1], *config.global_channels))
        self.deviation: Tensor | None = None  # of the last training batch, until it is asked for

    def build_pyramid(self, xyz: Tensor, mask: Tensor | None = None) -> tuple[PyramidLevel, ...]:
        """All points, each its own and only neighbour: nothing to compute ahead.

        Args:
            xyz: (B, N, 3).
            mask: (B, N) bool, True = real point.
        """
        own = places(xyz)
        return (PyramidLevel(xyz, own, own[..., None]),)

    def forward(
        self,
        xyz: Tensor,
        features: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        pyramid: tuple[PyramidLevel, ...] | None = None,
    ) -> Tensor:
        """Encode; of ``pyramid`` nothing is needed."""
        del pyramid
        points = real_points(xyz, features, mask, self.config.feature_channels)
        points = points.to(self.turn_points.out.weight.dtype)
        turned = points[..., :3] @ self.turn_points(points[..., :3], mask)
        hidden = torch.cat([turned, points[..., 3:]], dim=-1)
        for layer in self.local:
            hidden = layer(hidden, mask)
        matrix = self.turn_features(hidden, mask)
        if self.training:
            self.deviation = deviation_from_orthogonal(matrix)
        hidden = hidden @ matrix.to(hidden.dtype)
        for layer in self.wide:
            hidden = layer(hidden, mask)
        return without_padding(hidden, mask)


class PointNetClassifier(AllPointsClassifier):
    """PointNet, see :class:`~ea_pointcloud.models.Classifier`.

    In training ``config.orthogonality`` times the squared Frobenius norm of I - A A^T, mean over
    the clouds, is part of the loss, for the transform A of features (the published formula; the
    published code takes half the sum over the batch).

    Args:
        config: the architecture, see :func:`~ea_pointcloud.models.create_model` for named sizes.
        data_spec: class names and the form of the input; placeholders without it.

    Shape:
        xyz (B, N, 3), features (B, N, F) or None, mask (B, N) bool or None -> logits (B, classes).

    Reference:
        Qi et al., PointNet: Deep learning on point sets for 3D classification and segmentation,
        CVPR 2017.
    """

    config_class = PointNetConfig

    def __init__(self, config: PointNetConfig, data_spec: DataSpec | None = None) -> None:
        head = classification_head(config, config.global_channels[-1], nn.ReLU())
        super().__init__(config, data_spec, PointNetEncoder(config), head)

    def auxiliary_loss(self) -> Tensor | None:
        """How far the transform of features is from orthogonal, weighted."""
        encoder = self.encoder
        assert isinstance(encoder, PointNetEncoder)
        deviation, encoder.deviation = encoder.deviation, None
        return None if deviation is None else self.config.orthogonality * deviation


class DGCNNEncoder(nn.Module):
    """DGCNN below its pooling: edge convolutions, each on a graph of its own input.

    Args:
        config: the architecture; the head's entries are not read.

    Shape:
        xyz (B, N, 3), features (B, N, F) or None, mask (B, N) bool or None
        -> (B, N, ``config.fuse_channels``); -inf at padded points.
    """

    def __init__(self, config: DGCNNConfig) -> None:
        super().__init__()
        self.config = config
        widths = (3 + config.feature_channels, *config.edge_channels)
        self.edges = nn.ModuleList(
            EdgeConv(one, two, num_neighbors=config.num_neighbors) for one, two in pairwise(widths)
        )
        self.fuse = LinearNorm(
            sum(config.edge_channels), config.fuse_channels, activation=nn.LeakyReLU(0.2)
        )

    def build_pyramid(self, xyz: Tensor, mask: Tensor | None = None) -> tuple[PyramidLevel, ...]:
        """The first graph, which follows from the coordinates: all points and their neighbours.

        Args:
            xyz: (B, N, 3).
            mask: (B, N) bool, True = real point.
        """
        return graph_of(xyz, mask, self.config.num_neighbors)

    def forward(
        self,
        xyz: Tensor,
        features: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        pyramid: tuple[PyramidLevel, ...] | None = None,
    ) -> Tensor:
        """Encode; ``pyramid`` is what :meth:`build_pyramid` gave for this ``xyz`` and ``mask``."""
        hidden = real_points(xyz, features, mask, self.config.feature_channels)
        neighbor = the_graph(self.build_pyramid(xyz, mask) if pyramid is None else pyramid)
        hidden = hidden.to(self.fuse.linear.weight.dtype)
        outputs = []
        for edge in self.edges:
            hidden = edge(hidden, mask, neighbor=neighbor)
            outputs.append(hidden)
            neighbor = None  # from here on it follows from the features
        return without_padding(self.fuse(torch.cat(outputs, dim=-1), mask), mask)


class DGCNNClassifier(AllPointsClassifier):
    """DGCNN, see :class:`~ea_pointcloud.models.Classifier`.

    Args:
        config: the architecture, see :func:`~ea_pointcloud.models.create_model` for named sizes.
        data_spec: class names and the form of the input; placeholders without it.

    Shape:
        xyz (B, N, 3), features (B, N, F) or None, mask (B, N) bool or None -> logits (B, classes).

    Reference:
        Wang et al., Dynamic graph CNN for learning on point clouds, ACM TOG 2019.
    """

    config_class = DGCNNConfig

    def __init__(self, config: DGCNNConfig, data_spec: DataSpec | None = None) -> None:
        head = classification_head(config, config.fuse_channels)
        super().__init__(config, data_spec, DGCNNEncoder(config), head)


def deviation_from_orthogonal(matrix: Tensor) -> Tensor:
    """Squared Frobenius norm of I - A A^T for matrices A (B, C, C), mean over the batch."""
    with torch.autocast(matrix.device.type, enabled=False):
        own = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
        return (own - matrix @ matrix.transpose(1, 2)).square().sum((1, 2)).mean()


def _layers(widths: tuple[int, ...]) -> nn.ModuleList:
    return nn.ModuleList(LinearNorm(one, two) for one, two in pairwise(widths))
