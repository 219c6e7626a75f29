"""Writing of point clouds and meshes to files: all of it or nothing."""

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ea_pointcloud._files import write_whole
from ea_pointcloud.io.cloud import Cloud
from ea_pointcloud.io.common import PARTS, Columns, Meaning, Mesh
from ea_pointcloud.io.encoders import (
    CLOUD_ENCODERS,
    EXPLAINING,
    HOLDS,
    MESH_ENCODERS,
    NEEDS,
    SHORT_NAMES,
)
from ea_pointcloud.io.meshes import check_mesh

NOTHING = {"extras": {}}  # of other parts None


def write_cloud(path: str | os.PathLike[str], cloud: Cloud, *, overwrite: bool = False) -> None:
    """Write a cloud with its file coordinates ``xyz + center``; all of it or nothing.

    ``.ply``, ``.pcd``, ``.txt``, ``.csv``, ``.npz``, ``.h5``, ``.las`` and ``.laz`` keep all that
    a cloud carries (colours as bytes in the first two, as 16 bits in the last two, whose labels are
    the classification, 0..255). ``.xyz`` and ``.npy`` hold coordinates only, ``.xyzn`` also
    normals, ``.xyzrgb`` also colours, ``.pts`` also colours and intensity. ``.ply`` (in comments)
    and ``.npz`` also hold the names of the labels and the axis that is up, ``.csv`` the names in
    a last column ``part``.

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
    given: dict[str, Any] = {part: getattr(cloud, part) for part in PARTS}
    given["extras"] = cloud.extras or None
    for part, values in given.items():
        if values is None:
            continue
        if part not in HOLDS.get(suffix, given):
            held = " and ".join(("coordinates", *HOLDS[suffix]))
            raise ValueError(
                f"{path.name}: {suffix} holds {held} only and the cloud has {part}; write .ply, or "
                f"dataclasses.replace(cloud, {part}={NOTHING.get(part)}) to leave them out"
            )
        columns |= _file_names(values) if part == "extras" else {part: values}
    needed = NEEDS.get(suffix)
    if needed and needed not in columns:
        raise ValueError(
            f"{path.name}: {suffix} holds {needed} and the cloud has none; write .xyz or .ply"
        )
    meaning = [Meaning(cloud.label_names, cloud.up)] if suffix in EXPLAINING else []
    _write_new(path, lambda: CLOUD_ENCODERS[suffix](columns, *meaning), overwrite=overwrite)


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
    _write_new(path, lambda: MESH_ENCODERS[suffix](mesh.vertices, mesh.faces), overwrite=overwrite)


def _file_names(extras: Mapping[str, np.ndarray]) -> Columns:
    """Extras under names that every format can hold, in types that every format has."""
    taken = {"xyz", *PARTS}.union(*SHORT_NAMES.values())
    columns: Columns = {}
    for name, values in extras.items():
        name = re.sub(r"[^\w.:-]+", "_", name) or "_"
        while name in taken:
            name += "_"
        taken.add(name)
        plain = (
            values.view(np.uint8) if values.dtype == bool else values.astype(_plain(values.dtype))
        )
        columns[name] = plain
    return columns


def _plain(dtype: np.dtype) -> np.dtype:
    """``dtype`` in the machine's order; float32 for halves."""
    return np.dtype(np.float32) if dtype == np.float16 else dtype.newbyteorder("=")


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
