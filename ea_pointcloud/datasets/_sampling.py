"""One file of a data set as the points that training reads: drawn, turned y up, centred, scaled."""

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
from ea_pointcloud.augment.transforms import (
    AXES,
    negate_x,
    normalize_unit_sphere,
    to_y_up,
)
from ea_pointcloud.datasets.axes import MIRRORED
from ea_pointcloud.io import read_cloud
from ea_pointcloud.ops import farthest_point_sample

OVERSAMPLING = 4  # points drawn for each that farthest point sampling keeps


@dataclass(frozen=True)
class Preparation:
    """How clouds are made of files.

    Args:
        points: of each shape.
        seed: of all drawing; each file has a stream of its own that depends on its path too.
        fps: order them by farthest point sampling, so that the first points of a cloud are spread
            evenly, from four times as many; else they are drawn independently, by area.
        normals: keep the normals of the surface too.
        up: the axis that is up in the files, ``"x"``, ``"y"`` or ``"z"``.
        mirrored: whether the files are mirror images, see
            :func:`~ea_pointcloud.datasets.axes.find_mirroring`.

    Raises:
        ValueError: if a value is impossible.
    """

    points: int = 2048
    seed: int = 0
    fps: bool = False
    normals: bool = True
    up: str = "y"
    mirrored: bool | str = "auto"

    def __post_init__(self) -> None:
        """Check the values."""
        check_count("points", self.points)
        check_count("seed", self.seed, 0)
        check_choice("up", self.up, AXES)
        check_choice("mirrored", self.mirrored, MIRRORED)


class Sample(NamedTuple):
    """One shape, y up, x negated where the job says so, centred, the farthest point at distance 1.

    Shape:
        xyz: (N, 3) float32.
        normal: (N, 3) float32, None where they are not kept.
    """

    xyz: np.ndarray
    normal: np.ndarray | None


class Job(NamedTuple):
    """A file to sample, relative to a folder; ``negated`` where x, once y is up, is to be."""

    root: str
    path: str
    preparation: Preparation
    negated: bool


def sample_file(job: Job) -> Sample | str:
    """The points of one file, or why there are none."""
    want = job.preparation
    seed = mix_seeds(want.seed, zlib.crc32(os.fsencode(job.path)))
    drawn = want.points * (OVERSAMPLING if want.fps else 1)
    try:
        cloud = read_cloud(Path(job.root, job.path), num_points=drawn, seed=seed)
    except (OSError, ValueError, ImportError, MemoryError) as error:
        return (str(error) or type(error).__name__).removeprefix(f"{Path(job.path).name}: ")
    if len(cloud) < want.points:
        return f"has {len(cloud)} points; prepare with at most so many (--points)"
    if (cloud.xyz == cloud.xyz[0]).all():
        return f"has no extent: {len(cloud)} points in one place"
    if want.normals and cloud.normals is None:
        return "has no normals; prepare without them (--no-normals)"
    xyz = torch.from_numpy(cloud.xyz)
    if want.fps:
        chosen = farthest_point_sample(xyz[None], want.points)[0]
    else:  # files of points are often in the order of the scan
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randperm(len(xyz), generator=generator)[: want.points]

    def posed(vectors: Tensor) -> Tensor:
        turned = to_y_up(vectors[chosen], want.up)
        return negate_x(turned) if job.negated else turned

    normal = None
    if want.normals and cloud.normals is not None:
        normal = posed(torch.from_numpy(cloud.normals)).numpy()
    return Sample(normalize_unit_sphere(posed(xyz)[None])[0].numpy(), normal)
