"""The operators on the CPU: numba kernels under threads of our own.

Small clouds are read whole for each pick or query; large ones are cut into boxes first. Reading
features at indices is left to PyTorch, which is as fast at it as the memory.
"""

import torch

from ea_pointcloud.ops._cpu import _ball, _neighbors, _sampling
from ea_pointcloud.ops._cpu._ball import ball_query
from ea_pointcloud.ops._cpu._neighbors import knn
from ea_pointcloud.ops._cpu._pooling import (
    gather_max,
    max_pool,
    max_unpool,
    scatter,
    scatter_max,
)
from ea_pointcloud.ops._cpu._sampling import farthest_point_sample
from ea_pointcloud.ops._reference import gather, interpolate

__all__ = [
    "ball_query",
    "farthest_point_sample",
    "gather",
    "gather_max",
    "interpolate",
    "knn",
    "max_pool",
    "max_unpool",
    "scatter",
    "scatter_max",
    "warm_up",
]


def warm_up() -> None:
    """Compile every kernel, or load it from disk, by calling it once."""
    start = torch.zeros(1, dtype=torch.long)
    large = max(module.BOXES_FROM for module in (_ball, _neighbors, _sampling))
    for num_points in (1, large):
        xyz = torch.linspace(-1, 1, 3 * num_points).view(1, num_points, 3)
        # Queries that are not finite have kernels of their own.
        query = torch.cat([xyz, torch.full((1, 1, 3), torch.nan)], 1)
        farthest_point_sample(xyz, 2, None, start)
        knn(query, xyz, 1, None)
        ball_query(query, xyz, 1e-6, 1, None)
    for dtype in (torch.float32, torch.bfloat16):
        values, winner = max_pool(torch.zeros(1, 1, 2, 1, dtype=dtype))
        max_unpool(values, winner, 2)
        for winners in (False, True):
            values, winner = gather_max(values, torch.zeros(1, 1, 1, dtype=torch.long), winners)
        scatter_max(values, winner, 1)
