"""A run folder: what it holds, who may write into it, and whether a recipe may continue it."""

import json
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from filelock import FileLock, Timeout

from ea_pointcloud._files import read_json_object, write_whole
from ea_pointcloud.training.callbacks import read_metrics
from ea_pointcloud.training.checkpoints import FOLDER
from ea_pointcloud.training.recipe import load_recipe, recipe_name, recipe_values, save_recipe
from ea_pointcloud.training.recipe_keys import Recipe, TrainerRecipe

RECIPE_FILE = "recipe.yaml"
METRICS_FILE = "metrics.csv"
VERSIONS_FILE = "versions.json"
COMPLETE_FILE = Path(FOLDER) / "complete"  # the weights are exported and calibrated
_PACKAGES = ("ea-pointcloud", "torch", "lightning", "torchmetrics", "torch-geometric", "numpy",
             "numba", "h5py", "safetensors", "open3d")  # fmt: skip
# Where the data lies and what it runs on may change between the start and the end of a run.
MAY_CHANGE = ("data.root", "data.workers", "trainer.device", "trainer.tensorboard",
              "trainer.checkpoint_minutes", "eval.batch_size")  # fmt: skip
# A run keeps what was decided at its start.
COUNTS = ("devices", "num_nodes")
_DECIDED_ONCE = ("data.in_memory", "trainer.precision", *(f"trainer.{name}" for name in COUNTS))


def start_run(recipe: Recipe, run: Path, mirroring: str, operators: str = "") -> None:
    """Write the recipe into a run folder, and the versions with what was done about mirrored files.

    Args:
        recipe: every value of it.
        run: the folder.
        mirroring: one of :data:`~ea_pointcloud.ops.frames.MIRRORING`; the recipe has what
            was asked for, which another set may decide otherwise.
        operators: which implementation of them runs.
    """
    save_recipe(recipe, run / RECIPE_FILE)
    found = {**versions(), "operators": operators, "mirroring": mirroring}
    write_whole(run / VERSIONS_FILE, json.dumps(found, indent=2) + "\n")


def read_versions(run: Path) -> dict[str, str]:
    """What :func:`versions` gave when the training began, and ``mirroring``."""
    return read_json_object(run / VERSIONS_FILE, "copy the run folder again")


def load_run_recipe(run: str | Path) -> Recipe:
    """The resolved recipe of a run folder.

    Raises:
        FileNotFoundError: if ``run`` is not a run folder.
    """
    path = Path(run) / RECIPE_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{run} is not a run folder: it holds no {RECIPE_FILE}")
    return load_recipe(path)


def resume_recipe(
    run: str | Path, overrides: list[str] | None = None, *, of: str | Path | None = None
) -> Recipe:
    """The recipe of a stopped run, to continue it.

    Args:
        run: the run folder.
        overrides: ``key=value``; :func:`check_run` allows those in :data:`MAY_CHANGE`.
        of: name or path of the recipe that the run is expected to have.

    Raises:
        FileNotFoundError: if ``run`` is not a run folder, or ``of`` not a recipe.
        ValueError: if an override is wrong, or the run has another recipe.
    """
    path = Path(run) / RECIPE_FILE
    if of is not None:
        expected = recipe_name(of, overrides)
    if not path.is_file():
        raise FileNotFoundError(f"no run to resume in {run}; leave out resume to start one")
    recipe = load_recipe(path, overrides)
    if of is not None and recipe.name != expected:
        raise ValueError(f"{run} is a run of the recipe {recipe.name}, not {expected}")
    return recipe


def decided_count(trainer: TrainerRecipe, name: str) -> int:
    """``devices`` or ``num_nodes`` of a run that has begun; one process does not write it down."""
    count = getattr(trainer, name)
    return 1 if count == "auto" else count


def check_run(recipe: Recipe, run: Path, *, resume: bool) -> None:
    """Raise unless ``recipe`` can start in ``run``, or resume what stopped there; see train."""
    if not resume:
        # A hidden file is at most what a killed process left before it had begun.
        if run.is_file() or any(not path.name.startswith(".") for path in run.glob("*")):
            raise FileExistsError(
                f"run folder {run} exists and is not empty; continue it with --resume {run}, "
                "or choose another with --run-dir"
            )
        return
    stored = load_run_recipe(run)
    before = recipe_values(stored)
    before |= {f"trainer.{name}": decided_count(stored.trainer, name) for name in COUNTS}
    for key, value in recipe_values(recipe).items():
        undecided = key in _DECIDED_ONCE and value == "auto"
        if key not in MAY_CHANGE and not undecided and before[key] != value:
            raise ValueError(
                f"{run} was trained with {key}={before[key]}, got {value}; "
                "leave it out to continue, or start a new run"
            )


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Keep other processes out of a run folder; the lock falls with the process that holds it."""
    lock = FileLock(run / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise OSError(
            f"another process is training into {run}; wait for it, or choose another run folder"
        ) from None
    try:
        yield
    finally:
        lock.release()


def versions() -> dict[str, str]:
    """Versions that a result depends on."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def best_logged(run: Path, name: str) -> float | None:
    """The highest value of a column of ``metrics.csv``; None where it was not logged."""
    values = [float(row[name]) for row in read_metrics(run / METRICS_FILE) if row.get(name)]
    return max(values, default=None)
