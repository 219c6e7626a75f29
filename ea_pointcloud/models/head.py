"""Heads of classifiers: layers from pooled tokens to logits, with an embedding where few-shot."""

from typing import Any

import torch
from torch import Tensor, nn

from ea_pointcloud.nn import LinearNorm, UnitEmbedding


class JoinInput(nn.Sequential):
    """Layers whose output is joined with their input.

    Shape:
        (B, C) -> (B, C' + C), C' channels of the last layer.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Join."""
        return torch.cat([super().forward(input), input], dim=-1)


def classification_head(
    config: Any, token_channels: int, activation: nn.Module | None = None
) -> nn.Sequential:
    """Linear layers with dropout after each of ``config.head_channels``, and one for the logits.

    Args:
        config: with ``pooling``, ``head_channels``, ``dropout``, ``num_classes``, and
            ``few_shot_rank``: if not 0, the logits are linear in an embedding of the output of
            the last layer and the pooled tokens.
        token_channels: C of the tokens that are pooled.
        activation: of the layers; LeakyReLU if omitted.
    """
    layers: list[nn.Module] = []
    width = sum(
        config.pool_slots * config.slot_channels if kind == "memory" else token_channels
        for kind in config.pooling.split("_")
    )
    pooled = width
    # As published: only the first layer of the head goes without a bias.
    for index, channels in enumerate(config.head_channels):
        layers += [
            LinearNorm(width, channels, activation=activation or nn.LeakyReLU(0.2), bias=index > 0),
            nn.Dropout(config.dropout),
        ]
        width = channels
    if config.few_shot_rank and config.head_channels:
        return logits_head([JoinInput(*layers)], width + pooled, config)
    return logits_head(layers, width, config)


def logits_head(layers: list[nn.Module], width: int, config: Any) -> nn.Sequential:
    """The layers, the embedding of a few-shot classifier, and a linear layer for the logits.

    Args:
        layers: with ``width`` outputs.
        width: C.
        config: with ``num_classes`` and ``few_shot_rank``.
    """
    if config.few_shot_rank:
        layers = [*layers, UnitEmbedding(width, config.few_shot_rank)]
    return nn.Sequential(*layers, nn.Linear(width, config.num_classes))


def embedding_inputs(model: Any, pooled: Tensor) -> Tensor:
    """(B, C) what the embedding of a few-shot classifier of the encoder of ``model`` takes.

    Args:
        model: a classifier in evaluation mode, not few-shot itself.
        pooled: (B, P) the input of its head.
    """
    layers = model.head[:-1]
    widened = any(isinstance(layer, LinearNorm) for layer in layers)
    return torch.cat([layers(pooled), pooled], dim=-1) if widened else pooled
