"""Evaluation of a classifier under corruptions: mean error rate, mCE and RmCE.

ModelNet40-C counts the mean error rate. ModelNet-C relates the errors to those of a reference, as
they are (CE) and as the loss of clean accuracy (RCE).
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

from ea_pointcloud._checks import check_count
from ea_pointcloud.datasets.corrupted import SEVERITIES
from ea_pointcloud.io.pool import progress
from ea_pointcloud.models import Classifier
from ea_pointcloud.robustness.corrupted_sets import Batch, CorruptedSet
from ea_pointcloud.robustness.corruptions import BENCHMARKS
from ea_pointcloud.robustness.options import InferenceOptions, predict

DEFAULT = InferenceOptions()


@dataclass(frozen=True)
class Reference:
    """Accuracies of another network on the same corruptions.

    Args:
        name: of the network, and the origin of its figures.
        clean_accuracy: overall accuracy on clean clouds.
        accuracy: corruption -> overall accuracy, mean over the severities.
    """

    name: str
    clean_accuracy: float
    accuracy: Mapping[str, float]


DGCNN = Reference(
    "DGCNN, published on ModelNet-C",
    0.926,
    {
        "scale": 0.906,
        "jitter": 0.684,
        "rotate": 0.785,
        "dropout_global": 0.752,
        "dropout_local": 0.793,
        "add_global": 0.705,
        "add_local": 0.725,
    },
)


@dataclass(frozen=True)
class CorruptionReport:
    """Figures of one set of weights under the corruptions of one benchmark.

    Args:
        benchmark: its name alone for the published files, else with ``(generated)``.
        reason: why generated clouds or the published files were used.
        shapes: number of clouds.
        options: of inference.
        clean_accuracy: overall accuracy without corruption, with the same preprocessing.
        accuracy: corruption -> overall accuracy at severity 1 to 5; of ``occlusion`` and
            ``lidar`` these are five viewpoints.
        mean_error_rate: over all of these.
        reference: of CE and RCE; None without these.
        corruption_error: corruption -> CE.
        mce: their mean.
        relative_error: corruption -> RCE.
        rmce: their mean.
        seconds: of the evaluation.
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


def evaluate_corruptions(
    model: Classifier,
    clouds: CorruptedSet,
    benchmark: str,
    *,
    reference: Reference | None = None,
    options: InferenceOptions = DEFAULT,
    say: Callable[[str], None] = lambda _: None,
) -> CorruptionReport:
    """Measure ``model`` under every corruption of ``benchmark`` at every severity.

    A corrupted cloud is centred and scaled to the unit sphere, as the
    :class:`~ea_pointcloud.Predictor` does with any cloud, and the network sees all of its points.

    Args:
        model: in evaluation mode, on the device to use.
        clouds: clean and corrupted.
        benchmark: ``"modelnet40-c"`` or ``"modelnet-c"``.
        reference: of mCE and RmCE.
        options: of inference, on clean clouds too; batch normalisation is adapted to each set
            separately.
        say: called with a line a corruption.

    Raises:
        ValueError: if there are no clouds, too few to adapt to, or the reference lacks a
            corruption.
    """
    check_count("shapes", clouds.shapes)
    names = BENCHMARKS[benchmark]
    if reference is not None and (lacking := sorted(set(names) - set(reference.accuracy))):
        raise ValueError(
            f"the reference {reference.name!r} must have all corruptions of {benchmark}, it lacks "
            f"{', '.join(lacking)}"
        )
    started = time.perf_counter()
    total = clouds.shapes * (1 + len(names) * len(SEVERITIES))
    with progress(f"{clouds.title}: clouds", total) as advance:
        clean = _accuracy(model, clouds.clean(), options, advance)
        say(f"{clouds.title}: clean {clean:.4f}, {clouds.shapes} shapes")
        accuracy: dict[str, tuple[float, ...]] = {}
        for name in names:
            accuracy[name] = tuple(
                _accuracy(model, clouds.corrupted(name, severity), options, advance)
                for severity in SEVERITIES
            )
            say(f"{clouds.title}: {name} {' '.join(f'{each:.4f}' for each in accuracy[name])}")
    means = {name: mean(values) for name, values in accuracy.items()}
    errors = {} if reference is None else corruption_errors(means, reference)
    relative = {} if reference is None else relative_errors(clean, means, reference)
    return CorruptionReport(
        benchmark=clouds.title,
        reason=clouds.reason,
        shapes=clouds.shapes,
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


def _accuracy(
    model: Classifier,
    batches: Iterator[Batch],
    options: InferenceOptions,
    advance: Callable[[int], None],
) -> float:
    correct = total = 0
    for pred, label in predict(model, batches, options):
        correct += int((pred == label).sum())
        total += len(label)
        advance(len(label))
    return correct / total


def mean_error_rate(accuracy: Mapping[str, Sequence[float]]) -> float:
    """The mean error rate over all corruptions and severities, as ModelNet40-C counts it."""
    return mean(1 - value for severities in accuracy.values() for value in severities)


def corruption_errors(
    accuracy: Mapping[str, float], reference: Reference
) -> dict[str, float | None]:
    """CE: the error under each corruption over that of the reference; None where that has none.

    Unlike the published code this does not round intermediate values to three decimals.

    Args:
        accuracy: corruption -> overall accuracy, mean over the severities.
        reference: with the same corruptions.

    Reference:
        Ren et al., Benchmarking and analyzing point cloud classification under corruptions, ICML
        2022.
    """
    return {
        name: _ratio(1 - value, 1 - reference.accuracy[name]) for name, value in accuracy.items()
    }


def relative_errors(
    clean_accuracy: float, accuracy: Mapping[str, float], reference: Reference
) -> dict[str, float | None]:
    """RCE: the accuracy lost under each corruption over what the reference loses.

    None where the reference loses nothing. Arguments as of :func:`corruption_errors`.
    """
    return {
        name: _ratio(clean_accuracy - value, reference.clean_accuracy - reference.accuracy[name])
        for name, value in accuracy.items()
    }


def mean_of(errors: Mapping[str, float | None]) -> float | None:
    """The mean over the corruptions, mCE of CE and RmCE of RCE; None where one has no value."""
    values = [value for value in errors.values() if value is not None]
    return mean(values) if len(values) == len(errors) else None


def _ratio(value: float, reference: float) -> float | None:
    return value / reference if reference > 0 else None
