"""Configurations of the networks: one frozen dataclass each, and every named size in one table."""

from dataclasses import dataclass, fields
from typing import Any, TypeVar

from ea_pointcloud._checks import check_choice, check_count, check_fraction
from ea_pointcloud.nn.blocks import ATTENTION
from ea_pointcloud.ops.attention import check_norm

POOLING = ("max", "max_mean")
CENTER_POOLING = (*POOLING, "top")  # of networks whose centres are all real points


@dataclass(frozen=True)
class ClassifierConfig:
    """Everything that fixes the architecture of :class:`~ea_pointcloud.models.EAClassifier`.

    The defaults are the published point transformer with external attention: PCT's backbone, its
    four attention layers replaced by external attention.

    Args:
        num_classes: classes told apart, >= 2.
        feature_channels: per-point features beside xyz (normals = 3), 0 without.
        attention: see :class:`~ea_pointcloud.nn.AttentionBlock`.
        norm: normalisation of the external kinds, ``"double"`` or ``"softmax"``.
        stem_channels: width of the two per-point layers.
        num_centers: points kept by each neighbour embedding.
        num_neighbors: neighbours each of them looks at.
        embed_channels: width of each; the last is the width of the attention blocks.
        input_layers: linear layers between the embeddings and the attention blocks.
        depth: attention blocks.
        heads: heads of the multi-head kinds.
        memory_size: slots M of the external memories.
        fuse_channels: width after the concatenation of all blocks.
        pooling: ``"max"`` or ``"max_mean"`` over the points, or ``"top"``, the mean of the largest
            quarter of each channel, where no single point decides.
        head_channels: widths of the layers before the logits.
        dropout: dropout after each of them.
    """

    num_classes: int
    feature_channels: int = 0
    attention: str = "external"
    norm: str = "double"
    stem_channels: int = 64
    num_centers: tuple[int, ...] = (512, 256)
    num_neighbors: tuple[int, ...] = (32, 32)
    embed_channels: tuple[int, ...] = (128, 256)
    input_layers: int = 2
    depth: int = 4
    heads: int = 8
    memory_size: int = 64
    fuse_channels: int = 1024
    pooling: str = "max"
    head_channels: tuple[int, ...] = (512, 256)
    dropout: float = 0.5

    def __post_init__(self) -> None:
        """Check the values; lists (from JSON or YAML) become tuples."""
        _check(self, least={"num_classes": 2, "feature_channels": 0, "input_layers": 0})
        if not self.num_centers:
            raise ValueError(
                "num_centers, num_neighbors and embed_channels must have one entry per neighbour "
                "embedding, got none"
            )


@dataclass(frozen=True)
class SegmenterConfig:
    """Everything that fixes the architecture of :class:`~ea_pointcloud.models.EASegmenter`.

    The defaults are the published network on all points: PCT's segmentation backbone, its four
    attention layers replaced by external attention. With ``num_centers`` it is the grouped form:
    the classifier's encoder, whose tokens are carried back to all points.

    Args:
        num_parts: part labels told apart, over all categories, >= 2.
        num_categories: shape categories; 0 for a network that is not told the category.
        feature_channels: per-point features beside xyz (normals = 3), 0 without.
        attention: see :class:`~ea_pointcloud.nn.AttentionBlock`.
        norm: normalisation of the external kinds, ``"double"`` or ``"softmax"``.
        stem_channels: width of the two per-point layers; on all points also of the attention.
        num_centers: points kept by each neighbour embedding; none of them on all points.
        num_neighbors: neighbours each of them looks at.
        embed_channels: width of each; the last is the width of the attention blocks.
        input_layers: linear layers between the embeddings and the attention blocks.
        depth: attention blocks.
        heads: heads of the multi-head kinds.
        memory_size: slots M of the external memories.
        fuse_channels: width after the concatenation of all blocks.
        category_channels: width of the category's embedding.
        head_channels: widths of the layers before the logits.
        dropout: dropout after the first of them.
    """

    num_parts: int
    num_categories: int = 0
    feature_channels: int = 0
    attention: str = "external"
    norm: str = "double"
    stem_channels: int = 128
    num_centers: tuple[int, ...] = ()
    num_neighbors: tuple[int, ...] = ()
    embed_channels: tuple[int, ...] = ()
    input_layers: int = 0
    depth: int = 4
    heads: int = 8
    memory_size: int = 64
    fuse_channels: int = 1024
    category_channels: int = 64
    head_channels: tuple[int, ...] = (512, 256)
    dropout: float = 0.5

    def __post_init__(self) -> None:
        """Check the values; lists (from JSON or YAML) become tuples."""
        least = {"num_parts": 2, "num_categories": 0, "feature_channels": 0, "input_layers": 0}
        _check(self, least=least)
        if not self.head_channels:
            raise ValueError("head_channels must name at least one width, got none")


def check_fields(config: Any, least: dict[str, int]) -> None:
    """Raise for what no network can be built of, and turn lists (from JSON or YAML) into tuples.

    Counts are >= 1 where ``least`` is silent; a float is a probability below 1.
    """
    for field in fields(config):
        value: Any = getattr(config, field.name)
        if isinstance(value, list):
            value = tuple(value)
            object.__setattr__(config, field.name, value)
        if field.type is int:
            check_count(field.name, value, least.get(field.name, 1))
        elif field.type is float:
            check_fraction(field.name, value)
        elif isinstance(field.default, tuple):
            if not isinstance(value, tuple):
                raise TypeError(f"{field.name} must be a list of counts, got {value!r}")
            for entry in value:
                check_count(field.name, entry)


def _check(config: ClassifierConfig | SegmenterConfig, least: dict[str, int]) -> None:
    check_fields(config, least)
    check_choice("attention", config.attention, ATTENTION)
    check_norm(config.norm, dynamic="dynamic" in config.attention)
    if isinstance(config, ClassifierConfig):
        check_choice("pooling", config.pooling, CENTER_POOLING)
    stages = {len(config.num_centers), len(config.num_neighbors), len(config.embed_channels)}
    if len(stages) != 1:
        raise ValueError(
            "num_centers, num_neighbors and embed_channels must have one entry per neighbour "
            f"embedding, got {config.num_centers}, {config.num_neighbors}, {config.embed_channels}"
        )


CLASSIFIER_SIZES: dict[str, dict[str, Any]] = {
    # CPU minutes, meant for 512 points.
    "tiny": {
        "stem_channels": 32,
        "num_centers": (256, 64),
        "num_neighbors": (16, 16),
        "embed_channels": (64, 128),
        "input_layers": 1,
        "fuse_channels": 512,
        "pooling": "max_mean",
        "head_channels": (256, 128),
    },
    "small": {
        "stem_channels": 48,
        "num_centers": (512, 128),
        "num_neighbors": (16, 24),
        "embed_channels": (96, 192),
        "input_layers": 1,
        "fuse_channels": 768,
        "pooling": "max_mean",
        "head_channels": (384, 192),
    },
    # The published dimensions.
    "base": {},
}


# Networks on all points, and their grouped counterparts.
SEGMENTER_SIZES: dict[str, dict[str, Any]] = {
    # CPU minutes.
    "tiny": {"stem_channels": 64, "depth": 3, "fuse_channels": 256, "head_channels": (128, 64)},
    "small": {"stem_channels": 96, "fuse_channels": 512, "head_channels": (256, 128)},
    # The published dimensions.
    "base": {},
    "grouped_tiny": {
        "stem_channels": 32,
        "num_centers": (256, 64),
        "num_neighbors": (16, 16),
        "embed_channels": (64, 128),
        "input_layers": 1,
        "fuse_channels": 256,
        "head_channels": (128, 64),
    },
    "grouped_small": {
        "stem_channels": 48,
        "num_centers": (512, 128),
        "num_neighbors": (16, 24),
        "embed_channels": (96, 192),
        "input_layers": 1,
        "fuse_channels": 512,
        "head_channels": (256, 128),
    },
    "grouped_base": {
        "stem_channels": 64,
        "num_centers": (512, 256),
        "num_neighbors": (32, 32),
        "embed_channels": (128, 256),
        "input_layers": 2,
    },
}


def classifier_config(size: str, num_classes: int, **overrides: Any) -> ClassifierConfig:
    """The configuration of a named size, single values replaced by ``overrides``.

    Raises:
        ValueError: if the size or an override is unknown, or a value is impossible.
    """
    return named_config(
        ClassifierConfig, CLASSIFIER_SIZES, size, {"num_classes": num_classes}, overrides
    )


def segmenter_config(
    size: str, num_parts: int, num_categories: int = 0, **overrides: Any
) -> SegmenterConfig:
    """The configuration of a named size, single values replaced by ``overrides``.

    Raises:
        ValueError: if the size or an override is unknown, or a value is impossible.
    """
    fixed = {"num_parts": num_parts, "num_categories": num_categories}
    return named_config(SegmenterConfig, SEGMENTER_SIZES, size, fixed, overrides)


_Config = TypeVar("_Config")


def named_config(
    kind: type[_Config],
    sizes: dict[str, dict[str, Any]],
    size: str,
    fixed: dict[str, int],
    overrides: dict[str, Any],
) -> _Config:
    """A configuration of ``kind``: values of a named size, replaced by overrides, and fixed ones.

    Raises:
        ValueError: if the size or an override is unknown, or a value is impossible.
    """
    check_choice("size", size, sizes)
    known = sorted({field.name for field in fields(kind)} - set(fixed))  # pyright: ignore
    for name in overrides:
        check_choice("model override", name, known)
    return kind(**{**fixed, **sizes[size], **overrides})
