"""Evaluation of a segmenter on a split: plainly, with votes, and postprocessed."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ea_pointcloud._device import generator_for
from ea_pointcloud.augment.transforms import random_scale, random_tilt
from ea_pointcloud.inference.postprocess import postprocess
from ea_pointcloud.metrics import PartIoU
from ea_pointcloud.models import Segmenter
from ea_pointcloud.training.calibrate import labelled_points, own_logits
from ea_pointcloud.training.data import Shapes
from ea_pointcloud.training.evaluation import (
    Hook,
    Reliability,
    TimedPass,
    calibration_errors,
    reliability,
)
from ea_pointcloud.training.labels import match_labels
from ea_pointcloud.training.tasks import Batch, part_logits, transform_batch

VOTE_SIZES = (0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.4)  # one vote each
COPY_TILT = math.pi / 8  # the largest
COPY_SCALE = (0.85, 1.15)
_FIGURES = ("instance_miou", "category_miou")
NOT_POSTPROCESSED = dict.fromkeys(
    f"{name}_{figure}" for name in ("postprocessed", "tta") for figure in _FIGURES
)
_MIRRORED = (-1.0, 1.0, 1.0)
_SEED = 0


@dataclass(frozen=True)
class SegmentationReport:
    """Figures of one set of weights on one split, at every point of every shape.

    Args:
        selection: how the weights were chosen, ``"validation (primary)"`` or ``"last epoch"``.
        split: what was measured on.
        shapes: clouds in the split.
        instance_miou: argmax among the parts of the shape's category, one plain pass.
        category_miou: the same, mean over the categories.
        point_accuracy: the same, fraction of points.
        all_parts_instance_miou: argmax among all parts.
        all_parts_category_miou: argmax among all parts.
        voted_instance_miou: of the mean over ``VOTE_SIZES``, None without votes.
        voted_category_miou: the same.
        postprocessed_instance_miou: of the plain pass as ``segment`` labels points: averaged over
            neighbours, parts that are too small removed; None where the weights hold no
            smallest fractions of the parts.
        postprocessed_category_miou: the same.
        tta_instance_miou: of the mean over tilted and mirrored copies, postprocessed; None
            without copies or where nothing is postprocessed.
        tta_category_miou: the same.
        category_iou: category -> mean IoU of its shapes, None for one that does not occur.
        calibration: of the probabilities of the plain pass, at every point and among
            the parts of the shape's category.
        clouds_per_second: of the plain pass, see ``TimedPass``; None of too few batches.
    """

    selection: str
    split: str
    shapes: int
    instance_miou: float
    category_miou: float
    point_accuracy: float
    all_parts_instance_miou: float
    all_parts_category_miou: float
    voted_instance_miou: float | None
    voted_category_miou: float | None
    postprocessed_instance_miou: float | None
    postprocessed_category_miou: float | None
    tta_instance_miou: float | None
    tta_category_miou: float | None
    category_iou: dict[str, float | None]
    calibration: Reliability
    clouds_per_second: float | None


@torch.inference_mode()
def evaluate_segmenter(
    model: Segmenter,
    dataset: Shapes,
    *,
    selection: str,
    votes: int,
    batch_size: int,
    device: torch.device,
    hook: Hook | None = None,
    tta_copies: int = 0,
) -> SegmentationReport:
    """Measure ``model`` on every point of ``dataset``, once plainly and once with votes.

    Voting averages the probabilities of passes over the clouds scaled by each of ``VOTE_SIZES``,
    as published. ``hook`` is called with every batch. On postprocessing and ``tta_copies`` see
    :class:`PostprocessedFigures`.

    Raises:
        ValueError: if the data has a category or part that the model lacks.
    """
    spec = model.data_spec
    dataset = match_labels(dataset, spec)
    plain, voted = PartIoU(spec.parts).to(device), PartIoU(spec.parts).to(device)
    all_parts = PartIoU(spec.parts, restrict=False).to(device)
    postprocessed = None
    if spec.min_part_fraction:
        postprocessed = PostprocessedFigures(model, tta_copies, device)
    errors = calibration_errors(model, device)
    copies = max(tta_copies - 1, 0) if postprocessed is not None else 0
    passes = 1 + copies + (len(VOTE_SIZES) if votes else 0)
    timed = TimedPass(model, dataset, part_logits, batch_size, device, hook, passes)
    for batch, logits in timed:
        truth = batch["part_label"], batch["category"], batch["mask"]
        plain.update(logits, *truth)
        all_parts.update(logits, *truth)
        for error in errors:
            error.update(*labelled_points(logits, batch, spec))
        if votes:
            probs = torch.zeros_like(logits)
            for size in VOTE_SIZES:
                probs += part_logits(model, {**batch, "xyz": batch["xyz"] * size}).softmax(-1)
                timed.passed(len(logits))
            voted.update(probs, *truth)
        if postprocessed is not None:
            postprocessed.update(batch, logits, timed.passed)
    figures, every = plain.compute(), all_parts.compute()
    vote = voted.compute() if votes else None
    iou = figures["category_iou"].tolist()
    return SegmentationReport(
        selection=selection,
        split=dataset.split,
        shapes=len(dataset),
        instance_miou=float(figures["instance_miou"]),
        category_miou=float(figures["category_miou"]),
        point_accuracy=float(figures["point_accuracy"]),
        all_parts_instance_miou=float(every["all_parts_instance_miou"]),
        all_parts_category_miou=float(every["all_parts_category_miou"]),
        voted_instance_miou=None if vote is None else float(vote["instance_miou"]),
        voted_category_miou=None if vote is None else float(vote["category_miou"]),
        **(NOT_POSTPROCESSED if postprocessed is None else postprocessed.figures()),
        category_iou={
            name: None if math.isnan(value) else value
            for name, value in zip(spec.category_names, iou, strict=True)
        },
        calibration=reliability(errors),
        clouds_per_second=timed.clouds_per_second,
    )


class PostprocessedFigures:
    """Part IoU as ``segment`` labels points, and the same over copies of each cloud.

    The first copy is the cloud, the second its mirror image; all others are mirrored in turns,
    tilted by up to ``COPY_TILT`` about an axis of any direction and scaled along each axis by
    U(``COPY_SCALE``), drawn once from a fixed seed. Their probabilities are averaged.

    Args:
        model: in evaluation mode; its ``data_spec`` has the smallest fraction of each part.
        tta_copies: augmented copies of each cloud, the cloud itself among them; 0 for none.
        device: where to compute.
    """

    def __init__(self, model: Segmenter, tta_copies: int, device: torch.device) -> None:
        spec = model.data_spec
        self.model = model
        self.tta_copies = tta_copies
        self.min_part_fraction = torch.tensor(spec.min_part_fraction, device=device)
        self.alone, self.averaged = (PartIoU(spec.parts).to(device) for _ in range(2))
        self.generator = generator_for(device, _SEED)

    def update(
        self, batch: Batch, logits: Tensor, passed: Callable[[int], None] = lambda _: None
    ) -> None:
        """Count a batch whose plain pass gave ``logits`` (B, N, P); ``passed`` counts copies."""
        probs = self._probs(logits, batch)
        self._count(self.alone, probs, batch)
        for number in range(1, self.tta_copies):
            transform = partial(self._copy, number)
            copy = transform_batch(batch, self.model.data_spec.features, transform)
            probs = probs + self._probs(part_logits(self.model, copy), batch)
            passed(len(copy["xyz"]))
        if self.tta_copies:
            self._count(self.averaged, probs / self.tta_copies, batch)

    def _copy(self, number: int, xyz: Tensor) -> Tensor:
        """The coordinates of a copy."""
        if number % 2:
            xyz = xyz * xyz.new_tensor(_MIRRORED)
        if number > 1:
            xyz = random_tilt(xyz, COPY_TILT, generator=self.generator)
            xyz = random_scale(xyz, *COPY_SCALE, generator=self.generator)
        return xyz

    def figures(self) -> dict[str, float | None]:
        """The figures of a report, None for what was not measured."""
        found: dict[str, float | None] = dict(NOT_POSTPROCESSED)
        metrics = {"postprocessed": self.alone}
        if self.tta_copies:
            metrics["tta"] = self.averaged
        for name, metric in metrics.items():
            values = metric.compute()
            found |= {f"{name}_{figure}": float(values[figure]) for figure in _FIGURES}
        return found

    def _probs(self, logits: Tensor, batch: Batch) -> Tensor:
        """(B, N, P) among the parts of each shape's category, as they are calibrated."""
        calibration = self.model.calibration
        temperature = 1.0 if calibration is None else calibration.temperature
        own = own_logits(logits, batch["category"], self.model.data_spec)
        return (own / temperature).softmax(-1)

    def _count(self, metric: PartIoU, probs: Tensor, batch: Batch) -> None:
        mask = batch["mask"]
        postprocessed = postprocess(probs, batch["xyz"], self.min_part_fraction, mask)
        metric.update(postprocessed, batch["part_label"], batch["category"], mask)
