"""Metrics under their full names, exact across processes (torchmetrics sums their state)."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

from ea_pointcloud._checks import check_mask, values_readable

_SCALARS = ("instance_miou", "category_miou", "point_accuracy")


class MeanClassAccuracy(MulticlassConfusionMatrix):
    """Mean over the classes that occur in the truth of the share of their clouds named right.

    The field's mAcc; scikit-learn's balanced accuracy. Updated with logits (n, C) or classes (n,)
    and the true classes (n,).
    """

    higher_is_better = True

    def compute(self) -> Tensor:
        """Scalar in 0..1, NaN before any update."""
        matrix = super().compute().double()  # rows are the truth
        total = matrix.sum(1)
        occurs = total > 0
        return (matrix.diagonal()[occurs] / total[occurs]).mean().float()


def classification_metrics(num_classes: int, prefix: str = "") -> MetricCollection:
    """``overall_accuracy`` (right / all) and ``mean_class_accuracy``, updated together."""
    return MetricCollection(
        {
            "overall_accuracy": MulticlassAccuracy(num_classes, average="micro"),
            "mean_class_accuracy": MeanClassAccuracy(num_classes),
        },
        prefix=prefix,
        compute_groups=False,
    )


def class_accuracy(confusion: Tensor) -> list[float | None]:
    """Share of each class named right, None where it never occurs.

    Args:
        confusion: (C, C) counts, rows are the truth.
    """
    right, total = confusion.diagonal().tolist(), confusion.sum(1).tolist()
    return [hits / count if count else None for hits, count in zip(right, total, strict=True)]


class PartIoU(Metric):
    """Part segmentation by the intersection over union (IoU) of the parts of each shape.

    The IoU of a shape is the mean over the parts of its category, where a part absent from truth
    and prediction counts 1. Logits are turned into parts by the argmax among the parts of the
    shape's category, which is what most papers print; ``restrict=False`` takes it among all parts,
    so that a point can be lost to another category, and puts ``all_parts_`` before every name.
    Points with a label below 0 are left out, and so is a shape without a point. Sums are kept in
    float64 and add up across processes.

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
        """Add a batch of shapes.

        Labels and categories are compared with the table on the CPU only.

        Args:
            logits: (B, N, P), or the predicted part ids (B, N) int, which are taken as they are.
            part_label: (B, N) int, below 0 for a point without one.
            category: (B,) int.
            mask: (B, N) bool, True = real point.

        Raises:
            ValueError: if the shapes do not agree, or a category or a label is not in the table.
        """
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
        counted = valid.any(1)
        shape_iou = iou.sum(1) / has.sum(1).clamp_min(1) * counted
        # A product and no scatter: atomic additions would round differently at every run.
        of_category = category == torch.arange(len(self.parts), device=category.device)[:, None]
        self.iou_sum = self.iou_sum + of_category.double() @ shape_iou
        self.shapes = self.shapes + (of_category & counted).sum(1)
        self.right = self.right + ((pred == part_label) & valid).sum()
        self.points = self.points + valid.sum()

    def compute(self) -> dict[str, Tensor]:
        """The figures so far, in 0..1, NaN where nothing occurred.

        Returns:
            ``instance_miou``: () mean over all shapes.
            ``category_miou``: () mean over the categories that occur of the mean of their shapes.
            ``category_iou``: (C,) mean of the shapes of each category.
            ``point_accuracy``: () share of all points labelled right.
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
    """One figure of :class:`PartIoU`, which is what a logger can take."""

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
