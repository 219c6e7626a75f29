"""Corruptions of clouds and the accuracy of classifiers under them."""

from ea_pointcloud.robustness.corruptions import (
    BENCHMARKS,
    CORRUPTIONS,
    MODELNET40_C,
    MODELNET_C,
    Corruption,
    corrupt,
)
from ea_pointcloud.robustness.visibility import scan_mesh, visible_points

__all__ = [
    "BENCHMARKS",
    "CORRUPTIONS",
    "MODELNET40_C",
    "MODELNET_C",
    "Corruption",
    "corrupt",
    "scan_mesh",
    "visible_points",
]
