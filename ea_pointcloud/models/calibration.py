"""Calibration stored with trained weights: a temperature, and an out-of-distribution detector.

``inference/calibration.py`` fits both, ``training/calibrate.py`` does it for a run.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from ea_pointcloud.models.stored import check_values

CALIBRATION_FILE = "calibration.safetensors"
WARN_BEYOND = 0.98
TEMPERATURES = (1e-3, 1e3)  # beyond these every probability is 1, or all are equal


@dataclass(frozen=True, eq=False)
class MahalanobisDetector:
    """Detects clouds that are far from those of training.

    The score is the Mahalanobis distance of the features before the last layer, scaled to length 1,
    to the nearest class of training.

    Args:
        class_means: (K, C) float32, the mean of the scaled features of each class.
        whitening: (C, C) float32, makes their common covariance the identity.
        distances: (V,) float32, those of the validation clouds, ascending.
        threshold: fraction of them beyond which a cloud is out of distribution.

    Reference:
        Lee et al., A simple unified framework for detecting out-of-distribution samples, NeurIPS
        2018; the scaling: Mueller and Hein, Mahalanobis++, ICML 2025.
    """

    class_means: Tensor
    whitening: Tensor
    distances: Tensor
    threshold: float = WARN_BEYOND

    def check(self) -> None:
        """Raise ValueError unless shapes and values belong together, as those of a file may not."""
        if not isinstance(self.threshold, int | float) or not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold must be a fraction in 0..1, got {self.threshold!r}")
        shapes = [tuple(each.shape) for each in (self.class_means, self.whitening, self.distances)]
        channels = shapes[1][:1]
        fits = shapes[1] == channels * 2 and shapes[0][1:] == channels and len(shapes[2]) == 1
        if not fits or not all(map(all, shapes)):
            raise ValueError(
                f"class_means, whitening, distances must be (K, C), (C, C), (V,), got {shapes}"
            )

    def distance(self, features: Tensor) -> Tensor:
        """(B,) distances of features (B, C)."""
        offset = F.normalize(features, dim=-1)[:, None] - self.class_means  # (B, K, C)
        return (offset @ self.whitening).norm(dim=-1).amin(-1)

    def ood_score(self, distance: float) -> float:
        """The fraction of the validation clouds that are nearer."""
        return int((self.distances < distance).sum()) / len(self.distances)

    def is_ood(self, distance: float) -> bool:
        """Whether a cloud is out of distribution.

        Counted as if the cloud were one more of the validation clouds: fewer than 49 of these never
        show that at most one in fifty is as far.
        """
        return int((self.distances < distance).sum()) >= self.threshold * (len(self.distances) + 1)


@dataclass(frozen=True, eq=False)
class Calibration:
    """What was fitted to trained weights on validation clouds.

    Args:
        temperature: > 0, divides the logits before the softmax.
        detector: of a classifier; None for a segmenter.
    """

    temperature: float
    detector: MahalanobisDetector | None = None

    def __post_init__(self) -> None:
        """Check what a file may hold."""
        low, high = TEMPERATURES
        if not isinstance(self.temperature, int | float) or not low <= self.temperature <= high:
            raise ValueError(f"temperature must be in {low}..{high}, got {self.temperature!r}")

    def description(self) -> dict[str, Any]:
        """What is written as text."""
        threshold = None if self.detector is None else self.detector.threshold
        return {"temperature": self.temperature, "threshold": threshold}

    def save_tensors(self, folder: Path) -> None:
        """Write the rest to ``folder``, where there is any."""
        from safetensors.torch import save_file

        if self.detector is not None:
            names = ("class_means", "whitening", "distances")
            tensors = {name: getattr(self.detector, name) for name in names}
            save_file(tensors, folder / CALIBRATION_FILE)


def load_calibration(folder: Path, description: dict[str, Any]) -> Calibration:
    """Read what :class:`Calibration` has written.

    Raises:
        ValueError: if text and tensors do not belong together.
    """
    from safetensors.torch import load_file

    try:
        detector = None
        if description["threshold"] is not None:
            tensors = load_file(folder / CALIBRATION_FILE)
            check_values(tensors)
            detector = MahalanobisDetector(**tensors, threshold=description["threshold"])
            detector.check()
        return Calibration(description["temperature"], detector)
    except Exception as error:
        raise ValueError(
            f"the calibration in {folder} is damaged ({error}); copy the folder again"
        ) from error
