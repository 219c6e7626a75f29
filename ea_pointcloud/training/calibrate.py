"""Calibration of trained weights on val: a temperature and an out-of-distribution detector."""

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ea_pointcloud.inference.calibration import (
    calibrate_temperature,
    extract_features,
    extract_pooled,
    fit_detector,
    fit_small_detector,
)
from ea_pointcloud.io.pool import track
from ea_pointcloud.models import (
    Calibration,
    Classifier,
    DataSpec,
    PretrainedModel,
    Segmenter,
    load_model,
)
from ea_pointcloud.training.batches import batches
from ea_pointcloud.training.data import Shapes, open_split
from ea_pointcloud.training.labels import match_labels
from ea_pointcloud.training.recipe_keys import Recipe
from ea_pointcloud.training.tasks import Batch, part_logits

# Enough for the means and the covariance of the features, and quick beside the training.
TRAIN_CLOUDS = 2_000
VAL_CLOUDS = 10_000
SHAPES = 400  # of each split, for the detector of a segmenter
_FEWEST_SHAPES = 10
_FEWEST_VAL = 49  # at the threshold of 0.98
# Of a shape: its points say much the same, and those of a whole set would not fit into memory.
_POINTS = 256
# Logits of parts that are no choice: exp(-_NEVER) is 0 at any temperature, and so is its gradient.
_NEVER = 1e6

logger = logging.getLogger(__name__)


def calibrate_weights(
    folders: Sequence[Path], recipe: Recipe, device: torch.device
) -> list[Calibration]:
    """Calibrate weights on the val split of a recipe's data, and write that beside them.

    Args:
        folders: of weights; each is replaced in whole.
        recipe: that they were trained with.
        device: where to compute.

    Raises:
        FileNotFoundError: if weights or data are missing.
        ValueError: if the val split is empty.
    """
    val = open_split(recipe.data, "val", all_points=True)
    train = open_split(recipe.data, "train", all_points=True)
    calibrations = []
    for folder in folders:
        model = load_model(str(folder)).to(device)
        spec = model.data_spec
        held_out, known = match_labels(val, spec), match_labels(train, spec)
        if isinstance(model, Classifier):
            if len(val) < _FEWEST_VAL:
                logger.warning(
                    "val has %d shapes; with fewer than %d no cloud is ever called out of "
                    "distribution", len(val), _FEWEST_VAL,
                )  # fmt: skip
            model.calibration = calibrate_classifier(model, held_out, known)
        else:
            assert isinstance(model, Segmenter)
            model.calibration = calibrate_segmenter(model, held_out, known, recipe.eval.batch_size)
        model.save_pretrained(folder)
        calibrations.append(model.calibration)
    return calibrations


def calibrate_classifier(
    model: Classifier, val: Dataset[dict[str, Tensor]], train: Dataset[dict[str, Tensor]]
) -> Calibration:
    """Fit a temperature to val clouds, and an out-of-distribution detector to training clouds.

    Clouds are preprocessed as by the :class:`~ea_pointcloud.Predictor`.

    Args:
        model: in evaluation mode; not altered.
        val: samples with ``xyz`` (N, 3), ``label`` and perhaps ``mask`` (N,); of more than
            ``VAL_CLOUDS``, that number is drawn with a fixed seed.
        train: the same; ``TRAIN_CLOUDS`` of them are drawn.

    Raises:
        ValueError: if one of them is empty, or the model is in training mode.
    """
    _check_evaluating(model)
    every = range(_size(val))
    held_out, logits, label = _ask(
        model, val, every if len(every) <= VAL_CLOUDS else _draw(val, VAL_CLOUDS)
    )
    known, _, known_label = _ask(model, train, _draw(train, TRAIN_CLOUDS))
    return Calibration(
        calibrate_temperature(logits, label), fit_detector(known, known_label, held_out)
    )


@torch.inference_mode()
def calibrate_segmenter(
    model: Segmenter, val: Shapes, train: Shapes, batch_size: int
) -> Calibration:
    """Fit the temperature of a segmenter, and an out-of-distribution detector of shapes.

    The temperature is fitted among the parts of each shape's category. Part sets are small, so that
    the detector is fitted to shapes of both splits, by cross-validation; it needs ten.

    Args:
        model: in evaluation mode; not altered.
        val: shapes with labelled points, of which 256 a shape are enough.
        train: shapes; ``SHAPES`` of them, and of ``val``, are drawn with a fixed seed.
        batch_size: shapes at a time.

    Raises:
        ValueError: if there are no labelled points, or the model is in training mode.
    """
    _check_evaluating(model)
    device = next(model.parameters()).device
    logits, labels = [], []
    for stored in track(batches(val, batch_size), "calibrating: batches of val"):
        batch = {name: value.to(device) for name, value in stored.items()}
        chosen, label = labelled_points(part_logits(model, batch), batch, model.data_spec)
        step = max(1, len(label) // (_POINTS * len(batch["xyz"])))
        logits.append(chosen[::step].cpu())
        labels.append(label[::step].cpu())
    temperature = calibrate_temperature(torch.cat(logits), torch.cat(labels))
    shapes = [split[i] for split in (val, train) for i in _draw(split, SHAPES)]
    if len(shapes) < _FEWEST_SHAPES:
        return Calibration(temperature)
    category = torch.stack([shape["category"] for shape in shapes])
    return Calibration(temperature, fit_small_detector(extract_pooled(model, shapes), category))


def labelled_points(logits: Tensor, batch: Batch, spec: DataSpec) -> tuple[Tensor, Tensor]:
    """The points of a batch that have a label, one after another.

    Args:
        logits: (B, N, P).
        batch: with ``part_label`` (B, N), ``category`` (B,) and ``mask`` (B, N).
        spec: of the segmenter.

    Returns:
        logits: (n, P) float32, of parts of other categories so low that they are no choice.
        label: (n,) int64.
    """
    counts = batch["mask"] & (batch["part_label"] >= 0)
    return own_logits(logits, batch["category"], spec)[counts], batch["part_label"][counts]


def own_logits(logits: Tensor, category: Tensor, spec: DataSpec) -> Tensor:
    """Logits (B, N, P) in float32, of parts of other categories so low that they are no choice.

    Args:
        logits: (B, N, P).
        category: (B,).
        spec: of the segmenter.
    """
    own = torch.zeros(len(spec.parts), logits.shape[-1], dtype=torch.bool, device=logits.device)
    for row, ids in enumerate(spec.parts):
        own[row, list(ids)] = True
    return logits.float().masked_fill(~own[category][:, None], -_NEVER)


def _ask(
    model: Classifier, dataset: Dataset[dict[str, Tensor]], idx: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """(n, C) features, (n, K) logits and (n,) labels of the clouds at ``idx``."""
    if not idx:
        raise ValueError("calibration needs clouds of the train and the val split, got none")
    samples = [dataset[i] for i in idx]
    features, logits = extract_features(model, samples)
    return features, logits, torch.stack([sample["label"] for sample in samples])


def _draw(dataset: Dataset[dict[str, Tensor]], count: int) -> list[int]:
    generator = torch.Generator().manual_seed(0)
    return torch.randperm(_size(dataset), generator=generator)[:count].tolist()


def _check_evaluating(model: PretrainedModel) -> None:
    if model.training:
        raise ValueError("the model must be in evaluation mode; call model.eval() first")


def _size(dataset: Dataset[dict[str, Tensor]]) -> int:
    return len(dataset)  # pyright: ignore[reportArgumentType]
