"""What the evaluations of classifiers and segmenters share: one timed pass, and calibration."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median
from typing import Protocol

import torch
from torch import Tensor

from ea_pointcloud.io.pool import progress
from ea_pointcloud.metrics import CalibrationError, ReliabilityBin
from ea_pointcloud.models import PretrainedModel
from ea_pointcloud.training.batches import batches
from ea_pointcloud.training.data import Shapes
from ea_pointcloud.training.tasks import Batch

_FEWEST_TIMED = 3  # batches


@dataclass(frozen=True)
class Reliability:
    """Expected calibration error over 15 bins of equal width.

    Args:
        ece: of the network's own probabilities.
        ece_calibrated: with the temperature that was fitted on val; None if there is none.
        temperature: that temperature.
        bins: what ``ece`` sums up.
        bins_calibrated: what ``ece_calibrated`` sums up; empty without a temperature.
    """

    ece: float
    ece_calibrated: float | None
    temperature: float | None
    bins: tuple[ReliabilityBin, ...]
    bins_calibrated: tuple[ReliabilityBin, ...]


class Hook(Protocol):
    """Sees the answers that figures are made of, to keep what a report shows of them."""

    def __call__(self, model: PretrainedModel, batch: Batch, logits: Tensor) -> None:
        """Take a batch of the plain pass and the network's logits, both on the device."""
        ...


class TimedPass:
    """One pass over a data set, in evaluation mode: iterate for each batch and its logits.

    Args:
        model: on ``device``.
        dataset: what to go through.
        forward: ``(model, batch)`` -> logits.
        batch_size: clouds at a time.
        device: of the batches.
        hook: is called with every batch, outside of the time.
        passes: in all, this one and those that :meth:`passed` counts, whose progress is reported.
    """

    def __init__(
        self,
        model: PretrainedModel,
        dataset: Shapes,
        forward: Callable[..., Tensor],
        batch_size: int,
        device: torch.device,
        hook: Hook | None,
        passes: int = 1,
    ) -> None:
        self.model = model.eval()
        self.dataset = dataset
        self.forward = forward
        self.batch_size = batch_size
        self.device = device
        self.hook = hook
        self.passes = passes
        self.passed: Callable[[int], None] = lambda _: None
        self._seconds: list[float] = []  # of each batch that is full

    def __iter__(self) -> Iterator[tuple[Batch, Tensor]]:
        """Batches on the device, with the network's logits."""
        what = f"evaluating on {self.dataset.split}"
        with progress(what, self.passes * len(self.dataset)) as self.passed:
            for stored in batches(self.dataset, self.batch_size):
                batch = {name: value.to(self.device) for name, value in stored.items()}
                self._synchronize()
                started = time.perf_counter()
                logits = self.forward(self.model, batch)
                self._synchronize()
                if len(batch["xyz"]) == self.batch_size:
                    self._seconds.append(time.perf_counter() - started)
                self.passed(len(batch["xyz"]))
                if self.hook is not None:
                    self.hook(self.model, batch, logits)
                yield batch, logits

    @property
    def clouds_per_second(self) -> float | None:
        """By the median time of the full batches but the first, which pays for warming up.

        None where there are fewer than three of them: one may wait for another program.
        """
        timed = self._seconds[1:]
        return self.batch_size / median(timed) if len(timed) >= _FEWEST_TIMED else None

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def calibration_errors(model: PretrainedModel, device: torch.device) -> list[CalibrationError]:
    """Metrics of the network's own probabilities, and of the calibrated ones if there are any."""
    own = [] if model.calibration is None else [model.calibration.temperature]
    return [CalibrationError(temperature).to(device) for temperature in (1.0, *own)]


def reliability(errors: list[CalibrationError]) -> Reliability:
    """The figures of :func:`calibration_errors`."""
    ece, *calibrated = (float(error.compute()) for error in errors)
    bins, *bins_calibrated = (tuple(error.bins()) for error in errors)
    if not calibrated:
        return Reliability(ece, None, None, bins, ())
    return Reliability(ece, calibrated[0], errors[1].temperature, bins, bins_calibrated[0])
