"""Predictions of an evaluation, cloud by cloud, and the examples of them that a page shows."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ea_pointcloud.metrics import PartIoU
from ea_pointcloud.models import DataSpec, PretrainedModel
from ea_pointcloud.training.recipe_keys import Recipe
from ea_pointcloud.training.tasks import Batch

_TOPK = 3  # classes listed below a mistake


class ClassPredictions:
    """The predictions of a classifier; an :class:`~ea_pointcloud.training.evaluation.Hook`.

    Attributes:
        spec: of the network.
        clouds: each (n, 3) float32.
        label: (clouds,) the true classes.
        probs: (clouds, C) at the temperature of the weights, 1 where they have none.
    """

    spec: DataSpec

    def __init__(self) -> None:
        self.clouds: list[NDArray[np.float32]] = []
        self._label: list[Tensor] = []
        self._probs: list[Tensor] = []

    def __call__(self, model: PretrainedModel, batch: Batch, logits: Tensor) -> None:
        """Keep a batch."""
        self.spec = model.data_spec
        temperature = 1.0 if model.calibration is None else model.calibration.temperature
        self._probs.append((logits.double() / temperature).softmax(-1).cpu())
        self._label.append(batch["label"].cpu())
        mask = batch.get("mask")
        for row, xyz in enumerate(batch["xyz"]):
            self.clouds.append((xyz if mask is None else xyz[mask[row]]).cpu().numpy())

    @property
    def label(self) -> NDArray[np.int64]:
        """(clouds,)."""
        return torch.cat(self._label).numpy()

    @property
    def probs(self) -> NDArray[np.float64]:
        """(clouds, C)."""
        return torch.cat(self._probs).numpy()


@dataclass(frozen=True, eq=False)
class PartShape:
    """The prediction of a segmenter for one shape; only points with a label are kept.

    Args:
        xyz: (n, 3) float32.
        truth: (n,) part ids.
        pred: (n,) part ids.
        category: index in the category names.
        part_iou: of each part of the category.
        iou: their mean.
    """

    xyz: NDArray[np.float32]
    truth: NDArray[np.int64]
    pred: NDArray[np.int64]
    category: int
    part_iou: tuple[float, ...]
    iou: float


class PartPredictions:
    """The predictions of a segmenter; an :class:`~ea_pointcloud.training.evaluation.Hook`.

    Attributes:
        spec: of the network.
        shapes: in the order of the split; None for one without a labelled point.
    """

    spec: DataSpec

    def __init__(self) -> None:
        self.shapes: list[PartShape | None] = []
        self._metric: PartIoU | None = None

    def __call__(self, model: PretrainedModel, batch: Batch, logits: Tensor) -> None:
        """Keep a batch."""
        self.spec = model.data_spec
        if self._metric is None:
            self._metric = PartIoU(self.spec.parts).to(logits.device)
        truth, category = batch["part_label"], batch["category"]
        found = self._metric.each(logits, truth, category, batch["mask"])
        for row, valid in enumerate(found.valid):
            own = int(category[row])
            shape = PartShape(
                xyz=batch["xyz"][row][valid].cpu().numpy(),
                truth=truth[row][valid].cpu().numpy(),
                pred=found.pred[row][valid].cpu().numpy(),
                category=own,
                part_iou=tuple(found.part_iou[row].tolist()[: len(self.spec.parts[own])]),
                iou=float(found.iou[row]),
            )
            self.shapes.append(shape if len(shape.xyz) else None)

    def of_category(self, category: int) -> list[PartShape]:
        """The shapes of a category."""
        return [shape for shape in self.shapes if shape and shape.category == category]


Predictions = ClassPredictions | PartPredictions


def predictions_for(recipe: Recipe) -> Predictions:
    """An empty record for the predictions of a run of ``recipe``."""
    return PartPredictions() if recipe.task == "segmentation" else ClassPredictions()


@dataclass(frozen=True, eq=False)
class ClassExample:
    """A cloud with the prediction of one of the runs.

    Args:
        index: of the cloud in the split.
        xyz: (n, 3) float32.
        truth: its class.
        top: the most probable classes with their probabilities.
        run: index of the run.
        wrong_runs: the number of runs that misclassify it.
    """

    index: int
    xyz: NDArray[np.float32]
    truth: str
    top: tuple[tuple[str, float], ...]
    run: int
    wrong_runs: int

    @property
    def pred(self) -> str:
        """The most probable class."""
        return self.top[0][0]

    @property
    def prob(self) -> float:
        """Its probability."""
        return self.top[0][1]


def first_of_each_class(predictions: ClassPredictions) -> list[ClassExample]:
    """The first cloud of each class in the split, whatever the prediction."""
    _, first = np.unique(predictions.label, return_index=True)
    return [_class_example([predictions], index, 0) for index in first.tolist()]


def worst_mistakes(predictions: Sequence[ClassPredictions], count: int) -> list[ClassExample]:
    """The clouds for which a wrong class had the highest probability, in any of the runs."""
    probs = np.stack([run.probs for run in predictions])  # (R, clouds, C)
    wrong = probs.argmax(-1) != predictions[0].label
    confidence = np.where(wrong, probs.max(-1), 0.0)
    order = np.argsort(-confidence.max(0), kind="stable")[: min(count, int(wrong.any(0).sum()))]
    return [
        _class_example(predictions, index, int(confidence[:, index].argmax()))
        for index in order.tolist()
    ]


def _class_example(predictions: Sequence[ClassPredictions], index: int, run: int) -> ClassExample:
    names, truth = predictions[run].spec.class_names, int(predictions[run].label[index])
    probs = predictions[run].probs[index]
    best = np.argsort(-probs, kind="stable")[:_TOPK]
    return ClassExample(
        index=index,
        xyz=predictions[run].clouds[index],
        truth=names[truth],
        top=tuple((names[label], float(probs[label])) for label in best),
        run=run,
        wrong_runs=sum(int(each.probs[index].argmax()) != truth for each in predictions),
    )


@dataclass(frozen=True, eq=False)
class PartExample:
    """A shape of a category with its prediction.

    Args:
        title: ``"worst"`` or ``"median"``, numbered where there are several.
        index: of the shape in the split.
        shape: with the prediction of the first run.
        iou: mean over the runs.
    """

    title: str
    index: int
    shape: PartShape
    iou: float


def examples(
    predictions: Sequence[PartPredictions], category: int, worst: int
) -> list[PartExample]:
    """The worst shapes of a category by the mean IoU of the runs, then the one in the middle."""
    ious = {
        index: mean(other.iou for other in same if other is not None)
        for index, same in enumerate(zip(*(run.shapes for run in predictions), strict=True))
        if same[0] is not None and same[0].category == category
    }
    order = sorted(ious, key=ious.__getitem__)
    chosen = {
        index: "worst" if worst == 1 else f"worst {number}"
        for number, index in enumerate(order[:worst], 1)
    }
    if order:
        chosen.setdefault(order[len(order) // 2], "median")
    shapes = predictions[0].shapes
    return [
        PartExample(title, index, shape, ious[index])
        for index, title in chosen.items()
        if (shape := shapes[index]) is not None
    ]
