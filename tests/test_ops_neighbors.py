"""The k nearest neighbours and the ball query."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from ea_pointcloud.ops import _reference, ball_query, knn
from tests.oracles import CLOUDS, RUNS, ball_oracle, cloud, knn_oracle, running

NAN, INF = float("nan"), float("inf")
# A radius, in the unit of each kind of cloud, that holds a few points.
RADIUS = {"offset": 0.5, "tiny": 4e-19, "denormal": 4e-22, "large": 4e17, "overflow": 4e18}

quick = settings(
    max_examples=30,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture(params=RUNS)
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    with running(request.param) as device:
        yield device


def assert_knn(
    device: str, query: Tensor, points: Tensor, k: int, lengths: list[int] | None = None
) -> tuple[Tensor, Tensor]:
    """Run knn and compare with the oracle, bit for bit."""
    given_lengths = None if lengths is None else torch.tensor(lengths, device=device)
    sq_dist, idx = knn(query.to(device), points.to(device), k, lengths=given_lengths)
    expected_sq_dist, expected_idx = knn_oracle(query, points, k, lengths)
    assert sq_dist.dtype == torch.float32
    assert idx.dtype == torch.long
    assert idx.shape == sq_dist.shape == (*query.shape[:2], k)
    assert idx.tolist() == expected_idx.tolist()
    assert sq_dist.tolist() == expected_sq_dist.tolist()
    return sq_dist.cpu(), idx.cpu()


def assert_ball(
    device: str,
    query: Tensor,
    points: Tensor,
    radius: float,
    k: int,
    lengths: list[int] | None = None,
) -> tuple[Tensor, Tensor]:
    """Run ball_query and compare with the oracle."""
    given_lengths = None if lengths is None else torch.tensor(lengths, device=device)
    idx, count = ball_query(query.to(device), points.to(device), radius, k, lengths=given_lengths)
    expected_idx, expected_count = ball_oracle(query, points, radius, k, lengths)
    assert idx.dtype == count.dtype == torch.long
    assert idx.shape == (*query.shape[:2], k)
    assert count.tolist() == expected_count.tolist()
    assert idx.tolist() == expected_idx.tolist()
    return idx.cpu(), count.cpu()


def ragged(kind: str, lengths: list[int], padding: float) -> Tensor:
    points = cloud(kind, 40, batch=len(lengths))
    for one, length in zip(points, lengths, strict=True):
        one[length:] = padding
    return points


# --- knn


@pytest.mark.parametrize("num_points", [1, 2, 31, 33, 257])
@pytest.mark.parametrize("kind", CLOUDS)
def test_knn_equals_the_oracle(device: str, kind: str, num_points: int) -> None:
    points = cloud(kind, num_points, batch=2)
    query = torch.cat([points[:, :20], cloud(kind, 9, batch=2, seed=1)], 1)
    for k in {1, min(num_points, 16)}:
        assert_knn(device, query, points, k)


@pytest.mark.parametrize("kind", CLOUDS)
def test_knn_of_all_points_is_a_permutation(device: str, kind: str) -> None:
    points = cloud(kind, 33)
    sq_dist, idx = assert_knn(device, points, points, 33)
    assert (idx.sort(-1).values == torch.arange(33)).all()
    assert (sq_dist.diff(dim=-1).nan_to_num(0.0) >= 0).all()


def test_knn_by_hand(device: str) -> None:
    points = torch.tensor([[[3.0, 0, 0], [1, 0, 0], [-1, 0, 0], [0, 0, 0.5]]], device=device)
    sq_dist, idx = knn(torch.zeros(1, 1, 3, device=device), points, 4)
    assert idx.tolist() == [[[3, 1, 2, 0]]]
    assert sq_dist.tolist() == [[[0.25, 1.0, 1.0, 9.0]]]


def test_knn_does_not_cancel_far_from_the_origin(device: str) -> None:
    # |x|^2 - 2xy + |y|^2 in float32 gives garbage at 5e5; differences of these numbers are exact.
    points = torch.tensor([[[5e5, 0, 0], [5e5 + 0.25, 0, 0], [5e5 + 1, 0, 0]]])
    sq_dist, _ = knn(points[:, :1].to(device), points.to(device), 3)
    assert sq_dist.tolist() == [[[0.0, 0.0625, 1.0]]]


@pytest.mark.parametrize("padding", [0.0, 0.1, NAN])
@pytest.mark.parametrize("kind", ["surface", "lattice", "equal"])
def test_knn_of_a_ragged_batch_is_that_of_each_cloud(
    device: str, kind: str, padding: float
) -> None:
    lengths = [1, 9, 33, 40]
    points = ragged(kind, lengths, padding)
    query = cloud(kind, 12, batch=4, seed=1)
    sq_dist, idx = assert_knn(device, query, points, 8, lengths)
    for b, length in enumerate(lengths):
        assert int(idx[b].max()) < length
        k = min(8, length)
        alone = knn(query[b, None].to(device), points[b, None, :length].to(device), k)
        assert torch.equal(alone[0][0].cpu(), sq_dist[b, :, :k])
        assert torch.equal(alone[1][0].cpu(), idx[b, :, :k])
        assert (idx[b, :, k:] == idx[b, :, :1]).all()  # the nearest is repeated
        assert (sq_dist[b, :, k:] == sq_dist[b, :, :1]).all()


@pytest.mark.parametrize("bad", [[0], [3, 4], [0, 1, 29], list(range(25))])
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_knn_never_returns_points_that_are_not_finite(
    device: str, bad: list[int], value: float
) -> None:
    points = cloud("surface", 30)
    query = points[:, ::3].clone()
    points[0, bad, 2] = value
    for k in (1, 10, 30):
        _, idx = assert_knn(device, query, points, k)
        assert not set(idx.flatten().tolist()) & set(bad)


def test_knn_never_returns_them_where_distances_overflow(device: str) -> None:
    # Finite points whose squared distance exceeds float32 still come before a NaN point.
    points = torch.tensor([[[NAN, 0, 0], [1e30, 0, 0], [2e30, 0, 0], [3e30, 0, 0]]])
    assert_knn(device, torch.zeros(1, 1, 3), points, 2)


@pytest.mark.parametrize("value", [NAN, INF])
def test_knn_of_a_query_that_is_not_finite_returns_valid_points(device: str, value: float) -> None:
    points = cloud("surface", 30)
    points[0, [0, 2]] = NAN
    query = torch.full((1, 1, 3), value)
    _, idx = knn(query.to(device), points.to(device), 5)
    assert not set(idx.flatten().tolist()) & {0, 2}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_neighbors_read_other_dtypes_as_float32(device: str, dtype: torch.dtype) -> None:
    points = cloud("surface", 50).to(dtype)
    assert_knn(device, points[:, :9], points, 7)
    assert_ball(device, points[:, :9], points, 0.4, 7)


def test_neighbors_read_any_memory_layout(device: str) -> None:
    strided = torch.empty(3, 50, 4).permute(2, 1, 0)[::2]
    strided.copy_(cloud("surface", 50, batch=2))
    assert not strided.is_contiguous()
    assert_knn(device, strided[:, ::5], strided, 7)
    assert_ball(device, strided[:, ::5], strided, 0.4, 7)


def test_neighbors_carry_no_gradient(device: str) -> None:
    points = cloud("surface", 20).to(device).requires_grad_()
    outputs = [*knn(points, points, 3), *ball_query(points, points, 0.3, 3)]
    assert not any(output.requires_grad for output in outputs)


def test_neighbors_keep_float32_under_autocast(device: str) -> None:
    points = cloud("surface", 128)
    with torch.autocast(device, dtype=torch.bfloat16):
        assert_knn(device, points, points, 16)
        assert_ball(device, points, points, 0.3, 16)


@pytest.mark.parametrize("elements", [1, 100, 1000])
def test_chunks_do_not_show(elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # Only the reference works in blocks of this size; the whole is what it returns unchunked.
    points, query = cloud("lattice", 50, batch=2), cloud("lattice", 23, batch=2, seed=1)
    lengths = torch.tensor([50, 31])
    whole = [
        *_reference.knn(query, points, 9, lengths),
        *_reference.ball_query(query, points, 0.3, 9, lengths),
    ]
    monkeypatch.setattr(_reference.points, "_CHUNK_ELEMENTS", elements)
    pieces = [
        *_reference.knn(query, points, 9, lengths),
        *_reference.ball_query(query, points, 0.3, 9, lengths),
    ]
    assert all(torch.equal(one, other) for one, other in zip(whole, pieces, strict=True))


@pytest.mark.parametrize("kind", ["surface", "offset"])
def test_knn_against_exact_arithmetic(device: str, kind: str) -> None:
    # float64: each neighbour's distance is the true one to float32 rounding, so sets can only
    # differ between neighbours that are equally near to that rounding.
    points = cloud(kind, 257)
    sq_dist, _ = knn(points.to(device), points.to(device), 20)
    difference = points.double()[:, :, None] - points.double()[:, None]
    exact = difference.square().sum(-1).sort(-1).values[..., :20]
    torch.testing.assert_close(sq_dist.cpu().double(), exact, rtol=1e-6, atol=0)


integer_clouds = st.lists(
    st.tuples(*[st.integers(-3, 3)] * 3), min_size=1, max_size=24
)  # small integers: exact in float32 and full of ties


@quick
@given(rows=integer_clouds, data=st.data())
def test_knn_properties(device: str, rows: list[tuple[int, int, int]], data: st.DataObject) -> None:
    points = torch.tensor(rows, dtype=torch.float32)[None]
    k = data.draw(st.integers(1, len(rows)))
    sq_dist, idx = assert_knn(device, points, points, k)
    assert (sq_dist[..., 0] == 0).all()  # the nearest of a point is itself or its double
    scaled = assert_knn(device, points * 2.0**-20, points * 2.0**-20, k)
    assert torch.equal(scaled[1], idx)
    assert torch.equal(scaled[0], sq_dist * 2.0**-40)
    all_idx = assert_knn(device, points, points, len(rows))[1]
    assert torch.equal(all_idx[..., :k], idx)  # prefix property


def test_knn_follows_a_permutation_of_the_points(device: str) -> None:
    # Distances are distinct, so that only the names of the points change.
    points = cloud("surface", 100)
    order = torch.randperm(100, generator=torch.Generator().manual_seed(0))
    _, idx = assert_knn(device, points[:, :10], points, 8)
    _, permuted = assert_knn(device, points[:, :10], points[:, order], 8)
    assert torch.equal(order[permuted], idx)


# --- ball_query


@pytest.mark.parametrize("num_points", [1, 2, 31, 33, 257])
@pytest.mark.parametrize("kind", CLOUDS)
def test_ball_equals_the_oracle(device: str, kind: str, num_points: int) -> None:
    points = cloud(kind, num_points, batch=2)
    query = torch.cat([points[:, :20], cloud(kind, 9, batch=2, seed=1)], 1)
    for k in {1, min(num_points, 16), num_points}:
        assert_ball(device, query, points, RADIUS.get(kind, 0.4), k)


def test_ball_by_hand(device: str) -> None:
    x = torch.tensor([5.0, 1, 0.5, -1, 0])
    points = torch.stack([x, torch.zeros(5), torch.zeros(5)], -1)[None].to(device)
    query = torch.tensor([[[0.0, 0, 0], [5.0, 0, 0], [100.0, 0, 0]]], device=device)
    idx, count = ball_query(query, points, 1.0, 3)
    # In index order and cut at three; then one hit repeated; then the nearest without a hit.
    assert idx.tolist() == [[[1, 2, 3], [0, 0, 0], [0, 0, 0]]]
    assert count.tolist() == [[3, 1, 0]]


@pytest.mark.parametrize("radius", [0.1, 0.2, 0.3, 1 / 3, 0.7, 1.0, 1e-3, 12345.678])
def test_the_boundary_belongs_to_the_ball(device: str, radius: float) -> None:
    points = torch.tensor([[[radius, 0, 0], [0, -radius, 0], [0, 0, radius]]], device=device)
    query = torch.zeros(1, 1, 3, device=device)
    assert ball_query(query, points, radius, 3)[1].tolist() == [[3]]
    below = float(np.nextafter(np.float32(radius), np.float32(0)))
    idx, count = ball_query(query, points, below * (1 - 1e-6), 3)
    assert count.tolist() == [[0]]
    assert idx.tolist() == [[[0, 0, 0]]]


@pytest.mark.parametrize("padding", [0.0, 0.1, NAN])
@pytest.mark.parametrize("kind", ["surface", "lattice", "equal"])
def test_ball_of_a_ragged_batch_is_that_of_each_cloud(
    device: str, kind: str, padding: float
) -> None:
    lengths = [1, 9, 33, 40]
    points = ragged(kind, lengths, padding)
    query = cloud(kind, 12, batch=4, seed=1)
    idx, count = assert_ball(device, query, points, 0.4, 8, lengths)
    for b, length in enumerate(lengths):
        assert int(idx[b].max()) < length
        k = min(8, length)
        alone = ball_query(query[b, None].to(device), points[b, None, :length].to(device), 0.4, k)
        assert torch.equal(alone[0][0].cpu(), idx[b, :, :k])
        assert torch.equal(alone[1][0].cpu(), count[b])


@pytest.mark.parametrize("radius", [1e-9, 0.3, 100.0, 1e18])
@pytest.mark.parametrize("bad", [[0], [0, 1, 29], list(range(25))])
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_ball_never_returns_points_that_are_not_finite(
    device: str, bad: list[int], value: float, radius: float
) -> None:
    points = cloud("surface", 30)
    query = cloud("surface", 10, seed=1)
    points[0, bad, 2] = value
    idx, _ = assert_ball(device, query, points, radius, 12)
    assert not set(idx.flatten().tolist()) & set(bad)


@pytest.mark.parametrize("radius", [1e20, INF])
def test_a_ball_without_bound_holds_valid_points_only(device: str, radius: float) -> None:
    # The square of these radii is infinite in float32, as is the distance of an invalid point.
    points = cloud("surface", 6, batch=2)
    points[0, 1] = NAN
    assert_ball(device, torch.zeros(2, 1, 3), points, radius, 6, [6, 3])


def test_ball_nearest_is_valid_where_distances_overflow(device: str) -> None:
    points = torch.tensor([[[NAN, 0, 0], [1e30, 0, 0], [2e30, 0, 0]]])
    assert_ball(device, torch.zeros(1, 1, 3), points, 1.0, 2)


def test_ball_of_a_query_that_is_not_finite_is_empty(device: str) -> None:
    points = cloud("surface", 6).to(device)
    points[0, 0] = NAN
    idx, count = ball_query(torch.full((1, 1, 3), NAN, device=device), points, 10.0, 3)
    assert count.tolist() == [[0]]
    assert 0 not in idx.flatten().tolist()


@quick
@given(rows=integer_clouds, data=st.data())
def test_ball_properties(
    device: str, rows: list[tuple[int, int, int]], data: st.DataObject
) -> None:
    points = torch.tensor(rows, dtype=torch.float32)[None]
    k = data.draw(st.integers(1, len(rows)))
    radius = data.draw(st.sampled_from([0.5, 1.0, 1.5, 2.0, 3.0]))
    idx, count = assert_ball(device, points, points, radius, k)
    assert (count >= 1).all()  # a point lies in its own ball
    scaled = assert_ball(device, points * 2.0**-20, points * 2.0**-20, radius * 2.0**-20, k)
    assert torch.equal(scaled[0], idx)
    inner, inner_count = assert_ball(device, points, points, radius, len(rows))
    outer, outer_count = assert_ball(device, points, points, 2 * radius, len(rows))
    for s in range(len(rows)):  # a ball holds the smaller ball
        hits = set(inner[0, s, : inner_count[0, s]].tolist())
        assert hits <= set(outer[0, s, : outer_count[0, s]].tolist())


# --- errors, the same for both


def both(query: Tensor, points: Tensor, k: int = 1, lengths: Tensor | None = None) -> list:
    return [
        lambda: knn(query, points, k, lengths=lengths),
        lambda: ball_query(query, points, 1.0, k, lengths=lengths),
    ]


@pytest.mark.parametrize(
    ("query", "points", "error", "words"),
    [
        (torch.zeros(2, 3), torch.zeros(1, 2, 3), ValueError, r"query must have shape \(B, S, 3\)"),
        (torch.zeros(1, 0, 3), torch.zeros(1, 2, 3), ValueError, "query has no points"),
        (torch.zeros(1, 2, 3), torch.zeros(2, 3), ValueError, r"points must have shape \(B, N, 3"),
        (torch.zeros(1, 2, 3), torch.zeros(1, 0, 3), ValueError, "points has no points"),
        (torch.zeros(1, 2, 3), torch.zeros(1, 2, 3).int(), TypeError, "points must be floating po"),
        ([[0.0]], torch.zeros(1, 2, 3), TypeError, "query must be a torch.Tensor, got list"),
        (torch.zeros(2, 2, 3), torch.zeros(3, 2, 3), ValueError, "same B, got 2 and 3"),
        (
            torch.zeros(1, 2, 3, device="meta"),
            torch.zeros(1, 2, 3),
            ValueError,
            r"query and points must be on one device, got meta and cpu; move one with .to\(\)",
        ),
    ],
)
def test_wrong_pairs(query: Tensor, points: Tensor, error: type[Exception], words: str) -> None:
    for call in both(query, points):
        with pytest.raises(error, match=words):
            call()


@pytest.mark.parametrize("k", [0, -1, 5])
def test_wrong_k(k: int) -> None:
    for call in both(torch.zeros(1, 2, 3), torch.zeros(1, 4, 3), k):
        with pytest.raises(ValueError, match=f"k must be between 1 and N=4, got {k}"):
            call()


@pytest.mark.parametrize(("k", "name"), [(True, "bool"), (2.0, "float")])
def test_wrong_type_of_k(k: float, name: str) -> None:
    for call in both(torch.zeros(1, 2, 3), torch.zeros(1, 4, 3), k):
        with pytest.raises(TypeError, match=f"k must be an int, got {name}"):
            call()


def test_wrong_lengths() -> None:
    for call in both(torch.zeros(1, 2, 3), torch.zeros(1, 4, 3), 1, torch.tensor([5])):
        with pytest.raises(ValueError, match="lengths must be between 1 and N=4"):
            call()


@pytest.mark.parametrize("radius", [0.0, -1.0, NAN])
def test_wrong_radius(radius: float) -> None:
    with pytest.raises(ValueError, match=f"radius must be positive, got {radius}"):
        ball_query(torch.zeros(1, 2, 3), torch.zeros(1, 4, 3), radius, 1)
