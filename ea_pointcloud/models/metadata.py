"""What is stored beside the weights of a network: the meaning of its numbers, and a calibration.

``inference/calibration.py`` fits the calibration, ``training/calibrate.py`` does it for a run.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import Self

from ea_pointcloud._checks import check_choice, check_count
from ea_pointcloud.descriptors.channels import feature_channels, parse_features
from ea_pointcloud.models.stored import check_values
from ea_pointcloud.ops.frames import AXES, MIRRORING
from ea_pointcloud.ops.sampling import SAMPLINGS

NORMALIZATIONS = ("unit_sphere",)
CALIBRATION_FILE = "calibration.safetensors"
EMBEDDING_FILE = "embedding.safetensors"
WARN_BEYOND = 0.98
_FLOAT = torch.float32
TEMPERATURES = (1e-3, 1e3)  # beyond these every probability is 1, or all are equal


@dataclass(frozen=True)
class DataSpec:
    """What the numbers going into and coming out of a model mean.

    Args:
        class_names: in the order of the logits; of a segmenter the names of the parts.
        up_axis: ``"x"``, ``"y"`` or ``"z"``, up in the training clouds.
        mirroring: of the training files: ``"none"``, they were right-handed; ``"undone"``, they
            were mirror images and x was negated; ``"kept"``, the network was trained on mirror
            images and sees any other cloud mirrored.
        normalization: ``"unit_sphere"``: mean at the origin, farthest point at distance 1.
        num_points: points a cloud was reduced to in training.
        sampling: how: ``"first"``, ``"random"`` or ``"fps"``.
        category_names: of a segmenter, the categories of shapes it was trained on.
        parts: of a segmenter, the part ids (indices into ``class_names``) of each category.
        features: what points carry beside coordinates, in order: channels of the files
            (``"normals"``, ``"colors"``, ``"intensity"`` or any other name), or one descriptor that
            is computed from the coordinates (``"eigen_features"``, ``"surface_features"`` or
            ``"shape_features"``, see :func:`~ea_pointcloud.descriptors.shape_features`); a single
            name stands for itself, ``"none"`` for ().
        feature_mean: of each column of the features in training, 0 for normals and colours; the
            network subtracts it. () where nothing is to be scaled.
        feature_std: the same, 1 for normals and colours; the network divides by it.
        min_part_fraction: of a segmenter, the smallest fraction of a shape's points that each part
            which a shape may lack had in training, see
            :func:`~ea_pointcloud.inference.postprocess.min_part_fractions`; () keeps every part.
    """

    class_names: tuple[str, ...]
    up_axis: str = "y"
    mirroring: str = "none"
    normalization: str = "unit_sphere"
    num_points: int = 1024
    sampling: str = "random"
    category_names: tuple[str, ...] = ()
    parts: tuple[tuple[int, ...], ...] = ()
    features: tuple[str, ...] = ()
    min_part_fraction: tuple[float, ...] = ()
    feature_mean: tuple[float, ...] = ()
    feature_std: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Check the values; lists (from JSON) become tuples."""
        for name in ("class_names", "category_names"):
            values = tuple(getattr(self, name))
            object.__setattr__(self, name, values)
            if not all(isinstance(value, str) for value in values):
                raise TypeError(f"{name} must be texts, got {str(values)[:100]}")
            if len(set(values)) != len(values):
                raise ValueError(f"{name} must differ from each other, got {values}")
        object.__setattr__(self, "parts", tuple(tuple(ids) for ids in self.parts))
        if len(self.parts) != len(self.category_names):
            raise ValueError(
                f"parts must have an entry for each of the {len(self.category_names)} "
                f"category_names, got {len(self.parts)}"
            )
        for category, ids in zip(self.category_names, self.parts, strict=True):
            if not all(0 <= part < len(self.class_names) for part in ids):
                raise ValueError(
                    f"parts of {category} must be indices into the {len(self.class_names)} "
                    f"class_names, got {ids}"
                )
        object.__setattr__(self, "min_part_fraction", tuple(self.min_part_fraction))
        if self.min_part_fraction and (
            len(self.min_part_fraction) != len(self.class_names)
            or not all(0 <= fraction <= 1 for fraction in self.min_part_fraction)
        ):
            raise ValueError(
                f"min_part_fraction must be a fraction in 0..1 for each of the "
                f"{len(self.class_names)} class_names, or empty, got {self.min_part_fraction}"
            )
        check_choice("up_axis", self.up_axis, AXES)
        check_choice("mirroring", self.mirroring, MIRRORING)
        object.__setattr__(self, "features", parse_features("features", self.features))
        self._check_scale()
        check_choice("normalization", self.normalization, NORMALIZATIONS)
        check_choice("sampling", self.sampling, SAMPLINGS)
        check_count("num_points", self.num_points)

    def _check_scale(self) -> None:
        columns = (0, feature_channels(self.features))
        for name, least in (("feature_mean", -math.inf), ("feature_std", 0.0)):
            values = tuple(getattr(self, name))
            object.__setattr__(self, name, values)
            finite = all(isinstance(each, int | float) and math.isfinite(each) for each in values)
            if len(values) not in columns or not finite or not all(v > least for v in values):
                raise ValueError(
                    f"{name} must be a finite number for each of the {columns[1]} columns of the "
                    f"features{', above 0' if least == 0 else ''}, or empty, got {values}"
                )
        if len(self.feature_mean) != len(self.feature_std):
            raise ValueError("feature_mean and feature_std must be given together")

    @classmethod
    def unnamed(cls, num_classes: int, num_categories: int = 0) -> Self:
        """Placeholder names ``class_0``, ``category_0``, ...; every category has every part."""
        return cls(
            tuple(f"class_{index}" for index in range(num_classes)),
            category_names=tuple(f"category_{index}" for index in range(num_categories)),
            parts=(tuple(range(num_classes)),) * num_categories,
        )


@dataclass(frozen=True, eq=False)
class MahalanobisDetector:
    """Detects clouds that are far from those of training.

    The score is the Mahalanobis distance of the features before the last layer, scaled to length 1,
    to the nearest class of training.

    Args:
        class_means: (K, C) float32, the mean of the scaled features of each class.
        whitening: (C, C) float32, makes their common covariance the identity; None where it is
            nearly that already, as of a few-shot classifier.
        distances: (V,) float32, those of the validation clouds, ascending.
        threshold: fraction of them beyond which a cloud is out of distribution.

    Reference:
        Lee et al., A simple unified framework for detecting out-of-distribution samples, NeurIPS
        2018; the scaling: Mueller and Hein, Mahalanobis++, ICML 2025.
    """

    class_means: Tensor
    whitening: Tensor | None
    distances: Tensor
    threshold: float = WARN_BEYOND

    def check(self, num_channels: int) -> None:
        """Raise ValueError unless this is a detector of features (B, num_channels)."""
        if not isinstance(self.threshold, int | float) or not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold must be a fraction in 0..1, got {self.threshold!r}")
        channels = (num_channels,)
        whitening = torch.empty(channels * 2) if self.whitening is None else self.whitening
        tensors = (self.class_means, whitening, self.distances)
        shapes = [tuple(each.shape) for each in tensors]
        fits = shapes[1] == channels * 2 and shapes[0][1:] == channels and len(shapes[2]) == 1
        if not fits or not all(map(all, shapes)) or {each.dtype for each in tensors} != {_FLOAT}:
            raise ValueError(
                "class_means, whitening, distances must be float32 of shape (K, C), (C, C), (V,) "
                f"with C={num_channels}, got {shapes}"
            )

    def distance(self, features: Tensor) -> Tensor:
        """(B,) distances of features (B, C)."""
        offset = F.normalize(features, dim=-1)[:, None] - self.class_means  # (B, K, C)
        if self.whitening is not None:
            offset = offset @ self.whitening
        return offset.norm(dim=-1).amin(-1)

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
            given = {name: value for name, value in tensors.items() if value is not None}
            save_file(given, folder / CALIBRATION_FILE)


def load_calibration(folder: Path, description: Any, num_channels: int) -> Calibration:
    """Read what :class:`Calibration` has written, for features of ``num_channels``.

    Raises:
        ValueError: if text and tensors do not belong together.
    """
    from safetensors.torch import load_file

    try:
        detector = None
        if description["threshold"] is not None:
            tensors = load_file(folder / CALIBRATION_FILE)
            check_values(tensors)
            tensors = {"whitening": None, **tensors}
            detector = MahalanobisDetector(**tensors, threshold=description["threshold"])
            detector.check(num_channels)
        return Calibration(description["temperature"], detector)
    except Exception as error:
        raise ValueError(
            f"the calibration in {folder} is damaged ({error}); copy the folder again"
        ) from error


def load_embedding(folder: Path) -> dict[str, Tensor] | None:
    """The statistics of an embedding that lie beside weights, if there are any.

    They are the buffers of :class:`~ea_pointcloud.nn.UnitEmbedding`.

    Raises:
        ValueError: if they do not belong together.
    """
    from safetensors.torch import load_file

    if not (folder / EMBEDDING_FILE).is_file():
        return None
    try:
        found = {name: value.float() for name, value in load_file(folder / EMBEDDING_FILE).items()}
        check_values(found)
        rank, channels = found["directions"].shape
        shapes = {"mean": (channels,), "scale": (channels,), "gain": (rank,)}
        if {name: tuple(value.shape) for name, value in found.items()} != {
            **shapes, "directions": (rank, channels)
        }:  # fmt: skip
            raise ValueError(f"it must hold directions (R, C) and {shapes}")
    except Exception as error:
        raise ValueError(
            f"{folder / EMBEDDING_FILE} is damaged ({error}); copy the folder again"
        ) from error
    return found
