"""Attention maps of external attention: the weight of every point in every memory slot."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ea_pointcloud._checks import check_choice, check_count, check_no_empty_cloud, check_range
from ea_pointcloud.inference.segment import CHUNK
from ea_pointcloud.models import Classifier, Segmenter
from ea_pointcloud.models.base import stem_input
from ea_pointcloud.nn import ExternalAttention, MultiHeadExternalAttention, evaluating
from ea_pointcloud.ops import PyramidLevel, gather_points, interpolate_features

External = ExternalAttention | MultiHeadExternalAttention
NORMALIZATIONS = ("double", "points")


@dataclass(frozen=True, eq=False)
class AttentionMap:
    """The map of one layer at the points that attend: all of them, or a network's centres.

    Args:
        layer: index of the attention layer.
        slots: the memory slots of the columns of ``weights``.
        xyz: (B, S, 3) the points that attend, S = N where the network groups nothing.
        weights: (B, S, slots) float32, zero at padded points.
        mask: (B, S) bool, True = real point; None where all are.
    """

    layer: int
    slots: tuple[int, ...]
    xyz: Tensor
    weights: Tensor
    mask: Tensor | None = None

    def at(self, xyz: Tensor) -> Tensor:
        """(B, N, slots): the map interpolated to points (B, N, 3) from the three nearest.

        Rows that sum to 1 still do. The points that attend get their own weights.
        """
        if xyz is self.xyz:
            return self.weights
        points, weights, lengths = self.xyz, self.weights, None
        if self.mask is not None:  # padding goes last
            order = self.mask.byte().argsort(dim=1, descending=True, stable=True)
            points, weights = gather_points(points, order), gather_points(weights, order)
            lengths = self.mask.sum(1)
        return interpolate_features(xyz, points, weights, min(3, points.shape[1]), lengths=lengths)

    def usage(self) -> Tensor:
        """(B, slots) mean weight of each slot over the real points of each cloud."""
        if self.mask is None:
            return self.weights.mean(1)
        return self.weights.sum(1) / self.mask.sum(1, keepdim=True)


def most_used(maps: Sequence[AttentionMap], count: int) -> tuple[int, ...]:
    """The slots used most over all clouds of some maps of one layer, most used first.

    Args:
        maps: of the same layer and slots, of any clouds.
        count: how many, >= 1; at most all slots of the maps come back, ties go to the lower one.
    """
    check_count("count", count)
    usage = torch.cat([one.usage() for one in maps]).mean(0)
    order = usage.argsort(descending=True, stable=True)[:count]
    return tuple(maps[0].slots[column] for column in order.tolist())


def attention_layers(model: nn.Module) -> list[External]:
    """The external attention layers of a network, first to last.

    Raises:
        ValueError: if it has none.
    """
    kinds = (ExternalAttention, MultiHeadExternalAttention)
    layers = [module for module in model.modules() if isinstance(module, kinds)]
    if not layers:
        raise ValueError(
            f"model must have external attention, but this {type(model).__name__} has none and so "
            "no memory slots; build or train it with attention='external'"
        )
    return layers


@torch.no_grad()
def attention_maps(
    model: Classifier | Segmenter,
    xyz: Tensor,
    features: Tensor | None = None,
    *,
    mask: Tensor | None = None,
    layers: Sequence[int] | None = None,
    slots: Sequence[int] | None = None,
    normalization: str = "double",
    head: int | None = None,
) -> list[AttentionMap]:
    """Find the weight of every point in the memory slots of a network's attention layers.

    Runs the network up to its last attention layer, in evaluation mode and without a graph. Only
    the requested columns are kept: a segmenter works on a million points in chunks, and one slot of
    it costs 4 MB. The category of a segmenter enters after its attention and changes nothing.

    Args:
        model: a network with external attention.
        xyz: (B, N, 3) as the network expects, on its device, see :func:`subject_of`.
        features: (B, N, F) where the network was trained with some.
        mask: (B, N) bool, True = real point.
        layers: indices of attention layers, -1 is the last; all if omitted.
        slots: memory slots, 0..M-1; all if omitted.
        normalization: ``"double"``, the weights by which the layer mixes its values, whose rows sum
            to 1 over the slots; or ``"points"``, before the second normalisation, whose columns sum
            to 1 over the points that attend.
        head: index of a head of multi-head attention; the mean over the heads if omitted.

    Returns:
        One map a layer, in the order of ``layers``.

    Raises:
        ValueError: if the network has no external attention, a layer, slot or head does not exist,
            or its layers do not normalise over the points.
    """
    modules = attention_layers(model)
    count, size = len(modules), len(modules[0].key_memory)
    indices = list(range(count)) if layers is None else list(layers)
    columns = list(range(size)) if slots is None else list(slots)
    for index in indices:
        check_range("layers", index, -count, count - 1)
    for slot in columns:
        check_range("slots", slot, 0, size - 1, "M-1")
    norm = _norm_of(normalization, modules[0])
    check_no_empty_cloud(mask)

    collected: dict[int, list[Tensor]] = {index % count: [] for index in indices}
    pyramid = model.build_pyramid(xyz, mask)
    with ExitStack() as hooks, evaluating(model):
        for index, chunks in collected.items():
            hook = _MapHook(chunks, columns, head, norm)
            handle = modules[index].register_forward_pre_hook(hook, with_kwargs=True)
            hooks.callback(handle.remove)
        _attend(model, xyz, features, mask, pyramid)
    attending = pyramid[-1].xyz if pyramid else xyz
    real = mask if attending is xyz else None  # centres are always real points
    weights = {index: torch.cat(chunks, dim=1) for index, chunks in collected.items()}
    layers = [index % count for index in indices]
    return [AttentionMap(i, tuple(columns), attending, weights[i], real) for i in layers]


def _norm_of(normalization: str, layer: External) -> str | None:
    """The normalisation of the layer's map; None for that of the layer."""
    check_choice("normalization", normalization, NORMALIZATIONS)
    if normalization == "double":
        return None
    if layer.norm_kind == "softmax":
        raise ValueError(
            f"normalization must be 'double', got {normalization!r}: this network was built with "
            "norm='softmax', which normalises over the slots alone"
        )
    return normalization


@dataclass
class _MapHook:
    """Computes the map of a layer's input before the layer runs."""

    chunks: list[Tensor]  # (B, n, slots) of successive chunks of the cloud
    slots: list[int]
    head: int | None
    norm: str | None

    def __call__(self, layer: External, inputs: tuple[Any, ...], options: dict[str, Any]) -> None:
        weights = layer.attention_map(*inputs, **options, norm=self.norm)
        if weights.ndim == 4:  # (B, n, heads, M)
            if self.head is not None:
                check_range("head", self.head, 0, weights.shape[2] - 1, "heads-1")
            weights = weights.mean(2) if self.head is None else weights[:, :, self.head]
        elif self.head is not None:
            raise ValueError(f"head was given ({self.head}), but this network has a single head")
        self.chunks.append(weights[..., self.slots])


def _attend(
    model: Classifier | Segmenter,
    xyz: Tensor,
    features: Tensor | None,
    mask: Tensor | None,
    pyramid: tuple[PyramidLevel, ...],
) -> None:
    """Run the network up to its last attention layer."""
    if features is not None:
        features = model.scale_features(features)
    if isinstance(model, Classifier):
        model.encoder(xyz, features, mask=mask, pyramid=pyramid)
        return
    points = stem_input(xyz, features, mask, model.config.feature_channels)
    chunk = CHUNK if xyz.shape[1] > CHUNK else None
    model.trunk.encode(points.to(model.out.weight.dtype), xyz, mask, pyramid, chunk)
