"""What all families share: configurations, the encoder interface, and the classifier of clouds."""

from dataclasses import dataclass, fields
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ea_pointcloud._checks import (
    check_choice,
    check_count,
    check_features,
    check_fraction,
    check_mask,
    check_no_empty_cloud,
    check_xyz,
)
from ea_pointcloud.models.metadata import DataSpec
from ea_pointcloud.models.pretrained import PretrainedModel
from ea_pointcloud.nn import MemoryPooling
from ea_pointcloud.ops.sampling import Pyramid

POOLING = ("max", "max_mean")
CENTER_POOLING = (*POOLING, "top")  # of networks whose centres are all real points
_TOP = 4  # "top" pooling averages the largest one in four
_MIRRORED = ((1.0, 1.0, 1.0), (-1.0, 1.0, 1.0), (1.0, 1.0, -1.0))  # signs of x, y, z
# Smallest values of counts where they are not 1.
_LEAST = {
    "num_classes": 2,
    "num_parts": 2,
    "num_categories": 0,
    "feature_channels": 0,
    "few_shot_rank": 0,
    "input_layers": 0,
}

_Config = TypeVar("_Config")


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Settings of every network; subclasses add theirs and check them in ``__post_init__``.

    Counts are at least 1 unless ``_LEAST`` says otherwise; a float is a probability below 1.

    Args:
        feature_channels: columns of the points' features beside xyz (normals = 3), 0 for none.
    """

    feature_channels: int = 0

    def __post_init__(self) -> None:
        """Check the values; lists (from JSON or YAML) become tuples."""
        for field in fields(self):
            value: Any = getattr(self, field.name)
            if isinstance(value, list):
                value = tuple(value)
                object.__setattr__(self, field.name, value)
            if field.type is int:
                check_count(field.name, value, _LEAST.get(field.name, 1))
            elif field.type is float:
                check_fraction(field.name, value)
            elif isinstance(field.default, tuple):
                if not isinstance(value, tuple):
                    raise TypeError(f"{field.name} must be a list of counts, got {value!r}")
                for entry in value:
                    check_count(field.name, entry)

    def check_not_empty(self, *names: str) -> None:
        """Raise unless these tuples have an entry."""
        for name in names:
            if not getattr(self, name):
                raise ValueError(f"{name} must name at least one width, got none")


@dataclass(frozen=True, kw_only=True)
class ClassifierHeadConfig(NetworkConfig):
    """Settings of a classifier's pooling and head.

    See :func:`~ea_pointcloud.models.head.classification_head`.

    Args:
        num_classes: classes to distinguish, >= 2.
        pooling: ``"max"`` or ``"max_mean"`` over the tokens.
        head_channels: widths of the layers before the logits.
        dropout: dropout after each of them.
        few_shot_rank: whitened directions of the embedding below the logits of a few-shot
            classifier, see :class:`~ea_pointcloud.nn.UnitEmbedding`; 0 for any other.
    """

    poolings: ClassVar[tuple[str, ...]] = POOLING

    num_classes: int
    pooling: str = "max"
    head_channels: tuple[int, ...] = (512, 256)
    dropout: float = 0.5
    few_shot_rank: int = 0

    def __post_init__(self) -> None:
        """Check the values."""
        super().__post_init__()
        check_choice("pooling", self.pooling, self.poolings)


def named_config(
    kind: type[_Config],
    sizes: dict[str, dict[str, Any]],
    size: str,
    fixed: dict[str, int],
    overrides: dict[str, Any],
) -> _Config:
    """A configuration of ``kind``: values of a named size, replaced by overrides, and fixed ones.

    Raises:
        ValueError: if the size or an override is unknown, or a value is impossible.
    """
    check_choice("size", size, sizes)
    known = sorted({field.name for field in fields(kind)} - set(fixed))  # pyright: ignore
    for name in overrides:
        check_choice("model override", name, known)
    return kind(**{**fixed, **sizes[size], **overrides})


def stem_input(
    xyz: Tensor, features: Tensor | None, mask: Tensor | None, feature_channels: int
) -> Tensor:
    """(B, N, 3 + F) checked coordinates and features of the points."""
    check_xyz("xyz", xyz)
    check_mask(mask, xyz)
    given = 0 if features is None else features.shape[-1]
    if given != feature_channels:
        raise ValueError(
            f"features must have {feature_channels} channels as in the config "
            f"(feature_channels), got {given}"
        )
    if features is None:
        return xyz
    check_features("features", features, like=xyz)
    return torch.cat([xyz, features], dim=-1)


class Encoder(nn.Module):
    """The network of a classifier below its pooling; subclasses define what raises here.

    Args:
        config: the architecture; entries of the head are not read.

    Shape:
        xyz (B, N, 3), features (B, N, F) or None, mask (B, N) bool or None -> tokens (B, S, C).
        Where ``keeps_points`` the tokens are those of all points, S = N, -inf at padded ones.
    """

    keeps_points = False

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config

    def build_pyramid(self, xyz: Tensor, mask: Tensor | None = None) -> Pyramid:
        """Compute what :meth:`forward` needs of the coordinates alone.

        Args:
            xyz: (B, N, 3).
            mask: (B, N) bool, True = real point.
        """
        raise NotImplementedError

    def tokens(self, points: Tensor, mask: Tensor | None, pyramid: Pyramid) -> Tensor:
        """Tokens (B, S, C) of points (B, N, 3 + F) in the dtype of the weights."""
        raise NotImplementedError

    def forward(
        self,
        xyz: Tensor,
        features: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        pyramid: Pyramid | None = None,
    ) -> Tensor:
        """Encode; ``pyramid`` is what :meth:`build_pyramid` gave for this ``xyz`` and ``mask``."""
        points = stem_input(xyz, features, mask, self.config.feature_channels)
        padding = None
        if self.keeps_points and mask is not None:
            check_no_empty_cloud(mask)
            padding = ~mask[..., None]
            points = points.masked_fill(padding, 0)
        if pyramid is None:
            pyramid = self.build_pyramid(xyz, mask)
        # Coordinates in float64, as numpy has them, are narrowed here.
        token = self.tokens(points.to(next(self.parameters()).dtype), mask, pyramid)
        return token if padding is None else token.masked_fill(padding, -torch.inf)


class Classifier(PretrainedModel):
    """Classify each cloud of a batch: an encoder, pooling over its tokens, a head.

    Expects clouds in the form of ``data_spec``: centred, in the unit sphere, ``up_axis`` up, about
    ``num_points`` points. :class:`~ea_pointcloud.Predictor` brings any cloud there. The networks
    are built as ``Network(config, data_spec=None)``; see
    :func:`~ea_pointcloud.models.create_model` for named sizes.

    Args:
        config: the architecture, with ``num_classes`` and ``pooling``.
        data_spec: class names and the form of the input; placeholders if omitted.
        encoder: clouds to tokens.
        head: pooled tokens to logits; its last layer is a :class:`torch.nn.Linear`.

    Shape:
        xyz (B, N, 3), features (B, N, F) or None, mask (B, N) bool or None -> logits (B, classes).
    """

    memory_pooling: MemoryPooling  # where the pooling has one

    def __init__(
        self, config: Any, data_spec: DataSpec | None, encoder: Encoder, head: nn.Sequential
    ) -> None:
        super().__init__()
        self.config = config
        self._set_spec(data_spec or DataSpec.unnamed(config.num_classes))
        if len(self.data_spec.class_names) != config.num_classes:
            raise ValueError(
                f"data_spec must name num_classes={config.num_classes} classes, "
                f"got {len(self.data_spec.class_names)}"
            )
        self.encoder = encoder
        self.head = head

    def build_pyramid(self, xyz: Tensor, mask: Tensor | None = None) -> Pyramid:
        """Compute ahead what the network needs of the coordinates alone.

        Args:
            xyz: (B, N, 3).
            mask: (B, N) bool, True = real point.
        """
        return self.encoder.build_pyramid(xyz, mask)

    @property
    def embedding_channels(self) -> int:
        """C of :meth:`embed`."""
        last = self.head[-1]
        assert isinstance(last, nn.Linear)
        return last.in_features

    def forward(
        self,
        xyz: Tensor,
        features: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        pyramid: Pyramid | None = None,
    ) -> Tensor:
        """Classify; softmax of the result gives probabilities in the order of ``class_names``.

        ``pyramid`` is what :meth:`build_pyramid` gave for this ``xyz`` and ``mask``, where it was
        computed ahead.
        """
        return self.head[-1](self.embed(xyz, features, mask=mask, pyramid=pyramid))

    def embed(
        self,
        xyz: Tensor,
        features: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        pyramid: Pyramid | None = None,
    ) -> Tensor:
        """The input of the last layer for each cloud, (B, C).

        That of a few-shot classifier is of length 1, and the mean over the cloud and its mirror
        images in x and z where points have coordinates alone.
        """
        if not self.config.few_shot_rank or features is not None:
            return self.head[:-1](self.pooled(xyz, features, mask=mask, pyramid=pyramid))
        if pyramid is None:  # the same for mirror images
            pyramid = self.build_pyramid(xyz, mask)
        signs = xyz.new_tensor(_MIRRORED)
        views = []
        for sign in signs:
            mirrored = tuple(level._replace(xyz=level.xyz * sign) for level in pyramid)
            pooled = self.pooled(xyz * sign, mask=mask, pyramid=mirrored)
            views.append(self.head[:-1](pooled))  # (B, C)
        return F.normalize(torch.stack(views).mean(0), dim=-1)

    def pooled(
        self,
        xyz: Tensor,
        features: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        pyramid: Pyramid | None = None,
    ) -> Tensor:
        """The input of the head for each cloud, (B, C)."""
        if features is not None:
            features = self.scale_features(features)
        token = self.encoder(xyz, features, mask=mask, pyramid=pyramid)  # (B, S, C)
        return self.pool(token, mask if self.encoder.keeps_points else None)

    def pool(self, token: Tensor, mask: Tensor | None) -> Tensor:
        """(B, C) of tokens (B, S, C), -inf where ``mask`` (B, S) is False."""
        parts = []
        for kind in self.config.pooling.split("_"):
            if kind == "max":
                parts.append(token.amax(1))
            elif kind == "top":
                parts.append(token.topk(-(-token.shape[1] // _TOP), dim=1).values.mean(1))
            elif kind == "memory":
                parts.append(self.memory_pooling(token, mask))
            elif mask is None:
                parts.append(token.mean(1))
            else:
                total = token.masked_fill(~mask[..., None], 0).sum(1)
                parts.append(total / mask.sum(1, keepdim=True))
        return torch.cat(parts, dim=-1)
