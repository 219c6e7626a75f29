"""Measuring a network on a split: what one set of weights is worth, plainly and with votes.

Not here: which weights of a run are measured, see :mod:`ea_pointcloud.training.evaluate`.
"""

import math
import time
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix

from ea_pointcloud._device import generator_for
from ea_pointcloud.augment.transforms import random_scale
from ea_pointcloud.datasets import ShapeNetPart
from ea_pointcloud.metrics import (
    CalibrationError,
    PartIoU,
    ReliabilityBin,
    class_accuracy,
    classification_metrics,
)
from ea_pointcloud.models import Classifier, PretrainedModel, Segmenter
from ea_pointcloud.training.batches import batches
from ea_pointcloud.training.calibrate import labelled_points
from ea_pointcloud.training.data import Shapes
from ea_pointcloud.training.labels import match_labels
from ea_pointcloud.training.refined import NOT_POSTPROCESSED, PostprocessedFigures
from ea_pointcloud.training.tasks import Batch, class_logits, part_logits

VOTE_SCALE = (0.8, 1.25)  # of a classifier, drawn for each axis
VOTE_SIZES = (0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.4)  # of a segmenter, in turn
_VOTE_SEED = 0


@dataclass(frozen=True)
class Reliability:
    """Expected calibration error over 15 bins of equal width.

    Args:
        ece: of the network's own probabilities.
        ece_calibrated: with the temperature that was fitted on val; None if there is none.
        temperature: that temperature.
        bins: what ``ece`` sums up.
        bins_calibrated: what ``ece_calibrated`` sums up; empty without a temperature.
    """

    ece: float
    ece_calibrated: float | None
    temperature: float | None
    bins: tuple[ReliabilityBin, ...]
    bins_calibrated: tuple[ReliabilityBin, ...]


@dataclass(frozen=True)
class ClassificationReport:
    """Figures of one set of weights on one split.

    Args:
        selection: how the weights were chosen, ``"validation (primary)"`` or ``"last epoch"``.
        split: what was measured on.
        shapes: clouds in the split.
        overall_accuracy: right / all, one plain pass.
        mean_class_accuracy: mean of the per-class shares, one plain pass.
        data_classes: classes of the data, which may be some of the network's alone.
        restricted_accuracy: overall accuracy with the prediction restricted to the classes of the
            data; None where those are all that the network has.
        restricted_mean_class_accuracy: the same, mean of the per-class shares.
        voted_accuracy: overall accuracy of the mean of several randomly scaled passes, None
            without votes.
        class_accuracy: class name -> share named right, None for a class that does not occur.
        confusion: (C, C) counts, rows are the truth.
        calibration: how honest the probabilities of the plain pass are.
        clouds_per_second: of the plain pass, at the evaluation's batch size.
    """

    selection: str
    split: str
    shapes: int
    overall_accuracy: float
    mean_class_accuracy: float
    data_classes: tuple[str, ...]
    restricted_accuracy: float | None
    restricted_mean_class_accuracy: float | None
    voted_accuracy: float | None
    class_accuracy: dict[str, float | None]
    confusion: list[list[int]]
    calibration: Reliability
    clouds_per_second: float


@dataclass(frozen=True)
class SegmentationReport:
    """Figures of one set of weights on one split, at every point of every shape.

    Args:
        selection: how the weights were chosen, ``"validation (primary)"`` or ``"last epoch"``.
        split: what was measured on.
        shapes: clouds in the split.
        instance_miou: argmax among the parts of the shape's category, one plain pass.
        category_miou: the same, mean over the categories.
        point_accuracy: the same, share of points.
        all_parts_instance_miou: argmax among all parts.
        all_parts_category_miou: argmax among all parts.
        voted_instance_miou: of the mean over ``VOTE_SIZES``, None without votes.
        voted_category_miou: the same.
        postprocessed_instance_miou: of the plain pass as ``segment`` labels points: averaged over
            neighbours, without parts too small to be there; None where the weights do not know
            how small parts were in training.
        postprocessed_category_miou: the same.
        tta_instance_miou: of the mean over tilted and mirrored copies, postprocessed; None
            without copies or where nothing is postprocessed.
        tta_category_miou: the same.
        category_iou: category -> mean IoU of its shapes, None for one that does not occur.
        calibration: how honest the probabilities of the plain pass are, at every point and among
            the parts of the shape's category.
        clouds_per_second: of the plain pass, at the evaluation's batch size.
    """

    selection: str
    split: str
    shapes: int
    instance_miou: float
    category_miou: float
    point_accuracy: float
    all_parts_instance_miou: float
    all_parts_category_miou: float
    voted_instance_miou: float | None
    voted_category_miou: float | None
    postprocessed_instance_miou: float | None
    postprocessed_category_miou: float | None
    tta_instance_miou: float | None
    tta_category_miou: float | None
    category_iou: dict[str, float | None]
    calibration: Reliability
    clouds_per_second: float


class Hook(Protocol):
    """Sees the answers that figures are made of, to keep what a report shows of them."""

    def __call__(self, model: PretrainedModel, batch: Batch, logits: Tensor) -> None:
        """Take a batch of the plain pass and the network's logits, both on the device."""
        ...


@torch.inference_mode()
def evaluate_classifier(
    model: Classifier,
    dataset: Shapes,
    *,
    selection: str,
    votes: int,
    batch_size: int,
    device: torch.device,
    hook: Hook | None = None,
) -> ClassificationReport:
    """Measure ``model`` on every cloud of ``dataset``, once plainly and once with votes.

    Voting averages the probabilities of ``votes`` passes, each over clouds scaled along each axis
    by U(``VOTE_SCALE``), drawn once from a fixed seed. ``hook`` is called with every batch.

    Raises:
        ValueError: if the data has a class that the model does not know.
    """
    names = model.data_spec.class_names
    assert not isinstance(dataset, ShapeNetPart)
    data_classes = dataset.class_names
    dataset = match_labels(dataset, model.data_spec)
    absent = [place for place, name in enumerate(names) if name not in data_classes]
    model.eval()
    metrics = classification_metrics(len(names)).to(device)
    restricted = metrics.clone()
    absent_index = torch.tensor(absent, dtype=torch.long, device=device)
    confusion = MulticlassConfusionMatrix(len(names)).to(device)
    errors = _calibration_errors(model, device)
    voted_right, seconds = 0, 0.0
    generator = generator_for(device, _VOTE_SEED)
    for number, stored in enumerate(batches(dataset, batch_size)):
        batch = {name: value.to(device) for name, value in stored.items()}
        label = batch["label"]
        if number == 0:  # the first batch pays for warming up
            class_logits(model, batch)
            _synchronize(device)
        started = time.perf_counter()
        logits = class_logits(model, batch)
        _synchronize(device)
        seconds += time.perf_counter() - started
        if hook is not None:
            hook(model, batch, logits)
        metrics.update(logits, label)
        if absent:
            restricted.update(logits.float().index_fill(1, absent_index, -torch.inf), label)
        confusion.update(logits, label)
        for error in errors:
            error.update(logits, label)
        if votes:
            voted_right += int((_vote(model, batch, votes, generator) == label).sum())
    values = metrics.compute()
    among = restricted.compute() if absent else {}
    matrix = confusion.compute().cpu()
    return ClassificationReport(
        selection=selection,
        split=dataset.split,
        shapes=len(dataset),
        overall_accuracy=float(values["overall_accuracy"]),
        mean_class_accuracy=float(values["mean_class_accuracy"]),
        data_classes=tuple(data_classes),
        restricted_accuracy=float(among["overall_accuracy"]) if absent else None,
        restricted_mean_class_accuracy=float(among["mean_class_accuracy"]) if absent else None,
        voted_accuracy=voted_right / len(dataset) if votes else None,
        class_accuracy=dict(zip(names, class_accuracy(matrix), strict=True)),
        confusion=matrix.tolist(),
        calibration=_reliability(errors),
        clouds_per_second=len(dataset) / seconds,
    )


@torch.inference_mode()
def evaluate_segmenter(
    model: Segmenter,
    dataset: Shapes,
    *,
    selection: str,
    votes: int,
    batch_size: int,
    device: torch.device,
    hook: Hook | None = None,
    copies: int = 0,
) -> SegmentationReport:
    """Measure ``model`` on every point of ``dataset``, once plainly and once with votes.

    Voting averages the probabilities of passes over the clouds scaled by each of ``VOTE_SIZES``,
    as published. ``hook`` is called with every batch. What is postprocessed, and ``copies``, see
    :class:`~ea_pointcloud.training.postprocessed.PostprocessedFigures`.

    Raises:
        ValueError: if the data has a category or part that the model does not know.
    """
    spec = model.data_spec
    dataset = match_labels(dataset, spec)
    model.eval()
    plain, voted = PartIoU(spec.parts).to(device), PartIoU(spec.parts).to(device)
    all_parts = PartIoU(spec.parts, restrict=False).to(device)
    postprocessed = PostprocessedFigures(model, copies, device) if spec.min_part_fraction else None
    errors = _calibration_errors(model, device)
    seconds = 0.0

    for number, stored in enumerate(batches(dataset, batch_size)):
        batch = {name: value.to(device) for name, value in stored.items()}
        if number == 0:  # the first batch pays for warming up
            part_logits(model, batch)
            _synchronize(device)
        started = time.perf_counter()
        logits = part_logits(model, batch)
        _synchronize(device)
        seconds += time.perf_counter() - started
        if hook is not None:
            hook(model, batch, logits)
        truth = batch["part_label"], batch["category"], batch["mask"]
        plain.update(logits, *truth)
        all_parts.update(logits, *truth)
        for error in errors:
            error.update(*labelled_points(logits, batch, spec))
        if votes:
            scaled = ({**batch, "xyz": batch["xyz"] * size} for size in VOTE_SIZES)
            probs = sum(part_logits(model, each).softmax(-1) for each in scaled)
            voted.update(cast("Tensor", probs), *truth)
        if postprocessed is not None:
            postprocessed.update(batch, logits)
    figures, every = plain.compute(), all_parts.compute()
    vote = voted.compute() if votes else None
    iou = figures["category_iou"].tolist()
    return SegmentationReport(
        selection=selection,
        split=dataset.split,
        shapes=len(dataset),
        instance_miou=float(figures["instance_miou"]),
        category_miou=float(figures["category_miou"]),
        point_accuracy=float(figures["point_accuracy"]),
        all_parts_instance_miou=float(every["all_parts_instance_miou"]),
        all_parts_category_miou=float(every["all_parts_category_miou"]),
        voted_instance_miou=None if vote is None else float(vote["instance_miou"]),
        voted_category_miou=None if vote is None else float(vote["category_miou"]),
        **(NOT_POSTPROCESSED if postprocessed is None else postprocessed.figures()),
        category_iou={
            name: None if math.isnan(value) else value
            for name, value in zip(spec.category_names, iou, strict=True)
        },
        calibration=_reliability(errors),
        clouds_per_second=len(dataset) / seconds,
    )


def _calibration_errors(model: PretrainedModel, device: torch.device) -> list[CalibrationError]:
    """Without a temperature, and with that of the weights where they have one."""
    own = [] if model.calibration is None else [model.calibration.temperature]
    return [CalibrationError(temperature).to(device) for temperature in (1.0, *own)]


def _reliability(errors: list[CalibrationError]) -> Reliability:
    ece, *calibrated = (float(error.compute()) for error in errors)
    bins, *bins_calibrated = (tuple(error.bins()) for error in errors)
    if not calibrated:
        return Reliability(ece, None, None, bins, ())
    return Reliability(ece, calibrated[0], errors[1].temperature, bins, bins_calibrated[0])


def _vote(model: Classifier, batch: Batch, votes: int, generator: torch.Generator) -> Tensor:
    scaled = (
        {**batch, "xyz": random_scale(batch["xyz"], *VOTE_SCALE, generator=generator)}
        for _ in range(votes)
    )
    passes = [class_logits(model, each).softmax(-1) for each in scaled]
    return torch.stack(passes).mean(0).argmax(-1)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
