"""Float64 coordinates far from the origin (surveys, UTM) keep their neighbours."""

import pytest
import torch
from torch import Tensor

from ea_pointcloud.ops import (
    ball_query,
    build_pyramid,
    farthest_point_sample,
    interpolate_features,
    knn,
    outermost_point,
    pyg,
)
from tests.oracles import cloud

FAR = torch.tensor([[[4.5e6, 3.2e5, 120.0]], [[-4.5e6, 5.6e6, -40.0]]], dtype=torch.float64)


@pytest.fixture
def near() -> Tensor:
    """Two clouds of ten metres around the origin whose float64 coordinates are exact far away."""
    return (cloud("surface", 300, batch=2).double() * 10 * 1024).round() / 1024


def test_the_operators_keep_neighbours_at_survey_coordinates(near: Tensor) -> None:
    far, lengths = near + FAR, torch.tensor([300, 200])
    assert (far.float().double() - far).abs().max() > 0.1  # float32 would lose them
    for one, other in zip(
        (*knn(near, near, 9, lengths=lengths), *ball_query(near, near, 1.5, 9, lengths=lengths)),
        (*knn(far, far, 9, lengths=lengths), *ball_query(far, far, 1.5, 9, lengths=lengths)),
        strict=True,
    ):
        if one.dtype == torch.long:  # the centre that is taken off may round a tie the other way
            assert (one == other).double().mean() > 0.999
        else:
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    assert torch.equal(farthest_point_sample(far, 40), farthest_point_sample(near, 40))
    features = near.float()
    close = interpolate_features(near[:, :50] + 0.01, near, features)
    there = interpolate_features(far[:, :50] + 0.01, far, features)
    torch.testing.assert_close(close, there, rtol=1e-3, atol=1e-3)


def test_a_brute_force_search_in_float64_agrees(near: Tensor) -> None:
    far = near + FAR
    exact = torch.cdist(near, near).argsort(2)[..., :5]
    _, idx = knn(far, far, 5)
    assert (idx == exact).double().mean() > 0.999


def test_the_flat_functions_do_too(near: Tensor) -> None:
    batch = torch.arange(2).repeat_interleave(300)
    far = (near + FAR).flatten(0, 1)
    edges = pyg.knn_graph(far, 6, batch)
    expected = pyg.knn_graph(near.flatten(0, 1), 6, batch)
    assert (edges == expected).double().mean() > 0.999
    assert torch.equal(
        pyg.fps(far, batch, 0.1, random_start=False),
        pyg.fps(near.flatten(0, 1), batch, 0.1, random_start=False),
    )


def test_the_outermost_point_is_found_in_float64() -> None:
    xyz = torch.tensor([[[4.5e6, 0, 0], [4.5e6 + 0.02, 0, 0], [4.5e6 + 0.01, 0, 0]]]).double()
    xyz[0, 1, 0], xyz[0, 2, 0] = 4.5e6 + 0.02, 4.5e6 + 0.01
    assert outermost_point(xyz).tolist() == [1]


def test_every_level_of_a_pyramid_keeps_them(near: Tensor) -> None:
    far = near + FAR
    for level in build_pyramid(far, (64, 16), 8):
        assert level.xyz.dtype == torch.float64
        assert len(level.neighbor.unique()) > 10


def test_padding_does_not_move_the_centre(near: Tensor) -> None:
    far = near + FAR
    far[:, 250:] = 0.0
    far[:, 3] = torch.nan
    lengths = torch.tensor([250, 250])
    _, idx = knn(far[:, 10:20], far, 4, lengths=lengths)
    clean = torch.cat([far[:, :3], far[:, 4:250]], 1)
    _, expected = knn(far[:, 10:20], clean, 4)
    assert torch.equal(idx, expected + (expected >= 3))


def test_near_the_origin_nothing_is_moved() -> None:
    points = cloud("tenths", 80)
    for one, other in zip(knn(points, points, 7), knn(points.double(), points.double(), 7),
                          strict=True):  # fmt: skip
        assert torch.equal(one, other)
