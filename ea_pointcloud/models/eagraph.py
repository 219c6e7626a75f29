"""External attention on a graph: edge convolutions between neighbours, memories for the cloud.

DGCNN finds what is far away by comparing all points in the space of features, at a cost that is
quadratic in their number. Here the graph is one of coordinates, built once, and external attention
connects distant points: the whole is linear but for that one search.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ea_pointcloud._checks import check_choice
from ea_pointcloud.models.base import (
    POOLING,
    Classifier,
    ClassifierHeadConfig,
    Encoder,
    NetworkConfig,
)
from ea_pointcloud.models.base_segmenter import (
    Backbone,
    Encoding,
    Segmenter,
    SegmenterHeadConfig,
    rows_of,
)
from ea_pointcloud.models.head import classification_head
from ea_pointcloud.models.metadata import DataSpec
from ea_pointcloud.nn import (
    DropPath,
    LinearNorm,
    MaxEdgeConv,
    MemoryPooling,
    MultiHeadExternalAttention,
)
from ea_pointcloud.ops.attention import check_norm
from ea_pointcloud.ops.sampling import Pyramid, check_levels, knn_graph

GRAPH_ATTENTION = ("multihead_external", "multihead_dynamic_external", "none")


@dataclass(frozen=True, kw_only=True)
class EAGraphConfig(NetworkConfig):
    """Settings of the encoder of EAGraph; the defaults are the size ``base``.

    Args:
        feature_channels: per-point features beside xyz (normals = 3), 0 for none; the graph is
            always one of coordinates.
        num_neighbors: neighbours of a point in the graph, itself among them.
        channels: width of the blocks, a multiple of ``heads``.
        depth: blocks.
        attention: ``"multihead_external"``, ``"multihead_dynamic_external"``, whose slots read the
            cloud, or ``"none"``, the control in which points see their neighbours only.
        heads: H of the attention.
        memory_size: slots M of its memories.
        expansion: of the attention.
        norm: normalisation of the attention, ``"double"`` or ``"softmax"``.
        drop_path: rate of the last block's stochastic depth; grows linearly from 0.
        fuse_channels: width after the concatenation of the outputs of all blocks.
    """

    num_neighbors: int = 20
    channels: int = 128
    depth: int = 4
    attention: str = "multihead_external"
    heads: int = 4
    memory_size: int = 64
    expansion: int = 1
    norm: str = "double"
    drop_path: float = 0.1
    fuse_channels: int = 512

    def __post_init__(self) -> None:
        """Check the values."""
        super().__post_init__()
        check_choice("attention", self.attention, GRAPH_ATTENTION)
        check_norm(self.norm, dynamic="dynamic" in self.attention)


@dataclass(frozen=True, kw_only=True)
class EAGraphClassifierConfig(ClassifierHeadConfig, EAGraphConfig):
    """Settings of :class:`~ea_pointcloud.models.EAGraphClassifier`.

    Args:
        pooling: ``"max"``, ``"max_mean"`` or ``"max_mean_memory"`` over the points, the last with
            :class:`~ea_pointcloud.nn.MemoryPooling`.
        pool_slots: slots of that memory.
        slot_channels: channels that are kept of each.
    """

    poolings: ClassVar[tuple[str, ...]] = (*POOLING, "max_mean_memory")

    pooling: str = "max_mean"
    pool_slots: int = 32
    slot_channels: int = 16
    head_channels: tuple[int, ...] = (256,)


@dataclass(frozen=True, kw_only=True)
class EAGraphSegmenterConfig(SegmenterHeadConfig, EAGraphConfig):
    """Settings of :class:`~ea_pointcloud.models.EAGraphSegmenter`."""


EAGRAPH_CLASSIFIER_SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"channels": 64, "fuse_channels": 256},
    "base": {},
}
EAGRAPH_SEGMENTER_SIZES: dict[str, dict[str, Any]] = {
    "tiny": {**EAGRAPH_CLASSIFIER_SIZES["tiny"], "head_channels": (128, 64)},
    "base": {},
}


class EAGraphEncoder(Encoder):
    """All points through blocks of edge convolution and external attention, then one layer.

    Args:
        config: the architecture.
    """

    keeps_points = True

    def __init__(self, config: EAGraphConfig) -> None:
        super().__init__(config)
        channels = config.channels
        self.stem = MaxEdgeConv(3 + config.feature_channels, channels)
        self.blocks = nn.ModuleList(
            EAGraphBlock(config, config.drop_path * index / max(1, config.depth - 1))
            for index in range(config.depth)
        )
        self.fuse = LinearNorm(
            channels * (config.depth + 1), config.fuse_channels, activation=nn.LeakyReLU(0.2)
        )

    def build_pyramid(self, xyz: Tensor, mask: Tensor | None = None) -> Pyramid:
        """The graph: all points and their neighbours, (B, N, 3) with a mask (B, N)."""
        return knn_graph(xyz, mask, self.config.num_neighbors)

    def tokens(self, points: Tensor, mask: Tensor | None, pyramid: Pyramid) -> Tensor:
        """Fused outputs of all blocks."""
        return self.fuse(torch.cat(self.outputs(points, mask, pyramid), dim=-1), mask)

    def outputs(self, points: Tensor, mask: Tensor | None, pyramid: Pyramid) -> list[Tensor]:
        """Outputs of the stem and of each block for points (B, N, 3 + F): (B, N, C) each."""
        check_levels(pyramid, 1, "1 level, the first graph")
        neighbor_idx = pyramid[0].neighbor
        hidden = self.stem(points, neighbor_idx, mask)
        outputs = [hidden]
        for block in self.blocks:
            hidden = block(hidden, neighbor_idx, mask)
            outputs.append(hidden)
        return outputs


class EAGraphBlock(nn.Module):
    """An edge convolution, then attention to the whole cloud, each added under drop path.

    Args:
        config: the architecture.
        drop_path: rate of both branches.

    Shape:
        features (B, N, C), neighbor_idx (B, N, K) int64, mask (B, N) bool or None -> (B, N, C).
    """

    def __init__(self, config: EAGraphConfig, drop_path: float) -> None:
        super().__init__()
        channels = config.channels
        self.local = MaxEdgeConv(channels, channels)
        self.drop_path = DropPath(drop_path)
        self.attention = None
        if config.attention != "none":
            self.attention_norm = nn.LayerNorm(channels)
            self.attention = MultiHeadExternalAttention(
                channels,
                heads=config.heads,
                memory_size=config.memory_size,
                expansion=config.expansion,
                norm=config.norm,
                dynamic="dynamic" in config.attention,
            )

    def forward(self, features: Tensor, neighbor_idx: Tensor, mask: Tensor | None) -> Tensor:
        """Combine neighbours, then attend."""
        features = features + self.drop_path(self.local(features, neighbor_idx, mask))
        if self.attention is None:
            return features
        attended = self.attention(self.attention_norm(features), mask)
        return features + self.drop_path(attended)


class EAGraphClassifier(Classifier):
    """EAGraph, see :class:`~ea_pointcloud.models.Classifier`.

    Reference:
        Guo et al. 2021, arXiv 2105.02358 (external attention); Wang et al., Dynamic graph CNN for
        learning on point clouds, ACM TOG 2019 (edge convolutions, and pooling over all points).
    """

    config_class = EAGraphClassifierConfig

    def __init__(self, config: EAGraphClassifierConfig, data_spec: DataSpec | None = None) -> None:
        head = classification_head(config, config.fuse_channels)
        super().__init__(config, data_spec, EAGraphEncoder(config), head)
        if "memory" in config.pooling:
            self.memory_pooling = MemoryPooling(
                config.fuse_channels, slots=config.pool_slots, slot_channels=config.slot_channels
            )


class EAGraphSegmenter(Segmenter):
    """EAGraph with every point labelled, see :class:`~ea_pointcloud.models.Segmenter`.

    No point is ever left out, so that nothing has to be interpolated.

    Reference:
        See :class:`EAGraphClassifier`.
    """

    config_class = EAGraphSegmenterConfig

    def __init__(self, config: EAGraphSegmenterConfig, data_spec: DataSpec | None = None) -> None:
        super().__init__(config, data_spec, EAGraphBackbone(config))


class EAGraphBackbone(Backbone):
    """The encoder below the head of a segmenter; features have ``fuse_channels``.

    Args:
        config: the architecture.
    """

    def __init__(self, config: EAGraphSegmenterConfig) -> None:
        super().__init__(config.fuse_channels)
        self.encoder = EAGraphEncoder(config)

    def encode(
        self,
        points: Tensor,
        xyz: Tensor,
        mask: Tensor | None,
        pyramid: Pyramid,
        chunk: int | None = None,
    ) -> Encoding:
        """Run the blocks; what is kept for all points is narrow."""
        del chunk
        return Encoding(xyz, mask, self.encoder.outputs(points, mask, pyramid), pyramid)

    def decode(self, encoding: Encoding, rows: slice) -> Tensor:
        """(B, n, C) of the points in ``rows``."""
        joined = torch.cat([output[:, rows] for output in encoding.outputs], dim=-1)
        return self.encoder.fuse(joined, rows_of(encoding.mask, rows))
