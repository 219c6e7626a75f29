"""PyTorch Geometric's shapes of the operators, against a loop over the points of each cloud."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor
from torch_geometric.nn import EdgeConv, PointNetConv

from ea_pointcloud.ops import _ragged, farthest_point_sample
from ea_pointcloud.ops.pyg import fps, knn, knn_graph, radius, radius_graph
from tests.oracles import RUNS, cloud, running, seeded, sq_dists

NAN, INF = float("nan"), float("inf")
# Ids that are skipped are empty clouds.
BATCHES = {
    "single": {0: 40},
    "equal": {0: 20, 1: 20, 2: 20},
    "ragged": {0: 1, 1: 3, 2: 64, 3: 17},
    "gaps": {1: 5, 2: 1, 6: 30},
    "one giant": {0: 3, 1: 2, 2: 300, 3: 4, 4: 1, 5: 3},
}
KINDS = ["surface", "lattice", "equal", "overflow"]


@pytest.fixture(params=RUNS)
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    with running(request.param) as device:
        yield device


def flat(kind: str, sizes: dict[int, int], seed: int = 0) -> tuple[Tensor, Tensor]:
    """(N, 3) points and their (N,) batch vector."""
    points = [cloud(kind, size, seed=seed + one)[0] for one, size in sizes.items()]
    ids, counts = torch.tensor(list(sizes)), torch.tensor(list(sizes.values()))
    return torch.cat(points), ids.repeat_interleave(counts)


def neighbors_of(
    center: np.ndarray, points: np.ndarray, members: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The finite ``members`` and their squared distances; none for a centre that is not finite."""
    if not np.isfinite(center).all():
        members = members[:0]
    members = members[np.isfinite(points[members]).all(1)]
    return members, sq_dists(center, points[members])


def brute(
    x: Tensor,
    y: Tensor,
    batch_x: Tensor,
    batch_y: Tensor,
    limit: int,
    *,
    r: float | None = None,
    loop: bool = True,
) -> list[list[int]]:
    """Edges query -> neighbour: the nearest, or with ``r`` the first in index order within it."""
    points, centers = x.numpy(), y.numpy()
    edges: tuple[list[int], list[int]] = ([], [])
    for row, center in enumerate(centers):
        members = np.flatnonzero(batch_x.numpy() == int(batch_y[row]))
        if not loop:
            members = members[members != row]
        members, sq_dist = neighbors_of(center, points, members)
        if r is None:
            members = members[np.argsort(sq_dist, kind="stable")]
        else:
            members = members[sq_dist <= np.float32(r) * np.float32(r)]
        members = members[:limit].tolist()
        edges[0].extend([row] * len(members))
        edges[1].extend(members)
    return list(edges)


def queries(sizes: dict[int, int]) -> dict[int, int]:
    """Other sizes for the other side: bigger and smaller clouds, one missing, one more."""
    ids = list(sizes)
    some = {one: size // 2 + 2 for one, size in sizes.items() if one != ids[-1] or len(ids) == 1}
    return {**some, ids[-1] + 1: 2} if len(ids) > 1 else some


# --- knn and radius


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sizes", BATCHES.values(), ids=BATCHES)
@pytest.mark.parametrize("k", [1, 4, 70])
def test_knn_is_that_of_a_loop(device: str, kind: str, sizes: dict[int, int], k: int) -> None:
    x, batch_x = flat(kind, sizes)
    y, batch_y = flat(kind, queries(sizes), seed=50)
    edges = knn(*(t.to(device) for t in (x, y)), k, batch_x.to(device), batch_y.to(device))
    assert edges.dtype == torch.long
    assert edges.device.type == device
    assert edges.tolist() == brute(x, y, batch_x, batch_y, k)


@pytest.mark.parametrize("kind", ["surface", "lattice", "equal"])
@pytest.mark.parametrize("sizes", BATCHES.values(), ids=BATCHES)
@pytest.mark.parametrize("most", [1, 5, 1000])
def test_radius_is_that_of_a_loop(device: str, kind: str, sizes: dict[int, int], most: int) -> None:
    x, batch_x = flat(kind, sizes)
    y, batch_y = flat(kind, queries(sizes), seed=50)
    edges = radius(x.to(device), y.to(device), 0.5, batch_x.to(device), batch_y.to(device), most)
    assert edges.tolist() == brute(x, y, batch_x, batch_y, most, r=0.5)


def test_radius_keeps_32_or_all_of_them(device: str) -> None:
    x = cloud("surface", 200)[0].to(device)
    first = x[:1]
    assert radius(x, first, 9.0).tolist() == [[0] * 32, list(range(32))]
    assert radius(x, first, 9.0, max_num_neighbors=None).tolist() == [[0] * 200, list(range(200))]
    assert radius_graph(x, 9.0, max_num_neighbors=None).shape == (2, 200 * 199)


def test_knn_and_radius_by_hand(device: str) -> None:
    x = torch.tensor([[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]], device=device)
    y = torch.tensor([[-1.0, 0.5], [1.0, -0.5]], device=device)
    assert knn(x, y, 2).tolist() == [[0, 0, 1, 1], [1, 0, 2, 3]]
    # (-1, 0.5) is exactly 1.5 from (-1, -1): the boundary belongs to the ball.
    assert radius(x, y, 1.5).tolist() == [[0, 0, 1, 1], [0, 1, 2, 3]]
    assert knn_graph(x, 1).tolist() == [[1, 0, 0, 1], [0, 1, 2, 3]]


# --- graphs


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sizes", BATCHES.values(), ids=BATCHES)
@pytest.mark.parametrize("loop", [False, True])
def test_knn_graph_is_that_of_a_loop(
    device: str, kind: str, sizes: dict[int, int], loop: bool
) -> None:
    x, batch = flat(kind, sizes)
    for k in (1, 6, 64):
        center, neighbor = brute(x, x, batch, batch, k, loop=loop)
        edges = knn_graph(x.to(device), k, batch.to(device), loop)
        assert edges.tolist() == [neighbor, center]
        edges = knn_graph(x.to(device), k, batch.to(device), loop, "target_to_source")
        assert edges.tolist() == [center, neighbor]


@pytest.mark.parametrize("kind", ["surface", "lattice", "equal"])
@pytest.mark.parametrize("sizes", BATCHES.values(), ids=BATCHES)
@pytest.mark.parametrize("loop", [False, True])
def test_radius_graph_is_that_of_a_loop(
    device: str, kind: str, sizes: dict[int, int], loop: bool
) -> None:
    x, batch = flat(kind, sizes)
    for most in (1, 6, 1000):
        center, neighbor = brute(x, x, batch, batch, most, r=0.3, loop=loop)
        edges = radius_graph(x.to(device), 0.3, batch.to(device), loop, most)
        assert edges.tolist() == [neighbor, center]
        edges = radius_graph(x.to(device), 0.3, batch.to(device), loop, most, "target_to_source")
        assert edges.tolist() == [center, neighbor]


def test_a_graph_drops_the_point_and_keeps_those_that_coincide_with_it(device: str) -> None:
    # The last point is not among its own three nearest by (distance, index).
    x = torch.zeros(5, 3, device=device)
    center = [row for row in range(5) for _ in range(2)]
    neighbor = [1, 2, 0, 2, 0, 1, 0, 1, 0, 1]
    assert knn_graph(x, 2).tolist() == [neighbor, center]
    assert radius_graph(x, 1.0, max_num_neighbors=2).tolist() == [neighbor, center]
    looped = [0, 1] * 5
    assert knn_graph(x, 2, loop=True).tolist() == [looped, center]
    assert radius_graph(x, 1.0, loop=True, max_num_neighbors=2).tolist() == [looped, center]


# --- fps


def fps_brute(
    x: Tensor, batch: Tensor, num_picks: Sequence[int], start: Sequence[int]
) -> list[int]:
    """Each cloud alone through the dense operator, which has its own oracle."""
    picks = []
    for one, (picked, begin) in enumerate(zip(num_picks, start, strict=True)):
        members = (batch == one).nonzero()[:, 0]
        if len(members):
            order = farthest_point_sample(x[members][None], picked, start=begin)[0]
            picks += members[order].tolist()
    return picks


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sizes", BATCHES.values(), ids=BATCHES)
@pytest.mark.parametrize("ratio", [0.01, 0.3, 1.0])
def test_fps_is_that_of_each_cloud(
    device: str, kind: str, sizes: dict[int, int], ratio: float
) -> None:
    x, batch = (tensor.to(device) for tensor in flat(kind, sizes))
    every = [sizes.get(one, 0) for one in range(max(sizes) + 1)]
    num_picks = [int(np.ceil(np.float32(size) * np.float32(ratio))) for size in every]
    picks = fps(x, batch, ratio, random_start=False)
    assert picks.dtype == torch.long
    assert picks.device.type == device
    assert picks.tolist() == fps_brute(x, batch, num_picks, [0] * len(every))


def test_fps_rounds_up_in_float32_and_takes_a_ratio_for_each_cloud(device: str) -> None:
    x, batch = (tensor.to(device) for tensor in flat("surface", {0: 10, 1: 10, 3: 7}))
    # 0.7 * 10 is 7 in float32; 0.1 of 7 points is one.
    ratio = torch.tensor([0.7, 1.0, 0.5, 0.1], device=device)
    picks = fps(x, batch, ratio, random_start=False)
    assert batch[picks].bincount().tolist() == [7, 10, 0, 1]
    assert picks.tolist() == fps_brute(x, batch, [7, 10, 0, 1], [0] * 4)
    assert len(fps(x, batch, torch.tensor(0.7))) == len(fps(x, batch, 0.7)) == 7 + 7 + 5


def test_fps_starts_anywhere_and_repeats_with_the_generator(device: str) -> None:
    x, batch = (tensor.to(device) for tensor in flat("surface", {0: 3, 2: 500}))
    drawn = [fps(x, batch, 0.01, generator=seeded(seed)).tolist() for seed in range(60)]
    assert drawn == [fps(x, batch, 0.01, generator=seeded(seed)).tolist() for seed in range(60)]
    assert {picks[0] for picks in drawn} == {0, 1, 2}
    starts = {picks[1] for picks in drawn}
    assert len(starts) > 50
    assert {start // 126 for start in starts} == {0, 1, 2, 3}
    for picks in drawn[:5]:
        begin = [picks[0], 0, picks[1] - 3]
        assert picks == fps_brute(x, batch, [1, 0, 5], begin)
    torch.manual_seed(0)
    drawn_twice = fps(x, batch), fps(x, batch)
    torch.manual_seed(0)
    assert torch.equal(fps(x, batch), drawn_twice[0])
    assert not torch.equal(*drawn_twice)


# --- inputs of any form


def test_one_and_two_columns_are_padded_exactly(device: str) -> None:
    x, batch = (tensor.to(device) for tensor in flat("surface", {0: 30, 1: 9}))
    for columns in (1, 2):
        padded = x.clone()
        padded[:, columns:] = 0
        few = x[:, :columns]
        assert torch.equal(knn_graph(few, 4, batch), knn_graph(padded, 4, batch))
        assert torch.equal(
            radius(few, few, 0.4, batch, batch), radius(padded, padded, 0.4, batch, batch)
        )
        assert torch.equal(fps(few, batch, 0.5, False), fps(padded, batch, 0.5, False))
    assert torch.equal(knn_graph(x[:, 0], 4, batch), knn_graph(x[:, :1], 4, batch))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_float_layout_and_integer_dtype_without_gradient(
    device: str, dtype: torch.dtype
) -> None:
    x, batch = flat("lattice", {0: 30, 1: 9})
    expected = knn_graph(x.to(device), 4, batch.to(device))
    wide = torch.stack((x, x), 1).to(device, dtype)[:, 0].requires_grad_()
    assert not wide.is_contiguous()
    edges = knn_graph(wide, 4, batch.to(device, torch.uint8))
    assert not edges.requires_grad
    assert torch.equal(edges, expected)
    numbers = knn_graph(wide, np.int64(4), batch.to(device))
    assert torch.equal(numbers, expected)
    assert torch.equal(radius_graph(wide, np.float32(0.5)), radius_graph(wide, 0.5))
    picks = fps(wide, batch.to(device, torch.int32), random_start=False)
    assert torch.equal(picks, fps(x.to(device), batch.to(device), random_start=False))


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_points_that_are_not_finite_have_no_edges(device: str, value: float) -> None:
    sizes = {0: 12, 1: 3, 2: 40}
    x, batch = flat("surface", sizes)
    bad = [0, 5, 12, 13, 14, 30]  # all of cloud 1
    x[bad, 1] = value
    args = (x.to(device), batch.to(device))
    for k in (1, 5, 50):
        for loop in (False, True):
            center, neighbor = brute(x, x, batch, batch, k, loop=loop)
            assert knn_graph(args[0], k, args[1], loop).tolist() == [neighbor, center]
            center, neighbor = brute(x, x, batch, batch, k, r=0.5, loop=loop)
            assert radius_graph(args[0], 0.5, args[1], loop, k).tolist() == [neighbor, center]
            assert not set(bad) & {*center, *neighbor}
    picks = fps(args[0], args[1], 0.5)
    assert batch[picks.cpu()].bincount().tolist() == [6, 2, 20]
    assert not {0, 5, 30} & set(picks.tolist())


def test_no_points_give_no_edges(device: str) -> None:
    none, some = torch.empty(0, 3, device=device), torch.rand(4, 3, device=device)
    for edges in (
        knn(none, some, 2),
        knn(some, none, 2),
        knn_graph(none, 2),
        radius_graph(none, 1.0, torch.empty(0, dtype=torch.long, device=device)),
        knn_graph(some[:1], 3),
        knn(some, some, 2, torch.zeros_like(some[:, 0]).long(), torch.ones_like(some[:, 0]).long()),
    ):
        assert edges.shape == (2, 0)
        assert edges.dtype == torch.long
        assert edges.device.type == device
    assert fps(none).shape == (0,)


def test_batch_size_adds_empty_clouds_only(device: str) -> None:
    x, batch = (tensor.to(device) for tensor in flat("surface", {0: 5, 2: 8}))
    assert torch.equal(knn_graph(x, 3, batch, batch_size=9), knn_graph(x, 3, batch))
    assert torch.equal(knn_graph(x, 3, batch_size=9), knn_graph(x, 3))
    assert len(fps(x, batch, torch.full((4,), 0.5), batch_size=4)) == 3 + 4


@pytest.mark.parametrize("elements", [1, 50, 700])
def test_forming_few_edges_at_a_time_changes_nothing(
    device: str, monkeypatch: pytest.MonkeyPatch, elements: int
) -> None:
    x, batch = (tensor.to(device) for tensor in flat("lattice", BATCHES["ragged"]))
    expected = knn_graph(x, 5, batch), radius(x, x, 0.3, batch, batch)
    monkeypatch.setattr(_ragged, "_CHUNK_ELEMENTS", elements)
    assert torch.equal(knn_graph(x, 5, batch), expected[0])
    assert torch.equal(radius(x, x, 0.3, batch, batch), expected[1])


@pytest.mark.parametrize(
    "sizes", [*BATCHES.values(), {0: 10000, **dict.fromkeys(range(1, 900), 3)}]
)
def test_padding_stays_within_twice_the_points(sizes: dict[int, int]) -> None:
    size = torch.zeros(max(sizes) + 1, dtype=torch.long)
    size[list(sizes)] = torch.tensor(list(sizes.values()))
    groups = _ragged.padding_groups(size)
    assert torch.cat(groups).sort().values.tolist() == sorted(sizes)
    padded = sum(len(group) * int(size[group].max()) for group in groups)
    assert padded <= 2 * int(size.sum())


# --- beside torch_cluster and torch_geometric


def test_edges_are_those_of_torch_cluster(device: str) -> None:
    torch_cluster = pytest.importorskip("torch_cluster")
    x, batch_x = flat("surface", BATCHES["ragged"])
    y, batch_y = flat("surface", BATCHES["ragged"], seed=50)
    ours = [tensor.to(device) for tensor in (x, y, batch_x, batch_y)]
    for k in (1, 5, 20):
        edges = knn(ours[0], ours[1], k, ours[2], ours[3])
        assert torch.equal(edges.cpu(), torch_cluster.knn(x, y, k, batch_x, batch_y))
        for flow in ("source_to_target", "target_to_source"):
            for loop in (False, True):
                edges = knn_graph(ours[0], k, ours[2], loop, flow)
                assert torch.equal(edges.cpu(), torch_cluster.knn_graph(x, k, batch_x, loop, flow))
                # It walks a tree, so the order within a centre is its own; 64 cuts none of them.
                edges = radius_graph(ours[0], 0.4, ours[2], loop, 64, flow)
                expected = torch_cluster.radius_graph(x, 0.4, batch_x, loop, 64, flow)
                assert sorted(edges.T.tolist()) == sorted(expected.T.tolist())
    for ratio in (0.1, 0.3, 0.5, 0.7):
        expected = torch_cluster.fps(x, batch_x, ratio, False)
        assert torch.equal(fps(ours[0], ours[2], ratio, False).cpu(), expected)


def test_torch_geometrics_layers_run_on_the_edges(device: str) -> None:
    x, batch = (tensor.to(device) for tensor in flat("surface", BATCHES["ragged"]))
    torch.manual_seed(0)
    edge = EdgeConv(torch.nn.Linear(6, 8), aggr="max").to(device)
    edges = knn_graph(x, 5, batch)
    out = edge(x, edges)
    row = 20
    neighbor = edges[0][edges[1] == row]
    assert len(neighbor) == 5
    center = x[row].expand(5, 3)
    expected = edge.nn(torch.cat((center, x[neighbor] - center), 1)).amax(0)
    torch.testing.assert_close(out[row], expected)

    # Set abstraction as in torch_geometric's PointNet++ example.
    picks = fps(x, batch, 0.25)
    row, column = radius(x, x[picks], 0.4, batch, batch[picks], max_num_neighbors=16)
    layer = PointNetConv(torch.nn.Linear(3, 8), add_self_loops=False).to(device)
    out = layer((None, None), (x, x[picks]), torch.stack((column, row)))
    assert out.shape == (len(picks), 8)
    first = x[column[row == 0]] - x[picks[0]]
    torch.testing.assert_close(out[0], layer.local_nn(first).amax(0))


# --- errors

X, IDS = torch.rand(6, 3), torch.tensor([0, 0, 0, 1, 1, 1])
ERRORS: dict[str, tuple[Callable[[], Tensor], type[Exception], str]] = {
    "not a tensor": (lambda: fps(X.numpy()), TypeError, "x must be a torch.Tensor, got ndarray"),
    "columns": (
        lambda: knn_graph(torch.rand(6, 4), 2),
        ValueError,
        r"x must be coordinates of shape \(N, D\) with 1 <= D <= 3, or \(N,\), got \(6, 4\)",
    ),
    "dense": (lambda: fps(X[None]), ValueError, r"x must be .* got \(1, 6, 3\)"),
    "integers": (lambda: knn(X, X.long(), 1), TypeError, r"y must be floating point.*y\.float"),
    "other columns": (
        lambda: knn(X, X[:, :2], 1),
        ValueError,
        r"x and y must have the same columns, got \(6, 3\) and \(6, 2\)",
    ),
    "device": (lambda: knn(X, X.to("meta"), 1), ValueError, "x and y must be on one device"),
    "batch shape": (
        lambda: knn_graph(X, 2, IDS[:4]),
        ValueError,
        r"batch must have shape \(N,\) = \(6,\), one id for each point, got \(4,\)",
    ),
    "batch dtype": (lambda: fps(X, IDS.float()), TypeError, "batch must be integers.*long"),
    "batch order": (
        lambda: radius(X, X, 1.0, IDS, IDS.flip(0)),
        ValueError,
        r"batch_y must be sorted.*batch_y\.argsort\(stable=True\)",
    ),
    "batch order, small dtype": (
        lambda: fps(X, IDS.flip(0).to(torch.uint8)),
        ValueError,
        "batch must be sorted",
    ),
    "batch negative": (lambda: fps(X, IDS - 1), ValueError, "batch must not be negative, got -1"),
    "batch_size": (
        lambda: knn_graph(X, 2, IDS, batch_size=1),
        ValueError,
        "batch must be between 0 and batch_size-1=0, got 1",
    ),
    "no batch_size": (lambda: fps(X, batch_size=0), ValueError, "batch_size must be at least 1"),
    "one batch": (
        lambda: knn(X, X, 1, batch_y=IDS),
        ValueError,
        "batch_x must be given where the other side has several clouds",
    ),
    "k": (lambda: knn(X, X, 0), ValueError, "k must be at least 1, got 0"),
    "k of a graph": (lambda: knn_graph(X, 2.0), TypeError, "k must be an int, got float"),
    "cosine": (
        lambda: knn(X, X, 1, cosine=True),
        ValueError,
        r"cosine must be False.*torch\.nn\.functional\.normalize",
    ),
    "cosine of a graph": (lambda: knn_graph(X, 1, cosine=True), ValueError, "cosine must be"),
    "r": (lambda: radius(X, X, 0.0), ValueError, "r must be positive, got 0.0"),
    "r of a graph": (lambda: radius_graph(X, NAN), ValueError, "r must be positive, got nan"),
    "max_num_neighbors": (
        lambda: radius_graph(X, 1.0, max_num_neighbors=0),
        ValueError,
        "max_num_neighbors must be at least 1, got 0",
    ),
    "flow": (
        lambda: knn_graph(X, 1, flow="both"),
        ValueError,
        "flow must be one of 'source_to_target', 'target_to_source', got 'both'",
    ),
    "ratio": (lambda: fps(X, ratio=0.0), ValueError, "ratio must be above 0 and at most 1"),
    "ratio of a cloud": (
        lambda: fps(X, IDS, torch.tensor([0.5, 1.5])),
        ValueError,
        r"ratio must be above 0 and at most 1, got \[0\.5, 1\.5\]",
    ),
    "ratio shape": (
        lambda: fps(X, IDS, torch.rand(3)),
        ValueError,
        r"ratio must be a number or have shape \(B,\) = \(2,\), got \(3,\)",
    ),
}


@pytest.mark.parametrize(("call", "error", "message"), ERRORS.values(), ids=ERRORS)
def test_errors(call: Callable[[], Tensor], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
