"""A point cloud in numpy, to and from Open3D."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ea_pointcloud.io.common import PARTS, escaped, listing

FEATURE_PARTS = tuple(part for part in PARTS if part != "labels")  # a network may read them
_DTYPES = {"labels": np.int64}


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
        label_names: of the labels, where the file has them, as our own ``.ply``, ``.npz`` and
            ``.csv`` do.
        up: the axis that is up, where the file says so, as our own ``.ply`` and ``.npz`` do.

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
    label_names: Mapping[int, str] = field(default_factory=dict)
    up: str | None = None

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
        carried = [repr(self.name), f"{len(self)} points", *map(escaped, self._carried())]
        return f"Cloud({', '.join(carried)})"

    def channels(self, names: Sequence[str]) -> np.ndarray:
        """(N, F) float32: ``normals``, ``colors``, ``intensity``, ``confidence`` or extras.

        Raises:
            ValueError: if the cloud lacks one, or its values are not finite.
        """
        columns = [np.empty((len(self), 0), np.float32)]
        for name in names:
            found = getattr(self, name) if name in FEATURE_PARTS else self.extras.get(name)
            if found is None:
                others = [part for part in self._carried() if part != "labels"]
                raise ValueError(
                    f"{self.called} has no {escaped(name)}, only "
                    f"{listing(others) or 'coordinates'}; give a file that has it, or name its "
                    f"column with --columns NAME={escaped(name)} (columns= in Python)"
                )
            finite = np.isfinite(found).reshape(len(self), -1).all(1)
            if not finite.all():
                raise ValueError(
                    f"{self.called} must have finite {escaped(name)}, that of point "
                    f"{int(finite.argmin())} is not; drop such points first"
                )
            columns.append(found.reshape(len(self), -1).astype(np.float32))
        return np.concatenate(columns, axis=1)

    def to_open3d(self) -> Any:
        """An ``open3d.geometry.PointCloud`` with the normals and colours there are.

        Coordinates are those of the file, ``xyz + center``.
        """
        import open3d

        cloud = open3d.geometry.PointCloud()
        cloud.points = open3d.utility.Vector3dVector(self.xyz + self.center)
        for name in ("normals", "colors"):
            values = getattr(self, name)
            if values is not None:
                setattr(cloud, name, open3d.utility.Vector3dVector(values.astype(np.float64)))
        return cloud

    @classmethod
    def from_open3d(cls, cloud: Any, name: str = "") -> "Cloud":
        """The cloud of an ``open3d.geometry.PointCloud`` or ``open3d.t.geometry.PointCloud``.

        Of the latter every attribute is taken: labels, intensity, and others as extras.
        """
        found = {"xyz": cloud.points, "normals": cloud.normals, "colors": cloud.colors}
        if hasattr(cloud, "point"):  # of tensors
            found = {key: value.cpu().numpy() for key, value in cloud.point.items()}
            found["xyz"] = found.pop("positions")
        return cls.from_arrays({key: np.asarray(value) for key, value in found.items()}, name)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], name: str = "") -> "Cloud":
        """A cloud of ``xyz`` (N, 3) of any precision, parts and extras by their names.

        Arrays without rows are left out; integer colours are 0..255, labels and extras (N,) or
        (N, 1).

        Raises:
            ValueError: if a shape is wrong, or coordinates are not finite.
        """
        given = {key: value for key, value in arrays.items() if len(value)}
        xyz = np.asarray(given.pop("xyz", np.empty((0, 3))), np.float64)
        if xyz.ndim != 2 or xyz.shape[1] != 3 or not len(xyz) or not np.isfinite(xyz).all():
            raise ValueError(f"a cloud must have finite coordinates (N, 3), got shape {xyz.shape}")
        center = xyz.min(0) / 2 + xyz.max(0) / 2
        parts: dict[str, Any] = {}
        for part in PARTS:
            if part not in given:
                continue
            values = given.pop(part)
            if part in ("normals", "colors"):
                scale = 255 if part == "colors" and values.dtype.kind in "iu" else 1
                parts[part] = (values / scale).astype(np.float32)
            else:
                parts[part] = values.reshape(-1).astype(_DTYPES.get(part, np.float32))
        extras = {key: value.reshape(len(xyz), -1) for key, value in given.items()}
        columns = {
            key if value.shape[1] == 1 else f"{key}_{column}": value[:, column]
            for key, value in extras.items()
            for column in range(value.shape[1])
        }
        return cls((xyz - center).astype(np.float32), center, **parts, extras=columns, name=name)

    def _carried(self) -> list[str]:
        return [*(part for part in PARTS if getattr(self, part) is not None), *self.extras]

    @property
    def called(self) -> str:
        """Its name in messages."""
        return escaped(self.name) or "the cloud"


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
