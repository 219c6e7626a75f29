"""Farthest point, random, voxel and surface sampling."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from ea_pointcloud.ops import (
    farthest_point_sample,
    outermost_point,
    random_point_sample,
    sample_surface,
    voxel_sample,
)
from tests.oracles import CLOUDS, RUNS, cloud, fps_oracle, running, seeded, sq_dists

SQUARE = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
NAN, INF = float("nan"), float("inf")

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


# --- farthest_point_sample


@pytest.mark.parametrize("num_points", [1, 2, 31, 33, 257])
@pytest.mark.parametrize("kind", CLOUDS)
def test_fps_equals_the_oracle(device: str, kind: str, num_points: int) -> None:
    xyz = cloud(kind, num_points, batch=2)
    num_samples = max(1, num_points // 2)
    idx = farthest_point_sample(xyz.to(device), num_samples)
    assert idx.dtype == torch.long
    assert idx.shape == (2, num_samples)
    assert idx.tolist() == fps_oracle(xyz, num_samples)


def test_fps_by_hand(device: str) -> None:
    # On a line at 0, 1, 2, 10, 9: the far end, then the middle (2 beats 1 and 9), 1 before 9 (tie).
    xyz = torch.zeros(1, 5, 3, device=device)
    xyz[0, :, 0] = torch.tensor([0.0, 1, 2, 10, 9])
    assert farthest_point_sample(xyz, 5).tolist() == [[0, 3, 2, 1, 4]]


def test_fps_does_not_skip_points_near_the_origin(device: str) -> None:
    # The classic kernels skip squared norms below 1e-3; here all points are there.
    xyz = cloud("surface", 32) * 1e-2
    idx = farthest_point_sample(xyz.to(device), 32)
    assert sorted(idx[0].tolist()) == list(range(32))


@pytest.mark.parametrize("kind", CLOUDS)
def test_fps_of_all_points_is_a_permutation(device: str, kind: str) -> None:
    xyz = cloud(kind, 65)
    idx = farthest_point_sample(xyz.to(device), 65)
    assert sorted(idx[0].tolist()) == list(range(65))
    assert idx.tolist() == fps_oracle(xyz, 65)


def test_fps_past_the_length_repeats_from_the_start(device: str) -> None:
    xyz = cloud("surface", 20, batch=2)
    lengths = torch.tensor([7, 20])
    idx = farthest_point_sample(xyz.to(device), 45, lengths=lengths.to(device)).cpu()
    assert idx.tolist() == fps_oracle(xyz, 45, [7, 20])
    assert torch.equal(idx[0, 7:14], idx[0, :7])  # property
    assert torch.equal(idx[1, 20:40], idx[1, :20])


@pytest.mark.parametrize("start", [0, 5, 30])
def test_fps_starts_where_told(device: str, start: int) -> None:
    xyz = cloud("surface", 31, batch=2)
    idx = farthest_point_sample(xyz.to(device), 12, start=start)
    assert idx[:, 0].tolist() == [start, start]
    assert idx.tolist() == fps_oracle(xyz, 12, start=[start, start])


def test_fps_starts_per_cloud(device: str) -> None:
    xyz = cloud("surface", 31, batch=3)
    idx = farthest_point_sample(xyz.to(device), 12, start=torch.tensor([30, 0, 7], device=device))
    assert idx.tolist() == fps_oracle(xyz, 12, start=[30, 0, 7])


@pytest.mark.parametrize("padding", [0.0, 100.0, NAN])
@pytest.mark.parametrize("kind", ["surface", "lattice", "equal"])
def test_fps_of_a_ragged_batch_is_that_of_each_cloud(
    device: str, kind: str, padding: float
) -> None:
    lengths = [1, 9, 33, 64]
    xyz = cloud(kind, 64, batch=4)
    for points, length in zip(xyz, lengths, strict=True):
        points[length:] = padding
    idx = farthest_point_sample(xyz.to(device), 16, lengths=torch.tensor(lengths, device=device))
    assert idx.tolist() == fps_oracle(xyz, 16, lengths)
    for points, length, row in zip(xyz, lengths, idx, strict=True):
        alone = farthest_point_sample(points[None, :length].to(device), 16)
        assert torch.equal(alone[0], row)
        assert int(row.max()) < length


@pytest.mark.parametrize("bad", [[0], [3, 4], [0, 1, 29], [0, 15, 29]])
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_fps_never_returns_points_that_are_not_finite(
    device: str, bad: list[int], value: float
) -> None:
    xyz = cloud("surface", 30)
    xyz[0, bad, 1] = value
    idx = farthest_point_sample(xyz.to(device), 60)
    assert not set(idx[0].tolist()) & set(bad)
    assert idx.tolist() == fps_oracle(xyz, 60)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_fps_reads_other_dtypes_as_float32(device: str, dtype: torch.dtype) -> None:
    xyz = cloud("surface", 64).to(dtype)
    assert farthest_point_sample(xyz.to(device), 32).tolist() == fps_oracle(xyz, 32)


def test_fps_reads_any_memory_layout(device: str) -> None:
    xyz = cloud("surface", 64, batch=2)
    strided = torch.empty(3, 64, 4).permute(2, 1, 0)[::2]
    strided.copy_(xyz)
    assert not strided.is_contiguous()
    assert farthest_point_sample(strided.to(device), 32).tolist() == fps_oracle(xyz, 32)


def test_fps_carries_no_gradient_and_alters_nothing(device: str) -> None:
    xyz = cloud("surface", 20).to(device).requires_grad_()
    before = xyz.detach().clone()
    idx = farthest_point_sample(xyz, 10)
    assert not idx.requires_grad
    assert torch.equal(xyz.detach(), before)


def test_fps_keeps_float32_under_autocast(device: str) -> None:
    xyz = cloud("surface", 128)
    with torch.autocast(device, dtype=torch.bfloat16):
        idx = farthest_point_sample(xyz.to(device), 64)
    assert idx.tolist() == fps_oracle(xyz, 64)


integer_clouds = st.lists(
    st.tuples(*[st.integers(-3, 3)] * 3), min_size=1, max_size=24
)  # small integers: exact in float32 and full of ties


@quick
@given(rows=integer_clouds, data=st.data())
def test_fps_properties(device: str, rows: list[tuple[int, int, int]], data: st.DataObject) -> None:
    xyz = torch.tensor(rows, dtype=torch.float32)[None].to(device)
    num_points = len(rows)
    num_samples = data.draw(st.integers(1, num_points))
    start = data.draw(st.integers(0, num_points - 1))
    idx = farthest_point_sample(xyz, num_samples, start=start)
    assert idx.tolist() == fps_oracle(xyz, num_samples, start=[start])
    longer = farthest_point_sample(xyz, num_points, start=start)
    assert torch.equal(longer[:, :num_samples], idx)  # prefix property
    assert len(set(longer[0].tolist())) == num_points  # permutation
    scaled = farthest_point_sample(xyz * 2.0**-20, num_samples, start=start)
    assert torch.equal(scaled, idx)  # a power of two scales without rounding


def test_fps_distances_of_the_picks_do_not_increase(device: str) -> None:
    xyz = cloud("surface", 200)
    picks = xyz[0, farthest_point_sample(xyz.to(device), 200)[0].cpu()].numpy()
    distance = [sq_dists(picks[j], picks[:j]).min() for j in range(1, 200)]
    assert all(np.diff(distance) <= 0)


def test_fps_covers_as_well_as_exact_arithmetic(device: str) -> None:
    # Against float64: the cover radius of every prefix is the same to float32 rounding.
    xyz = cloud("surface", 257)
    idx = farthest_point_sample(xyz.to(device), 64)[0].cpu()
    points = xyz[0].double()
    closest = torch.cdist(points, points[idx]).cummin(1).values.amax(0)
    order, exact = [0], torch.cdist(points, points[:1])[:, 0]
    radius = []
    for _ in range(64):
        radius.append(exact.max())
        order.append(int(exact.argmax()))
        exact = torch.minimum(exact, torch.cdist(points, points[order[-1:]])[:, 0])
    torch.testing.assert_close(closest, torch.stack(radius), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("xyz", "error", "words"),
    [
        (np.zeros((1, 4, 3)), TypeError, "xyz must be a torch.Tensor, got ndarray; convert with"),
        (torch.zeros(4, 3), ValueError, r"xyz must have shape \(B, N, 3\), got \(4, 3\); add a ba"),
        (torch.zeros(1, 4, 2), ValueError, r"xyz must have shape \(B, N, 3\), got \(1, 4, 2\)"),
        (torch.zeros(1, 4, 3, 1), ValueError, r"xyz must have shape \(B, N, 3\)"),
        (torch.zeros(1, 4, 3).long(), TypeError, r"xyz must be floating point, got torch.int64"),
        (torch.zeros(1, 0, 3), ValueError, r"xyz has no points \(shape \(1, 0, 3\)\); drop empty"),
    ],
)
def test_wrong_coordinates(xyz: Tensor, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        farthest_point_sample(xyz, 1)
    with pytest.raises(error, match=words):
        random_point_sample(xyz, 1)


@pytest.mark.parametrize(
    ("lengths", "error", "words"),
    [
        (torch.ones(3).long(), ValueError, r"lengths must have shape \(B,\) = \(2,\), got \(3,\)"),
        (torch.ones(2), TypeError, "lengths must be integers, got torch.float32; convert with"),
        (torch.ones(2).bool(), TypeError, "lengths must be integers, got torch.bool"),
        (torch.tensor([4, 0]), ValueError, r"between 1 and N=4, got \[4, 0\]; drop empty clouds"),
        (torch.tensor([4, 5]), ValueError, r"lengths must be between 1 and N=4, got \[4, 5\]"),
        (torch.ones(2, device="meta").long(), ValueError, "lengths must be on cpu as the points"),
    ],
)
def test_wrong_lengths(lengths: Tensor, error: type[Exception], words: str) -> None:
    xyz = torch.zeros(2, 4, 3)
    with pytest.raises(error, match=words):
        farthest_point_sample(xyz, 1, lengths=lengths)
    with pytest.raises(error, match=words):
        random_point_sample(xyz, 1, lengths=lengths)


@pytest.mark.parametrize("dtype", [torch.int16, torch.int32, torch.int64])
def test_lengths_of_any_integer_type(dtype: torch.dtype) -> None:
    xyz = cloud("surface", 12, batch=2)
    lengths = torch.tensor([5, 12], dtype=dtype)
    assert farthest_point_sample(xyz, 9, lengths=lengths).tolist() == fps_oracle(xyz, 9, [5, 12])
    assert int(random_point_sample(xyz, 9, lengths=lengths)[0].max()) < 5


def test_wrong_number_of_samples() -> None:
    xyz = torch.zeros(1, 4, 3)
    with pytest.raises(ValueError, match="num_samples must be at least 1, got 0"):
        farthest_point_sample(xyz, 0)
    with pytest.raises(ValueError, match="num_samples must be at least 1, got -2"):
        random_point_sample(xyz, -2)


@pytest.mark.parametrize("start", [-1, 4])
def test_wrong_start(start: int) -> None:
    with pytest.raises(ValueError, match=f"start must be between 0 and N-1=3, got {start}"):
        farthest_point_sample(torch.zeros(1, 4, 3), 1, start=start)


def test_wrong_start_shape() -> None:
    words = r"start must be an int or have shape \(B,\) = \(2,\), got \(3,\)"
    with pytest.raises(ValueError, match=words):
        farthest_point_sample(torch.zeros(2, 4, 3), 1, start=torch.zeros(3).long())


@pytest.mark.parametrize("start", [[0, 4], [-1, 0]])
def test_wrong_start_of_one_cloud(start: list[int]) -> None:
    # The docstring promises a ValueError where start is outside the cloud.
    with pytest.raises(ValueError, match="start must be"):
        farthest_point_sample(torch.zeros(2, 4, 3), 1, start=torch.tensor(start))


def test_wrong_start_dtype() -> None:
    with pytest.raises(TypeError, match="start must be"):
        farthest_point_sample(torch.zeros(2, 4, 3), 1, start=torch.zeros(2))


def test_start_of_any_integer_type() -> None:
    xyz = cloud("surface", 12, batch=2)
    start = torch.tensor([5, 11], dtype=torch.int32)
    assert farthest_point_sample(xyz, 9, start=start).tolist() == fps_oracle(xyz, 9, start=[5, 11])


def test_a_start_on_another_device_is_named() -> None:
    start = torch.zeros(1, dtype=torch.long, device="meta")
    with pytest.raises(ValueError, match="start must be on cpu as the points, got meta; use"):
        farthest_point_sample(torch.zeros(1, 4, 3), 2, start=start)


# --- random_point_sample


def test_random_sample_does_not_repeat_up_to_the_length(device: str) -> None:
    xyz = torch.zeros(3, 40, 3, device=device)
    lengths = torch.tensor([40, 11, 1], device=device)
    idx = random_point_sample(xyz, 40, lengths=lengths)
    assert idx.dtype == torch.long
    for row, length in zip(idx.tolist(), [40, 11, 1], strict=True):
        assert sorted(row[:length]) == list(range(length))
        assert row == [row[j % length] for j in range(40)]  # then the picks repeat


def test_random_sample_more_than_there_are() -> None:
    (row,) = random_point_sample(torch.zeros(1, 7, 3), 20).tolist()
    assert sorted(row[:7]) == list(range(7))
    assert row == [row[j % 7] for j in range(20)]


def test_random_sample_follows_the_generator() -> None:
    xyz = torch.zeros(2, 100, 3)
    one, two, other = (random_point_sample(xyz, 50, generator=seeded(seed)) for seed in (0, 0, 1))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert not torch.equal(one[0], one[1])  # clouds draw independently


def test_random_sample_is_roughly_uniform() -> None:
    # 20,000 draws of 2 out of 10: each index 4,000 times, standard deviation 57.
    idx = random_point_sample(torch.zeros(20_000, 10, 3), 2, generator=seeded())
    assert (idx.flatten().bincount(minlength=10) - 4000).abs().max() < 5 * 57


# --- voxel_sample


def test_voxel_sample_by_hand() -> None:
    xyz = torch.tensor(
        [
            [0.9, 0.0, 0.0],  # cell 1
            [0.0, 0.0, 0.0],  # cell 0, the corner of the grid
            [0.4, 0.4, 0.4],  # cell 0 again
            [0.5, 0.0, 0.0],  # cell 1 again: a cube owns its lower face
            [0.0, 0.0, 7.0],  # far away
        ]
    )
    assert voxel_sample(xyz, 0.5).tolist() == [0, 1, 4]


def test_voxel_sample_does_not_depend_on_the_offset() -> None:
    xyz = torch.randint(0, 64, (200, 3), generator=seeded()).float()
    assert torch.equal(voxel_sample(xyz, 8.0), voxel_sample(xyz - 1000.0, 8.0))


def test_voxel_sample_keeps_one_point_a_cell() -> None:
    xyz = cloud("surface", 500)[0]
    idx = voxel_sample(xyz, 0.2)
    # Oracle: the first point of each cell in a dictionary.
    first: dict[tuple[int, ...], int] = {}
    for i, cell in enumerate(torch.floor((xyz - xyz.amin(0)) / 0.2).int().tolist()):
        first.setdefault(tuple(cell), i)
    assert idx.tolist() == sorted(first.values())
    assert idx.dtype == torch.long


def test_voxel_sample_of_one_point() -> None:
    assert voxel_sample(torch.tensor([[3.0, 4.0, 5.0]]), 1.0).tolist() == [0]


def test_voxel_sample_never_returns_points_that_are_not_finite() -> None:
    # "Non-finite points are never returned" holds for every operator.
    xyz = torch.tensor([[NAN, 0.0, 0.0], [0.0, 0.0, 0.0], [5.0, 0.0, 0.0], [0.0, INF, 0.0]])
    assert voxel_sample(xyz, 1.0).tolist() == [1, 2]


def test_voxel_sample_keeps_cells_apart_that_an_int64_cannot_number() -> None:
    xyz = torch.tensor([[0.0, 0, 0], [1e30, 0, 0], [2e30, 0, 0]])
    assert voxel_sample(xyz, 1e-3).tolist() == [0, 1, 2]


@pytest.mark.parametrize("size", [0.0, -1.0, NAN])
def test_voxel_sample_wrong_size(size: float) -> None:
    with pytest.raises(ValueError, match="size must be positive, got"):
        voxel_sample(torch.zeros(4, 3), size)


def test_voxel_sample_wrong_shape() -> None:
    words = r"xyz must have shape \(N, 3\), got \(1, 4, 3\); call once per cloud"
    with pytest.raises(ValueError, match=words):
        voxel_sample(torch.zeros(1, 4, 3), 1.0)


def test_voxel_sample_of_nothing() -> None:
    with pytest.raises(ValueError, match="xyz has no finite point; drop empty clouds first"):
        voxel_sample(torch.zeros(0, 3), 1.0)


# --- sample_surface


def test_surface_sample_draws_by_area() -> None:
    # Two triangles with areas 1/2 and 3/2: a quarter of 40,000 draws, standard deviation 87.
    vertices = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 5], [3, 0, 5], [0, 1, 5]])
    faces = torch.tensor([[0, 1, 2], [3, 4, 5]])
    points, face = sample_surface(vertices, faces, 40_000, generator=seeded())
    assert points.shape == (40_000, 3)
    assert face.dtype == torch.long
    assert abs(int((face == 0).sum()) - 10_000) < 5 * 87
    assert torch.equal(points[:, 2] == 5, face == 1)


def test_surface_points_are_uniform_on_their_triangle() -> None:
    vertices = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]])
    points, _ = sample_surface(vertices, torch.tensor([[0, 1, 2]]), 40_000, generator=seeded())
    x, y, z = points.unbind(1)
    assert (z == 0).all()
    assert (points >= 0).all()
    assert (x + y <= 1 + 1e-6).all()
    # Moments of the unit triangle: mean 1/3, and the similar half-size corner has 1/4 of the area.
    torch.testing.assert_close(points.mean(0)[:2], torch.full((2,), 1 / 3), atol=0.006, rtol=0)
    for corner in (x + y < 0.5, x > 0.5, y > 0.5):
        assert abs(float(corner.float().mean()) - 0.25) < 0.011


def test_surface_points_lie_on_their_triangle_in_space() -> None:
    vertices = torch.randn(12, 3, generator=seeded(), dtype=torch.float64)
    faces = torch.tensor([[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]])
    points, face = sample_surface(vertices, faces, 200, generator=seeded())
    corners = vertices[faces[face]].transpose(1, 2)  # (P, 3 coordinates, 3 corners)
    weight = torch.linalg.solve(corners, points)  # barycentric
    assert (weight > -1e-9).all()
    torch.testing.assert_close(weight.sum(1), torch.ones(200, dtype=torch.float64))


def test_faces_without_area_are_never_chosen() -> None:
    vertices = torch.cat([SQUARE, torch.tensor([[0.5, 0.5, 9.0]])])
    faces = torch.tensor([[4, 4, 4], [0, 1, 2], [4, 0, 4], [4, 4, 4], [0, 2, 3], [4, 4, 1]])
    _, face = sample_surface(vertices, faces, 5_000, generator=seeded())
    assert set(face.tolist()) == {1, 4}


def test_surface_sample_follows_the_generator() -> None:
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]])
    one, two, other = (
        sample_surface(SQUARE, faces, 50, generator=seeded(seed))[0] for seed in (0, 0, 1)
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_surface_sample_keeps_the_dtype(dtype: torch.dtype) -> None:
    points, _ = sample_surface(SQUARE.to(dtype), torch.tensor([[0, 1, 2]]), 5)
    assert points.dtype == dtype


@pytest.mark.gpu
def test_surface_sample_on_the_gpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]])
    for generator in (seeded(), torch.Generator("cuda").manual_seed(0)):
        points, face = sample_surface(SQUARE.cuda(), faces.cuda(), 50, generator=generator)
        assert points.device == face.device == SQUARE.cuda().device


@pytest.mark.parametrize("faces", [[[0, 0, 1]], [[1, 1, 1], [2, 2, 2]]])
def test_surface_sample_without_area(faces: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="the mesh has no face with a positive area; nothing can"):
        sample_surface(SQUARE, torch.tensor(faces), 5)


def test_surface_sample_without_faces() -> None:
    with pytest.raises(ValueError, match="the mesh has no face with a positive area"):
        sample_surface(SQUARE, torch.zeros(0, 3).long(), 5)


def test_surface_sample_wrong_number() -> None:
    with pytest.raises(ValueError, match="num_points must be at least 1, got 0"):
        sample_surface(SQUARE, torch.tensor([[0, 1, 2]]), 0)


def test_outermost_point_hand_worked() -> None:
    xyz = torch.tensor([[[1.0, 0, 0], [0, -3, 0], [0, 0, 3], [torch.inf, 0, 0], [9, 9, 9]]])
    assert outermost_point(xyz).tolist() == [4]
    assert outermost_point(xyz, torch.tensor([4])).tolist() == [1]  # tie, inf, padding


def test_meshes_of_wrong_shape() -> None:
    flat, faces = torch.zeros(4, 2), torch.zeros(1, 3, dtype=torch.long)
    with pytest.raises(ValueError, match=r"vertices must have shape \(V, 3\), got \(4, 2\)"):
        sample_surface(flat, faces, 5)
    with pytest.raises(ValueError, match=r"faces must have shape \(F, 3\), got \(1, 4\)"):
        sample_surface(torch.zeros(4, 3), torch.zeros(1, 4, dtype=torch.long), 5)
