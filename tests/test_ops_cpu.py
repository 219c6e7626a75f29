"""What is particular to the numba kernels: boxes, threads, forks, compilation."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ea_pointcloud.ops import _cpu, _reference
from ea_pointcloud.ops._cpu import _ball, _cloud, _neighbors, _pool, _sampling
from tests.oracles import CLOUDS, cloud, seeded

NAN, INF = float("nan"), float("inf")
GROUP_POINTS = _cloud.LEAF * _cloud.GROUP
# A ball that holds some points of most kinds; the others are all in, or alone.
RADIUS = 0.2


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture
def small_boxes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut clouds of any size into boxes."""
    for module in (_ball, _neighbors, _sampling):
        monkeypatch.setattr(module, "BOXES_FROM", 1)
    for module in (_ball, _neighbors):
        monkeypatch.setattr(module, "BOXES_FROM_QUERIES", 1)


def zeros(batch: int) -> Tensor:
    return torch.zeros(batch, dtype=torch.long)


def assert_same(
    query: Tensor, points: Tensor, k: int, lengths: Tensor | None = None, radius: float = RADIUS
) -> None:
    """Every operator gives what the reference gives, bit for bit."""
    expected = [
        *_reference.knn(query, points, k, lengths),
        *_reference.ball_query(query, points, radius, k, lengths),
        _reference.farthest_point_sample(points, 64, lengths, zeros(len(points))),
    ]
    found = [
        *_cpu.knn(query, points, k, lengths),
        *_cpu.ball_query(query, points, radius, k, lengths),
        _cpu.farthest_point_sample(points, 64, lengths, zeros(len(points))),
    ]
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        assert one.is_contiguous()
        assert torch.equal(one, other)


# --- agreement with the reference


@pytest.mark.parametrize("num_points", [2047, 2048, 2999, 3000, 4095, 4096, 6000])
@pytest.mark.parametrize("kind", ["surface", "lattice"])
def test_large_clouds_on_both_sides_of_each_threshold(
    kind: str, num_points: int, threads: int
) -> None:
    points = cloud(kind, num_points, batch=2)
    for queries in (255, 256):
        assert_same(cloud(kind, queries, batch=2, seed=1), points, 20)


@pytest.mark.parametrize("num_points", [1, 63, 64, 65, 129, 2047, 2048, 2049, 4500])
@pytest.mark.parametrize("kind", CLOUDS)
@pytest.mark.usefixtures("small_boxes")
def test_boxes_of_any_size(kind: str, num_points: int) -> None:
    points = cloud(kind, num_points)
    query = torch.cat([points[:, -30:], cloud(kind, 40, seed=1)], 1)
    for k in {1, min(num_points, 20)}:
        assert_same(query, points, k)


@pytest.mark.parametrize("k", [64, 65, 150, 200, 700])
@pytest.mark.parametrize("kind", ["surface", "lattice", "equal"])
@pytest.mark.parametrize("boxes", [False, True])
def test_many_neighbours(kind: str, k: int, boxes: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_neighbors, "BOXES_FROM", 1 if boxes else 10_000)
    monkeypatch.setattr(_neighbors, "BOXES_FROM_QUERIES", 1)
    monkeypatch.setattr(_ball, "BOXES_FROM", 1 if boxes else 10_000)
    monkeypatch.setattr(_ball, "BOXES_FROM_QUERIES", 1)
    points = cloud(kind, 2500)
    assert_same(cloud(kind, 50, seed=1), points, k, radius=0.7)
    assert_same(points[:, :20], points[:, :k], k, radius=100.0)


@pytest.mark.parametrize("kind", ["surface", "tenths"])
def test_a_long_order_in_a_large_cloud(kind: str) -> None:
    xyz = cloud(kind, 5000, batch=2)
    start = torch.tensor([4999, 17])
    expected = _reference.farthest_point_sample(xyz, 3000, None, start)
    assert torch.equal(_cpu.farthest_point_sample(xyz, 3000, None, start), expected)


def test_a_large_cloud_in_full_is_a_permutation() -> None:
    xyz = cloud("lattice", 6000)  # 64 places, about 94 points in each
    idx = _cpu.farthest_point_sample(xyz, 9000, None, zeros(1))[0]
    assert torch.equal(idx[:6000].sort().values, torch.arange(6000))
    assert torch.equal(idx[6000:], idx[:3000])


def test_points_among_themselves_are_the_same_as_points_among_copies() -> None:
    # A cloud that is searched for its own points is cut into boxes once.
    points = cloud("surface", 5000, batch=2)
    itself, copy = _cpu.knn(points, points, 9, None), _cpu.knn(points.clone(), points, 9, None)
    assert torch.equal(itself[1], copy[1])
    assert torch.equal(itself[1][..., 0], torch.arange(5000).expand(2, -1))


@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_thousands_of_equal_points(spread: float, threads: int) -> None:
    # As depth sensors write them: missing measurements at the origin, here two thirds.
    points = spread * cloud("surface", 20_000)
    points[:, ::3], points[:, 1::3] = 0, 0
    points = points[:, torch.randperm(20_000, generator=seeded())]
    query = torch.cat([points[:, :150], cloud("surface", 150)], 1)
    assert_same(query, points, 20)


@pytest.mark.parametrize("num_points", [500, 5000])
def test_lengths_and_points_that_are_not_finite(num_points: int) -> None:
    points = cloud("surface", num_points, batch=4)
    points[0, ::2, 1], points[0, 1::7, 0], points[1, : num_points // 2, 2] = NAN, INF, -INF
    query = points[:, :300].clone()
    points[2, 40:] = NAN
    lengths = torch.tensor([num_points, num_points - 70, 60, 1], dtype=torch.int32)
    assert_same(query, points, 50, lengths)
    assert_same(query, points, 50)
    assert_same(points[:, ::8], points, 3, lengths, radius=INF)


def test_start_and_lengths_of_any_layout() -> None:
    xyz = cloud("surface", 100, batch=3)
    lengths, start = torch.tensor([[90, 0], [80, 0], [70, 0]])[:, 0], torch.tensor(5).expand(3)
    expected = _reference.farthest_point_sample(xyz, 20, lengths, start)
    assert torch.equal(_cpu.farthest_point_sample(xyz, 20, lengths, start), expected)


@pytest.mark.parametrize("num_points", [1, 100, 5000])
def test_a_cloud_without_a_valid_point_gives_indices_to_gather_with(num_points: int) -> None:
    points = torch.full((2, num_points, 3), NAN)
    points[1] = cloud("surface", num_points)[0]
    query = cloud("surface", 300, batch=2, seed=1)
    query[0, 0] = NAN
    k = min(num_points, 5)
    idx = [
        _cpu.knn(query, points, k, None)[1],
        _cpu.ball_query(query, points, RADIUS, k, None)[0],
        _cpu.farthest_point_sample(points, 10, None, zeros(2)),
    ]
    for one in idx:
        assert int(one.min()) >= 0
        assert int(one.max()) < num_points
    assert (_cpu.ball_query(query, points, RADIUS, k, None)[1][0] == 0).all()
    whole = _reference.knn(query[1:], points[1:], k, None)[1]
    assert torch.equal(idx[0][1:], whole)  # the cloud beside it is not disturbed


def test_a_batch_without_clouds() -> None:
    points, query = torch.empty(0, 5000, 3), torch.empty(0, 300, 3)
    assert _cpu.knn(query, points, 4, None)[1].shape == (0, 300, 4)
    assert _cpu.knn(query, points[:, :9], 4, None)[1].shape == (0, 300, 4)
    assert _cpu.ball_query(query, points, 1.0, 4, None)[0].shape == (0, 300, 4)
    assert _cpu.farthest_point_sample(points, 7, None, zeros(0)).shape == (0, 7)


def test_boxes_hold_their_points() -> None:
    xyz = cloud("surface", GROUP_POINTS * 3 + 100)
    boxes = _cloud.build(*_cloud.as_arrays(xyz, None), 5)[0]
    assert boxes.lowest.tolist() == list(range(5))
    used = -(-xyz.shape[1] // _cloud.LEAF)
    seen = []
    for leaf in range(used):
        idx = boxes.index[leaf][boxes.index[leaf] < xyz.shape[1]]
        seen += idx.tolist()
        points = xyz[0, idx]
        low, high = points.amin(0), points.amax(0)
        assert boxes.first[leaf] == idx.min()
        assert boxes.leaves[:, leaf].tolist() == torch.stack([low, high], 1).flatten().tolist()
    assert sorted(seen) == list(range(xyz.shape[1]))
    # Sorted, not only bounded: boxes of a surface are far smaller than the cloud.
    size = boxes.leaves[1::2, :used] - boxes.leaves[::2, :used]
    assert size.max(0).mean() < 0.35


# --- threads and processes


def test_parts_cover_everything_once(threads: int) -> None:
    for total in (0, 1, 7, 1000):
        for steps in (1, 10_000, 10**9):
            cuts = _pool.parts(total, steps)
            assert [i for low, high in cuts for i in range(low, high)] == list(range(total))
    assert len(_pool.parts(10, 1)) == 1  # not worth a thread
    assert len(_pool.parts(10, 10**9)) == (1 if threads == 1 else 8)


def test_the_number_of_threads_does_not_show() -> None:
    points, query = cloud("surface", 20_000, batch=2), cloud("surface", 2000, batch=2, seed=1)
    results = []
    before = torch.get_num_threads()
    for number in (1, 2, 3):
        torch.set_num_threads(number)
        results.append(
            [
                *_cpu.knn(query, points, 8, None),
                *_cpu.knn(query, points[:, :900].contiguous(), 8, None),
                *_cpu.ball_query(query, points, 0.05, 8, None),
                _cpu.farthest_point_sample(points, 500, None, zeros(2)),
            ]
        )
    torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(*pair) for pair in zip(results[0], other, strict=True))


def test_a_failure_in_a_thread_is_raised(threads: int) -> None:
    with pytest.raises(ZeroDivisionError):
        _pool.run(lambda number: 1 // number, [(1,), (0,)])


class Sampled(Dataset):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, item: int) -> tuple[Tensor, int]:
        xyz = cloud("surface", 5000, seed=item)
        idx = _cpu.farthest_point_sample(xyz, 50, None, zeros(1))
        neighbors = _cpu.knn(xyz, xyz, 4, None)[1]
        return torch.cat([idx.flatten(), neighbors.flatten()]), _pool.num_threads()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing to fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # on one core
def test_forked_workers_of_a_loader_after_threads_in_the_parent() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    expected = [Sampled()[item][0] for item in range(4)]
    assert _pool._pools  # the threads exist
    loader = DataLoader(
        Sampled(), batch_size=None, num_workers=2, multiprocessing_context="fork", timeout=120
    )
    for (idx, threads), wanted in zip(loader, expected, strict=True):
        assert torch.equal(idx, wanted)
        assert threads == 1
    torch.set_num_threads(before)


# --- compilation

SAMPLE = """
import torch
from ea_pointcloud.ops import _cpu
xyz = torch.eye(3)[None]
print(_cpu.farthest_point_sample(xyz, 3, None, torch.zeros(1, dtype=torch.long)).tolist())
"""
MORE = "print(_cpu.ball_query(xyz, xyz, 1.0, 1, None)[0].tolist())\n"
NOTICE = "ea-pointcloud: compiling the CPU operators, some seconds each at its first call; "


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
        env={**os.environ, **environment},
    )


@pytest.mark.slow
def test_compilation_is_said_once_and_kept(tmp_path: Path) -> None:
    first = run_python(SAMPLE + MORE, NUMBA_CACHE_DIR=str(tmp_path))
    assert first.stdout == "[[0, 1, 2]]\n[[[0], [1], [2]]]\n"
    assert first.stderr.startswith(NOTICE)
    assert len(first.stderr.splitlines()) == 1  # for the second operator nothing more
    second = run_python(SAMPLE + MORE, NUMBA_CACHE_DIR=str(tmp_path))
    assert second.stdout == first.stdout
    assert second.stderr == ""  # loaded, not compiled


def test_compilation_by_others_is_not_said() -> None:
    code = "import numba\nfrom ea_pointcloud.ops import _cpu\nnumba.njit(lambda: 1)()"
    assert run_python(code).stderr == ""


def test_kernels_run_where_nothing_can_be_kept() -> None:
    # What numba does when the installation and the user's folder are both read-only.
    code = """
from numba.core.dispatcher import Dispatcher
def refuse(self):
    raise RuntimeError("cannot cache function: no locator available")
Dispatcher.enable_caching = refuse
"""
    done = run_python(code + SAMPLE)
    assert done.stdout == "[[0, 1, 2]]\n"
    assert done.stderr.startswith(NOTICE)


@pytest.mark.slow
def test_after_a_warm_up_nothing_is_left_to_compile() -> None:
    code = """
import torch
from ea_pointcloud.ops import _cpu
from ea_pointcloud.ops._cpu import _ball, _boxes, _cloud, _neighbors, _sampling, _select
modules = _ball, _boxes, _cloud, _neighbors, _sampling, _select
def compiled():
    kernels = {k for m in modules for k in vars(m).values() if hasattr(k, "overloads")}
    return sum(len(kernel.overloads) for kernel in kernels)
torch.set_num_threads(1)
_cpu.warm_up()
before = compiled()
for size in (50, 70_000):
    xyz = torch.rand(2, size, 3)
    xyz[1, 3] = torch.nan
    for lengths in (None, torch.tensor([size, size // 2])):
        start = torch.tensor([0, 9])
        _cpu.farthest_point_sample(xyz, 10, lengths, start)
        _cpu.knn(xyz[:, :300], xyz, 5, lengths)
        _cpu.ball_query(xyz[:, :300], xyz, 0.2, 5, lengths)
print(before > 10, compiled() - before)
"""
    assert run_python(code).stdout == "True 0\n"


@pytest.mark.parametrize("boxes_from", [1, 10_000])
def test_values_that_nobody_checked_stay_inside(
    boxes_from: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A compiled graph calls the operators without the checks of values.
    for module in (_ball, _neighbors, _sampling):
        monkeypatch.setattr(module, "BOXES_FROM", boxes_from)
    for module in (_ball, _neighbors):
        monkeypatch.setattr(module, "BOXES_FROM_QUERIES", 1)
    xyz = cloud("surface", 100, batch=2)
    lengths, start = torch.tensor([100, 5_000_000]), torch.tensor([-3, 50_000_000])
    results = [
        _cpu.knn(xyz, xyz, 3, lengths)[1],
        _cpu.ball_query(xyz, xyz, RADIUS, 3, lengths)[0],
        _cpu.farthest_point_sample(xyz, 9, lengths, start),
    ]
    for idx in results:
        assert 0 <= int(idx.min()) <= int(idx.max()) < 100


@pytest.mark.parametrize("kind", ["there and back", "ring", "sorted"])
def test_the_order_of_a_scan_does_not_slow_it_down(kind: str) -> None:
    # Median splits with pivots from fixed places took minutes for these orders.
    turn = torch.linspace(0, 1, 400_000)
    x = {
        "there and back": 1 - (2 * turn - 1).abs(),
        "ring": (6.2831853 * turn).cos(),
        "sorted": turn,
    }
    xyz = torch.stack([x[kind], torch.zeros_like(turn), 0.01 * turn], -1)[None]
    start = time.process_time()
    _cpu.farthest_point_sample(xyz, 8, None, zeros(1))
    assert time.process_time() - start < 20
