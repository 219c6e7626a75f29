"""The JSON of a glTF file and the numbers in its buffers."""

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
    listing,
    read_bytes,
    truncated,
)

COMPONENTS = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}
JSON_CHUNK, BINARY_CHUNK = b"JSON", b"BIN\0"
LARGEST = 2 * 10**7  # vertices and triangles: a short file can place one mesh any number of times
DRACO, INSTANCES = "KHR_draco_mesh_compression", "EXT_mesh_gpu_instancing"
SUPPORTED = (DRACO, INSTANCES, "KHR_mesh_quantization")
# What does not move a vertex: surfaces, lights, names.
HARMLESS = ("KHR_materials_", "KHR_texture_", "EXT_texture_", "KHR_lights_", "KHR_xmp", "MSFT_tex")


class Scene(NamedTuple):
    """A document with the content of its buffers."""

    path: Path
    json: dict[str, Any]
    buffers: list[bytes]


def read_document(path: Path) -> tuple[dict[str, Any], bytes | None]:
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


def check_document(path: Path, document: dict[str, Any]) -> None:
    """Raise for another version, or for a required extension that is not supported."""
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


def read_buffers(path: Path, document: dict[str, Any], binary: bytes | None) -> list[bytes]:
    """The content of each buffer: the GLB's own, in the JSON, or of a file beside it."""
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
    try:
        inside = beside.resolve().is_relative_to(path.parent.resolve()) and beside.is_file()
    except (OSError, ValueError):  # too long, or with a byte that no name has
        inside = False
    if not inside:
        raise CloudFileError(
            f"{path.name}: its numbers are in {name[:80]!r}, which is not a file beside it; copy "
            "that file too, or export as .glb"
        )
    with beside.open("rb") as file:
        return file.read(min(size, beside.stat().st_size))


def read_accessor(scene: Scene, number: int, width: int) -> np.ndarray:
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
    scene: Scene,
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
