"""A classifier asked about corrupted clouds: published ones from files, or made as it goes."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import mean
from typing import Protocol

import torch
from torch import Tensor

from ea_pointcloud._checks import check_count
from ea_pointcloud._device import generator_for
from ea_pointcloud.datasets.axes import STORED_AS
from ea_pointcloud.datasets.corrupted import MODELNET40_CLASSES, SEVERITIES, CorruptedFiles
from ea_pointcloud.models import Classifier
from ea_pointcloud.robustness.corruptions import BENCHMARKS, CORRUPTIONS, corrupt
from ea_pointcloud.robustness.measures import (
    Reference,
    corruption_errors,
    mean_error_rate,
    mean_of,
    relative_errors,
)
from ea_pointcloud.robustness.options import Batch, InferenceOptions, predict

# Of the clouds that are corrupted together: part of what is measured, for the random numbers of a
# batch are drawn together, and so no option.
BATCH_SIZE = 64
SEED = 0
USUAL = InferenceOptions()


class Source(Protocol):
    """Where corrupted clouds come from."""

    @property
    def title(self) -> str:
        """The benchmark, with what it is not."""
        ...

    @property
    def reason(self) -> str:
        """Why these clouds and not the others."""
        ...

    @property
    def shapes(self) -> int:
        """Clouds of each set."""
        ...

    def clean(self) -> Iterator[Batch]:
        """Clouds as they are."""
        ...

    def corrupted(self, name: str, severity: int) -> Iterator[Batch]:
        """The same clouds corrupted."""
        ...


@dataclass(frozen=True, eq=False)
class Generated:
    """Clouds that are corrupted as they are asked for.

    Args:
        benchmark: ``"modelnet40-c"`` or ``"modelnet-c"``.
        xyz: (n, M, 3), in the unit sphere, y up; M is ``num_points``, or twice that for the
            corruptions that choose half of the points.
        label: (n,) int64, as the model counts classes.
        num_points: of a cloud, the first so many; 1 <= num_points <= M.
        mask: (n, M) bool, True = real point, which come first; all are without it.
        reason: why the clouds are generated.
    """

    benchmark: str
    xyz: Tensor
    label: Tensor
    num_points: int
    mask: Tensor | None = None
    reason: str = ""

    @property
    def title(self) -> str:
        """Not the name alone: that is for the published files."""
        return f"{self.benchmark} (generated)"

    @property
    def shapes(self) -> int:
        """How many."""
        return len(self.label)

    def clean(self) -> Iterator[Batch]:
        """Clouds as they are."""
        yield from self._batches(1)

    def corrupted(self, name: str, severity: int) -> Iterator[Batch]:
        """The same clouds corrupted; the random numbers follow from name, severity and place."""
        place = list(CORRUPTIONS).index(name)
        for number, (xyz, mask, label) in enumerate(self._batches(CORRUPTIONS[name].oversampling)):
            generator = generator_for(torch.device("cpu"), SEED, place, severity, number)
            yield *corrupt(xyz, name, severity, mask=mask, generator=generator), label

    def _batches(self, oversampling: int) -> Iterator[Batch]:
        points = slice(oversampling * self.num_points)
        for start in range(0, len(self.label), BATCH_SIZE):
            rows = slice(start, start + BATCH_SIZE)
            mask = None if self.mask is None else self.mask[rows, points]
            yield self.xyz[rows, points], mask, self.label[rows]


@dataclass(frozen=True, eq=False)
class Published:
    """The published files of a benchmark.

    Args:
        benchmark: ``"modelnet40-c"`` or ``"modelnet-c"``.
        files: of that.
        class_names: of the model, the 40 in any order.
        limit: take so many clouds, spread over all; all of them without it.
        uncorrupted: the test split of ModelNet40, where the files have no clean clouds.
    """

    benchmark: str
    files: CorruptedFiles
    class_names: tuple[str, ...]
    limit: int | None = None
    uncorrupted: Source | None = None

    @property
    def title(self) -> str:
        """The benchmark's own name."""
        return self.benchmark

    @property
    def reason(self) -> str:
        """Where the clouds are from."""
        return f"the published files in {self.files.folder}, {STORED_AS[self.files.mirroring]}"

    @property
    def shapes(self) -> int:
        """How many."""
        first = next(iter(BENCHMARKS[self.benchmark]))
        return len(self._chosen(self.files.read(first, 1)[1]))

    def clean(self) -> Iterator[Batch]:
        """Clouds as they are."""
        if self.files.has_clean:
            yield from self._batches(*self.files.clean())
        else:
            assert self.uncorrupted is not None
            yield from self.uncorrupted.clean()

    def corrupted(self, name: str, severity: int) -> Iterator[Batch]:
        """The same clouds corrupted."""
        yield from self._batches(*self.files.read(name, severity))

    def _batches(self, xyz: Tensor, label: Tensor) -> Iterator[Batch]:
        order = torch.tensor([self.class_names.index(name) for name in MODELNET40_CLASSES])
        xyz, label = self._chosen(xyz), order[self._chosen(label)]
        for rows in zip(xyz.split(BATCH_SIZE), label.split(BATCH_SIZE), strict=True):
            yield rows[0], None, rows[1]

    def _chosen(self, values: Tensor) -> Tensor:
        return values[spread(len(values), self.limit)]


@dataclass(frozen=True)
class CorruptionReport:
    """Figures of one set of weights under the corruptions of one benchmark.

    Args:
        benchmark: its name alone for the published files, else with ``(generated)``.
        reason: why these clouds.
        shapes: clouds of each set.
        options: how the classifier was asked.
        clean_accuracy: overall accuracy without corruption, preprocessed in the same way.
        accuracy: corruption -> overall accuracy at severity 1 to 5; of ``occlusion`` and
            ``lidar`` these are five viewpoints.
        mean_error_rate: over all of these.
        reference: what the next are relative to; None where nothing is.
        corruption_error: corruption -> CE.
        mce: their mean.
        relative_error: corruption -> RCE.
        rmce: their mean.
        seconds: that all of it took.
    """

    benchmark: str
    reason: str
    shapes: int
    options: InferenceOptions
    clean_accuracy: float
    accuracy: dict[str, tuple[float, ...]]
    mean_error_rate: float
    reference: Reference | None
    corruption_error: dict[str, float | None]
    mce: float | None
    relative_error: dict[str, float | None]
    rmce: float | None
    seconds: float

    def mean_accuracy(self) -> dict[str, float]:
        """Corruption -> overall accuracy, mean over the severities."""
        return {name: mean(values) for name, values in self.accuracy.items()}

    def as_reference(self, name: str) -> Reference:
        """These figures for others to be relative to."""
        return Reference(name, self.clean_accuracy, self.mean_accuracy())


def spread(count: int, limit: int | None) -> Tensor:
    """Places of at most ``limit`` of ``count`` clouds, evenly, so that all classes occur."""
    taken = count if limit is None else min(limit, count)
    return torch.arange(taken) * count // max(taken, 1)


def evaluate_corruptions(
    model: Classifier,
    source: Source,
    benchmark: str,
    *,
    reference: Reference | None = None,
    options: InferenceOptions = USUAL,
    progress: Callable[[str], None] = lambda _: None,
) -> CorruptionReport:
    """Measure ``model`` under every corruption of ``benchmark`` at every severity.

    A corrupted cloud is centred and scaled to the unit sphere, as the
    :class:`~ea_pointcloud.Predictor` does with any cloud, and the network sees all of its points.

    Args:
        model: in evaluation mode, on the device to use.
        source: of the clouds.
        benchmark: ``"modelnet40-c"`` or ``"modelnet-c"``.
        reference: of mCE and RmCE.
        options: how to ask; clean clouds are asked about in the same way, and an adaptation is to
            each set by itself.
        progress: is told of each corruption in a line.

    Raises:
        ValueError: if there are no clouds, too few to adapt to, or the reference lacks a
            corruption.
    """
    check_count("shapes", source.shapes)
    names = BENCHMARKS[benchmark]
    if reference is not None and (lacking := sorted(set(names) - set(reference.accuracy))):
        raise ValueError(
            f"the reference {reference.name!r} must have all corruptions of {benchmark}, it lacks "
            f"{', '.join(lacking)}"
        )
    started = time.perf_counter()
    clean = _accuracy(model, source.clean(), options)
    progress(f"{source.title}: clean {clean:.4f}, {source.shapes} shapes")
    accuracy: dict[str, tuple[float, ...]] = {}
    for name in names:
        found = [_accuracy(model, source.corrupted(name, each), options) for each in SEVERITIES]
        progress(f"{source.title}: {name} {' '.join(f'{each:.4f}' for each in found)}")
        accuracy[name] = tuple(found)
    means = {name: mean(values) for name, values in accuracy.items()}
    errors = {} if reference is None else corruption_errors(means, reference)
    relative = {} if reference is None else relative_errors(clean, means, reference)
    return CorruptionReport(
        benchmark=source.title,
        reason=source.reason,
        shapes=source.shapes,
        options=options,
        clean_accuracy=clean,
        accuracy=accuracy,
        mean_error_rate=mean_error_rate(accuracy),
        reference=reference,
        corruption_error=errors,
        mce=mean_of(errors) if errors else None,
        relative_error=relative,
        rmce=mean_of(relative) if relative else None,
        seconds=time.perf_counter() - started,
    )


def _accuracy(model: Classifier, batches: Iterator[Batch], options: InferenceOptions) -> float:
    right = total = 0
    for pred, label in predict(model, batches, options):
        right += int((pred == label).sum())
        total += len(label)
    return right / total
