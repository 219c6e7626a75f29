"""What a training does when it has to stop, diverges, or lacks memory or room.

Losing nothing to a killed process is the business of ``checkpoints.py``.
"""

import os
import re
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch import distributed as dist

from ea_pointcloud.metrics import MeanLoss
from ea_pointcloud.training.checkpoints import BATCHES_DONE, WITHIN_CHECKPOINT
from ea_pointcloud.training.recipe_keys import Recipe

# Asking a GPU at every step would make it wait.
_STEPS_BETWEEN_LOOKS = 20
_LOSS_SO_FAR = "loss_so_far"
# What PyTorch says.
_NO_MEMORY = r"can't allocate memory|not enough memory|out of memory"
_WORKER_DIED = r"DataLoader worker .* (exited unexpectedly|is killed)"
_DISK_FULL = r"No space left on device|Disk quota exceeded"


class TrainingTerminatedError(Exception):
    """A signal ended a training, which can be resumed at exactly that step.

    Args:
        signum: the signal.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum


class PreemptionGuard(Callback):
    """Looks after every few steps at the loss, the clock and the signals of the system.

    SIGTERM, and under SLURM SIGUSR1, finishes the step, writes a checkpoint within the epoch and
    ends the training. All processes of a training look at the same steps and act together.

    Args:
        run: the run folder.
        minutes: between checkpoints within an epoch; 0 for none but at a signal.
    """

    def __init__(self, run: Path, minutes: float) -> None:
        self.checkpoint = run / WITHIN_CHECKPOINT
        self.minutes = minutes
        self.signum = 0
        self.has_stepped = False
        self.saved = 0.0
        self.strange: Tensor | None = None  # () the first batch without a finite loss, from 1 on
        self.batches_done: int | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the signals, after Lightning has, which gives them back at the end."""
        self.saved = time.monotonic()
        if threading.current_thread() is not threading.main_thread():
            return
        signal.signal(signal.SIGTERM, self._note)
        if "SLURM_JOB_ID" in os.environ:  # sbatch --signal=SIGUSR1@90: time is nearly up
            signal.signal(signal.SIGUSR1, self._note)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self.signum = signum

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A signal during evaluation: the checkpoint of the whole epoch has just been written."""
        self.strange = torch.zeros((), dtype=torch.int64, device=pl_module.device)
        self._between_epochs(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The same after the last epoch."""
        self._between_epochs(trainer, pl_module)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Tensor | Mapping[str, Any] | None,
        batch: object,
        batch_idx: int,
    ) -> None:
        """Look.

        Raises:
            FloatingPointError: if the loss was not finite.
            TrainingTerminatedError: if a signal came.
        """
        self.has_stepped = True
        loss = outputs["loss"] if isinstance(outputs, Mapping) else outputs
        assert loss is not None
        if self.strange is None:  # resumed within an epoch
            self.strange = torch.zeros((), dtype=torch.int64, device=pl_module.device)
        now = torch.where(loss.detach().isfinite(), 0, batch_idx + 1)
        self.strange = torch.where(self.strange > 0, self.strange, now)
        done = batch_idx + 1
        between = 1 if pl_module.device.type == "cpu" else _STEPS_BETWEEN_LOOKS
        if done % between and not trainer.is_last_batch:
            return
        due = 0 < self.minutes * 60 <= time.monotonic() - self.saved
        strange, due, signum = _most(trainer, pl_module, [int(self.strange), int(due), self.signum])
        if strange:
            raise FloatingPointError(
                f"the loss became NaN or infinite in epoch {trainer.current_epoch + 1}, batch "
                f"{strange}; start a new run with a lower optim.lr, more optim.warmup_epochs or "
                "trainer.precision=32-true. Weights and checkpoints of the epochs before are kept"
            )
        if trainer.is_last_batch:  # evaluation and the checkpoint of the whole epoch come next
            return
        if signum or due:
            self.batches_done = done
            trainer.save_checkpoint(self.checkpoint)
            self.batches_done = None
            self.saved = time.monotonic()
        self._end_if_told(signum)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The last step of an epoch may have ruined the weights but not its loss.

        Raises:
            FloatingPointError: before such weights are saved.
        """
        for name, parameter in pl_module.named_parameters():
            if not bool(parameter.isfinite().all()):
                raise FloatingPointError(
                    f"{name} became NaN or infinite in epoch {trainer.current_epoch + 1}; start a "
                    "new run with a lower optim.lr or trainer.precision=32-true. Weights and "
                    "checkpoints of the epochs before are kept"
                )

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the place in the epoch, and the loss so far, of which Lightning keeps nothing."""
        if self.batches_done is None:
            return
        loss = _train_loss(pl_module)
        sums = torch.stack([loss.total, loss.clouds.double()])
        if trainer.world_size > 1:
            dist.all_reduce(sums)
        checkpoint[BATCHES_DONE] = self.batches_done
        checkpoint[_LOSS_SO_FAR] = sums.tolist()

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Give the loss so far back, to one of the processes, which add theirs up."""
        if BATCHES_DONE in checkpoint and trainer.is_global_zero:
            total, clouds = checkpoint[_LOSS_SO_FAR]
            loss = _train_loss(pl_module)
            loss.total.fill_(total)
            loss.clouds.fill_(int(clouds))

    def _between_epochs(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            self.checkpoint.unlink(missing_ok=True)  # that of the whole epoch is further
        self._end_if_told(_most(trainer, pl_module, [self.signum])[0])

    def _end_if_told(self, signum: int) -> None:
        if signum:
            raise TrainingTerminatedError(signum)


def _train_loss(pl_module: LightningModule) -> MeanLoss:
    loss = pl_module.train_loss
    assert isinstance(loss, MeanLoss)
    return loss


def _most(trainer: Trainer, pl_module: LightningModule, values: list[int]) -> list[int]:
    """The largest of each value over all processes."""
    if trainer.world_size == 1:
        return values
    gathered = torch.tensor(values, device=pl_module.device)
    dist.all_reduce(gathered, dist.ReduceOp.MAX)
    return gathered.tolist()


@contextmanager
def explain_errors(recipe: Recipe) -> Iterator[None]:
    """Say of what ends a training which key of the recipe helps.

    Raises:
        MemoryError: if there is too little memory.
        ChildProcessError: if a process that reads data died.
        OSError: if the disk is full.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        text = str(error)
        if isinstance(error, MemoryError | torch.OutOfMemoryError) or re.search(_NO_MEMORY, text):
            raise MemoryError(_memory_advice(recipe, text)) from error
        if re.search(_WORKER_DIED, text):
            raise ChildProcessError(
                f"a process that reads data died, often for lack of memory ({text.splitlines()[0]})"
                "; continue with --resume and a lower data.workers, 0 for none"
            ) from error
        if re.search(_DISK_FULL, text):
            raise OSError(f"{text}; make room there, then continue with --resume") from error
        raise


@contextmanager
def explain_checkpoint(checkpoint: Path | None, trainer: Trainer) -> Iterator[None]:
    """Say of what fails before the first step of a resumed training that its checkpoint may.

    Raises:
        ValueError: for whatever a damaged checkpoint leads to in Lightning and PyTorch.
    """
    guards = [each for each in trainer.callbacks if isinstance(each, PreemptionGuard)]  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    except Exception as error:
        others = re.search(f"{_NO_MEMORY}|{_WORKER_DIED}|{_DISK_FULL}", str(error))
        if checkpoint is None or others or isinstance(error, OSError | MemoryError):
            raise
        if guards[0].has_stepped:
            raise
        reason = " ".join(str(error).split())[:300]
        raise ValueError(
            f"{checkpoint} cannot be continued ({type(error).__name__}: {reason}); copy the run "
            "folder again, or start a new run"
        ) from error


def _memory_advice(recipe: Recipe, text: str) -> str:
    """What fills the memory, the most likely first, with its present value."""
    trainer, data = recipe.trainer, recipe.data
    detail = text.splitlines()[0].strip() if text else "no detail"
    return (
        f"out of memory ({detail}); start a new run with a lower trainer.batch_size (now "
        f"{trainer.batch_size}), data.num_points (now {data.num_points}) or model.size, or with "
        "trainer.precision=bf16-mixed. If it happened in evaluation, continue with --resume and a "
        f"lower eval.batch_size (now {recipe.eval.batch_size})"
    )
