"""Metrics under their full names, exact across processes (torchmetrics sums their state)."""

from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix


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
