"""glTF 2.0 and GLB: a scene in JSON, with its numbers in buffers beside it or behind it.

Materials, skins, morph targets and lines are left out. Metres and y up, as the standard says.
"""

import base64
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

import numpy as np

from ea_pointcloud.io.common import CloudFileError, Mesh, Points, truncated

COMPONENTS = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}
POINTS, TRIANGLES, STRIP, FAN = 0, 4, 5, 6  # modes of a primitive; lines are between
JSON_CHUNK, BINARY_CHUNK = b"JSON", b"BIN\0"
LARGEST = 10**8  # vertices of a scene: a short file can place one mesh any number of times


class _Scene(NamedTuple):
    path: Path
    json: dict[str, Any]
    buffers: list[bytes]


def read_gltf(path: Path) -> Mesh | Points:
    """Read all meshes of the scene, placed as its nodes say, or its points if it has no mesh."""
    document, binary = _read_document(path)
    try:
        _check_document(path, document)
        scene = _Scene(path, document, _read_buffers(path, document, binary))
        meshes, clouds = [], []
        total = 0
        for mesh, matrix in _placed_meshes(scene):
            for primitive in mesh["primitives"]:
                mode = primitive.get("mode", TRIANGLES)
                if mode not in (POINTS, TRIANGLES, STRIP, FAN):
                    continue
                xyz = _accessor(scene, primitive["attributes"]["POSITION"], 3)
                xyz = xyz @ matrix[:3, :3].T + matrix[:3, 3]
                total += len(xyz)
                if total > LARGEST:
                    raise CloudFileError(
                        f"{path.name}: its nodes place more than {LARGEST:,} vertices; export a "
                        "part of the scene"
                    )
                if mode == POINTS:
                    clouds.append((xyz, _point_colors(scene, primitive)))
                else:
                    faces = _faces(scene, primitive, mode, len(xyz))
                    if faces.size and faces.max() >= len(xyz):  # before the meshes are joined
                        raise ValueError(f"a triangle names vertex {faces.max()} of {len(xyz)}")
                    # A mirrored mesh keeps its outside.
                    mirrored = np.linalg.det(matrix[:3, :3]) < 0
                    meshes.append(Mesh(xyz, faces[:, ::-1] if mirrored else faces))
    except CloudFileError:
        raise
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise CloudFileError(
            f"{path.name}: is not a valid glTF file ({type(error).__name__}: {error}); "
            "export it again"
        ) from error
    if meshes:
        return _joined(meshes)
    if not clouds:
        raise CloudFileError(f"{path.name}: its scene has no triangles; export it with a mesh")
    colors = [color for _, color in clouds if color is not None]
    return Points(
        np.concatenate([xyz for xyz, _ in clouds]),
        colors=np.concatenate(colors) if len(colors) == len(clouds) else None,
    )


def _read_document(path: Path) -> tuple[dict[str, Any], bytes | None]:
    """The JSON, and the binary chunk of a GLB that has one."""
    data = path.read_bytes()
    chunks = dict(_chunks(path, data)) if data.startswith(b"glTF") else {JSON_CHUNK: data}
    try:
        document = json.loads(chunks[JSON_CHUNK].decode("utf-8-sig"))
    except (KeyError, ValueError, RecursionError) as error:
        raise CloudFileError(
            f"{path.name}: has no readable glTF description ({error}); copy or export it again"
        ) from error
    if not isinstance(document, dict):
        raise CloudFileError(f"{path.name}: is JSON but not a glTF file; export it again")
    return document, chunks.get(BINARY_CHUNK)


def _chunks(path: Path, data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and content of each chunk of a GLB."""
    if len(data) < 12:
        raise CloudFileError(f"{path.name}: is too short for a GLB file; copy it again")
    (promised,) = struct.unpack_from("<I", data, 8)
    if promised > len(data):
        raise truncated(path, "bytes", promised, len(data))
    at = 12
    while at + 8 <= promised:
        length, kind = struct.unpack_from("<I4s", data, at)
        at += 8
        if at + length > promised:
            raise truncated(path, f"bytes of chunk {kind!r}", length, promised - at)
        yield kind, data[at : at + length]
        at += length


def _check_document(path: Path, document: dict[str, Any]) -> None:
    version = str(document["asset"]["version"])
    if not version.startswith("2."):
        raise CloudFileError(
            f"{path.name}: is glTF {version[:10]}, only 2.0 is read; export it again"
        )
    compressed = [name for name in document.get("extensionsRequired", []) if "compression" in name]
    if compressed:
        raise CloudFileError(
            f"{path.name}: its meshes are compressed ({' '.join(compressed)}), which is not read; "
            "export it without compression"
        )


def _read_buffers(path: Path, document: dict[str, Any], binary: bytes | None) -> list[bytes]:
    buffers = []
    for number, buffer in enumerate(document.get("buffers", [])):
        uri, promised = buffer.get("uri"), buffer["byteLength"]
        if uri is None:
            content = binary if number == 0 and binary is not None else b""
        elif uri.startswith("data:"):
            content = base64.b64decode(uri.partition(",")[2], validate=True)
        else:
            beside = path.parent / unquote(uri)
            if not beside.is_file():
                raise CloudFileError(
                    f"{path.name}: its numbers are in {unquote(uri)[:80]!r}, which is not beside "
                    "it; copy that file too, or export as .glb"
                )
            with beside.open("rb") as file:
                content = file.read(promised)
        if len(content) < promised:
            raise truncated(path, f"bytes of buffer {number}", promised, len(content))
        buffers.append(content)
    return buffers


def _placed_meshes(scene: _Scene) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
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
            yield scene.json["meshes"][node["mesh"]], matrix
        ahead += [(child, matrix) for child in reversed(node.get("children", []))]


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


def _accessor(scene: _Scene, number: int, width: int) -> np.ndarray:
    """(N, width) numbers; float64 where they are coordinates or normalized, else as stored."""
    accessor = scene.json["accessors"][number]
    if "sparse" in accessor or "bufferView" not in accessor:
        raise CloudFileError(
            f"{scene.path.name}: accessor {number} is sparse or compressed, which is not read; "
            "export it without"
        )
    view = scene.json["bufferViews"][accessor["bufferView"]]
    content = scene.buffers[view["buffer"]]
    dtype = np.dtype(COMPONENTS[accessor["componentType"]])
    count = accessor["count"]
    stored = WIDTHS[accessor["type"]]
    if stored < width or count < 1:
        raise ValueError(f"accessor {number} has {count} rows of {accessor['type']}")
    stride = view.get("byteStride", stored * dtype.itemsize)
    first = accessor.get("byteOffset", 0)
    start = view.get("byteOffset", 0) + first
    last = first + (count - 1) * stride + stored * dtype.itemsize  # in the view
    if min(first, start) < 0 or stride < 1 or last > view["byteLength"]:
        raise truncated(scene.path, f"bytes of accessor {number}", last, view["byteLength"])
    rows = np.ndarray((count, width), dtype, content, start, (stride, dtype.itemsize))
    if accessor.get("normalized", False):
        return np.maximum(rows / np.iinfo(dtype).max, -1)
    return rows.astype(np.float64) if width > 1 else rows


def _faces(scene: _Scene, primitive: dict[str, Any], mode: int, num_vertices: int) -> np.ndarray:
    """(F, 3) int64 triangles of a list, strip or fan of corners."""
    if "indices" in primitive:
        corners = _accessor(scene, primitive["indices"], 1)[:, 0].astype(np.int64)
    else:
        corners = np.arange(num_vertices)
    if mode == TRIANGLES:
        if len(corners) % 3:
            raise ValueError(f"{len(corners)} corners make no triangles")
        return corners.reshape(-1, 3)
    if mode == FAN:
        first = np.broadcast_to(corners[:1], corners[2:].shape)
        return np.stack([corners[1:-1], corners[2:], first], 1)
    faces = np.stack([corners[:-2], corners[1:-1], corners[2:]], 1)
    faces[1::2] = faces[1::2, [0, 2, 1]]  # every other triangle of a strip runs the other way
    return faces


def _point_colors(scene: _Scene, primitive: dict[str, Any]) -> np.ndarray | None:
    number = primitive["attributes"].get("COLOR_0")
    return None if number is None else _accessor(scene, number, 3)


def _joined(meshes: list[Mesh]) -> Mesh:
    starts = np.cumsum([0, *(len(mesh.vertices) for mesh in meshes[:-1])])
    faces = [mesh.faces + start for mesh, start in zip(meshes, starts, strict=True)]
    return Mesh(np.concatenate([mesh.vertices for mesh in meshes]), np.concatenate(faces))
