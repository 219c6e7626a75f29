"""Augmentation of training clouds: transforms, sensor corruption, CutMix, and their pipeline."""

from ea_pointcloud.augment.corruption import random_crop, random_outliers, random_partial_view
from ea_pointcloud.augment.cutmix import CutMix, Mixed
from ea_pointcloud.augment.pipeline import Augmentation
from ea_pointcloud.augment.transforms import (
    choose_points,
    random_elastic,
    random_jitter,
    random_mirror,
    random_point_dropout,
    random_rotate,
    random_rotate_up,
    random_scale,
    random_shift,
    random_tilt,
)
from ea_pointcloud.ops.frames import negate_x, normalize_unit_sphere, to_y_up

__all__ = [
    "Augmentation",
    "CutMix",
    "Mixed",
    "choose_points",
    "negate_x",
    "normalize_unit_sphere",
    "random_crop",
    "random_elastic",
    "random_jitter",
    "random_mirror",
    "random_outliers",
    "random_partial_view",
    "random_point_dropout",
    "random_rotate",
    "random_rotate_up",
    "random_scale",
    "random_shift",
    "random_tilt",
    "to_y_up",
]
