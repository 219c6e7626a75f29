"""Files written by Open3D, laspy, h5py, trimesh or byte by byte, read back equal."""

import json
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ea_pointcloud.io import Cloud, CloudFileError, read_cloud, write_mesh
from ea_pointcloud.io.common import Mesh, Options
from ea_pointcloud.io.gltf import read_gltf
from ea_pointcloud.io.meshes import read_obj, read_off
from ea_pointcloud.io.ply import read_ply
from ea_pointcloud.io.stl import read_stl

open3d = pytest.importorskip("open3d")
laspy = pytest.importorskip("laspy")
trimesh = pytest.importorskip("trimesh")

RNG = np.random.default_rng(7)
XYZ = RNG.normal(size=(50, 3))
NORMALS = XYZ / np.linalg.norm(XYZ, axis=1, keepdims=True)
COLORS = RNG.integers(0, 256, (50, 3)) / 255
# Coordinates of a surveyor's map, in millimetres.
UTM = np.round(np.array([448_262.0, 5_411_932.0, 120.0]) + RNG.uniform(-80, 80, (50, 3)), 3)
BOX = trimesh.creation.box((1, 2, 3))
READERS: dict[str, Callable[[Path], Any]] = {
    suffix: partial(read, options=Options())
    for suffix, read in {
        ".ply": read_ply,
        ".off": read_off,
        ".obj": read_obj,
        ".stl": read_stl,
        ".gltf": read_gltf,
        ".glb": read_gltf,
    }.items()
}


def in_file(cloud: Cloud) -> np.ndarray:
    return cloud.xyz + cloud.center


def triangles(mesh: Mesh) -> np.ndarray:
    """(F, 3, 3) corners, in an order that does not depend on the file's."""
    corners = mesh.vertices[mesh.faces]
    first = np.lexsort(np.moveaxis(corners, 2, 0)[::-1], axis=1)[:, 0]
    turned = corners[np.arange(len(corners))[:, None], (first[:, None] + np.arange(3)) % 3]
    flat = turned.reshape(-1, 9).round(5) + 0.0  # no -0, which sorts apart
    return flat[np.lexsort(flat.T[::-1])].reshape(-1, 3, 3)


def check_parts(cloud: Cloud, *, normals: bool, colors: bool) -> None:
    np.testing.assert_allclose(in_file(cloud), XYZ, atol=1e-5)
    assert (cloud.normals is not None) == normals
    assert (cloud.colors is not None) == colors
    if normals:
        np.testing.assert_allclose(cloud.normals, NORMALS, atol=1e-5)
    if colors:
        np.testing.assert_allclose(cloud.colors, COLORS, atol=1e-5)


# --- clouds by Open3D and trimesh


@pytest.mark.parametrize("how", [{}, {"write_ascii": True}, {"compressed": True}])
@pytest.mark.parametrize("suffix", ["ply", "pcd", "pts", "xyz", "xyzn", "xyzrgb"])
def test_clouds_of_open3d(tmp_path: Path, suffix: str, how: dict[str, bool]) -> None:
    cloud = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(XYZ))
    cloud.normals = open3d.utility.Vector3dVector(NORMALS)
    cloud.colors = open3d.utility.Vector3dVector(COLORS)
    path = tmp_path / f"a.{suffix}"
    assert open3d.io.write_point_cloud(str(path), cloud, **how)
    complete = suffix in ("ply", "pcd")
    check_parts(
        read_cloud(path),
        normals=complete or suffix == "xyzn",
        colors=complete or suffix in ("xyzrgb", "pts"),
    )


@pytest.mark.parametrize("encoding", ["ascii", "binary"])
def test_ply_of_trimesh(tmp_path: Path, encoding: str) -> None:
    colors = np.concatenate([COLORS * 255, np.full((50, 1), 255)], 1).astype(np.uint8)
    cloud = trimesh.PointCloud(XYZ, colors)
    (tmp_path / "a.ply").write_bytes(cloud.export(file_type="ply", encoding=encoding))
    check_parts(read_cloud(tmp_path / "a.ply"), normals=False, colors=True)


@pytest.mark.parametrize("delimiter", [" ", "\t", ",", ";", ", "])
@pytest.mark.parametrize("header", ["", "x,y,z,nx,ny,nz"])
@pytest.mark.parametrize("suffix", ["txt", "csv"])
def test_tables_of_numpy(tmp_path: Path, suffix: str, delimiter: str, header: str) -> None:
    path = tmp_path / f"a.{suffix}"
    names = header.replace(",", delimiter)
    table = np.concatenate([XYZ, NORMALS], 1)
    np.savetxt(path, table, delimiter=delimiter, header=names, comments="")
    check_parts(read_cloud(path), normals=True, colors=False)


def test_npy_of_several_clouds(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.stack([XYZ + 1, XYZ]))
    check_parts(read_cloud(f"{tmp_path}/a.npy#1"), normals=False, colors=False)


# --- LAS and LAZ by laspy


def las_file(path: Path, point_format: int, version: str, **fields: np.ndarray) -> Path:
    header = laspy.LasHeader(point_format=point_format, version=version)
    header.scales, header.offsets = np.full(3, 0.001), np.array([448_000.0, 5_411_000.0, 0])
    extra = [name for name in fields if name not in header.point_format.dimension_names]
    header.add_extra_dims([laspy.ExtraBytesParams(name, "float32") for name in extra])
    las = laspy.LasData(header)
    las.xyz = UTM
    for name, values in fields.items():
        las[name] = values
    las.write(path)
    return path


def rgb(scale: int) -> dict[str, np.ndarray]:
    values = np.round(COLORS * scale).astype(np.uint16)
    return dict(zip(("red", "green", "blue"), values.T, strict=True))


@pytest.mark.parametrize("suffix", ["las", "laz"])
@pytest.mark.parametrize(
    ("point_format", "version"), [(0, "1.2"), (2, "1.2"), (3, "1.4"), (6, "1.4"), (7, "1.4")]
)
def test_las_keeps_millimetres_classes_and_colours(
    tmp_path: Path, suffix: str, point_format: int, version: str
) -> None:
    classes = np.arange(50) % 20
    colored = point_format in (2, 3, 7)
    fields = {"classification": classes, **(rgb(65535) if colored else {})}
    cloud = read_cloud(las_file(tmp_path / f"a.{suffix}", point_format, version, **fields))
    # A tenth of a millimetre at coordinates of five thousand kilometres.
    np.testing.assert_allclose(in_file(cloud), UTM, rtol=0, atol=1e-4)
    assert (np.round(in_file(cloud), 3) == UTM).all()
    assert cloud.labels is not None
    assert (cloud.labels == classes).all()
    assert (cloud.colors is not None) == colored
    if colored:
        np.testing.assert_allclose(cloud.colors, COLORS, atol=1e-5)
    assert cloud.name == "a"


def test_las_colours_of_eight_bits(tmp_path: Path) -> None:
    cloud = read_cloud(las_file(tmp_path / "a.las", 7, "1.4", **rgb(255)))
    np.testing.assert_allclose(cloud.colors, COLORS, atol=1e-6)
    assert cloud.labels is None  # all 0: never classified


def test_las_fields_that_were_never_filled_in(tmp_path: Path) -> None:
    cloud = read_cloud(las_file(tmp_path / "a.laz", 3, "1.2"))
    assert cloud.colors is None
    assert cloud.labels is None
    assert cloud.normals is None


def test_las_extra_bytes(tmp_path: Path) -> None:
    names = ("NormalX", "NormalY", "NormalZ")
    fields = {**dict(zip(names, NORMALS.T, strict=True)), "confidence": np.linspace(0, 1, 50)}
    cloud = read_cloud(las_file(tmp_path / "a.laz", 6, "1.4", **fields))
    np.testing.assert_allclose(cloud.normals, NORMALS, atol=1e-6)
    np.testing.assert_allclose(cloud.confidence, np.linspace(0, 1, 50), atol=1e-6)


def test_damaged_las(tmp_path: Path) -> None:
    content = las_file(tmp_path / "a.las", 6, "1.4").read_bytes()
    (tmp_path / "cut.las").write_bytes(content[:-31])
    with pytest.raises(CloudFileError, match=r"cut.las: the header promises 50 points, the file h"
                       r"olds 48; it is incomplete: compare its size"):  # fmt: skip
        read_cloud(tmp_path / "cut.las")
    (tmp_path / "empty.las").write_bytes(content[:375].replace(struct.pack("<Q", 50), bytes(8)))
    with pytest.raises(CloudFileError, match=r"empty.las: holds no points"):
        read_cloud(tmp_path / "empty.las")
    for name in ("x.las", "x.laz"):
        (tmp_path / name).write_bytes(b"hello" * 99)
        with pytest.raises(
            CloudFileError, match=rf"{name}: damaged or not a LAS file \(.*compare it"
        ):
            read_cloud(tmp_path / name)


# --- HDF5 by h5py


def hdf5_file(path: Path, **datasets: np.ndarray) -> Path:
    with h5py.File(path, "w") as file:
        for name, values in datasets.items():
            file[name] = values
    return path


@pytest.mark.parametrize("key", ["xyz", "points", "data", "pos"])
@pytest.mark.parametrize(("label", "shape"), [("label", (50,)), ("seg", (50, 1)), ("pid", (50,))])
@pytest.mark.parametrize("suffix", ["h5", "hdf5"])
def test_hdf5_of_one_cloud(
    tmp_path: Path, suffix: str, key: str, label: str, shape: tuple[int, ...]
) -> None:
    labels = np.arange(50, dtype=np.uint8)
    datasets = {key: XYZ, "normal": NORMALS, "rgb": (COLORS * 255).round().astype(np.uint8)}
    path = hdf5_file(tmp_path / f"a.{suffix}", **datasets, **{label: labels.reshape(shape)})
    cloud = read_cloud(path)
    check_parts(cloud, normals=True, colors=True)
    assert cloud.labels is not None
    assert cloud.labels.tolist() == list(range(50))


def test_hdf5_of_several_clouds(tmp_path: Path) -> None:
    data = np.stack([XYZ + 1, XYZ, XYZ - 1]).astype(np.float32)
    parts = np.arange(150).reshape(3, 50)
    datasets = {"data": data, "label": np.arange(3)[:, None], "pid": parts}
    path = hdf5_file(tmp_path / "ply_data_test0.h5", **datasets)
    cloud = read_cloud(f"{path}#1")
    check_parts(cloud, normals=False, colors=False)
    assert cloud.labels is not None
    assert (cloud.labels == parts[1]).all()  # of the points, not of the clouds
    assert cloud.name == "ply_data_test0-1"
    with pytest.raises(
        CloudFileError,
        match=r"^ply_data_test0.h5: holds 3 clouds; name one of them, ply_data_test0.h5#0 to "
        r"ply_data_test0.h5#2$",
    ):
        read_cloud(path)
    with pytest.raises(CloudFileError, match="holds 3 clouds and none is #3; name one of them"):
        read_cloud(f"{path}#3")
    one = hdf5_file(tmp_path / "one.h5", data=data[1:2], label=np.array([[7]]))
    check_parts(read_cloud(one), normals=False, colors=False)
    assert read_cloud(f"{one}#0").labels is None
    single = hdf5_file(tmp_path / "single.h5", xyz=XYZ)
    with pytest.raises(CloudFileError, match=r"single.h5: holds one cloud; leave out #0"):
        read_cloud(f"{single}#0")


def test_a_number_sign_in_names_of_files(tmp_path: Path) -> None:
    for name in ("scan#2.xyz", "a#1.npy", "#3.npy"):
        path = tmp_path / name
        if path.suffix == ".npy":
            np.save(path, XYZ)
        else:
            np.savetxt(path, XYZ)
        check_parts(read_cloud(path), normals=False, colors=False)
    with pytest.raises(FileNotFoundError, match=r"a.npy: no such file"):
        read_cloud(tmp_path / "a.npy#1")
    with pytest.raises(FileNotFoundError, match=r"scan#2.xyz#1: no such file"):
        read_cloud(tmp_path / "scan#2.xyz#1")
    np.savetxt(tmp_path / "b.h5#1", XYZ)
    with pytest.raises(CloudFileError, match=r"b.h5#1: cannot read .h5#1"):
        read_cloud(tmp_path / "b.h5#1")


@pytest.mark.parametrize(
    ("datasets", "words"),
    [
        ({"vertices": XYZ}, "a.h5: has no array xyz, points, .*, only vertices .*; save the coord"),
        ({"xyz": XYZ[:, :2]}, r"a.h5: xyz must hold numbers of shape \(N, >=3\)"),
        ({"xyz": XYZ, "labels": np.zeros(49)}, r"labels must .* beside 50 points, .* \(49,\)"),
        ({"xyz": XYZ, "normals": XYZ[None]}, r"normals must .* shape \(50, 3\) .* \(1, 50, 3\)"),
        ({"xyz": XYZ, "colors": np.full((50, 3), b"a")}, r"colors must hold numbers"),
        ({"xyz": np.zeros((0, 3))}, "a.h5: holds no points"),
        ({"xyz": h5py.Empty("f4")}, "has no array xyz"),
    ],
)
def test_hdf5_errors(tmp_path: Path, datasets: dict[str, Any], words: str) -> None:
    with pytest.raises(CloudFileError, match=words):
        read_cloud(hdf5_file(tmp_path / "a.h5", **datasets))


def test_damaged_hdf5(tmp_path: Path) -> None:
    content = hdf5_file(tmp_path / "a.h5", xyz=XYZ).read_bytes()
    for damaged in (content[:1000], b"hello" * 99):
        (tmp_path / "x.h5").write_bytes(damaged)
        with pytest.raises(
            CloudFileError, match=r"x.h5: damaged or not an HDF5 file \(.*compare it"
        ):
            read_cloud(tmp_path / "x.h5")


# --- meshes by trimesh and Open3D


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        ("ply", {"encoding": "ascii"}),
        ("ply", {"encoding": "binary"}),
        ("off", {}),
        ("obj", {}),
        ("stl", {}),
        ("stl_ascii", {}),
        ("glb", {}),
    ],
)
def test_meshes_of_trimesh(tmp_path: Path, suffix: str, options: dict[str, str]) -> None:
    content = BOX.export(file_type=suffix, **options)
    path = tmp_path / f"a.{suffix.removesuffix('_ascii')}"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    expected = triangles(Mesh(BOX.vertices, BOX.faces))
    assert (triangles(READERS[path.suffix](path)) == expected).all()


@pytest.mark.parametrize("ascii_text", [False, True])
@pytest.mark.parametrize("suffix", ["ply", "off", "obj", "stl", "gltf", "glb"])
def test_meshes_of_open3d(tmp_path: Path, suffix: str, ascii_text: bool) -> None:
    if suffix == "stl" and ascii_text:
        pytest.skip("Open3D writes STL as bytes only")
    mesh = open3d.geometry.TriangleMesh.create_torus(1, 0.3, 12, 8)
    mesh.compute_vertex_normals()
    path = tmp_path / f"a.{suffix}"
    assert open3d.io.write_triangle_mesh(str(path), mesh, write_ascii=ascii_text)
    vertices, faces = np.asarray(mesh.vertices), np.asarray(mesh.triangles)
    found, expected = triangles(READERS[path.suffix](path)), triangles(Mesh(vertices, faces))
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("suffix", ["gltf", "glb"])
def test_scene_of_trimesh(tmp_path: Path, suffix: str) -> None:
    scene = trimesh.Scene()
    turn = trimesh.transformations.rotation_matrix(0.7, (1, 2, 3), (4, 5, 6))
    scale = np.diag([2.0, 3, 0.5, 1])
    scene.add_geometry(BOX, node_name="outer", transform=turn)
    scene.add_geometry(BOX, node_name="inner", parent_node_name="outer", transform=scale)
    scene.add_geometry(trimesh.creation.icosphere(1), transform=turn @ scale)
    scene.export(str(tmp_path / f"a.{suffix}"))
    joined = scene.to_mesh()
    mesh = READERS[".gltf"](tmp_path / f"a.{suffix}")
    assert isinstance(mesh, Mesh)
    expected = triangles(Mesh(joined.vertices, joined.faces))
    np.testing.assert_allclose(triangles(mesh), expected, atol=1e-4)
    assert len(read_cloud(tmp_path / f"a.{suffix}", num_points=30)) == 30


def test_glb_cloud_of_trimesh(tmp_path: Path) -> None:
    colors = np.concatenate([COLORS * 255, np.full((50, 1), 255)], 1).round().astype(np.uint8)
    scene = trimesh.Scene([trimesh.PointCloud(XYZ, colors)])
    (tmp_path / "a.glb").write_bytes(scene.export(file_type="glb"))
    check_parts(read_cloud(tmp_path / "a.glb"), normals=False, colors=True)


# --- glTF by hand


CORNERS = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]], "<f4")
UP = ([[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[1, 0, 0], [1, 1, 0], [0, 1, 0]])  # both seen from +z


def gltf(folder: Path, content: bytes = CORNERS.tobytes(), **changes: Any) -> Path:
    document = {
        "asset": {"version": "2.0"},
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}, "mode": 5}]}],
        "accessors": [{"bufferView": 0, "componentType": 5126, "count": 4, "type": "VEC3"}],
        "bufferViews": [{"buffer": 0, "byteLength": len(content)}],
        "buffers": [{"uri": "some%20numbers.bin", "byteLength": len(content)}],
        **changes,
    }
    (folder / "some numbers.bin").write_bytes(content)
    path = folder / "a.gltf"
    path.write_text(json.dumps(document))
    return path


def test_gltf_strip_fan_and_mirror(tmp_path: Path) -> None:
    expected = triangles(Mesh(np.reshape(UP, (-1, 3)), np.arange(6).reshape(2, 3)))
    assert (triangles(READERS[".gltf"](gltf(tmp_path))) == expected).all()
    round_order = CORNERS[[0, 1, 3, 2]].tobytes()
    fan = {"meshes": [{"primitives": [{"attributes": {"POSITION": 0}, "mode": 6}]}]}
    halves = triangles(READERS[".gltf"](gltf(tmp_path, round_order, **fan)))
    normals = np.cross(halves[:, 1] - halves[:, 0], halves[:, 2] - halves[:, 0])
    assert normals.tolist() == [[0, 0, 1], [0, 0, 1]]
    mirrored = gltf(tmp_path, nodes=[{"mesh": 0, "scale": [-1, 1, 1]}])
    cloud = read_cloud(mirrored, num_points=9)
    assert cloud.normals is not None
    assert (cloud.normals == [0, 0, 1]).all()
    assert (in_file(cloud)[:, 0] <= 0).all()


def test_gltf_strides_and_normalized_numbers(tmp_path: Path) -> None:
    # Corners of 16 bits, 8 bytes apart, 2 bytes from the start: what quantisation writes.
    table = np.zeros((4, 4), "<u2")
    table[:, 1:] = CORNERS * 65535
    accessor = {"bufferView": 0, "componentType": 5123, "count": 4, "type": "VEC3"}
    path = gltf(
        tmp_path,
        table.tobytes(),
        accessors=[{**accessor, "byteOffset": 2, "normalized": True}],
        bufferViews=[{"buffer": 0, "byteLength": 32, "byteStride": 8}],
        extensionsRequired=["KHR_mesh_quantization"],
    )
    expected = triangles(Mesh(np.reshape(UP, (-1, 3)), np.arange(6).reshape(2, 3)))
    assert (triangles(READERS[".gltf"](path)) == expected).all()


TRIANGLE_LIST = {"attributes": {"POSITION": 0}, "indices": 1}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"asset": {"version": "1.0"}}, "is glTF 1.0, which is not supported, only 2"),
        ({"extensionsRequired": ["EXT_meshopt_compression"]}, "requires EXT_meshopt_co"),
        ({"nodes": [{"mesh": 0, "children": [0]}], "scenes": [{"nodes": [0]}]}, "node 0 is placed"),
        ({"nodes": []}, "its scene has no triangles"),
        ({"nodes": [{"mesh": 3}]}, r"is not a valid glTF file \(an index points to nothing"),
        ({"meshes": [{}]}, r"is not a valid glTF file \('primitives' is missing"),
        ({"buffers": [{"uri": "gone.bin", "byteLength": 48}]}, "in 'gone.bin', which is not a fil"),
        ({"buffers": [{"uri": "/dev/zero", "byteLength": 48}]}, "in '/dev/zero', which is not a "),
        ({"buffers": [{"byteLength": 48}]}, "promises 48 bytes of buffer 0, the file holds 0"),
        ({"buffers": [{"uri": "data:,abc", "byteLength": 48}]}, "is not a valid glTF file"),
        ({"accessors": [{"componentType": 5126, "count": 4, "type": "VEC3"}]}, "has no numbers"),
        ({"accessors": [{"bufferView": 0, "componentType": 5126, "count": 10**12,
                         "type": "VEC3"}]}, "promises 12000000000000 bytes of accessor 0, the fil"),
        ({"accessors": [{"bufferView": 0, "componentType": 5126, "count": 4,
                         "type": "SCALAR"}]}, "accessor 0 has 4 rows of SCALAR"),
        ({"meshes": [{"primitives": [TRIANGLE_LIST]}],
          "accessors": [{"bufferView": 0, "componentType": 5126, "count": 4, "type": "VEC3"},
                        {"bufferView": 0, "componentType": 5121, "count": 48, "type": "SCALAR"}]},
         "a triangle names vertex 128 of 4"),
        ({"meshes": [{"primitives": [{"attributes": {"POSITION": 0}}]}]}, "4 corners make no tri"),
        ({"nodes": [{"mesh": 0, "translation": [1e999, 0, 0]}]}, "2 of 2 triangles .* not finite"),
    ],
)  # fmt: skip
def test_gltf_errors(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(CloudFileError, match=f"^a.gltf: .*{words}"):
        read_cloud(gltf(tmp_path, **changes))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"hello", "has no readable glTF description"),
        (b"[1]", "is JSON but not a glTF file"),
        (b"[" * 100_000, "has no readable glTF description"),
        (b"glTF\2\0\0\0", "is too short for a GLB file"),
        (
            b"glTF" + struct.pack("<III4s", 2, 99, 8, b"JSON"),
            "promises 99 bytes, the file ho",
        ),
        (b"glTF" + struct.pack("<III4s", 2, 20, 8, b"JSON"), "promises 8 bytes of chunk b'JSON'"),
        (b"glTF" + struct.pack("<III4s", 2, 20, 0, b"BIN\0"), "has no readable glTF description"),
    ],
)
def test_glb_errors(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "a.glb").write_bytes(content)
    with pytest.raises(CloudFileError, match=f"^a.glb: .*{words}"):
        read_cloud(tmp_path / "a.glb")


def test_gltf_that_places_one_mesh_too_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ea_pointcloud.io.gltf.LARGEST", 99)
    path = gltf(tmp_path, nodes=[{"mesh": 0}] * 25)
    with pytest.raises(CloudFileError, match="its nodes place more than 99 vertices"):
        read_cloud(path)


# --- sampling


@pytest.mark.parametrize("suffix", [".off", ".obj", ".ply", ".stl", ".glb"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_points_are_uniform_on_two_triangles(tmp_path: Path, suffix: str, seed: int) -> None:
    # Triangles of area 1 and 3 in the plane z=0, one left and one right of x=0.
    vertices = np.array([[0, 0, 0], [-1, 0, 0], [0, 2, 0], [3, 0, 0]], float)
    faces = np.array([[0, 2, 1], [0, 3, 2]])
    path = tmp_path / f"a{suffix}"
    if suffix == ".glb":
        path.write_bytes(trimesh.Trimesh(vertices, faces).export(file_type="glb"))
    else:
        write_mesh(path, vertices, faces)
    xyz = in_file(read_cloud(path, num_points=8000, seed=seed))
    # Each triangle in 16 of equal area, by its barycentric coordinates u and v.
    right = xyz[:, 0] > 0
    u = np.abs(xyz[:, 0]) / np.where(right, 3, 1)
    v = xyz[:, 1] / 2
    i, j = np.floor(u * 4), np.floor(v * 4)
    upper = (u * 4 - i) + (v * 4 - j) > 1
    cell = ((right * 4 + i) * 4 + j) * 2 + upper
    _, counts = np.unique(cell, return_counts=True)
    assert len(counts) == 32
    expected = 8000 / 4 / 16 * np.where(np.arange(32) < 16, 1, 3)
    # The 0.999 quantile of chi-square with 31 degrees of freedom.
    assert ((counts - expected) ** 2 / expected).sum() < 61.1
