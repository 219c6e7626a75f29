"""Classifiers of whole clouds: what all have in common, and the external attention transformer."""

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ea_pointcloud.models.config import ClassifierConfig
from ea_pointcloud.models.encoder import PointEncoder
from ea_pointcloud.models.hub import DataSpec, PretrainedModel
from ea_pointcloud.nn import LinearNorm
from ea_pointcloud.ops import PyramidLevel

_TOP = 4  # "top" pooling takes one in so many


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
    width = token_channels * len(config.pooling.split("_"))
    # As published: only the first layer of the head goes without a bias.
    for index, channels in enumerate(config.head_channels):
        layers += [
            LinearNorm(width, channels, activation=activation or nn.LeakyReLU(0.2), bias=index > 0),
            nn.Dropout(config.dropout),
        ]
        width = channels
    return nn.Sequential(*layers, nn.Linear(width, config.num_classes))


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
