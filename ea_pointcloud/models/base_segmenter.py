"""What all networks that label points share: a backbone below, a head above, work in chunks."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ea_pointcloud._checks import check_count, check_no_empty_cloud, values_readable
from ea_pointcloud.models.base import NetworkConfig, stem_input
from ea_pointcloud.models.metadata import DataSpec
from ea_pointcloud.models.pretrained import PretrainedModel
from ea_pointcloud.nn import LinearNorm, PointBatchNorm
from ea_pointcloud.nn.norm import weight_of
from ea_pointcloud.ops.sampling import Pyramid


@dataclass(frozen=True, kw_only=True)
class SegmenterHeadConfig(NetworkConfig):
    """Settings of a segmenter's head.

    Args:
        num_parts: part labels to distinguish, over all categories, >= 2.
        num_categories: shape categories; 0 for a network that is not conditioned on the category.
        category_channels: width of the category's embedding.
        head_channels: widths of the layers before the logits.
        dropout: dropout after the first of them.
    """

    num_parts: int
    num_categories: int = 0
    category_channels: int = 64
    head_channels: tuple[int, ...] = (256, 128)
    dropout: float = 0.4

    def __post_init__(self) -> None:
        """Check the values."""
        super().__post_init__()
        self.check_not_empty("head_channels")


@dataclass
class Encoding:
    """What :meth:`Backbone.decode` needs of a whole cloud to compute features of its points."""

    xyz: Tensor
    mask: Tensor | None
    outputs: list[Tensor]
    pyramid: Pyramid = ()


class Embedding(NamedTuple):
    """What a segmenter's head needs of clouds, whatever their category.

    Args:
        encoding: of the backbone.
        points: (B, N, C) features; None where they are decoded ``chunk`` points at a time.
        pooled: (B, 2 C) their maximum and mean.
        chunk: points that are decoded at a time.
    """

    encoding: Encoding
    points: Tensor | None
    pooled: Tensor
    chunk: int | None


class Backbone(nn.Module):
    """The network of a segmenter below its head; subclasses define what raises here.

    Args:
        out_channels: C of the features.

    Shape:
        points (B, N, 3 + F) -> (B, N, C).
    """

    has_neighborhoods = True  # whose scale follows from the density of the points
    encoder: Any  # an Encoder, except where nothing is grouped

    def __init__(self, out_channels: int) -> None:
        super().__init__()
        self.out_channels = out_channels

    def build_pyramid(self, xyz: Tensor, mask: Tensor | None) -> Pyramid:
        """Compute ahead what depends on the coordinates alone; () where nothing is grouped."""
        return self.encoder.build_pyramid(xyz, mask)

    def encode(
        self,
        points: Tensor,
        xyz: Tensor,
        mask: Tensor | None,
        pyramid: Pyramid,
        chunk: int | None = None,
    ) -> Encoding:
        """Compute what :meth:`decode` needs of a whole cloud, ``chunk`` points at a time."""
        raise NotImplementedError

    def decode(self, encoding: Encoding, rows: slice) -> Tensor:
        """(B, n, C) features of the points in ``rows``."""
        raise NotImplementedError


class Segmenter(PretrainedModel):
    """Label every point of each cloud: a backbone computes features of points, a head labels them.

    The head also reads the maximum and the mean of the features, and the category. The networks
    are built as ``Network(config, data_spec=None)``; see
    :func:`~ea_pointcloud.models.create_model` for named sizes.

    Args:
        config: the architecture, with the entries of :class:`SegmenterHeadConfig`.
        data_spec: part names, categories and the form of the input; placeholders if omitted.
        trunk: the backbone; trained weights have it under this name.

    Shape:
        xyz (B, N, 3), features (B, N, F) or None, category (B,) int64 or None, mask (B, N) bool or
        None -> logits (B, N, P); those of padded points are meaningless.
    """

    def __init__(self, config: Any, data_spec: DataSpec | None, trunk: Backbone) -> None:
        super().__init__()
        self.config = config
        self._set_spec(data_spec or DataSpec.unnamed(config.num_parts, config.num_categories))
        for name, names, count in (
            ("num_parts", self.data_spec.class_names, config.num_parts),
            ("num_categories", self.data_spec.category_names, config.num_categories),
        ):
            # A category-free network may have the names of the categories it was trained on.
            if len(names) != count and not (name == "num_categories" and count == 0):
                raise ValueError(f"data_spec must name {name}={count}, got {len(names)}")
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
        """Whether points are grouped: clouds must then be as dense as in training."""
        return self.trunk.has_neighborhoods

    @property
    def embedding_channels(self) -> int:
        """C of the points' mean features, half of what :meth:`embed` pools."""
        return self.trunk.out_channels

    @property
    def supports_chunks(self) -> bool:
        """Whether the network can work in chunks, see ``chunk`` of :meth:`forward`."""
        return True

    def build_pyramid(self, xyz: Tensor, mask: Tensor | None = None) -> Pyramid:
        """Compute ahead what the network needs of the coordinates alone; () if it groups nothing.

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
        pyramid: Pyramid | None = None,
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
        cloud = self._category(category, xyz.shape[0])
        embedding = self.embed(xyz, features, mask=mask, pyramid=pyramid, chunk=chunk)
        return self._logits(embedding, cloud)

    def embed(
        self,
        xyz: Tensor,
        features: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        pyramid: Pyramid | None = None,
        chunk: int | None = None,
    ) -> Embedding:
        """What :meth:`label` needs, the same for every category; arguments as :meth:`forward`."""
        if features is not None:
            features = self.scale_features(features)
        points = stem_input(xyz, features, mask, self.config.feature_channels)
        points = points.to(weight_of(self.out).dtype)
        check_no_empty_cloud(mask)
        if chunk is not None:
            check_count("chunk", chunk)
            if self.training:
                raise ValueError("chunk works in evaluation mode only; call model.eval() first")
        if pyramid is None:
            pyramid = self.build_pyramid(xyz, mask)
        encoding = self.trunk.encode(points, xyz, mask, pyramid, chunk)
        pool = _Pool()
        if chunk is None:
            decoded = self.trunk.decode(encoding, slice(None))  # (B, N, C)
            return Embedding(encoding, decoded, pool.add(decoded, mask).result(), chunk)
        for rows in chunks(xyz.shape[1], chunk):
            pool.add(self.trunk.decode(encoding, rows), rows_of(mask, rows))
        return Embedding(encoding, None, pool.result(), chunk)

    def label(self, embedding: Embedding, category: Tensor | None = None) -> Tensor:
        """Logits (B, N, P) of what :meth:`embed` gave, for one category or another."""
        return self._logits(embedding, self._category(category, len(embedding.pooled)))

    def _logits(self, embedding: Embedding, cloud: list[Tensor]) -> Tensor:
        encoding, decoded, pooled, chunk = embedding
        mask, pooled = encoding.mask, torch.cat([pooled, *cloud], dim=-1)
        if decoded is not None:
            return self._label(decoded, pooled, mask)
        assert chunk is not None
        logits = [
            self._label(self.trunk.decode(encoding, rows), pooled, rows_of(mask, rows))
            for rows in chunks(encoding.xyz.shape[1], chunk)
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
        return [self.category(F.one_hot(category.long(), count).to(weight_of(self.out).dtype))]

    def _label(self, points: Tensor, cloud: Tensor, mask: Tensor | None) -> Tensor:
        """Logits (B, n, P) of features of points (B, n, C) and of the whole cloud (B, D)."""
        to_point, to_cloud = weight_of(self.head_in).split(
            [points.shape[-1], cloud.shape[-1]], dim=1
        )
        hidden = F.linear(points, to_point) + F.linear(cloud, to_cloud)[:, None]
        hidden = self.dropout(F.relu(self.head_norm(hidden, mask)))
        for layer in self.head:
            hidden = layer(hidden, mask)
        return self.out(hidden)


class _Pool:
    """Maximum and mean over the real points of a cloud that comes in chunks."""

    def __init__(self) -> None:
        self.greatest: Tensor | None = None
        self.total: Tensor | None = None
        self.count: Tensor | int = 0

    def add(self, features: Tensor, mask: Tensor | None) -> "_Pool":
        """Add features (B, n, C) of some points with their mask (B, n)."""
        if mask is None:
            greatest, count = features.amax(1), features.shape[1]
        else:
            greatest = features.masked_fill(~mask[..., None], -torch.inf).amax(1)
            features = features.masked_fill(~mask[..., None], 0.0)
            count = mask.sum(1, keepdim=True)
        # A mean over a million points must not be summed in half precision.
        total = features.sum(1, dtype=torch.promote_types(features.dtype, torch.float32))
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


def chunks(num_points: int, size: int) -> Iterator[slice]:
    """Successive chunks of the points of a cloud."""
    for start in range(0, num_points, size):
        yield slice(start, min(start + size, num_points))


def rows_of(mask: Tensor | None, rows: slice) -> Tensor | None:
    """The rows of a mask (B, N), if there is one."""
    return None if mask is None else mask[:, rows]
