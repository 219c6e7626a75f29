"""What the shared test bodies cannot reach: rare paths of the kernels, and large clouds small.

Runs on a GPU, or without one where TRITON_INTERPRET=1.
"""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="Triton is not installed")

from ea_pointcloud.ops import _reference
from ea_pointcloud.ops._triton import large_neighbors, neighbors
from tests.oracles import CLOUDS, RUNS, cloud, knn_oracle, running, seeded

NAN, INF = float("nan"), float("inf")


@pytest.fixture(params=[run for run in RUNS if str(run.id).startswith("triton")])
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    with running(request.param) as device:
        yield device


@pytest.fixture
def _all_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every cloud walks blocks of the smallest size: 1,100 points are two groups of them."""
    monkeypatch.setattr(neighbors, "SCAN_POINTS", 0)
    monkeypatch.setattr(large_neighbors, "BLOCK_POINTS", 32)


def assert_knn(
    device: str, query: Tensor, points: Tensor, k: int, lengths: list[int] | None = None
) -> None:
    given = None if lengths is None else torch.tensor(lengths, device=device)
    sq_dist, idx = neighbors.knn(query.to(device), points.to(device), k, given)
    expected_sq_dist, expected_idx = knn_oracle(query, points, k, lengths)
    assert idx.tolist() == expected_idx.tolist()
    assert sq_dist.tolist() == expected_sq_dist.tolist()


# --- scans


@pytest.mark.parametrize("rows", [1, 2, 4])
def test_queries_of_one_program_do_not_show(
    device: str, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbors, "ROWS", rows)
    points, query = cloud("lattice", 70, batch=2), cloud("lattice", 5, batch=2, seed=1)
    query[1, 3] = NAN
    lengths = torch.tensor([70, 20])
    arguments = query.to(device), points.to(device)
    found = [
        *neighbors.knn(*arguments, 9, lengths.to(device)),
        *neighbors.ball_query(*arguments, 0.3, 9, lengths.to(device)),
    ]
    expected = [
        *_reference.knn(query, points, 9, lengths),
        *_reference.ball_query(query, points, 0.3, 9, lengths),
    ]
    assert [one.tolist() for one in found] == [one.tolist() for one in expected]


@pytest.mark.parametrize("k", [3, 16, 40])
def test_the_nearest_may_all_be_on_one_lane(device: str, k: int) -> None:
    # Every 32nd point is near, in order of nearness or against it: lanes drop what they need.
    points = cloud("surface", 32 * 45) + 10
    points[:, ::32] = cloud("surface", 45)
    towards = points[:, ::32].norm(dim=-1).argsort(descending=True)[0]
    assert_knn(device, torch.zeros(1, 1, 3), points, k)
    points[:, ::32] = points[:, ::32][:, towards]
    assert_knn(device, torch.zeros(1, 1, 3), points, k)


@pytest.mark.parametrize("k", [1, 16, 40])
def test_rough_distances_do_not_decide(device: str, k: int) -> None:
    # Squared distances that agree in all but the last bits, and equal ones among them.
    steps = torch.randint(1000, (1, 400), generator=seeded())
    points = torch.zeros(1, 400, 3)
    points[..., 0] = 1 + steps * 2.0**-23
    assert_knn(device, torch.zeros(1, 3, 3), points, k)
    assert len(points.unique()) > 200


def test_knn_beyond_the_queues_is_the_reference(device: str) -> None:
    assert_knn(device, cloud("surface", 5), cloud("lattice", 100), neighbors.MAX_K + 1)


# --- large clouds


@pytest.mark.usefixtures("_all_large")
@pytest.mark.parametrize("kind", CLOUDS)
def test_large_clouds_equal_the_oracle(device: str, kind: str) -> None:
    points = cloud(kind, 1100)
    query = torch.cat([points[:, :4], cloud(kind, 3, seed=1)], 1)
    assert_knn(device, query, points, 16)


@pytest.mark.usefixtures("_all_large")
@pytest.mark.parametrize("k", [1, 5, 30, 64])
def test_large_clouds_for_any_k(device: str, k: int) -> None:
    assert_knn(device, cloud("surface", 3, seed=1), cloud("surface", 400), k)


@pytest.mark.usefixtures("_all_large")
def test_large_clouds_of_different_lengths_and_with_invalid_points(device: str) -> None:
    lengths = [3, 64, 300]
    points, query = cloud("lattice", 300, batch=3), cloud("surface", 3, batch=3, seed=1)
    points[:, [0, 2], [0, 2]] = torch.tensor([NAN, INF])
    points[1, 40:60] = NAN
    query[2, 0] = 1e20  # all at a distance of infinity
    assert_knn(device, query, points, 8, lengths)


@pytest.mark.usefixtures("_all_large")
def test_a_large_cloud_against_the_order_of_the_curve(device: str) -> None:
    # Half the points are copies: most distances tie, and blocks meet at the same coordinates.
    points = cloud("surface", 200).repeat(1, 2, 1)[:, torch.randperm(400, generator=seeded())]
    assert_knn(device, points[:, :6], points, 15)


# --- clouds and queries without sense


@pytest.mark.parametrize("large", [False, True])
def test_nothing_valid_gives_indices_in_range(
    device: str, large: bool, request: pytest.FixtureRequest
) -> None:
    if large:
        request.getfixturevalue("_all_large")
    points = torch.full((2, 70, 3), NAN, device=device)
    points[1] = cloud("surface", 70)[0]
    query = cloud("surface", 3, batch=2, seed=1).to(device)
    query[1, 0, 2] = INF
    _, idx = neighbors.knn(query, points, 5, None)
    ball_idx, count = neighbors.ball_query(query, points, 0.1, 5, None)
    for found in (idx, ball_idx):
        assert ((found >= 0) & (found < 70)).all()
    assert idx[1, 0].tolist() == [0, 1, 2, 3, 4]
    assert not count[0].any()
    assert count[1, 0] == 0
