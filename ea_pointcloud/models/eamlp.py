"""EAMLP for points: patches as tokens, blocks of external attention and an MLP, nothing else."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from ea_pointcloud._checks import check_choice
from ea_pointcloud.models.base import CENTER_POOLING, Classifier, Encoder, NetworkConfig
from ea_pointcloud.models.base_segmenter import (
    Backbone,
    Encoding,
    Segmenter,
    SegmenterHeadConfig,
    rows_of,
)
from ea_pointcloud.models.head import logits_head
from ea_pointcloud.models.metadata import DataSpec
from ea_pointcloud.nn import EAMLPBlock, LinearNorm, PatchEmbedding, PointBatchNorm
from ea_pointcloud.ops import interpolate_features
from ea_pointcloud.ops.attention import NORMS
from ea_pointcloud.ops.sampling import Pyramid, check_levels, masked_pyramid


@dataclass(frozen=True, kw_only=True)
class EAMLPConfig(NetworkConfig):
    """Settings of the encoder of EAMLP; the defaults are the size ``base``.

    Args:
        num_centers: tokens, each a patch around a farthest point.
        num_neighbors: points of a patch.
        patch_channels: widths of the layers over a patch's points.
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
        """Check the values."""
        super().__post_init__()
        check_choice("norm", self.norm, NORMS)
        self.check_not_empty("patch_channels")


@dataclass(frozen=True, kw_only=True)
class EAMLPClassifierConfig(EAMLPConfig):
    """Settings of :class:`~ea_pointcloud.models.EAMLPClassifier`.

    The published network reads a class token. With external attention that token depends on the
    others through the sums of the normalisation alone, so tokens are pooled instead.

    Args:
        num_classes: classes to distinguish, >= 2.
        pooling: ``"mean"``, ``"max"`` or ``"max_mean"`` over the tokens, or ``"top"``, the
            mean of the largest quarter of each channel.
        dropout: dropout before the head.
        few_shot_rank: as of the other classifiers.
    """

    num_classes: int
    pooling: str = "max_mean"
    dropout: float = 0.2
    few_shot_rank: int = 0

    def __post_init__(self) -> None:
        """Check the values."""
        super().__post_init__()
        check_choice("pooling", self.pooling, ("mean", *CENTER_POOLING))


@dataclass(frozen=True, kw_only=True)
class EAMLPSegmenterConfig(SegmenterHeadConfig, EAMLPConfig):
    """Settings of :class:`~ea_pointcloud.models.EAMLPSegmenter`.

    Args:
        point_channels: width of the two layers over each single point.
        fuse_channels: width after tokens and points are joined at every point.
    """

    point_channels: int = 64
    fuse_channels: int = 256


# Sizes of the classifier; those of the segmenter extend them.
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


class EAMLPEncoder(Encoder):
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
        super().__init__(config)
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
                drop_path=config.drop_path * index / max(1, config.depth - 1),
                norm=config.norm,
            )
            for index in range(config.depth)
        )
        self.norm = nn.LayerNorm(channels)

    def build_pyramid(self, xyz: Tensor, mask: Tensor | None = None) -> Pyramid:
        """The one level of patches of clouds (B, N, 3) with a mask (B, N)."""
        return masked_pyramid(xyz, mask, (self.config.num_centers,), (self.config.num_neighbors,))

    def tokens(self, points: Tensor, mask: Tensor | None, pyramid: Pyramid) -> Tensor:
        """Tokens of the patches."""
        check_levels(pyramid, 1, "1 level, the patches")
        [level] = pyramid  # centres are always real points: no mask from here on
        tokens = self.patches(points, level) + self.position(level.xyz.to(points.dtype))
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)


class EAMLPClassifier(Classifier):
    """EAMLP, see :class:`~ea_pointcloud.models.Classifier`.

    Reference:
        Guo et al. 2021, arXiv 2105.02358, section 3.3 (EAMLP).
    """

    config_class = EAMLPClassifierConfig

    def __init__(self, config: EAMLPClassifierConfig, data_spec: DataSpec | None = None) -> None:
        encoder = EAMLPEncoder(config)
        width = config.channels * (2 if config.pooling == "max_mean" else 1)
        head = logits_head([nn.Dropout(config.dropout)], width, config)
        super().__init__(config, data_spec, encoder, head)


class EAMLPSegmenter(Segmenter):
    """EAMLP with every point labelled, see :class:`~ea_pointcloud.models.Segmenter`.

    Reference:
        Guo et al. 2021, arXiv 2105.02358, section 3.3 (EAMLP).
    """

    config_class = EAMLPSegmenterConfig

    def __init__(self, config: EAMLPSegmenterConfig, data_spec: DataSpec | None = None) -> None:
        super().__init__(config, data_spec, EAMLPBackbone(config))


class EAMLPBackbone(Backbone):
    """Interpolate the tokens to all points, and join them with features of each point alone.

    Tokens are interpolated by inverse squared distance to the three nearest. The layer that joins
    commutes with it, so its part for the tokens is applied before, to S tokens and not to N points.

    Args:
        config: the architecture.

    Shape:
        (B, N, 3 + F) -> (B, N, ``fuse_channels``).
    """

    def __init__(self, config: EAMLPSegmenterConfig) -> None:
        super().__init__(config.fuse_channels)
        self.encoder = EAMLPEncoder(config)
        self.point_in = LinearNorm(3 + config.feature_channels, config.point_channels)
        self.point_out = LinearNorm(config.point_channels, config.point_channels)
        self.fuse_token = nn.Linear(config.channels, config.fuse_channels, bias=False)
        self.fuse_point = nn.Linear(config.point_channels, config.fuse_channels, bias=False)
        self.fuse_norm = PointBatchNorm(config.fuse_channels)

    def encode(
        self,
        points: Tensor,
        xyz: Tensor,
        mask: Tensor | None,
        pyramid: Pyramid,
        chunk: int | None = None,
    ) -> Encoding:
        """Compute the tokens; what is kept for all points is their input."""
        del chunk
        tokens = self.fuse_token(self.encoder.tokens(points, mask, pyramid))
        return Encoding(xyz, mask, [points, tokens], pyramid)

    def decode(self, encoding: Encoding, rows: slice) -> Tensor:
        """Interpolate the tokens and join them with the points."""
        points, tokens = encoding.outputs
        [level], mask = encoding.pyramid, rows_of(encoding.mask, rows)
        k = min(3, level.xyz.shape[1])
        interpolated = interpolate_features(encoding.xyz[:, rows], level.xyz, tokens, k)
        alone = self.point_out(self.point_in(points[:, rows], mask), mask)
        return F.relu(self.fuse_norm(interpolated + self.fuse_point(alone), mask))
