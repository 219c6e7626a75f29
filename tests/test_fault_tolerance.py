"""What a training survives: signals, full disks, spoiled losses, too little memory."""

import multiprocessing
import os
import random
import re
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from ea_pointcloud._files import write_whole
from ea_pointcloud.datasets.out_of_core import OutOfCoreModelNet
from ea_pointcloud.training import fit
from ea_pointcloud.training.callbacks import read_metrics
from ea_pointcloud.training.checkpoints import Progress, furthest
from ea_pointcloud.training.fault_tolerance import TrainingTerminatedError, explain_errors
from ea_pointcloud.training.fit import train
from ea_pointcloud.training.recipe import load_recipe
from tests.test_cli import call
from tests.test_training import QUICK, assert_same_weights, weights


class At(Callback):
    """Does something before one batch of one epoch."""

    def __init__(self, epoch: int, batch: int, action: Callable[[LightningModule], object]) -> None:
        self.place = (epoch, batch)
        self.action = action

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int
    ) -> None:
        if (trainer.current_epoch, batch_idx) == self.place:
            self.action(pl_module)


def terminate(_: LightningModule) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def rows(run: Path) -> list[dict[str, str]]:
    found = read_metrics(run / "metrics.csv")
    for row in found:
        assert 0 <= float(row.pop("seconds")) < 600
    return found


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


FINISHED = {"best.ckpt", "last.ckpt", "complete"}


# --- told to stop


@pytest.mark.slow
def test_a_terminated_run_continues_at_the_very_step(tmp_path: Path) -> None:
    recipe = load_recipe("procedural", [*QUICK, "optim.ema_decay=0.9"])
    train(recipe, tmp_path / "whole")
    run = tmp_path / "stopped"
    with pytest.raises(TrainingTerminatedError, match="stopped by SIGTERM"):
        train(recipe, run, callbacks=[At(1, 1, terminate)])
    assert furthest(run)[:2] == (1, 2)
    with pytest.raises(TrainingTerminatedError):  # again within the epoch it was resumed in
        train(recipe, run, resume=True, callbacks=[At(1, 2, terminate)])
    assert furthest(run)[:2] == (1, 3)
    with pytest.raises(TrainingTerminatedError):  # at the last batch the epoch is finished
        train(recipe, run, resume=True, callbacks=[At(1, 3, terminate)])
    assert furthest(run) == Progress(2, 0, run / "checkpoints" / "last.ckpt")
    with pytest.raises(TrainingTerminatedError):  # and so is the last one, but not calibrated
        train(recipe, run, resume=True, callbacks=[At(2, 3, terminate)])
    assert furthest(run)[:2] == (3, 0)
    assert not (run / "last" / "calibration.safetensors").exists()
    train(recipe, run, resume=True)
    assert_same_weights(tmp_path / "whole", run)
    assert names(run / "last") == names(tmp_path / "whole" / "last")
    assert rows(tmp_path / "whole") == rows(run)
    assert names(run / "checkpoints") == FINISHED


# --- killed


def command(arguments: list[str]) -> None:
    """The command line, in a process of its own whose libraries are loaded already."""
    from ea_pointcloud.cli import main

    torch.set_num_threads(1)
    sys.argv = ["ea-pointcloud", *arguments]
    main()


def files_changed(run: Path) -> tuple[int, ...]:
    """Changes whenever a checkpoint, a row or weights are written."""
    stamps = []
    for name in ("within.ckpt", "last.ckpt", "../metrics.csv", "../last/config.json"):
        try:
            stamps.append((run / "checkpoints" / name).stat().st_mtime_ns)
        except OSError:
            stamps.append(0)
    return tuple(stamps)


@pytest.mark.slow
def test_a_run_killed_five_times_ends_with_the_same_weights(tmp_path: Path) -> None:
    options = [*QUICK, "optim.ema_decay=0.9", "trainer.checkpoint_minutes=1e-9"]
    train(load_recipe("procedural", options), tmp_path / "whole")
    run = tmp_path / "killed"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["ea_pointcloud.cli", "ea_pointcloud.training.fit"])
    start = ["train", "procedural", *options, "--run-dir", str(run), "--auto-resume"]
    moment = random.Random(8)
    places = []
    for _ in range(5):
        process = context.Process(target=command, args=(start,))
        process.start()
        before = files_changed(run)
        # Some writes later, and then at any moment of the step, evaluation or write that follows.
        for _ in range(moment.randint(1, 4)):
            while process.is_alive() and files_changed(run) == before:
                time.sleep(0.0005)
            before = files_changed(run)
        time.sleep(moment.uniform(0, 0.05))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        places.append(furthest(run)[:2])  # what is there can be read
    assert places == sorted(places)
    assert len(set(places)) > 1
    # The process that ends it is the command of the message, with the recipe of the run.
    process = context.Process(target=command, args=(["train", "procedural", "--resume", str(run)],))
    process.start()
    process.join(300)
    assert process.exitcode == 0
    assert_same_weights(tmp_path / "whole", run)
    assert rows(tmp_path / "whole") == rows(run)
    assert names(run / "checkpoints") == FINISHED
    assert not [name for name in names(run) if name.endswith((".partial", "-old"))]


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    run = tmp_path / "run"
    recipe = load_recipe("procedural", [*QUICK, "trainer.epochs=1"])
    (run / "checkpoints").mkdir(parents=True)
    fit.start_run(recipe, run, "none")
    (run / "checkpoints" / ".last.ckpt.123.partial").write_bytes(b"half")
    (run / ".metrics.csv.123.partial").write_bytes(b"half")
    (run / ".best-123").mkdir()
    (run / ".best-123-old").mkdir()
    train(recipe, run, resume=True)
    assert names(run / "checkpoints") == FINISHED
    assert names(run) - {".lock"} == {
        "recipe.yaml", "versions.json", "metrics.csv", "best", "last", "checkpoints",
    }  # fmt: skip


# --- a full disk


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    recipe = load_recipe("procedural", QUICK)
    train(recipe, tmp_path / "whole")
    run = tmp_path / "run"
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(_: LightningModule) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))

    try:
        with pytest.raises(
            OSError,
            match=r"checkpoint .*(best|last).ckpt could not be written \(File too large\); the one "
            r"before it is whole. Make room there, then continue with --resume",
        ):
            train(recipe, run, callbacks=[At(1, 0, fill)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert furthest(run)[:2] == (1, 0)
    train(recipe, run, resume=True)
    assert_same_weights(tmp_path / "whole", run)


def test_other_files_are_named_too(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    write_whole(path, "old")
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
    try:
        with pytest.raises(OSError, match=rf"File too large: '{re.escape(str(path))}'"):
            write_whole(path, "x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert path.read_text() == "old"
    assert names(tmp_path) == {"metrics.csv"}


# --- a spoiled loss


def spoil(module: LightningModule) -> None:
    next(module.parameters()).data.fill_(torch.nan)


def test_a_loss_that_is_not_finite_ends_the_run_before_it_is_saved(tmp_path: Path) -> None:
    recipe = load_recipe("procedural", QUICK)
    with pytest.raises(
        FloatingPointError,
        match=r"the loss became NaN or infinite in epoch 2, batch 3; start a new run with a lower "
        r"optim.lr, more optim.warmup_epochs or trainer.precision=32-true",
    ):
        train(recipe, tmp_path / "run", callbacks=[At(1, 2, spoil)])
    assert furthest(tmp_path / "run")[:2] == (1, 0)
    assert all(bool(value.isfinite().all()) for value in weights(tmp_path / "run").values())


class SpoilWeights(Callback):
    """Does so after the last step of the first epoch, whose loss has been seen."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        if trainer.is_last_batch:
            spoil(pl_module)


def test_spoiled_weights_are_not_saved(tmp_path: Path) -> None:
    recipe = load_recipe("procedural", QUICK)
    with pytest.raises(
        FloatingPointError, match=r"model\..* became NaN or infinite in epoch 1; start a new run w"
    ):
        train(recipe, tmp_path / "run", callbacks=[SpoilWeights()])
    assert furthest(tmp_path / "run") == Progress()


# --- too little memory


CPU_MEMORY = (
    "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you "
    "tried to allocate 9000000000 bytes."
)


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError(CPU_MEMORY), MemoryError()],
)
def test_too_little_memory_says_what_to_lower(tmp_path: Path, error: Exception) -> None:
    def fail(_: LightningModule) -> None:
        raise error

    with pytest.raises(
        MemoryError,
        match=r"out of memory \(.*\); start a new run with a lower trainer.batch_size \(now 14\), "
        r"data.num_points \(now 64\) or model.size, .*lower eval.batch_size \(now 64\)",
    ):
        train(load_recipe("procedural", QUICK), tmp_path / "run", callbacks=[At(0, 1, fail)])


def test_memory_of_the_cpu_is_reported_as_it_is() -> None:
    with (
        pytest.raises(MemoryError, match=r"out of memory .*; start a new run with a lower"),
        explain_errors(load_recipe("procedural")),
    ):
        torch.empty(1 << 60, dtype=torch.uint8)


def test_other_errors_stay_what_they_are() -> None:
    with (
        pytest.raises(RuntimeError, match=r"^something else$"),
        explain_errors(load_recipe("procedural")),
    ):
        raise RuntimeError("something else")
    with (
        pytest.raises(OSError, match=r"os error 28\); make room there, then continue wi"),
        explain_errors(load_recipe("procedural")),
    ):
        raise RuntimeError("I/O error: No space left on device (os error 28)")


# --- a process that reads


def test_a_reading_process_that_dies_is_named(
    modelnet_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = [value for value in QUICK if not value.startswith("data.")]
    options = [f"data.root={modelnet_folder.parent}", "data.in_memory=false", "data.num_points=64"]
    recipe = load_recipe(
        "modelnet40_ea",
        [*quick, *options, "data.workers=1", "trainer.epochs=1", "trainer.device=cpu"],
    )
    read = OutOfCoreModelNet.read_block
    main = os.getpid()

    def die(self: OutOfCoreModelNet, number: int) -> torch.Tensor:
        if os.getpid() != main:
            os.kill(os.getpid(), signal.SIGKILL)
        return read(self, number)

    monkeypatch.setattr(OutOfCoreModelNet, "read_block", die)
    with pytest.raises(
        ChildProcessError,
        match=r"a process that reads data died, .*--resume and a lower data.w",
    ):
        train(recipe, tmp_path / "run")
    recipe.data.workers = 0
    train(recipe, tmp_path / "run", resume=True)
    assert len(rows(tmp_path / "run")) == 1


# --- what the command says


def test_the_command_ends_as_a_shell_would_and_names_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*_: object, **__: object) -> None:
        (tmp_path / "run" / "recipe.yaml").touch()
        raise TrainingTerminatedError(signal.SIGTERM)

    monkeypatch.setattr(fit, "train", stopped)
    run = tmp_path / "run"
    run.mkdir()
    assert call(monkeypatch, "train", "procedural", "--run-dir", run) == 128 + signal.SIGTERM
    assert f"after epoch 0, batch 0: ea-pointcloud train --resume {run}" in (
        capsys.readouterr().err
    )
    for error in (FloatingPointError("the loss became NaN"), MemoryError("out of memory")):
        monkeypatch.setattr(fit, "train", lambda *_, error=error, **__: throw(error))
        assert call(monkeypatch, "train", "procedural", "--run-dir", tmp_path / "new") == 1
        assert f"error: {error}" in capsys.readouterr().err


def throw(error: Exception) -> None:
    raise error
