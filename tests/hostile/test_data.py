"""Clouds and data sets that refer to files elsewhere, and files larger than they look."""

import json
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

from ea_pointcloud.datasets._files import open_h5, plain_name
from ea_pointcloud.datasets.layouts import resampled_files
from ea_pointcloud.datasets.verify import verify_prepared
from ea_pointcloud.inference.batch import Failed, attempt
from ea_pointcloud.io import CloudFileError, guard, read_cloud

XYZ = np.random.default_rng(0).normal(size=(20, 3)).astype("<f4")


@pytest.fixture(autouse=True, scope="module")
def _stop() -> Iterator[None]:
    yield
    guard.stop()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder beside a secret, ``secret.bin`` and ``secret.h5``."""
    (tmp_path / "secret.bin").write_bytes(XYZ.tobytes())
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["xyz"] = XYZ
    (tmp_path / "clouds").mkdir()
    return tmp_path / "clouds"


def gltf(path: Path, uri: str) -> Path:
    document = {
        "asset": {"version": "2.0"},
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}, "mode": 0}]}],
        "accessors": [{"bufferView": 0, "componentType": 5126, "count": 20, "type": "VEC3"}],
        "bufferViews": [{"buffer": 0, "byteLength": XYZ.nbytes}],
        "buffers": [{"byteLength": XYZ.nbytes, "uri": uri}],
    }
    path.write_text(json.dumps(document))
    return path


def test_gltf_reads_beside_itself_alone(folder: Path) -> None:
    (folder / "own.bin").write_bytes(XYZ.tobytes())
    (folder / "link.bin").symlink_to(folder.parent / "secret.bin")
    (folder / "pipe.bin").mkdir()
    secret = folder.parent / "secret.bin"
    for uri in (
        *(str(secret), f"file://{secret}", "../secret.bin", "%2e%2e/secret.bin", "..%2Fsecret.bin"),
        *("x/../../secret.bin", "link.bin", "pipe.bin", "/proc/self/environ", "/dev/zero"),
        *("own.bin%00", "\x1b[2J", "a" * 5000),
    ):
        with pytest.raises(CloudFileError) as error:
            read_cloud(gltf(folder / "a.gltf", uri))
        assert len(str(error.value)) <= 300
        assert str(error.value).isprintable()
    assert len(read_cloud(gltf(folder / "a.gltf", "own.bin")).xyz) == 20
    assert len(read_cloud(gltf(folder / "a.gltf", "./%6fwn.bin")).xyz) == 20


def elsewhere(path: Path, kind: str) -> None:
    """An HDF5 file whose ``xyz`` is in another file."""
    secret = path.parent.parent / "secret.h5"
    with h5py.File(path, "w") as file:
        if kind == "link":
            file["xyz"] = h5py.ExternalLink(str(secret), "xyz")
        elif kind == "soft link":  # found before what it leads through, and below what is searched
            file["xyz"] = h5py.SoftLink("/" + "z/" * 12 + "away/xyz")
            file["z/" * 12 + "away"] = h5py.ExternalLink(str(secret), "/")
        elif kind == "storage":
            raw = str(secret.with_suffix(".bin"))
            file.create_dataset("xyz", (20, 3), "<f4", external=[(raw, 0, XYZ.nbytes)])
        else:
            layout = h5py.VirtualLayout((20, 3), "<f4")
            layout[:] = h5py.VirtualSource(str(secret), "xyz", (20, 3))
            file.create_virtual_dataset("xyz", layout)


@pytest.mark.parametrize("kind", ["link", "soft link", "storage", "virtual"])
def test_hdf5_reads_itself_alone(folder: Path, kind: str) -> None:
    path = folder / "a.h5"
    elsewhere(path, kind)
    with pytest.raises(CloudFileError, match="another file"):
        read_cloud(path)
    with (
        pytest.raises(ValueError, match=r"a\.h5 cannot be read as HDF5 with 'xyz'"),
        open_h5(path, "xyz"),
    ):
        pass


def test_a_group_is_no_data_set(folder: Path) -> None:
    with h5py.File(folder / "a.h5", "w") as file:
        file.create_group("data")
    with pytest.raises(ValueError, match="cannot be read"), open_h5(folder / "a.h5", "data"):
        pass


@pytest.mark.parametrize("index", [10**30, -(10**30), 2**63])
def test_an_index_beyond_64_bits_is_a_row(tmp_path: Path, index: int) -> None:
    path = tmp_path / "a.obj"
    path.write_text(f"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 {index}\n")
    with pytest.raises(CloudFileError, match=r"a\.obj"):
        read_cloud(path)
    assert isinstance(attempt(read_cloud, path), Failed)


NAMES = ["../secret.h5", "/etc/passwd", "a/../../b", ".."]


@pytest.mark.parametrize("name", NAMES)
def test_lists_name_what_is_inside(folder: Path, name: str) -> None:
    with pytest.raises(ValueError, match="not a path inside its folder"):
        plain_name(name, folder / "list.txt")
    manifest = {"classes": ["a"], "counts": {"train": {"a": 1}}, "sha256": {name: "0"}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"manifest\.json lists .*, which is not a path inside"):
        verify_prepared(folder)
    (folder / "modelnet10_shape_names.txt").write_text("chair\n")
    (folder / "modelnet10_train.txt").write_text(f"{name}_0001\n")
    with pytest.raises(ValueError, match=r"modelnet10_train\.txt lists"):
        resampled_files(folder)


@pytest.mark.parametrize("text", ["5", "[]", "{}", '{"classes": 5}', "{", "[" * 100_000])
def test_a_manifest_that_is_none(folder: Path, text: str) -> None:
    (folder / "manifest.json").write_text(text)
    with pytest.raises(ValueError, match=r"manifest\.json"):
        verify_prepared(folder)


def test_an_archive_of_zeros(tmp_path: Path) -> None:
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, xyz=np.zeros((30_000_000, 3), np.float32))
    with pytest.raises(CloudFileError, match=r"bomb\.npz: unpacks to"):
        read_cloud(path)


def test_a_file_that_shrinks(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, XYZ)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(CloudFileError, match=r"a\.npy: damaged"):
        read_cloud(path)
