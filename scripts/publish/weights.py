"""A run becomes a folder of weights: half precision, checked on val, with figures and a card."""

import hashlib
import json
import os
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ea_pointcloud._files import write_whole
from ea_pointcloud.models import PretrainedModel, Segmenter, load_model
from ea_pointcloud.models.pretrained import WEIGHTS_FILE
from ea_pointcloud.training.calibrate import own_logits
from ea_pointcloud.training.callbacks import read_metrics, total_seconds
from ea_pointcloud.training.data import open_held_out
from ea_pointcloud.training.evaluate_classifier import evaluate_classifier
from ea_pointcloud.training.evaluate_run import evaluate_run
from ea_pointcloud.training.evaluate_segmenter import evaluate_segmenter
from ea_pointcloud.training.recipe import list_recipes, load_recipe, recipe_values
from ea_pointcloud.training.recipe_keys import Recipe
from ea_pointcloud.training.run_folder import (
    MAY_CHANGE,
    METRICS_FILE,
    load_run_recipe,
    read_versions,
)
from ea_pointcloud.training.tasks import Batch
from scripts.publish.card import CARD_FILE, FIGURES_FILE, card_text

LIMIT = 6_000_000  # bytes of a folder that comes with the package
AGREEMENT = 0.999  # of the labels before and after rounding, at least
DIFFERENCE = 0.001  # of the figure, at most
# What a recipe leaves open and a run decides.
_OPEN = (None, "auto")


@dataclass(frozen=True)
class Rounding:
    """What half precision changed, on the val split.

    Args:
        shapes: of the split.
        labels: that were compared: classes of shapes, or parts of points.
        agreement: the fraction of them that are the same.
        as_trained: overall accuracy, of a segmenter instance mIoU, of the weights of the run.
        as_stored: of those that were stored.
    """

    shapes: int
    labels: int
    agreement: float
    as_trained: float
    as_stored: float


def publish_weights(
    run: str | Path,
    folder: str | Path,
    device: torch.device,
    *,
    figures: str | Path | None = None,
    data_root: str | Path | None = None,
    note: str = "",
    limit: int = LIMIT,
    force: bool = False,
) -> Rounding:
    """Write the weights of a run to ``folder`` in half precision, with their figures and a card.

    The weights are those that were selected on val, or the last of a run that was trained on val
    too. Nothing is written unless they predict what those of the run predict.

    Args:
        run: a run folder that is complete.
        folder: where to; its name is that of the weights.
        device: where to compute.
        figures: what ``ea-pointcloud evaluate RUN ... --json`` printed of this run, and perhaps of
            others that differ in their seed; by default they are measured now on the test split.
        data_root: where the data lies, if no longer where the run found it.
        note: a sentence on the data for the card.
        limit: bytes that the folder may have.
        force: replace ``folder`` if it is there.

    Raises:
        FileExistsError: if ``folder`` is there.
        FileNotFoundError: if the run or its data is incomplete.
        ValueError: if the figures are of another run, half precision changes the answers, or the
            folder is too large.
    """
    run, folder = Path(run), Path(folder)
    if folder.exists() and not force:
        raise FileExistsError(f"{folder} exists; choose another name, or add --force")
    recipe = load_run_recipe(run)
    if data_root is not None:
        recipe = replace(recipe, data=replace(recipe.data, root=str(data_root)))
    if figures is None:
        measured = [asdict(evaluate_run(run, "test", device, data_root=data_root))]
    else:
        measured = _read_figures(Path(figures), recipe)
    model = load_model(str(run / ("last" if recipe.data.train_split == "trainval" else "best")))

    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = folder.parent / f".{folder.name}-{os.getpid()}"
    try:
        model.save_pretrained(staging, dtype=torch.float16)
        rounding = _compare(model, load_model(str(staging)), recipe, device)
        content = {
            "name": folder.name,
            "note": note,
            "training": _training(run, recipe),
            "evaluation": [_without_places(one) for one in measured],
            "rounding": asdict(rounding),
            "sha256": hashlib.sha256((staging / WEIGHTS_FILE).read_bytes()).hexdigest(),
        }
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
        write_whole(staging / FIGURES_FILE, text + "\n")
        write_whole(staging / CARD_FILE, card_text(staging))
        size = sum(path.stat().st_size for path in staging.iterdir())
        if size > limit:
            raise ValueError(
                f"{folder.name} must take at most {limit / 1e6:.1f} MB, got {size / 1e6:.1f} MB; "
                "train a smaller network, or raise --limit-mb for weights that go to the hub"
            )
        for path in staging.iterdir():
            path.chmod(0o644)  # safetensors lets nobody but the owner read
        if folder.exists():
            shutil.rmtree(folder)
        staging.replace(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return rounding


def train_command(recipe: Recipe) -> str:
    """The command line that trains by ``recipe``: a packaged recipe and what differs from it.

    ``DATA`` stands for the folder of data sets, and the run that weights were taken from is named
    without the folders of the machine that it lies on.
    """
    values = recipe_values(recipe)
    values["model.init"] = _portable(values["model.init"])
    if values["model.init"] is not None and values["model.size"] is None:
        del values["model.size"], values["model.overrides"]  # those of the weights it began with
    words = ["ea-pointcloud", "train", recipe.name]
    if values["data.root"] is not None:
        words.append("data.root=DATA")
    base = recipe_values(load_recipe(recipe.name)) if recipe.name in list_recipes() else {}
    for key, value in values.items():
        if key in MAY_CHANGE or key == "name" or base.get(key, "") == value:
            continue
        if key == "model.overrides":
            before = base.get(key, {})
            words += [f"{key}.{name}={_word(own)}" for name, own in value.items()
                      if before.get(name) != own]  # fmt: skip
        elif base.get(key, "") not in _OPEN or value not in _OPEN:
            words.append(f"{key}={_word(value)}")
    return shlex.join(words)


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


class _Labels:
    """Keeps the labels that a network gives, see ``Hook`` in ``training/evaluation.py``."""

    def __init__(self) -> None:
        self.found: list[Tensor] = []

    def __call__(self, model: PretrainedModel, batch: Batch, logits: Tensor) -> None:
        if isinstance(model, Segmenter):
            logits = own_logits(logits, batch["category"], model.data_spec)[batch["mask"]]
        self.found.append(logits.argmax(-1).cpu())


def _compare(
    model: PretrainedModel, stored: PretrainedModel, recipe: Recipe, device: torch.device
) -> Rounding:
    """Evaluate both on the val split; raise where they differ by more than rounding may."""
    val = open_held_out(recipe, "val")
    labels, measured = [], []
    for one in (model, stored):
        keep = _Labels()
        options: dict[str, Any] = {
            "selection": "",
            "votes": 0,
            "batch_size": recipe.eval.batch_size,
            "device": device,
            "hook": keep,
        }
        network: Any = one.to(device)
        if isinstance(one, Segmenter):
            measured.append(evaluate_segmenter(network, val, **options).instance_miou)
        else:
            measured.append(evaluate_classifier(network, val, **options).overall_accuracy)
        labels.append(torch.cat(keep.found))
    found = Rounding(
        shapes=len(val),
        labels=len(labels[0]),
        agreement=float((labels[0] == labels[1]).double().mean()),
        as_trained=measured[0],
        as_stored=measured[1],
    )
    if found.agreement < AGREEMENT or abs(found.as_trained - found.as_stored) > DIFFERENCE:
        raise ValueError(
            f"half precision must leave {AGREEMENT:.1%} of the labels on val and the figure within "
            f"{DIFFERENCE}, got {found.agreement:.2%} and {found.as_trained:.4f} -> "
            f"{found.as_stored:.4f}; publish these weights in float32, by save_pretrained"
        )
    return found


def _read_figures(path: Path, recipe: Recipe) -> list[dict[str, Any]]:
    """What evaluate printed, the entry of the run of ``recipe`` first."""
    try:
        measured = json.loads(path.read_text(encoding="utf-8"))
        own = [one for one in measured if _same_run(one["recipe"], recipe)]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is not what 'ea-pointcloud evaluate RUN --json' prints ({error!r}); "
            "write it again"
        ) from error
    if any(one.get("farthest_of") is not None for one in measured):
        raise ValueError(
            f"{path} has figures of other points than the run's, which a card does not tell; "
            "evaluate without --farthest-of"
        )
    if len(own) != 1:
        seeds = [one["recipe"]["trainer"]["seed"] for one in measured]
        raise ValueError(
            f"{path} must have the figures of this run (seed {recipe.trainer.seed}) once, got "
            f"{len(own)} times among seeds {seeds}; evaluate the run that is published"
        )
    return own + [one for one in measured if one is not own[0]]


def _same_run(settings: dict[str, Any], recipe: Recipe) -> bool:
    """Whether figures are of a run; settings that are newer than the figures do not count."""
    own = json.loads(json.dumps(asdict(recipe)))
    return all(
        own[section].get(key) == value
        for section, entries in settings.items()
        if isinstance(entries, dict)
        for key, value in entries.items()
        if f"{section}.{key}" not in MAY_CHANGE
    )


def _without_places(measured: dict[str, Any]) -> dict[str, Any]:
    """Figures without where their data, and the weights that training began with, lay."""
    settings = measured["recipe"]
    data = {**settings["data"], "root": None}
    model = {**settings["model"], "init": _portable(settings["model"]["init"])}
    return {**measured, "recipe": {**settings, "data": data, "model": model}}


def _portable(init: str | None) -> str | None:
    """``model.init`` without the folders of one machine: the run's name alone, below ``runs``."""
    if init is None or not Path(init).is_absolute():
        return init
    source = Path(init)
    run = source.parent if source.name in ("best", "last") else source
    return f"runs/{run.name}"


def _training(run: Path, recipe: Recipe) -> dict[str, Any]:
    rows: Sequence[dict[str, str]] = read_metrics(run / METRICS_FILE)
    return {
        "command": train_command(recipe),
        "seed": recipe.trainer.seed,
        "epochs": len(rows),
        "seconds": round(total_seconds(rows)),
        "device": recipe.trainer.device,
        "precision": recipe.trainer.precision,
        "versions": read_versions(run),
    }
