"""Reading and writing of point clouds and meshes in files; no dataset layouts, no normalisation."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
from numpy.typing import ArrayLike

from ea_pointcloud._atomic import write_whole
from ea_pointcloud._checks import check_count
from ea_pointcloud._formats.common import (
    CloudFileError,
    Mesh,
    Points,
    points_from_columns,
    unit_colors,
    unit_normals,
    whole_labels,
)
from ea_pointcloud._formats.meshes import check_mesh, read_obj, read_off, sample_mesh
from ea_pointcloud._formats.pcd import check_pcd, check_single_precision, check_stl
from ea_pointcloud._formats.ply import read_ply
from ea_pointcloud._formats.tables import read_npy, read_npz, read_text
from ea_pointcloud._formats.writers import (
    CLOUD_ENCODERS,
    COORDINATES_ONLY,
    MESH_ENCODERS,
    PARTS,
    Columns,
)

__all__ = ["READABLE", "Cloud", "CloudFileError", "read_cloud", "write_cloud", "write_mesh"]


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

    def __len__(self) -> int:
        """N."""
        return len(self.xyz)

    def __repr__(self) -> str:
        """Name, size and what it carries, not its values."""
        extras = [part for part in PARTS if getattr(self, part) is not None]
        return f"Cloud({', '.join([repr(self.name), f'{len(self)} points', *extras])})"


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


def read_cloud(
    path: str | os.PathLike[str],
    *,
    num_points: int = 10_000,
    seed: int = 0,
    drop_invalid: bool = False,
) -> Cloud:
    """Read a point cloud, or draw one from the surface of a mesh, as the suffix says.

    Coordinates stay float64 until the midpoint of their bounding box is subtracted, so that
    millimetres survive in coordinates of a million metres. Text columns are known by a header
    line; without one by their number: xyz, then a label (4 columns), normals or rgb (6), and a
    label (7). Points of a mesh carry the normal of their triangle. A column or array named
    ``confidence`` is kept.

    Args:
        path: a file whose suffix is one of ``READABLE``, in any case.
        num_points: points to draw, uniformly by area; for meshes only.
        seed: of that drawing; for meshes only.
        drop_invalid: leave out points with a coordinate or normal that is not finite, and
            triangles with such a corner, instead of raising.

    Returns:
        The cloud, in the order of the file.

    Raises:
        FileNotFoundError: if there is no such file.
        CloudFileError: if it cannot be read as a cloud; the message names the place and remedy.
    """
    check_count("num_points", num_points)
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file; check the path from {Path.cwd()}")
    if path.is_dir():
        raise CloudFileError(f"{path}: is a folder; name one file in it")
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise CloudFileError(
            f"{path.name}: cannot read {path.suffix or 'a file without suffix'}; "
            f"known are {' '.join(READABLE)}"
        )
    if path.stat().st_size == 0:
        raise CloudFileError(f"{path.name}: is empty (0 bytes); copy or export it again")
    content = reader(path)
    if isinstance(content, Mesh):
        mesh = check_mesh(path, content, drop_invalid=drop_invalid)
        content = sample_mesh(path, mesh, num_points, seed)
    return _to_cloud(path, content, drop_invalid=drop_invalid)


def _to_cloud(path: Path, points: Points, *, drop_invalid: bool) -> Cloud:
    count = len(points.xyz)
    for part, values in points._asdict().items():
        if values is not None and len(values) != count:
            raise CloudFileError(
                f"{path.name}: has {count} points but {len(values)} {part}; save one for each"
            )
    xyz = points.xyz.astype(np.float64)
    valid = np.isfinite(xyz).all(1)
    if points.normals is not None:
        valid &= np.isfinite(points.normals).all(1)
    if not valid.all():
        if not drop_invalid or not valid.any():
            remedy = (
                "leave them out with --drop-invalid (drop_invalid=True in Python)"
                if valid.any()
                else "scan again"
            )
            raise CloudFileError(
                f"{path.name}: {count - int(valid.sum())} of {count} points have a coordinate or "
                f"normal that is not finite (first: point {int(valid.argmin())}); {remedy}"
            )
        xyz = xyz[valid]
        points = Points(xyz, *(None if part is None else part[valid] for part in points[1:]))
    center = xyz.min(0) / 2 + xyz.max(0) / 2
    if np.abs(xyz - center).max() > np.finfo(np.float32).max:
        raise CloudFileError(
            f"{path.name}: coordinates reach {np.abs(xyz).max():.3g}, too far for float32; "
            "correct or remove such points"
        )
    return Cloud(
        xyz=(xyz - center).astype(np.float32),
        center=center,
        normals=None if points.normals is None else unit_normals(points.normals),
        colors=None if points.colors is None else unit_colors(path, points.colors),
        labels=None if points.labels is None else whole_labels(path, points.labels),
        confidence=None if points.confidence is None else points.confidence.astype(np.float32),
        name=path.stem,
    )


def _open3d(path: Path) -> ModuleType:
    try:
        import open3d  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise CloudFileError(
            f"{path.name}: reading {path.suffix.lower()} needs Open3D; pip install open3d"
        ) from error
    return open3d


def _read_pcd(path: Path) -> Points:
    open3d = _open3d(path)
    check_pcd(path)
    level = open3d.utility.VerbosityLevel.Error
    with open3d.utility.VerbosityContextManager(level):
        cloud = open3d.t.io.read_point_cloud(str(path), format="pcd")
    parts = {name: cloud.point[name].numpy() for name in cloud.point}
    if "positions" not in parts:
        raise CloudFileError(f"{path.name}: Open3D finds no points in it; copy or export it again")
    columns = {
        name: values[:, 0]
        for name, values in parts.items()
        if name not in ("positions", "normals", "colors")
    }
    columns |= dict(zip("xyz", parts["positions"].T, strict=True))
    points = points_from_columns(path, columns)
    return points._replace(normals=parts.get("normals"), colors=parts.get("colors", points.colors))


def _read_stl(path: Path) -> Mesh:
    open3d = _open3d(path)
    check_stl(path)
    level = open3d.utility.VerbosityLevel.Error
    try:
        with open3d.utility.VerbosityContextManager(level):
            mesh = open3d.t.io.read_triangle_mesh(str(path))
    except IndexError as error:  # what Open3D 0.20 raises after it could not read the file
        raise CloudFileError(
            f"{path.name}: Open3D finds no mesh in it; truncated or damaged, export it again"
        ) from error
    vertices = mesh.vertex.positions.numpy().astype(np.float64)
    check_single_precision(path, vertices)
    return Mesh(vertices, mesh.triangle.indices.numpy())


_READERS: dict[str, Callable[[Path], Points | Mesh]] = {
    ".ply": read_ply,
    ".pcd": _read_pcd,
    ".xyz": read_text,
    ".xyzn": read_text,
    ".xyzrgb": read_text,
    ".pts": read_text,
    ".txt": read_text,
    ".csv": read_text,
    ".npy": read_npy,
    ".npz": read_npz,
    ".off": read_off,
    ".obj": read_obj,
    ".stl": _read_stl,
}
READABLE: tuple[str, ...] = tuple(_READERS)


def write_cloud(path: str | os.PathLike[str], cloud: Cloud, *, overwrite: bool = False) -> None:
    """Write a cloud with its file coordinates ``xyz + center``; all of it or nothing.

    ``.ply``, ``.pcd``, ``.txt``, ``.csv`` and ``.npz`` keep normals, colours, labels and
    confidence (colours as bytes in the first two); ``.xyz`` and ``.npy`` hold coordinates only.

    Args:
        path: where to; the folder must exist.
        cloud: what to write.
        overwrite: replace an existing file.

    Raises:
        FileExistsError: if the file exists and ``overwrite`` is not set.
        ValueError: if the suffix is unknown or cannot hold what the cloud has.
    """
    path = Path(path)
    suffix = _check_suffix(path, tuple(CLOUD_ENCODERS))
    columns: Columns = {"xyz": cloud.xyz + cloud.center}
    for part in PARTS:
        values = getattr(cloud, part)
        if values is None:
            continue
        if suffix in COORDINATES_ONLY:
            raise ValueError(
                f"{path.name}: {suffix} holds coordinates only and the cloud has {part}; "
                f"write .ply, or dataclasses.replace(cloud, {part}=None) to leave them out"
            )
        columns[part] = values
    _write_new(path, lambda: CLOUD_ENCODERS[suffix](columns), overwrite=overwrite)


def write_mesh(
    path: str | os.PathLike[str],
    vertices: ArrayLike,
    faces: ArrayLike,
    *,
    overwrite: bool = False,
) -> None:
    """Write a triangle mesh as ``.off``, ``.obj``, ``.ply`` or ``.stl`` text; all or nothing.

    Args:
        path: where to; the folder must exist.
        vertices: (V, 3) finite numbers, any frame and unit.
        faces: (F, 3) integers in 0..V-1.
        overwrite: replace an existing file.

    Raises:
        FileExistsError: if the file exists and ``overwrite`` is not set.
        ValueError: if the suffix is unknown, a shape is wrong or a face names no vertex.
    """
    path = Path(path)
    suffix = _check_suffix(path, tuple(MESH_ENCODERS))
    points, corners = np.asarray(vertices, np.float64), np.asarray(faces)
    if points.ndim != 2 or points.shape[1] != 3:
        raise ValueError(f"vertices must have shape (V, 3), got {points.shape}")
    if corners.ndim != 2 or corners.shape[1] != 3 or corners.dtype.kind not in "iu":
        raise ValueError(
            f"faces must be integers of shape (F, 3), got {corners.dtype} of shape {corners.shape}"
        )
    mesh = check_mesh(path, Mesh(points, corners.astype(np.int64)), drop_invalid=False)
    _write_new(path, lambda: MESH_ENCODERS[suffix](*mesh), overwrite=overwrite)


def _check_suffix(path: Path, known: tuple[str, ...]) -> str:
    suffix = path.suffix.lower()
    if suffix not in known:
        raise ValueError(
            f"{path.name}: cannot write {suffix or 'a file without suffix'}; "
            f"known are {' '.join(known)}"
        )
    return suffix


def _write_new(path: Path, encode: Callable[[], bytes], *, overwrite: bool) -> None:
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path}: exists; pass overwrite=True to replace it")
    if not path.parent.is_dir():  # before the work of encoding
        raise FileNotFoundError(f"{path.parent}: no such folder; create it first")
    write_whole(path, encode())
