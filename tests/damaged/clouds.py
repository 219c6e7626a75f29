"""A small file of every format of clouds and meshes, and what reading a damaged one may come to."""

import base64
import gzip
import json
import random
import struct
import warnings
from collections.abc import Callable
from pathlib import Path

import DracoPy
import h5py
import numpy as np

from ea_pointcloud.io import Cloud, read_cloud, write_cloud, write_mesh
from tests.damaged.damages import damage


class Clouds:
    """Damaged clouds and meshes, by suffix."""

    def __init__(self, folder: Path) -> None:
        self.sound = sound_files(folder)
        for path in self.sound:
            read_sound(_wanted(path))
        self.contents = [path.read_bytes() for path in self.sound]

    def case(
        self, number: int, draw: random.Random, folder: Path
    ) -> tuple[str, Callable[[], object]]:
        """Write a damaged file; its suffix, and a call that reads it."""
        which = number % len(self.sound)
        path = folder / f"damaged-{self.sound[which].name}"
        path.write_bytes(damage(self.contents[which], draw))
        for beside in self.sound[which].parent.glob("*.bin"):
            (folder / beside.name).write_bytes(beside.read_bytes())
        return path.suffix, lambda: read_sound(_wanted(path))


def _wanted(path: Path) -> Path:
    return path.with_name(f"{path.name}#1") if path.stem.endswith("chunks") else path


def read_sound(path: Path) -> None:
    """Read a cloud; what is wrong with it or with the error is an AssertionError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            cloud = read_cloud(path, num_points=500)
    except (ValueError, OSError) as error:
        if path.name.partition("#")[0] not in str(error):
            raise AssertionError(f"{error!r} names no file") from error
        if isinstance(error.__cause__, MemoryError):  # this process took what it could get
            raise AssertionError(repr(error)) from error
        raise
    parts = (cloud.xyz, cloud.center, cloud.normals, cloud.colors)
    assert all(part is None or np.isfinite(part).all() for part in parts), "not finite"


def sound_files(folder: Path) -> list[Path]:
    """Write one file of every format and storage, of 40 points or 24 triangles."""
    rng = np.random.default_rng(0)
    normals = rng.normal(size=(40, 3))
    xyz = rng.normal(size=(40, 3)).astype(np.float32)
    full = Cloud(
        xyz,
        np.array([500000.0, 4000000, 10]),
        (normals / np.linalg.norm(normals, axis=1, keepdims=True)).astype(np.float32),
        rng.random((40, 3)).astype(np.float32),
        rng.integers(0, 50, 40),
        rng.random(40).astype(np.float32),
        rng.integers(0, 4000, 40).astype(np.float32),
        {"time": rng.random(40), "ring": np.arange(40, dtype=np.uint8)},
    )
    for suffix in ("ply", "pcd", "txt", "csv", "npz", "h5", "las", "laz"):
        write_cloud(folder / f"cloud.{suffix}", full)
    bare = Cloud(xyz, np.zeros(3))
    for suffix in ("xyz", "npy", "pts"):
        write_cloud(folder / f"cloud.{suffix}", bare)
    write_cloud(folder / "cloud.xyzn", Cloud(xyz, np.zeros(3), normals=full.normals))
    write_cloud(folder / "cloud.xyzrgb", Cloud(xyz, np.zeros(3), colors=full.colors))

    corners = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], float)
    faces = np.array([[a, b, c] for a in range(4) for b in (4, 5) for c in (5 + a % 3, 7)])
    faces = faces[faces[:, 1] != faces[:, 2]]
    for suffix in ("off", "obj", "ply", "stl"):
        write_mesh(folder / f"mesh.{suffix}", corners, faces)
    triangles = corners[faces].astype("<f4")
    rows = b"".join(bytes(12) + triangle.tobytes() + bytes(2) for triangle in triangles)
    (folder / "bytes.stl").write_bytes(bytes(80) + struct.pack("<I", len(faces)) + rows)
    write_ply_mesh(folder, corners, faces)
    write_pcd_variants(folder, xyz)
    write_gltf(folder, corners, faces)
    np.savez_compressed(folder / "small.npz", xyz=xyz, labels=full.labels)
    write_unusual(folder, xyz, corners, faces)
    with h5py.File(folder / "chunks.h5", "w") as file:
        file.create_dataset("data", data=xyz[None].repeat(3, 0), chunks=(1, 20, 3), compression=4)
        file["label"] = np.arange(3)[:, None]
    return sorted(path for path in folder.iterdir() if path.suffix != ".bin")


def write_unusual(folder: Path, xyz: np.ndarray, corners: np.ndarray, faces: np.ndarray) -> None:
    """Kinds that are less common: see ``tests/cases`` and the formats' own names."""
    for path in (Path(__file__).parent.parent / "cases").iterdir():
        # Those that are refused are no sound files.
        if not path.stem.startswith(("csv_east", "off_bin", "npy_ch", "npy_fe", "glb_v")):
            (folder / f"case-{path.name}").write_bytes(path.read_bytes())
    rows = ["{} {} {} 12 255 0 9".format(*row) for row in xyz.tolist()]
    (folder / "text.xyz.gz").write_bytes(gzip.compress("\n".join(rows).encode(), mtime=0))
    (folder / "text.txt").write_bytes("\n".join(["x y z i r g b", *rows]).encode("utf-16"))
    cells = [f"{x};{y};{z};;tree" for x, y, z in xyz.tolist()]
    (folder / "cells.csv").write_text("\n".join(["X [m];Y [m];Z [m];t;kind", *cells]))
    kind = np.dtype([("x", "f4"), ("y", "f4"), ("z", "f4"), ("ring", "u1")])
    np.save(folder / "rows.npy", np.zeros(40, kind))
    with h5py.File(folder / "groups.h5", "w") as file:
        for axis, values in zip("xyz", xyz.T, strict=True):
            file[f"scan/{axis}"] = values
    quads = np.concatenate([faces, faces[:, :1] * 0 + 7], 1).tolist()
    lists = faces.tolist() + quads
    body = corners.astype("<f4").tobytes()
    body += b"".join(struct.pack(f"<B{len(face)}H", len(face), *face) for face in lists)
    (folder / "mixed.ply").write_bytes(
        b"ply\nformat binary_little_endian 1.0\nelement vertex 8\nproperty float x\n"
        b"property float y\nproperty float z\nelement face %d\n"
        b"property list uchar ushort vertex_indices\nend_header\n" % len(lists) + body
    )
    text = "".join("v {} {} {}\n".format(*row) for row in corners)
    text += "".join(f"f {a + 1} {b + 1} {c + 1} {d + 1}\n" for a, b, c, d in quads)
    (folder / "quads.obj").write_text(text)
    content = DracoPy.encode(corners.astype(np.float32), faces.astype(np.uint32))
    document = {
        "asset": {"version": "2.0"},
        "extensionsRequired": ["KHR_draco_mesh_compression"],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}, "extensions": {
            "KHR_draco_mesh_compression": {"bufferView": 0, "attributes": {"POSITION": 0}}}}]}],
        "accessors": [{"componentType": 5126, "count": len(corners), "type": "VEC3"}],
        "bufferViews": [{"buffer": 0, "byteLength": len(content)}],
        "buffers": [{"byteLength": len(content), "uri": "data:application/octet-stream;base64,"
                     + base64.b64encode(content).decode()}],
    }  # fmt: skip
    (folder / "draco.gltf").write_text(json.dumps(document))


def write_ply_mesh(folder: Path, corners: np.ndarray, faces: np.ndarray) -> None:
    for name, order in (("little", "<"), ("big", ">")):
        header = (
            f"ply\nformat binary_{name}_endian 1.0\nelement vertex {len(corners)}\n"
            "property float x\nproperty float y\nproperty float z\n"
            f"element face {len(faces)}\nproperty list uchar int vertex_indices\nend_header\n"
        )
        body = corners.astype(order + "f4").tobytes()
        body += b"".join(struct.pack(f"{order}B3i", 3, *face) for face in faces.tolist())
        (folder / f"{name}.ply").write_bytes(header.encode() + body)


def write_pcd_variants(folder: Path, xyz: np.ndarray) -> None:
    header = (
        f"VERSION 0.7\nFIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 1\nWIDTH {len(xyz)}\n"
        f"HEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS {len(xyz)}\nDATA "
    )
    text = "".join("{} {} {}\n".format(*row) for row in xyz.tolist())
    (folder / "text.pcd").write_text(f"{header}ascii\n{text}")
    plain = xyz.T.astype("<f4").tobytes()
    runs = [plain[start : start + 32] for start in range(0, len(plain), 32)]
    # Literal runs, and two repeats in place of the last run.
    packed = b"".join(bytes([len(run) - 1]) + run for run in runs[:-1]) + b"\xc0\x1f\xe0\x0f\x1f"
    body = struct.pack("<II", len(packed), len(plain)) + packed
    (folder / "packed.pcd").write_bytes(f"{header}binary_compressed\n".encode() + body)


def write_gltf(folder: Path, corners: np.ndarray, faces: np.ndarray) -> None:
    content = faces.astype("<u2").tobytes() + corners.astype("<f4").tobytes()
    split = faces.size * 2
    views = [(0, split), (split, len(content) - split)]
    document = {
        "asset": {"version": "2.0"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"children": [1], "translation": [1, 2, 3]}, {"mesh": 0, "scale": [2, 2, 2]}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 1}, "indices": 0}]}],
        "accessors": [
            {"bufferView": 0, "componentType": 5123, "count": faces.size, "type": "SCALAR"},
            {"bufferView": 1, "componentType": 5126, "count": len(corners), "type": "VEC3"},
        ],
        "bufferViews": [{"buffer": 0, "byteOffset": at, "byteLength": size} for at, size in views],
        "buffers": [{"byteLength": len(content)}],
    }
    text = json.dumps(document)
    text += " " * (-len(text) % 4)
    chunks = struct.pack("<I4s", len(text), b"JSON") + text.encode()
    chunks += struct.pack("<I4s", len(content), b"BIN\0") + content
    (folder / "mesh.glb").write_bytes(b"glTF" + struct.pack("<II", 2, 12 + len(chunks)) + chunks)
    uri = "data:application/octet-stream;base64," + base64.b64encode(content).decode()
    document["buffers"] = [{"uri": uri, "byteLength": len(content)}]
    (folder / "inside.gltf").write_text(json.dumps(document))
    (folder / "beside.bin").write_bytes(content)
    document["buffers"] = [{"uri": "beside.bin", "byteLength": len(content)}]
    (folder / "outside.gltf").write_text(json.dumps(document, indent=1))
