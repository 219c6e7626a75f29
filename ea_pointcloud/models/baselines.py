"""Baselines of the field on the same terms as our networks: PointNet and DGCNN."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from ea_pointcloud.models.base import (
    Classifier,
    ClassifierHeadConfig,
    Encoder,
)
from ea_pointcloud.models.head import classification_head
from ea_pointcloud.models.metadata import DataSpec
from ea_pointcloud.nn import EdgeConv, LinearNorm, TransformNet
from ea_pointcloud.ops import PyramidLevel
from ea_pointcloud.ops.sampling import Pyramid, check_levels, knn_graph


@dataclass(frozen=True, kw_only=True)
class PointNetConfig(ClassifierHeadConfig):
    """Settings of :class:`~ea_pointcloud.models.PointNetClassifier`; the defaults are as published.

    Args:
        local_channels: widths of the layers before the transform of features, which the last one
            makes as wide as itself.
        global_channels: widths of the layers after it; the last is pooled.
        transform_channels: widths of the layers of both transforms over each point.
        transform_head_channels: widths of their layers after the maximum.
        orthogonality: weight of the squared distance of A A^T to the identity in the loss, for the
            transform A of features; 0 leaves it out.
    """

    local_channels: tuple[int, ...] = (64, 64)
    global_channels: tuple[int, ...] = (64, 128, 1024)
    transform_channels: tuple[int, ...] = (64, 128, 1024)
    transform_head_channels: tuple[int, ...] = (512, 256)
    orthogonality: float = 0.001
    dropout: float = 0.3

    def __post_init__(self) -> None:
        """Check the values."""
        super().__post_init__()
        self.check_not_empty("local_channels", "global_channels", "transform_channels")


@dataclass(frozen=True, kw_only=True)
class DGCNNConfig(ClassifierHeadConfig):
    """Settings of :class:`~ea_pointcloud.models.DGCNNClassifier`; the defaults are as published.

    Args:
        feature_channels: per-point features beside xyz (normals = 3), 0 for none; the first graph
            is always one of coordinates.
        num_neighbors: neighbours of a point in every graph, itself among them.
        edge_channels: widths of the edge convolutions.
        fuse_channels: width after the concatenation of all of them.
    """

    num_neighbors: int = 20
    edge_channels: tuple[int, ...] = (64, 64, 128, 256)
    fuse_channels: int = 1024
    pooling: str = "max_mean"

    def __post_init__(self) -> None:
        """Check the values."""
        super().__post_init__()
        self.check_not_empty("edge_channels")


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


class PointNetEncoder(Encoder):
    """PointNet below its pooling: every point alone, after two transforms found from the cloud.

    Args:
        config: the architecture; the head's entries are not read.
    """

    keeps_points = True

    def __init__(self, config: PointNetConfig) -> None:
        super().__init__(config)
        options = {
            "point_channels": config.transform_channels,
            "head_channels": config.transform_head_channels,
        }
        self.turn_points = TransformNet(3, **options)
        self.local = _layers((3 + config.feature_channels, *config.local_channels))
        self.turn_features = TransformNet(config.local_channels[-1], **options)
        self.wide = _layers((config.local_channels[-1], *config.global_channels))
        self.deviation: Tensor | None = None  # of the last training batch, until it is read

    def __getstate__(self) -> dict[str, Any]:
        """Copies go without the deviation, which is part of a graph."""
        return {**self.__dict__, "deviation": None}

    def build_pyramid(self, xyz: Tensor, mask: Tensor | None = None) -> Pyramid:
        """All points, each its own and only neighbour: nothing to compute ahead."""
        own = torch.arange(xyz.shape[1], device=xyz.device).expand(xyz.shape[:2])
        return (PyramidLevel(xyz, own, own[..., None]),)

    def tokens(self, points: Tensor, mask: Tensor | None, pyramid: Pyramid) -> Tensor:
        """Features of all points; ``pyramid`` is not used."""
        del pyramid
        rotated = points[..., :3] @ self.turn_points(points[..., :3], mask)
        hidden = torch.cat([rotated, points[..., 3:]], dim=-1)
        for layer in self.local:
            hidden = layer(hidden, mask)
        matrix = self.turn_features(hidden, mask)
        if self.training:
            self.deviation = deviation_from_orthogonal(matrix)
        hidden = hidden @ matrix.to(hidden.dtype)
        for layer in self.wide:
            hidden = layer(hidden, mask)
        return hidden


class PointNetClassifier(Classifier):
    """PointNet, see :class:`~ea_pointcloud.models.Classifier`.

    In training ``config.orthogonality`` times the squared Frobenius norm of I - A A^T, mean over
    the clouds, is part of the loss, for the transform A of features (the published formula; the
    published code takes half the sum over the batch).

    Reference:
        Qi et al., PointNet: Deep learning on point sets for 3D classification and segmentation,
        CVPR 2017.
    """

    config_class = PointNetConfig

    def __init__(self, config: PointNetConfig, data_spec: DataSpec | None = None) -> None:
        head = classification_head(config, config.global_channels[-1], nn.ReLU())
        super().__init__(config, data_spec, PointNetEncoder(config), head)

    def auxiliary_loss(self) -> Tensor | None:
        """The weighted deviation of the transform of features from an orthogonal one."""
        encoder = self.encoder
        assert isinstance(encoder, PointNetEncoder)
        deviation, encoder.deviation = encoder.deviation, None
        return None if deviation is None else self.config.orthogonality * deviation


class DGCNNEncoder(Encoder):
    """DGCNN below its pooling: edge convolutions, each on a graph of its own input.

    Args:
        config: the architecture; the head's entries are not read.
    """

    keeps_points = True

    def __init__(self, config: DGCNNConfig) -> None:
        super().__init__(config)
        widths = (3 + config.feature_channels, *config.edge_channels)
        self.edges = nn.ModuleList(
            EdgeConv(one, two, num_neighbors=config.num_neighbors) for one, two in pairwise(widths)
        )
        self.fuse = LinearNorm(
            sum(config.edge_channels), config.fuse_channels, activation=nn.LeakyReLU(0.2)
        )

    def build_pyramid(self, xyz: Tensor, mask: Tensor | None = None) -> Pyramid:
        """The first graph, of the coordinates: all points and their neighbours."""
        return knn_graph(xyz, mask, self.config.num_neighbors)

    def tokens(self, points: Tensor, mask: Tensor | None, pyramid: Pyramid) -> Tensor:
        """Features of all points."""
        check_levels(pyramid, 1, "1 level, the first graph")
        hidden, neighbor_idx = points, pyramid[0].neighbor
        outputs = []
        for edge in self.edges:
            hidden = edge(hidden, mask, neighbor_idx=neighbor_idx)
            outputs.append(hidden)
            neighbor_idx = None  # from here on the graph is that of the features
        return self.fuse(torch.cat(outputs, dim=-1), mask)


class DGCNNClassifier(Classifier):
    """DGCNN, see :class:`~ea_pointcloud.models.Classifier`.

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
