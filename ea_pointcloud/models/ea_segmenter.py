"""The external attention point transformer for parts: on all points, or grouped."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ea_pointcloud.models.base_segmenter import (
    Backbone,
    Encoding,
    Segmenter,
    SegmenterHeadConfig,
    chunks,
    rows_of,
)
from ea_pointcloud.models.ea import EAConfig, PointEncoder, attention_blocks
from ea_pointcloud.models.metadata import DataSpec
from ea_pointcloud.nn import AttentionBlock, LinearNorm
from ea_pointcloud.ops import interpolate_features
from ea_pointcloud.ops.sampling import Pyramid


@dataclass(frozen=True, kw_only=True)
class SegmenterConfig(SegmenterHeadConfig, EAConfig):
    """Settings of :class:`~ea_pointcloud.models.EASegmenter`.

    The defaults are the published network on all points: PCT's segmentation backbone, its four
    attention layers replaced by external attention. With ``num_centers`` it is the grouped form:
    the classifier's encoder, whose tokens are interpolated to all points.

    Args:
        stem_channels: width of the two per-point layers; on all points also of the attention.
        num_centers: points kept by each neighbour embedding; none of them on all points.
    """

    stem_channels: int = 128
    num_centers: tuple[int, ...] = ()
    num_neighbors: tuple[int, ...] = ()
    embed_channels: tuple[int, ...] = ()
    input_layers: int = 0
    head_channels: tuple[int, ...] = (512, 256)
    dropout: float = 0.5


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


class EASegmenter(Segmenter):
    """The external attention point transformer for parts, see :class:`Segmenter`.

    The published form attends on all points: nothing is grouped, so attention is the only thing
    that could grow faster than N, and it does not. The grouped form (``config.num_centers``) is
    the classifier's encoder, whose tokens are interpolated to all points.

    Reference:
        Guo et al. 2021, arXiv 2105.02358 (external attention) and arXiv 2012.09688 (backbone).
    """

    config_class = SegmenterConfig

    def __init__(self, config: SegmenterConfig, data_spec: DataSpec | None = None) -> None:
        backbone = GroupedBackbone(config) if config.num_centers else PointwiseBackbone(config)
        super().__init__(config, data_spec, backbone)

    @property
    def supports_chunks(self) -> bool:
        """Self- and offset-attention compare all points with each other."""
        return self.config.attention not in ("self", "offset")


class PointwiseBackbone(Backbone):
    """Attention on all points: two layers per point, attention blocks, all outputs fused.

    Args:
        config: the architecture.

    Shape:
        (B, N, 3 + F) -> (B, N, ``fuse_channels``).
    """

    has_neighborhoods = False

    def __init__(self, config: SegmenterConfig) -> None:
        super().__init__(config.fuse_channels)
        width = config.stem_channels
        self.stem_in = LinearNorm(3 + config.feature_channels, width)
        self.stem_out = LinearNorm(width, width)
        self.position = nn.Linear(3, width, bias=False)
        self.blocks = attention_blocks(config, width)
        self.fuse = LinearNorm(
            width * config.depth, config.fuse_channels, activation=nn.LeakyReLU(0.2)
        )

    def build_pyramid(self, xyz: Tensor, mask: Tensor | None) -> Pyramid:
        """Nothing is grouped."""
        return ()

    def encode(
        self,
        points: Tensor,
        xyz: Tensor,
        mask: Tensor | None,
        pyramid: Pyramid,
        chunk: int | None = None,
    ) -> Encoding:
        """Run the attention blocks, each on the whole cloud or in chunks."""
        if pyramid:
            raise ValueError("pyramid was given, but this network groups nothing; leave it out")
        xyz = xyz.to(points.dtype)
        outputs = []
        if chunk is None:
            hidden, position = self._stem(points, mask), self.position(xyz)
            for block in self.blocks:
                hidden = block(hidden, position, mask)
                outputs.append(hidden)
        else:
            spans = list(chunks(xyz.shape[1], chunk))
            stems = [self._stem(points[:, rows], rows_of(mask, rows)) for rows in spans]
            hidden = torch.cat(stems, dim=1)
            for block in self.blocks:
                hidden = self._chunked(block, hidden, xyz, mask, spans)
                outputs.append(hidden)
        return Encoding(xyz, mask, outputs)

    def decode(self, encoding: Encoding, rows: slice) -> Tensor:
        """Fuse the outputs of all blocks."""
        joined = torch.cat([output[:, rows] for output in encoding.outputs], dim=-1)
        return self.fuse(joined, rows_of(encoding.mask, rows))

    def _stem(self, points: Tensor, mask: Tensor | None) -> Tensor:
        return self.stem_out(self.stem_in(points, mask), mask)

    def _chunked(
        self,
        block: nn.Module,
        hidden: Tensor,
        xyz: Tensor,
        mask: Tensor | None,
        spans: list[slice],
    ) -> Tensor:
        """One block over the cloud in two passes: the sums over the points, then the points."""
        assert isinstance(block, AttentionBlock)
        total = None
        for rows in spans:
            position = self.position(xyz[:, rows])
            state = block.slot_state(hidden[:, rows], position, rows_of(mask, rows))
            total = state if total is None or state is None else total.merge(state)
        out = torch.empty_like(hidden)
        for rows in spans:
            position = self.position(xyz[:, rows])
            out[:, rows] = block(hidden[:, rows], position, rows_of(mask, rows), state=total)
        return out


class GroupedBackbone(Backbone):
    """The classifier's encoder, then feature propagation from its tokens back to all points.

    Each step interpolates the features of a level to the finer one by inverse squared distance to
    the three nearest, joins them with those of the finer level, and mixes both in one layer.

    Args:
        config: the architecture.

    Shape:
        (B, N, 3 + F) -> (B, N, ``embed_channels[-1]``).

    Reference:
        Qi et al., PointNet++, NeurIPS 2017, section 3.4.
    """

    def __init__(self, config: SegmenterConfig) -> None:
        super().__init__(config.embed_channels[-1])
        self.encoder = PointEncoder(config)
        self.propagate = nn.ModuleList()  # coarse to fine
        coarse = config.fuse_channels
        for fine in (config.stem_channels, *config.embed_channels[:-1])[::-1]:
            self.propagate.append(LinearNorm(coarse + fine, self.out_channels))
            coarse = self.out_channels

    def encode(
        self,
        points: Tensor,
        xyz: Tensor,
        mask: Tensor | None,
        pyramid: Pyramid,
        chunk: int | None = None,
    ) -> Encoding:
        """Encode, and propagate the tokens to the finest level of centres."""
        del chunk  # what is kept for all points is narrow already
        levels = self.encoder.levels(points, mask, pyramid)
        hidden = self.encoder.attend(levels[-1], pyramid)
        for step, layer in enumerate(self.propagate[:-1]):
            fine, coarse = pyramid[-2 - step], pyramid[-1 - step]
            hidden = interpolate_features(fine.xyz, coarse.xyz, hidden, min(3, coarse.xyz.shape[1]))
            hidden = layer(torch.cat([hidden, levels[-2 - step]], dim=-1))
        return Encoding(xyz, mask, [levels[0], hidden], pyramid)

    def decode(self, encoding: Encoding, rows: slice) -> Tensor:
        """Interpolate from the finest level of centres."""
        points, hidden = encoding.outputs
        coarse = encoding.pyramid[0].xyz
        hidden = interpolate_features(
            encoding.xyz[:, rows], coarse, hidden, min(3, coarse.shape[1])
        )
        joined = torch.cat([hidden, points[:, rows]], dim=-1)
        return self.propagate[-1](joined, rows_of(encoding.mask, rows))
