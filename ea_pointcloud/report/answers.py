"""What networks answered, cloud by cloud: kept while they are evaluated, and the worst of it."""

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

_CANDIDATES = 3  # classes named beside a mistake


class ClassAnswers:
    """The answers of one classifier; an :class:`~ea_pointcloud.training.measure.Hook`.

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
    """What a segmenter made of one shape; only points with a label are kept.

    Args:
        xyz: (n, 3) float32.
        truth: (n,) part ids.
        pred: (n,) part ids.
        category: its place in the category names.
        part_iou: by the parts of the category.
        iou: their mean.
    """

    xyz: NDArray[np.float32]
    truth: NDArray[np.int64]
    pred: NDArray[np.int64]
    category: int
    part_iou: tuple[float, ...]
    iou: float


class PartAnswers:
    """The answers of one segmenter; an :class:`~ea_pointcloud.training.measure.Hook`.

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


Answers = ClassAnswers | PartAnswers


def answers_for(recipe: Recipe) -> Answers:
    """What keeps the answers of a run of ``recipe``."""
    return PartAnswers() if recipe.task == "segmentation" else ClassAnswers()


@dataclass(frozen=True, eq=False)
class ClassExample:
    """A cloud of a class, with the prediction.

    Args:
        index: its place in the split.
        xyz: (n, 3) float32.
        truth: its class.
        pred: the most probable class.
        prob: its probability.
    """

    index: int
    xyz: NDArray[np.float32]
    truth: str
    pred: str
    prob: float


def first_of_each_class(answers: ClassAnswers) -> list[ClassExample]:
    """The first cloud of each class that occurs: chosen by its place, whatever the prediction."""
    names, probs = answers.spec.class_names, answers.probs
    labels, first = np.unique(answers.label, return_index=True)
    return [
        ClassExample(
            index=index,
            xyz=answers.clouds[index],
            truth=names[label],
            pred=names[int(probs[index].argmax())],
            prob=float(probs[index].max()),
        )
        for label, index in zip(labels.tolist(), first.tolist(), strict=True)
    ]


@dataclass(frozen=True, eq=False)
class Mistake:
    """A cloud with the wrong name.

    Args:
        index: its place in the split.
        xyz: (n, 3) float32.
        truth: its class.
        top: the most probable classes with their probabilities.
        run: the run that was the most sure of a wrong class, by its place.
        wrong_runs: how many runs name it wrong.
    """

    index: int
    xyz: NDArray[np.float32]
    truth: str
    top: tuple[tuple[str, float], ...]
    run: int
    wrong_runs: int


def worst_mistakes(answers: Sequence[ClassAnswers], count: int) -> list[Mistake]:
    """The clouds for which a wrong class had the highest probability, in any of the runs."""
    names, label = answers[0].spec.class_names, answers[0].label
    probs = np.stack([run.probs for run in answers])  # (R, clouds, C)
    wrong = probs.argmax(-1) != label
    sure = np.where(wrong, probs.max(-1), 0.0)
    order = np.argsort(-sure.max(0), kind="stable")[: min(count, int(wrong.any(0).sum()))]
    mistakes = []
    for index in order.tolist():
        run = int(sure[:, index].argmax())
        best = np.argsort(-probs[run, index], kind="stable")[:_CANDIDATES]
        mistakes.append(
            Mistake(
                index=index,
                xyz=answers[0].clouds[index],
                truth=names[label[index]],
                top=tuple((names[place], float(probs[run, index, place])) for place in best),
                run=run,
                wrong_runs=int(wrong[:, index].sum()),
            )
        )
    return mistakes


@dataclass(frozen=True, eq=False)
class Example:
    """A shape to show of a category.

    Args:
        title: ``"worst"`` or ``"median"``, numbered where there are several.
        index: its place in the split.
        shape: what the first run made of it.
        iou: mean over the runs.
    """

    title: str
    index: int
    shape: PartShape
    iou: float


def examples(answers: Sequence[PartAnswers], category: int, worst: int) -> list[Example]:
    """The worst shapes of a category by the mean IoU of the runs, then the one in the middle."""
    ious = {
        index: mean(other.iou for other in same if other is not None)
        for index, same in enumerate(zip(*(run.shapes for run in answers), strict=True))
        if same[0] is not None and same[0].category == category
    }
    order = sorted(ious, key=ious.__getitem__)
    chosen = {
        index: "worst" if worst == 1 else f"worst {place + 1}"
        for place, index in enumerate(order[:worst])
    }
    if order:
        chosen.setdefault(order[len(order) // 2], "median")
    shapes = answers[0].shapes
    return [
        Example(title, index, shape, ious[index])
        for index, title in chosen.items()
        if (shape := shapes[index]) is not None
    ]
