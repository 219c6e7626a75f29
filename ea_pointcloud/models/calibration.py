"""What the answers of a trained network are worth: honest probabilities, and unusual clouds.

Fitted on clouds that the network was not trained on; ``training/calibrate.py`` does it for a run.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

CALIBRATION_FILE = "calibration.safetensors"
WARN_BEYOND = 0.98
# Of the mean variance: keeps directions that hardly vary in training from deciding alone.
_SHRINKAGE = 1e-3


@dataclass(frozen=True, eq=False)
class Familiarity:
    """How far clouds lie from those of training, as the last layer of a classifier sees them.

    The Mahalanobis distance of the features, scaled to length 1, to the nearest class of training.

    Args:
        class_means: (K, C) float32, the mean of the scaled features of each class.
        whitening: (C, C) float32, makes their common covariance the identity.
        distances: (V,) float32, those of the validation clouds, ascending.
        threshold: share of them beyond which a cloud deserves a warning.

    Reference:
        Lee et al., A simple unified framework for detecting out-of-distribution samples, NeurIPS
        2018; the scaling: Mueller and Hein, Mahalanobis++, ICML 2025.
    """

    class_means: Tensor
    whitening: Tensor
    distances: Tensor
    threshold: float = WARN_BEYOND

    def distance(self, features: Tensor) -> Tensor:
        """(B,) distances of features (B, C)."""
        offset = F.normalize(features, dim=-1)[:, None] - self.class_means  # (B, K, C)
        return (offset @ self.whitening).norm(dim=-1).amin(-1)

    def share_below(self, distance: float) -> float:
        """The share of the validation clouds that are nearer."""
        return int((self.distances < distance).sum()) / len(self.distances)

    def is_unusual(self, distance: float) -> bool:
        """Whether a cloud deserves a warning.

        Counted as if the cloud were one more among those of validation: fewer than 49 of them
        never show that at most one in fifty is as unusual.
        """
        return int((self.distances < distance).sum()) >= self.threshold * (len(self.distances) + 1)


@dataclass(frozen=True, eq=False)
class Calibration:
    """What was found out about trained weights on validation clouds.

    Args:
        temperature: > 0, divides the logits before the softmax.
        familiarity: of a classifier; None for a segmenter.
    """

    temperature: float
    familiarity: Familiarity | None = None

    def __post_init__(self) -> None:
        """Check what a file may hold."""
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"temperature must be positive and finite, got {self.temperature}")

    def description(self) -> dict[str, Any]:
        """What is written as text."""
        threshold = None if self.familiarity is None else self.familiarity.threshold
        return {"temperature": self.temperature, "threshold": threshold}

    def save_tensors(self, folder: Path) -> None:
        """Write the rest to ``folder``, where there is any."""
        from safetensors.torch import save_file

        if self.familiarity is not None:
            names = ("class_means", "whitening", "distances")
            tensors = {name: getattr(self.familiarity, name) for name in names}
            save_file(tensors, folder / CALIBRATION_FILE)


def load_calibration(folder: Path, description: dict[str, Any]) -> Calibration:
    """Read what :class:`Calibration` has written.

    Raises:
        ValueError: if text and tensors do not belong together.
    """
    from safetensors.torch import load_file

    try:
        familiarity = None
        if description["threshold"] is not None:
            tensors = load_file(folder / CALIBRATION_FILE)
            familiarity = Familiarity(**tensors, threshold=description["threshold"])
        return Calibration(description["temperature"], familiarity)
    except Exception as error:
        raise ValueError(
            f"the calibration in {folder} is damaged ({error}); copy the folder again"
        ) from error


def fit_temperature(logits: Tensor, label: Tensor) -> float:
    """The temperature under which the labels are the most probable.

    Where all labels are found right, the likelihood alone would ask for certainty: a weak prior
    (the logarithm of the temperature is normal, mean 0, deviation 1) keeps a few clouds from it.

    Args:
        logits: (n, K), finite.
        label: (n,) int64.

    Raises:
        ValueError: if there is nothing to fit to.

    Reference:
        Guo et al., On calibration of modern neural networks, ICML 2017.
    """
    if not len(logits):
        raise ValueError("logits must have at least one row, got none")
    with torch.inference_mode(False), torch.enable_grad():
        # Copies: tensors that were made in inference mode cannot take part.
        rows, label = logits.detach().double().clone(), label.clone()
        log_temperature = torch.zeros((), dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS(
            [log_temperature], max_iter=100, line_search_fn="strong_wolfe"
        )

        def loss() -> Tensor:
            optimizer.zero_grad()
            nll = F.cross_entropy(rows / log_temperature.exp(), label)
            value = nll + log_temperature.square() / (2 * len(rows))
            value.backward()
            return value

        optimizer.step(loss)  # pyright: ignore[reportArgumentType]
    return float(log_temperature.detach().exp())


def fit_familiarity(features: Tensor, label: Tensor, held_out: Tensor) -> Familiarity:
    """Learn what is familiar.

    Args:
        features: (n, C) of training clouds.
        label: (n,) int64, their classes; a class without clouds is no neighbour to be near to.
        held_out: (V, C) features of validation clouds.

    Raises:
        ValueError: if there are no clouds.
    """
    if not len(features) or not len(held_out):
        raise ValueError(
            f"features and held_out must have rows, got {len(features)} and {len(held_out)}"
        )
    scaled = F.normalize(features.double(), dim=-1)
    occurring, place = label.unique(return_inverse=True)
    means = torch.stack([scaled[place == index].mean(0) for index in range(len(occurring))])
    offset = scaled - means[place]
    covariance = offset.T @ offset / len(offset)
    spread = covariance.trace() / len(covariance)
    floor = (_SHRINKAGE * spread).clamp_min(torch.finfo(torch.float32).tiny)
    covariance += floor * torch.eye(len(covariance), dtype=torch.float64)
    # d^T S^-1 d = |d L^-T|^2 with S = L L^T.
    whitening = torch.linalg.inv(torch.linalg.cholesky(covariance)).T.contiguous()
    found = Familiarity(means.float(), whitening.float(), torch.empty(0))
    distances = found.distance(held_out.float()).sort().values
    return Familiarity(found.class_means, found.whitening, distances)
