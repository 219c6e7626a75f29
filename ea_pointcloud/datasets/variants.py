"""More shapes to learn parts from: bent and stretched copies, which are described anew."""

from copy import copy

import torch

from ea_pointcloud._checks import check_at_least
from ea_pointcloud.augment.transforms import (
    normalize_unit_sphere,
    random_scale,
    random_warp,
)
from ea_pointcloud.datasets._padding import in_chunks
from ea_pointcloud.datasets.shapenetpart import ShapeNetPart, described
from ea_pointcloud.descriptors import DESCRIPTORS


def with_variants(
    dataset: ShapeNetPart,
    count: int,
    *,
    features: str,
    warp: float,
    scale: tuple[float, float],
    generator: torch.Generator,
) -> ShapeNetPart:
    """The shapes of a set, then ``count`` variants of all of them.

    Descriptors cost too much to be found in every step, and those of the original shape do not
    belong to a bent one. So some variants are made ahead: 0.4 s of CPU time for each with
    ``shape_features`` at 2,048 points.

    Args:
        dataset: not altered.
        count: variants of each shape, >= 0.
        features: what the points carry: ``"none"`` or a descriptor.
        warp: strength of the bending, see :func:`~ea_pointcloud.augment.random_warp`.
        scale: lowest and highest factor along an axis.
        generator: of all draws, on the CPU.

    Returns:
        A set of (1 + ``count``) times as many shapes, each in the unit sphere.

    Raises:
        ValueError: if ``count`` is negative or ``features`` are no descriptor.
    """
    check_at_least("count", count, 0)
    if features != "none" and features not in DESCRIPTORS:
        raise ValueError(
            f"features must be none or one of {', '.join(DESCRIPTORS)}, which are found from the "
            f"coordinates, got {features!r}"
        )
    larger = copy(dataset)
    clouds = [dataset.xyz]
    for _ in range(count):
        xyz = random_warp(dataset.xyz, warp, generator=generator)
        xyz = random_scale(xyz, *scale, generator=generator)
        clouds.append(in_chunks(normalize_unit_sphere, xyz, dataset.mask))
    larger.xyz = torch.cat(clouds)
    larger.mask = dataset.mask.repeat(1 + count, 1)
    larger.part_label = dataset.part_label.repeat(1 + count, 1)
    larger.category = dataset.category.repeat(1 + count)
    if dataset.features is not None:
        found = [described(xyz, dataset.mask, features) for xyz in clouds[1:]]
        larger.features = torch.cat([dataset.features, *found])
    return larger
