"""Measuring a network on a split, by the protocol that every printed number follows."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix

from ea_pointcloud._device import generator_for, keep_freed_memory
from ea_pointcloud.metrics import (
    CalibrationError,
    PartIoU,
    ReliabilityBin,
    class_accuracy,
    classification_metrics,
)
from ea_pointcloud.models import (
    Classifier,
    PretrainedModel,
    Segmenter,
    count_macs,
    load_model,
)
from ea_pointcloud.models.hub import CONFIG_FILE
from ea_pointcloud.training.calibrate import calibrate_weights, labelled_points
from ea_pointcloud.training.callbacks import read_metrics
from ea_pointcloud.training.data import Shapes, batches, open_held_out
from ea_pointcloud.training.labels import match_labels
from ea_pointcloud.training.recipe import recipe_values
from ea_pointcloud.training.recipe_keys import Recipe
from ea_pointcloud.training.refined import NOT_REFINED, RefinedFigures
from ea_pointcloud.training.run_folder import (
    MAY_CHANGE,
    METRICS_FILE,
    best_logged,
    load_run_recipe,
)
from ea_pointcloud.training.tasks import Batch, class_logits, part_logits, task_of
from ea_pointcloud.transforms import random_scale

VOTE_SCALE = (0.8, 1.25)  # of a classifier, drawn for each axis
VOTE_SIZES = (0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.4)  # of a segmenter, in turn
_VOTE_SEED = 0


@dataclass(frozen=True)
class Reliability:
    """Expected calibration error over 15 bins of equal width.

    Args:
        before: of the network's own probabilities.
        after: with the temperature that was fitted on val; None where the weights have none.
        temperature: that temperature.
        bins_before: what ``before`` sums up.
        bins_after: what ``after`` sums up; empty without a temperature.
    """

    before: float
    after: float | None
    temperature: float | None
    bins_before: tuple[ReliabilityBin, ...]
    bins_after: tuple[ReliabilityBin, ...]


@dataclass(frozen=True)
class ClassificationReport:
    """Figures of one set of weights on one split.

    Args:
        selection: how the weights were chosen, ``"validation (primary)"`` or ``"last epoch"``.
        split: what was measured on.
        shapes: clouds in the split.
        overall_accuracy: right / all, one plain pass.
        mean_class_accuracy: mean of the per-class shares, one plain pass.
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
        refined_instance_miou: of the plain pass as ``segment`` labels points: averaged over
            neighbours, without parts too small to be there; None where the weights do not know
            how small parts were in training.
        refined_category_miou: the same.
        copies_instance_miou: of the mean over tilted and mirrored copies, refined; None without
            copies or where nothing is refined.
        copies_category_miou: the same.
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
    refined_instance_miou: float | None
    refined_category_miou: float | None
    copies_instance_miou: float | None
    copies_category_miou: float | None
    category_iou: dict[str, float | None]
    calibration: Reliability
    clouds_per_second: float


@dataclass(frozen=True)
class RunReport:
    """The whole protocol for one run.

    Args:
        recipe: the run's recipe.
        reports: validation-selected first, then the last epoch.
        legacy_accuracy: the best overall accuracy (instance mIoU of a segmenter) on the test
            split over all epochs, as most papers report it; only where the run logged it, and only
            for the test split.
        epochs_done: whole epochs trained, which may be fewer than the recipe's.
        parameters: trainable parameters.
        macs: multiply-accumulates of one cloud.
        device: where it was measured.
        batch_size: of the evaluation.
    """

    recipe: Recipe
    reports: tuple[ClassificationReport, ...] | tuple[SegmentationReport, ...]
    legacy_accuracy: float | None
    epochs_done: int
    parameters: int
    macs: int
    device: str
    batch_size: int


class Observer(Protocol):
    """Sees the answers that figures are made of, to keep what a report shows of them."""

    def __call__(self, model: PretrainedModel, batch: Batch, logits: Tensor) -> None:
        """Take a batch of the plain pass and the network's logits, both on the device."""
        ...


def evaluate_run(
    run: str | Path,
    split: str,
    device: torch.device,
    *,
    data_root: str | Path | None = None,
    observe: Observer | None = None,
) -> RunReport:
    """Evaluate the weights of a run folder on a split of its data.

    Args:
        run: a run folder with at least one whole epoch.
        split: ``"train"``, ``"val"`` or ``"test"``.
        device: where to compute.
        data_root: where the data lies, if no longer where the run found it.
        observe: is called with every batch of the weights that are reported first.

    Raises:
        FileNotFoundError: if the run folder or its data is incomplete.
        ValueError: if the data has classes that the model does not know.
    """
    run, recipe = Path(run), _finished_recipe(run, data_root)
    if device.type == "cpu":
        keep_freed_memory()
    task = task_of(recipe)
    dataset = open_held_out(recipe, split)
    reports: list[Any] = []
    selections = [("validation (primary)", "best"), ("last epoch", "last")]
    if recipe.data.train_split == "trainval":
        if split == "val":
            raise ValueError(f"{run} was trained on its val split too; evaluate it on test")
        selections = [("last epoch, nothing selected", "last")]
    for selection, folder in selections:
        model = load_model(str(run / folder)).to(device)
        options: dict[str, Any] = {
            "selection": selection,
            "votes": recipe.eval.votes,
            "batch_size": recipe.eval.batch_size,
            "device": device,
            "observe": None if reports else observe,
        }
        if isinstance(model, Segmenter):
            report = evaluate_segmenter(model, dataset, copies=recipe.eval.copies, **options)
        else:
            assert isinstance(model, Classifier)
            report = evaluate_classifier(model, dataset, **options)
        reports.append(report)
    metric = task.monitor.removeprefix("val/")
    return RunReport(
        recipe=recipe,
        reports=tuple(reports),
        legacy_accuracy=best_logged(run, f"test/{metric}") if split == "test" else None,
        epochs_done=len(read_metrics(run / METRICS_FILE)),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        macs=count_macs(model, recipe.data.num_points),
        device=str(device),
        batch_size=recipe.eval.batch_size,
    )


def calibrate_run(
    run: str | Path, device: torch.device, *, data_root: str | Path | None = None
) -> None:
    """Calibrate both weights of a run folder on its val split, as the end of a training does.

    Args:
        run: a run folder with at least one whole epoch.
        device: where to compute.
        data_root: where the data lies, if no longer where the run found it.

    Raises:
        FileNotFoundError: if the run folder or its data is incomplete.
        ValueError: if the val split was trained on.
    """
    recipe = _finished_recipe(run, data_root)
    if recipe.data.train_split == "trainval":
        raise ValueError(f"{run} was trained on its val split too; nothing is left to calibrate on")
    calibrate_weights([Path(run) / folder for folder in ("best", "last")], recipe, device)


def _finished_recipe(run: str | Path, data_root: str | Path | None) -> Recipe:
    recipe = load_run_recipe(run)
    for folder in ("best", "last"):
        if not (Path(run) / folder / CONFIG_FILE).is_file():
            raise FileNotFoundError(
                f"{run} holds no {folder} weights: it stopped before its first epoch was complete; "
                f"continue it with --resume {run}"
            )
    if data_root is None:
        return recipe
    return replace(recipe, data=replace(recipe.data, root=str(data_root)))


def check_same_recipe(runs: Sequence[str | Path]) -> None:
    """Raise unless the run folders differ in their seeds only, so that a mean makes sense.

    Raises:
        ValueError: naming the first value that differs, or a seed that occurs twice.
    """
    values = [recipe_values(load_run_recipe(run)) for run in runs]
    for run, other in zip(runs[1:], values[1:], strict=True):
        for key, value in values[0].items():
            if key not in (*MAY_CHANGE, "name", "trainer.seed") and other[key] != value:
                raise ValueError(
                    f"{runs[0]} has {key}={value}, {run} has {other[key]}; "
                    "evaluate runs of different recipes one by one"
                )
    seeds = [value["trainer.seed"] for value in values]
    if len(set(seeds)) != len(seeds):
        raise ValueError(f"the runs must have different seeds, got {seeds}")


@torch.inference_mode()
def evaluate_classifier(
    model: Classifier,
    dataset: Shapes,
    *,
    selection: str,
    votes: int,
    batch_size: int,
    device: torch.device,
    observe: Observer | None = None,
) -> ClassificationReport:
    """Measure ``model`` on every cloud of ``dataset``, once plainly and once with votes.

    Voting averages the probabilities of ``votes`` passes, each over clouds scaled along each axis
    by U(``VOTE_SCALE``), drawn once from a fixed seed. ``observe`` is called with every batch.

    Raises:
        ValueError: if the data has a class that the model does not know.
    """
    names = model.data_spec.class_names
    dataset = match_labels(dataset, model.data_spec)
    model.eval()
    metrics = classification_metrics(len(names)).to(device)
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
        if observe is not None:
            observe(model, batch, logits)
        metrics.update(logits, label)
        confusion.update(logits, label)
        for error in errors:
            error.update(logits, label)
        if votes:
            voted_right += int((_vote(model, batch, votes, generator) == label).sum())
    values = metrics.compute()
    matrix = confusion.compute().cpu()
    return ClassificationReport(
        selection=selection,
        split=dataset.split,
        shapes=len(dataset),
        overall_accuracy=float(values["overall_accuracy"]),
        mean_class_accuracy=float(values["mean_class_accuracy"]),
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
    observe: Observer | None = None,
    copies: int = 0,
) -> SegmentationReport:
    """Measure ``model`` on every point of ``dataset``, once plainly and once with votes.

    Voting averages the probabilities of passes over the clouds scaled by each of ``VOTE_SIZES``,
    as published. ``observe`` is called with every batch. What is refined, and ``copies``, see
    :class:`~ea_pointcloud.training.refined.RefinedFigures`.

    Raises:
        ValueError: if the data has a category or part that the model does not know.
    """
    spec = model.data_spec
    dataset = match_labels(dataset, spec)
    model.eval()
    plain, voted = PartIoU(spec.parts).to(device), PartIoU(spec.parts).to(device)
    all_parts = PartIoU(spec.parts, restrict=False).to(device)
    refined = RefinedFigures(model, copies, device) if spec.least_share else None
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
        if observe is not None:
            observe(model, batch, logits)
        truth = batch["part_label"], batch["category"], batch["mask"]
        plain.update(logits, *truth)
        all_parts.update(logits, *truth)
        for error in errors:
            error.update(*labelled_points(logits, batch, spec))
        if votes:
            scaled = ({**batch, "xyz": batch["xyz"] * size} for size in VOTE_SIZES)
            probs = sum(part_logits(model, each).softmax(-1) for each in scaled)
            voted.update(cast("Tensor", probs), *truth)
        if refined is not None:
            refined.update(batch, logits)
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
        **(NOT_REFINED if refined is None else refined.figures()),
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
    before, *after = (float(error.compute()) for error in errors)
    bins_before, *bins_after = (tuple(error.bins()) for error in errors)
    if not after:
        return Reliability(before, None, None, bins_before, ())
    return Reliability(before, after[0], errors[1].temperature, bins_before, bins_after[0])


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
