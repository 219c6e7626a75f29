"""PointWOLF."""

import math

import pytest
import torch
from torch.nn import functional as F

from ea_pointcloud.augment.pipeline import Augmentation
from ea_pointcloud.augment.pointwolf import random_wolf
from ea_pointcloud.augment.transforms import normalize_unit_sphere
from ea_pointcloud.ops import gather_points, knn
from tests.oracles import cloud, seeded


def sphere(batch: int, num_points: int = 300) -> torch.Tensor:
    points = torch.randn(batch, num_points, 3, generator=seeded(), dtype=torch.float64)
    return normalize_unit_sphere(F.normalize(points, dim=-1))


def test_strength_zero_changes_nothing() -> None:
    xyz = cloud("surface", 60, batch=3) * 2 + 1  # neither centred nor of radius 1
    torch.testing.assert_close(random_wolf(xyz, 0.0, generator=seeded()), xyz)


def test_points_keep_their_order_and_neighbours() -> None:
    xyz = sphere(20)
    out = random_wolf(xyz, generator=seeded())
    assert (out - xyz).norm(dim=-1).amax(1).median() > 0.2
    sq_dist, idx = knn(xyz, xyz, 2)
    apart = (out - gather_points(out, idx[..., 1])).norm(dim=-1)
    assert (apart <= 8 * sq_dist[..., 1].sqrt() + 1e-6).all()


def test_it_is_no_linear_map() -> None:
    xyz = sphere(20)
    out = random_wolf(xyz, generator=seeded())
    known = torch.cat([xyz, torch.ones_like(xyz[..., :1])], dim=-1)
    left = out - known @ torch.linalg.lstsq(known, out).solution
    assert (left.norm(dim=-1).amax(1) > 0.01).float().mean() > 0.9


def test_centre_and_radius_stay() -> None:
    xyz = sphere(20) * 3 + torch.tensor([5.0, -1.0, 0.0])
    out = random_wolf(xyz, generator=seeded())
    torch.testing.assert_close(out.mean(1), xyz.mean(1))
    for one, other in zip(out, xyz, strict=True):
        radius = (one - one.mean(0)).norm(dim=-1).max()
        torch.testing.assert_close(radius, (other - other.mean(0)).norm(dim=-1).max())


def test_strength_bounds_how_far_points_move() -> None:
    means = [
        float((random_wolf(sphere(50), strength, generator=seeded()) - sphere(50)).abs().mean())
        for strength in (0.01, 0.1, 0.5, 1.0)
    ]
    assert means == sorted(means)
    assert means[0] < 0.01


def test_one_anchor_is_a_turn_a_stretch_and_a_shift(monkeypatch: pytest.MonkeyPatch) -> None:
    # All points follow one anchor, so what it does can be read off: the singular values of the
    # linear part are the factors, and what is left without them is a turn.
    monkeypatch.setattr("ea_pointcloud.augment.pointwolf.ANCHORS", 1)
    xyz = sphere(400)
    out = random_wolf(xyz, generator=seeded())
    known = torch.cat([xyz, torch.ones_like(xyz[..., :1])], dim=-1)
    linear = torch.linalg.lstsq(known, out).solution[:, :3].transpose(1, 2)  # out = linear @ xyz
    u, factors, vh = torch.linalg.svd(linear)
    ratio = factors[:, 0] / factors[:, -1]  # the radius is restored, so only ratios are known
    assert 2.5 < float(ratio.max()) <= 3.0
    assert 0.3 < float((ratio < 1 + 1e-6).float().mean()) < 0.7  # half are not stretched
    turn = u @ vh
    torch.testing.assert_close(torch.linalg.det(turn), torch.ones(400, dtype=torch.float64))
    trace = turn.diagonal(dim1=1, dim2=2).sum(1)
    angle = ((trace - 1) / 2).clamp(-1, 1).acos()
    still = ratio < 1 + 1e-6
    assert math.radians(10) < float(angle[still].max()) < math.radians(10) * math.sqrt(3) + 1e-3
    assert 0.3 < float((angle[still] < 1e-6).float().mean()) < 0.7


@pytest.mark.parametrize("padding", [0.0, 7.0, float("nan")])
def test_padding_has_no_influence_and_stays(padding: float) -> None:
    xyz = cloud("surface", 60, batch=4)
    mask = torch.rand(4, 60, generator=seeded(1)) < 0.7
    zeros, spoiled = xyz.clone(), xyz.clone()
    zeros[~mask], spoiled[~mask] = 0.0, padding
    expected = random_wolf(zeros, mask=mask, generator=seeded())
    out = random_wolf(spoiled, mask=mask, generator=seeded())
    assert torch.equal(out[mask], expected[mask])
    torch.testing.assert_close(out[~mask], spoiled[~mask], equal_nan=True)
    assert not torch.equal(out[mask], xyz[mask])


def test_clouds_of_few_points() -> None:
    for num_points in (1, 2, 3):
        assert random_wolf(torch.rand(5, num_points, 3), generator=seeded()).isfinite().all()
    assert random_wolf(torch.zeros(5, 9, 3), generator=seeded()).isfinite().all()


def test_the_input_is_not_altered_and_the_generator_decides() -> None:
    xyz = cloud("surface", 60).expand(3, -1, -1).clone()
    before = xyz.clone()
    one, two, other = (random_wolf(xyz, generator=seeded(seed)) for seed in (0, 0, 1))
    assert torch.equal(xyz, before)
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert not torch.equal(one[0], one[1])  # each cloud on its own


def test_augmentation_bends_a_share_of_the_clouds() -> None:
    xyz = sphere(400, 20)
    out, mask = Augmentation(wolf=0.3)(xyz, generator=seeded())
    same = (out == xyz).all(2).all(1)
    assert mask is None
    assert 0.6 < float(same.float().mean()) < 0.8
    assert torch.equal(out[~same], random_wolf(xyz, generator=seeded())[~same])


def test_augmentation_draws_points_before_it_bends() -> None:
    xyz = cloud("surface", 60, batch=3)
    mask = torch.rand(3, 60, generator=seeded(1)) < 0.7
    spoiled = xyz.masked_fill(~mask[..., None], 1e6)
    augmentation = Augmentation(num_points=60, wolf=1.0)
    out, _ = augmentation(spoiled, mask=mask, generator=seeded())
    drawn = (out.abs() < 100).all(2)  # bent together with padding it would be far away
    assert torch.equal(drawn.sum(1), mask.sum(1))


def test_wrong_arguments() -> None:
    xyz = cloud("surface", 9, batch=2)
    with pytest.raises(ValueError, match="strength must be at least 0, got -1"):
        random_wolf(xyz, -1)
    with pytest.raises(ValueError, match=r"mask must have shape \(B, N\) = \(2, 9\), got \(9,\)"):
        random_wolf(xyz, mask=torch.ones(9).bool())
