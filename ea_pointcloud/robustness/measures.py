"""What the accuracies under corruptions are summed up to: mean error rate, mCE and RmCE.

ModelNet40-C counts the mean error rate. ModelNet-C relates the errors to those of a reference, as
they are (CE) and as what was lost of the clean accuracy (RCE).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean


@dataclass(frozen=True)
class Reference:
    """What another network reaches on the same corruptions.

    Args:
        name: which, and where its figures come from.
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


def mean_error_rate(accuracy: Mapping[str, Sequence[float]]) -> float:
    """The mean share named wrong over all corruptions and severities, as ModelNet40-C counts it."""
    return mean(1 - value for severities in accuracy.values() for value in severities)


def corruption_errors(
    accuracy: Mapping[str, float], reference: Reference
) -> dict[str, float | None]:
    """CE: the error under each corruption over that of the reference; None where that has none.

    Not rounded on the way, as the published code does to three decimals.

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
