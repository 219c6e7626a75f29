"""What all networks that label points share: a trunk below, a head above, and streaming."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ea_pointcloud._checks import check_count, check_no_empty_cloud, values_readable
from ea_pointcloud.models.base import stem_input
from ea_pointcloud.models.data_spec import FEATURES, DataSpec
from ea_pointcloud.models.pretrained import PretrainedModel
from ea_pointcloud.nn import LinearNorm, PointBatchNorm
from ea_pointcloud.ops import PyramidLevel


@dataclass
class TrunkContext:
    """What a trunk knows of a cloud before it makes rows for its points."""

    xyz: Tensor
    mask: Tensor | None
    outputs: list[Tensor]
    pyramid: tuple[PyramidLevel, ...] = ()


class Trunk(Protocol):
    """What a segmenter asks of the network below its head."""

    out_channels: int  # of the rows
    has_neighborhoods: bool  # whose scale follows from how dense the points are

    def build_pyramid(self, xyz: Tensor, mask: Tensor | None) -> tuple[PyramidLevel, ...]:
        """Compute ahead what depends on the coordinates alone; () where nothing is grouped."""
        ...

    def prepare(
        self,
        points: Tensor,
        xyz: Tensor,
        mask: Tensor | None,
        pyramid: tuple[PyramidLevel, ...] | None,
        chunk: int | None,
    ) -> TrunkContext:
        """Find what has to be known of a cloud before any of its rows."""
        ...

    def rows(self, context: TrunkContext, part: slice) -> Tensor:
        """(B, n, C) of the points in ``part``."""
        ...


class Segmenter(PretrainedModel):
    """Give every point of each cloud a part label: a trunk gives each a row, a head reads it.

    The head also reads the maximum and the mean over the rows, and the category.

    Args:
        config: the architecture, with ``num_parts``, ``num_categories``, ``feature_channels``,
            ``category_channels``, ``head_channels`` and ``dropout``.
        data_spec: part names, categories and the form of the input; placeholders without it.
        trunk: points to rows.

    Shape:
        xyz (B, N, 3), features (B, N, F) or None, category (B,) int64 or None, mask (B, N) bool or
        None -> logits (B, N, P); rows of padded points are meaningless.
    """

    def __init__(self, config: Any, data_spec: DataSpec | None, trunk: Trunk) -> None:
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
        self.trunk = trunk
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

    @property
    def has_neighborhoods(self) -> bool:
        """Whether points know their neighbours: clouds must be as dense as in training then."""
        return self.trunk.has_neighborhoods

    @property
    def streams(self) -> bool:
        """Whether the network can work in parts, see ``chunk`` of :meth:`forward`."""
        return True

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
        cloud = self._category(category, xyz.shape[0])
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
        for part in slices(xyz.shape[1], chunk):
            pool.add(self.trunk.rows(context, part), part_of(mask, part))
        pooled = torch.cat([pool.result(), *cloud], dim=-1)
        logits = [
            self._label(self.trunk.rows(context, part), pooled, part_of(mask, part))
            for part in slices(xyz.shape[1], chunk)
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


def slices(num_points: int, chunk: int) -> Iterator[slice]:
    """Successive parts of a cloud."""
    for start in range(0, num_points, chunk):
        yield slice(start, min(start + chunk, num_points))


def part_of(mask: Tensor | None, part: slice) -> Tensor | None:
    """The part of a mask (B, N), if there is one."""
    return None if mask is None else mask[:, part]
