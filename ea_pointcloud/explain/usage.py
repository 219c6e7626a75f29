"""Use of the memory slots over a data set: by class, its entropy, and dead slots."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ea_pointcloud._checks import check_count, check_positive
from ea_pointcloud.explain.maps import AttentionMap, attention_layers, attention_maps
from ea_pointcloud.io.pool import track
from ea_pointcloud.models import Classifier, Segmenter


class LabelledClouds(Protocol):
    """The interface of a data set, as those of this package have it."""

    def __len__(self) -> int:
        """Clouds."""
        ...

    def __getitem__(self, index: list[int]) -> dict[str, Tensor]:
        """``xyz``, ``label`` or ``category``, and where there are any ``features`` and ``mask``."""
        ...


@dataclass(frozen=True, eq=False)
class SlotUsage:
    """The use of one layer's memory slots over a data set.

    A cloud's use of a slot is the mean over its points of the double-normalised map; it sums to 1
    over the slots, so that each slot's fair share is 1 / M.

    Args:
        layer: index of the attention layer.
        class_names: C classes, or categories of a segmenter.
        shapes: (C,) int64 clouds of each class.
        usage: (C, M) float64 mean over the clouds of a class; NaN for a class without clouds.
        shared: (C, M) float64 share of a class's clouds that use the slot more than its fair share:
            1 for a slot that all of them share.
        peak: (M,) float64 the greatest weight that any point of any cloud gives the slot.
        point_entropy: mean over all points of the entropy of their row, in nats.
        dead_below: fair shares below which the peak of a dead slot lies.
    """

    layer: int
    class_names: tuple[str, ...]
    shapes: Tensor
    usage: Tensor
    shared: Tensor
    peak: Tensor
    point_entropy: float
    dead_below: float = 1.0

    @property
    def overall(self) -> Tensor:
        """(M,) mean over all clouds."""
        weight = self.shapes.double() / self.shapes.sum()
        return (self.usage.nan_to_num() * weight[:, None]).sum(0)

    @property
    def entropy(self) -> float:
        """Of the overall usage, in nats; log M where all slots are used alike."""
        return float(-torch.special.xlogy(self.overall, self.overall).sum())

    @property
    def effective_slots(self) -> float:
        """How many slots, used alike, would have this entropy: 1..M."""
        return math.exp(self.entropy)

    @property
    def slots_per_point(self) -> float:
        """How many slots a point attends to, by the entropy of its row: 1..M."""
        return math.exp(self.point_entropy)

    @property
    def dead(self) -> tuple[int, ...]:
        """Slots to which no point of any cloud gives as much as ``dead_below`` fair shares."""
        least = self.dead_below / len(self.peak)
        return tuple((self.peak < least).nonzero().flatten().tolist())

    def shared_by_all(self) -> dict[str, tuple[int, ...]]:
        """Class -> the slots that each of its clouds uses more than their fair share."""
        return {
            name: tuple((row == 1).nonzero().flatten().tolist())
            for name, row in zip(self.class_names, self.shared, strict=True)
        }

    def as_dict(self) -> dict[str, Any]:
        """Everything as lists and numbers for JSON; None for a class without clouds."""
        by_class = {}
        shared = self.shared_by_all()
        for index, name in enumerate(self.class_names):
            count = int(self.shapes[index])
            by_class[name] = {
                "shapes": count,
                "usage": self.usage[index].tolist() if count else None,
                "shared": self.shared[index].tolist() if count else None,
                "shared_by_all": list(shared[name]),
            }
        return {
            "layer": self.layer,
            "slots": len(self.peak),
            "entropy": self.entropy,
            "effective_slots": self.effective_slots,
            "slots_per_point": self.slots_per_point,
            "dead_below": self.dead_below,
            "dead": list(self.dead),
            "usage": self.overall.tolist(),
            "peak": self.peak.tolist(),
            "classes": by_class,
        }


def slot_usage(
    model: Classifier | Segmenter,
    dataset: LabelledClouds,
    class_names: Sequence[str],
    *,
    layers: Sequence[int] | None = None,
    batch_size: int = 32,
    dead_below: float = 1.0,
) -> list[SlotUsage]:
    """Measure how the clouds of a data set use the memory slots; memory is that of one batch.

    Args:
        model: a network with external attention.
        dataset: clouds as the network was trained on.
        class_names: of its labels, or categories, in order.
        layers: indices of attention layers, -1 is the last; all if omitted.
        batch_size: clouds at a time.
        dead_below: a slot is dead where no point gives it as much as this many fair shares (1 / M).

    Returns:
        One for each layer, in the order of ``layers``.

    Raises:
        ValueError: if the data set is empty or a layer does not exist.
    """
    check_count("batch_size", batch_size)
    check_positive("dead_below", dead_below)
    if len(dataset) == 0:
        raise ValueError("dataset must have at least one cloud, got none")
    indices = range(len(attention_layers(model))) if layers is None else layers
    device = next(model.parameters()).device
    totals: list[_Total] = []
    starts = range(0, len(dataset), batch_size)
    for start in track(starts, f"attention: batches of {batch_size} clouds"):
        batch = dataset[list(range(start, min(start + batch_size, len(dataset))))]
        batch = {name: value.to(device) for name, value in batch.items()}
        label = batch["label"] if "label" in batch else batch["category"]
        maps = attention_maps(
            model, batch["xyz"], batch.get("features"), mask=batch.get("mask"), layers=indices
        )
        if not totals:
            totals = [_Total(len(class_names), one) for one in maps]
        for total, one in zip(totals, maps, strict=True):
            total.add(one, label)
    return [total.result(tuple(class_names), dead_below) for total in totals]


class _Total:
    """Running sums over clouds, in float64: a data set has millions of points."""

    def __init__(self, num_classes: int, like: AttentionMap) -> None:
        self.layer = like.layer
        weights = like.weights
        size = weights.shape[-1]
        options = {"dtype": torch.float64, "device": weights.device}
        self.usage = torch.zeros(num_classes, size, **options)
        self.shared = torch.zeros(num_classes, size, **options)
        self.peak = torch.zeros(size, **options)
        self.shapes = torch.zeros(num_classes, dtype=torch.long, device=weights.device)
        self.entropy = torch.zeros((), **options)
        self.points = 0

    def add(self, one: AttentionMap, label: Tensor) -> None:
        """Add a batch of clouds with their labels (B,)."""
        usage = one.usage().double()
        self.usage.index_add_(0, label, usage)
        self.shared.index_add_(0, label, (usage > 1 / usage.shape[1]).double())
        self.shapes += label.bincount(minlength=len(self.shapes))
        self.peak = self.peak.maximum(one.weights.amax((0, 1)).double())
        # Rows of padded points are zero and have no entropy.
        self.entropy -= torch.special.xlogy(one.weights, one.weights).sum(dtype=torch.float64)
        self.points += one.weights.shape[:2].numel() if one.mask is None else int(one.mask.sum())

    def result(self, class_names: tuple[str, ...], dead_below: float) -> SlotUsage:
        """Means, on the CPU."""
        shapes = self.shapes.double()[:, None]
        return SlotUsage(
            layer=self.layer,
            class_names=class_names,
            shapes=self.shapes.cpu(),
            usage=(self.usage / shapes).cpu(),
            shared=(self.shared / shapes).cpu(),
            peak=self.peak.cpu(),
            point_entropy=float(self.entropy) / self.points,
            dead_below=dead_below,
        )
