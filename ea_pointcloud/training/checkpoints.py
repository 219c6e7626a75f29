"""Checkpoints of a run: written whole, and found again with how far the run had come."""

import os
import shutil
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from ea_pointcloud._files import whole_file

FOLDER = "checkpoints"
LAST_CHECKPOINT = Path(FOLDER) / "last.ckpt"  # after the last whole epoch
BEST_CHECKPOINT = Path(FOLDER) / "best.ckpt"
WITHIN_CHECKPOINT = Path(FOLDER) / "within.ckpt"  # within the epoch after it
BATCHES_DONE = "batches_done"  # of the epoch, in a checkpoint within it


class Progress(NamedTuple):
    """How far a run has come.

    Args:
        epochs: whole ones.
        batches: of the epoch after them.
        checkpoint: that continues from there; None where there is none yet.
    """

    epochs: int = 0
    batches: int = 0
    checkpoint: Path | None = None


def furthest(run: Path) -> Progress:
    """Where a run can be continued.

    Raises:
        ValueError: if a checkpoint is damaged.
    """
    found = [Progress()]
    for name in (LAST_CHECKPOINT, WITHIN_CHECKPOINT):
        path = run / name
        if not path.is_file():
            continue
        try:
            checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            epoch, batches = checkpoint["epoch"], checkpoint.get(BATCHES_DONE)
        except Exception as error:
            raise ValueError(
                f"{path} is damaged ({error}); copy the run folder again, or start a new run"
            ) from error
        whole = batches is None
        found.append(Progress(epoch + 1, 0, path) if whole else Progress(epoch, batches, path))
    return max(found, key=lambda progress: progress[:2])


def epochs_done(run: Path) -> int:
    """Whole epochs of a run; 0 where none is complete."""
    return furthest(run).epochs


def remove_leftovers(run: Path) -> None:
    """Delete what a killed process was writing; for the one process that holds the run folder."""
    for folder in (run, run / FOLDER):
        for partial in folder.glob(".*.partial"):
            partial.unlink()
    for name in ("best", "last"):  # weights that were being written or replaced
        for folder in run.glob(f".{name}-*"):
            shutil.rmtree(folder)


class WholeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint beside the old one, flushed to the disk, then renames it.

    Lightning's own writes into the system's folder for temporary files; where that is another disk
    the checkpoint is copied into place, and a process that dies then leaves half of one.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        """Replace ``path``, or leave it as it was.

        Raises:
            OSError: if it cannot be written, with what is left and what to do.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            buffer = BytesIO()  # torch.save itself hides what went wrong with a file
            torch.save(checkpoint, buffer)
            with whole_file(path) as partial, partial.open("wb") as file:
                file.write(buffer.getbuffer())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            kept = "the one before it is whole" if path.exists() else "there is none before it"
            raise OSError(
                f"checkpoint {path} could not be written ({error.strerror}); {kept}. Make room "
                "there, then continue with --resume"
            ) from error
