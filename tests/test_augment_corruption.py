"""Outliers, crops and partial views."""

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from ea_pointcloud.augment.corruption import random_crop, random_outliers, random_partial_view
from ea_pointcloud.augment.pipeline import Augmentation, intersect_masks
from ea_pointcloud.augment.transforms import random_point_dropout
from tests.oracles import cloud, seeded


def test_nothing_drawn_changes_nothing() -> None:
    xyz = cloud("surface", 50, batch=3)
    mask = torch.rand(3, 50, generator=seeded()) < 0.7
    assert torch.equal(random_outliers(xyz, 0.0, mask=mask), xyz)
    assert torch.equal(random_crop(xyz, 0.0, mask=mask), mask)
    assert random_crop(xyz, 0.0).all()
    assert torch.equal(random_partial_view(xyz, 0.0, mask=mask), mask)


def test_stray_points_are_a_share_and_spread_around_the_cloud() -> None:
    half = torch.nn.functional.normalize(torch.randn(500, 100, 3, generator=seeded()), dim=-1)
    xyz = 2 * torch.cat([half, -half], dim=1) + 5.0  # spheres of radius 2
    before = xyz.clone()
    out = random_outliers(xyz, 0.4, generator=seeded())
    assert torch.equal(xyz, before)
    stray = (out != xyz).any(-1)
    share = stray.float().mean(1)
    assert float(share.mean()) == pytest.approx(0.2, abs=0.02)  # U(0, 0.4)
    assert 0.37 < float(share.max()) < 0.5
    assert float(share.min()) < 0.02
    moved = out[stray]
    torch.testing.assert_close(moved.mean(0), torch.full((3,), 5.0), atol=0.05, rtol=0)
    torch.testing.assert_close(moved.std(0), torch.ones(3), atol=0.05, rtol=0)


def test_a_cut_leaves_out_what_is_beyond_a_plane() -> None:
    xyz = torch.randn(2000, 60, 3, generator=seeded())
    keep = random_crop(xyz, 0.5, generator=seeded(1))
    share = (~keep).float().mean(1)
    # U(0, 0.5), rounded down to whole points.
    assert float(share.mean()) == pytest.approx(0.25 - 0.5 / 60, abs=0.01)
    assert 0.48 < float(share.max()) <= 0.5
    for points, kept in zip(xyz[:20].double(), keep[:20], strict=True):
        # A linear programme finds a plane between two sets where there is one.
        side = torch.where(kept, 1.0, -1.0)[:, None]
        rows = side * torch.cat([points, torch.ones(60, 1)], dim=1)
        plane = linprog(np.zeros(4), -rows.numpy(), -np.ones(60), bounds=(None, None))
        assert plane.success


def test_cuts_are_of_every_direction() -> None:
    sphere = torch.nn.functional.normalize(torch.randn(400, 200, 3, generator=seeded()), dim=-1)
    keep = random_crop(sphere, 0.9, generator=seeded(1))
    lost = torch.stack([one[~kept].sum(0) for one, kept in zip(sphere, keep, strict=True)])
    direction = lost[(~keep).any(1)]
    direction = direction / direction.norm(dim=1, keepdim=True)
    assert direction.mean(0).abs().max() < 0.1  # standard deviation 0.03
    assert direction.std(0).sub(3**-0.5).abs().max() < 0.06


def test_of_a_sphere_one_side_is_seen_and_never_from_below() -> None:
    sphere = torch.nn.functional.normalize(torch.randn(300, 1000, 3, generator=seeded()), dim=-1)
    keep = random_partial_view(3 * sphere - 1, 1.0, generator=seeded(1))
    seen = torch.stack([one[kept].sum(0) for one, kept in zip(sphere, keep, strict=True)])
    camera = torch.nn.functional.normalize(seen, dim=1)
    nearness = (sphere @ camera[..., None]).squeeze(-1)
    assert keep[nearness > 0.8].float().mean() > 0.99
    assert keep[nearness > 0.3].float().mean() > 0.85  # steep: a cell shows more than one depth
    assert keep[nearness < -0.3].float().mean() < 0.25  # seen through gaps of the front
    assert camera[:, 1].min() > -0.1
    # Evenly over the upper half: heights of points of a sphere are evenly distributed.
    assert float(camera[:, 1].mean()) == pytest.approx(0.5, abs=0.06)  # standard deviation 0.017
    assert camera[:, [0, 2]].mean(0).abs().max() < 0.12


def test_a_share_of_the_clouds_is_seen_from_one_side() -> None:
    xyz = cloud("surface", 100, batch=500)
    keep = random_partial_view(xyz, 0.3, generator=seeded())
    assert float((~keep.all(1)).float().mean()) == pytest.approx(0.3, abs=0.06)


@pytest.mark.parametrize("padding", [0.0, 50.0, float("nan")])
def test_padding_has_no_influence(padding: float) -> None:
    xyz = cloud("surface", 60, batch=4)
    mask = torch.rand(4, 60, generator=seeded(1)) < 0.7
    zeros, padded = xyz.clone(), xyz.clone()
    zeros[~mask], padded[~mask] = 0.0, padding
    expected = random_outliers(zeros, 0.5, mask=mask, generator=seeded())
    out = random_outliers(padded, 0.5, mask=mask, generator=seeded())
    assert torch.equal(out[mask], expected[mask])
    torch.testing.assert_close(out[~mask], padded[~mask], equal_nan=True)
    keep = random_crop(padded, 0.5, mask=mask, generator=seeded())
    assert torch.equal(keep, random_crop(zeros, 0.5, mask=mask, generator=seeded()))
    assert (keep <= mask).all()
    assert keep.any(1).all()
    keep = random_partial_view(padded, 1.0, mask=mask, generator=seeded())
    assert torch.equal(keep, random_partial_view(zeros, 1.0, mask=mask, generator=seeded()))
    assert (keep < mask).any(1).all()  # something real is hidden
    assert (keep <= mask).all()


def test_the_generator_decides_and_clouds_draw_alone() -> None:
    xyz = cloud("surface", 60).expand(2, -1, -1)
    for change in (random_outliers, random_crop, random_partial_view):
        one, two, other = (change(xyz, 0.5, generator=seeded(seed)) for seed in (0, 0, 1))
        assert torch.equal(one, two)
        assert not torch.equal(one, other)
        assert not torch.equal(one[0], one[1])


def test_a_point_stays() -> None:
    assert random_crop(torch.rand(200, 1, 3), 0.99).all()
    assert random_partial_view(torch.rand(200, 1, 3), 1.0).all()
    assert random_partial_view(
        torch.zeros(20, 7, 3), 1.0
    ).all()  # equal points do not hide each other
    one, other = torch.tensor([[True, True, False]]), torch.tensor([[False, False, True]])
    assert torch.equal(intersect_masks(one, other), one)
    assert intersect_masks(one, ~one | torch.tensor([[True, False, False]])).tolist() == [
        [True, False, False]
    ]


def test_augmentation_cuts_and_drops() -> None:
    xyz = cloud("surface", 80, batch=3)
    out, kept = Augmentation(
        outlier_ratio=0.2, partial_view_prob=0.9, crop_ratio=0.4, point_dropout=0.5
    )(xyz, generator=seeded())
    generator = seeded()
    assert torch.equal(out, random_outliers(xyz, 0.2, generator=generator))
    seen = random_partial_view(out, 0.9, generator=generator)
    cut = random_crop(out, 0.4, mask=seen, generator=generator)
    assert (cut < seen).any()
    assert torch.equal(kept, cut & random_point_dropout(out, 0.5, generator=generator))


def test_a_share_of_the_clouds_stays_whole() -> None:
    xyz = cloud("surface", 80, batch=400)
    mask = torch.rand(400, 80, generator=seeded(1)) < 0.9
    corruption = {
        "outlier_ratio": 0.3, "partial_view_prob": 0.5, "crop_ratio": 0.4, "point_dropout": 0.5
    }  # fmt: skip
    out, kept = Augmentation(**corruption, corruption_prob=0.25)(xyz, mask=mask, generator=seeded())
    every, every_kept = Augmentation(**corruption)(xyz, mask=mask, generator=seeded())
    moved = (out != xyz).any(-1).any(-1)
    assert float(moved.float().mean()) == pytest.approx(0.25, abs=0.06)
    assert torch.equal(out[moved], every[moved])
    assert torch.equal(kept[moved], every_kept[moved])
    whole = (every != xyz).any(-1).any(-1) & ~moved
    assert whole.sum() > 200
    assert kept[whole].all()
    out, kept = Augmentation(outlier_ratio=0.3, corruption_prob=0.0)(xyz, generator=seeded())
    assert torch.equal(out, xyz)
    assert kept is None


@pytest.mark.parametrize("change", [random_outliers, random_crop])
def test_wrong_arguments(change) -> None:
    xyz = cloud("surface", 9, batch=2)
    with pytest.raises(ValueError, match="max_ratio must be at least 0 and below 1, got 1"):
        change(xyz, 1)
    with pytest.raises(ValueError, match=r"mask must have shape \(B, N\) = \(2, 9\), got \(9,\)"):
        change(xyz, 0.1, mask=torch.ones(9).bool())
    with pytest.raises(ValueError, match=r"prob must be at least 0 and at most 1, got 1\.5"):
        random_partial_view(xyz, 1.5)
