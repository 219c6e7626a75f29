"""What is stored with the weights of a network, and its checks before anything is built of it.

The meaning of its numbers, and a calibration, which ``inference/calibration.py`` fits.
"""

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules import module as registration
from typing_extensions import Self

from ea_pointcloud._checks import check_choice, check_count
from ea_pointcloud.descriptors.channels import feature_channels, parse_features
from ea_pointcloud.ops.frames import AXES, MIRRORING
from ea_pointcloud.ops.sampling import SAMPLINGS

NORMALIZATIONS = ("unit_sphere",)
CALIBRATION_FILE = "calibration.safetensors"
WARN_BEYOND = 0.98
_FLOAT = torch.float32
TEMPERATURES = (1e-3, 1e3)  # beyond these every probability is 1, or all are equal
LARGEST_SETTING = 2**16  # of a configuration: widths, depths, centres, classes
MOST_POINTS = 10**6  # of the clouds that a network was trained on
_MOST_ENTRIES = 2**16  # of a list, such as the names of the classes
_PER_TENSOR = 20  # layers, parameters and buffers that a network registers for a stored tensor
_ALWAYS = 1000
_FLOATING = ("F16", "BF16", "F32", "F64")
_WHOLE = {torch.int64: "I64", torch.int32: "I32", torch.bool: "BOOL"}


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

    def check(self, num_channels: int) -> None:
        """Raise ValueError unless this is a detector of features (B, num_channels)."""
        if not isinstance(self.threshold, int | float) or not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold must be a fraction in 0..1, got {self.threshold!r}")
        tensors = (self.class_means, self.whitening, self.distances)
        shapes, channels = [tuple(each.shape) for each in tensors], (num_channels,)
        fits = shapes[1] == channels * 2 and shapes[0][1:] == channels and len(shapes[2]) == 1
        if not fits or not all(map(all, shapes)) or {each.dtype for each in tensors} != {_FLOAT}:
            raise ValueError(
                "class_means, whitening, distances must be float32 of shape (K, C), (C, C), (V,) "
                f"with C={num_channels}, got {shapes}"
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
            detector = MahalanobisDetector(**tensors, threshold=description["threshold"])
            detector.check(num_channels)
        return Calibration(description["temperature"], detector)
    except Exception as error:
        raise ValueError(
            f"the calibration in {folder} is damaged ({error}); copy the folder again"
        ) from error


def check_settings(settings: dict[str, Any]) -> None:
    """Raise ValueError for a number or list in a configuration that no network has."""
    for name, value in settings.items():
        most = MOST_POINTS if name == "num_points" else LARGEST_SETTING
        entries = value if isinstance(value, list) else [value]
        if len(entries) > _MOST_ENTRIES:
            raise ValueError(f"{name} has {len(entries):,} entries, at most {_MOST_ENTRIES:,}")
        for entry in entries:
            if isinstance(entry, int) and abs(entry) > most:
                raise ValueError(f"{name} must be at most {most:,}, got {str(entry)[:30]}")


def check_stored(path: Path, build: Callable[[], nn.Module]) -> None:
    """Compare the header of a safetensors file with a network, neither of which takes memory.

    Args:
        path: of the weights.
        build: makes the network; called on the meta device.

    Raises:
        ValueError: for the first tensor that is missing, unknown, or of another shape or kind.
    """
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        stored = {name: (each.get_dtype(), each.get_shape()) for name, each in slices.items()}
    with torch.device("meta"), at_most(_ALWAYS + _PER_TENSOR * len(stored)):
        expected = build().state_dict()
    for what, names in (("lacks", set(expected) - set(stored)), ("has an unknown",
                        set(stored) - set(expected))):  # fmt: skip
        if names:
            raise ValueError(f"it {what} {min(names)[:100]!r}, {len(names)} tensors in all")
    for name, value in expected.items():
        kind, shape = stored[name]
        if list(value.shape) != list(shape):
            raise ValueError(f"{name} must have shape {list(value.shape)}, got {shape}")
        if kind not in (_FLOATING if value.is_floating_point() else _WHOLE.get(value.dtype, "")):
            raise ValueError(f"{name} must hold {value.dtype} or a narrower form, got {kind}")


def check_values(state: dict[str, Tensor]) -> None:
    """Raise ValueError for the first tensor with a value that no training leaves."""
    for name, value in state.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise ValueError(f"{name} has values that are NaN or infinite")
        if name.endswith("running_var") and bool((value < 0).any()):
            raise ValueError(f"{name} has a negative variance")


@contextmanager
def at_most(count: int) -> Iterator[None]:
    """Stop a network that registers more than ``count`` layers and tensors while it is built."""
    left, thread = [count], threading.get_ident()

    def registered(*_: object) -> None:
        if threading.get_ident() != thread:  # the hooks are those of the whole process
            return
        left[0] -= 1
        if left[0] < 0:
            raise ValueError("its configuration is that of a far larger network")

    handles = [
        registration.register_module_parameter_registration_hook(registered),
        registration.register_module_buffer_registration_hook(registered),
        registration.register_module_module_registration_hook(registered),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
