"""Training a recipe into a run folder, and continuing one that stopped."""

import sys
import warnings
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.loggers import TensorBoardLogger

from ea_pointcloud._device import keep_freed_memory, mix_seeds, resolve_device
from ea_pointcloud._files import write_whole
from ea_pointcloud.datasets.axes import STORED_AS
from ea_pointcloud.datasets.sharding import Shard
from ea_pointcloud.models import PretrainedModel, load_matching_weights, load_model
from ea_pointcloud.nn.norm import synchronize_norms
from ea_pointcloud.training.calibrate import calibrate_weights
from ea_pointcloud.training.callbacks import (
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
    remove_leftovers,
)
from ea_pointcloud.training.data import (
    Shapes,
    batches,
    class_count,
    data_spec,
    open_held_out,
    open_training,
    put_on,
    stays_in_memory,
)
from ea_pointcloud.training.distributed import (
    Processes,
    SameEverywhere,
    describe,
    end_others,
    lightning_arguments,
    processes_of,
)
from ea_pointcloud.training.fault_tolerance import PreemptionGuard, explain_errors
from ea_pointcloud.training.module import RecipeModule
from ea_pointcloud.training.recipe_keys import Recipe
from ea_pointcloud.training.run_folder import (
    COMPLETE_FILE,
    COUNTS,
    METRICS_FILE,
    check_run,
    decided_count,
    load_run_recipe,
    locked,
    start_run,
)
from ea_pointcloud.training.speed import MovingAverage, resolve_precision
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

    Several processes (``trainer.devices``, torchrun, srun) all call this; the first of them
    writes, prints and calibrates, and the others return when the training is over.

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
        ValueError: if the recipe to resume with differs from the run's.
        OSError: if another process is training into ``run``, or a file cannot be written.
        FloatingPointError: if the loss becomes NaN or infinite.
        MemoryError: if there is too little memory; says which keys to lower.
        ChildProcessError: if a process that reads data dies; the run can be resumed.
        KeyboardInterrupt: if it is stopped by Ctrl-C; the run can be resumed.
        TrainingTerminatedError: if it is stopped by SIGTERM; the run can be resumed.
    """
    run = Path(run)
    if resume:
        recipe = _as_decided(recipe, run)
    processes = processes_of(recipe.trainer)
    if processes.is_rank_zero:
        check_run(recipe, run, resume=resume)
    say = sys.stderr.write if processes.is_rank_zero else str
    if recipe.data.root is not None:  # so that the run can be used from any folder
        root = str(Path(recipe.data.root).expanduser().resolve())
        recipe = replace(recipe, data=replace(recipe.data, root=root))
    if recipe.data.in_memory == "auto" and recipe.data.dataset == "modelnet":
        # The order of the batches depends on it.
        held = stays_in_memory(recipe.data, copies=processes.devices)
        recipe = replace(recipe, data=replace(recipe.data, in_memory=held))
    if processes.shard.world_size > 1:
        counts = {"devices": processes.devices, "num_nodes": processes.num_nodes}
        recipe = replace(recipe, trainer=replace(recipe.trainer, **counts))
        say(f"{describe(recipe, processes)}\n")
    place = furthest(run)
    init = None
    if recipe.model.init is not None and place.checkpoint is None:
        init = load_model(recipe.model.init)
        if Path(recipe.model.init).exists():
            source = str(Path(recipe.model.init).resolve())
            recipe = replace(recipe, model=replace(recipe.model, init=source))
    device = processes.device(resolve_device(recipe.trainer.device))
    precision = resolve_precision(recipe.trainer.precision, device)
    recipe = replace(recipe, trainer=replace(recipe.trainer, precision=precision))
    train_split = open_training(recipe)
    held_out = [open_held_out(recipe, "val")]
    if recipe.eval.legacy:
        held_out.append(open_held_out(recipe, "test"))

    torch.manual_seed(mix_seeds(recipe.trainer.seed))  # the initial weights
    model = task_of(recipe).model(data_spec(recipe, train_split))
    if init is not None:
        try:
            say(f"{recipe.model.init}: {load_matching_weights(model, init)}\n")
        except ValueError as error:
            raise ValueError(f"model.init={recipe.model.init}: {error}") from error
    if recipe.trainer.sync_batchnorm and processes.shard.world_size > 1:
        synchronize_norms(model)
    counts = class_count(train_split) if recipe.optim.logit_adjustment else None
    module = RecipeModule(model, recipe, counts)
    train_split, where = put_on(train_split, device)
    say(f"{where}, {STORED_AS[train_split.mirroring]}\n")
    held_out = [put_on(split, device)[0] for split in held_out]

    # On clouds it was trained on a network only seems to get better: the last epoch is kept.
    monitor = module.task.monitor if recipe.data.train_split == "train" else None
    extra = [*(callbacks or []), *_agreement(recipe, processes, [train_split, *held_out])]
    trainer = _trainer(recipe, run, processes, device, monitor, extra)
    run.mkdir(parents=True, exist_ok=True)
    with locked(run) if processes.is_rank_zero else nullcontext(), explain_errors(recipe):
        if processes.is_rank_zero:
            remove_leftovers(run)
            start_run(recipe, run, train_split.mirroring)
        if place.epochs < recipe.trainer.epochs:
            _fit(trainer, module, recipe, place, processes.shard, train_split, held_out)
        if processes.is_rank_zero and not (run / COMPLETE_FILE).exists():
            _finish(recipe, run, model, device)
    return run


def _as_decided(recipe: Recipe, run: Path) -> Recipe:
    """The recipe with what the run has decided where it says ``auto``."""
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


def _agreement(recipe: Recipe, processes: Processes, splits: list[Shapes]) -> list[Callback]:
    if processes.shard.world_size == 1:
        return []
    counts: dict[str, object] = {f"the size of {split.split}": len(split) for split in splits}
    return [SameEverywhere({"data.in_memory": recipe.data.in_memory, **counts})]


def _finish(recipe: Recipe, run: Path, model: PretrainedModel, device: torch.device) -> None:
    """What follows the last epoch, also where a process was killed before or during it."""
    for name, checkpoint in (("best", BEST_CHECKPOINT), ("last", LAST_CHECKPOINT)):
        export_weights(run / checkpoint, model, run / name)
    if recipe.data.train_split == "train":  # clouds trained on say nothing about new ones
        sys.stderr.write("calibrating on val\n")
        calibrate_weights([run / "best", run / "last"], recipe, device)
    write_whole(run / COMPLETE_FILE, "")


def _fit(
    trainer: Trainer,
    module: RecipeModule,
    recipe: Recipe,
    place: Progress,
    shard: Shard,
    train_split: Shapes,
    held_out: list[Shapes],
) -> None:
    if trainer.strategy.root_device.type == "cpu":
        keep_freed_memory()
    train_loader = batches(
        train_split,
        recipe.trainer.batch_size,
        shuffle_seed=recipe.trainer.seed,
        beginning=(place.epochs, place.batches),
        least=recipe.trainer.min_batches_per_epoch,
        num_workers=recipe.data.workers,
        shard=shard,
    )
    val_loaders = [
        batches(split, recipe.eval.batch_size, num_workers=recipe.data.workers, shard=shard)
        for split in held_out
    ]
    with warnings.catch_warnings():
        # The sets are tensors in memory: worker processes would only copy them.
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*Checkpoint directory.*is not empty.*")
        # Ours begins where the checkpoint says, which Lightning cannot know.
        warnings.filterwarnings("ignore", message=".*your dataloader is not resumable.*")
        # Lightning calls a helper that PyTorch has deprecated.
        warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
        try:
            trainer.fit(module, train_loader, val_loaders, ckpt_path=place.checkpoint)
        except SystemExit:  # what Lightning makes of Ctrl-C, for the whole program
            raise KeyboardInterrupt from None
        except BaseException:
            end_others(trainer)
            raise


def _trainer(
    recipe: Recipe,
    run: Path,
    processes: Processes,
    device: torch.device,
    monitor: str | None,
    extra: list[Callback],
) -> Trainer:
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
        callbacks.append(RichProgressBar(console_kwargs={"stderr": True}))
    if recipe.optim.ema_decay:
        callbacks.append(MovingAverage(recipe.optim.ema_decay))
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
