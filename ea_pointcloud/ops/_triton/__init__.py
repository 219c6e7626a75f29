"""The operators as Triton kernels for NVIDIA GPUs; in Triton's interpreter they run on the CPU."""

from ea_pointcloud.ops._reference import gather_max, max_pool, max_unpool
from ea_pointcloud.ops._triton.attention import attend
from ea_pointcloud.ops._triton.attention_backward import attend_backward
from ea_pointcloud.ops._triton.gather import gather, interpolate, scatter, scatter_max
from ea_pointcloud.ops._triton.neighbors import ball_query, knn
from ea_pointcloud.ops._triton.sampling import farthest_point_sample

__all__ = [
    "attend",
    "attend_backward",
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
]
