"""Offline augmentation: deformed copies of part-labelled shapes with their own descriptors."""

from collections.abc import Sequence
from copy import copy

import torch

from ea_pointcloud._checks import check_at_least
from ea_pointcloud.augment.transforms import random_elastic, random_scale
from ea_pointcloud.datasets._padded import in_chunks
from ea_pointcloud.datasets.shapenetpart import ShapeNetPart, described
from ea_pointcloud.descriptors import DESCRIPTORS
from ea_pointcloud.descriptors.channels import descriptor_of, parse_features
from ea_pointcloud.ops.frames import normalize_unit_sphere


def augment_offline(
    dataset: ShapeNetPart,
    count: int,
    *,
    features: Sequence[str],
    elastic: float,
    scale: tuple[float, float],
    generator: torch.Generator,
) -> ShapeNetPart:
    """Append ``count`` elastically deformed and scaled copies of each shape.

    Descriptors are too slow to compute in every step, and those of the original shape do not
    describe a deformed one, so the copies are made ahead: 0.4 s of CPU time each with
    ``shape_features`` at 2,048 points.

    Args:
        dataset: not altered.
        count: copies of each shape, >= 0.
        features: of the points: none, or a descriptor.
        elastic: strength, see :func:`~ea_pointcloud.augment.random_elastic`.
        scale: lowest and highest factor along an axis.
        generator: of all draws, on the CPU.

    Returns:
        (1 + ``count``) times as many shapes, each in the unit sphere; the originals come first.

    Raises:
        ValueError: if ``count`` is negative or ``features`` are no descriptor.
    """
    check_at_least("count", count, 0)
    names = parse_features("features", features)
    descriptor = descriptor_of(names)
    if names and descriptor is None:
        raise ValueError(
            f"features must be none or one of {', '.join(DESCRIPTORS)}, computed from "
            f"coordinates, got {', '.join(names)}"
        )
    larger = copy(dataset)
    clouds = [dataset.xyz]
    for _ in range(count):
        xyz = random_elastic(dataset.xyz, elastic, generator=generator)
        xyz = random_scale(xyz, *scale, generator=generator)
        clouds.append(in_chunks(normalize_unit_sphere, xyz, dataset.mask))
    larger.xyz = torch.cat(clouds)
    larger.mask = dataset.mask.repeat(1 + count, 1)
    larger.part_label = dataset.part_label.repeat(1 + count, 1)
    larger.category = dataset.category.repeat(1 + count)
    if dataset.features is not None and descriptor is not None:
        found = [described(xyz, dataset.mask, descriptor) for xyz in clouds[1:]]
        larger.features = torch.cat([dataset.features, *found])
    return larger
