"""The robustness of a run: which clouds and weights, and what its figures are relative to."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ea_pointcloud._checks import check_choice
from ea_pointcloud._device import keep_freed_memory
from ea_pointcloud.datasets.corrupted import MODELNET40_CLASSES, CorruptedFiles, find_corrupted
from ea_pointcloud.datasets.subset import spread
from ea_pointcloud.models import Classifier, load_model
from ea_pointcloud.robustness.corrupted_sets import (
    CorruptedSet,
    GeneratedSet,
    PublishedSet,
)
from ea_pointcloud.robustness.corruptions import BENCHMARKS
from ea_pointcloud.robustness.evaluation import (
    DEFAULT,
    DGCNN,
    CorruptionReport,
    Reference,
    evaluate_corruptions,
)
from ea_pointcloud.robustness.options import InferenceOptions
from ea_pointcloud.training.batches import batches
from ea_pointcloud.training.data import Shapes, open_split
from ea_pointcloud.training.labels import match_labels
from ea_pointcloud.training.recipe_keys import Recipe

CHOICES = (*BENCHMARKS, "all")


def check_corruptions(which: str, recipe: Recipe) -> None:
    """Raise unless the networks of ``recipe`` can be measured under ``which`` corruptions.

    Raises:
        ValueError: naming what is possible.
    """
    check_choice("--corruptions", which, CHOICES)
    if recipe.task != "classification":
        raise ValueError("--corruptions measures classifiers, this run learned parts")
    if recipe.data.features:
        raise ValueError(
            "--corruptions moves coordinates alone, this run also reads "
            f"{', '.join(recipe.data.features)}; leave it out"
        )


def evaluate_run_corruptions(
    run: str | Path,
    recipe: Recipe,
    split: str,
    which: str,
    device: torch.device,
    *,
    reference: Path | None = None,
    limit: int | None = None,
    options: InferenceOptions = DEFAULT,
    say: Callable[[str], None] = lambda _: None,
) -> list[CorruptionReport]:
    """Measure the first-reported weights of a run under corruptions of its data.

    Args:
        run: a run folder with at least one whole epoch.
        recipe: the run's, with the root of the data as it is now.
        split: ``"train"``, ``"val"`` or ``"test"``.
        which: ``"modelnet40-c"``, ``"modelnet-c"`` or ``"all"``.
        device: where to compute.
        reference: JSON that ``evaluate --corruptions --json`` has printed for the reference.
        limit: number of shapes to measure, spread evenly over the split; all if omitted.
        options: how the network is asked.
        say: is called with a line for each corruption.

    Returns:
        A report a benchmark. The published files are taken where they lie beside the data, the run
        is of ModelNet40, and the split is test.

    Raises:
        FileNotFoundError: if data is missing.
        ValueError: if ``which`` or the reference does not fit.
    """
    check_corruptions(which, recipe)
    if device.type == "cpu":
        keep_freed_memory()
    folder = Path(run) / ("last" if recipe.data.train_split == "trainval" else "best")
    model = load_model(str(folder)).to(device).eval()
    assert isinstance(model, Classifier)
    names = BENCHMARKS if which == "all" else {which: BENCHMARKS[which]}
    xyz, mask, label = _clouds(recipe, split, model, limit)
    reports = []
    for benchmark in names:
        reason = _reason(recipe, split, xyz.shape[1])
        generated = GeneratedSet(benchmark, xyz, label, recipe.data.num_points, mask, reason)
        source = _source(generated, recipe, split, model, limit)
        found = None
        if reference is not None:
            found = _reference(read_figures(reference, recipe, split), reference, source)
        elif benchmark == "modelnet-c" and _is_modelnet40(recipe):
            found = DGCNN
        reports.append(
            evaluate_corruptions(
                model, source, benchmark, reference=found, options=options, say=say
            )
        )
    return reports


def read_figures(path: Path, recipe: Recipe, split: str) -> dict[str, Any]:
    """What ``evaluate --corruptions --json`` has printed of its first run: benchmark -> report.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is something else, or of other data than ``split`` of ``recipe``.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no {path}; make it by 'evaluate RUN --corruptions all --json'")
    try:
        first = json.loads(path.read_text(encoding="utf-8"))[0]
        data, measured = first["recipe"]["data"], first["reports"][0]["split"]
        name = f"{first['recipe']['name']} ({first['recipe']['model']['size']}) in {path.name}"
        of = f"{_data_name(data['dataset'], data['name'])}, {measured} split"
        figures = {each["benchmark"]: {**each, "name": name} for each in first["corruptions"]}
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{path} must be what 'evaluate RUN --corruptions all --json' printed ({error!r:.200})"
        ) from error
    own = f"{_data_name(recipe.data.dataset, recipe.data.name)}, {split} split"
    if of != own:
        raise ValueError(f"{path} has figures of {of}, the run is measured on {own}")
    return figures


def _data_name(dataset: str, name: str) -> str:
    """What figures are of; only sets of ModelNet's layout have names."""
    return name if dataset == "modelnet" else dataset


def _reference(figures: dict[str, Any], path: Path, source: CorruptedSet) -> Reference:
    """The figures of another network on the clouds of ``source``."""
    report = figures.get(source.title)
    if report is None or report["shapes"] != source.shapes:
        known = ", ".join(f"{each['shapes']} shapes of {key}" for key, each in figures.items())
        raise ValueError(
            f"{path} has figures of {known}, these are {source.shapes} shapes of {source.title}; "
            "measure the reference on the same"
        )
    accuracy = {key: sum(values) / len(values) for key, values in report["accuracy"].items()}
    return Reference(report["name"], report["clean_accuracy"], accuracy)


def _source(
    generated: GeneratedSet, recipe: Recipe, split: str, model: Classifier, limit: int | None
) -> CorruptedSet:
    """The published files where they count, else what is generated."""
    folder = find_corrupted(recipe.data.root, generated.benchmark)
    if folder is None:
        return generated
    if set(model.data_spec.class_names) != set(MODELNET40_CLASSES):
        reason = f"the published files in {folder} are of ModelNet40's 40 classes"
        return replace(generated, reason=reason)
    if split != "test":
        return replace(generated, reason=f"the published files in {folder} are of the test split")
    files = CorruptedFiles(
        folder,
        generated.benchmark,
        BENCHMARKS[generated.benchmark],
        # In the axes of the clouds that the network was trained on.
        mirrored=False if model.data_spec.mirroring == "kept" else "auto",
    )
    return PublishedSet(
        generated.benchmark, files, model.data_spec.class_names, limit, uncorrupted=generated
    )


def _is_modelnet40(recipe: Recipe) -> bool:
    """Whether the data is what the published files and figures are of."""
    return (recipe.data.dataset, recipe.data.name) == ("modelnet", "modelnet40")


def _reason(recipe: Recipe, split: str, stored: int) -> str:
    """Why clouds are generated, and what is less than it should be."""
    reason = "the published files are of ModelNet40's test split"
    if _is_modelnet40(recipe) and split == "test":
        reason = "the published files are not below the data root"
    if stored < 2 * recipe.data.num_points:
        reason += f"; occlusion, lidar and density_inc choose among {stored} points, all there are"
    return reason


def _clouds(
    recipe: Recipe, split: str, model: Classifier, limit: int | None
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Clouds (n, M, 3), mask, and labels as the model counts them.

    The first ``data.num_points`` of a cloud are those that the run is evaluated on; as many more
    follow, where they are stored, for the corruptions that choose among them.
    """
    dataset = match_labels(_twice_the_points(recipe, split), model.data_spec)
    stored = next(iter(batches(dataset, len(dataset))))
    kept = spread(len(dataset), limit)
    chosen = {name: value[kept] for name, value in stored.items()}
    return chosen["xyz"], chosen.get("mask"), chosen["label"]


def _twice_the_points(recipe: Recipe, split: str) -> Shapes:
    data = recipe.data
    try:
        return open_split(replace(data, num_points=2 * data.num_points), split)
    except ValueError:  # fewer are stored, or what the next line raises again
        return open_split(data, split)
