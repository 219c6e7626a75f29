"""Hand-made descriptors of the points of a cloud, for networks that are given more than xyz."""

from ea_pointcloud.descriptors.features import DESCRIPTORS, shape_features, surface_features
from ea_pointcloud.descriptors.surface import eigen_features

__all__ = ["DESCRIPTORS", "eigen_features", "shape_features", "surface_features"]
