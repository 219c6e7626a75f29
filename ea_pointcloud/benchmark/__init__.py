"""Timing the operators against whatever else a user could run, and the networks.

Nothing here needs more than torch and numpy; what else is installed takes part.
"""

from ea_pointcloud.benchmark.models import benchmark_models
from ea_pointcloud.benchmark.ops import benchmark_ops

__all__ = ["benchmark_models", "benchmark_ops"]
