"""Where on the object a point lies: cases that can be worked out by hand, then the whole."""

import math

import pytest
import torch
from torch import Tensor

from ea_pointcloud.augment.transforms import random_rotate_up
from ea_pointcloud.descriptors import shape_features, surface_features
from ea_pointcloud.descriptors.features import SHAPE_CHANNELS, SURFACE_CHANNELS
from ea_pointcloud.descriptors.global_position import (
    EXTREMUM_REACH,
    box_features,
    extremum_features,
    geodesic_shape_context,
    orientation_features,
)
from ea_pointcloud.ops.frames import normalize_unit_sphere
from tests.oracles import cloud, seeded


def rod(count: int = 21) -> Tensor:
    """(1, N, 3) points of an upright rod of length 1 from the origin up."""
    xyz = torch.zeros(1, count, 3)
    xyz[0, :, 1] = torch.linspace(0, 1, count)
    return xyz


def test_the_extrema_of_a_rod_are_its_ends() -> None:
    xyz = rod()
    dist = torch.cdist(xyz, xyz)
    dist = dist / dist.mean()
    diameter = torch.linspace(0.1, 0.2, 21)[None]
    found = extremum_features(xyz, dist, torch.arange(21)[None], diameter)[0]
    length = float(dist.max())
    along = torch.linspace(0, 1, 21)
    torch.testing.assert_close(found[:, 0], length * torch.minimum(along, 1 - along))
    torch.testing.assert_close(found[:, 1], length * torch.maximum(along, 1 - along))
    torch.testing.assert_close(found[:, 2], torch.full((21,), length / 2))  # from an end
    nearby = torch.arange(21) / 20 * length < EXTREMUM_REACH
    torch.testing.assert_close(found[:, 3], torch.full((21,), nearby.float().mean()))
    assert (found[:, 5] == 2).all()
    low, high = diameter[0][nearby].mean(), diameter[0].flip(0)[nearby].mean()
    for point, end, width, rank in ((2, 0.0, low, 0.0), (18, 1.0, high, 1.0)):
        torch.testing.assert_close(found[point, 4], width)
        assert found[point, 6] == found[point, 7] == end  # height, distance from the origin
        assert found[point, 8] == rank  # the upper end is the wider


def test_one_extremum_is_the_second_too() -> None:
    # No landmark is far from another: the one with the largest mean distance is the only extremum.
    dist = torch.tensor([[[0.0, 0.2], [0.2, 0.1]]])
    found = extremum_features(torch.rand(1, 2, 3), dist, torch.arange(2)[None], torch.ones(1, 2))
    assert (found[0, :, 5] == 1).all()
    assert torch.equal(found[..., 0], found[..., 1])


def test_the_position_in_a_box_by_hand() -> None:
    # Corners of a box: 2 along x, 4 along y, 1 along z.
    signs = torch.tensor([-1.0, 1.0])
    xyz = torch.cartesian_prod(signs, 2 * signs, signs / 2)[None]
    diameter = torch.arange(1.0, 9.0)[None]
    found = box_features(xyz, diameter)[0]
    torch.testing.assert_close(found[:, :3], torch.tensor([[0.5, 1.0, 2.0]]).expand(8, 3))
    torch.testing.assert_close(found[:, 8:11], torch.tensor([[0.5, 1.0, 2.0]]).expand(8, 3))
    low = xyz[0, :, 1] < 0
    assert sorted(found[low, 3].tolist()) == [0, 0.125, 0.25, 0.375]
    torch.testing.assert_close(found[:, 7], torch.full((8,), math.hypot(1, 0.5)))
    torch.testing.assert_close(found[:, 11], torch.arange(8) / 8)
    torch.testing.assert_close(found[:, 12], diameter[0] / 4)  # the lower median


def test_rings_by_hand() -> None:
    # Three landmarks: two in the first ring, one beyond the last.
    dist = torch.tensor([[[0.0, 0.1, 5.0]]])
    normals = torch.tensor([[[0.0, 1.0, 0.0], [0.6, -0.8, 0.0], [1.0, 0.0, 0.0]]])
    surface = torch.tensor([[[1.0, 0, 0, 4], [3.0, 0, 0, 2], [7.0, 1, 2, 3]]])
    landmarks = torch.arange(3)[None]
    found = geodesic_shape_context(dist.expand(1, 3, 3), landmarks, normals, surface)[0, 0]
    first, last = found[:6], found[-6:]
    torch.testing.assert_close(first, torch.tensor([2 / 3, (1 + 0.8) / 2, 2.0, 0, 0, 3]))
    torch.testing.assert_close(last, torch.tensor([1 / 3, 0.0, 7, 1, 2, 3]))
    assert (found[6:-6] == 0).all()


def test_the_orientation_of_a_rod_and_a_plate() -> None:
    upright = rod(201) - torch.tensor([0.0, 0.5, 0.0])
    normals = torch.tensor([1.0, 0.0, 0.0]).expand(1, 201, 3)
    found = orientation_features(upright, upright, normals)[0]
    assert (found[:, 0] == 0).all()
    middle, top = found[100, 2:10], found[200, 2:10]  # within 0.15
    torch.testing.assert_close(middle[0], torch.tensor(1.0))  # the longest axis points up
    torch.testing.assert_close(middle[2:4], torch.zeros(2), atol=1e-5, rtol=0)
    # Uniform over 0.3: 0.3 / sqrt(12); the end of a half sees a mean 0.075 below it.
    assert float(middle[4]) == pytest.approx(0.3 / 12**0.5 / 0.15, rel=0.02)
    assert float(top[2]) == pytest.approx(0.5, rel=0.05)

    side = torch.linspace(-0.5, 0.5, 31)
    plate = torch.cartesian_prod(side, torch.tensor([0.3]), side)[None]
    up = torch.tensor([0.0, 1.0, 0.0]).expand_as(plate)
    found = orientation_features(plate, plate, up)[0]
    assert (found[:, 0] == 1).all()
    torch.testing.assert_close(found[:, 3], torch.ones(961))  # the shortest axis points up
    assert (found[:, 8].abs() < 1e-2).all()  # it is flat
    assert float(found[31 * 15 + 15, 1]) == pytest.approx(1)  # straight above the origin


def test_shape_features_adds_to_surface_features() -> None:
    xyz = normalize_unit_sphere(cloud("surface", 300, batch=2))
    found = shape_features(xyz)
    assert found.shape == (2, 300, SHAPE_CHANNELS)
    torch.testing.assert_close(found[..., :SURFACE_CHANNELS], surface_features(xyz))
    ragged = shape_features(xyz, lengths=torch.tensor([300, 120]))
    torch.testing.assert_close(ragged[0], found[0])
    torch.testing.assert_close(ragged[1, :120], shape_features(xyz[1:, :120])[0])
    assert (ragged[1, 120:, SURFACE_CHANNELS:] == 0).all()


def test_rotations_about_the_up_axis_and_mirrors_change_nothing_but_tilts_do() -> None:
    xyz = normalize_unit_sphere(cloud("surface", 400, batch=2))
    found = shape_features(xyz)
    rotated = random_rotate_up(xyz, generator=seeded())
    mirrored = xyz * torch.tensor([-1.0, 1.0, 1.0])
    for other in (rotated, mirrored):
        same = torch.isclose(shape_features(other), found, atol=1e-2)
        assert same.float().mean() > 0.97
    upset = torch.isclose(shape_features(xyz[..., [1, 2, 0]]), found, atol=1e-2)
    assert upset.float().mean() < 0.95


@pytest.mark.parametrize("num_points", [1, 2, 5])
def test_shape_features_of_few_points(num_points: int) -> None:
    features = shape_features(cloud("surface", num_points).double())
    assert features.shape == (1, num_points, SHAPE_CHANNELS)
    assert features.isfinite().all()


def test_large_clouds_have_the_positions_of_small_ones() -> None:
    generator = seeded()
    large = torch.randn(1, 2500, 3, generator=generator) * torch.tensor([1.0, 2.0, 0.5])
    large = normalize_unit_sphere(large / large.norm(dim=-1, keepdim=True) ** 0.5)
    small = large[:, :2048]
    few, many = (shape_features(part)[0, :, SURFACE_CHANNELS:] for part in (small, large))
    # The outermost ring is empty for most points: what is averaged there hangs on few.
    torch.testing.assert_close(many.mean(0), few.mean(0), rtol=0.1, atol=0.15)
