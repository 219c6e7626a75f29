"""Files as users have them, and their neighbours in other formats; the right value is beside each.

``tests/cases`` holds one small file of each kind, written by hand.
"""

import gzip
import json
import logging
import os
import struct
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ea_pointcloud.io import Cloud, CloudFileError, arrays, read_cloud, write_cloud
from ea_pointcloud.io import cloud as clouds
from ea_pointcloud.io import read as reading

CASES = Path(__file__).parent / "cases"
CORNER = [[0, 0, 0], [1, 0, 0], [0, 1, 0]]
L_SHAPE = [[0, 0, 0], [2, 0, 0], [2, 1, 0], [1, 1, 0], [1, 2, 0], [0, 2, 0]]


def put(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def in_file(cloud: Cloud) -> list[list[float]]:
    return (cloud.xyz.astype(np.float64) + cloud.center).round(6).tolist()


@pytest.fixture(autouse=True)
def _nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clouds, "_said", set())


# --- the 25 cases


RGB = [[1, 0, 0], [0, 1, 0], [0, 0, 1]]


@pytest.mark.parametrize(
    ("name", "xyz", "parts"),
    [
        ("txt_x_y_z_intensity_r_g_b.txt", CORNER, {"colors": RGB, "intensity": [12, 40, 99]}),
        ("xyz_x_y_z_r_g_b_a.xyz", CORNER,
         {"colors": np.array([[117, 73, 49], [91, 87, 74], [1, 2, 3]]) / 255}),
        ("xyz_count_first.xyz", CORNER, {}),
        ("csv_16_bit_colours.csv", CORNER[:2], {"colors": [[1, 0, 0], [0, 65280 / 65535, 0]]}),
        ("pcd_old_pcl_4096_zero_bytes.pcd", CORNER, {}),
        ("obj_points_with_colours.obj", CORNER, {"colors": RGB}),
        ("ply_diffuse_red.ply", CORNER[:1], {"colors": [[1, 0, 0]]}),
        ("ply_cr_only_binary.ply", CORNER, {}),
        ("ply_one_line_too_many.ply", CORNER[:1], {}),
        ("ply_float_field_named_scalar.ply", CORNER[:1], {}),
        ("npy_structured_x_y_z.npy", CORNER[:2], {}),
        ("h5_group_X_Y_Z.h5", [[1, 0, 0], [0, 1, 0], [0, 0, 1]], {}),
        ("txt_modelnet40_normal_1_1_1.txt", [[i, i * i, -i] for i in range(4)],
         {"normals": [[0, 0, 1], [0, 1, 0], [-1, 0, 0], [0, 0, 0]]}),
    ],
)  # fmt: skip
def test_clouds(name: str, xyz: list, parts: dict[str, Any]) -> None:
    cloud = read_cloud(CASES / name)
    assert in_file(cloud) == xyz
    for part in ("normals", "colors", "labels", "intensity"):
        found = getattr(cloud, part)
        assert (found is None) == (part not in parts), part
        if part in parts:
            np.testing.assert_allclose(found, parts[part], atol=1e-6)


@pytest.mark.parametrize(
    ("name", "triangles"),
    [
        ("obj_utf16.obj", [CORNER]),
        ("off_faces_over_lines.off", [CORNER]),
        ("ply_tristrips.ply", [CORNER, [[1, 0, 0], [1, 1, 0], [0, 1, 0]]]),
        ("gltf_sparse.gltf", [[[0, 0, 0], [1, 0, 0], [0, 5, 0]]]),
    ],
)
def test_meshes(name: str, triangles: list) -> None:
    mesh = reading._READERS[Path(name).suffix](CASES / name, reading.Options())
    assert mesh.vertices[mesh.faces].tolist() == triangles


def check_l_shape(path: Path) -> None:
    mesh = reading._READERS[path.suffix](path, reading.Options())
    a, b, c = np.moveaxis(mesh.vertices[mesh.faces], 1, 0)
    assert np.cross(b - a, c - a)[:, 2].min() > 0
    assert np.cross(b - a, c - a)[:, 2].sum() / 2 == pytest.approx(3)
    cloud = read_cloud(path, num_points=500)
    assert not (np.array(in_file(cloud))[:, :2] > 1 + 1e-6).all(1).any()
    assert cloud.normals is not None
    assert (cloud.normals == [0, 0, 1]).all()


@pytest.mark.parametrize("name", ["off_concave_L.off", "off_concave_L_bad_start.off"])
def test_concave_polygon(name: str) -> None:
    check_l_shape(CASES / name)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("csv_easting_northing.csv", "no columns are named x y z, only Easting Northing Elevation;"
         " .*--columns Easting=x,Northing=y,Elevation=z"),
        ("off_binary.off", "is binary OFF, which is not supported"),
        ("npy_channels_first_3xN.npy", "3 rows of 8 unnamed columns, as if transposed; save one"),
        ("npy_features_512.npy", "512 unnamed columns, more than a cloud has"),
        ("glb_version_1.glb", "is glTF 1"),
    ],
)  # fmt: skip
def test_refused_by_name(name: str, words: str) -> None:
    with pytest.raises(CloudFileError, match=f"^{name}: .*{words}"):
        read_cloud(CASES / name)


def test_instances_of_a_mesh() -> None:
    path = CASES / "gltf_gpu_instancing_required.gltf"
    moves = json.loads(path.read_text())["accessors"][2]["count"]
    mesh = reading._READERS[".gltf"](path, reading.Options())
    assert len(mesh.faces) == moves


def test_what_was_guessed_or_left_out_is_said_once(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    for name in ("a.xyz", "b.xyz"):
        put(tmp_path, name, (CASES / "xyz_x_y_z_r_g_b_a.xyz").read_bytes())
        read_cloud(tmp_path / name)
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(said) == 1
    assert said[0].startswith("a.xyz: 7 columns without names are taken as x y z r g b alpha; ")
    read_cloud(CASES / "txt_modelnet40_normal_1_1_1.txt")
    assert caplog.messages[-1].endswith("1 normals are missing (not finite or 1,1,1) and are set "
                                        "to zero")  # fmt: skip


# --- roles of columns without names


UNIT = ["0 0 1", "0.6 0 -0.8", "0 1 0", "0 -1 0"]
BYTES = ["255 0 0", "0 255 0", "0 0 255", "90 80 100"]
FRACTIONS = ["1 0 0", "0 0.5 0", "0.2 0.3 0.4", "0 0 1"]
WIDE = ["65535 0 0", "0 700 0", "0 0 9", "1 1 1"]
MARKS = ["12", "40", "99", "200"]
LABELS = ["3", "0", "1", "7"]
ALPHA = ["255"] * 4
LEVELS = ["0.5", "0.25", "0.125", "1"]


@pytest.mark.parametrize(
    ("columns", "roles"),
    [
        ([UNIT], "normals"),
        ([BYTES], "colors"),
        ([FRACTIONS], "colors"),
        ([WIDE], "colors"),
        ([MARKS], "intensity"),
        ([LABELS], "intensity"),  # a whole number alone is no label
        ([LEVELS], "intensity"),
        ([UNIT, LABELS], "normals labels"),
        ([UNIT, LEVELS], "normals column_7"),
        ([BYTES, LABELS], "colors labels"),
        ([BYTES, ALPHA], "colors alpha"),
        ([BYTES, LEVELS], "colors intensity"),
        ([FRACTIONS, ["1"] * 4], "colors alpha"),
        ([MARKS, BYTES], "intensity colors"),
        ([LEVELS, BYTES], "intensity colors"),
        ([MARKS, BYTES, LABELS], "intensity colors labels"),
        ([BYTES, ALPHA, LABELS], "colors alpha labels"),
        ([BYTES, UNIT], "colors normals"),
        ([UNIT, BYTES], "normals colors"),
        ([UNIT, FRACTIONS], "normals colors"),
        ([BYTES, UNIT, LABELS], "colors normals labels"),
        ([MARKS, MARKS], "intensity column_5"),
        ([BYTES, LEVELS, LEVELS], "colors column_7 column_8"),
        ([FRACTIONS, LEVELS], "colors intensity"),
        ([FRACTIONS, FRACTIONS], "colors column_7 column_8 column_9"),  # of S3DIS
    ],
)
@pytest.mark.parametrize("suffix", [".txt", ".xyz", ".csv", ".npy"])
def test_columns_without_names(tmp_path: Path, suffix: str, columns: list, roles: str) -> None:
    rows = ["7 8 9", "1 2 3", "4 5 6", "4 4 4"]
    lines = [" ".join(parts) for parts in zip(rows, *columns, strict=True)]
    path = tmp_path / f"a{suffix}"
    if suffix == ".npy":
        np.save(path, np.array([line.split() for line in lines], float))
    else:
        path.write_text("\n".join(lines).replace(" ", "," if suffix == ".csv" else " "))
    cloud = read_cloud(path)
    found = {part for part in ("normals", "colors", "labels", "intensity")
             if getattr(cloud, part) is not None}  # fmt: skip
    assert found | set(cloud.extras) == set(roles.split())
    if "colors" in found and BYTES in columns:
        np.testing.assert_allclose(cloud.colors[0], [1, 0, 0])
    if "intensity" in found and MARKS in columns:
        assert cloud.intensity is not None
        assert cloud.intensity.tolist() == [12, 40, 99, 200]


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".h5", ".csv"])
@pytest.mark.parametrize("shape", [(3, 100), (3, 8), (2, 3, 100), (3, 512)])
def test_transposed_and_wide(tmp_path: Path, suffix: str, shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape), dtype=float).reshape(shape)
    path = tmp_path / f"a{suffix}"
    if suffix == ".npy":
        np.save(path, array)
    elif suffix == ".npz":
        np.savez(path, xyz=array)
    elif suffix == ".h5":
        with h5py.File(path, "w") as file:
            file["data"] = array
    elif len(shape) == 3:
        pytest.skip("a table has two axes")
    else:
        np.savetxt(path, array, delimiter=",")
    with pytest.raises(CloudFileError, match="transposed"):
        read_cloud(path)


def test_columns_named_by_the_caller(tmp_path: Path) -> None:
    path = put(tmp_path, "a.txt", "9 1 2 3 7\n9 4 5 6 8\n")
    cloud = read_cloud(path, columns="_,x,y,z,label")
    assert in_file(cloud) == [[1, 2, 3], [4, 5, 6]]
    assert cloud.labels is not None
    assert cloud.labels.tolist() == [7, 8]
    assert not cloud.extras
    assert read_cloud(path, columns=["t", "x", "y", "z"]).extras["t"].tolist() == [9, 9]
    np.save(tmp_path / "a.npy", np.array([[9, 1, 2, 3, 7], [9, 4, 5, 6, 8]]))
    cloud = read_cloud(tmp_path / "a.npy", columns="_,x,y,z,label")
    assert cloud.labels is not None
    table = CASES / "csv_easting_northing.csv"
    assert in_file(read_cloud(table, columns="x,y,z")) == [[0, 0, 0]]
    assert len(read_cloud(table, columns="Easting=x,northing=y,Elevation=z")) == 1
    named = CASES / "ply_diffuse_red.ply"
    assert read_cloud(named, columns="diffuse_red=label,x=x").labels is not None
    for wrong in ("x,y,y", "x=x,y", "_,_", ""):
        with pytest.raises(ValueError, match="columns must be different roles in order"):
            read_cloud(path, columns=wrong)
    with pytest.raises(CloudFileError, match=r"gives 6 roles, the file has 5 columns"):
        read_cloud(path, columns="x,y,z,a,b,c")
    with pytest.raises(CloudFileError, match=r"has no column Up, only Easting Northing Elevation"):
        read_cloud(table, columns="Easting=x,Northing=y,Up=z")
    with pytest.raises(CloudFileError, match=r"\.off has no columns"):
        read_cloud(CASES / "off_concave_L.off", columns="x,y,z")


# --- text that is fine


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "X [m],Y [m],Z [m]\n1,2,3\n4,5,6\n"),
        ("a.txt", "X [m] Y(m) Z [m]\n1 2 3\n4 5 6\n"),
        ("a.txt", "1,0 2,0 3,0\n4 5,0 6,0\n"),
        ("a.txt", "1,0\t2,0\t3,0\n4,0\t5,0\t6,0\n"),
        ("a.csv", '"1,0","2,0","3,0"\n"4,0","5,0","6,0"\n'),
        ("a.csv", '"1.0";"2.0";"3.0"\n"4.0";"5.0";"6.0"\n'),
        ("a.csv", "1,2,3,\n4,5,6,\n"),
        ("a.csv", "1,2,3,,\n4,5,6,,\n"),
        ("a.csv", "sep=;\nx;y;z\n1;2;3\n4;5;6\n"),
        ("a.txt", "1|2|3\n4|5|6\n"),
        ("a.xyz", "2\n1 2 3\n4 5 6\n"),
        ("a.txt", "//X Y Z\n2\n1 2 3\n4 5 6\n"),
        ("a.csv", "2\nx,y,z\n1,2,3\n4,5,6\n"),
        ("a.xyz", "2\n1 2 3\n4 5 6\n7 8 9\n"),
        ("a.pts", "1\n1 2 3\n1\n4 5 6\n"),
        ("a.xyz", b"1 2 3\r4 5 6\r"),
        ("a.xyz", b"1 2 3\r\n4 5 6\n"),
        ("a.csv", "; x y z are metres\n1 2 3\n4 5 6\n"),
        ("a.csv", "Points:0,Points:1,Points:2\n1,2,3\n4,5,6\n"),
        ("a.txt", "x y z\n1 2 3\n4 5 6\n".encode("utf-16")),
        ("a.xyz.gz", gzip.compress(b"1 2 3\n4 5 6\n", mtime=0)),
        ("a.ply.gz", gzip.compress(
            b"ply\nformat ascii 1.0\nelement vertex 2\nproperty float x\nproperty float y\n"
            b"property float z\nend_header\n1 2 3\n4 5 6\n", mtime=0)),
        ("a.ply", "ply\nformat ascii 1.0\ncomment end_header is below\nelement vertex 2\n"
         "property float x\nproperty float y\nproperty float z\nend_header \n1 2 3\n4 5 6\n"),
        ("a.off", "2 0 0\n1 2 3\n4 5 6\n"),
        ("a.off", "OFF\n2 0 0\n1 2\n3 4 5\n6\n"),
        ("a.off", "OFF\n2\n0\n0\n1 2 3\n4 5 6\n"),
        ("a.off", "OFF 2 0 0 1 2 3 4 5 6\n"),
        ("a.obj", "# f 1 2 3\nv 0 0 0\nv 1 2 3\nv 4 5 6\np 2 -1\n"),
        ("a.pcd", b"VERSION 0.7\rFIELDS x y z\rSIZE 4 4 4\rTYPE F F F\rWIDTH 2\rHEIGHT 1\r"
         b"POINTS 2\rDATA binary\r" + struct.pack("<6f", 1, 2, 3, 4, 5, 6)),
        ("a.pcd", "# DATA binary\nFIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 1\nWIDTH 3\n"
         "HEIGHT 1\nDATA ascii\n1 2 3\nnan nan nan\n4 5 6\n7 8 9\n"),
    ],
)  # fmt: skip
def test_two_points(tmp_path: Path, name: str, content: str | bytes) -> None:
    cloud = read_cloud(put(tmp_path, name, content))
    assert in_file(cloud) == [[1, 2, 3], [4, 5, 6]]
    assert cloud.name == "a"
    assert not cloud.extras
    assert cloud.colors is cloud.normals is cloud.labels is cloud.intensity is None


def test_cells_that_are_not_needed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = "x,y,z,name,time\n1,2,3,tree,\n4,5,6,,7.5\n"
    cloud = read_cloud(put(tmp_path, "a.csv", text))
    assert in_file(cloud) == [[1, 2, 3], [4, 5, 6]]
    np.testing.assert_array_equal(cloud.extras["time"], [np.nan, 7.5])
    assert "columns of text are left out: name" in caplog.text
    with pytest.raises(CloudFileError, match="line 3: '' is not a number"):
        read_cloud(put(tmp_path, "a.csv", "x,y,z,name\n1,2,3,tree\n4,,6,tree\n"))
    with pytest.raises(CloudFileError, match=r"line 3: '0\.2;' is not a number"):
        read_cloud(put(tmp_path, "a.csv", "x,y,z,w\n1,2,3,.1\n4,5,6,0.2;\n7,8,9,.3\n"))
    with pytest.raises(CloudFileError, match="line 2: 'car' is not a number"):
        read_cloud(put(tmp_path, "a.csv", "x,y,z,label\n1,2,3,car\n"))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", "lon,lat,height\n1,2,3\n", "only lon lat height; longitude and latitude a"),
        ("a.xyz", "1 2 3\n".encode("utf-16-le"), "is UTF-16 text without a byte-order mark"),
        ("a.xyz", b"\x89PNG\r\n\0\0\1", "is not text but bytes"),
        ("a.off", "nOFF\n4\n1 0 0\n", r"OFF of other than 3 dimensions \(nOFF\), which is not"),
        ("a.xyz.gz", b"hello", "damaged or not a gzip file"),
        ("a.xyz.gz", gzip.compress(b"0" * (2**25 + 10**6), mtime=0), "decompress it first"),
        ("a\x1b[2J.csv", "x,y\x1b[31m,z\n1,2,3\n", r"^a\\x1b\[2J.csv: .*x y\\x1b\[31m z; name"),
        ("a.csv", ",".join(["column"] * 999) + "\n" + "1," * 998 + "1\n", "no columns are named"),
    ],
)  # fmt: skip
def test_refused(tmp_path: Path, name: str, content: str | bytes, words: str) -> None:
    with pytest.raises(CloudFileError, match=words) as caught:
        read_cloud(put(tmp_path, name, content))
    assert len(str(caught.value)) <= 300
    assert str(caught.value).isprintable()


# --- polygons


def as_ply(vertices: list, faces: list, storage: str) -> bytes:
    header = (
        f"ply\nformat {storage} 1.0\nelement face {len(faces)}\nproperty uchar flag\n"
        f"property list uchar float uv\nproperty list uchar ushort vertex_index\n"
        f"element vertex {len(vertices)}\nproperty float x\nproperty float y\nproperty float z\n"
        "end_header\n"
    ).encode()
    if storage == "ascii":
        rows = [f"9 2 .5 .5 {len(face)} {' '.join(map(str, face))}" for face in faces]
        rows += [" ".join(map(str, vertex)) for vertex in vertices]
        return header + "\n".join(rows).encode()
    order = "<" if "little" in storage else ">"
    for face in faces:
        header += struct.pack(f"{order}BB2fB{len(face)}H", 9, 2, 0.5, 0.5, len(face), *face)
    return header + b"".join(struct.pack(order + "3f", *vertex) for vertex in vertices)


@pytest.mark.parametrize("turned", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize(
    "storage", ["obj", "off", "ascii", "binary_little_endian", "binary_big_endian"]
)
def test_concave_polygons_of_every_format(tmp_path: Path, storage: str, turned: int) -> None:
    face = [(corner + turned) % 6 for corner in range(6)]
    if storage == "obj":
        text = "".join(f"v {x} {y} {z}\n" for x, y, z in L_SHAPE)
        path = put(tmp_path, "a.obj", f"{text}f {' '.join(str(i + 1) for i in face)}\n")
    elif storage == "off":
        text = "".join(f"{x} {y} {z}\n" for x, y, z in L_SHAPE)
        path = put(tmp_path, "a.off", f"OFF\n6 1 0\n{text}6 {' '.join(map(str, face))}\n")
    else:
        path = put(tmp_path, "a.ply", as_ply(L_SHAPE, [face], storage))
    check_l_shape(path)


@pytest.mark.parametrize("turned", range(4))
@pytest.mark.parametrize("axis", range(3))
def test_concave_quads_in_any_plane(tmp_path: Path, turned: int, axis: int) -> None:
    dart = np.array([[0, 0, 0], [2, 1, 0], [4, 0, 0], [2, 4, 0]], float)  # reflex at its second
    rolled = np.roll(dart, axis, 1)
    face = " ".join(str((corner + turned) % 4 + 1) for corner in range(4))
    text = "".join("v {} {} {}\n".format(*row) for row in rolled)
    path = put(tmp_path, "a.obj", f"{text}f {face}\n")
    mesh = reading._READERS[".obj"](path, reading.Options())
    a, b, c = np.moveaxis(mesh.vertices[mesh.faces], 1, 0)
    areas = np.cross(b - a, c - a) / 2
    np.testing.assert_allclose(areas.sum(0), np.roll([0, 0, 6], axis))
    assert np.linalg.norm(areas, axis=1).sum() == pytest.approx(6)


def test_mixed_polygons_keep_their_area(tmp_path: Path) -> None:
    # A grid whose cells alternate between one quad and two triangles.
    side = 20
    grid = np.stack(np.meshgrid(np.arange(side + 1), np.arange(side + 1)), -1).reshape(-1, 2)
    vertices = np.pad(grid, ((0, 0), (0, 1))).tolist()
    faces: list[list[int]] = []
    for cell in range(side * side):
        a = cell // side * (side + 1) + cell % side
        quad = [a, a + 1, a + side + 2, a + side + 1]
        faces += [quad] if cell % 2 else [quad[:3], [quad[0], *quad[2:]]]
    for storage in ("ascii", "binary_little_endian"):
        path = put(tmp_path, "a.ply", as_ply(vertices, faces, storage))
        mesh = reading._READERS[".ply"](path, reading.Options())
        a, b, c = np.moveaxis(mesh.vertices[mesh.faces], 1, 0)
        assert (np.cross(b - a, c - a)[:, 2] == 1).all()
        assert len(mesh.faces) == 2 * side * side


# --- arrays, HDF5, PCD


def test_structured_arrays(tmp_path: Path) -> None:
    kind = [("x", "<f4"), ("y", ">f8"), ("z", "<f4"), ("intensity", "u2"), ("ring", "u1")]
    rows = np.array([(1, 2, 3, 500, 7), (4, 5, 6, 600, 8)], kind)
    np.save(tmp_path / "a.npy", rows)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["scan"] = rows.astype([(name, code.replace(">", "<")) for name, code in kind])
    np.savez(tmp_path / "a.npz", **{name: rows[name] for name in rows.dtype.names})
    for suffix in ("npy", "npz", "h5"):
        cloud = read_cloud(tmp_path / f"a.{suffix}")
        assert in_file(cloud) == [[1, 2, 3], [4, 5, 6]]
        assert cloud.intensity is not None
        assert cloud.intensity.tolist() == [500, 600]
        assert cloud.extras["ring"].tolist() == [7, 8]
    nested = np.zeros(2, [("xyz", "f4", 3), ("rgb", "u1", 3), ("semantic", "i4")])
    np.save(tmp_path / "b.npy", nested)
    cloud = read_cloud(tmp_path / "b.npy")
    assert cloud.colors is not None
    assert cloud.labels is not None


def test_one_unnamed_array_of_an_archive(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", np.array(CORNER))
    assert in_file(read_cloud(tmp_path / "a.npz")) == CORNER
    np.savez(tmp_path / "a.npz", np.array(CORNER), np.zeros(3))
    with pytest.raises(CloudFileError, match=r"has no array xyz, .*only arr_0 \(3, 3\) arr_1"):
        read_cloud(tmp_path / "a.npz")


def test_groups_of_hdf5(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["scan/points"] = np.array(CORNER)
        file["scan/seg"] = np.array([1, 2, 3])
        file["about/version"] = 3
    cloud = read_cloud(tmp_path / "a.h5")
    assert in_file(cloud) == CORNER
    assert cloud.labels is not None
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file["other/points"] = np.array(CORNER)
    with pytest.raises(CloudFileError, match="its groups other scan hold a cloud each"):
        read_cloud(tmp_path / "a.h5")
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["some/where/a"] = np.zeros(7)
    with pytest.raises(CloudFileError, match=r"only some/where/a \(7,\)"):
        read_cloud(tmp_path / "b.h5")


def test_nothing_is_read_from_other_files(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["xyz"] = np.array(CORNER, "f4")
    put(tmp_path, "raw.bin", np.array(CORNER, "<f4").tobytes())
    layout = h5py.VirtualLayout((3, 3), "f4")
    layout[...] = h5py.VirtualSource(str(tmp_path / "secret.h5"), "xyz", (3, 3))
    for kind in ("link", "storage", "virtual"):
        with h5py.File(tmp_path / "a.h5", "w") as file:
            if kind == "link":
                file["xyz"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "xyz")
            elif kind == "storage":
                file.create_dataset("xyz", (3, 3), "<f4", external=str(tmp_path / "raw.bin"))
            else:
                file.create_virtual_dataset("xyz", layout)
        with pytest.raises(CloudFileError, match=r"a.h5: 'xyz' is in another file, which is not"):
            read_cloud(tmp_path / "a.h5")
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "link.bin").symlink_to(tmp_path / "raw.bin")
    secret = tmp_path / "raw.bin"
    for uri in ("../raw.bin", "%2e%2e/raw.bin", str(secret), "link.bin", "/proc/self/environ"):
        document = {"asset": {"version": "2.0"}, "buffers": [{"uri": uri, "byteLength": 36}]}
        with pytest.raises(CloudFileError, match="which is not a file beside it"):
            read_cloud(put(inner, "a.gltf", json.dumps(document)))


def test_missing_returns_of_a_scanner(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    header = "FIELDS x y z normal_x normal_y normal_z\nSIZE 4 4 4 4 4 4\nTYPE F F F F F F\n"
    rows = "1 2 3 0 0 1\nnan nan nan nan nan nan\n4 5 6 nan nan nan\n7 8 9 0 1 0\n"
    path = put(tmp_path, "a.pcd", f"{header}WIDTH 2\nHEIGHT 2\nPOINTS 4\nDATA ascii\n{rows}")
    cloud = read_cloud(path)
    assert in_file(cloud) == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    assert cloud.normals is not None
    assert cloud.normals.tolist() == [[0, 0, 1], [0, 0, 0], [0, 1, 0]]
    assert "1 of 4 points are not finite and are left out" in caplog.text
    with pytest.raises(CloudFileError, match="1 of 4 points have a coordinate that is not finite"):
        read_cloud(path, drop_invalid=False)


def test_an_archive_that_unpacks_to_too_much(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", xyz=np.zeros((15_000_000, 3)))
    with pytest.raises(
        CloudFileError, match=r"unpacks to 360,000,... bytes, too many for its size"
    ):
        read_cloud(tmp_path / "a.npz")


def test_an_index_of_more_than_64_bits(tmp_path: Path) -> None:
    path = put(tmp_path, "a.obj", f"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 {10**30}\n")
    with pytest.raises(CloudFileError, match="by a number of more than 64 bits"):
        read_cloud(path)


@pytest.mark.parametrize(
    "names", [("r", "g", "b"), ("diffuse_r", "diffuse_g", "diffuse_b"), ("Red", "Green", "Blue")]
)
@pytest.mark.parametrize("label", ["label", "scalar_Label", "semantic_label", "class_id"])
def test_names_in_ply(tmp_path: Path, names: tuple[str, ...], label: str) -> None:
    fields = "".join(f"property float {axis}\n" for axis in ("x", "y", "z", "n_x", "n_y", "n_z"))
    fields += "".join(f"property uchar {name}\n" for name in names)
    text = f"ply\nformat ascii 1.0\nelement vertex 1\n{fields}property int {label}\nend_header\n"
    cloud = read_cloud(put(tmp_path, "a.ply", f"{text}1 2 3 0 0 1 255 0 51 4\n"))
    assert cloud.labels is not None
    assert cloud.labels.tolist() == [4]
    np.testing.assert_allclose(cloud.colors, [[1, 0, 0.2]])
    np.testing.assert_allclose(cloud.normals, [[0, 0, 1]])


def test_draco(tmp_path: Path) -> None:
    draco = pytest.importorskip("DracoPy")
    corners = np.array(L_SHAPE, np.float32)
    faces = np.array([[0, 1, 3], [1, 2, 3], [0, 3, 5], [3, 4, 5]], np.uint32)
    content = draco.encode(corners, faces)
    compressed = {"bufferView": 0, "attributes": {"POSITION": 0}}
    extensions = {"KHR_draco_mesh_compression": compressed}
    primitive = {"attributes": {"POSITION": 0}, "extensions": extensions}
    document = {
        "asset": {"version": "2.0"},
        "extensionsRequired": ["KHR_draco_mesh_compression"],
        "nodes": [{"mesh": 0, "translation": [0, 0, 5]}],
        "meshes": [{"primitives": [primitive]}],
        "accessors": [{"componentType": 5126, "count": 6, "type": "VEC3"}],
        "bufferViews": [{"buffer": 0, "byteLength": len(content)}],
        "buffers": [{"byteLength": len(content), "uri": "a.bin"}],
    }
    put(tmp_path, "a.bin", content)
    cloud = read_cloud(put(tmp_path, "a.gltf", json.dumps(document)), num_points=500)
    xyz = np.array(in_file(cloud))
    np.testing.assert_allclose(xyz[:, 2], 5, atol=1e-3)
    assert not (xyz[:, :2] > 1 + 1e-2).all(1).any()
    put(tmp_path, "a.bin", content[:20] + b"\xff" * (len(content) - 20))
    with pytest.raises(CloudFileError, match=r"^a.gltf: "):
        read_cloud(tmp_path / "a.gltf")


def test_an_array_that_shrinks_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.zeros((50_000, 3)))
    promised = path.stat().st_size
    os.truncate(path, promised // 2)
    monkeypatch.setattr(arrays, "_array", partial(_array_of, arrays._array, promised))
    with pytest.raises(CloudFileError, match=r"a.npy: damaged or not a numpy file \(it ends after"):
        read_cloud(path)


def _array_of(make: Any, size: int, open_file: Any, _: int) -> Any:
    return make(open_file, size)


def test_ushort_colours_that_fit_a_byte(tmp_path: Path) -> None:
    for largest in (255, 65535):
        colors = np.array([[largest, 0, 0], [0, 51, 0]], np.uint16)
        np.savez(tmp_path / "a.npz", xyz=np.eye(3)[:2], colors=colors)
        np.testing.assert_allclose(read_cloud(tmp_path / "a.npz").colors, colors / largest)


@pytest.mark.parametrize(
    ("at", "value", "words"),
    [(0, 1, "point by point"), (38, 4, "in version 4")],  # compressor; version of the first item
)
def test_laz_that_is_not_supported(tmp_path: Path, at: int, value: int, words: str) -> None:
    write_cloud(tmp_path / "a.laz", Cloud(np.eye(3, dtype=np.float32), np.zeros(3)))
    content = bytearray((tmp_path / "a.laz").read_bytes())
    record = content.index(b"laszip encoded") - 2 + 54
    struct.pack_into("<H", content, record + at, value)
    with pytest.raises(CloudFileError, match=f"is LAZ compressed {words}, which is not supported"):
        read_cloud(put(tmp_path, "a.laz", bytes(content)))
