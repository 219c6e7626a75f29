"""Corruptions of clouds as ModelNet40-C and ModelNet-C define them, batched, at five severities.

The definitions of the published sets, not their files: points are drawn with other random numbers,
so figures on what is made here are not figures on the benchmarks. Counts are published for clouds
of 1,024 points and scale with the number of points here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor

from ea_pointcloud._checks import (
    check_choice,
    check_mask,
    check_no_empty_cloud,
    check_range,
    check_xyz,
    real_points,
)
from ea_pointcloud.datasets.corrupted import SEVERITIES
from ea_pointcloud.ops.frames import normalize_unit_sphere
from ea_pointcloud.robustness import _density, _noise, _transformations, visibility
from ea_pointcloud.robustness._clouds import Clouds, Draws, normalize_box

Group = Literal["density", "noise", "transformation"]
Frame = Literal["box", "sphere", "as it is"]


@dataclass(frozen=True)
class Corruption:
    """One corruption of clouds.

    Args:
        apply: from clouds, a severity and random numbers to clouds.
        group: its kind.
        frame: normalisation afterwards: the bounding box fills the cube from -1 to 1, the cloud
            fills the unit sphere, or none.
        oversampling: it takes this multiple of the points of other corruptions, and leaves at most
            one in ``oversampling``.
        graded: whether a higher severity is worse; otherwise it is another viewpoint.
    """

    apply: Callable[[Clouds, int, Draws], Clouds]
    group: Group
    frame: Frame = "as it is"
    oversampling: int = 1
    graded: bool = True


MODELNET40_C: Mapping[str, Corruption] = MappingProxyType(
    {
        "occlusion": Corruption(visibility.occlusion, "density", "box", 2, graded=False),
        "lidar": Corruption(visibility.lidar, "density", oversampling=2, graded=False),
        "density_inc": Corruption(_density.density_inc, "density", oversampling=2),
        "density": Corruption(_density.density, "density"),
        "cutout": Corruption(_density.cutout, "density"),
        "uniform": Corruption(_noise.uniform, "noise", "box"),
        "gaussian": Corruption(_noise.gaussian, "noise"),
        "impulse": Corruption(_noise.impulse, "noise", "box"),
        "upsampling": Corruption(_noise.upsampling, "noise", "box"),
        "background": Corruption(_noise.background, "noise", "box"),
        "rotation": Corruption(_transformations.rotation, "transformation", "box"),
        "shear": Corruption(_transformations.shear, "transformation", "box"),
        "distortion": Corruption(_transformations.distortion, "transformation", "box"),
        "distortion_rbf": Corruption(_transformations.distortion_rbf, "transformation", "box"),
        "distortion_rbf_inv": Corruption(
            _transformations.distortion_rbf_inv, "transformation", "box"
        ),
    }
)
MODELNET_C: Mapping[str, Corruption] = MappingProxyType(
    {
        "scale": Corruption(_transformations.scale, "transformation", "sphere"),
        "jitter": Corruption(_noise.jitter, "noise"),
        "rotate": Corruption(_transformations.rotate, "transformation"),
        "dropout_global": Corruption(_density.dropout_global, "density"),
        "dropout_local": Corruption(_density.dropout_local, "density"),
        "add_global": Corruption(_noise.add_global, "noise"),
        "add_local": Corruption(_noise.add_local, "noise"),
    }
)
BENCHMARKS: Mapping[str, Mapping[str, Corruption]] = MappingProxyType(
    {"modelnet40-c": MODELNET40_C, "modelnet-c": MODELNET_C}
)
CORRUPTIONS: Mapping[str, Corruption] = MappingProxyType({**MODELNET40_C, **MODELNET_C})


def corrupt(
    xyz: Tensor,
    name: str,
    severity: int,
    *,
    mask: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Apply a corruption of :data:`MODELNET40_C` or :data:`MODELNET_C` to clouds.

    On the device of ``xyz``, except for ``occlusion`` and ``lidar``, which find hidden points on
    the CPU. Clouds do not influence one another, nor does padding; the random numbers of a batch
    are drawn together, so a cloud's result depends on its batch.

    Args:
        xyz: (B, N, 3), in the unit sphere, y up; not altered.
        name: of the corruption.
        severity: 1 to 5; 0 changes nothing. For ``occlusion`` and ``lidar`` it is the viewpoint
            of the sensor instead.
        mask: (B, N) bool, True = real point; None: all are.
        generator: of all draws, on any device; one on the CPU gives the same on every device. By
            default torch's own.

    Returns:
        xyz: (B, M, 3), each cloud's real points first, then zeros; M as in the largest cloud.
            ``occlusion``, ``lidar`` and ``density_inc`` leave at most half of the points,
            ``upsampling``, ``background`` and ``add_*`` add some. In the cube from -1 to 1 where
            the published set is, see :class:`Corruption`.
        mask: (B, M) bool, or None where no cloud is padded.

    Raises:
        ValueError: if a shape is wrong, a cloud is empty, or there is no such name or severity.

    Reference:
        Sun et al., Benchmarking robustness of 3D point cloud recognition against common
        corruptions, 2022; Ren et al., Benchmarking and analyzing point cloud classification under
        corruptions, ICML 2022.
    """
    check_xyz("xyz", xyz)
    check_mask(mask, xyz)
    check_no_empty_cloud(mask)
    check_choice("name", name, CORRUPTIONS)
    check_range("severity", severity, 0, len(SEVERITIES))
    if severity == 0:
        return xyz, mask
    corruption = CORRUPTIONS[name]
    real = real_points(mask, xyz)
    # Whatever lies in padding must not get into a sum or a distance.
    clouds = Clouds(xyz if mask is None else xyz.masked_fill(~mask[..., None], 0.0), real)
    clouds = corruption.apply(clouds, severity, Draws(xyz, generator))
    if corruption.frame == "box":
        clouds = normalize_box(clouds)
    elif corruption.frame == "sphere":
        clouds = clouds.moved(normalize_unit_sphere(clouds.xyz, clouds.mask))
    clouds = clouds.compact()
    return clouds.xyz, None if bool(clouds.mask.all()) else clouds.mask
