"""Training and evaluation in one call each: ``train`` and ``evaluate`` of the package."""

import json
import logging
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ea_pointcloud._checks import check_choice
from ea_pointcloud._device import resolve_device
from ea_pointcloud.training.evaluate_run import (
    RunReport,
    WeightsReport,
    evaluate_run,
    evaluate_weights,
)
from ea_pointcloud.training.evaluation_data import EvaluationOptions
from ea_pointcloud.training.fit import train as train_recipe
from ea_pointcloud.training.recipe import load_recipe, run_name
from ea_pointcloud.training.recipe_keys import Recipe
from ea_pointcloud.training.run_folder import RECIPE_FILE, resume_recipe


def train(
    recipe: str | Path,
    keys: Mapping[str, Any] | None = None,
    *,
    data_root: str | Path | None = None,
    run_dir: str | Path | None = None,
    resume: bool = False,
    **overrides: Any,
) -> Path:
    """Train a recipe into a run folder, with a line or a bar of progress for each epoch.

    ``train("modelnet10", {"optim.lr": 1e-3}, data_root="data", epochs=2)``

    Args:
        recipe: name of a packaged recipe, or path of a YAML file.
        keys: full recipe keys with their values, ``{"optim.lr": 1e-3}``.
        data_root: folder of data sets, the key ``data.root``.
        run_dir: run folder, new or empty; ``runs/RECIPE-seedN`` if omitted.
        resume: continue the run in ``run_dir``.
        overrides: recipe keys without their section, such as ``epochs=2``, if only one section has
            them.

    Returns:
        The run folder, for :func:`evaluate` and ``Predictor.from_pretrained``.

    Raises:
        FileExistsError: if the run folder is not empty and ``resume`` is false.
        FileNotFoundError: if there is no such recipe or data, or no run to resume.
        ValueError: if a key is unknown or ambiguous, or a value impossible.
    """
    changes = dict(keys or {}) | {full_key(name): value for name, value in overrides.items()}
    if data_root is not None:
        changes["data.root"] = data_root
    texts = [f"{key}={json.dumps(value, default=str)}" for key, value in changes.items()]
    if resume and run_dir is not None:
        loaded, run = resume_recipe(run_dir, texts, of=recipe), Path(run_dir)
    else:
        loaded = load_recipe(recipe, texts)
        run = Path(run_dir) if run_dir is not None else Path("runs") / run_name(loaded)
        if resume:
            loaded = resume_recipe(run, texts, of=recipe)
    for part in ("pytorch", "fabric"):
        logging.getLogger(f"lightning.{part}").setLevel(logging.WARNING)
    return train_recipe(loaded, run, resume=resume)


def evaluate(
    run_or_weights: str | Path,
    *,
    data: str | Path | None = None,
    split: str = "test",
    data_root: str | Path | None = None,
    device: str = "auto",
    num_points: int | None = None,
    batch_size: int | None = None,
    votes: int | None = None,
    limit: int | None = None,
) -> RunReport | WeightsReport:
    """Evaluate a run on a split of its data, or weights on a data set.

    Args:
        run_or_weights: a run folder, a weights folder, or the name of pretrained weights.
        data: name or folder of a data set whose classes are among those of the weights; if omitted
            the data of the run, of weights that of ``data_root``.
        split: ``"train"``, ``"val"`` or ``"test"``.
        data_root: folder of data sets, if it is no longer where the run found it.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
        num_points: these and the rest as in
            :class:`~ea_pointcloud.training.evaluation_data.EvaluationOptions`.
        batch_size: clouds at a time.
        votes: passes over randomly scaled clouds, 0 for none.
        limit: number of clouds, spread evenly over the split.

    Returns:
        The figures: of a run those of its validation-selected weights first, then of the last
        epoch.

    Raises:
        FileNotFoundError: if there are no such weights or data.
        ValueError: if nothing says which data, or the data has other classes.
    """
    check_choice("split", split, ("train", "val", "test"))
    chosen = resolve_device(device)
    options = EvaluationOptions(num_points, batch_size, votes, limit)
    if data is not None or not (Path(run_or_weights) / RECIPE_FILE).is_file():
        return evaluate_weights(
            run_or_weights, data, split, chosen, data_root=data_root, options=options
        )
    return evaluate_run(run_or_weights, split, chosen, data_root=data_root, options=options)


def full_key(name: str) -> str:
    """The recipe key of ``name`` without its section, ``"trainer.epochs"`` of ``"epochs"``.

    Raises:
        ValueError: if no section or several have it; lists the possible keys.
    """
    found = _sections_by_name()
    if name not in found:
        close = get_close_matches(name, found, n=3) or sorted(found)
        raise ValueError(f"unknown recipe key {name!r}; did you mean {', '.join(close)}?")
    if len(found[name]) > 1:
        listed = ", ".join(repr(key) for key in found[name])
        raise ValueError(f"{name} is ambiguous; give one of {listed} in keys={{...}}")
    return found[name][0]


def _sections_by_name() -> dict[str, list[str]]:
    """Name of a key -> the full keys of that name."""
    found: dict[str, list[str]] = {}
    for section in fields(Recipe):
        if is_dataclass(section.type):
            for field in fields(section.type):
                found.setdefault(field.name, []).append(f"{section.name}.{field.name}")
        else:
            found.setdefault(section.name, []).append(section.name)
    return found
