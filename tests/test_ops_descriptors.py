"""Descriptors of the surface around each point."""

import pytest
import torch
from torch import Tensor

from ea_pointcloud.ops import local_shape
from ea_pointcloud.ops.descriptors import LOCAL_SHAPE_CHANNELS, RADII
from ea_pointcloud.transforms import normalize_unit_sphere, random_rotate
from tests.oracles import cloud, seeded


def ball(features: Tensor, radius: float) -> dict[str, Tensor]:
    """The features of one of the balls by name; the last is the distance from the origin."""
    first = 6 * RADII.index(radius)
    names = ("s1", "s2", "s3", "linearity", "planarity", "offset")
    return {name: features[..., first + place] for place, name in enumerate(names)}


def test_a_line_by_hand() -> None:
    # Points 0.05 apart on a line. Within 0.1 of the middle one lie five, at -0.1 .. 0.1: their
    # variance is (2 * 0.1**2 + 2 * 0.05**2) / 5 = 0.005.
    xyz = torch.zeros(1, 21, 3)
    xyz[0, :, 1] = torch.arange(-10, 11) * 0.05
    middle = ball(local_shape(xyz)[0, 10], 0.1)
    torch.testing.assert_close(middle["s1"], torch.tensor(0.005).sqrt() / 0.1)
    for name, value in (("s2", 0.0), ("s3", 0.0), ("linearity", 1.0), ("planarity", 0.0)):
        assert abs(float(middle[name]) - value) < 1e-3
    assert abs(float(middle["offset"])) < 1e-6
    # At the end of the line the mean of the three points lies 0.05 away.
    assert abs(float(ball(local_shape(xyz)[0, 0], 0.1)["offset"]) - 0.5) < 1e-5


def test_a_plane_and_a_lonely_point() -> None:
    side = torch.linspace(-0.5, 0.5, 41)
    grid = torch.cartesian_prod(side, torch.zeros(1), side)
    features = local_shape(torch.cat([grid, torch.tensor([[0.0, 0.9, 0.0]])])[None])[0]
    middle = ball(features[41 * 20 + 20], 0.1)
    assert float(middle["linearity"]) < 0.15
    assert float(middle["planarity"]) > 0.85
    assert features[-1, :-1].abs().max() == 0
    assert abs(float(features[-1, -1]) - 0.9) < 1e-6


def test_rotations_change_nothing() -> None:
    xyz = normalize_unit_sphere(cloud("surface", 400, batch=2))
    turned = random_rotate(xyz, generator=seeded())
    found, expected = local_shape(turned), local_shape(xyz)
    assert found.shape == (2, 400, LOCAL_SHAPE_CHANNELS)
    # A neighbour on the very edge of a ball may fall on the other side of it.
    same = torch.isclose(found, expected, atol=1e-3).all(-1)
    assert same.float().mean() > 0.97


def test_a_ragged_batch_is_that_of_each_cloud() -> None:
    xyz = cloud("surface", 90, batch=2)
    features = local_shape(xyz, lengths=torch.tensor([90, 30]))
    torch.testing.assert_close(features[1, :30], local_shape(xyz[1:, :30])[0])


def test_large_clouds_are_described_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    xyz = cloud("surface", 90, batch=2)
    expected = local_shape(xyz)
    monkeypatch.setattr("ea_pointcloud.ops.descriptors._CHUNK", 14)
    torch.testing.assert_close(local_shape(xyz), expected)


@pytest.mark.parametrize("num_points", [1, 2])
def test_clouds_of_few_points(num_points: int) -> None:
    features = local_shape(cloud("surface", num_points).double())
    assert features.shape == (1, num_points, LOCAL_SHAPE_CHANNELS)
    assert features.dtype == torch.float32
    assert features.isfinite().all()


def test_wrong_shape() -> None:
    with pytest.raises(ValueError, match=r"xyz must have shape \(B, N, 3\), got \(4, 3\)"):
        local_shape(torch.zeros(4, 3))
