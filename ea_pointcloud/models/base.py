"""What all families share: checks of configurations, input, and the classifier of whole clouds."""

from dataclasses import fields
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from ea_pointcloud._checks import (
    check_choice,
    check_count,
    check_features,
    check_fraction,
    check_mask,
    check_no_empty_cloud,
    check_xyz,
)
from ea_pointcloud.models.data_spec import DataSpec
from ea_pointcloud.models.pretrained import PretrainedModel
from ea_pointcloud.nn import LinearNorm
from ea_pointcloud.ops import PyramidLevel, build_pyramid, gather_points

POOLING = ("max", "max_mean")
CENTER_POOLING = (*POOLING, "top")  # of networks whose centres are all real points
_TOP = 4  # "top" pooling takes one in so many

_Config = TypeVar("_Config")


def check_fields(config: Any, least: dict[str, int]) -> None:
    """Raise for what no network can be built of, and turn lists (from JSON or YAML) into tuples.

    Counts are >= 1 where ``least`` is silent; a float is a probability below 1.
    """
    for field in fields(config):
        value: Any = getattr(config, field.name)
        if isinstance(value, list):
            value = tuple(value)
            object.__setattr__(config, field.name, value)
        if field.type is int:
            check_count(field.name, value, least.get(field.name, 1))
        elif field.type is float:
            check_fraction(field.name, value)
        elif isinstance(field.default, tuple):
            if not isinstance(value, tuple):
                raise TypeError(f"{field.name} must be a list of counts, got {value!r}")
            for entry in value:
                check_count(field.name, entry)


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


def masked_pyramid(
    xyz: Tensor, mask: Tensor | None, num_centers: tuple[int, ...], num_neighbors: tuple[int, ...]
) -> tuple[PyramidLevel, ...]:
    """:func:`~ea_pointcloud.ops.build_pyramid` of clouds whose padding may be anywhere."""
    check_xyz("xyz", xyz)
    check_mask(mask, xyz)
    if mask is None:
        return build_pyramid(xyz, num_centers, num_neighbors)
    check_no_empty_cloud(mask)
    # The operators want padding last; what they return is put back into the order of xyz.
    order = mask.byte().argsort(dim=1, descending=True, stable=True)
    first, *others = build_pyramid(
        gather_points(xyz, order), num_centers, num_neighbors, lengths=mask.sum(1)
    )
    neighbor = order.gather(1, first.neighbor.flatten(1)).view_as(first.neighbor)
    return (PyramidLevel(first.xyz, order.gather(1, first.center), neighbor), *others)


class Encoder(Protocol):
    """What a classifier asks of the network below its pooling."""

    def build_pyramid(self, xyz: Tensor, mask: Tensor | None = None) -> tuple[PyramidLevel, ...]:
        """Compute ahead what depends on the coordinates alone."""
        ...

    def __call__(
        self,
        xyz: Tensor,
        features: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        pyramid: tuple[PyramidLevel, ...] | None = None,
    ) -> Tensor:
        """Tokens (B, S, C)."""
        ...


class Classifier(PretrainedModel):
    """Name the class of each cloud in a batch: an encoder, pooling over its tokens, a head.

    Expects clouds as ``data_spec`` says: centred, in the unit sphere, ``up_axis`` up, about
    ``num_points`` points. :class:`~ea_pointcloud.Predictor` brings any cloud there.

    Args:
        config: the architecture, with ``num_classes`` and ``pooling``.
        data_spec: class names and the form of the input; placeholders without it.
        encoder: clouds to tokens.
        head: pooled tokens to logits; its last layer is a :class:`torch.nn.Linear`.

    Shape:
        xyz (B, N, 3), features (B, N, F) or None, mask (B, N) bool or None -> logits (B, classes).
    """

    def __init__(
        self, config: Any, data_spec: DataSpec | None, encoder: Encoder, head: nn.Sequential
    ) -> None:
        super().__init__()
        self.config = config
        self.data_spec = data_spec or DataSpec.unnamed(config.num_classes)
        if len(self.data_spec.class_names) != config.num_classes:
            raise ValueError(
                f"data_spec must name num_classes={config.num_classes} classes, "
                f"got {len(self.data_spec.class_names)}"
            )
        self.encoder = encoder
        self.head = head

    def build_pyramid(self, xyz: Tensor, mask: Tensor | None = None) -> tuple[PyramidLevel, ...]:
        """Compute ahead what the network needs of the coordinates alone.

        Args:
            xyz: (B, N, 3).
            mask: (B, N) bool, True = real point.
        """
        return self.encoder.build_pyramid(xyz, mask)

    def forward(
        self,
        xyz: Tensor,
        features: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        pyramid: tuple[PyramidLevel, ...] | None = None,
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
        pyramid: tuple[PyramidLevel, ...] | None = None,
    ) -> Tensor:
        """What the last layer is given of each cloud, (B, C)."""
        token = self.encoder(xyz, features, mask=mask, pyramid=pyramid)  # (B, S, C)
        return self.head[:-1](self.pool(token, mask))

    def pool(self, token: Tensor, mask: Tensor | None) -> Tensor:
        """(B, C) of tokens (B, S, C), centres that are always real points; ``mask`` is of points.

        Another kind of token needs another rule.
        """
        del mask
        return torch.cat([_pooled(token, kind) for kind in self.config.pooling.split("_")], dim=-1)


def _pooled(token: Tensor, kind: str) -> Tensor:
    """(B, C) of tokens (B, S, C)."""
    if kind == "max":
        return token.amax(1)
    if kind == "top":
        return token.topk(-(-token.shape[1] // _TOP), dim=1).values.mean(1)
    return token.mean(1)


def classification_head(
    config: Any, token_channels: int, activation: nn.Module | None = None
) -> nn.Sequential:
    """Linear layers with dropout after each of ``config.head_channels``, and one for the logits.

    Args:
        config: with ``pooling``, ``head_channels``, ``dropout`` and ``num_classes``.
        token_channels: C of the tokens that are pooled.
        activation: of the layers; LeakyReLU without it.
    """
    layers: list[nn.Module] = []
    width = sum(
        config.pool_slots * config.slot_channels if kind == "memory" else token_channels
        for kind in config.pooling.split("_")
    )
    # As published: only the first layer of the head goes without a bias.
    for index, channels in enumerate(config.head_channels):
        layers += [
            LinearNorm(width, channels, activation=activation or nn.LeakyReLU(0.2), bias=index > 0),
            nn.Dropout(config.dropout),
        ]
        width = channels
    return nn.Sequential(*layers, nn.Linear(width, config.num_classes))
