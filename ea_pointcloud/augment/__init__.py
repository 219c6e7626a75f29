"""What training does to clouds: transforms, sensor corruption, PointWOLF, mixing; the pipeline."""

from ea_pointcloud.augment.corruption import random_cut, random_stray, random_view
from ea_pointcloud.augment.mixup import KINDS, Mix, Mixed
from ea_pointcloud.augment.pipeline import Augmentation
from ea_pointcloud.augment.pointwolf import random_wolf
from ea_pointcloud.augment.transforms import (
    choose_points,
    negate_x,
    normalize_unit_sphere,
    random_drop,
    random_jitter,
    random_mirror,
    random_rotate,
    random_rotate_up,
    random_scale,
    random_shift,
    random_tilt,
    random_warp,
    to_y_up,
)

__all__ = [
    "KINDS",
    "Augmentation",
    "Mix",
    "Mixed",
    "choose_points",
    "negate_x",
    "normalize_unit_sphere",
    "random_cut",
    "random_drop",
    "random_jitter",
    "random_mirror",
    "random_rotate",
    "random_rotate_up",
    "random_scale",
    "random_shift",
    "random_stray",
    "random_tilt",
    "random_view",
    "random_warp",
    "random_wolf",
    "to_y_up",
]
