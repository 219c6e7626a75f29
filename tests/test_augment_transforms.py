"""Transforms of batches of clouds."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ea_pointcloud.augment.pipeline import Augmentation
from ea_pointcloud.augment.transforms import (
    choose_points,
    random_elastic,
    random_jitter,
    random_mirror,
    random_point_dropout,
    random_rotate,
    random_rotate_up,
    random_scale,
    random_shift,
    random_tilt,
)
from ea_pointcloud.ops import gather_points, knn
from ea_pointcloud.ops.frames import normalize_unit_sphere, to_y_up
from tests.oracles import cloud, fps_oracle, seeded

RANDOM: dict[str, Callable[..., Tensor]] = {
    "scale": lambda xyz, generator=None: random_scale(xyz, 0.5, 2.0, generator=generator),
    "shift": lambda xyz, generator=None: random_shift(xyz, 0.2, generator=generator),
    "jitter": lambda xyz, generator=None: random_jitter(xyz, 0.1, 0.2, generator=generator),
    "rotate_up": lambda xyz, generator=None: random_rotate_up(xyz, generator=generator),
    "tilt": lambda xyz, generator=None: random_tilt(xyz, 0.5, generator=generator),
    "mirror": lambda xyz, generator=None: random_mirror(xyz, generator=generator),
    "elastic": lambda xyz, generator=None: random_elastic(xyz, 0.4, generator=generator),
    "rotate": lambda xyz, generator=None: random_rotate(xyz, generator=generator),
    "point_dropout": lambda xyz, generator=None: random_point_dropout(
        xyz, 0.5, generator=generator
    ),
    "choose": lambda xyz, generator=None: choose_points(xyz, 9, "random", generator=generator),
}
FIXED: dict[str, Callable[[Tensor], Tensor]] = {
    "normalize": normalize_unit_sphere,
    "to_y_up": lambda xyz: to_y_up(xyz, "z"),
    "first": lambda xyz: choose_points(xyz, 9, "first"),
    "fps": lambda xyz: choose_points(xyz, 9, "fps"),
}


def rotations_of(turn: Callable[[Tensor], Tensor], batch: int) -> Tensor:
    """(B, 3, 3) the matrices that a linear transform applies, from what it does to the axes."""
    axes = torch.eye(3, dtype=torch.float64).expand(batch, 3, 3)
    return turn(axes).transpose(1, 2)


def assert_rotations(matrices: Tensor) -> None:
    eye = torch.eye(3, dtype=torch.float64).expand_as(matrices)
    torch.testing.assert_close(matrices @ matrices.transpose(-1, -2), eye, atol=1e-12, rtol=0)
    ones = torch.ones(matrices.shape[:-2], dtype=torch.float64)
    torch.testing.assert_close(torch.linalg.det(matrices), ones, atol=1e-12, rtol=0)


# --- all of them


@pytest.mark.parametrize("name", [*RANDOM, *FIXED])
def test_the_input_is_not_altered(name: str) -> None:
    xyz = cloud("surface", 50, batch=3)
    before = xyz.clone()
    out = {**RANDOM, **FIXED}[name](xyz)
    if out.is_floating_point():
        out.add_(1.0)  # nor is it handed back
    assert torch.equal(xyz, before)


@pytest.mark.parametrize("name", RANDOM)
def test_the_generator_decides(name: str) -> None:
    xyz = cloud("surface", 50, batch=3)
    one, two, other = (RANDOM[name](xyz, generator=seeded(seed)) for seed in (0, 0, 1))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("name", RANDOM)
def test_clouds_draw_independently(name: str) -> None:
    xyz = cloud("surface", 50).expand(2, -1, -1)
    one, other = RANDOM[name](xyz, generator=seeded())
    assert not torch.equal(one, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["scale", "shift", "jitter", "rotate_up", "rotate"])
def test_shape_and_dtype_stay(name: str, dtype: torch.dtype) -> None:
    xyz = cloud("surface", 50, batch=3).to(dtype)
    out = RANDOM[name](xyz)
    assert out.shape == xyz.shape
    assert out.dtype == dtype


@pytest.mark.parametrize("name", [name for name in (*RANDOM, *FIXED) if name != "to_y_up"])
def test_a_missing_batch_axis(name: str) -> None:
    words = r"xyz must have shape \(B, N, 3\), got \(50, 3\); add a batch axis with xyz\[None\]"
    with pytest.raises(ValueError, match=words):
        {**RANDOM, **FIXED}[name](torch.zeros(50, 3))


# --- unit sphere


def test_normalize_centres_and_scales() -> None:
    xyz = cloud("surface", 200, batch=3) * torch.tensor([1.0, 20.0, 0.01])[:, None, None] + 3.0
    out = normalize_unit_sphere(xyz)
    torch.testing.assert_close(out.mean(1), torch.zeros(3, 3), atol=1e-4, rtol=0)
    torch.testing.assert_close(out.norm(dim=-1).amax(1), torch.ones(3))


def test_normalize_by_hand() -> None:
    xyz = torch.tensor([[[1.0, 0, 0], [3.0, 0, 0], [2.0, 0, 0]]])
    assert normalize_unit_sphere(xyz).tolist() == [[[-1, 0, 0], [1, 0, 0], [0, 0, 0]]]


@pytest.mark.parametrize("padding", [0.0, 1e6, float("nan")])
def test_normalize_does_not_see_padding(padding: float) -> None:
    xyz = cloud("surface", 60, batch=2) + 1.0
    mask = torch.rand(2, 60, generator=seeded()) < 0.5
    xyz[~mask] = padding
    out = normalize_unit_sphere(xyz, mask)
    for one, points, real in zip(out, xyz, mask, strict=True):
        alone = normalize_unit_sphere(points[None, real])
        torch.testing.assert_close(one[real], alone[0], atol=1e-5, rtol=0)
        assert (one[~real] == 0).all()


@pytest.mark.parametrize("num_points", [1, 2, 7, 100, 1000])
def test_normalize_leaves_coinciding_points_at_the_origin(num_points: int) -> None:
    # The mean of equal float32 numbers need not be that number; its rounding must not be blown up.
    xyz = torch.tensor([[0.1, 0.7, -0.3], [1e5, 123.456, 0.3]])[:, None].expand(-1, num_points, -1)
    out = normalize_unit_sphere(xyz)
    torch.testing.assert_close(out, torch.zeros_like(out), atol=1e-3, rtol=0)


def test_normalize_wrong_mask() -> None:
    xyz = torch.zeros(2, 5, 3)
    with pytest.raises(ValueError, match=r"mask must have shape \(B, N\) = \(2, 5\), got \(5,\)"):
        normalize_unit_sphere(xyz, torch.ones(5).bool())
    with pytest.raises(TypeError, match="mask must be bool with True for a real point"):
        normalize_unit_sphere(xyz, torch.ones(2, 5))


# --- up axis


@pytest.mark.parametrize("up_axis", ["x", "y", "z"])
def test_to_y_up_is_a_rotation_that_brings_up_to_y(up_axis: str) -> None:
    matrices = rotations_of(lambda axes: to_y_up(axes, up_axis), 1)
    assert_rotations(matrices)
    up = torch.eye(3)["xyz".index(up_axis)]
    assert to_y_up(up, up_axis).tolist() == [0, 1, 0]


def test_to_y_up_by_hand() -> None:
    xyz = torch.tensor([1.0, 2.0, 3.0])
    assert to_y_up(xyz, "x").tolist() == [-2, 1, 3]
    assert to_y_up(xyz, "y").tolist() == [1, 2, 3]
    assert to_y_up(xyz, "z").tolist() == [-1, 3, 2]
    # A mesh with z up that faces +y comes to face +z.
    assert to_y_up(torch.tensor([0.0, 1.0, 0.0]), "z").tolist() == [0, 0, 1]


@pytest.mark.parametrize("shape", [(3,), (5, 3), (2, 5, 3), (2, 2, 5, 3)])
def test_to_y_up_takes_any_leading_shape(shape: tuple[int, ...]) -> None:
    assert to_y_up(torch.zeros(shape), "z").shape == shape


@pytest.mark.parametrize("call", [to_y_up, lambda xyz, up: random_rotate_up(xyz, up_axis=up)])
def test_wrong_up_axis(call: Callable[[Tensor, str], Tensor]) -> None:
    with pytest.raises(ValueError, match="up_axis must be one of 'x', 'y', 'z', got 'Z'"):
        call(torch.zeros(1, 4, 3), "Z")


# --- rotations


@pytest.mark.parametrize("up_axis", ["x", "y", "z"])
def test_rotate_up_turns_about_the_up_axis(up_axis: str) -> None:
    def turn(xyz: Tensor) -> Tensor:
        return random_rotate_up(xyz, up_axis=up_axis, generator=seeded())

    up = "xyz".index(up_axis)
    xyz = cloud("surface", 50, batch=4)
    out = turn(xyz)
    assert torch.equal(out[..., up], xyz[..., up])
    torch.testing.assert_close(out.norm(dim=-1), xyz.norm(dim=-1))
    matrices = rotations_of(turn, 4)
    assert_rotations(matrices)
    assert (matrices[:, up, up] == 1).all()


def angles_about_y(matrices: Tensor) -> Tensor:
    return torch.atan2(matrices[:, 0, 2], matrices[:, 2, 2])


def test_rotate_up_draws_every_angle() -> None:
    matrices = rotations_of(lambda xyz: random_rotate_up(xyz, generator=seeded()), 8000)
    counts = torch.histc(angles_about_y(matrices), 8, -math.pi, math.pi)
    assert (counts - 1000).abs().max() < 5 * 30  # standard deviation 30


def test_rotate_up_keeps_to_its_limit() -> None:
    matrices = rotations_of(lambda xyz: random_rotate_up(xyz, limit=0.3, generator=seeded()), 1000)
    angle = angles_about_y(matrices)
    assert 0.29 < float(angle.abs().max()) <= 0.3 + 1e-9
    assert float(angle.min()) < -0.29


def test_rotate_is_a_rotation() -> None:
    assert_rotations(rotations_of(lambda xyz: random_rotate(xyz, generator=seeded()), 100))


def test_tilt_is_a_rotation_by_a_small_angle() -> None:
    matrices = rotations_of(lambda xyz: random_tilt(xyz, 0.5, generator=seeded()), 4000)
    assert_rotations(matrices)
    trace = matrices.diagonal(dim1=1, dim2=2).sum(1)
    angle = ((trace - 1) / 2).clamp(-1, 1).acos()
    assert angle.max() <= 0.5 + 1e-3
    assert abs(float(angle.mean()) - 0.25) < 0.01  # U(0, 0.5)
    skew = (matrices - matrices.transpose(1, 2)).mean(0)
    assert skew.abs().max() < 0.02  # axes of every direction
    assert torch.equal(random_tilt(cloud("surface", 9), 0.0), cloud("surface", 9))


@pytest.mark.parametrize(("up_axis", "across"), [("x", 2), ("y", 0), ("z", 1)])
def test_mirror_turns_half_of_the_clouds_over(up_axis: str, across: int) -> None:
    xyz = torch.ones(1000, 2, 3)
    before = xyz.clone()
    out = random_mirror(xyz, up_axis=up_axis, generator=seeded())
    assert torch.equal(xyz, before)
    kept = [axis for axis in range(3) if axis != across]
    assert (out[..., kept] == 1).all()
    assert (out[..., across] == out[:, :1, across]).all()  # a cloud as a whole
    assert 450 < int((out[:, 0, across] == -1).sum()) < 550


def test_warp_of_strength_zero_changes_nothing() -> None:
    xyz = cloud("surface", 50, batch=2)
    torch.testing.assert_close(random_elastic(xyz, 0.0, generator=seeded()), xyz)


def test_warp_bends_smoothly_and_not_as_a_whole() -> None:
    sphere = torch.nn.functional.normalize(torch.randn(8, 500, 3, generator=seeded()), dim=-1)
    out = random_elastic(sphere, 0.4, generator=seeded())
    # No linear map and shift explains what happened ...
    known = torch.cat([sphere, torch.ones(8, 500, 1)], dim=-1)
    left = out - known @ torch.linalg.lstsq(known, out).solution
    assert (left.norm(dim=-1).amax(1) > 0.02).all()
    # ... but neighbours stay neighbours.
    sq_dist, idx = knn(sphere, sphere, 2)
    apart = (out - gather_points(out, idx[..., 1])).norm(dim=-1)
    assert (apart <= 6 * sq_dist[..., 1].sqrt() + 1e-6).all()
    assert (out - sphere).norm(dim=-1).max() < 2


def test_wrong_warp() -> None:
    with pytest.raises(ValueError, match="strength must be at least 0"):
        random_elastic(cloud("surface", 50, batch=2), -0.1)


def test_rotate_is_uniform() -> None:
    matrices = rotations_of(lambda xyz: random_rotate(xyz, generator=seeded()), 8000)
    # Archimedes: each coordinate of a uniform direction is uniform in -1..1.
    for axis in range(3):
        for coordinate in range(3):
            counts = torch.histc(matrices[:, coordinate, axis], 8, -1, 1)
            assert (counts - 1000).abs().max() < 5 * 30
    # And the mean square distance of a uniform rotation from any fixed one is 6.
    eye = torch.eye(3, dtype=torch.float64)
    assert float((matrices - eye).square().sum((1, 2)).mean()) == pytest.approx(6.0, abs=0.15)


# --- scale, shift, jitter


def test_scale_is_drawn_for_each_axis_within_bounds() -> None:
    factor = random_scale(torch.ones(4000, 2, 3), 0.5, 2.0, generator=seeded())
    assert torch.equal(factor[:, 0], factor[:, 1])  # one for all points of a cloud
    assert 0.5 <= float(factor.min()) < 0.51
    assert 1.99 < float(factor.max()) <= 2.0 + 1e-6
    assert float(factor.mean()) == pytest.approx(1.25, abs=0.02)
    assert not torch.isclose(factor[:, 0, 0], factor[:, 0, 1]).all()


def test_shift_is_drawn_for_each_axis_within_bounds() -> None:
    shift = random_shift(torch.zeros(4000, 2, 3), 0.2, generator=seeded())
    assert torch.equal(shift[:, 0], shift[:, 1])
    assert float(shift.abs().max()) <= 0.2 + 1e-6
    assert float(shift.min()) < -0.199
    assert float(shift.max()) > 0.199
    assert abs(float(shift.mean())) < 0.01


def test_jitter_is_normal_and_clipped() -> None:
    noise = random_jitter(torch.zeros(10, 1000, 3), 0.1, 0.15, generator=seeded())
    assert float(noise.abs().max()) == pytest.approx(0.15)
    assert abs(float(noise.mean())) < 0.005
    inside = (noise.abs() < 0.1).float().mean()
    assert float(inside) == pytest.approx(0.6827, abs=0.02)  # one standard deviation


def test_nothing_drawn_changes_nothing() -> None:
    xyz = cloud("surface", 50, batch=3)
    for out in (
        random_scale(xyz, 1.0, 1.0),
        random_shift(xyz, 0.0),
        random_jitter(xyz, 0.0, 1.0),
        random_jitter(xyz, 1.0, 0.0),
        random_rotate_up(xyz, limit=0.0),
    ):
        assert torch.equal(out, xyz)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-1.0, 1.0), (2.0, 1.0)])
def test_wrong_scale(low: float, high: float) -> None:
    words = f"low and high must satisfy 0 < low <= high, got {low} and {high}"
    with pytest.raises(ValueError, match=words):
        random_scale(torch.zeros(1, 4, 3), low, high)


def test_wrong_limits() -> None:
    xyz = torch.zeros(1, 4, 3)
    with pytest.raises(ValueError, match="limit must be at least 0, got -1"):
        random_shift(xyz, -1)
    with pytest.raises(ValueError, match="std must be at least 0, got -1"):
        random_jitter(xyz, -1, 1)
    with pytest.raises(ValueError, match="clip must be at least 0, got -1"):
        random_jitter(xyz, 1, -1)


# --- drop and choice


def test_drop_leaves_out_the_right_share() -> None:
    # The share is U(0, 0.8): 0.4 on average, never much above 0.8, sometimes near both ends.
    mask = random_point_dropout(torch.zeros(2000, 500, 3), 0.8, generator=seeded())
    assert mask.dtype == torch.bool
    assert mask.shape == (2000, 500)
    dropped = (~mask).float().mean(1)
    assert float(dropped.mean()) == pytest.approx(0.4, abs=0.02)
    assert float(dropped.max()) < 0.88
    assert float(dropped.max()) > 0.75
    assert float(dropped.min()) < 0.01


def test_drop_keeps_a_point() -> None:
    mask = random_point_dropout(torch.zeros(2000, 2, 3), 0.999, generator=seeded())
    assert mask.any(1).all()
    assert random_point_dropout(torch.zeros(50, 1, 3), 0.999).all()


def test_drop_of_nothing() -> None:
    assert random_point_dropout(torch.zeros(5, 100, 3), 0.0).all()


@pytest.mark.parametrize("ratio", [-0.1, 1.0])
def test_wrong_drop(ratio: float) -> None:
    with pytest.raises(ValueError, match="max_ratio must be at least 0 and below 1, got"):
        random_point_dropout(torch.zeros(1, 4, 3), ratio)


def test_choose_points() -> None:
    xyz = cloud("surface", 20, batch=2)
    assert choose_points(xyz, 7, "first").tolist() == [list(range(7))] * 2
    assert choose_points(xyz, 7, "fps").tolist() == fps_oracle(xyz, 7)
    chosen = choose_points(xyz, 20, "random")
    assert (chosen.sort(1).values == torch.arange(20)).all()


@pytest.mark.parametrize("choice", ["first", "fps", "random"])
def test_choose_more_points_than_there_are(choice: str) -> None:
    idx = choose_points(cloud("surface", 8, batch=2), 20, choice)
    assert idx.shape == (2, 20)
    assert idx.dtype == torch.long
    assert torch.equal(idx[:, 8:], idx[:, :12])  # from its start again
    assert (idx[:, :8].sort(1).values == torch.arange(8)).all()


@pytest.mark.parametrize("choice", ["first", "fps", "random"])
def test_choose_no_points(choice: str) -> None:
    with pytest.raises(ValueError, match="must be at least 1, got 0"):
        choose_points(torch.zeros(1, 4, 3), 0, choice)


def test_wrong_choice() -> None:
    with pytest.raises(
        ValueError, match="sampling must be one of 'first', 'random', 'fps', got 'all'"
    ):
        choose_points(torch.zeros(1, 4, 3), 2, "all")


# --- Augmentation


def test_augmentation_does_nothing_by_default() -> None:
    xyz = cloud("surface", 50, batch=2)
    out, mask = Augmentation()(xyz)
    assert torch.equal(out, xyz)
    assert mask is None


def test_augmentation_is_its_functions_in_order() -> None:
    xyz = cloud("surface", 50, batch=2)
    augmentation = Augmentation(
        elastic=0.3,
        rotation="up",
        scale=(0.8, 1.2),
        shift=0.1,
        jitter=0.01,
        point_dropout=0.5,
    )
    before = xyz.clone()
    out, mask = augmentation(xyz, generator=seeded())
    assert torch.equal(xyz, before)
    generator = seeded()
    expected = random_elastic(xyz, 0.3, generator=generator)
    expected = random_rotate_up(expected, generator=generator)
    expected = random_scale(expected, 0.8, 1.2, generator=generator)
    expected = random_shift(expected, 0.1, generator=generator)
    expected = random_jitter(expected, 0.01, 0.05, generator=generator)
    assert torch.equal(out, expected)
    assert torch.equal(mask, random_point_dropout(out, 0.5, generator=generator))


def test_augmentation_turns_any_way() -> None:
    xyz = cloud("surface", 50, batch=2)
    out, _ = Augmentation(rotation="any")(xyz, generator=seeded())
    assert torch.equal(out, random_rotate(xyz, generator=seeded()))


def test_augmentation_wrong_rotation() -> None:
    with pytest.raises(ValueError, match="rotation must be one of 'none', 'up', 'tilt', 'any'"):
        Augmentation(rotation="z")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"scale": (0.0, 1.0)}, "0 < low <= high"),
        ({"shift": -0.1}, "must be at least 0"),
        ({"jitter": -0.1}, "must be at least 0"),
        ({"point_dropout": 1.0}, "must be at least 0 and below 1"),
    ],
)
def test_augmentation_wrong_numbers(wrong: dict[str, object], words: str) -> None:
    # At the latest on the first batch.
    with pytest.raises(ValueError, match=words):
        Augmentation(**wrong)(torch.zeros(1, 4, 3))


@pytest.mark.parametrize("rotation", ["up", "tilt", "any"])
def test_a_fraction_of_the_clouds_is_rotated(rotation: str) -> None:
    xyz = torch.randn(400, 5, 3, generator=seeded())
    out, _ = Augmentation(rotation=rotation, rotation_prob=0.25)(xyz, generator=seeded(1))
    same = (out == xyz).all(-1).all(-1)
    assert 0.65 < float(same.float().mean()) < 0.85
    torch.testing.assert_close(out.norm(dim=-1), xyz.norm(dim=-1))
    every, _ = Augmentation(rotation=rotation)(xyz, generator=seeded(1))
    torch.testing.assert_close(out[~same], every[~same])
    with pytest.raises(ValueError, match="rotation_prob must be"):
        Augmentation(rotation=rotation, rotation_prob=1.5)
