"""What a recipe leaves open: decided once, at the start of a run, and kept by the run."""

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ea_pointcloud._device import resolve_device
from ea_pointcloud.training.data import stays_in_memory
from ea_pointcloud.training.distributed import Processes, processes_of
from ea_pointcloud.training.precision import resolve_precision
from ea_pointcloud.training.recipe_keys import Recipe
from ea_pointcloud.training.run_folder import COUNTS, decided_count, load_run_recipe


class Resolved(NamedTuple):
    """A recipe without ``auto``, and where it runs.

    Args:
        recipe: absolute paths; ``in_memory``, the precision and the processes are decided.
        processes: that train together.
        device: of this process.
    """

    recipe: Recipe
    processes: Processes
    device: torch.device


def resolve(recipe: Recipe, processes: Processes | None = None) -> Resolved:
    """Decide what ``recipe`` leaves open.

    Args:
        recipe: checked.
        processes: of the recipe, if they are already known.

    Raises:
        ValueError: if the device is not there, or others processes were started than asked for.
    """
    processes = processes or processes_of(recipe.trainer)
    data: dict[str, Any] = {}
    if recipe.data.root is not None:  # so that the run can be used from any folder
        data["root"] = str(Path(recipe.data.root).expanduser().resolve())
    if recipe.data.in_memory == "auto" and recipe.data.dataset == "modelnet":
        # The order of the batches depends on it.
        data["in_memory"] = stays_in_memory(recipe.data, copies=processes.devices)
    model: dict[str, Any] = {}
    if recipe.model.init is not None and Path(recipe.model.init).exists():
        model["init"] = str(Path(recipe.model.init).resolve())
    device = processes.device(resolve_device(recipe.trainer.device))
    trainer: dict[str, Any] = {"precision": resolve_precision(recipe.trainer.precision, device)}
    if processes.shard.world_size > 1:
        trainer |= {"devices": processes.devices, "num_nodes": processes.num_nodes}
    recipe = replace(
        recipe,
        data=replace(recipe.data, **data),
        model=replace(recipe.model, **model),
        trainer=replace(recipe.trainer, **trainer),
    )
    return Resolved(recipe, processes, device)


def as_decided(recipe: Recipe, run: Path) -> Recipe:
    """``recipe`` with what ``run`` decided at its start in the place of ``auto``."""
    stored = load_run_recipe(run)
    trainer, data = recipe.trainer, recipe.data
    for name in COUNTS:
        if getattr(trainer, name) == "auto":
            trainer = replace(trainer, **{name: decided_count(stored.trainer, name)})
    if trainer.precision == "auto":
        trainer = replace(trainer, precision=stored.trainer.precision)
    if data.in_memory == "auto":
        data = replace(data, in_memory=stored.data.in_memory)
    return replace(recipe, trainer=trainer, data=data)
