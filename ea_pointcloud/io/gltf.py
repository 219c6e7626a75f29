"""glTF 2.0 and GLB: a scene in JSON, with its numbers in buffers beside it or behind it.

Materials, skins, morph targets and lines are left out. Metres and y up, as the standard says.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ea_pointcloud.io.common import SOURCE, CloudFileError, Mesh, Options, Points
from ea_pointcloud.io.gltf_buffers import (
    DRACO,
    INSTANCES,
    LARGEST,
    Scene,
    check_document,
    read_accessor,
    read_buffers,
    read_document,
)
from ea_pointcloud.io.polygons import strip

POINTS, TRIANGLES, STRIP, FAN = 0, 4, 5, 6  # modes of a primitive; lines are between


def read_gltf(path: Path, options: Options) -> Mesh | Points:
    """Read all meshes of the scene, placed as its nodes say, or its points if it has no mesh."""
    document, binary = read_document(path)
    try:
        check_document(path, document)
        scene = Scene(path, document, read_buffers(path, document, binary))
        meshes, clouds = _content(scene)
    except CloudFileError:
        raise
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise CloudFileError(
            f"{path.name}: is not a valid glTF file ({_reason(error)}); {SOURCE}"
        ) from error
    if meshes:
        return _joined(meshes)
    if not clouds:
        raise CloudFileError(f"{path.name}: its scene has no triangles and no points; {SOURCE}")
    colors = [color for _, color in clouds if color is not None]
    return Points(
        np.concatenate([xyz for xyz, _ in clouds]),
        colors=np.concatenate(colors) if len(colors) == len(clouds) else None,
    )


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"{str(error.args[0])[:60]!r} is missing or unknown"
    if isinstance(error, IndexError):
        return "an index points to nothing"
    if isinstance(error, ValueError):
        return str(error)[:120]
    return "a value is of the wrong kind"


def _content(scene: Scene) -> tuple[list[Mesh], list[tuple[np.ndarray, np.ndarray | None]]]:
    """The triangle meshes, and the coordinates and colours of the points, in the scene's place."""
    meshes, clouds = [], []
    total = 0
    for mesh, matrix in _placed_meshes(scene):
        for primitive in mesh["primitives"]:
            mode = primitive.get("mode", TRIANGLES)
            if mode not in (POINTS, TRIANGLES, STRIP, FAN):
                continue
            xyz, faces = _primitive(scene, primitive, mode)
            total += len(xyz) + len(faces)
            if total > LARGEST:
                raise CloudFileError(
                    f"{scene.path.name}: its nodes place more than {LARGEST:,} vertices and "
                    "triangles; export a part of the scene"
                )
            xyz = xyz @ matrix[:3, :3].T + matrix[:3, 3]
            if mode == POINTS:
                clouds.append((xyz, _point_colors(scene, primitive)))
                continue
            if faces.size and faces.max() >= len(xyz):  # before the meshes are joined
                raise ValueError(f"a triangle names vertex {faces.max()} of {len(xyz)}")
            # A mirrored mesh keeps its outside.
            mirrored = np.linalg.det(matrix[:3, :3]) < 0
            compressed = DRACO in primitive.get("extensions", {})
            colors = None if compressed else _point_colors(scene, primitive)
            if colors is not None and len(colors) != len(xyz):
                colors = None
            meshes.append(Mesh(xyz, faces[:, ::-1] if mirrored else faces, colors=colors))
    return meshes, clouds


def _primitive(scene: Scene, primitive: dict[str, Any], mode: int) -> tuple[np.ndarray, np.ndarray]:
    """(V, 3) coordinates before they are placed, and (F, 3) triangles, none of points."""
    compressed = primitive.get("extensions", {}).get(DRACO)
    if compressed is not None:
        return _decompressed(scene, compressed)
    xyz = read_accessor(scene, primitive["attributes"]["POSITION"], 3)
    if mode == POINTS:
        return xyz, np.empty((0, 3), np.int64)
    return xyz, _faces(scene, primitive, mode, len(xyz))


def _decompressed(scene: Scene, compressed: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """What ``_primitive`` returns of one that Draco has compressed; in a guarded process."""
    import DracoPy

    view = scene.json["bufferViews"][compressed["bufferView"]]
    start = view.get("byteOffset", 0)
    content = scene.buffers[view["buffer"]][start : start + view["byteLength"]]
    try:
        mesh = DracoPy.decode(content)
    except Exception as error:  # of a kind of its own
        raise CloudFileError(
            f"{scene.path.name}: Draco cannot decompress it ({str(error)[:80]}); {SOURCE}"
        ) from error
    faces = np.asarray(getattr(mesh, "faces", np.empty((0, 3))), np.int64)
    return np.asarray(mesh.points, np.float64).reshape(-1, 3), faces.reshape(-1, 3)


def _placed_meshes(scene: Scene) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    """Each mesh with the (4, 4) matrix from its coordinates to those of the scene."""
    nodes = scene.json.get("nodes", [])
    if "scenes" in scene.json:
        roots = scene.json["scenes"][scene.json.get("scene", 0)].get("nodes", [])
    else:
        children = {child for node in nodes for child in node.get("children", [])}
        roots = [number for number in range(len(nodes)) if number not in children]
    seen: set[int] = set()
    ahead = [(number, np.eye(4)) for number in reversed(roots)]
    while ahead:
        number, outer = ahead.pop()
        if number in seen:
            raise ValueError(f"node {number} is placed twice")
        seen.add(number)
        node = nodes[number]
        matrix = outer @ _node_matrix(node)
        if "mesh" in node:
            for instance in _instances(scene, node):
                yield scene.json["meshes"][node["mesh"]], matrix @ instance
        ahead += [(child, matrix) for child in reversed(node.get("children", []))]


def _instances(scene: Scene, node: dict[str, Any]) -> Iterator[np.ndarray]:
    """(4, 4) places of the copies of a node's mesh, nearly always one."""
    attributes = node.get("extensions", {}).get(INSTANCES, {}).get("attributes")
    if attributes is None:
        yield np.eye(4)
        return
    widths = {"TRANSLATION": 3, "ROTATION": 4, "SCALE": 3}
    given = {
        name.lower(): read_accessor(scene, attributes[name], width).tolist()
        for name, width in widths.items()
        if name in attributes
    }
    for values in zip(*given.values(), strict=True):
        yield _node_matrix(dict(zip(given, values, strict=True)))


def _node_matrix(node: dict[str, Any]) -> np.ndarray:
    if "matrix" in node:
        return np.array(node["matrix"], float).reshape(4, 4).T  # stored by columns
    matrix = np.eye(4)
    x, y, z, w = np.array(node.get("rotation", [0, 0, 0, 1]), float)
    rotation = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
    matrix[:3, :3] = rotation * np.array(node.get("scale", [1, 1, 1]), float)
    matrix[:3, 3] = node.get("translation", [0, 0, 0])
    return matrix


def _faces(scene: Scene, primitive: dict[str, Any], mode: int, num_vertices: int) -> np.ndarray:
    """(F, 3) int64 triangles of a list, strip or fan of corners."""
    if "indices" in primitive:
        corners = read_accessor(scene, primitive["indices"], 1)[:, 0].astype(np.int64)
    else:
        corners = np.arange(num_vertices)
    if mode == TRIANGLES:
        if len(corners) % 3:
            raise ValueError(f"{len(corners)} corners make no triangles")
        return corners.reshape(-1, 3)
    if mode == FAN:
        first = np.broadcast_to(corners[:1], corners[2:].shape)
        return np.stack([corners[1:-1], corners[2:], first], 1)
    return strip(corners)


def _point_colors(scene: Scene, primitive: dict[str, Any]) -> np.ndarray | None:
    number = primitive["attributes"].get("COLOR_0")
    return None if number is None else read_accessor(scene, number, 3)


def _joined(meshes: list[Mesh]) -> Mesh:
    starts = np.cumsum([0, *(len(mesh.vertices) for mesh in meshes[:-1])])
    faces = [mesh.faces + start for mesh, start in zip(meshes, starts, strict=True)]
    colors = [mesh.colors for mesh in meshes if mesh.colors is not None]
    return Mesh(
        np.concatenate([mesh.vertices for mesh in meshes]),
        np.concatenate(faces),
        colors=np.concatenate(colors) if len(colors) == len(meshes) else None,
    )
