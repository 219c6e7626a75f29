"""The external attention point transformer: configuration, encoder and classifier."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ea_pointcloud._checks import check_choice, check_positive
from ea_pointcloud.models.base import (
    CENTER_POOLING,
    Classifier,
    ClassifierHeadConfig,
    Encoder,
    NetworkConfig,
)
from ea_pointcloud.models.head import classification_head
from ea_pointcloud.models.metadata import DataSpec
from ea_pointcloud.nn import AttentionBlock, LinearNorm, NeighborEmbedding
from ea_pointcloud.nn.blocks import ATTENTION
from ea_pointcloud.nn.dynamic_form import check_form
from ea_pointcloud.ops.attention import check_norm
from ea_pointcloud.ops.sampling import Pyramid, check_levels, masked_pyramid


@dataclass(frozen=True, kw_only=True)
class EAConfig(NetworkConfig):
    """Settings of the encoder; the defaults are the published dimensions.

    Args:
        attention: see :class:`~ea_pointcloud.nn.AttentionBlock`.
        norm: normalisation of the external kinds, ``"double"`` or ``"softmax"``.
        stem_channels: width of the two per-point layers.
        num_centers: points kept by each neighbour embedding.
        num_neighbors: neighbours of each of them.
        embed_channels: width of each; the last is the width of the attention blocks.
        input_layers: linear layers between the embeddings and the attention blocks.
        depth: attention blocks.
        heads: heads of the multi-head kinds.
        memory_size: slots M of the external memories.
        dynamic_form: variant of the dynamic kinds: ``"plain"``, or ``"skip"``, ``"gate"``,
            ``"project"``, ``"norm"`` joined by ``+``, see ``nn.dynamic_form.DynamicForm``.
        memory_std: standard deviation of the initial memories; null: as published, sqrt(2 / M).
        fuse_channels: width after the concatenation of all blocks.
    """

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
    dynamic_form: str = "plain"
    memory_std: float | None = None
    fuse_channels: int = 1024

    def __post_init__(self) -> None:
        """Check the values."""
        super().__post_init__()
        check_choice("attention", self.attention, ATTENTION)
        dynamic = "dynamic" in self.attention
        check_norm(self.norm, dynamic=dynamic)
        check_form(self.dynamic_form, dynamic=dynamic)
        if self.memory_std is not None:
            check_positive("memory_std", self.memory_std)
        stages = (self.num_centers, self.num_neighbors, self.embed_channels)
        if len({len(each) for each in stages}) != 1:
            raise ValueError(
                "num_centers, num_neighbors and embed_channels must have one entry per neighbour "
                f"embedding, got {', '.join(map(str, stages))}"
            )


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig(ClassifierHeadConfig, EAConfig):
    """Settings of :class:`~ea_pointcloud.models.EAClassifier`.

    The defaults are the published point transformer with external attention: PCT's backbone, its
    four attention layers replaced by external attention.

    Args:
        pooling: ``"max"`` or ``"max_mean"`` over the points, or ``"top"``, the mean of the largest
            quarter of each channel, where no single point decides.
    """

    poolings: ClassVar[tuple[str, ...]] = CENTER_POOLING

    def __post_init__(self) -> None:
        """Check the values."""
        super().__post_init__()
        if not self.num_centers:
            raise ValueError(
                "num_centers, num_neighbors and embed_channels must have one entry per neighbour "
                "embedding, got none"
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


class PointEncoder(Encoder):
    """Turn a cloud into S tokens that have attended to each other.

    Two layers per point, neighbour embeddings that thin the cloud out, attention blocks whose
    outputs are all concatenated with their input, one layer that fuses them. The result does not
    depend on the order of the points (exact ties of distance aside).

    Args:
        config: the architecture; the head's entries are not read.

    Shape:
        xyz (B, N, 3), features (B, N, F) or None, mask (B, N) bool or None
        -> tokens (B, S, ``config.fuse_channels``).
    """

    def __init__(self, config: EAConfig) -> None:
        super().__init__(config)
        self.stem_in = LinearNorm(3 + config.feature_channels, config.stem_channels)
        self.stem_out = LinearNorm(config.stem_channels, config.stem_channels)
        self.embeddings = nn.ModuleList()
        width = config.stem_channels
        for channels in config.embed_channels:
            self.embeddings.append(NeighborEmbedding(width, channels))
            width = channels
        self.input = nn.Sequential(*[LinearNorm(width, width) for _ in range(config.input_layers)])
        self.position = nn.Linear(3, width, bias=False)
        self.blocks = attention_blocks(config, width)
        self.fuse = LinearNorm(
            width * (config.depth + 1), config.fuse_channels, activation=nn.LeakyReLU(0.2)
        )

    def build_pyramid(self, xyz: Tensor, mask: Tensor | None = None) -> Pyramid:
        """One level per neighbour embedding of clouds (B, N, 3) with a mask (B, N)."""
        return masked_pyramid(xyz, mask, self.config.num_centers, self.config.num_neighbors)

    def tokens(self, points: Tensor, mask: Tensor | None, pyramid: Pyramid) -> Tensor:
        """Tokens of the centres of the last level."""
        return self.attend(self.levels(points, mask, pyramid)[-1], pyramid)

    def levels(self, points: Tensor, mask: Tensor | None, pyramid: Pyramid) -> list[Tensor]:
        """Features of all points, then of the centres of each level, [(B, N, C_0), (B, S, C_1)].

        Args:
            points: (B, N, 3 + F) in the dtype of the weights.
            mask: (B, N) bool, True = real point.
            pyramid: from :meth:`build_pyramid`.
        """
        count = len(self.embeddings)
        check_levels(pyramid, count, f"{count} levels as the config")
        levels = [self.stem_out(self.stem_in(points, mask), mask)]
        for embedding, level in zip(self.embeddings, pyramid, strict=True):
            levels.append(embedding(levels[-1], level))
        return levels

    def attend(self, top: Tensor, pyramid: Pyramid) -> Tensor:
        """Attend between the centres of the last level, whose features are ``top``."""
        token, position = self.input(top), self.position(pyramid[-1].xyz.to(top.dtype))
        outputs = []
        for block in self.blocks:
            token = block(token, position)
            outputs.append(token)
        return self.fuse(torch.cat([*outputs, top], dim=-1))


def attention_blocks(config: EAConfig, width: int) -> nn.ModuleList:
    """The attention blocks of a configuration, ``width`` channels wide."""
    return nn.ModuleList(
        AttentionBlock(
            width,
            attention=config.attention,
            memory_size=config.memory_size,
            heads=config.heads,
            norm=config.norm,
            dynamic_form=config.dynamic_form,
            memory_std=config.memory_std,
        )
        for _ in range(config.depth)
    )


class EAClassifier(Classifier):
    """The external attention point transformer, see :class:`Classifier`.

    Reference:
        Guo et al. 2021, arXiv 2105.02358 (external attention) and arXiv 2012.09688 (backbone).
    """

    config_class = ClassifierConfig

    def __init__(self, config: ClassifierConfig, data_spec: DataSpec | None = None) -> None:
        encoder = PointEncoder(config)  # first: the order in which a seed draws the weights
        head = classification_head(config, config.fuse_channels)
        super().__init__(config, data_spec, encoder, head)
