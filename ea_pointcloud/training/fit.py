"""Training a recipe into a run folder, and continuing one that stopped."""

import json
import platform
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import RichProgressBar, WeightAveraging
from lightning.pytorch.loggers import TensorBoardLogger

from ea_pointcloud._atomic import write_whole
from ea_pointcloud._device import keep_freed_memory, mix_seeds, resolve_device
from ea_pointcloud.models import load_model, start_from
from ea_pointcloud.training.calibrate import calibrate_weights
from ea_pointcloud.training.callbacks import (
    EpochTable,
    ExportWeights,
    RunCheckpoint,
    moving_average,
    read_metrics,
)
from ea_pointcloud.training.data import (
    Shapes,
    batches,
    data_spec,
    open_held_out,
    open_split,
    put_on,
    stays_in_memory,
)
from ea_pointcloud.training.module import RecipeModule
from ea_pointcloud.training.recipe import Recipe, load_recipe, recipe_values, save_recipe
from ea_pointcloud.training.tasks import task_of

RECIPE_FILE = "recipe.yaml"
METRICS_FILE = "metrics.csv"
VERSIONS_FILE = "versions.json"
LAST_CHECKPOINT = Path("checkpoints") / "last.ckpt"
_PACKAGES = ("ea-pointcloud", "torch", "lightning", "torchmetrics", "torch-geometric", "numpy",
             "numba", "h5py", "safetensors", "open3d")  # fmt: skip
# Where the data lies and what it runs on may change between the start and the end of a run.
MAY_CHANGE = ("data.root", "data.workers", "trainer.device", "trainer.tensorboard")


def train(
    recipe: Recipe,
    run: str | Path,
    *,
    resume: bool = False,
    callbacks: list[Callback] | None = None,
) -> Path:
    """Train a recipe.

    The run folder holds ``recipe.yaml`` (every value), ``versions.json``, ``metrics.csv`` (a row an
    epoch), ``best`` (highest overall accuracy or instance mIoU on val) and ``last`` (weights
    folders, calibrated on val at the end), and ``checkpoints`` to resume from. Training twice
    with one seed on the CPU gives equal weights.

    Args:
        recipe: checked, from :func:`load_recipe`.
        run: the run folder; must be new or empty unless resuming.
        resume: continue after the last complete epoch in ``run``, exactly as if never stopped.
        callbacks: further Lightning callbacks.

    Returns:
        The run folder.

    Raises:
        FileExistsError: if ``run`` is not empty and ``resume`` is false.
        FileNotFoundError: if there is no run to resume, or no data.
        ValueError: if the recipe to resume with differs from the run's.
        OSError: if another process is training into ``run``.
        KeyboardInterrupt: if it is stopped by Ctrl-C; the run can be resumed.
    """
    run = Path(run)
    check_run(recipe, run, resume=resume)
    if recipe.data.root is not None:  # so that the run can be used from any folder
        root = str(Path(recipe.data.root).expanduser().resolve())
        recipe = replace(recipe, data=replace(recipe.data, root=root))
    if recipe.data.resident == "auto" and recipe.data.dataset == "modelnet":
        # The order of the batches depends on it, so a run keeps what was decided at its start.
        stored = load_run_recipe(run).data.resident if resume else "auto"
        held = stays_in_memory(recipe.data) if stored == "auto" else stored
        recipe = replace(recipe, data=replace(recipe.data, resident=held))
    init = None
    if recipe.model.init is not None and not epochs_done(run):
        init = load_model(recipe.model.init)
        if Path(recipe.model.init).exists():
            place = str(Path(recipe.model.init).resolve())
            recipe = replace(recipe, model=replace(recipe.model, init=place))
    device = resolve_device(recipe.trainer.device)
    fresh_points = recipe.data.point_choice == "random"
    train_split = open_split(recipe.data, recipe.data.train_split, all_points=fresh_points)
    held_out = [open_held_out(recipe, "val")]
    if recipe.eval.legacy:
        held_out.append(open_held_out(recipe, "test"))

    torch.manual_seed(mix_seeds(recipe.trainer.seed))  # the initial weights
    model = task_of(recipe).model(data_spec(recipe, train_split))
    if init is not None:
        try:
            sys.stderr.write(f"from {recipe.model.init}: {start_from(model, init)}\n")
        except ValueError as error:
            raise ValueError(f"model.init={recipe.model.init}: {error}") from error
    module = RecipeModule(model, recipe)
    train_split, where = put_on(train_split, device)
    sys.stderr.write(f"{where}\n")
    held_out = [put_on(split, device)[0] for split in held_out]

    # On clouds it was trained on a network only seems to get better: the last epoch is kept.
    monitor = module.task.monitor if recipe.data.train_split == "train" else None
    trainer = _trainer(recipe, run, device, monitor, callbacks or [])
    run.mkdir(parents=True, exist_ok=True)
    with _locked(run):
        _fit(trainer, module, recipe, run, train_split, held_out)
        if recipe.data.train_split == "train":  # clouds trained on say nothing about new ones
            sys.stderr.write("calibrating on val\n")
            calibrate_weights([run / "best", run / "last"], recipe, device)
    return run


@contextmanager
def _locked(run: Path) -> Iterator[None]:
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


def _fit(
    trainer: Trainer,
    module: RecipeModule,
    recipe: Recipe,
    run: Path,
    train_split: Shapes,
    held_out: list[Shapes],
) -> None:
    save_recipe(recipe, run / RECIPE_FILE)
    write_whole(run / VERSIONS_FILE, json.dumps(versions(), indent=2) + "\n")
    if trainer.strategy.root_device.type == "cpu":
        keep_freed_memory()
    done = epochs_done(run)
    train_loader = batches(
        train_split,
        recipe.trainer.batch_size,
        shuffle_seed=recipe.trainer.seed,
        first_epoch=done,
        least=recipe.trainer.epoch_batches,
        num_workers=recipe.data.workers,
    )
    with warnings.catch_warnings():
        # The sets are tensors in memory: worker processes would only copy them.
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*Checkpoint directory.*is not empty.*")
        # Lightning calls a helper that PyTorch has deprecated.
        warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
        try:
            trainer.fit(
                module,
                train_loader,
                [
                    batches(split, recipe.eval.batch_size, num_workers=recipe.data.workers)
                    for split in held_out
                ],
                ckpt_path=str(run / LAST_CHECKPOINT) if done else None,
            )
        except SystemExit:  # what Lightning makes of Ctrl-C, for the whole program
            raise KeyboardInterrupt from None


def load_run_recipe(run: str | Path) -> Recipe:
    """The resolved recipe of a run folder.

    Raises:
        FileNotFoundError: if ``run`` is not a run folder.
    """
    path = Path(run) / RECIPE_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{run} is not a run folder: it holds no {RECIPE_FILE}")
    return load_recipe(path)


def versions() -> dict[str, str]:
    """Versions that a result depends on."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def check_run(recipe: Recipe, run: Path, *, resume: bool) -> None:
    """Raise unless ``recipe`` can start in ``run``, or resume what stopped there; see train."""
    if not resume:
        if run.exists() and (run.is_file() or any(run.iterdir())):
            raise FileExistsError(
                f"run folder {run} exists and is not empty; continue it with --resume {run}, "
                "or choose another with --run"
            )
        return
    before = recipe_values(load_run_recipe(run))
    for key, value in recipe_values(recipe).items():
        undecided = key == "data.resident" and value == "auto"
        if key not in MAY_CHANGE and not undecided and before[key] != value:
            raise ValueError(
                f"{run} was trained with {key}={before[key]}, got {value}; "
                "leave it out to continue, or start a new run"
            )


def epochs_done(run: Path) -> int:
    """Whole epochs that a run can be resumed after; 0 where none is complete."""
    path = run / LAST_CHECKPOINT
    if not path.is_file():
        return 0
    try:
        return torch.load(path, map_location="cpu", weights_only=True)["epoch"] + 1
    except Exception as error:
        raise ValueError(
            f"{path} is damaged ({error}); copy the run folder again, or train anew"
        ) from error


def _trainer(
    recipe: Recipe, run: Path, device: torch.device, monitor: str | None, extra: list[Callback]
) -> Trainer:
    best = RunCheckpoint(
        run / "checkpoints",
        filename="best",
        monitor=monitor,
        mode="max",
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )
    last = RunCheckpoint(
        run / "checkpoints",
        filename=LAST_CHECKPOINT.stem,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )
    interactive = sys.stderr.isatty()
    callbacks: list[Callback] = [EpochTable(run / METRICS_FILE, echo=not interactive)]
    if interactive:
        callbacks.append(RichProgressBar(console_kwargs={"stderr": True}))
    if recipe.optim.ema_decay:
        callbacks.append(WeightAveraging(avg_fn=moving_average(recipe.optim.ema_decay)))
    callbacks += [*extra, best, last, ExportWeights({"best": best, "last": last}, run)]
    return Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=[device.index or 0] if device.type == "cuda" else 1,
        precision=recipe.trainer.precision,  # pyright: ignore[reportArgumentType]
        max_epochs=recipe.trainer.epochs,
        gradient_clip_val=recipe.optim.clip_norm,
        callbacks=callbacks,
        logger=_tensorboard(run) if recipe.trainer.tensorboard else False,
        enable_progress_bar=interactive,
        enable_model_summary=False,
        log_every_n_steps=1,  # nothing is logged by the step, and it warns where there are fewer
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )


def _tensorboard(run: Path) -> TensorBoardLogger:
    try:
        return TensorBoardLogger(run, name="", version="tensorboard")
    except ImportError as error:
        raise ImportError(
            "trainer.tensorboard=true needs TensorBoard; pip install 'ea-pointcloud[track]'"
        ) from error


def best_logged(run: Path, name: str) -> float | None:
    """The highest value of a column of ``metrics.csv``; None where it was not logged."""
    values = [float(row[name]) for row in read_metrics(run / METRICS_FILE) if row.get(name)]
    return max(values, default=None)
