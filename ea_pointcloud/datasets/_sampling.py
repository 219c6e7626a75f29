"""One file of a data set as points: read, drawn, brought to y up and the unit sphere."""

import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ea_pointcloud._checks import check_choice, check_count
from ea_pointcloud._device import mix_seeds
from ea_pointcloud.datasets.axes import MIRRORED
from ea_pointcloud.descriptors.channels import parse_features
from ea_pointcloud.io import Cloud, read_cloud
from ea_pointcloud.io.pool import usable_cores
from ea_pointcloud.io.read import MESHES
from ea_pointcloud.ops import farthest_point_sample
from ea_pointcloud.ops.frames import AXES, negate_x, normalize_unit_sphere, to_y_up

OVERSAMPLING = 4  # points drawn for each that farthest point sampling keeps
_FILES_PER_WORKER = 32  # fewer are read sooner than a process starts
_MAX_WORKERS = 8


def file_seed(path: str) -> int:
    """A seed for what is drawn from a file, which depends on its path in the data set alone."""
    return zlib.crc32(os.fsencode(path))


def read_file(
    root: Path,
    path: str,
    num_points: int,
    seed: int,
    *,
    drop_invalid: bool | None = None,
    columns: str | None = None,
) -> Cloud | str:
    """The cloud in a file, sampled where it is a mesh; or the reason why there is none.

    ``columns`` are those of tables; meshes beside them have none.
    """
    options = {"num_points": num_points, "seed": seed, "drop_invalid": drop_invalid}
    if not path.lower().removesuffix(".gz").endswith(MESHES):
        options["columns"] = columns
    try:
        cloud = read_cloud(root / path, **options)
    except (OSError, ValueError, ImportError, MemoryError) as error:
        return (str(error) or type(error).__name__).removeprefix(f"{Path(path).name}: ")
    if (cloud.xyz == cloud.xyz[0]).all():
        return f"has no extent: {len(cloud)} points in one place"
    return cloud


def random_order(count: int, seed: int) -> Tensor:
    """(count,) a permutation, so that the first points represent a file in the order of a scan."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))


def default_workers(files: int) -> int:
    """Processes that read this many files; 0 for none but this one."""
    workers = min(usable_cores(), _MAX_WORKERS, files // _FILES_PER_WORKER)
    return 0 if workers == 1 else workers


@dataclass(frozen=True)
class Preparation:
    """How ``data prepare`` makes clouds of files.

    Args:
        points: of each shape.
        seed: of all drawing; what is drawn from a file depends on its path too.
        fps: order them by farthest point sampling, so that the first points of a cloud are spread
            evenly, from four times as many; else they are drawn independently, by area.
        normals: keep the normals of the surface too.
        up: the axis that is up in the files, ``"x"``, ``"y"`` or ``"z"``.
        mirrored: whether the files are mirror images, see
            :func:`~ea_pointcloud.datasets.axes.find_mirroring`.
        features: further channels to keep, which every file must have: ``"colors"``,
            ``"intensity"`` and others, see ``Cloud.channels``.
        columns: what the columns of tables are, see :func:`~ea_pointcloud.read_cloud`.

    Raises:
        ValueError: if a value is impossible.
    """

    points: int = 2048
    seed: int = 0
    fps: bool = False
    normals: bool = True
    up: str = "y"
    mirrored: bool | str = "auto"
    features: tuple[str, ...] = ()
    columns: str | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        if "normals" in parse_features("features", self.features):
            raise ValueError("features must be channels beside normals, which are kept anyway")
        check_count("points", self.points)
        check_count("seed", self.seed, 0)
        check_choice("up", self.up, AXES)
        check_choice("mirrored", self.mirrored, MIRRORED)


class Sample(NamedTuple):
    """One shape, y up, centred, the farthest point at distance 1.

    Shape:
        xyz: (N, 3) float32.
        normal: (N, 3) float32, None where they are not kept.
        channels: name -> (N, C) float32.
    """

    xyz: np.ndarray
    normal: np.ndarray | None
    channels: dict[str, np.ndarray]


class Job(NamedTuple):
    """A file to sample, relative to a folder; ``negated`` where x is to be, once y is up."""

    root: str
    path: str
    preparation: Preparation
    negated: bool


def sample_file(job: Job) -> Sample | str:
    """The points of one file, or the reason why there are none."""
    want = job.preparation
    seed = mix_seeds(want.seed, file_seed(job.path))
    drawn = want.points * (OVERSAMPLING if want.fps else 1)
    cloud = read_file(Path(job.root), job.path, drawn, seed, columns=want.columns)
    if isinstance(cloud, str):
        return cloud
    if len(cloud) < want.points:
        return f"has {len(cloud)} points, fewer than {want.points}; lower --points"
    if want.normals and cloud.normals is None:
        return "has no normals; prepare without them (--no-normals)"
    try:
        channels = {name: cloud.channels([name]) for name in want.features}
    except ValueError as error:
        return str(error).removeprefix(f"{cloud.called} ")
    xyz = torch.from_numpy(cloud.xyz)
    if want.fps:
        chosen = farthest_point_sample(xyz[None], want.points)[0]
    else:
        chosen = random_order(len(xyz), seed)[: want.points]

    def posed(vectors: Tensor) -> Tensor:
        rotated = to_y_up(vectors[chosen], want.up)
        return negate_x(rotated) if job.negated else rotated

    normal = None
    if want.normals and cloud.normals is not None:
        normal = posed(torch.from_numpy(cloud.normals)).numpy()
    kept = {name: values[chosen.numpy()] for name, values in channels.items()}
    return Sample(normalize_unit_sphere(posed(xyz)[None])[0].numpy(), normal, kept)
