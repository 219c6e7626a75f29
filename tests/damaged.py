"""Damages small files of every format and reads them; prints what became of them as JSON.

    python -m tests.damaged FILES [SEED]

It is a process of its own, so that a crash is a result and the peak of memory is that of reading.
"""

import base64
import gzip
import json
import random
import re
import resource
import struct
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

import DracoPy
import h5py
import numpy as np

from ea_pointcloud.io import Cloud, guard, read_cloud, write_cloud, write_mesh

HUGE = 10**12
COUNTS = (HUGE, 2**31, 2**32 - 1, 10**9, 0, -1)


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
    for path in (Path(__file__).parent / "cases").iterdir():
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


def damage(data: bytes, draw: random.Random) -> bytes:
    """One to three damages of a kind that copying, disks or exporters do."""
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        data = draw.choice(DAMAGES)(data, draw)
    return data


def cut(data: bytes, draw: random.Random) -> bytes:
    return data[: draw.randrange(len(data) + 1)]


def flip(data: bytes, draw: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(draw.randint(1, 8) if data else 0):
        changed[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def flip_early(data: bytes, draw: random.Random) -> bytes:
    """Flip where headers are."""
    return flip(data[:400], draw) + data[400:]


def insert(data: bytes, draw: random.Random) -> bytes:
    at = draw.randrange(len(data) + 1)
    return data[:at] + draw.randbytes(draw.randint(1, 64)) + data[at:]


def delete(data: bytes, draw: random.Random) -> bytes:
    at = draw.randrange(len(data) + 1)
    return data[:at] + data[at + draw.randint(1, 64) :]


def repeat(data: bytes, draw: random.Random) -> bytes:
    at = draw.randrange(len(data) + 1)
    return data[: at + draw.randint(1, 64)] + data[at:]


def count_in_text(data: bytes, draw: random.Random) -> bytes:
    """Replace a number that is written out by an absurd one."""
    numbers = list(re.finditer(rb"\d+", data[:1500]))
    if not numbers:
        return data
    place = draw.choice(numbers)
    return data[: place.start()] + str(draw.choice(COUNTS)).encode() + data[place.end() :]


def count_in_bytes(data: bytes, draw: random.Random) -> bytes:
    """Replace 4 or 8 bytes by an absurd number."""
    code = draw.choice(("<I", ">I", "<Q", ">Q"))
    size = struct.calcsize(code)
    number = draw.choice(COUNTS) % 256**size
    at = draw.randrange(max(len(data) - size, 1))
    return data[:at] + struct.pack(code, number) + data[at + size :]


DAMAGES = (cut, flip, flip_early, insert, delete, repeat, count_in_text, count_in_bytes)


def outcome(path: Path) -> str:
    """What reading came to: a sound cloud, the class of a clean error, or a fault."""
    try:
        cloud = read_cloud(path, num_points=500)
    except (ValueError, OSError) as error:
        if path.name.partition("#")[0] not in str(error):
            return f"fault: {error!r} names no file"
        if isinstance(error.__cause__, MemoryError):  # this process took what it could get
            return f"fault: {error!r}"
        return type(error).__name__
    except BaseException as error:  # a panic of native code is no Exception
        return f"fault: {error!r}"
    parts = (cloud.xyz, cloud.center, cloud.normals, cloud.colors)
    sound = all(part is None or np.isfinite(part).all() for part in parts)
    return "Cloud" if sound else "fault: a cloud that is not finite"


def main(num_files: int, seed: int) -> None:
    warnings.simplefilter("error")
    # Beyond the 2 GB that are allowed, and early enough to leave the machine alone.
    resource.setrlimit(resource.RLIMIT_DATA, (3 * 10**9, resource.RLIM_INFINITY))
    draw = random.Random(seed)
    outcomes: dict[str, Counter[str]] = {}
    faults: list[dict[str, str]] = []
    slowest = (0.0, "")
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        sound = sound_files(folder)
        for path in sound:
            wanted = path.with_name(f"{path.name}#1") if path.name == "chunks.h5" else path
            assert outcome(wanted) == "Cloud", (path.name, outcome(wanted))
        contents = [path.read_bytes() for path in sound]
        for number in range(num_files):
            which = number % len(sound)
            data = damage(contents[which], draw)
            path = folder / f"damaged-{sound[which].name}"
            path.write_bytes(data)
            wanted = path.with_name(f"{path.name}#1") if path.stem.endswith("chunks") else path
            before = time.perf_counter()
            result = outcome(wanted)
            seconds = time.perf_counter() - before
            slowest = max(slowest, (seconds, f"{sound[which].name}: {result}"))
            outcomes.setdefault(path.suffix, Counter())[
                result[:5] if "fault" in result else result
            ] += 1
            if result.startswith("fault"):
                content = base64.b64encode(data).decode()
                faults.append({"file": path.name, "fault": result, "base64": content})
    guard.stop()
    who, status = [resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN], Path("/proc/self/status")
    kilobytes = []
    if status.exists():  # Linux, whose ru_maxrss begins with that of whoever started the process
        kilobytes = [int(peak) for peak in re.findall(r"VmHWM:\s+(\d+)", status.read_text())]
        who.remove(resource.RUSAGE_SELF)
    kilobytes += [resource.getrusage(whose).ru_maxrss for whose in who]
    report = {
        "files": num_files,
        "formats": len(outcomes),
        "seconds": time.perf_counter() - start,
        "slowest": slowest,
        "peak_bytes": 1024 * max(kilobytes),
        "outcomes": outcomes,
        "faults": faults,
    }
    print(json.dumps(report))  # noqa: T201


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
