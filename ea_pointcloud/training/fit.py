"""Training a recipe into a run folder, and continuing one that stopped."""

import sys
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from ea_pointcloud._device import keep_freed_memory, mix_seeds
from ea_pointcloud._files import write_whole
from ea_pointcloud.datasets.axes import STORED_AS
from ea_pointcloud.datasets.sharding import Shard
from ea_pointcloud.models import PretrainedModel, load_matching_weights, load_model
from ea_pointcloud.nn.norm import synchronize_norms
from ea_pointcloud.ops import _backend
from ea_pointcloud.training.batches import Loader, batches
from ea_pointcloud.training.calibrate import calibrate_weights
from ea_pointcloud.training.callbacks import (
    EpochBar,
    EpochTable,
    ExportWeights,
    RunCheckpoint,
    export_weights,
)
from ea_pointcloud.training.checkpoints import (
    BEST_CHECKPOINT,
    LAST_CHECKPOINT,
    Progress,
    WholeCheckpoints,
    furthest,
    refuse_links,
    remove_leftovers,
)
from ea_pointcloud.training.data import (
    Shapes,
    class_count,
    data_spec,
    open_held_out,
    open_training,
    put_on,
)
from ea_pointcloud.training.distributed import (
    Processes,
    SameEverywhere,
    describe,
    end_others,
    lightning_arguments,
    processes_of,
)
from ea_pointcloud.training.ema import ExponentialMovingAverage
from ea_pointcloud.training.fault_tolerance import (
    PreemptionGuard,
    explain_checkpoint,
    explain_errors,
)
from ea_pointcloud.training.module import RecipeModule
from ea_pointcloud.training.recipe_keys import Recipe
from ea_pointcloud.training.resolve import Resolved, as_decided, resolve
from ea_pointcloud.training.run_folder import (
    COMPLETE_FILE,
    METRICS_FILE,
    check_run,
    locked,
    start_run,
)
from ea_pointcloud.training.tasks import task_of


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

    Several processes (``trainer.devices``, torchrun, srun) all call this; rank 0 writes, prints
    and calibrates, and the others return when the training is over.

    Args:
        recipe: checked, from :func:`load_recipe`.
        run: the run folder; must be new or empty unless resuming.
        resume: continue at the last checkpoint in ``run``, exactly as if never stopped.
        callbacks: further Lightning callbacks.

    Returns:
        The run folder.

    Raises:
        FileExistsError: if ``run`` is not empty and ``resume`` is false.
        FileNotFoundError: if there is no run to resume, or no data.
        ValueError: if the recipe to resume with differs from the run's, or the run holds links.
        OSError: if another process is training into ``run``, or a file cannot be written.
        FloatingPointError: if the loss becomes NaN or infinite.
        MemoryError: if there is too little memory; names the keys to lower.
        ChildProcessError: if a process that reads data dies; the run can be resumed.
        KeyboardInterrupt: at Ctrl-C; the run can be resumed.
        TrainingTerminatedError: at SIGTERM; the run can be resumed.
    """
    run = Path(run)
    if resume:
        recipe = as_decided(recipe, run)
    processes = processes_of(recipe.trainer)
    if processes.is_rank_zero:
        check_run(recipe, run, resume=resume)
    resolved = resolve(recipe, processes)
    _train(resolved, run, callbacks or [])
    return run


def _train(resolved: Resolved, run: Path, callbacks: list[Callback]) -> None:
    """Load, build, train, and export, in this order."""
    recipe, processes, device = resolved
    say = sys.stderr.write if processes.is_rank_zero else str
    if device.type == "cuda":  # TF32 in the products of float32: eight times as fast on an A100
        torch.set_float32_matmul_precision("high")
    if processes.shard.world_size > 1:
        say(f"{describe(recipe, processes)}\n")
    refuse_links(run)
    progress = furthest(run)
    init = None
    if recipe.model.init is not None and progress.checkpoint is None:
        init = load_model(recipe.model.init)
    train_split = open_training(recipe)
    held_out = [open_held_out(recipe, "val")]
    if recipe.eval.legacy:
        held_out.append(open_held_out(recipe, "test"))
    module = _build(recipe, processes, train_split, init, say)
    train_split, where = put_on(train_split, device)
    say(f"{where}, {STORED_AS[train_split.mirroring]}\n")
    held_out = [put_on(split, device)[0] for split in held_out]
    callbacks = [*callbacks, *_agreement(recipe, processes, [train_split, *held_out])]
    # On clouds it was trained on a network only seems to get better: the last epoch is kept.
    monitor = module.task.monitor if recipe.data.train_split == "train" else None
    trainer = _trainer(resolved, run, monitor, callbacks)
    run.mkdir(parents=True, exist_ok=True)
    with locked(run) if processes.is_rank_zero else nullcontext(), explain_errors(recipe):
        if processes.is_rank_zero:
            remove_leftovers(run)
            start_run(recipe, run, train_split.mirroring, _backend.describe(device))
        if progress.epochs < recipe.trainer.epochs:
            loaders = _loaders(recipe, progress, processes.shard, train_split, held_out)
            with explain_checkpoint(progress.checkpoint, trainer):
                _fit(trainer, module, *loaders, progress.checkpoint)
        if processes.is_rank_zero and not (run / COMPLETE_FILE).exists():
            _finish(recipe, run, module.model, device)


def _build(
    recipe: Recipe,
    processes: Processes,
    train_split: Shapes,
    init: PretrainedModel | None,
    say: Callable[[str], object],
) -> RecipeModule:
    """The network with its initial weights, and the module that trains it."""
    torch.manual_seed(mix_seeds(recipe.trainer.seed))
    model = task_of(recipe).model(data_spec(recipe, train_split))
    if init is not None:
        try:
            say(f"{recipe.model.init}: {load_matching_weights(model, init)}\n")
        except ValueError as error:
            raise ValueError(f"model.init={recipe.model.init}: {error}") from error
    if recipe.trainer.sync_batchnorm and processes.shard.world_size > 1:
        synchronize_norms(model)
    counts = class_count(train_split) if recipe.optim.logit_adjustment else None
    return RecipeModule(model, recipe, counts)


def _agreement(recipe: Recipe, processes: Processes, splits: list[Shapes]) -> list[Callback]:
    if processes.shard.world_size == 1:
        return []
    counts: dict[str, object] = {f"the size of {split.split}": len(split) for split in splits}
    return [SameEverywhere({"data.in_memory": recipe.data.in_memory, **counts})]


def _trainer(resolved: Resolved, run: Path, monitor: str | None, extra: list[Callback]) -> Trainer:
    recipe, processes, device = resolved
    best = RunCheckpoint(
        run / BEST_CHECKPOINT.parent,
        filename=BEST_CHECKPOINT.stem,
        monitor=monitor,
        mode="max",
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )
    last = RunCheckpoint(
        run / LAST_CHECKPOINT.parent,
        filename=LAST_CHECKPOINT.stem,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )
    interactive = sys.stderr.isatty()
    callbacks: list[Callback] = [EpochTable(run / METRICS_FILE, echo=not interactive)]
    if interactive:
        callbacks.append(EpochBar(console_kwargs={"stderr": True}))
    if recipe.optim.ema_decay:
        callbacks.append(ExponentialMovingAverage(recipe.optim.ema_decay))
    # After the averaging, whose state a checkpoint within an epoch holds.
    callbacks += [*extra, PreemptionGuard(run, recipe.trainer.checkpoint_minutes), best, last]
    if processes.is_rank_zero:
        callbacks.append(ExportWeights({"best": best, "last": last}, run))
    arguments = lightning_arguments(recipe, processes, device)
    arguments["plugins"].append(WholeCheckpoints())
    return Trainer(
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
        **arguments,
    )


def _tensorboard(run: Path) -> TensorBoardLogger:
    try:
        return TensorBoardLogger(run, name="", version="tensorboard")
    except ImportError as error:
        raise ImportError(
            "trainer.tensorboard=true needs TensorBoard; pip install 'ea-pointcloud[track]'"
        ) from error


def _loaders(
    recipe: Recipe,
    progress: Progress,
    shard: Shard,
    train_split: Shapes,
    held_out: list[Shapes],
) -> tuple[Loader, list[Loader]]:
    workers = recipe.data.workers
    train_loader = batches(
        train_split,
        recipe.trainer.batch_size,
        shuffle_seed=recipe.trainer.seed,
        beginning=(progress.epochs, progress.batches),
        least=recipe.trainer.min_batches_per_epoch,
        num_workers=workers,
        shard=shard,
    )
    size = recipe.eval.batch_size
    return train_loader, [
        batches(split, size, num_workers=workers, shard=shard) for split in held_out
    ]


def _fit(
    trainer: Trainer,
    module: RecipeModule,
    train_loader: Loader,
    val_loaders: list[Loader],
    checkpoint: Path | None,
) -> None:
    if trainer.strategy.root_device.type == "cpu":
        keep_freed_memory()
    with warnings.catch_warnings():
        # The sets are tensors in memory, which worker processes would only copy.
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*Checkpoint directory.*is not empty.*")
        # Ours start at the batch of the checkpoint.
        warnings.filterwarnings("ignore", message=".*your dataloader is not resumable.*")
        # Lightning calls a helper that PyTorch has deprecated.
        warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
        try:
            trainer.fit(module, train_loader, val_loaders, ckpt_path=checkpoint)
        except SystemExit:  # what Lightning makes of Ctrl-C, for the whole program
            raise KeyboardInterrupt from None
        except BaseException:
            end_others(trainer)
            raise


def _finish(recipe: Recipe, run: Path, model: PretrainedModel, device: torch.device) -> None:
    """Export and calibrate after the last epoch, also if a process was killed while doing so."""
    for name, checkpoint in (("best", BEST_CHECKPOINT), ("last", LAST_CHECKPOINT)):
        export_weights(run / checkpoint, model, run / name)
    if recipe.data.train_split == "train":  # clouds trained on cannot calibrate
        sys.stderr.write("calibrating on val\n")
        calibrate_weights([run / "best", run / "last"], recipe, device)
    write_whole(run / COMPLETE_FILE, "")
