"""What happens around the epochs: the table of metrics, the exported weights."""

import csv
import sys
import time
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint, RichProgressBar

from ea_pointcloud._files import write_whole
from ea_pointcloud.models import PretrainedModel
from ea_pointcloud.models.stored import check_values


class EpochTable(Callback):
    """Keep ``metrics.csv``, one row an epoch, and print each row where no progress bar can live.

    Lightning's own CSV logger deletes the rows of the run that it resumes; here those stay, except
    rows of epochs that are trained again.

    Args:
        path: the CSV file.
        echo: print a line per epoch to stderr.
    """

    def __init__(self, path: Path, *, echo: bool) -> None:
        self.path = path
        self.echo = echo
        self.started = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock of an epoch that is continued."""
        self.started = time.perf_counter()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self.started = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the row."""
        epoch = trainer.current_epoch + 1
        row: dict[str, float] = {
            "epoch": epoch,
            "seconds": round(time.perf_counter() - self.started, 2),
            "lr": trainer.optimizers[0].param_groups[0]["lr"],
        }
        metrics = sorted(trainer.callback_metrics.items())
        row |= {name: round(float(value), 6) for name, value in metrics if "/" in name}
        if not trainer.is_global_zero:  # only here: all processes take part in the metrics
            return
        rows = [old for old in read_metrics(self.path) if int(old["epoch"]) < epoch]
        table = StringIO()
        writer = csv.DictWriter(table, fieldnames=list(row), lineterminator="\n")
        writer.writeheader()
        writer.writerows([*rows, row])
        write_whole(self.path, table.getvalue())
        if self.echo:
            shown = "  ".join(f"{name} {value:.4g}" for name, value in list(row.items())[1:])
            sys.stderr.write(f"epoch {epoch}/{trainer.max_epochs}  {shown}\n")
            sys.stderr.flush()


class EpochBar(RichProgressBar):
    """Lightning's bar, which counts epochs from 1 as everything else does."""

    def _get_train_description(self, current_epoch: int) -> str:
        text = f"Epoch {current_epoch + 1}/{self.trainer.max_epochs}"
        return f"{text:{len(self.validation_description)}}"


class RunCheckpoint(ModelCheckpoint):
    """A checkpoint callback that writes one file, and keeps its best score when a run is moved.

    Lightning's own takes the paths of files that it deletes from the checkpoint, which may come
    from elsewhere, and forgets the best score when the folder of the run has another name.
    """

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the score; the path is that of this callback, never the stored one."""
        path = Path(str(self.dirpath)) / f"{self.filename}{self.FILE_EXTENSION}"
        score = state_dict.get("best_model_score")
        if not path.is_file():
            return
        self.best_model_path = str(path)
        if self.monitor is not None and isinstance(score, torch.Tensor) and score.numel() == 1:
            self.best_model_score = self.kth_value = score
            self.kth_best_model_path = str(path)
            self.best_k_models = {str(path): score}


class ExportWeights(Checkpoint):
    """Turn the checkpoints of this epoch into weights folders that load without Lightning.

    Runs after the checkpoint callbacks listed before it (Lightning keeps their order), and reads
    what they wrote: with weight averaging that holds the averaged weights, as evaluated.

    Args:
        exports: folder name inside ``run`` -> the callback that writes its checkpoint.
        run: the run folder.
    """

    def __init__(self, exports: dict[str, ModelCheckpoint], run: Path) -> None:
        self.exports = exports
        self.run = run
        self.exported: dict[str, int] = {}

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Export every checkpoint that changed."""
        for name, callback in self.exports.items():
            checkpoint = Path(callback.best_model_path)
            changed = checkpoint.stat().st_mtime_ns
            if self.exported.get(name) != changed:
                self.exported[name] = changed
                export_weights(checkpoint, pl_module.model, self.run / name)  # pyright: ignore


def export_weights(checkpoint: Path, like: PretrainedModel, folder: Path) -> None:
    """Write the network in a Lightning ``checkpoint`` as a weights folder.

    Args:
        checkpoint: written by Lightning, holding the network under ``model.``.
        like: a network of the same configuration; not altered.
        folder: where to; replaced.

    Raises:
        ValueError: if the checkpoint does not hold this network.
    """
    model = type(like)(like.config, like.data_spec)
    prefix = "model."
    try:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
        model.load_state_dict(
            {name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)}
        )
        check_values(model.state_dict())
    except OSError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(
            f"{checkpoint} is damaged ({reason}); copy the run folder again, or start a new run"
        ) from error
    model.save_pretrained(folder)


def read_metrics(path: Path) -> list[dict[str, str]]:
    """The rows of a ``metrics.csv``, none where there is no such file.

    Raises:
        ValueError: if a row is not that of an epoch with numbers.
    """
    if not path.is_file():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file, restkey="more", strict=True))
        for row in rows:
            int(row["epoch"])
            _ = [float(value) for value in row.values() if value]
    except (ValueError, TypeError, KeyError, csv.Error) as error:
        raise ValueError(
            f"{path} is damaged ({str(error)[:100]}); copy the run folder again, or remove the row"
        ) from error
    return rows


def total_seconds(rows: Sequence[dict[str, str]]) -> float:
    """All that the epochs of a ``metrics.csv`` took."""
    return sum(float(row["seconds"]) for row in rows)
