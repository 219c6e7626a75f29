"""The external attention point transformer for labelling every point with its part."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ea_pointcloud._checks import check_count, check_no_empty_cloud, values_readable
from ea_pointcloud.models.config import SegmenterConfig
from ea_pointcloud.models.encoder import PointEncoder, attention_blocks, stem_input
from ea_pointcloud.models.hub import FEATURES, DataSpec, PretrainedModel
from ea_pointcloud.nn import AttentionBlock, LinearNorm, PointBatchNorm
from ea_pointcloud.ops import PyramidLevel, interpolate_features


class EASegmenter(PretrainedModel):
    """Give every point of each cloud a part label.

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
        super().__init__()
        self.config = config
        self.data_spec = data_spec or DataSpec.unnamed(config.num_parts, config.num_categories)
        for name, names, count in (
            ("num_parts", self.data_spec.class_names, config.num_parts),
            ("num_categories", self.data_spec.category_names, config.num_categories),
        ):
            # A category-free network may well know the names of the categories it was trained on.
            if len(names) != count and not (name == "num_categories" and count == 0):
                raise ValueError(f"data_spec must name {name}={count}, got {len(names)}")
        features = self.data_spec.features  # "none" also where nobody has said what they are
        if features != "none" and config.feature_channels != FEATURES[features]:
            raise ValueError(
                f"feature_channels must be {FEATURES[features]} as data_spec says the features are "
                f"{features}, got {config.feature_channels}"
            )
        self.trunk = GroupedTrunk(config) if config.num_centers else PointwiseTrunk(config)
        width, first = self.trunk.out_channels, config.head_channels[0]
        pooled = 2 * width
        self.category = None
        if config.num_categories:
            self.category = LinearNorm(
                config.num_categories, config.category_channels, activation=nn.LeakyReLU(0.2)
            )
            pooled += config.category_channels
        # One layer over concat[point, max, mean, category]. The last three are the same for all
        # points, so their part of it is computed once a cloud: see forward.
        self.head_in = nn.Linear(width + pooled, first, bias=False)
        self.head_norm = PointBatchNorm(first)
        self.dropout = nn.Dropout(config.dropout)
        widths = config.head_channels
        self.head = nn.ModuleList(LinearNorm(one, two) for one, two in pairwise(widths))
        self.out = nn.Linear(widths[-1], config.num_parts)

    def build_pyramid(self, xyz: Tensor, mask: Tensor | None = None) -> tuple[PyramidLevel, ...]:
        """Compute ahead what the grouped form needs of the coordinates alone; () on all points.

        Args:
            xyz: (B, N, 3).
            mask: (B, N) bool, True = real point.
        """
        return self.trunk.build_pyramid(xyz, mask)

    def forward(
        self,
        xyz: Tensor,
        features: Tensor | None = None,
        *,
        category: Tensor | None = None,
        mask: Tensor | None = None,
        pyramid: tuple[PyramidLevel, ...] | None = None,
        chunk: int | None = None,
    ) -> Tensor:
        """Label; softmax of the result gives probabilities in the order of ``class_names``.

        Args:
            xyz: (B, N, 3).
            features: (B, N, F).
            category: (B,) int64 in 0..num_categories-1; required unless the network is
                category-free.
            mask: (B, N) bool, True = real point.
            pyramid: what :meth:`build_pyramid` gave for this ``xyz`` and ``mask``.
            chunk: points that wide layers handle at a time, which bounds the memory of inference
                (only the narrow outputs of the attention blocks are kept for all points). The
                result is that of the whole cloud. Evaluation mode only.

        Raises:
            ValueError: if shapes do not agree, the category is missing or superfluous, or
                ``chunk`` cannot be had.
        """
        points = stem_input(xyz, features, mask, self.config.feature_channels)
        points = points.to(self.out.weight.dtype)
        check_no_empty_cloud(mask)
        cloud = self._category(category, len(xyz))
        if chunk is not None:
            check_count("chunk", chunk)
            if self.training:
                raise ValueError("chunk works in evaluation mode only; call model.eval() first")
        context = self.trunk.prepare(points, xyz, mask, pyramid, chunk)
        if chunk is None:
            rows = self.trunk.rows(context, slice(None))  # (B, N, C)
            pooled = _Pool().add(rows, mask).result()
            return self._label(rows, torch.cat([pooled, *cloud], dim=-1), mask)
        pool = _Pool()
        for part in _slices(xyz.shape[1], chunk):
            pool.add(self.trunk.rows(context, part), _part(mask, part))
        pooled = torch.cat([pool.result(), *cloud], dim=-1)
        logits = [
            self._label(self.trunk.rows(context, part), pooled, _part(mask, part))
            for part in _slices(xyz.shape[1], chunk)
        ]
        return torch.cat(logits, dim=1)

    def _category(self, category: Tensor | None, batch: int) -> list[Tensor]:
        """[(B, C)] of the category's embedding; [] where the network is category-free."""
        count = self.config.num_categories
        if self.category is None:
            if category is not None:
                raise ValueError("category was given, but this network is category-free")
            return []
        if category is None:
            raise ValueError(
                f"category must be given: one of 0..{count - 1} for each cloud; "
                "a network built with num_categories=0 needs none"
            )
        if category.shape != (batch,) or category.is_floating_point():
            raise ValueError(
                f"category must be (B,) = ({batch},) integers, "
                f"got {tuple(category.shape)} {category.dtype}"
            )
        if values_readable(category) and not bool(((category >= 0) & (category < count)).all()):
            raise ValueError(
                f"category must be between 0 and num_categories-1={count - 1}, "
                f"got {category.tolist()}"
            )
        return [self.category(F.one_hot(category.long(), count).to(self.out.weight.dtype))]

    def _label(self, rows: Tensor, cloud: Tensor, mask: Tensor | None) -> Tensor:
        """Logits (B, n, P) of rows (B, n, C), given what is known of the whole cloud (B, D)."""
        to_point, to_cloud = self.head_in.weight.split([rows.shape[-1], cloud.shape[-1]], dim=1)
        hidden = F.linear(rows, to_point) + F.linear(cloud, to_cloud)[:, None]
        hidden = self.dropout(F.relu(self.head_norm(hidden, mask)))
        for layer in self.head:
            hidden = layer(hidden, mask)
        return self.out(hidden)


@dataclass
class _Context:
    """What a trunk knows of a cloud before it makes rows for its points."""

    xyz: Tensor
    mask: Tensor | None
    outputs: list[Tensor]
    pyramid: tuple[PyramidLevel, ...] = ()


class PointwiseTrunk(nn.Module):
    """Attention on all points: two layers per point, attention blocks, all outputs fused.

    Args:
        config: the architecture.

    Shape:
        (B, N, 3 + F) -> (B, N, ``fuse_channels``).
    """

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
    ) -> _Context:
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
            return _Context(xyz, mask, outputs)
        parts = list(_slices(xyz.shape[1], chunk))
        hidden = torch.cat(
            [
                self.stem_out(self.stem_in(points[:, part], _part(mask, part)), _part(mask, part))
                for part in parts
            ],
            dim=1,
        )
        outputs = []
        for block in self.blocks:
            hidden = self._in_parts(block, hidden, xyz, mask, parts)
            outputs.append(hidden)
        return _Context(xyz, mask, outputs)

    def rows(self, context: _Context, part: slice) -> Tensor:
        """(B, n, C) of the points in ``part``."""
        joined = torch.cat([output[:, part] for output in context.outputs], dim=-1)
        return self.fuse(joined, _part(context.mask, part))

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
            one = block.over_points(hidden[:, part], position, _part(mask, part))
            total = one if total is None or one is None else total.logaddexp(one)
        out = torch.empty_like(hidden)
        for part in parts:
            position = self.position(xyz[:, part])
            out[:, part] = block(hidden[:, part], position, _part(mask, part), over_points=total)
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
    ) -> _Context:
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
        return _Context(xyz, mask, [levels[0], hidden], pyramid)

    def rows(self, context: _Context, part: slice) -> Tensor:
        """(B, n, C) of the points in ``part``."""
        points, hidden = context.outputs
        coarse = context.pyramid[0].xyz
        hidden = interpolate_features(context.xyz[:, part], coarse, hidden, min(3, coarse.shape[1]))
        joined = torch.cat([hidden, points[:, part]], dim=-1)
        return self.propagate[-1](joined, _part(context.mask, part))


class _Pool:
    """Maximum and mean over the real points of a cloud that comes in parts."""

    def __init__(self) -> None:
        self.greatest: Tensor | None = None
        self.total: Tensor | None = None
        self.count: Tensor | int = 0

    def add(self, rows: Tensor, mask: Tensor | None) -> "_Pool":
        """Take in rows (B, n, C) with their mask (B, n)."""
        if mask is None:
            greatest, count = rows.amax(1), rows.shape[1]
        else:
            greatest = rows.masked_fill(~mask[..., None], -torch.inf).amax(1)
            rows = rows.masked_fill(~mask[..., None], 0.0)
            count = mask.sum(1, keepdim=True)
        # A mean over a million points must not be summed in half precision.
        total = rows.sum(1, dtype=torch.promote_types(rows.dtype, torch.float32))
        self.count = self.count + count
        self.greatest = greatest if self.greatest is None else self.greatest.maximum(greatest)
        self.total = total if self.total is None else self.total + total
        return self

    def result(self) -> Tensor:
        """(B, 2 C): maximum, mean."""
        assert self.greatest is not None
        assert self.total is not None
        mean = (self.total / self.count).to(self.greatest.dtype)
        return torch.cat([self.greatest, mean], dim=-1)


def _slices(num_points: int, chunk: int) -> Iterator[slice]:
    for start in range(0, num_points, chunk):
        yield slice(start, min(start + chunk, num_points))


def _part(mask: Tensor | None, part: slice) -> Tensor | None:
    return None if mask is None else mask[:, part]
