"""The objects of the procedural data set, one function a category.

Each draws proportions, styles and optional parts and yields named meshes, in metres or so: y up,
floor (if any) at y = 0, front towards +z. Tables of names, poses and sampling are in
``datasets/procedural.py``.
"""

from collections.abc import Callable

from ea_pointcloud.datasets._shapes.furniture import bed, shelf, table
from ea_pointcloud.datasets._shapes.household import bottle, cup, lamp, monitor, mug
from ea_pointcloud.datasets._shapes.primitives import Draw, NamedParts
from ea_pointcloud.datasets._shapes.seats import bench, chair, sofa, stool
from ea_pointcloud.datasets._shapes.vehicles import airplane, car

_SEATS = (bench, chair, sofa, stool)
_OTHERS = (airplane, bed, bottle, car, cup, lamp, monitor, mug, shelf, table)
BUILDERS: dict[str, Callable[[Draw], NamedParts]] = {
    builder.__name__: builder for builder in (*_SEATS, *_OTHERS)
}
