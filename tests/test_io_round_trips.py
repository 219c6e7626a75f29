"""Every writer that is installed, every format it writes, every attribute: read back equal."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ea_pointcloud.io import Cloud, read_cloud, write_cloud

open3d = pytest.importorskip("open3d")
laspy = pytest.importorskip("laspy")
meshio = pytest.importorskip("meshio")
plyfile = pytest.importorskip("plyfile")
trimesh = pytest.importorskip("trimesh")

RNG = np.random.default_rng(3)
XYZ = RNG.normal(size=(50, 3)).astype(np.float32)
NORMALS = (XYZ / np.linalg.norm(XYZ, axis=1, keepdims=True)).astype(np.float32)
BYTES = RNG.integers(0, 256, (50, 3)).astype(np.uint8)
LABELS = RNG.integers(0, 40, 50)
INTENSITY = RNG.integers(0, 4000, 50).astype(np.float32)
TIME = RNG.uniform(1e8, 2e8, 50)
CLOUD = Cloud(
    xyz=XYZ - (XYZ.min(0) / 2 + XYZ.max(0) / 2),
    center=(XYZ.min(0) / 2 + XYZ.max(0) / 2).astype(np.float64),
    normals=NORMALS,
    colors=(BYTES / 255).astype(np.float32),
    labels=LABELS,
    confidence=RNG.random(50, np.float32),
    intensity=INTENSITY,
    extras={"gps_time": TIME, "ring": RNG.integers(0, 64, 50).astype(np.uint8)},
    name="a",
)
ALL = ("normals", "colors", "labels", "intensity", "gps_time")
Writer = Callable[[Path], Any]


def columns(*parts: str) -> dict[str, np.ndarray]:
    """Named columns as most programs name them."""
    named = dict(zip("xyz", XYZ.T, strict=True))
    if "normals" in parts:
        named |= dict(zip(("nx", "ny", "nz"), NORMALS.T, strict=True))
    if "colors" in parts:
        named |= dict(zip(("red", "green", "blue"), BYTES.T, strict=True))
    given = {"labels": ("label", LABELS.astype(np.int32)), "intensity": ("intensity", INTENSITY)}
    given["gps_time"] = ("gps_time", TIME)
    return named | dict(given[part] for part in given if part in parts)


def records(named: dict[str, np.ndarray]) -> np.ndarray:
    rows = np.empty(50, [(name, values.dtype) for name, values in named.items()])
    for name, values in named.items():
        rows[name] = values
    return rows


def by_plyfile(path: Path, *, text: bool, order: str) -> None:
    element = plyfile.PlyElement.describe(records(columns(*ALL)), "vertex")
    plyfile.PlyData([element], text=text, byte_order=order).write(str(path))


def by_meshio(path: Path, *, binary: bool) -> None:
    named = columns(*ALL)
    data = {name: values for name, values in named.items() if name not in "xyz"}
    mesh = meshio.Mesh(XYZ, [("vertex", np.arange(50)[:, None])], point_data=data)
    meshio.write(path, mesh, file_format="ply", binary=binary)


def by_open3d(path: Path, **how: bool) -> None:
    cloud = open3d.t.geometry.PointCloud(open3d.core.Tensor(XYZ))
    cloud.point.normals = open3d.core.Tensor(NORMALS)
    cloud.point.colors = open3d.core.Tensor(BYTES)
    cloud.point.intensity = open3d.core.Tensor(INTENSITY[:, None])
    cloud.point.label = open3d.core.Tensor(LABELS[:, None].astype(np.int32))
    assert open3d.t.io.write_point_cloud(str(path), cloud, **how)


def by_trimesh(path: Path) -> None:
    colors = np.concatenate([BYTES, np.full((50, 1), 255, np.uint8)], 1)
    content = trimesh.PointCloud(XYZ, colors).export(file_type=path.suffix[1:])
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def by_laspy(path: Path) -> None:
    header = laspy.LasHeader(point_format=7, version="1.4")
    header.scales, header.offsets = np.full(3, 1e-8), np.zeros(3)
    header.add_extra_dims(
        [laspy.ExtraBytesParams(name, "float32") for name in ("NormalX", "NormalY", "NormalZ")]
    )
    las = laspy.LasData(header)
    las.xyz = XYZ
    las.red, las.green, las.blue = BYTES.T.astype(np.uint16) * 257
    las.NormalX, las.NormalY, las.NormalZ = NORMALS.T
    las.intensity, las.classification, las.gps_time = INTENSITY, LABELS, TIME
    las.write(path)


def by_numpy_text(path: Path, delimiter: str) -> None:
    named = columns(*ALL)
    table = np.stack(list(named.values()), 1)
    np.savetxt(path, table, "%.17g", delimiter, header=delimiter.join(named), comments="")


def arrays(path: Path) -> None:
    named = {"xyz": XYZ, "normals": NORMALS, "colors": BYTES, "labels": LABELS}
    named |= {"intensity": INTENSITY, "gps_time": TIME}
    if path.suffix == ".npz":
        np.savez(path, **named)  # pyright: ignore[reportArgumentType]
        return
    with h5py.File(path, "w") as file:
        for name, values in named.items():
            file[name] = values


WRITERS: list[tuple[str, str, Writer, tuple[str, ...]]] = [
    ("plyfile", ".ply", lambda path: by_plyfile(path, text=True, order="="), ALL),
    ("plyfile-little", ".ply", lambda path: by_plyfile(path, text=False, order="<"), ALL),
    ("plyfile-big", ".ply", lambda path: by_plyfile(path, text=False, order=">"), ALL),
    ("meshio", ".ply", lambda path: by_meshio(path, binary=True), ALL),
    ("meshio-text", ".ply", lambda path: by_meshio(path, binary=False), ALL),
    ("open3d", ".ply", by_open3d, ("normals", "colors", "labels", "intensity")),
    ("open3d", ".pcd", by_open3d, ("normals", "colors", "labels", "intensity")),
    ("open3d-text", ".pcd", lambda path: by_open3d(path, write_ascii=True), ALL[:4]),
    ("open3d-compressed", ".pcd", lambda path: by_open3d(path, compressed=True), ALL[:4]),
    ("trimesh", ".ply", by_trimesh, ("colors",)),
    ("trimesh", ".xyz", by_trimesh, ("colors",)),
    ("trimesh", ".glb", by_trimesh, ("colors",)),
    ("trimesh", ".obj", by_trimesh, ("colors",)),
    ("laspy", ".las", by_laspy, ALL),
    ("laspy", ".laz", by_laspy, ALL),
    ("numpy", ".txt", lambda path: by_numpy_text(path, " "), ALL),
    ("numpy", ".csv", lambda path: by_numpy_text(path, ","), ALL),
    ("numpy-semicolons", ".csv", lambda path: by_numpy_text(path, ";"), ALL),
    ("numpy-rows", ".npy", lambda path: np.save(path, records(columns(*ALL))), ALL),
    ("numpy", ".npz", arrays, ALL),
    ("h5py", ".h5", arrays, ALL),
]


@pytest.mark.parametrize(
    ("suffix", "write", "parts"),
    [writer[1:] for writer in WRITERS],
    ids=[f"{name}{suffix}" for name, suffix, _, _ in WRITERS],
)
def test_what_others_write(
    tmp_path: Path, suffix: str, write: Writer, parts: tuple[str, ...]
) -> None:
    write(tmp_path / f"a{suffix}")
    cloud = read_cloud(tmp_path / f"a{suffix}")
    np.testing.assert_allclose(cloud.xyz + cloud.center, XYZ, atol=1e-6)
    expected = {"normals": NORMALS, "colors": BYTES / 255, "labels": LABELS}
    expected |= {"intensity": INTENSITY, "gps_time": TIME}
    for part, values in expected.items():
        found = cloud.extras.get(part) if part == "gps_time" else getattr(cloud, part)
        assert (found is not None) == (part in parts), part
        if found is not None:
            np.testing.assert_allclose(found, values, rtol=1e-15, atol=2e-6)


@pytest.mark.parametrize("suffix", [".ply", ".pcd", ".txt", ".csv", ".npz", ".h5", ".las", ".laz"])
@pytest.mark.parametrize("part", ["normals", "colors", "labels", "confidence", "intensity", "all"])
def test_what_we_write(tmp_path: Path, suffix: str, part: str) -> None:
    parts = ("normals", "colors", "labels", "confidence", "intensity")
    nothing: dict[str, Any] = {name: None for name in parts if part not in (name, "all")}
    cloud = dataclasses.replace(CLOUD, **nothing, **({} if part == "all" else {"extras": {}}))
    write_cloud(tmp_path / f"a{suffix}", cloud)
    again = read_cloud(tmp_path / f"a{suffix}")
    for name in ("xyz", "center", *parts):
        found, expected = getattr(again, name), getattr(cloud, name)
        assert (found is None) == (expected is None), name
        if expected is not None:
            np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)
    assert set(again.extras) == set(cloud.extras)
    for name, values in cloud.extras.items():
        assert (again.extras[name] == values).all()
    assert again.name == cloud.name


def test_extras_that_need_care(tmp_path: Path) -> None:
    extras = {
        "scan angle [deg]": np.linspace(-90, 90, 50),
        "flag": np.arange(50) % 2 == 0,
        "large": np.arange(50) + 2**40,
        "half": np.linspace(0, 1, 50).astype(np.float16),
        "return_number": np.full(50, 9000),  # more than the bits that LAS has for it
    }
    cloud = dataclasses.replace(CLOUD, extras=extras, intensity=INTENSITY + np.float32(0.25))
    for suffix in (".ply", ".pcd", ".csv", ".npz", ".h5", ".las"):
        write_cloud(tmp_path / f"a{suffix}", cloud)
        again = read_cloud(tmp_path / f"a{suffix}")
        assert again.intensity is not None
        assert (again.intensity == cloud.intensity).all()
        for name, values in extras.items():
            found = again.extras[name.replace(" [", "_").replace("]", "_").replace(" ", "_")]
            assert (found == values).all(), (suffix, name)
    for name in ("label", "r"):  # which mean something else in a file
        extra = dataclasses.replace(CLOUD, labels=None, extras={name: TIME})
        write_cloud(tmp_path / f"{name}.csv", extra)
        again = read_cloud(tmp_path / f"{name}.csv")
        assert again.labels is None
        assert (again.extras[f"{name}_"] == TIME).all()
    bare = Cloud(CLOUD.xyz, CLOUD.center, extras={"time": TIME})
    with pytest.raises(ValueError, match=r"\.xyz holds coordinates only and the cloud has extras"):
        write_cloud(tmp_path / "b.xyz", bare)
    with pytest.raises(ValueError, match=r"extras\['a'\] must hold numbers of shape \(50,\)"):
        dataclasses.replace(CLOUD, extras={"a": np.zeros(49)})


def test_pts_keeps_intensity_and_colours(tmp_path: Path) -> None:
    kept = Cloud(CLOUD.xyz, CLOUD.center, colors=CLOUD.colors, intensity=INTENSITY)
    write_cloud(tmp_path / "a.pts", kept)
    again = read_cloud(tmp_path / "a.pts")
    np.testing.assert_allclose(again.colors, kept.colors, atol=1e-6)
    assert again.intensity is not None
    assert (again.intensity == INTENSITY).all()


@pytest.mark.parametrize("suffix", [".ply", ".npz", ".csv"])
def test_names_of_labels_and_the_up_axis_come_back(suffix: str, tmp_path: Path) -> None:
    names = {0: "Chair/seat", 3: "Chair/front leg", 200: "Größe/=1+1"}
    cloud = Cloud(
        np.eye(3, dtype=np.float32), np.zeros(3), labels=np.array([3, 0, 200]), label_names=names,
        up="x",
    )  # fmt: skip
    write_cloud(tmp_path / f"a{suffix}", cloud)
    again = read_cloud(tmp_path / f"a{suffix}")
    assert again.labels is not None
    assert again.labels.tolist() == [3, 0, 200]
    if suffix == ".csv":
        text = (tmp_path / "a.csv").read_text(encoding="utf-8").splitlines()
        assert text[0] == "x,y,z,label,part"
        assert text[1].endswith(",3,Chair/front leg")
        assert again.label_names == names | {200: "Größe/_1_1"}  # no formula of a spreadsheet
        assert again.up is None
    else:
        assert again.label_names == names
        assert again.up == "x"
    if suffix == ".npz":
        stored = np.load(tmp_path / "a.npz")
        assert stored["labels"].dtype == np.uint8
        np.savez(tmp_path / "b.npz", **dict(stored), more=np.ones(3))
        assert list(read_cloud(tmp_path / "b.npz").extras) == ["more"]
    plain = dataclasses.replace(cloud, labels=np.array([-1, 0, 127]), label_names={}, up=None)
    write_cloud(tmp_path / f"c{suffix}", plain)
    assert read_cloud(tmp_path / f"c{suffix}").label_names == {}
    if suffix == ".npz":
        assert np.load(tmp_path / "c.npz")["labels"].dtype == np.int8
