"""The operators in plain PyTorch: readable, on every device, and the oracle for all others.

Every implementation has these functions. Their arguments come checked, coordinates as float32.
"""

from ea_pointcloud.ops._reference.features import (
    attend,
    attend_backward,
    gather,
    gather_max,
    interpolate,
    max_pool,
    max_unpool,
    scatter,
    scatter_max,
)
from ea_pointcloud.ops._reference.points import (
    ball_query,
    cycle_order,
    farthest_point_sample,
    knn,
)

__all__ = [
    "attend",
    "attend_backward",
    "ball_query",
    "cycle_order",
    "farthest_point_sample",
    "gather",
    "gather_max",
    "interpolate",
    "knn",
    "max_pool",
    "max_unpool",
    "scatter",
    "scatter_max",
]
