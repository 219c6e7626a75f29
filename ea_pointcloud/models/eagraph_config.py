"""Configurations of EAGraph: what its classifier and its segmenter share, and their sizes."""

from dataclasses import dataclass
from typing import Any

from ea_pointcloud._checks import check_choice
from ea_pointcloud.models.config import POOLING, check_fields
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
