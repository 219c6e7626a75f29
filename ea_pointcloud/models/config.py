"""Configurations of the networks: one frozen dataclass each, and every named size in one table."""

from dataclasses import dataclass, fields
from typing import Any

from ea_pointcloud._checks import check_choice, check_count
from ea_pointcloud.nn.blocks import ATTENTION
from ea_pointcloud.ops.attention import NORMS

POOLING = ("max", "max_mean")


@dataclass(frozen=True)
class ClassifierConfig:
    """Everything that fixes the architecture of :class:`~ea_pointcloud.models.EAClassifier`.

    The defaults are the published point transformer with external attention: PCT's backbone, its
    four attention layers replaced by external attention.

    Args:
        num_classes: classes told apart, >= 2.
        feature_channels: per-point features beside xyz (normals = 3), 0 without.
        attention: ``"external"``, ``"multihead_external"``, ``"self"`` or ``"offset"``.
        norm: normalisation of the external kinds, ``"double"`` or ``"softmax"``.
        stem_channels: width of the two per-point layers.
        num_centers: points kept by each neighbour embedding.
        num_neighbors: neighbours each of them looks at.
        embed_channels: width of each; the last is the width of the attention blocks.
        input_layers: linear layers between the embeddings and the attention blocks.
        depth: attention blocks.
        heads: heads of ``"multihead_external"``.
        memory_size: slots M of the external memories.
        fuse_channels: width after the concatenation of all blocks.
        pooling: ``"max"`` or ``"max_mean"`` over the points.
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
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, list):
                object.__setattr__(self, field.name, tuple(value))
        check_count("num_classes", self.num_classes, 2)
        check_count("feature_channels", self.feature_channels, 0)
        check_count("input_layers", self.input_layers, 0)
        for name in ("stem_channels", "depth", "heads", "memory_size", "fuse_channels"):
            check_count(name, getattr(self, name))
        for name in ("num_centers", "num_neighbors", "embed_channels", "head_channels"):
            values = getattr(self, name)
            if not isinstance(values, tuple):
                raise TypeError(f"{name} must be a list of counts, got {values!r}")
            for value in values:
                check_count(name, value)
        check_choice("attention", self.attention, ATTENTION)
        check_choice("norm", self.norm, NORMS)
        check_choice("pooling", self.pooling, POOLING)
        stages = {len(self.num_centers), len(self.num_neighbors), len(self.embed_channels)}
        if len(stages) != 1 or not self.num_centers:
            raise ValueError(
                "num_centers, num_neighbors and embed_channels must have one entry per neighbour "
                f"embedding, got {self.num_centers}, {self.num_neighbors}, {self.embed_channels}"
            )
        if not isinstance(self.dropout, (int, float)) or not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, got {self.dropout!r}")


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


def classifier_config(size: str, num_classes: int, **overrides: Any) -> ClassifierConfig:
    """The configuration of a named size, single values replaced by ``overrides``.

    Raises:
        ValueError: if the size or an override is unknown, or a value is impossible.
    """
    check_choice("size", size, CLASSIFIER_SIZES)
    known = {field.name for field in fields(ClassifierConfig)} - {"num_classes"}
    for name in overrides:
        check_choice("model override", name, sorted(known))
    return ClassifierConfig(num_classes, **{**CLASSIFIER_SIZES[size], **overrides})
