"""The external attention point transformer: a classifier, and a segmenter of all points."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ea_pointcloud._checks import check_choice
from ea_pointcloud.models.base import (
    CENTER_POOLING,
    Classifier,
    check_fields,
    classification_head,
    masked_pyramid,
    named_config,
    stem_input,
)
from ea_pointcloud.models.base_segmenter import Segmenter, TrunkContext, part_of, slices
from ea_pointcloud.models.data_spec import DataSpec
from ea_pointcloud.nn import AttentionBlock, LinearNorm, NeighborEmbedding
from ea_pointcloud.nn.blocks import ATTENTION
from ea_pointcloud.ops import PyramidLevel, interpolate_features
from ea_pointcloud.ops.attention import check_norm


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


class PointEncoder(nn.Module):
    """Turn a cloud into S tokens that know each other.

    Two layers per point, neighbour embeddings that thin the cloud out, attention blocks whose
    outputs are all concatenated with their input, one layer that fuses them. The result does not
    depend on the order of the points (exact ties of distance aside).

    Args:
        config: the architecture; the head's entries are not read.

    Shape:
        xyz (B, N, 3), features (B, N, F) or None, mask (B, N) bool or None
        -> tokens (B, S, ``config.fuse_channels``).
    """

    def __init__(self, config: ClassifierConfig | SegmenterConfig) -> None:
        super().__init__()
        self.feature_channels = config.feature_channels
        self.num_centers = config.num_centers
        self.num_neighbors = config.num_neighbors
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

    def build_pyramid(self, xyz: Tensor, mask: Tensor | None = None) -> tuple[PyramidLevel, ...]:
        """Compute what :meth:`forward` needs of the coordinates alone: one level per embedding.

        Args:
            xyz: (B, N, 3).
            mask: (B, N) bool, True = real point.
        """
        return masked_pyramid(xyz, mask, self.num_centers, self.num_neighbors)

    def forward(
        self,
        xyz: Tensor,
        features: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        pyramid: tuple[PyramidLevel, ...] | None = None,
    ) -> Tensor:
        """Encode; ``pyramid`` is what :meth:`build_pyramid` gave for this ``xyz`` and ``mask``."""
        points = stem_input(xyz, features, mask, self.feature_channels)
        if pyramid is None:
            pyramid = self.build_pyramid(xyz, mask)
        # numpy's float64 is as good as float32 here
        levels = self.levels(points.to(self.position.weight.dtype), mask, pyramid)
        return self.tokens(levels[-1], pyramid)

    def levels(
        self, points: Tensor, mask: Tensor | None, pyramid: tuple[PyramidLevel, ...]
    ) -> list[Tensor]:
        """Features of all points, then of the centres of each level, [(B, N, C_0), (B, S, C_1)].

        Args:
            points: (B, N, 3 + F) from :func:`stem_input`, in the dtype of the weights.
            mask: (B, N) bool, True = real point.
            pyramid: from :meth:`build_pyramid`.
        """
        if len(pyramid) != len(self.embeddings):
            raise ValueError(
                f"pyramid must have {len(self.embeddings)} levels as the config, "
                f"got {len(pyramid)}; build it with build_pyramid() of this model"
            )
        levels = [self.stem_out(self.stem_in(points, mask), mask)]
        for embedding, level in zip(self.embeddings, pyramid, strict=True):
            levels.append(embedding(levels[-1], level))
        return levels

    def tokens(self, top: Tensor, pyramid: tuple[PyramidLevel, ...]) -> Tensor:
        """Attend between the centres of the last level, whose features are ``top``."""
        token, position = self.input(top), self.position(pyramid[-1].xyz.to(top.dtype))
        outputs = []
        for block in self.blocks:
            token = block(token, position)
            outputs.append(token)
        return self.fuse(torch.cat([*outputs, top], dim=-1))


def attention_blocks(config: ClassifierConfig | SegmenterConfig, width: int) -> nn.ModuleList:
    """The attention blocks that a configuration asks for, ``width`` channels wide."""
    return nn.ModuleList(
        AttentionBlock(
            width,
            attention=config.attention,
            memory_size=config.memory_size,
            heads=config.heads,
            norm=config.norm,
        )
        for _ in range(config.depth)
    )


class EAClassifier(Classifier):
    """The external attention point transformer, see :class:`Classifier`.

    Args:
        config: the architecture, see :func:`~ea_pointcloud.models.create_model` for named sizes.
        data_spec: class names and the form of the input; placeholders without it.

    Shape:
        xyz (B, N, 3), features (B, N, F) or None, mask (B, N) bool or None -> logits (B, classes).

    Reference:
        Guo et al. 2021, arXiv 2105.02358 (external attention) and arXiv 2012.09688 (backbone).
    """

    config_class = ClassifierConfig

    def __init__(self, config: ClassifierConfig, data_spec: DataSpec | None = None) -> None:
        encoder = PointEncoder(config)  # first: the order in which a seed draws the weights
        head = classification_head(config, config.fuse_channels)
        super().__init__(config, data_spec, encoder, head)


class EASegmenter(Segmenter):
    """The external attention point transformer, see :class:`Segmenter`.

    The published form attends on all points: nothing is grouped, so attention is the only thing
    that could grow faster than N, and it does not. The grouped form (``config.num_centers``) is
    the classifier's encoder, whose tokens are carried back to all points by interpolation.

    Args:
        config: the architecture, see :func:`~ea_pointcloud.models.create_model` for named sizes.
        data_spec: part names, categories and the form of the input; placeholders without it.

    Shape:
        xyz (B, N, 3), features (B, N, F) or None, category (B,) int64 or None, mask (B, N) bool or
        None -> logits (B, N, P); rows of padded points are meaningless.

    Reference:
        Guo et al. 2021, arXiv 2105.02358 (external attention) and arXiv 2012.09688 (backbone).
    """

    config_class = SegmenterConfig

    def __init__(self, config: SegmenterConfig, data_spec: DataSpec | None = None) -> None:
        trunk = GroupedTrunk(config) if config.num_centers else PointwiseTrunk(config)
        super().__init__(config, data_spec, trunk)

    @property
    def streams(self) -> bool:
        """Self- and offset-attention compare all points with each other."""
        return self.config.attention not in ("self", "offset")


class PointwiseTrunk(nn.Module):
    """Attention on all points: two layers per point, attention blocks, all outputs fused.

    Args:
        config: the architecture.

    Shape:
        (B, N, 3 + F) -> (B, N, ``fuse_channels``).
    """

    has_neighborhoods = False

    def __init__(self, config: SegmenterConfig) -> None:
        super().__init__()
        width = config.stem_channels
        self.out_channels = config.fuse_channels
        self.stem_in = LinearNorm(3 + config.feature_channels, width)
        self.stem_out = LinearNorm(width, width)
        self.position = nn.Linear(3, width, bias=False)
        self.blocks = attention_blocks(config, width)
        self.fuse = LinearNorm(
            width * config.depth, config.fuse_channels, activation=nn.LeakyReLU(0.2)
        )

    def build_pyramid(self, xyz: Tensor, mask: Tensor | None) -> tuple[PyramidLevel, ...]:
        """Nothing is grouped."""
        return ()

    def prepare(
        self,
        points: Tensor,
        xyz: Tensor,
        mask: Tensor | None,
        pyramid: tuple[PyramidLevel, ...] | None,
        chunk: int | None,
    ) -> TrunkContext:
        """Run the attention blocks, each on the whole cloud or in parts."""
        if pyramid:
            raise ValueError("pyramid was given, but this network groups nothing; leave it out")
        xyz = xyz.to(points.dtype)
        if chunk is None:
            hidden, position = self.stem_out(self.stem_in(points, mask), mask), self.position(xyz)
            outputs = []
            for block in self.blocks:
                hidden = block(hidden, position, mask)
                outputs.append(hidden)
            return TrunkContext(xyz, mask, outputs)
        parts = list(slices(xyz.shape[1], chunk))
        hidden = torch.cat(
            [
                self.stem_out(
                    self.stem_in(points[:, part], part_of(mask, part)), part_of(mask, part)
                )
                for part in parts
            ],
            dim=1,
        )
        outputs = []
        for block in self.blocks:
            hidden = self._in_parts(block, hidden, xyz, mask, parts)
            outputs.append(hidden)
        return TrunkContext(xyz, mask, outputs)

    def rows(self, context: TrunkContext, part: slice) -> Tensor:
        """(B, n, C) of the points in ``part``."""
        joined = torch.cat([output[:, part] for output in context.outputs], dim=-1)
        return self.fuse(joined, part_of(context.mask, part))

    def _in_parts(
        self,
        block: nn.Module,
        hidden: Tensor,
        xyz: Tensor,
        mask: Tensor | None,
        parts: list[slice],
    ) -> Tensor:
        """One block over the cloud in two passes: the sums over the points, then the points."""
        assert isinstance(block, AttentionBlock)
        total = None
        for part in parts:
            position = self.position(xyz[:, part])
            one = block.slot_state(hidden[:, part], position, part_of(mask, part))
            total = one if total is None or one is None else total.merge(one)
        out = torch.empty_like(hidden)
        for part in parts:
            position = self.position(xyz[:, part])
            out[:, part] = block(hidden[:, part], position, part_of(mask, part), state=total)
        return out


class GroupedTrunk(nn.Module):
    """The classifier's encoder, then feature propagation from its tokens back to all points.

    Each step interpolates the features of a level to the finer one by inverse squared distance to
    the three nearest, joins them with what the finer level had, and mixes both in one layer.

    Args:
        config: the architecture.

    Shape:
        (B, N, 3 + F) -> (B, N, ``embed_channels[-1]``).

    Reference:
        Qi et al., PointNet++, NeurIPS 2017, section 3.4.
    """

    has_neighborhoods = True

    def __init__(self, config: SegmenterConfig) -> None:
        super().__init__()
        self.out_channels = config.embed_channels[-1]
        self.encoder = PointEncoder(config)
        self.propagate = nn.ModuleList()  # coarse to fine
        coarse = config.fuse_channels
        for fine in (config.stem_channels, *config.embed_channels[:-1])[::-1]:
            self.propagate.append(LinearNorm(coarse + fine, self.out_channels))
            coarse = self.out_channels

    def build_pyramid(self, xyz: Tensor, mask: Tensor | None) -> tuple[PyramidLevel, ...]:
        """See :meth:`PointEncoder.build_pyramid`."""
        return self.encoder.build_pyramid(xyz, mask)

    def prepare(
        self,
        points: Tensor,
        xyz: Tensor,
        mask: Tensor | None,
        pyramid: tuple[PyramidLevel, ...] | None,
        chunk: int | None,
    ) -> TrunkContext:
        """Encode, and carry the tokens back to the finest level of centres."""
        del chunk  # what is kept for all points is narrow already
        if pyramid is None:
            pyramid = self.build_pyramid(xyz, mask)
        levels = self.encoder.levels(points, mask, pyramid)
        hidden = self.encoder.tokens(levels[-1], pyramid)
        for step, layer in enumerate(self.propagate):
            if step == len(self.propagate) - 1:
                break
            fine, coarse = pyramid[-2 - step], pyramid[-1 - step]
            hidden = interpolate_features(fine.xyz, coarse.xyz, hidden, min(3, coarse.xyz.shape[1]))
            hidden = layer(torch.cat([hidden, levels[-2 - step]], dim=-1))
        return TrunkContext(xyz, mask, [levels[0], hidden], pyramid)

    def rows(self, context: TrunkContext, part: slice) -> Tensor:
        """(B, n, C) of the points in ``part``."""
        points, hidden = context.outputs
        coarse = context.pyramid[0].xyz
        hidden = interpolate_features(context.xyz[:, part], coarse, hidden, min(3, coarse.shape[1]))
        joined = torch.cat([hidden, points[:, part]], dim=-1)
        return self.propagate[-1](joined, part_of(context.mask, part))
