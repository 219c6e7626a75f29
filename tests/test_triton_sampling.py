"""What the shared test bodies cannot reach: large clouds in blocks, on small ones, and the boxes.

Runs on a GPU, or without one where TRITON_INTERPRET=1.
"""

import os
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

import triton
import triton.language as tl

from ea_pointcloud.ops import _reference
from ea_pointcloud.ops._coordinates import valid_points
from ea_pointcloud.ops._triton import _common, sampling
from tests.oracles import CLOUDS, cloud, fps_oracle, running, seeded

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
NAN, INF = float("nan"), float("inf")


@pytest.fixture(
    params=[
        pytest.param(
            "cpu",
            id="triton-interpreter",
            marks=pytest.mark.skipif(not INTERPRETED, reason="set TRITON_INTERPRET=1"),
        ),
        pytest.param("cuda", id="triton-cuda", marks=pytest.mark.gpu),
    ]
)
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    # The interpreter computes with numpy, which warns where a distance overflows.
    with running((sampling, request.param)) as device, np.errstate(over="ignore", invalid="ignore"):
        yield device


# Many blocks, all visited at once; few, which have to grow, visited one by one.
@pytest.fixture(params=[(8, 2048, 2048), (2, 8, 16)], ids=["many", "few"])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "REGISTER_POINTS", 0)
    size, max_blocks, tile = request.param
    monkeypatch.setattr(sampling, "BLOCK_POINTS", size)
    monkeypatch.setattr(sampling, "MAX_BLOCKS", max_blocks)
    monkeypatch.setattr(sampling, "TILE_POINTS", tile)


def sample(
    xyz: Tensor,
    num_samples: int,
    device: str,
    lengths: list[int] | None = None,
    start: list[int] | None = None,
) -> list[list[int]]:
    start = start or [0] * len(xyz)
    return sampling.farthest_point_sample(
        xyz.to(device),
        num_samples,
        None if lengths is None else torch.tensor(lengths, device=device),
        torch.tensor(start, device=device),
    ).tolist()


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("kind", CLOUDS)
def test_blocks_equal_the_oracle(device: str, kind: str) -> None:
    xyz = cloud(kind, 65)
    assert sample(xyz, 65, device, start=[64]) == fps_oracle(xyz, 65, start=[64])


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("kind", ["surface", "lattice"])
def test_blocks_of_ragged_clouds_with_points_that_are_not_finite(device: str, kind: str) -> None:
    xyz = cloud(kind, 64, batch=4)
    xyz[0, ::3, 1] = NAN
    xyz[1, :7] = INF
    xyz[2, 33:] = -INF
    lengths, start = [50, 64, 33, 1], [3, 5, 40, 63]  # a NaN, an infinite one, padding, padding
    assert sample(xyz, 60, device, lengths, start) == fps_oracle(xyz, 60, lengths, start)


@pytest.mark.usefixtures("blocks")
def test_blocks_of_a_cloud_without_valid_points(device: str) -> None:
    xyz = torch.full((2, 20, 3), NAN)
    xyz[1] = cloud("surface", 20)[0]
    empty, full = sample(xyz, 6, device, start=[4, 4])
    assert all(0 <= i < 20 for i in empty)
    assert [full] == fps_oracle(xyz[1:], 6, start=[4])


def test_registers_of_a_cloud_without_valid_points(device: str) -> None:
    idx = sample(torch.full((1, 20, 3), NAN), 6, device, start=[4])
    assert all(0 <= i < 20 for i in idx[0])


def test_a_start_outside_the_cloud_is_the_first_valid_point(device: str) -> None:
    # On a GPU the values of start are not looked at before the kernel.
    xyz = cloud("surface", 20, batch=2)
    xyz[:, 0] = NAN
    idx = sample(xyz, 5, device, start=[-1, 2**40])
    assert idx == fps_oracle(xyz, 5, start=[1, 1])


def test_blocks_of_the_released_size(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "REGISTER_POINTS", 0)
    xyz = cloud("surface", 5000)
    assert sample(xyz, 40, device) == fps_oracle(xyz, 40)


@pytest.mark.gpu
@pytest.mark.parametrize("num_points", [16384, 16385, 300_000])
def test_large_clouds_equal_the_reference(num_points: int) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    xyz, start = cloud("surface", num_points, batch=2).cuda(), torch.tensor([0, 9]).cuda()
    expected = _reference.farthest_point_sample(xyz, 2000, None, start)
    assert torch.equal(sampling.farthest_point_sample(xyz, 2000, None, start), expected)


# --- blocks and their boxes


@pytest.mark.parametrize("kind", CLOUDS)
def test_blocks_hold_each_valid_point_once_and_their_boxes_hold_the_points(kind: str) -> None:
    xyz = cloud(kind, 70, batch=2)
    xyz[0, ::5] = torch.tensor([INF, 0.0, NAN])
    valid = valid_points(xyz, torch.tensor([70, 40]))
    blocks = _common.sort_into_blocks(xyz, valid, 16)
    assert blocks.xyz.shape == (2, 3, 80)
    assert blocks.low.shape == blocks.high.shape == (2, 3, 5)
    for b in range(2):
        held = blocks.index[b] >= 0
        index = blocks.index[b][held].long()
        assert index.sort().values.tolist() == valid[b].nonzero()[:, 0].tolist()
        assert torch.equal(blocks.xyz[b][:, held], xyz[b, index].T)
        assert not blocks.xyz[b][:, ~held].any()
        block = held.nonzero()[:, 0] // 16
        assert (blocks.low[b][:, block] <= xyz[b, index].T).all()
        assert (blocks.high[b][:, block] >= xyz[b, index].T).all()
    assert blocks.low[1, 0, -1] == INF  # a block without points is infinitely far
    assert blocks.high[1, 0, -1] == -INF


def test_morton_order_visits_the_corners_of_a_cube_by_their_bits() -> None:
    # Hand-worked: x is the lowest bit of the code, z the highest.
    corners = torch.tensor([[x, y, z] for x in (0.0, 1) for y in (0.0, 1) for z in (0.0, 1)])
    order = _common.morton_order(corners[None], torch.ones(1, 8, dtype=torch.bool))
    assert order.tolist() == [[0, 4, 2, 6, 1, 5, 3, 7]]


@triton.jit
def bounds_and_distances(xyz_ptr, bound_ptr, sq_dist_ptr, SIZE: tl.constexpr):
    """A query, a point and the corners of a box around it in each row of (N, 12)."""
    row = tl.arange(0, SIZE)
    xyz_ptr += row * 12
    x, y, z = tl.load(xyz_ptr), tl.load(xyz_ptr + 1), tl.load(xyz_ptr + 2)
    px, py, pz = tl.load(xyz_ptr + 3), tl.load(xyz_ptr + 4), tl.load(xyz_ptr + 5)
    lx, ly, lz = tl.load(xyz_ptr + 6), tl.load(xyz_ptr + 7), tl.load(xyz_ptr + 8)
    hx, hy, hz = tl.load(xyz_ptr + 9), tl.load(xyz_ptr + 10), tl.load(xyz_ptr + 11)
    tl.store(bound_ptr + row, _common.box_bits(x, y, z, lx, ly, lz, hx, hy, hz))
    tl.store(sq_dist_ptr + row, _common.sq_dist_bits(px - x, py - y, pz - z))


@pytest.mark.parametrize("scale", [1e-22, 1e-19, 1e-3, 1.0, 1e18, 1e30])
def test_no_point_of_a_box_is_nearer_than_its_bound(device: str, scale: float) -> None:
    corners = torch.randn(2, 4096, 3, generator=seeded()) * scale
    low, high = corners.amin(0), corners.amax(0)
    point = torch.lerp(low, high, torch.randint(3, low.shape, generator=seeded(1)) / 2)
    point = torch.minimum(torch.maximum(point, low), high)
    query = torch.randn(4096, 3, generator=seeded(2)) * scale
    rows = torch.cat([query, point, low, high], 1).to(device)
    bound, sq_dist = torch.empty(2, 4096, dtype=torch.int32, device=device)
    bounds_and_distances[(1,)](rows, bound, sq_dist, SIZE=4096, enable_fp_fusion=False)
    assert (bound <= sq_dist).all()
    assert (bound == sq_dist).any()  # at the corner nearest to the query
