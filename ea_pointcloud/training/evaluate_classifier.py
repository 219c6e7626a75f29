"""Evaluation of a classifier on a split: plainly, calibrated and with votes."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix

from ea_pointcloud._device import generator_for
from ea_pointcloud.augment.transforms import random_scale
from ea_pointcloud.metrics import class_accuracy, classification_metrics
from ea_pointcloud.models import Classifier
from ea_pointcloud.training.data import PartShapes, Shapes
from ea_pointcloud.training.evaluation import (
    Hook,
    Reliability,
    TimedPass,
    calibration_errors,
    reliability,
)
from ea_pointcloud.training.labels import match_labels
from ea_pointcloud.training.tasks import Batch, class_logits, transform_batch

VOTE_SCALE = (0.8, 1.25)  # drawn for each axis
_VOTE_SEED = 0


@dataclass(frozen=True)
class ClassificationReport:
    """Figures of one set of weights on one split.

    Args:
        selection: how the weights were chosen, ``"validation (primary)"`` or ``"last epoch"``.
        split: what was measured on.
        shapes: clouds in the split.
        overall_accuracy: correct / all, one plain pass.
        mean_class_accuracy: mean of the per-class accuracies, one plain pass.
        data_classes: classes of the data, which may be some of the network's alone.
        restricted_accuracy: overall accuracy with the prediction restricted to the classes of the
            data; None where those are all that the network has.
        restricted_mean_class_accuracy: the same, mean of the per-class accuracies.
        voted_accuracy: overall accuracy of the mean of several randomly scaled passes, None
            without votes.
        class_accuracy: class name -> accuracy, None for a class that does not occur.
        confusion: (C, C) counts, rows are true classes.
        calibration: of the probabilities of the plain pass.
        clouds_per_second: of the plain pass, see ``TimedPass``; None of too few batches.
    """

    selection: str
    split: str
    shapes: int
    overall_accuracy: float
    mean_class_accuracy: float
    data_classes: tuple[str, ...]
    restricted_accuracy: float | None
    restricted_mean_class_accuracy: float | None
    voted_accuracy: float | None
    class_accuracy: dict[str, float | None]
    confusion: list[list[int]]
    calibration: Reliability
    clouds_per_second: float | None


@torch.inference_mode()
def evaluate_classifier(
    model: Classifier,
    dataset: Shapes,
    *,
    selection: str,
    votes: int,
    batch_size: int,
    device: torch.device,
    hook: Hook | None = None,
) -> ClassificationReport:
    """Measure ``model`` on every cloud of ``dataset``, once plainly and once with votes.

    Voting averages the probabilities of ``votes`` passes, each over clouds scaled along each axis
    by U(``VOTE_SCALE``), drawn once from a fixed seed. ``hook`` is called with every batch.

    Raises:
        ValueError: if the data has a class that the model lacks.
    """
    names = model.data_spec.class_names
    assert not isinstance(dataset, PartShapes)
    data_classes = dataset.class_names
    dataset = match_labels(dataset, model.data_spec)
    absent = [index for index, name in enumerate(names) if name not in data_classes]
    metrics = classification_metrics(len(names)).to(device)
    restricted = metrics.clone()
    absent_index = torch.tensor(absent, dtype=torch.long, device=device)
    confusion = MulticlassConfusionMatrix(len(names)).to(device)
    errors = calibration_errors(model, device)
    voted_right = 0
    generator = generator_for(device, _VOTE_SEED)
    plain = TimedPass(model, dataset, class_logits, batch_size, device, hook, 1 + votes)
    for batch, logits in plain:
        label = batch["label"]
        metrics.update(logits, label)
        if absent:
            restricted.update(logits.float().index_fill(1, absent_index, -torch.inf), label)
        confusion.update(logits, label)
        for error in errors:
            error.update(logits, label)
        if votes:
            voted = _vote(model, batch, votes, generator, plain.passed)
            voted_right += int((voted == label).sum())
    values = metrics.compute()
    among = restricted.compute() if absent else {}
    matrix = confusion.compute().cpu()
    return ClassificationReport(
        selection=selection,
        split=dataset.split,
        shapes=len(dataset),
        overall_accuracy=float(values["overall_accuracy"]),
        mean_class_accuracy=float(values["mean_class_accuracy"]),
        data_classes=tuple(data_classes),
        restricted_accuracy=float(among["overall_accuracy"]) if absent else None,
        restricted_mean_class_accuracy=float(among["mean_class_accuracy"]) if absent else None,
        voted_accuracy=voted_right / len(dataset) if votes else None,
        class_accuracy=dict(zip(names, class_accuracy(matrix), strict=True)),
        confusion=matrix.tolist(),
        calibration=reliability(errors),
        clouds_per_second=plain.clouds_per_second,
    )


def _vote(
    model: Classifier,
    batch: Batch,
    votes: int,
    generator: torch.Generator,
    passed: Callable[[int], None],
) -> Tensor:
    def scale(xyz: Tensor) -> Tensor:
        return random_scale(xyz, *VOTE_SCALE, generator=generator)

    passes = []
    for _ in range(votes):
        scaled = transform_batch(batch, model.data_spec.features, scale)
        passes.append(class_logits(model, scaled).softmax(-1))
        passed(len(scaled["xyz"]))
    return torch.stack(passes).mean(0).argmax(-1)
