"""The external attention point transformer for labelling every point with its part."""

import torch
from torch import Tensor, nn

from ea_pointcloud.models.base_segmenter import Segmenter, TrunkContext, part_of, slices
from ea_pointcloud.models.config import SegmenterConfig
from ea_pointcloud.models.encoder import PointEncoder, attention_blocks
from ea_pointcloud.models.hub import DataSpec
from ea_pointcloud.nn import AttentionBlock, LinearNorm
from ea_pointcloud.ops import PyramidLevel, interpolate_features


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
