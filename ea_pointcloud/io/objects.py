"""What objects of Open3D, trimesh and PyTorch Geometric hold.

They are recognised by their attributes: none of these libraries is imported.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ea_pointcloud.io.common import Mesh, Points

_WIDE = ("normals", "colors")  # channels of three columns
# What other libraries call the parts of a cloud.
_PARTS = {
    **{"positions": "xyz", "pos": "xyz", "normal": "normals", "color": "colors", "rgb": "colors"},
    **{"label": "labels", "y": "labels", "intensities": "intensity"},
}
_OF_GRAPHS = ("face", "edge_index", "edge_attr", "batch", "ptr", "x")


def content_of(value: Any, channels: Sequence[str]) -> Points | Mesh:
    """What an object holds, see :func:`~ea_pointcloud.io.cloud.cloud_of`.

    Raises:
        TypeError: if it is none of those objects.
    """
    if hasattr(value, "pos"):
        return _of_graph(value, channels)
    if hasattr(value, "geometry") and hasattr(value, "to_mesh"):
        value = value.to_mesh()  # a trimesh.Scene
    if hasattr(value, "triangle") and hasattr(value, "to_legacy"):
        value = value.to_legacy()  # a mesh of Open3D's tensors
    if hasattr(value, "point"):
        return _points({key: each.cpu().numpy() for key, each in value.point.items()})
    vertices = getattr(value, "vertices", getattr(value, "points", None))
    if vertices is None:
        raise TypeError(
            "a cloud must be a path, a Cloud, an array or tensor (N, 3), or an object of Open3D, "
            f"trimesh or PyTorch Geometric, got {type(value).__name__}"
        )
    xyz = np.asarray(vertices, np.float64)
    faces = getattr(value, "faces", getattr(value, "triangles", None))  # trimesh has both
    if faces is not None:
        return Mesh(xyz, np.asarray(faces, np.int64), colors=_vertex_colors(value))
    normals, colors = (_rows(getattr(value, name, None)) for name in _WIDE)
    return Points(xyz, normals=normals, colors=None if colors is None else colors[:, :3])


def _vertex_colors(mesh: Any) -> np.ndarray | None:
    visual = getattr(mesh, "visual", None)  # of trimesh, which makes colours up for other kinds
    if visual is None:
        return _rows(getattr(mesh, "vertex_colors", None))
    return np.asarray(visual.vertex_colors)[:, :3] if visual.kind == "vertex" else None


def _rows(values: Any) -> np.ndarray | None:
    found = None if values is None else np.asarray(values)
    return found if found is not None and len(found) else None


def _of_graph(graph: Any, channels: Sequence[str]) -> Points | Mesh:
    xyz = _numbers(graph.pos)
    face = getattr(graph, "face", None)
    if face is not None:
        return Mesh(xyz.astype(np.float64), _numbers(face).T.astype(np.int64))
    arrays = {
        str(name): _numbers(value)
        for name, value in graph.to_dict().items()
        if name not in _OF_GRAPHS and getattr(value, "shape", ())[:1] == (len(xyz),)
    }
    features = _numbers(graph.x) if getattr(graph, "x", None) is not None else xyz[:, :0]
    widths = [3 if name in _WIDE else 1 for name in channels]
    if sum(widths) == features.shape[-1]:
        columns = np.split(features, np.cumsum(widths)[:-1], axis=1) if widths else []
        arrays |= dict(zip(channels, columns, strict=True))
    return _points(arrays)


def _numbers(tensor: Any) -> np.ndarray:
    return tensor.detach().cpu().numpy()


def _points(arrays: dict[str, np.ndarray]) -> Points:
    """Points of arrays (N, C) or (N,) by the names of other libraries."""
    parts: dict[str, Any] = {}
    extras: dict[str, np.ndarray] = {}
    for name, values in arrays.items():
        part = _PARTS.get(name, name)
        if part in ("xyz", *_WIDE):
            parts[part] = values
        elif part in Points._fields and values.size == len(values):
            parts[part] = values.reshape(-1)
        elif values.size == len(values) and values.dtype.kind in "biuf":
            extras[name] = values.reshape(-1)
    if "labels" in parts and parts["labels"].dtype.kind == "f":
        del parts["labels"]  # a value to regress
    return Points(**parts, extras=extras)
