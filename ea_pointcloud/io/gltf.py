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

from ea_pointcloud.io.common import (
    INCOMPLETE,
    SOURCE,
    CloudFileError,
    Mesh,
    Options,
    Points,
    listing,
    read_bytes,
    truncated,
)
from ea_pointcloud.io.polygons import strip

COMPONENTS = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}
POINTS, TRIANGLES, STRIP, FAN = 0, 4, 5, 6  # modes of a primitive; lines are between
JSON_CHUNK, BINARY_CHUNK = b"JSON", b"BIN\0"
LARGEST = 2 * 10**7  # vertices and triangles: a short file can place one mesh any number of times
DRACO, INSTANCES = "KHR_draco_mesh_compression", "EXT_mesh_gpu_instancing"
SUPPORTED = (DRACO, INSTANCES, "KHR_mesh_quantization")
# What does not move a vertex: surfaces, lights, names.
HARMLESS = ("KHR_materials_", "KHR_texture_", "EXT_texture_", "KHR_lights_", "KHR_xmp", "MSFT_tex")


class _Scene(NamedTuple):
    path: Path
    json: dict[str, Any]
    buffers: list[bytes]


def read_gltf(path: Path, options: Options) -> Mesh | Points:
    """Read all meshes of the scene, placed as its nodes say, or its points if it has no mesh."""
    document, binary = _read_document(path)
    try:
        _check_document(path, document)
        scene = _Scene(path, document, _read_buffers(path, document, binary))
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


def _content(scene: _Scene) -> tuple[list[Mesh], list[tuple[np.ndarray, np.ndarray | None]]]:
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
            meshes.append(Mesh(xyz, faces[:, ::-1] if mirrored else faces))
    return meshes, clouds


def _primitive(
    scene: _Scene, primitive: dict[str, Any], mode: int
) -> tuple[np.ndarray, np.ndarray]:
    """(V, 3) coordinates before they are placed, and (F, 3) triangles, none of points."""
    compressed = primitive.get("extensions", {}).get(DRACO)
    if compressed is not None:
        return _decompressed(scene, compressed)
    xyz = _accessor(scene, primitive["attributes"]["POSITION"], 3)
    if mode == POINTS:
        return xyz, np.empty((0, 3), np.int64)
    return xyz, _faces(scene, primitive, mode, len(xyz))


def _decompressed(scene: _Scene, compressed: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
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


def _read_document(path: Path) -> tuple[dict[str, Any], bytes | None]:
    """The JSON, and the binary chunk of a GLB that has one."""
    data = read_bytes(path)
    chunks = dict(_chunks(path, data)) if data.startswith(b"glTF") else {JSON_CHUNK: data}
    try:
        document = json.loads(chunks[JSON_CHUNK].decode("utf-8-sig"))
    except (KeyError, ValueError, RecursionError) as error:
        reason = "no JSON chunk" if isinstance(error, KeyError) else str(error)[:100]
        raise CloudFileError(
            f"{path.name}: has no readable glTF description ({reason}); {SOURCE}"
        ) from error
    if not isinstance(document, dict):
        raise CloudFileError(f"{path.name}: is JSON but not a glTF file; {SOURCE}")
    return document, chunks.get(BINARY_CHUNK)


def _chunks(path: Path, data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and content of each chunk of a GLB."""
    if len(data) < 12:
        raise CloudFileError(f"{path.name}: is too short for a GLB file; {INCOMPLETE}")
    version, promised = struct.unpack_from("<II", data, 4)
    if version != 2:
        raise _other_version(path, f"{version}.x")
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


def _other_version(path: Path, version: str) -> CloudFileError:
    return CloudFileError(
        f"{path.name}: is glTF {version[:10]}, which is not supported, only 2.0; convert it, for "
        "example with Blender or gltf-pipeline"
    )


def _check_document(path: Path, document: dict[str, Any]) -> None:
    version = document.get("asset", {}).get("version", "1.x")  # which may leave it out
    if not str(version).startswith("2."):
        raise _other_version(path, str(version))
    unknown = [
        str(name)
        for name in document.get("extensionsRequired", [])
        if name not in SUPPORTED and not str(name).startswith(HARMLESS)
    ]
    if unknown:
        raise CloudFileError(
            f"{path.name}: requires {listing(unknown, 4)}, which is not supported; export it "
            "without, or convert it, for example with Blender or gltf-transform"
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
            content = _read_beside(path, unquote(uri), promised)
        if len(content) < promised:
            raise truncated(path, f"bytes of buffer {number}", promised, len(content))
        buffers.append(content)
    return buffers


def _read_beside(path: Path, name: str, size: int) -> bytes:
    """The start of a file that must lie in the folder of ``path``, or below it."""
    beside = path.parent / name
    inside = beside.resolve().is_relative_to(path.parent.resolve())
    if "\0" in name or not inside or not beside.is_file():
        raise CloudFileError(
            f"{path.name}: its numbers are in {name[:80]!r}, which is not a file beside it; copy "
            "that file too, or export as .glb"
        )
    with beside.open("rb") as file:
        return file.read(min(size, beside.stat().st_size))


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
            for instance in _instances(scene, node):
                yield scene.json["meshes"][node["mesh"]], matrix @ instance
        ahead += [(child, matrix) for child in reversed(node.get("children", []))]


def _instances(scene: _Scene, node: dict[str, Any]) -> Iterator[np.ndarray]:
    """(4, 4) places of the copies of a node's mesh, nearly always one."""
    attributes = node.get("extensions", {}).get(INSTANCES, {}).get("attributes")
    if attributes is None:
        yield np.eye(4)
        return
    widths = {"TRANSLATION": 3, "ROTATION": 4, "SCALE": 3}
    given = {
        name.lower(): _accessor(scene, attributes[name], width).tolist()
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


def _accessor(scene: _Scene, number: int, width: int) -> np.ndarray:
    """(N, width) numbers; float64 where they are coordinates or normalized, else as stored."""
    accessor = scene.json["accessors"][number]
    dtype = np.dtype(COMPONENTS[accessor["componentType"]])
    count = accessor["count"]
    stored = WIDTHS[accessor["type"]]
    if stored < width or count < 1:
        raise ValueError(f"accessor {number} has {count} rows of {accessor['type']}")
    sparse = accessor.get("sparse")
    if "bufferView" in accessor:
        rows = _view_rows(scene, f"accessor {number}", accessor, dtype, (count, width), stored)
    elif sparse is None:
        raise CloudFileError(
            f"{scene.path.name}: accessor {number} has no numbers (compressed by an unknown "
            "extension?), which is not supported; export it without compression"
        )
    elif count > LARGEST:
        raise ValueError(f"accessor {number} has {count} rows")
    else:
        rows = np.zeros((count, width), dtype)
    if sparse is not None:
        rows = rows.copy()
        kind = np.dtype(COMPONENTS[sparse["indices"]["componentType"]])
        name, some = f"sparse accessor {number}", sparse["count"]
        places = _view_rows(scene, name, sparse["indices"], kind, (some, 1), 1)[:, 0]
        if some and places.max() >= count:
            raise ValueError(f"{name} names row {places.max()} of {count}")
        rows[places] = _view_rows(scene, name, sparse["values"], dtype, (some, width), stored)
    if accessor.get("normalized", False):
        return np.maximum(rows / np.iinfo(dtype).max, -1)
    return rows.astype(np.float64) if width > 1 else rows


def _view_rows(
    scene: _Scene,
    name: str,
    place: dict[str, Any],
    dtype: np.dtype,
    shape: tuple[int, int],
    stored: int,
) -> np.ndarray:
    """The first columns of rows of ``stored`` values that lie in a view of a buffer."""
    view = scene.json["bufferViews"][place["bufferView"]]
    content = scene.buffers[view["buffer"]]
    stride = view.get("byteStride", stored * dtype.itemsize)
    first = place.get("byteOffset", 0)
    start = view.get("byteOffset", 0) + first
    last = first + (shape[0] - 1) * stride + stored * dtype.itemsize  # in the view
    if min(first, start) < 0 or stride < 1 or last > view["byteLength"]:
        raise truncated(scene.path, f"bytes of {name}", last, view["byteLength"])
    return np.ndarray(shape, dtype, content, start, (stride, dtype.itemsize))


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
    return strip(corners)


def _point_colors(scene: _Scene, primitive: dict[str, Any]) -> np.ndarray | None:
    number = primitive["attributes"].get("COLOR_0")
    return None if number is None else _accessor(scene, number, 3)


def _joined(meshes: list[Mesh]) -> Mesh:
    starts = np.cumsum([0, *(len(mesh.vertices) for mesh in meshes[:-1])])
    faces = [mesh.faces + start for mesh, start in zip(meshes, starts, strict=True)]
    return Mesh(np.concatenate([mesh.vertices for mesh in meshes]), np.concatenate(faces))
