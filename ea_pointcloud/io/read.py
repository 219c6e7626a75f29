"""Reading and writing of point clouds and meshes in files; no dataset layouts, no normalisation."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from ea_pointcloud._checks import check_count
from ea_pointcloud._files import write_whole
from ea_pointcloud._formats.arrays import read_npy, read_npz
from ea_pointcloud._formats.common import (
    PARTS,
    CloudFileError,
    Columns,
    Mesh,
    Points,
    unit_colors,
    unit_normals,
    whole_labels,
    whole_number,
)
from ea_pointcloud._formats.gltf import read_gltf
from ea_pointcloud._formats.guard import read_guarded
from ea_pointcloud._formats.meshes import check_mesh, read_obj, read_off, sample_mesh
from ea_pointcloud._formats.pcd import read_pcd
from ea_pointcloud._formats.ply import read_ply
from ea_pointcloud._formats.stl import read_stl
from ea_pointcloud._formats.tables import read_text
from ea_pointcloud._formats.writers import CLOUD_ENCODERS, HOLDS, MESH_ENCODERS, NEEDS

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
    ``confidence`` is kept. The labels of LAS are its classification; its 16-bit colours are taken
    for 0..255 where all of them fit, and both are left out where all are 0, as if never filled in.

    A ``.h5``, ``.npz`` or ``.npy`` file with (B, N, 3) coordinates, as ModelNet's, holds B clouds:
    ``read_cloud("ply_data_test0.h5#12")`` reads number 12, counted from 0.

    Args:
        path: a file whose suffix is one of ``READABLE``, in any case; behind ``#`` the number of
            a cloud where it holds several.
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
    path, index = _split_index(Path(path))
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file; check the path from {Path.cwd()}")
    if path.is_dir():
        raise CloudFileError(f"{path}: is a folder; name one file in it")
    suffix = path.suffix.lower()
    if suffix not in _READERS:
        raise CloudFileError(
            f"{path.name}: cannot read {path.suffix or 'a file without suffix'}; "
            f"known are {' '.join(READABLE)}"
        )
    if path.stat().st_size == 0:
        raise CloudFileError(f"{path.name}: is empty (0 bytes); copy or export it again")
    try:
        # Numbers out of range become infinite and are reported as such.
        with np.errstate(over="ignore", invalid="ignore"):
            content = _READERS[suffix](path, index)
            if isinstance(content, Mesh):
                mesh = check_mesh(path, content, drop_invalid=drop_invalid)
                content = sample_mesh(path, mesh, num_points, seed)
            return _to_cloud(path, index, content, drop_invalid=drop_invalid)
    except MemoryError as error:
        raise CloudFileError(
            f"{path.name}: takes more memory than there is ({error}); damaged or too large, copy "
            "it again or split it"
        ) from error


def _split_index(path: Path) -> tuple[Path, int | None]:
    """Take the number off ``file.h5#12``, unless there is a file of that very name."""
    file, _, number = path.name.rpartition("#")
    index = whole_number(number)
    if index is None or Path(file).suffix.lower() not in SEVERAL or path.exists():
        return path, None
    return path.with_name(file), index


def _to_cloud(path: Path, index: int | None, points: Points, *, drop_invalid: bool) -> Cloud:
    count = len(points.xyz)
    if count == 0:
        raise CloudFileError(f"{path.name}: holds no points; copy or export it again")
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
        name=path.stem if index is None else f"{path.stem}-{index}",
    )


def _alone(read: Callable[[Path], Points | Mesh]) -> Callable[[Path, int | None], Points | Mesh]:
    """A reader of a format whose files hold one cloud."""
    return lambda path, _: read(path)


_READERS: dict[str, Callable[[Path, int | None], Points | Mesh]] = {
    ".ply": _alone(read_ply),
    ".pcd": _alone(read_pcd),
    ".xyz": _alone(read_text),
    ".xyzn": _alone(read_text),
    ".xyzrgb": _alone(read_text),
    ".pts": _alone(read_text),
    ".txt": _alone(read_text),
    ".csv": _alone(read_text),
    ".npy": read_npy,
    ".npz": read_npz,
    ".h5": partial(read_guarded, "h5py"),
    ".hdf5": partial(read_guarded, "h5py"),
    ".las": partial(read_guarded, "laspy"),
    ".laz": partial(read_guarded, "laspy"),
    ".off": _alone(read_off),
    ".obj": _alone(read_obj),
    ".stl": _alone(read_stl),
    ".gltf": _alone(read_gltf),
    ".glb": _alone(read_gltf),
}
READABLE: tuple[str, ...] = tuple(_READERS)
SEVERAL = (".h5", ".hdf5", ".npz", ".npy")  # may hold several clouds


def write_cloud(path: str | os.PathLike[str], cloud: Cloud, *, overwrite: bool = False) -> None:
    """Write a cloud with its file coordinates ``xyz + center``; all of it or nothing.

    ``.ply``, ``.pcd``, ``.txt``, ``.csv``, ``.npz``, ``.h5``, ``.las`` and ``.laz`` keep normals,
    colours, labels and confidence (colours as bytes in the first two, as 16 bits in the last two,
    whose labels are the classification, 0..255). ``.xyz`` and ``.npy`` hold coordinates only,
    ``.xyzn`` also normals, ``.xyzrgb`` and ``.pts`` also colours.

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
        if part not in HOLDS.get(suffix, PARTS):
            held = " and ".join(("coordinates", *HOLDS[suffix]))
            raise ValueError(
                f"{path.name}: {suffix} holds {held} only and the cloud has {part}; "
                f"write .ply, or dataclasses.replace(cloud, {part}=None) to leave them out"
            )
        columns[part] = values
    needed = NEEDS.get(suffix)
    if needed and needed not in columns:
        raise ValueError(
            f"{path.name}: {suffix} holds {needed} and the cloud has none; write .xyz or .ply"
        )
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
