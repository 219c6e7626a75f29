"""Metrics under their full names, exact across processes (torchmetrics sums their state)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import (
    BinaryCalibrationError,
    MulticlassAccuracy,
    MulticlassConfusionMatrix,
)
from torchmetrics.utilities import dim_zero_cat

from ea_pointcloud._checks import check_mask, values_readable

__all__ = [
    "CalibrationError",
    "MeanClassAccuracy",
    "MeanLoss",
    "PartIoU",
    "ReliabilityBin",
    "ShapeIoU",
    "class_accuracy",
    "classification_metrics",
    "part_segmentation_metrics",
]

_SCALARS = ("instance_miou", "category_miou", "point_accuracy")
_BINS = 15  # of probabilities


class MeanClassAccuracy(MulticlassConfusionMatrix):
    """Mean accuracy (recall) over the classes that occur: mAcc, scikit-learn's balanced accuracy.

    Updated with logits (n, C) or classes (n,) and the true classes (n,).
    """

    higher_is_better = True

    def compute(self) -> Tensor:
        """Scalar in 0..1, NaN before any update."""
        matrix = super().compute().double()  # rows are true classes
        total = matrix.sum(1)
        occurs = total > 0
        return (matrix.diagonal()[occurs] / total[occurs]).mean().float()


class MeanLoss(Metric):
    """Mean of a loss over all clouds of all batches and processes.

    Unlike torchmetrics' ``MeanMetric`` it weighs batches by their size without a check for NaN at
    every step, which would synchronise the GPU. Sums are float64.
    """

    full_state_update = False
    higher_is_better = False
    is_differentiable = False
    total: Tensor  # () float64
    clouds: Tensor  # () int64

    def __init__(self) -> None:
        super().__init__()
        zero = torch.zeros((), dtype=torch.float64)
        self.add_state("total", zero, dist_reduce_fx="sum")
        self.add_state("clouds", zero.long(), dist_reduce_fx="sum")

    def update(self, loss: Tensor, clouds: int) -> None:
        """Add the mean loss () of a batch of ``clouds`` clouds."""
        self.total = self.total + loss.detach() * clouds
        self.clouds = self.clouds + clouds

    def compute(self) -> Tensor:
        """() the mean, NaN before any update."""
        return (self.total / self.clouds).float()


@dataclass(frozen=True)
class ReliabilityBin:
    """Predictions of about the same confidence.

    Args:
        count: their number.
        prob: their mean confidence.
        accuracy: the fraction of them that is correct.
    """

    count: int
    prob: float
    accuracy: float


class CalibrationError(BinaryCalibrationError):
    """Expected calibration error over 15 bins of equal width.

    The mean over the predictions of the difference between confidence (the highest probability) and
    accuracy in their bin.

    Args:
        temperature: divides the logits.

    Reference:
        Guo et al., On calibration of modern neural networks, ICML 2017.
    """

    def __init__(self, temperature: float = 1.0) -> None:
        super().__init__(n_bins=_BINS, norm="l1")
        self.temperature = temperature

    def update(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, logits: Tensor, label: Tensor
    ) -> None:
        """Add predictions: logits (n, C) and the true classes (n,)."""
        # In float64 because torchmetrics sums a bin in the dtype of its input.
        prob, pred = (logits.double() / self.temperature).softmax(-1).max(-1)
        below_one = 1 - torch.finfo(prob.dtype).eps  # 1 itself would get a bin of its own
        super().update(prob.clamp_max(below_one), (pred == label).long())

    def bins(self) -> list[ReliabilityBin]:
        """The bins that are not empty, by ascending confidence."""
        prob = dim_zero_cat(self.confidences)  # pyright: ignore[reportArgumentType]
        correct = dim_zero_cat(self.accuracies)  # pyright: ignore[reportArgumentType]
        index = (prob * _BINS).long()
        sums = [torch.bincount(index, weight, _BINS).tolist() for weight in (None, prob, correct)]
        return [
            ReliabilityBin(n, total / n, hits / n)
            for n, total, hits in zip(*sums, strict=True)
            if n
        ]


def classification_metrics(num_classes: int, prefix: str = "") -> MetricCollection:
    """``overall_accuracy`` and ``mean_class_accuracy``, updated together."""
    return MetricCollection(
        {
            "overall_accuracy": MulticlassAccuracy(num_classes, average="micro"),
            "mean_class_accuracy": MeanClassAccuracy(num_classes),
        },
        prefix=prefix,
        compute_groups=False,
    )


def class_accuracy(confusion: Tensor) -> list[float | None]:
    """Accuracy (recall) of each class, None where it does not occur.

    Args:
        confusion: (C, C) counts, rows are true classes.
    """
    correct, total = confusion.diagonal().tolist(), confusion.sum(1).tolist()
    return [hits / count if count else None for hits, count in zip(correct, total, strict=True)]


class ShapeIoU(NamedTuple):
    """Part IoU of a batch of shapes."""

    pred: Tensor  # (B, N) int64, part ids
    valid: Tensor  # (B, N) bool, labelled points
    part_iou: Tensor  # (B, K) float64, in the order of the category's part ids; then zeros
    iou: Tensor  # (B,) float64, mean over the parts of the category


class PartIoU(Metric):
    """Intersection over union (IoU) of the parts of each shape.

    The IoU of a shape is the mean over the parts of its category, where a part absent from truth
    and prediction counts 1. The prediction is the argmax among the parts of the shape's category,
    as in most papers, or with ``restrict=False`` among all parts; every name then begins with
    ``all_parts_``. Points with a label below 0 are ignored, and so is a shape without a point. Sums
    are float64.

    Args:
        parts: the part ids of each category, each id in one category.
        restrict: whether the argmax is among the parts of the category.

    Raises:
        ValueError: if there is no part or an id is negative or in two categories.

    Reference:
        Qi et al., PointNet, CVPR 2017, section 5.1.
    """

    full_state_update = False
    higher_is_better = True
    is_differentiable = False
    iou_sum: Tensor  # (C,) float64, of the shapes of each category
    shapes: Tensor  # (C,) int64
    right: Tensor  # () int64, points
    points: Tensor  # () int64
    _ids: Tensor  # (C, K) int64, the first of the row where a category has fewer than K parts
    _has: Tensor  # (C, K) bool, whether a slot is a part

    def __init__(self, parts: Sequence[Sequence[int]], *, restrict: bool = True) -> None:
        super().__init__()
        flat = [part for ids in parts for part in ids]
        if not flat or min(flat) < 0 or len(set(flat)) != len(flat):
            raise ValueError(
                "parts must give each category its own part ids, at least 0 and none twice, "
                f"got {[list(ids) for ids in parts]}"
            )
        self.parts = tuple(tuple(ids) for ids in parts)
        self.restrict = restrict
        slots = max(map(len, self.parts))
        rows = [[*ids, *[next(iter(ids), 0)] * (slots - len(ids))] for ids in self.parts]
        counts = torch.tensor([len(ids) for ids in self.parts])
        self.register_buffer("_ids", torch.tensor(rows), persistent=False)
        self.register_buffer("_has", torch.arange(slots) < counts[:, None], persistent=False)
        zeros = torch.zeros(len(self.parts), dtype=torch.float64)
        self.add_state("iou_sum", zeros, dist_reduce_fx="sum")
        self.add_state("shapes", zeros.long(), dist_reduce_fx="sum")
        self.add_state("right", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("points", torch.tensor(0), dist_reduce_fx="sum")

    def update(
        self, logits: Tensor, part_label: Tensor, category: Tensor, mask: Tensor | None = None
    ) -> None:
        """Add a batch of shapes; values of labels and categories are checked on the CPU only.

        Args:
            logits: (B, N, P), or the predicted part ids (B, N) int.
            part_label: (B, N) int, below 0 for a point without one.
            category: (B,) int.
            mask: (B, N) bool, True = real point.

        Raises:
            ValueError: if the shapes do not agree, or a category or a label is not in the table.
        """
        found = self.each(logits, part_label, category, mask)
        counted = found.valid.any(1)
        shape_iou = found.iou * counted
        # A product and no scatter: atomic additions would round differently at every run.
        of_category = category == torch.arange(len(self.parts), device=category.device)[:, None]
        self.iou_sum = self.iou_sum + of_category.double() @ shape_iou
        self.shapes = self.shapes + (of_category & counted).sum(1)
        self.right = self.right + ((found.pred == part_label) & found.valid).sum()
        self.points = self.points + found.valid.sum()

    def each(
        self, logits: Tensor, part_label: Tensor, category: Tensor, mask: Tensor | None = None
    ) -> "ShapeIoU":
        """The IoU of each shape; arguments and errors are those of :meth:`update`."""
        self._check(logits, part_label, category, mask)
        ids, has = self._ids[category], self._has[category]  # (B, K)
        pred = self._predict(logits, ids, has) if logits.ndim == 3 else logits
        valid = part_label >= 0 if mask is None else mask & (part_label >= 0)
        in_truth = (part_label[..., None] == ids[:, None]) & valid[..., None]  # (B, N, K)
        in_pred = (pred[..., None] == ids[:, None]) & valid[..., None]
        if values_readable(part_label) and not bool((in_truth & has[:, None]).any(-1)[valid].all()):
            raise ValueError(
                "part_label has a part that is not in the shape's category; check that parts and "
                "category belong to the data"
            )
        union = (in_truth | in_pred).sum(1)
        iou = (in_truth & in_pred).sum(1).double() / union.clamp_min(1)
        iou = iou.masked_fill(union == 0, 1.0) * has
        return ShapeIoU(pred, valid, iou, iou.sum(1) / has.sum(1).clamp_min(1))

    def compute(self) -> dict[str, Tensor]:
        """The figures so far, in 0..1, NaN where nothing occurred.

        Returns:
            ``instance_miou``: () mean over all shapes.
            ``category_miou``: () mean of ``category_iou`` over the categories that occur.
            ``category_iou``: (C,) mean of the shapes of each category.
            ``point_accuracy``: () over all points.
        """
        category_iou = self.iou_sum / self.shapes
        values = {
            "instance_miou": self.iou_sum.sum() / self.shapes.sum(),
            "category_miou": category_iou.nanmean(),
            "category_iou": category_iou,
            "point_accuracy": self.right.double() / self.points,
        }
        return {self._prefix + name: value.float() for name, value in values.items()}

    def extra_repr(self) -> str:
        """The convention and the sizes."""
        count = sum(map(len, self.parts))
        return f"categories={len(self.parts)}, parts={count}, restrict={self.restrict}"

    @property
    def _prefix(self) -> str:
        return "" if self.restrict else "all_parts_"

    def _predict(self, logits: Tensor, ids: Tensor, has: Tensor) -> Tensor:
        """(B, N) part ids with the highest logit."""
        if not self.restrict:
            return logits.argmax(-1)
        own = logits.gather(2, ids[:, None].expand(-1, logits.shape[1], -1))  # (B, N, K)
        slot = own.masked_fill(~has[:, None], -torch.inf).argmax(-1)
        return ids.gather(1, slot)

    def _check(
        self, logits: Tensor, part_label: Tensor, category: Tensor, mask: Tensor | None
    ) -> None:
        given = logits.ndim == 2 and not logits.is_floating_point()
        num_parts = 1 + max(max(ids, default=0) for ids in self.parts)
        if not given and (logits.ndim != 3 or logits.shape[2] < num_parts):
            raise ValueError(
                f"logits must have shape (B, N, P) with P >= {num_parts}, or be part ids (B, N), "
                f"got {logits.dtype} {tuple(logits.shape)}"
            )
        shape = logits.shape[:2]
        if part_label.shape != shape or category.shape != shape[:1]:
            raise ValueError(
                f"part_label and category must have shapes {tuple(shape)} and {tuple(shape[:1])} "
                f"as the logits, got {tuple(part_label.shape)} and {tuple(category.shape)}"
            )
        check_mask(mask, logits)
        if values_readable(category) and bool(
            ((category < 0) | (category >= len(self.parts))).any()
        ):
            raise ValueError(
                f"category must be between 0 and {len(self.parts) - 1}, got {category.tolist()}"
            )


class _PartScalar(PartIoU):
    """One figure of :class:`PartIoU`, for a logger."""

    def __init__(self, parts: Sequence[Sequence[int]], name: str, *, restrict: bool) -> None:
        super().__init__(parts, restrict=restrict)
        self.name = name

    def compute(self) -> Tensor:
        """Scalar in 0..1, NaN before any update."""
        return super().compute()[self._prefix + self.name]


def part_segmentation_metrics(
    parts: Sequence[Sequence[int]], prefix: str = "", *, restrict: bool = True
) -> MetricCollection:
    """``instance_miou``, ``category_miou`` and ``point_accuracy``, updated together.

    Args:
        parts: the part ids of each category.
        prefix: comes before every name.
        restrict: see :class:`PartIoU`; ``False`` puts ``all_parts_`` before every name.
    """
    names = {name if restrict else f"all_parts_{name}": name for name in _SCALARS}
    return MetricCollection(
        {key: _PartScalar(parts, name, restrict=restrict) for key, name in names.items()},
        prefix=prefix,
        compute_groups=[list(names)],  # one update for all of them
    )
