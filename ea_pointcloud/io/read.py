"""Reading of point clouds and meshes from files; no dataset layouts, no normalisation."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from ea_pointcloud._checks import check_count
from ea_pointcloud.io.arrays import read_npy, read_npz
from ea_pointcloud.io.cloud import Cloud
from ea_pointcloud.io.common import (
    CloudFileError,
    Mesh,
    Points,
    unit_colors,
    unit_normals,
    whole_labels,
    whole_number,
)
from ea_pointcloud.io.gltf import read_gltf
from ea_pointcloud.io.guard import read_guarded
from ea_pointcloud.io.meshes import check_mesh, read_obj, read_off, sample_mesh
from ea_pointcloud.io.pcd import read_pcd
from ea_pointcloud.io.ply import read_ply
from ea_pointcloud.io.stl import read_stl
from ea_pointcloud.io.tables import read_text


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
