"""A point cloud in memory, in numpy."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ea_pointcloud.io.common import PARTS, escaped


@dataclass(frozen=True, eq=False, repr=False)
class Cloud:
    """One point cloud, in numpy.

    Args:
        xyz: (N, 3) float32 after ``center`` was subtracted, in the unit and axes of the file.
        center: (3,) float64; a coordinate in the file is ``xyz + center``.
        normals: (N, 3) float32 of unit length, or zero where the file has a zero normal.
        colors: (N, 3) float32, red, green, blue in 0..1.
        labels: (N,) int64.
        confidence: (N,) float32 of the labels, 0..1 where we wrote it.
        intensity: (N,) float32, in the unit of the file.
        extras: further channels by name, (N,) numbers of any type each.
        name: the file's name without folder and suffix.

    Raises:
        TypeError: if a dtype is wrong.
        ValueError: if a shape is wrong or there is no point.
    """

    xyz: np.ndarray
    center: np.ndarray
    normals: np.ndarray | None = None
    colors: np.ndarray | None = None
    labels: np.ndarray | None = None
    confidence: np.ndarray | None = None
    intensity: np.ndarray | None = None
    extras: Mapping[str, np.ndarray] = field(default_factory=dict)
    name: str = ""

    def __post_init__(self) -> None:
        """Check shapes and dtypes."""
        if self.xyz.ndim != 2 or self.xyz.shape[1] != 3 or len(self.xyz) == 0:
            raise ValueError(f"xyz must have shape (N, 3) with N >= 1, got {self.xyz.shape}")
        count = len(self.xyz)
        _check_array("xyz", self.xyz, (count, 3), np.float32)
        _check_array("center", self.center, (3,), np.float64)
        _check_array("normals", self.normals, (count, 3), np.float32)
        _check_array("colors", self.colors, (count, 3), np.float32)
        _check_array("labels", self.labels, (count,), np.int64)
        _check_array("confidence", self.confidence, (count,), np.float32)
        _check_array("intensity", self.intensity, (count,), np.float32)
        for name, values in self.extras.items():
            if values.shape != (count,) or values.dtype.kind not in "biuf":
                raise ValueError(
                    f"extras[{name!r}] must hold numbers of shape ({count},), got {values.dtype} "
                    f"of shape {values.shape}"
                )

    def __len__(self) -> int:
        """N."""
        return len(self.xyz)

    def __repr__(self) -> str:
        """Name, size and what it carries, not its values."""
        parts = [part for part in PARTS if getattr(self, part) is not None]
        carried = [repr(self.name), f"{len(self)} points", *parts, *map(escaped, self.extras)]
        return f"Cloud({', '.join(carried)})"


def _check_array(name: str, array: np.ndarray | None, shape: tuple[int, ...], dtype: type) -> None:
    if array is None:
        return
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {array.shape}")
    if array.dtype != dtype:
        raise TypeError(
            f"{name} must be {np.dtype(dtype)}, got {array.dtype}; convert with "
            f"{name}.astype(np.{np.dtype(dtype)})"
        )
