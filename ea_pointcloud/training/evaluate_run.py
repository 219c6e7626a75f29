"""Measuring runs on a split, by the protocol that every printed number follows."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ea_pointcloud._device import keep_freed_memory
from ea_pointcloud.models import Classifier, Segmenter, count_macs, load_model
from ea_pointcloud.training.calibrate import calibrate_weights
from ea_pointcloud.training.callbacks import read_metrics
from ea_pointcloud.training.evaluate_classifier import ClassificationReport, evaluate_classifier
from ea_pointcloud.training.evaluate_segmenter import SegmentationReport, evaluate_segmenter
from ea_pointcloud.training.evaluation import Hook
from ea_pointcloud.training.evaluation_data import (
    USUAL,
    EvaluationOptions,
    finished_recipe,
    open_for_weights,
    open_of_run,
)
from ea_pointcloud.training.recipe import recipe_values
from ea_pointcloud.training.recipe_keys import Recipe
from ea_pointcloud.training.run_folder import (
    MAY_CHANGE,
    METRICS_FILE,
    best_logged,
    load_run_recipe,
)
from ea_pointcloud.training.tasks import task_of

_VOTES, _BATCH_SIZE = 10, 64  # where weights alone are evaluated


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
        mirroring: of the clouds it was measured on, one of
            :data:`~ea_pointcloud.ops.frames.MIRRORING`.
        farthest_of: of how many points of a cloud the network saw the farthest, 0 for all; None if
            it saw those of the recipe.
    """

    recipe: Recipe
    reports: tuple[ClassificationReport, ...] | tuple[SegmentationReport, ...]
    legacy_accuracy: float | None
    epochs_done: int
    parameters: int
    macs: int
    device: str
    batch_size: int
    mirroring: str
    farthest_of: int | None = None


def evaluate_run(
    run: str | Path,
    split: str,
    device: torch.device,
    *,
    data_root: str | Path | None = None,
    hook: Hook | None = None,
    farthest_of: int | None = None,
    options: EvaluationOptions = USUAL,
) -> RunReport:
    """Evaluate the weights of a run folder on a split of its data.

    Args:
        run: a run folder with at least one whole epoch.
        split: ``"train"``, ``"val"`` or ``"test"``.
        device: where to compute.
        data_root: where the data lies, if no longer where the run found it.
        hook: is called with every batch of the weights that are reported first.
        farthest_of: see :func:`~ea_pointcloud.training.data.open_held_out`.
        options: what differs from the recipe; the report holds the recipe that was used.

    Raises:
        FileNotFoundError: if the run folder or its data is incomplete.
        ValueError: if the data has classes that the model does not know.
    """
    run, recipe = Path(run), options.applied_to(finished_recipe(run, data_root))
    if device.type == "cpu":
        keep_freed_memory()
    task = task_of(recipe)
    dataset = open_of_run(recipe, split, options, farthest_of)
    reports: list[Any] = []
    selections = [("validation (primary)", "best"), ("last epoch", "last")]
    if recipe.data.train_split == "trainval":
        if split == "val":
            raise ValueError(f"{run} was trained on its val split too; evaluate it on test")
        selections = [("last epoch, nothing selected", "last")]
    for selection, folder in selections:
        model = load_model(str(run / folder)).to(device)
        how: dict[str, Any] = {
            "selection": selection,
            "votes": recipe.eval.votes,
            "batch_size": recipe.eval.batch_size,
            "device": device,
            "hook": None if reports else hook,
        }
        if isinstance(model, Segmenter):
            report = evaluate_segmenter(model, dataset, tta_copies=recipe.eval.tta_copies, **how)
        else:
            assert isinstance(model, Classifier)
            report = evaluate_classifier(model, dataset, **how)
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
        mirroring=dataset.mirroring,
        farthest_of=farthest_of,
    )


@dataclass(frozen=True)
class WeightsReport:
    """Figures of one set of weights on a data set that need not be the one it was trained on.

    Args:
        weights: name or path.
        data: the data set, as it was asked for.
        report: the figures; classes are matched by name.
        parameters: trainable parameters.
        device: where it was measured.
        batch_size: of the evaluation.
        num_points: points of each cloud, 0 for all.
        votes: passes over scaled clouds, 0 for none.
        mirroring: of the clouds, one of :data:`~ea_pointcloud.ops.frames.MIRRORING`.
    """

    weights: str
    data: str
    report: ClassificationReport | SegmentationReport
    parameters: int
    device: str
    batch_size: int
    num_points: int
    votes: int
    mirroring: str


def evaluate_weights(
    weights: str | Path,
    data: str | Path | None,
    split: str,
    device: torch.device,
    *,
    data_root: str | Path | None = None,
    options: EvaluationOptions = USUAL,
) -> WeightsReport:
    """Evaluate weights on any data set whose classes, by name, are among theirs.

    Args:
        weights: a name, a weights folder, or a run folder.
        data: a name or folder; see, also on what clouds are shown,
            :func:`~ea_pointcloud.training.evaluation_data.open_for_weights`.
        split: ``"train"``, ``"val"`` or ``"test"``.
        device: where to compute.
        data_root: where names of data sets are looked for.
        options: 10 votes and batches of 64 clouds where they say nothing else.

    Raises:
        FileNotFoundError: if there are no such weights or data.
        ValueError: if the data has classes that the network does not know.
    """
    model = load_model(str(weights)).to(device)
    if device.type == "cpu":
        keep_freed_memory()
    dataset, name = open_for_weights(weights, model, split, data, data_root, options)
    votes = _VOTES if options.votes is None else options.votes
    how: dict[str, Any] = {
        "selection": str(weights),
        "votes": votes,
        "batch_size": options.batch_size or _BATCH_SIZE,
        "device": device,
    }
    if isinstance(model, Classifier):
        usual, report = model.data_spec.num_points, evaluate_classifier(model, dataset, **how)
    else:
        assert isinstance(model, Segmenter)
        usual, report = 0, evaluate_segmenter(model, dataset, **how)
    return WeightsReport(
        weights=str(weights),
        data=name,
        report=report,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        device=str(device),
        batch_size=how["batch_size"],
        num_points=usual if options.num_points is None else options.num_points,
        votes=votes,
        mirroring=dataset.mirroring,
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
    recipe = finished_recipe(run, data_root)
    if recipe.data.train_split == "trainval":
        raise ValueError(f"{run} was trained on its val split too; nothing is left to calibrate on")
    calibrate_weights([Path(run) / folder for folder in ("best", "last")], recipe, device)


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
