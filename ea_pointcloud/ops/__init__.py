"""Functions on tensors of points: sampling, neighbours, gathering, external attention."""

from ea_pointcloud.ops import _library as _library  # registers the operators
from ea_pointcloud.ops.attention import (
    SlotState,
    attention_map,
    external_attention,
    slot_state,
)
from ea_pointcloud.ops.neighbors import (
    ball_query,
    feature_neighbors,
    gather_max,
    gather_points,
    interpolate_features,
    knn,
    max_over_neighbors,
)
from ea_pointcloud.ops.sampling import (
    PyramidLevel,
    build_pyramid,
    farthest_point_sample,
    outermost_point,
    random_point_sample,
    sample_surface,
    voxel_sample,
)

__all__ = [
    "PyramidLevel",
    "SlotState",
    "attention_map",
    "ball_query",
    "build_pyramid",
    "external_attention",
    "farthest_point_sample",
    "feature_neighbors",
    "gather_max",
    "gather_points",
    "interpolate_features",
    "knn",
    "max_over_neighbors",
    "outermost_point",
    "random_point_sample",
    "sample_surface",
    "slot_state",
    "voxel_sample",
]
