"""Timing the operators against whatever else a user could run, networks, files, and data sets.

Operators and networks need no more than torch and numpy; what else is installed takes part.
"""

from ea_pointcloud.benchmark.attention import benchmark_attention
from ea_pointcloud.benchmark.data import benchmark_data
from ea_pointcloud.benchmark.infer import benchmark_infer
from ea_pointcloud.benchmark.io import benchmark_io
from ea_pointcloud.benchmark.models import benchmark_models
from ea_pointcloud.benchmark.ops import benchmark_ops
from ea_pointcloud.benchmark.train import benchmark_train

# What can be measured, under the names of the command line.
BENCHMARKS = {
    "ops": benchmark_ops,
    "models": benchmark_models,
    "train": benchmark_train,
    "infer": benchmark_infer,
    "io": benchmark_io,
    "data": benchmark_data,
    "attention": benchmark_attention,
}

__all__ = [
    "BENCHMARKS",
    "benchmark_attention",
    "benchmark_data",
    "benchmark_infer",
    "benchmark_io",
    "benchmark_models",
    "benchmark_ops",
    "benchmark_train",
]
