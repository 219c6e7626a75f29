"""Descriptors of the surface around each point."""

import pytest
import torch
from torch import Tensor

from ea_pointcloud.augment.transforms import random_rotate
from ea_pointcloud.descriptors import eigen_features, surface_features
from ea_pointcloud.descriptors.features import SURFACE_CHANNELS
from ea_pointcloud.descriptors.surface import (
    DIAMETER_CHANNELS,
    EIGEN_CHANNELS,
    RADII,
    average_geodesic_distance,
    shape_diameter,
)
from ea_pointcloud.ops import farthest_point_sample, gather_points
from ea_pointcloud.ops.frames import normalize_unit_sphere
from tests.oracles import cloud, seeded


def ball(features: Tensor, radius: float) -> dict[str, Tensor]:
    """The features of one of the balls by name; the last is the distance from the origin."""
    first = 6 * RADII.index(radius)
    names = ("s1", "s2", "s3", "linearity", "planarity", "offset")
    return {name: features[..., first + index] for index, name in enumerate(names)}


def test_a_line_by_hand() -> None:
    # Points 0.05 apart on a line. Within 0.1 of the middle one lie five, at -0.1 .. 0.1: their
    # variance is (2 * 0.1**2 + 2 * 0.05**2) / 5 = 0.005.
    xyz = torch.zeros(1, 21, 3)
    xyz[0, :, 1] = torch.arange(-10, 11) * 0.05
    middle = ball(eigen_features(xyz)[0, 10], 0.1)
    torch.testing.assert_close(middle["s1"], torch.tensor(0.005).sqrt() / 0.1)
    for name, value in (("s2", 0.0), ("s3", 0.0), ("linearity", 1.0), ("planarity", 0.0)):
        assert abs(float(middle[name]) - value) < 1e-3
    assert abs(float(middle["offset"])) < 1e-6
    # At the end of the line the mean of the three points lies 0.05 away.
    assert abs(float(ball(eigen_features(xyz)[0, 0], 0.1)["offset"]) - 0.5) < 1e-5


def test_a_plane_and_a_lonely_point() -> None:
    side = torch.linspace(-0.5, 0.5, 41)
    grid = torch.cartesian_prod(side, torch.zeros(1), side)
    features = eigen_features(torch.cat([grid, torch.tensor([[0.0, 0.9, 0.0]])])[None])[0]
    middle = ball(features[41 * 20 + 20], 0.1)
    assert float(middle["linearity"]) < 0.15
    assert float(middle["planarity"]) > 0.85
    assert features[-1, :-1].abs().max() == 0
    assert abs(float(features[-1, -1]) - 0.9) < 1e-6


def test_rotations_change_nothing() -> None:
    xyz = normalize_unit_sphere(cloud("surface", 400, batch=2))
    rotated = random_rotate(xyz, generator=seeded())
    found, expected = eigen_features(rotated), eigen_features(xyz)
    assert found.shape == (2, 400, EIGEN_CHANNELS)
    # A neighbour on the very edge of a ball may fall on the other side of it.
    same = torch.isclose(found, expected, atol=1e-3).all(-1)
    assert same.float().mean() > 0.97


def test_a_ragged_batch_is_that_of_each_cloud() -> None:
    xyz = cloud("surface", 90, batch=2)
    features = eigen_features(xyz, lengths=torch.tensor([90, 30]))
    torch.testing.assert_close(features[1, :30], eigen_features(xyz[1:, :30])[0])


def test_large_clouds_are_described_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    xyz = cloud("surface", 90, batch=2)
    expected = eigen_features(xyz)
    monkeypatch.setattr("ea_pointcloud.descriptors.surface._CHUNK", 14)
    torch.testing.assert_close(eigen_features(xyz), expected)


@pytest.mark.parametrize("num_points", [1, 2])
def test_clouds_of_few_points(num_points: int) -> None:
    features = eigen_features(cloud("surface", num_points).double())
    assert features.shape == (1, num_points, EIGEN_CHANNELS)
    assert features.dtype == torch.float32
    assert features.isfinite().all()


def test_wrong_shape() -> None:
    with pytest.raises(ValueError, match=r"xyz must have shape \(B, N, 3\), got \(4, 3\)"):
        eigen_features(torch.zeros(4, 3))


def sphere(num_points: int, radius: float) -> Tensor:
    """(1, num_points, 3) spread evenly over a sphere."""
    drawn = torch.randn(1, 20 * num_points, 3, generator=seeded())
    points = torch.nn.functional.normalize(drawn, dim=-1) * radius
    return gather_points(points, farthest_point_sample(points, num_points))


def test_the_diameter_of_a_sphere_is_its_width() -> None:
    found = shape_diameter(sphere(1500, 0.4))[0]
    # Smaller side: a cone of 30 degrees about the centre meets chords between 0.69 and 0.8.
    assert ((found[:, 0] > 0.6) & (found[:, 0] < 0.8)).float().mean() > 0.95
    assert (found[:, 1] == 2).float().mean() > 0.95  # nothing lies outside
    assert ((found[:, 4] > 0.6) & (found[:, 4] < 0.8)).all()  # medians forgive a wrong normal


def test_a_thin_plate_is_thinner_than_a_thick_one() -> None:
    side = torch.linspace(-0.5, 0.5, 31)
    for gap in (0.1, 0.3):
        sheets = [torch.cartesian_prod(side, torch.tensor([y]), side) for y in (0.0, gap)]
        found = shape_diameter(torch.cat(sheets)[None])[0, 31 * 15 + 15]
        assert gap <= float(found[0]) < 1.25 * gap


def test_bending_does_not_change_geodesic_distances() -> None:
    angle = torch.linspace(0, torch.pi, 400)
    arc = torch.stack([angle.cos(), angle.sin(), torch.zeros(400)], dim=-1) / 1.6
    straight = torch.stack([angle / 1.6, torch.zeros(400), torch.zeros(400)], dim=-1)
    bent, plain = (
        average_geodesic_distance(arc[None])[0],
        average_geodesic_distance(straight[None])[0],
    )
    assert (bent - plain)[:, :-1].abs().max() < 0.1
    # Of a line of length l: half of it to the far end from the middle, all of it from an end, and
    # the mean over the line is between l / 4 and l / 2.
    between = plain[:, 1]
    assert int(between.argmin()) in range(180, 220)
    assert int(between.argmax()) in (0, 399)
    assert abs(float(plain[0, 2] / plain[200, 2]) - 2) < 0.1
    assert abs(float(plain[0, 0] / plain[200, 0]) - 2) < 0.1


def test_parts_that_do_not_touch_are_joined_by_air() -> None:
    apart = torch.cat([sphere(200, 0.2) - 0.5, sphere(200, 0.2) + 0.5], dim=1)
    found = average_geodesic_distance(apart)
    assert found.isfinite().all()
    # From any point to the other sphere: three times at least 1.7 - 0.4.
    assert (found[0, :, 2] * found[0, :, -1] >= 3 * 1.3).all()


def test_surface_features_joins_the_three() -> None:
    xyz = normalize_unit_sphere(cloud("surface", 300, batch=2))
    found = surface_features(xyz)
    assert found.shape == (2, 300, SURFACE_CHANNELS)
    last = EIGEN_CHANNELS + DIAMETER_CHANNELS
    assert torch.equal(found[..., :EIGEN_CHANNELS], eigen_features(xyz))
    torch.testing.assert_close(found[..., EIGEN_CHANNELS:last], shape_diameter(xyz))
    torch.testing.assert_close(found[..., last:], average_geodesic_distance(xyz))
    ragged = surface_features(xyz, lengths=torch.tensor([300, 120]))
    torch.testing.assert_close(ragged[0], found[0])
    torch.testing.assert_close(ragged[1, :120], surface_features(xyz[1:, :120])[0])


def test_large_clouds_are_described_like_small_ones() -> None:
    few, many = sphere(2048, 0.5), sphere(2500, 0.5)
    of_few, of_many = surface_features(few)[0], surface_features(many)[0]
    assert of_many.shape == (2500, SURFACE_CHANNELS)
    of_few, of_many = (part[:, EIGEN_CHANNELS:].mean(0) for part in (of_few, of_many))
    torch.testing.assert_close(of_many, of_few, rtol=0.03, atol=0.02)


@pytest.mark.parametrize("num_points", [1, 2, 5])
def test_surface_features_of_few_points(num_points: int) -> None:
    features = surface_features(cloud("surface", num_points).double())
    assert features.shape == (1, num_points, SURFACE_CHANNELS)
    assert features.isfinite().all()


def test_rotations_change_no_surface_features() -> None:
    xyz = normalize_unit_sphere(cloud("surface", 400, batch=2))
    rotated = random_rotate(xyz, generator=seeded())
    same = torch.isclose(surface_features(rotated), surface_features(xyz), atol=1e-2)
    assert same.float().mean() > 0.97
