"""Configurations of EAMLP: what its classifier and its segmenter share, and their sizes."""

from dataclasses import dataclass
from typing import Any

from ea_pointcloud._checks import check_choice
from ea_pointcloud.models.config import check_fields
from ea_pointcloud.ops.attention import NORMS

POOLING = ("mean", "max", "max_mean", "top")


@dataclass(frozen=True, kw_only=True)
class EAMLPConfig:
    """What fixes the encoder of EAMLP; the defaults are the size ``base``.

    Args:
        feature_channels: per-point features beside xyz (normals = 3), 0 without.
        num_centers: tokens, each a patch around a farthest point.
        num_neighbors: points of a patch.
        patch_channels: widths of the layers that read a patch's points.
        channels: width of the tokens, a multiple of ``heads``.
        depth: blocks.
        heads: H; ``expansion * heads`` of width ``channels / heads`` attend.
        memory_size: slots M of the external memories.
        expansion: of the attention; 4 as published.
        mlp_ratio: width of the hidden layers of the MLPs over ``channels``; 2 as published.
        norm: normalisation of the attention, ``"double"`` as published, or ``"softmax"``, with
            which the tokens do not meet before they are pooled.
        drop_path: rate of the last block's stochastic depth; grows linearly from 0.
    """

    feature_channels: int = 0
    num_centers: int = 128
    num_neighbors: int = 32
    patch_channels: tuple[int, ...] = (64, 128)
    channels: int = 192
    depth: int = 6
    heads: int = 6
    memory_size: int = 64
    expansion: int = 4
    mlp_ratio: int = 2
    norm: str = "double"
    drop_path: float = 0.1

    def __post_init__(self) -> None:
        """Check the values; lists (from JSON or YAML) become tuples."""
        least = {"num_classes": 2, "num_parts": 2, "num_categories": 0, "feature_channels": 0}
        check_fields(self, least)
        check_choice("norm", self.norm, NORMS)
        if not self.patch_channels:
            raise ValueError("patch_channels must name at least one width, got none")


@dataclass(frozen=True, kw_only=True)
class EAMLPClassifierConfig(EAMLPConfig):
    """Everything that fixes :class:`~ea_pointcloud.models.EAMLPClassifier`.

    The published network reads a class token. With external attention that token learns of the
    others through nothing but the sums of the normalisation, so tokens are pooled instead.

    Args:
        num_classes: classes told apart, >= 2.
        pooling: ``"mean"``, ``"max"`` or ``"max_mean"`` over the tokens, or ``"top"``, the
            mean of the largest quarter of each channel.
        dropout: dropout before the head.
    """

    num_classes: int
    pooling: str = "max_mean"
    dropout: float = 0.2

    def __post_init__(self) -> None:
        """Check the values."""
        super().__post_init__()
        check_choice("pooling", self.pooling, POOLING)


@dataclass(frozen=True, kw_only=True)
class EAMLPSegmenterConfig(EAMLPConfig):
    """Everything that fixes :class:`~ea_pointcloud.models.EAMLPSegmenter`.

    Args:
        num_parts: part labels told apart, over all categories, >= 2.
        num_categories: shape categories; 0 for a network that is not told the category.
        point_channels: width of the two layers that read each point alone.
        fuse_channels: width after tokens and points are joined at every point.
        category_channels: width of the category's embedding.
        head_channels: widths of the layers before the logits.
        dropout: dropout after the first of them.
    """

    num_parts: int
    num_categories: int = 0
    point_channels: int = 64
    fuse_channels: int = 256
    category_channels: int = 64
    head_channels: tuple[int, ...] = (256, 128)
    dropout: float = 0.4

    def __post_init__(self) -> None:
        """Check the values."""
        super().__post_init__()
        if not self.head_channels:
            raise ValueError("head_channels must name at least one width, got none")


# Of the classifier, and over them what the segmenter adds.
EAMLP_CLASSIFIER_SIZES: dict[str, dict[str, Any]] = {
    "small": {"num_centers": 64, "channels": 128, "depth": 4, "heads": 4},
    "base": {},
    "large": {"patch_channels": (64, 128, 256), "channels": 320, "depth": 8, "heads": 8},
}
EAMLP_SEGMENTER_SIZES: dict[str, dict[str, Any]] = {
    "small": {
        **EAMLP_CLASSIFIER_SIZES["small"],
        "num_centers": 128,
        "fuse_channels": 128,
        "head_channels": (128, 64),
    },
    "base": {"num_centers": 256},
    "large": {
        **EAMLP_CLASSIFIER_SIZES["large"],
        "num_centers": 256,
        "fuse_channels": 512,
        "head_channels": (512, 256),
    },
}
