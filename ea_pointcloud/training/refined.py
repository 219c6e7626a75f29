"""Part labels after postprocessing, and averaged over augmented copies of each cloud."""

import math

import torch
from torch import Tensor

from ea_pointcloud._device import generator_for
from ea_pointcloud.augment.transforms import random_scale, random_tilt
from ea_pointcloud.inference.postprocess import postprocess
from ea_pointcloud.metrics import PartIoU
from ea_pointcloud.models import Segmenter
from ea_pointcloud.training.calibrate import own_logits
from ea_pointcloud.training.tasks import Batch, part_logits

COPY_TILT = math.pi / 8  # the largest
COPY_SCALE = (0.85, 1.15)
_FIGURES = ("instance_miou", "category_miou")
NOT_POSTPROCESSED = dict.fromkeys(
    f"{name}_{figure}" for name in ("postprocessed", "tta") for figure in _FIGURES
)
_MIRRORED = (-1.0, 1.0, 1.0)
_SEED = 0


class PostprocessedFigures:
    """Part IoU as ``segment`` labels points, and the same over copies of each cloud.

    The first copy is the cloud, the second its mirror image; all others are mirrored in turns,
    tilted by up to ``COPY_TILT`` about an axis of any direction and scaled along each axis by
    U(``COPY_SCALE``), drawn once from a fixed seed. Their probabilities are averaged.

    Args:
        model: in evaluation mode; its ``data_spec`` says how small parts were in training.
        copies: of each cloud; 0 asks about the cloud alone.
        device: where to compute.
    """

    def __init__(self, model: Segmenter, copies: int, device: torch.device) -> None:
        spec = model.data_spec
        self.model = model
        self.copies = copies
        self.min_part_fraction = torch.tensor(spec.min_part_fraction, device=device)
        self.alone, self.averaged = (PartIoU(spec.parts).to(device) for _ in range(2))
        self.generator = generator_for(device, _SEED)

    def update(self, batch: Batch, logits: Tensor) -> None:
        """Count a batch whose plain pass gave ``logits`` (B, N, P)."""
        probs = self._probs(logits, batch)
        self._count(self.alone, probs, batch)
        for number in range(1, self.copies):
            xyz = batch["xyz"]
            if number % 2:
                xyz = xyz * xyz.new_tensor(_MIRRORED)
            if number > 1:
                xyz = random_tilt(xyz, COPY_TILT, generator=self.generator)
                xyz = random_scale(xyz, *COPY_SCALE, generator=self.generator)
            probs = probs + self._probs(part_logits(self.model, {**batch, "xyz": xyz}), batch)
        if self.copies:
            self._count(self.averaged, probs / self.copies, batch)

    def figures(self) -> dict[str, float | None]:
        """The figures of a report, None for what was not measured."""
        found: dict[str, float | None] = dict(NOT_POSTPROCESSED)
        metrics = {"postprocessed": self.alone}
        if self.copies:
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
