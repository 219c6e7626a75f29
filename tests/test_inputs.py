"""What a Predictor takes beside files: arrays, tensors, Open3D, trimesh, PyTorch Geometric."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import ea_pointcloud
from ea_pointcloud import Cloud, Predictor, create_model
from ea_pointcloud.datasets import FolderDataset
from ea_pointcloud.io import cloud_from_array, cloud_of
from ea_pointcloud.models import DataSpec

NAMES = ("cup", "bowl", "jar")


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    torch.manual_seed(0)
    spec = DataSpec(NAMES, num_points=64)
    return Predictor(create_model("pointnet_classifier_tiny", data_spec=spec), "cpu")


@pytest.fixture(scope="module")
def with_channels() -> Predictor:
    torch.manual_seed(0)
    spec = DataSpec(NAMES, num_points=64, features=("normals", "intensity"))
    return Predictor(create_model("pointnet_classifier_tiny", data_spec=spec), "cpu")


@pytest.fixture(scope="module")
def points() -> np.ndarray:
    """(90, 7): coordinates far from the origin, unit normals, intensity."""
    generator = np.random.default_rng(0)
    normals = generator.normal(size=(90, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    intensity = generator.random((90, 1))
    return np.hstack([normals * (1, 2, 3) + (5e5, 4e6, 100), normals, intensity])


def same(one: Any, other: Any) -> bool:
    probs = [[each.prob for each in sorted(found.top, key=lambda each: each.label)]
             for found in (one, other)]  # fmt: skip
    return bool(np.allclose(*probs, atol=1e-5))


def test_arrays_tensors_and_batches(predictor: Predictor, points: np.ndarray) -> None:
    xyz = points[:, :3]
    expected = predictor.classify(xyz)
    assert same(predictor(xyz), expected)
    assert same(predictor.classify(torch.from_numpy(xyz)), expected)
    assert same(predictor.classify(torch.from_numpy(xyz).requires_grad_()), expected)
    batch = np.stack([xyz, xyz * (3, 2, 1), xyz])
    found = predictor.classify(batch)
    assert len(found) == 3
    assert same(found[0], expected)
    assert same(predictor.classify(torch.from_numpy(batch))[1], found[1])
    assert predictor.embed(batch).shape[0] == 3
    assert predictor.class_names == NAMES
    assert predictor.to("cpu") is predictor
    with pytest.raises(
        ValueError, match=r"got shape \(90, 7\); say what its columns are with columns"
    ):
        predictor.classify(points)
    with pytest.raises(
        TypeError, match="an object of Open3D, trimesh or PyTorch Geometric, got dict"
    ):
        predictor.classify({"xyz": xyz})  # type: ignore[arg-type]


def test_columns_of_an_array(with_channels: Predictor, points: np.ndarray) -> None:
    columns = "x,y,z,nx,ny,nz,intensity"
    cloud = cloud_from_array(points, columns)
    np.testing.assert_allclose(cloud.xyz + cloud.center, points[:, :3], atol=0.05)
    expected = with_channels.classify(cloud)
    assert same(with_channels.classify(points, columns=columns), expected)
    assert same(with_channels.classify(torch.from_numpy(points), columns=columns), expected)
    shuffled = points[:, [6, 3, 4, 5, 0, 1, 2]]
    other = with_channels.classify(shuffled[None], columns="intensity,nx,ny,nz,x,y,z")
    assert same(other[0], expected)
    with pytest.raises(ValueError, match=r"the cloud has no intensity, only normals"):
        with_channels.classify(points, columns="x,y,z,nx,ny,nz")
    with pytest.raises(ValueError, match="--columns gives 8 roles, the file has 7 columns"):
        with_channels.classify(points, columns=f"{columns},label")


def test_open3d(with_channels: Predictor, predictor: Predictor, points: np.ndarray) -> None:
    o3d = pytest.importorskip("open3d")
    cloud = cloud_from_array(points, "x,y,z,nx,ny,nz,intensity")
    legacy = cloud.to_open3d()
    np.testing.assert_allclose(np.asarray(legacy.points), points[:, :3], atol=0.05)
    back = Cloud.from_open3d(legacy)
    np.testing.assert_allclose(back.normals, cloud.normals, atol=1e-6)
    assert same(predictor.classify(legacy), predictor.classify(cloud))
    tensors = o3d.t.geometry.PointCloud(o3d.core.Tensor(points[:, :3]))
    tensors.point.normals = o3d.core.Tensor(points[:, 3:6])
    tensors.point.intensity = o3d.core.Tensor(points[:, 6:])
    assert same(with_channels.classify(tensors), with_channels.classify(cloud))
    box = o3d.geometry.TriangleMesh.create_box(1, 2, 3)
    for mesh in (box, o3d.t.geometry.TriangleMesh.from_legacy(box)):
        drawn = Cloud.from_open3d(mesh, num_points=500)
        assert len(drawn) == 500
        assert drawn.normals is not None
        assert set(np.abs(drawn.normals).sum(1).round(6)) == {1.0}  # of the sides of a box
        np.testing.assert_allclose(np.ptp(drawn.xyz, axis=0), (1, 2, 3), atol=0.1)
    assert same(predictor.classify(box), predictor.classify(cloud_of(box)))


def test_trimesh(predictor: Predictor, points: np.ndarray) -> None:
    trimesh = pytest.importorskip("trimesh")
    ball = trimesh.creation.icosphere(subdivisions=2)
    assert cloud_of(ball).colors is None  # which trimesh would make up
    ball.visual.vertex_colors = np.tile([255, 0, 51, 255], (len(ball.vertices), 1))
    cloud = cloud_of(ball, num_points=300)
    assert cloud.colors is not None
    np.testing.assert_allclose(cloud.colors, [[1, 0, 0.2]] * 300, atol=1e-6)
    found = predictor.classify([ball, trimesh.Scene([ball]), trimesh.PointCloud(points[:, :3])])
    assert same(found[0], found[1])
    assert same(found[2], predictor.classify(points[:, :3]))


def test_graphs(with_channels: Predictor, points: np.ndarray) -> None:
    data = pytest.importorskip("torch_geometric.data")
    rows = torch.from_numpy(points)
    expected = with_channels.classify(points, columns="x,y,z,nx,ny,nz,intensity")
    named = data.Data(
        pos=rows[:, :3], normal=rows[:, 3:6], intensity=rows[:, 6], y=torch.tensor([1])
    )
    joined = data.Data(pos=rows[:, :3], x=rows[:, 3:])
    assert same(with_channels.classify(named), expected)
    found = with_channels.classify(data.Batch.from_data_list([joined, joined]))
    assert len(found) == 2
    assert same(found[1], expected)
    mesh = data.Data(pos=torch.eye(3), face=torch.tensor([[0], [1], [2]]))
    assert len(cloud_of(mesh, num_points=20)) == 20


def test_segmenters_take_the_same(points: np.ndarray) -> None:
    torch.manual_seed(0)
    spec = DataSpec(("a/0", "a/1"), num_points=64, category_names=("a",), parts=((0, 1),))
    model = create_model("eagraph_segmenter_tiny", data_spec=spec, num_categories=0)
    predictor = Predictor(model, "cpu")
    expected = predictor.segment(points[:, :3])
    found = predictor(torch.from_numpy(points[None]), columns="x,y,z,_,_,_,_")
    assert len(found) == 1
    np.testing.assert_array_equal(found[0].labels, expected.labels)
    np.testing.assert_array_equal(predictor(cloud_of_open3d(points)).labels, expected.labels)


def cloud_of_open3d(points: np.ndarray) -> Any:
    """An object with the attributes of Open3D's clouds."""
    return type("PointCloud", (), {"points": points[:, :3], "normals": [], "colors": []})()


def test_a_loader_of_clouds_of_different_sizes(tmp_path: Path) -> None:
    for number in range(6):
        folder = tmp_path / "train" / ("a" if number % 2 else "b")
        folder.mkdir(parents=True, exist_ok=True)
        rows = np.random.default_rng(number).random((20 + number, 4))
        np.savetxt(folder / f"{number}.txt", rows)
    dataset = FolderDataset(tmp_path, split="trainval", features="intensity")
    loader = DataLoader(dataset, batch_size=4, collate_fn=ea_pointcloud.collate)
    first, second = loader
    assert first["xyz"].shape[0] == 4
    assert first["features"].shape == (*first["xyz"].shape[:2], 1)
    assert second["mask"].sum(1).min() >= 20
    assert (first["features"][~first["mask"]] == 0).all()


def test_no_library_is_imported_for_them() -> None:
    code = (
        "import sys, ea_pointcloud.io.objects, ea_pointcloud.inference.preprocess\n"
        "assert not {'open3d', 'trimesh', 'torch_geometric'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
