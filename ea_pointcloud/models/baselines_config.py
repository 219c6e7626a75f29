"""Configurations of the baselines, PointNet and DGCNN, and their sizes."""

from dataclasses import dataclass
from typing import Any

from ea_pointcloud._checks import check_choice
from ea_pointcloud.models.config import POOLING, check_fields

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
