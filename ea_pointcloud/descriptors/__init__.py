"""Hand-made descriptors of the points of a cloud, for networks that are given more than xyz."""

from ea_pointcloud.descriptors.surface import (
    DESCRIPTORS,
    local_shape,
    surface_shape,
    whole_shape,
)

__all__ = ["DESCRIPTORS", "local_shape", "surface_shape", "whole_shape"]
