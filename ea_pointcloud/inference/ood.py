"""Out-of-distribution scores of a classifier, and metrics of how well they separate."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ea_pointcloud._checks import check_range
from ea_pointcloud.inference.calibration import ClassifierOutput, fit_detector

NEIGHBORS = 10  # the one whose distance counts


@dataclass(frozen=True)
class OODMetrics:
    """How well a score separates known from unknown classes.

    Args:
        auroc: the probability that an unknown cloud scores higher than a known one.
        fpr95: the fraction of unknown clouds accepted at the threshold that accepts 95 % of the
            known ones.
    """

    auroc: float
    fpr95: float


def ood_scores(
    train: ClassifierOutput, label: Tensor, clouds: ClassifierOutput
) -> dict[str, Tensor]:
    """Several scores of each cloud, higher for one that is farther from those of training.

    Args:
        train: outputs for training clouds, at least ``NEIGHBORS``.
        label: (n,) int64, their classes.
        clouds: outputs for the B clouds to score.

    Returns:
        name -> (B,) float32. ``Mahalanobis`` is the one that calibration stores with the weights.

    Reference:
        Hendrycks and Gimpel, ICLR 2017 (highest probability); Hendrycks et al., ICML 2022 (highest
        logit); Liu et al., NeurIPS 2020 (energy); Lee et al., NeurIPS 2018 (Mahalanobis); Ren et
        al. 2021, arXiv 2106.09022 (relative); Sun et al., ICML 2022 (neighbours).
    """
    check_range("NEIGHBORS", NEIGHBORS, 1, len(train.features), "training clouds")
    near = fit_detector(train.features, label, train.features)
    anyhow = fit_detector(train.features, torch.zeros_like(label), train.features)
    unit, known = F.normalize(clouds.features, dim=-1), F.normalize(train.features, dim=-1)
    mahalanobis = near.distance(clouds.features)
    probs = clouds.logits.softmax(-1)
    return {
        "highest probability": 1 - probs.amax(-1),
        "highest logit": -clouds.logits.amax(-1),
        "energy": -clouds.logits.logsumexp(-1),
        "entropy": torch.special.entr(probs).sum(-1),
        "distance to class means": torch.cdist(unit, near.class_means).amin(-1),
        "Mahalanobis": mahalanobis,
        "relative Mahalanobis": mahalanobis.square() - anyhow.distance(clouds.features).square(),
        f"distance to neighbour {NEIGHBORS}": torch.cdist(unit, known)
        .kthvalue(NEIGHBORS, dim=-1)
        .values,
    }


def ood_metrics(known: Tensor, unknown: Tensor) -> OODMetrics:
    """The metrics of scores (n,) of clouds of known classes and (m,) of others; n, m >= 1."""
    return OODMetrics(auroc(known, unknown), false_positive_rate(known, unknown))


def auroc(known: Tensor, unknown: Tensor) -> float:
    """The area under the ROC curve: the fraction of pairs in the right order, ties count half."""
    _check_scores(known, unknown)
    ordered = known.double().sort().values
    below = torch.searchsorted(ordered, unknown.double())
    not_above = torch.searchsorted(ordered, unknown.double(), right=True)
    return float((below + not_above).double().mean() / (2 * len(known)))


def false_positive_rate(known: Tensor, unknown: Tensor, recall: float = 0.95) -> float:
    """The fraction of unknown clouds accepted where ``recall`` of the known ones are.

    Scores up to the threshold are accepted; it is the lowest known score that accepts enough.
    """
    _check_scores(known, unknown)
    index = -int(-recall * len(known) // 1) - 1  # the lowest integer that is large enough
    threshold = known.sort().values[index]
    return float((unknown <= threshold).double().mean())


def compare_scores(
    train: ClassifierOutput, label: Tensor, known: ClassifierOutput, unknown: ClassifierOutput
) -> dict[str, OODMetrics]:
    """The metrics of every score of :func:`ood_scores`."""
    of_known, of_unknown = (ood_scores(train, label, clouds) for clouds in (known, unknown))
    return {name: ood_metrics(of_known[name], of_unknown[name]) for name in of_known}


def _check_scores(known: Tensor, unknown: Tensor) -> None:
    if not len(known) or not len(unknown):
        raise ValueError(
            f"there must be known and unknown clouds, got {len(known)} and {len(unknown)}"
        )
