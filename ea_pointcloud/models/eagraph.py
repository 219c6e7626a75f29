"""External attention on a graph: every point knows its neighbours, and the cloud by two memories.

DGCNN finds what is far away by comparing all points in the space of features, at a cost that is
quadratic in their number. Here the graph is one of coordinates, found once, and external attention
is the way from one end of the cloud to the other: the whole is linear but for that one search.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ea_pointcloud._checks import check_choice
from ea_pointcloud.models.base import POOLING, check_fields, classification_head
from ea_pointcloud.models.base_segmenter import Segmenter, TrunkContext, part_of
from ea_pointcloud.models.data_spec import DataSpec
from ea_pointcloud.models.knn_graph import (
    AllPointsClassifier,
    graph_of,
    real_points,
    the_graph,
    without_padding,
)
from ea_pointcloud.nn import (
    DropPath,
    LinearNorm,
    MaxEdgeConv,
    MemoryPooling,
    MultiHeadExternalAttention,
)
from ea_pointcloud.ops import PyramidLevel
from ea_pointcloud.ops.attention import check_norm

GRAPH_ATTENTION = ("multihead_external", "multihead_dynamic_external", "none")


@dataclass(frozen=True, kw_only=True)
class EAGraphConfig:
    """What fixes the encoder of EAGraph; the defaults are the size ``base``.

    Args:
        feature_channels: per-point features beside xyz (normals = 3), 0 without; the graph is one
            of coordinates all the same.
        num_neighbors: neighbours of a point in the graph, itself among them.
        channels: width of the blocks, a multiple of ``heads``.
        depth: blocks.
        attention: ``"multihead_external"``, ``"multihead_dynamic_external"``, whose slots read the
            cloud, or ``"none"``, the control in which points know their
            neighbours alone.
        heads: H of the attention.
        memory_size: slots M of its memories.
        expansion: of the attention.
        norm: normalisation of the attention, ``"double"`` or ``"softmax"``.
        drop_path: rate of the last block's stochastic depth; grows linearly from 0.
        fuse_channels: width after the concatenation of what all blocks say.
    """

    feature_channels: int = 0
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
        """Check the values; lists (from JSON or YAML) become tuples."""
        least = {"num_classes": 2, "num_parts": 2, "num_categories": 0, "feature_channels": 0}
        check_fields(self, least)
        check_choice("attention", self.attention, GRAPH_ATTENTION)
        check_norm(self.norm, dynamic="dynamic" in self.attention)


@dataclass(frozen=True, kw_only=True)
class EAGraphClassifierConfig(EAGraphConfig):
    """Everything that fixes :class:`~ea_pointcloud.models.EAGraphClassifier`.

    Args:
        num_classes: classes told apart, >= 2.
        pooling: ``"max"``, ``"max_mean"`` or ``"max_mean_memory"`` over the points, the last with
            :class:`~ea_pointcloud.nn.MemoryPooling`.
        pool_slots: slots of that memory.
        slot_channels: channels that are kept of each.
        head_channels: widths of the layers before the logits.
        dropout: dropout after each of them.
    """

    num_classes: int
    pooling: str = "max_mean"
    pool_slots: int = 32
    slot_channels: int = 16
    head_channels: tuple[int, ...] = (256,)
    dropout: float = 0.5

    def __post_init__(self) -> None:
        """Check the values."""
        super().__post_init__()
        check_choice("pooling", self.pooling, (*POOLING, "max_mean_memory"))


@dataclass(frozen=True, kw_only=True)
class EAGraphSegmenterConfig(EAGraphConfig):
    """Everything that fixes :class:`~ea_pointcloud.models.EAGraphSegmenter`.

    Args:
        num_parts: part labels told apart, over all categories, >= 2.
        num_categories: shape categories; 0 for a network that is not told the category.
        category_channels: width of the category's embedding.
        head_channels: widths of the layers before the logits.
        dropout: dropout after the first of them.
    """

    num_parts: int
    num_categories: int = 0
    category_channels: int = 64
    head_channels: tuple[int, ...] = (256, 128)
    dropout: float = 0.4

    def __post_init__(self) -> None:
        """Check the values."""
        super().__post_init__()
        if not self.head_channels:
            raise ValueError("head_channels must name at least one width, got none")


EAGRAPH_CLASSIFIER_SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"channels": 64, "fuse_channels": 256},
    "base": {},
}
EAGRAPH_SEGMENTER_SIZES: dict[str, dict[str, Any]] = {
    "tiny": {**EAGRAPH_CLASSIFIER_SIZES["tiny"], "head_channels": (128, 64)},
    "base": {},
}


class EAGraphEncoder(nn.Module):
    """All points through blocks of neighbourhood and external attention; one layer fuses them.

    Args:
        config: the architecture.

    Shape:
        xyz (B, N, 3), features (B, N, F) or None, mask (B, N) bool or None
        -> (B, N, ``config.fuse_channels``); -inf at padded points.
    """

    def __init__(self, config: EAGraphConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.channels
        self.stem = MaxEdgeConv(3 + config.feature_channels, channels)
        self.blocks = nn.ModuleList(
            EAGraphBlock(config, config.drop_path * place / max(1, config.depth - 1))
            for place in range(config.depth)
        )
        self.fuse = LinearNorm(
            channels * (config.depth + 1), config.fuse_channels, activation=nn.LeakyReLU(0.2)
        )

    def build_pyramid(self, xyz: Tensor, mask: Tensor | None = None) -> tuple[PyramidLevel, ...]:
        """The graph, which follows from the coordinates: all points and their neighbours.

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
        points = real_points(xyz, features, mask, self.config.feature_channels)
        outputs = self.outputs(
            points.to(self.fuse.linear.weight.dtype),
            self.build_pyramid(xyz, mask) if pyramid is None else pyramid,
            mask,
        )
        return without_padding(self.fuse(torch.cat(outputs, dim=-1), mask), mask)

    def outputs(
        self, points: Tensor, pyramid: tuple[PyramidLevel, ...], mask: Tensor | None
    ) -> list[Tensor]:
        """What the stem and each block say of points (B, N, 3 + F): (B, N, C) each, not fused."""
        neighbor = the_graph(pyramid)
        hidden = self.stem(points, neighbor, mask)
        outputs = [hidden]
        for block in self.blocks:
            hidden = block(hidden, neighbor, mask)
            outputs.append(hidden)
        return outputs


class EAGraphBlock(nn.Module):
    """What the neighbours say, then what the whole cloud says, each added under drop path.

    Args:
        config: the architecture.
        drop_path: rate of both branches.

    Shape:
        features (B, N, C), neighbor (B, N, K) int64, mask (B, N) bool or None -> (B, N, C).
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

    def forward(self, features: Tensor, neighbor: Tensor, mask: Tensor | None) -> Tensor:
        """Look around, then attend."""
        features = features + self.drop_path(self.local(features, neighbor, mask))
        if self.attention is None:
            return features
        attended = self.attention(self.attention_norm(features), mask)
        return features + self.drop_path(attended)


class EAGraphClassifier(AllPointsClassifier):
    """Name the class of each cloud, see :class:`~ea_pointcloud.models.Classifier`.

    Args:
        config: the architecture, see :func:`~ea_pointcloud.models.create_model` for named sizes.
        data_spec: class names and the form of the input; placeholders without it.

    Shape:
        xyz (B, N, 3), features (B, N, F) or None, mask (B, N) bool or None -> logits (B, classes).

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
    """Label every point on the graph, see :class:`~ea_pointcloud.models.Segmenter`.

    No point is ever left out, so that nothing has to be interpolated.

    Args:
        config: the architecture, see :func:`~ea_pointcloud.models.create_model` for named sizes.
        data_spec: part names, categories and the form of the input; placeholders without it.

    Shape:
        xyz (B, N, 3), features (B, N, F) or None, category (B,) int64 or None, mask (B, N) bool or
        None -> logits (B, N, P); rows of padded points are meaningless.

    Reference:
        See :class:`EAGraphClassifier`.
    """

    config_class = EAGraphSegmenterConfig

    def __init__(self, config: EAGraphSegmenterConfig, data_spec: DataSpec | None = None) -> None:
        super().__init__(config, data_spec, EAGraphTrunk(config))


class EAGraphTrunk(nn.Module):
    """The encoder below the head of a segmenter.

    Args:
        config: the architecture.

    Shape:
        (B, N, 3 + F) -> (B, N, ``fuse_channels``).
    """

    has_neighborhoods = True

    def __init__(self, config: EAGraphSegmenterConfig) -> None:
        super().__init__()
        self.out_channels = config.fuse_channels
        self.encoder = EAGraphEncoder(config)

    def build_pyramid(self, xyz: Tensor, mask: Tensor | None) -> tuple[PyramidLevel, ...]:
        """See :meth:`EAGraphEncoder.build_pyramid`."""
        return self.encoder.build_pyramid(xyz, mask)

    def prepare(
        self,
        points: Tensor,
        xyz: Tensor,
        mask: Tensor | None,
        pyramid: tuple[PyramidLevel, ...] | None,
        chunk: int | None,
    ) -> TrunkContext:
        """Run the blocks; what is kept for all points is narrow."""
        del chunk
        if pyramid is None:
            pyramid = self.build_pyramid(xyz, mask)
        return TrunkContext(xyz, mask, self.encoder.outputs(points, pyramid, mask), pyramid)

    def rows(self, context: TrunkContext, part: slice) -> Tensor:
        """(B, n, C) of the points in ``part``."""
        joined = torch.cat([output[:, part] for output in context.outputs], dim=-1)
        return self.encoder.fuse(joined, part_of(context.mask, part))
