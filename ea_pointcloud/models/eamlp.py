"""EAMLP for points: patches become tokens, and external attention and MLPs are all there is."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from ea_pointcloud._checks import check_choice
from ea_pointcloud.models.base import Classifier, check_fields, masked_pyramid, stem_input
from ea_pointcloud.models.base_segmenter import Segmenter, TrunkContext, part_of
from ea_pointcloud.models.data_spec import DataSpec
from ea_pointcloud.nn import EAMLPBlock, LinearNorm, PatchEmbedding, PointBatchNorm
from ea_pointcloud.ops import PyramidLevel, interpolate_features
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


class EAMLPEncoder(nn.Module):
    """Turn a cloud into S tokens: patches around farthest points, then blocks of EAMLP.

    The result does not depend on the order of the points (exact ties of distance aside).

    Args:
        config: the architecture.

    Shape:
        xyz (B, N, 3), features (B, N, F) or None, mask (B, N) bool or None
        -> tokens (B, S, ``config.channels``).

    Reference:
        Guo et al. 2021, arXiv 2105.02358, section 3.3 (EAMLP).
    """

    def __init__(self, config: EAMLPConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.channels
        self.patches = PatchEmbedding(config.feature_channels, config.patch_channels, channels)
        self.position = nn.Sequential(
            nn.Linear(3, channels), nn.GELU(), nn.Linear(channels, channels)
        )
        self.blocks = nn.ModuleList(
            EAMLPBlock(
                channels,
                heads=config.heads,
                memory_size=config.memory_size,
                expansion=config.expansion,
                mlp_ratio=config.mlp_ratio,
                drop_path=config.drop_path * place / max(1, config.depth - 1),
                norm=config.norm,
            )
            for place in range(config.depth)
        )
        self.norm = nn.LayerNorm(channels)

    def build_pyramid(self, xyz: Tensor, mask: Tensor | None = None) -> tuple[PyramidLevel, ...]:
        """Compute what :meth:`forward` needs of the coordinates alone: the one level of patches.

        Args:
            xyz: (B, N, 3).
            mask: (B, N) bool, True = real point.
        """
        return masked_pyramid(xyz, mask, (self.config.num_centers,), (self.config.num_neighbors,))

    def forward(
        self,
        xyz: Tensor,
        features: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        pyramid: tuple[PyramidLevel, ...] | None = None,
    ) -> Tensor:
        """Encode; ``pyramid`` is what :meth:`build_pyramid` gave for this ``xyz`` and ``mask``."""
        points = stem_input(xyz, features, mask, self.config.feature_channels)
        if pyramid is None:
            pyramid = self.build_pyramid(xyz, mask)
        return self.tokens(points.to(self.norm.weight.dtype), pyramid)

    def tokens(self, points: Tensor, pyramid: tuple[PyramidLevel, ...]) -> Tensor:
        """Tokens of points (B, N, 3 + F) in the dtype of the weights."""
        if len(pyramid) != 1:
            raise ValueError(
                f"pyramid must have 1 level, the patches, got {len(pyramid)}; build it with "
                "build_pyramid() of this model"
            )
        [level] = pyramid  # centres are always real points: no mask from here on
        tokens = self.patches(points, level) + self.position(level.xyz.to(points.dtype))
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)


class EAMLPClassifier(Classifier):
    """Name the class of each cloud with EAMLP, see :class:`~ea_pointcloud.models.Classifier`.

    Args:
        config: the architecture, see :func:`~ea_pointcloud.models.create_model` for named sizes.
        data_spec: class names and the form of the input; placeholders without it.

    Shape:
        xyz (B, N, 3), features (B, N, F) or None, mask (B, N) bool or None -> logits (B, classes).

    Reference:
        Guo et al. 2021, arXiv 2105.02358, section 3.3 (EAMLP).
    """

    config_class = EAMLPClassifierConfig

    def __init__(self, config: EAMLPClassifierConfig, data_spec: DataSpec | None = None) -> None:
        encoder = EAMLPEncoder(config)
        width = config.channels * (2 if config.pooling == "max_mean" else 1)
        head = nn.Sequential(nn.Dropout(config.dropout), nn.Linear(width, config.num_classes))
        super().__init__(config, data_spec, encoder, head)


class EAMLPSegmenter(Segmenter):
    """Label every point with EAMLP, see :class:`~ea_pointcloud.models.Segmenter`.

    Args:
        config: the architecture, see :func:`~ea_pointcloud.models.create_model` for named sizes.
        data_spec: part names, categories and the form of the input; placeholders without it.

    Shape:
        xyz (B, N, 3), features (B, N, F) or None, category (B,) int64 or None, mask (B, N) bool or
        None -> logits (B, N, P); rows of padded points are meaningless.

    Reference:
        Guo et al. 2021, arXiv 2105.02358, section 3.3 (EAMLP).
    """

    config_class = EAMLPSegmenterConfig

    def __init__(self, config: EAMLPSegmenterConfig, data_spec: DataSpec | None = None) -> None:
        super().__init__(config, data_spec, EAMLPTrunk(config))


class EAMLPTrunk(nn.Module):
    """Carry the tokens back to all points, and join them there with what each point says alone.

    Tokens are interpolated by inverse squared distance to the three nearest. The layer that joins
    commutes with it, so its part for the tokens is applied before, to S tokens and not to N points.

    Args:
        config: the architecture.

    Shape:
        (B, N, 3 + F) -> (B, N, ``fuse_channels``).
    """

    has_neighborhoods = True

    def __init__(self, config: EAMLPSegmenterConfig) -> None:
        super().__init__()
        self.out_channels = config.fuse_channels
        self.encoder = EAMLPEncoder(config)
        self.point_in = LinearNorm(3 + config.feature_channels, config.point_channels)
        self.point_out = LinearNorm(config.point_channels, config.point_channels)
        self.fuse_token = nn.Linear(config.channels, config.fuse_channels, bias=False)
        self.fuse_point = nn.Linear(config.point_channels, config.fuse_channels, bias=False)
        self.fuse_norm = PointBatchNorm(config.fuse_channels)

    def build_pyramid(self, xyz: Tensor, mask: Tensor | None) -> tuple[PyramidLevel, ...]:
        """See :meth:`EAMLPEncoder.build_pyramid`."""
        return self.encoder.build_pyramid(xyz, mask)

    def prepare(
        self,
        points: Tensor,
        xyz: Tensor,
        mask: Tensor | None,
        pyramid: tuple[PyramidLevel, ...] | None,
        chunk: int | None,
    ) -> TrunkContext:
        """Find the tokens; what is kept for all points is their input."""
        del chunk
        if pyramid is None:
            pyramid = self.build_pyramid(xyz, mask)
        tokens = self.fuse_token(self.encoder.tokens(points, pyramid))
        return TrunkContext(xyz, mask, [points, tokens], pyramid)

    def rows(self, context: TrunkContext, part: slice) -> Tensor:
        """(B, n, C) of the points in ``part``."""
        points, tokens = context.outputs
        [level], mask = context.pyramid, part_of(context.mask, part)
        near = min(3, level.xyz.shape[1])
        carried = interpolate_features(context.xyz[:, part], level.xyz, tokens, near)
        alone = self.point_out(self.point_in(points[:, part], mask), mask)
        return F.relu(self.fuse_norm(carried + self.fuse_point(alone), mask))
