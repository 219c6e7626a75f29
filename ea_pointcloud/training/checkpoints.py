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
            epoch, batches = int(checkpoint["epoch"]), checkpoint.get(BATCHES_DONE)
            batches = batches if batches is None else int(batches)
        except Exception as error:
            raise ValueError(
                f"{path} is damaged ({str(error)[:300]}); copy the run folder again, or start a "
                "new run"
            ) from error
        done = Progress(epoch + 1, 0, path) if batches is None else Progress(epoch, batches, path)
        found.append(done)
    return max(found, key=lambda progress: progress[:2])


def epochs_done(run: Path) -> int:
    """Whole epochs of a run; 0 where none is complete."""
    return furthest(run).epochs


def refuse_links(run: Path) -> None:
    """Raise ValueError if anything in a run folder is a link: training writes and deletes there."""
    for folder, names, files in os.walk(run):
        for name in (*names, *files):
            path = Path(folder) / name
            if path.is_symlink():
                raise ValueError(
                    f"{path} is a link, which is not followed when a run is trained or resumed; "
                    "copy the run folder with what its links point to (cp -rL)"
                )


def remove_leftovers(run: Path) -> None:
    """Delete what a killed process was writing; for the one process that holds the run folder."""
    for folder in (run, run / FOLDER):
        for partial in folder.glob(".*.partial"):
            partial.unlink()
    for name in ("best", "last"):  # weights that were being written or replaced
        for folder in run.glob(f".{name}-*"):
            shutil.rmtree(folder, ignore_errors=True)


class WholeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint beside the old one, flushed to the disk, then renames it.

    Lightning's own writes into the system's folder for temporary files; where that is another disk
    the checkpoint is copied into place, and a process that dies then leaves half of one. Reading
    one never runs code, whatever the environment says, and removing one removes a single file.
    """

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Tensors and plain values only."""
        return super().load_checkpoint(path, map_location, weights_only=True)

    def remove_checkpoint(self, path: str | Path) -> None:
        """Delete a file; Lightning's own deletes folders with all they hold."""
        Path(path).unlink(missing_ok=True)

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
