"""Reading of point clouds and meshes from files; no dataset layouts, no normalisation."""

import os
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from ea_pointcloud._checks import check_count
from ea_pointcloud.io.arrays import read_npy, read_npz
from ea_pointcloud.io.cloud import Cloud, to_cloud
from ea_pointcloud.io.columns import check_roles
from ea_pointcloud.io.common import (
    SOURCE,
    CloudFileError,
    Mesh,
    Options,
    Points,
    read_bytes,
    suffix_of,
    whole_number,
)
from ea_pointcloud.io.gltf import DRACO, read_gltf
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
    drop_invalid: bool | None = None,
    columns: str | Sequence[str] | None = None,
) -> Cloud:
    """Read a point cloud, or draw one from the surface of a mesh, as the suffix says.

    Coordinates stay float64 until the midpoint of their bounding box is subtracted, so that
    millimetres survive in coordinates of a million metres. Columns are known by their names, or
    without names by :func:`~ea_pointcloud.io.layouts.guess_roles`; those without a field of their
    own become ``extras``. Points of a mesh carry the normal of their triangle. The labels of LAS
    are its classification, and its dimensions that are all 0 are left out, as never filled in. What
    was guessed or left out is logged, once a process for each kind.

    A ``.h5``, ``.npz`` or ``.npy`` file with (B, N, 3) coordinates, as ModelNet's, holds B clouds:
    ``read_cloud("ply_data_test0.h5#12")`` reads number 12, counted from 0.

    Args:
        path: a file whose suffix is one of ``READABLE``, in any case; behind ``#`` the number of
            a cloud where it holds several.
        num_points: points to draw, uniformly by area; for meshes only.
        seed: of that drawing; for meshes only.
        drop_invalid: leave out points with a coordinate that is not finite, and triangles with
            such a corner, instead of raising; by default in ``.pcd`` files only, where they mark
            missing returns.
        columns: what the columns are, a role for each in order, as ``"x,y,z,_,label"``, or
            ``"Easting=x,Northing=y,Height=z"`` for those that the file names differently. Roles
            are ``x y z nx ny nz r g b label intensity confidence``, ``_`` to skip a column, and any
            other name for an extra.

    Returns:
        The cloud, in the order of the file.

    Raises:
        FileNotFoundError: if there is no such file.
        CloudFileError: if it cannot be read as a cloud; the message names the place and remedy.
        ValueError: if an argument is impossible.
    """
    check_count("num_points", num_points)
    roles = None if columns is None else check_roles(columns)
    path, index = _split_index(Path(path))
    suffix = _check_file(path)
    if roles is not None and suffix in MESHES:
        raise CloudFileError(f"{path.name}: {suffix} has no columns; leave out --columns")
    drops = suffix == ".pcd" if drop_invalid is None else drop_invalid
    try:
        # Numbers out of range become infinite and are reported as such.
        with np.errstate(over="ignore", invalid="ignore"):
            content = _READERS[suffix](path, Options(index, roles))
            if isinstance(content, Mesh):
                mesh = check_mesh(path, content, drop_invalid=drops)
                content = sample_mesh(path, mesh, num_points, seed)
            return to_cloud(path, index, content, drop_invalid=drops)
    except MemoryError as error:
        raise CloudFileError(
            f"{path.name}: takes more memory than there is ({str(error)[:60]}); split it, if its "
            "size is what you expect"
        ) from error


def _check_file(path: Path) -> str:
    """The suffix, which says how to read it."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file; check the path from {Path.cwd()}")
    if path.is_dir():
        raise CloudFileError(f"{path}: is a folder; name one file in it")
    suffix = suffix_of(path)
    if suffix not in _READERS or not path.name.lower().endswith(READABLE):
        raise CloudFileError(
            f"{path.name}: cannot read {suffix[:20] or 'a file without suffix'}; "
            f"known are {' '.join(_READERS)}"
        )
    if path.stat().st_size == 0:
        raise CloudFileError(f"{path.name}: is empty (0 bytes); {SOURCE}")
    return suffix


def _split_index(path: Path) -> tuple[Path, int | None]:
    """Take the number off ``file.h5#12``, unless there is a file of that very name."""
    file, _, number = path.name.rpartition("#")
    index = whole_number(number)
    if index is None or Path(file).suffix.lower() not in SEVERAL or path.exists():
        return path, None
    return path.with_name(file), index


def _read_scene(path: Path, options: Options) -> Points | Mesh:
    """Read glTF; where it needs a decompressor, which is native code, in a guarded process."""
    if DRACO.encode() in read_bytes(path):
        return read_guarded("DracoPy", path, options)
    return read_gltf(path, options)


_Reader = Callable[[Path, Options], Points | Mesh]
_READERS: dict[str, _Reader] = {
    ".ply": read_ply,
    ".pcd": read_pcd,
    **dict.fromkeys((".xyz", ".xyzn", ".xyzrgb", ".pts", ".txt", ".csv"), read_text),
    ".npy": read_npy,
    ".npz": read_npz,
    **dict.fromkeys((".h5", ".hdf5"), partial(read_guarded, "h5py")),
    **dict.fromkeys((".las", ".laz"), partial(read_guarded, "laspy")),
    ".off": read_off,
    ".obj": read_obj,
    ".stl": read_stl,
    **dict.fromkeys((".gltf", ".glb"), _read_scene),
}
SEVERAL = (".h5", ".hdf5", ".npz", ".npy")  # may hold several clouds
MESHES = (".off", ".obj", ".stl", ".gltf", ".glb")
NOT_COMPRESSED = (*SEVERAL, ".las", ".laz", ".gltf", ".glb")
READABLE: tuple[str, ...] = (
    *_READERS,
    *(f"{suffix}.gz" for suffix in _READERS if suffix not in NOT_COMPRESSED),
)

# Formats of CAD, printing and surveying; others are y up, as glTF and ShapeNet's .obj are.
_Z_UP = (".off", ".stl", ".las", ".laz", ".pcd", ".e57")


def conventional_up(path: str | Path) -> str:
    """The axis that is up by convention in files of this format: ``"z"`` or ``"y"``."""
    return "z" if suffix_of(_split_index(Path(path))[0]) in _Z_UP else "y"


def assumed_up(files: Iterable[str | Path]) -> str:
    """The axes of :func:`conventional_up` in files, in words: "y up in .npy, z up in .off"."""
    found: dict[str, set[str]] = {}
    for suffix in {suffix_of(_split_index(Path(file))[0]) for file in files}:
        found.setdefault(conventional_up(f"a{suffix}"), set()).add(suffix)
    return ", ".join(f"{axis} up in {' '.join(sorted(own))}" for axis, own in sorted(found.items()))
