"""A point cloud in numpy: of what a reader found, of arrays, and of other libraries' objects."""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ea_pointcloud.io.columns import check_roles, points_from_columns
from ea_pointcloud.io.common import (
    LONGEST_MESSAGE,
    PARTS,
    SOURCE,
    CloudFileError,
    Mesh,
    Points,
    escaped,
    is_compressed,
    listing,
)
from ea_pointcloud.io.meshes import check_mesh, sample_mesh
from ea_pointcloud.io.objects import content_of
from ea_pointcloud.io.values import unit_colors, unit_normals, whole_labels

logger = logging.getLogger(__name__)
_said: set[str] = set()  # notes without their numbers
FEATURE_PARTS = tuple(part for part in PARTS if part != "labels")  # a network may read them


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

    @staticmethod
    def from_open3d(geometry: Any, *, num_points: int = 10_000, seed: int = 0) -> "Cloud":
        """The cloud of an Open3D ``PointCloud``, also of its tensors with all their attributes.

        Of a ``TriangleMesh`` ``num_points`` are drawn from the surface by area.
        """
        return cloud_of(geometry, num_points=num_points, seed=seed)

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


def cloud_from_array(array: np.ndarray, columns: str | Sequence[str]) -> Cloud:
    """The cloud of an (N, C) array.

    Args:
        array: one row for each point.
        columns: a role for each column, see :func:`~ea_pointcloud.read_cloud`.

    Raises:
        ValueError: if the roles do not fit, or there are no finite coordinates.
    """
    if array.ndim != 2:
        raise ValueError(f"columns= is for an array (N, C), got shape {array.shape}")
    named = {f"column {index}": values for index, values in enumerate(array.T)}
    path = Path("array")
    points = points_from_columns(path, named, check_roles(columns))
    return replace(to_cloud(path, None, points, drop_invalid=False), name="")


def cloud_of(
    value: Any, channels: Sequence[str] = (), *, num_points: int = 10_000, seed: int = 0
) -> Cloud:
    """The cloud of an object of another library; of a mesh, points drawn from its surface by area.

    Args:
        value: a point cloud or triangle mesh of Open3D (also of its tensors) or trimesh, or a
            ``Data`` of PyTorch Geometric with ``pos``.
        channels: names of the columns of ``x`` of a ``Data``, where there are as many.
        num_points: to draw, of meshes only.
        seed: of that drawing.

    Raises:
        TypeError: if ``value`` is something else.
        ValueError: if it holds no usable points.
    """
    if isinstance(value, Cloud):
        return value
    content, path = content_of(value, channels), Path(type(value).__name__)
    if isinstance(content, Mesh):
        mesh = check_mesh(path, content, drop_invalid=False)
        content = sample_mesh(path, mesh, num_points, seed)
    return replace(to_cloud(path, None, content, drop_invalid=False), name="")


def to_cloud(path: Path, index: int | None, points: Points, *, drop_invalid: bool) -> Cloud:
    """The checked cloud of what a reader found in a file."""
    count = len(points.xyz)
    if count == 0:
        raise CloudFileError(f"{path.name}: holds no points; {SOURCE}")
    for part in PARTS:
        values = getattr(points, part)
        if values is not None and len(values) != count:
            raise CloudFileError(
                f"{path.name}: has {count} points but {len(values)} {part}; save one for each"
            )
    xyz, notes = points.xyz, list(points.notes)
    low, high = _bounds(xyz)
    if not (np.isfinite(low) & np.isfinite(high)).all():
        valid = np.all(np.isfinite(xyz), axis=1)
        if not drop_invalid or not valid.any():
            remedy = (
                "leave them out with --drop-invalid (drop_invalid=True in Python)"
                if valid.any()
                else "scan again"
            )
            raise CloudFileError(
                f"{path.name}: {count - int(valid.sum())} of {count} points have a coordinate "
                f"that is not finite (first: point {int(valid.argmin())}); {remedy}"
            )
        xyz = xyz[valid]
        notes.append(f"{count - len(xyz)} of {count} points are not finite and are left out")
        points = points.select(valid)
        low, high = _bounds(xyz)
    center = low / 2 + high / 2
    if (high - center).max() > np.finfo(np.float32).max:
        reach = max(-low.min(), high.max())
        raise CloudFileError(
            f"{path.name}: coordinates reach {reach:.3g}, too far for float32; correct or remove "
            "such points"
        )
    # In float64, a buffer at a time: a copy of all points would double the memory.
    centred = np.subtract(xyz, center, out=np.empty(xyz.shape, np.float32), casting="unsafe")
    normals = None
    if points.normals is not None:
        normals, note = unit_normals(points.normals)
        notes += [note] if note else []
    for note in notes:
        _say(path, note)
    return Cloud(
        xyz=centred,
        center=center,
        normals=normals,
        colors=None if points.colors is None else unit_colors(path, points.colors),
        labels=None if points.labels is None else whole_labels(path, points.labels),
        confidence=None if points.confidence is None else points.confidence.astype(np.float32),
        intensity=None if points.intensity is None else points.intensity.astype(np.float32),
        extras={name: _own(values) for name, values in points.extras.items()},
        name=_stem(path) if index is None else f"{_stem(path)}-{index}",
        label_names=dict(points.label_names),
        up=points.up,
    )


def _bounds(xyz: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(3,) float64 least and greatest coordinates; NaN where one is."""
    return xyz.min(0).astype(np.float64), xyz.max(0).astype(np.float64)


def _stem(path: Path) -> str:
    return Path(path.stem).stem if is_compressed(path) else path.stem


def _own(values: np.ndarray) -> np.ndarray:
    """A copy in the machine's byte order, so that the file's whole content can go."""
    return values.astype(values.dtype.newbyteorder("="))


def _say(path: Path, note: str) -> None:
    kind = re.sub(r"\d+", "#", note)
    level = logging.INFO if kind in _said else logging.WARNING
    _said.add(kind)
    logger.log(level, "%s", escaped(f"{path.name}: {note}")[:LONGEST_MESSAGE])
