"""Two clouds mixed into one, its label, and training on it."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ea_pointcloud.augment.matching import match_points, optimal_match
from ea_pointcloud.augment.mixup import (
    KINDS,
    Mix,
    point_cutmix_k,
    point_cutmix_r,
    point_mixup,
    rsmix,
)
from ea_pointcloud.augment.transforms import normalize_unit_sphere, random_drop
from ea_pointcloud.ops import gather_points
from ea_pointcloud.training.callbacks import read_metrics
from ea_pointcloud.training.fit import train
from ea_pointcloud.training.recipe import load_recipe
from ea_pointcloud.training.tasks import task_of
from tests.oracles import cloud, seeded
from tests.test_training import QUICK

CUTMIX = [point_cutmix_r, point_cutmix_k]
SHARES = torch.tensor([0.0, 0.1, 0.33, 0.5, 0.75, 1.0])


def pair(num_points: int = 80) -> tuple[Tensor, Tensor]:
    return cloud("surface", num_points, batch=6), cloud("surface", num_points, batch=6, seed=1)


def masks(num_points: int = 80) -> tuple[Tensor, Tensor]:
    one, other = torch.rand(2, 6, num_points, generator=seeded(2)) < 0.6
    return one, other


def among(points: Tensor, clouds: Tensor) -> Tensor:
    """(B, N) bool, whether each point is, to the bit, one of the cloud's."""
    return (points[:, :, None] == clouds[:, None]).all(-1).any(-1)


# --- all of them


@pytest.mark.parametrize("kind", KINDS)
def test_share_zero_changes_nothing(kind: str) -> None:
    xyz, other = pair()
    mask, other_mask = masks()
    nothing = torch.zeros(6)
    mixed = KINDS[kind](xyz, other, nothing, generator=seeded())
    assert torch.equal(mixed.xyz, xyz)
    assert mixed.mask is None or mixed.mask.all()
    assert torch.equal(mixed.share, nothing)
    mixed = KINDS[kind](xyz, other, nothing, mask=mask, other_mask=other_mask, generator=seeded())
    assert torch.equal(mixed.xyz, xyz)
    assert torch.equal(mixed.mask, mask)


@pytest.mark.parametrize("kind", ["cutmix_r", "cutmix_k", "mixup"])
def test_share_one_is_the_other_cloud(kind: str) -> None:
    xyz, other = pair()
    mixed = KINDS[kind](xyz, other, torch.ones(6), generator=seeded())
    find = optimal_match if kind == "mixup" else match_points
    torch.testing.assert_close(mixed.xyz, gather_points(other, find(xyz, other)))
    assert among(other, mixed.xyz).all()  # each of its points
    assert (mixed.share == 1).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_input_is_not_altered_and_the_generator_decides(kind: str) -> None:
    xyz, other = pair()
    mask, other_mask = masks()
    given = (xyz, other, SHARES, mask, other_mask)
    before = [each.clone() for each in given]
    one, two, third = (
        KINDS[kind](xyz, other, SHARES, mask=mask, other_mask=other_mask, generator=seeded(seed))
        for seed in (0, 0, 1)
    )
    one.xyz.add_(0.0)
    assert all(torch.equal(*each) for each in zip(given, before, strict=True))
    assert one.xyz.data_ptr() != xyz.data_ptr()
    assert torch.equal(one.xyz, two.xyz)
    assert torch.equal(one.mask, two.mask)
    assert torch.equal(one.xyz, third.xyz) == (kind == "mixup")  # which draws nothing


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("padding", [0.0, 1e9])
def test_padding_never_becomes_a_point(kind: str, padding: float) -> None:
    xyz, other = pair()
    mask, other_mask = masks()
    xyz = xyz.masked_fill(~mask[..., None], padding)
    other = other.masked_fill(~other_mask[..., None], padding)
    mixed = KINDS[kind](xyz, other, SHARES, mask=mask, other_mask=other_mask, generator=seeded())
    real = mixed.xyz[mixed.mask]
    assert (real.abs() < 100).all()
    assert (real != 0).any(1).all()
    if kind == "rsmix":  # holes may be left
        assert (mixed.mask <= mask).all()
        assert (mixed.mask.sum(1) >= mask.sum(1) // 2).all()
    else:
        assert torch.equal(mixed.mask, mask)


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_arguments(kind: str) -> None:
    xyz, other = pair()
    with pytest.raises(ValueError, match=r"other must have as many points as xyz, 80, got 79; pad"):
        KINDS[kind](xyz, other[:, 1:], SHARES)
    with pytest.raises(ValueError, match=r"share must have shape \(B,\) = \(6,\), got \(5,\)"):
        KINDS[kind](xyz, other, SHARES[1:])
    with pytest.raises(ValueError, match=r"mask must have shape \(B, N\) = \(6, 80\), got \(6, 9"):
        KINDS[kind](xyz, other, SHARES, mask=torch.ones(6, 9).bool())
    with pytest.raises(ValueError, match=r"query must have shape \(B, S, 3\), got \(80, 3\)"):
        KINDS[kind](xyz[0], other[0], SHARES)


# --- PointCutMix


@pytest.mark.parametrize("cutmix", CUTMIX)
@pytest.mark.parametrize("masked", [False, True])
def test_the_share_is_that_of_the_points(cutmix, masked: bool) -> None:
    xyz, other = pair()
    mask, other_mask = masks() if masked else (None, None)
    mixed = cutmix(xyz, other, SHARES, mask=mask, other_mask=other_mask, generator=seeded())
    real = torch.ones(6, 80, dtype=torch.bool) if mask is None else mask
    assert among(mixed.xyz, torch.cat([xyz, other], dim=1)).all()
    new = (~among(mixed.xyz, xyz) & real).sum(1)
    torch.testing.assert_close(mixed.share, new / real.sum(1))
    assert ((mixed.share - SHARES).abs() <= 0.5 / real.sum(1) + 1e-6).all()


@pytest.mark.parametrize("cutmix", CUTMIX)
def test_points_give_way_to_those_they_are_paired_with(cutmix) -> None:
    xyz, other = pair()
    mixed = cutmix(xyz, other, SHARES, generator=seeded())
    paired = gather_points(other, match_points(xyz, other))
    assert ((mixed.xyz == xyz) | (mixed.xyz == paired)).all()


def test_cutmix_r_replaces_any_points_cutmix_k_those_around_one() -> None:
    xyz, other = pair(400)
    reach = []
    for cutmix in (point_cutmix_r, point_cutmix_k):
        mixed = cutmix(xyz, other, torch.full((6,), 0.1), generator=seeded())
        gone = ~among(xyz, mixed.xyz)
        assert gone.sum(1).tolist() == [40] * 6
        for points, lost in zip(xyz, gone, strict=True):
            # Some lost point has all the others nearer to itself than any point that was kept.
            to_lost = torch.cdist(points[lost], points[lost]).amax(1)
            to_kept = torch.cdist(points[lost], points[~lost]).amin(1)
            reach.append(bool((to_lost <= to_kept).any()))
    assert reach == [False] * 6 + [True] * 6


# --- PointMixup


def test_mixup_is_on_the_way_between_paired_points() -> None:
    xyz, other = pair()
    mixed = point_mixup(xyz, other, SHARES)
    far = gather_points(other, optimal_match(xyz, other))
    expected = xyz + SHARES[:, None, None] * (far - xyz)
    torch.testing.assert_close(mixed.xyz, expected)
    assert torch.equal(mixed.share, SHARES)


# --- RSMix


def test_rsmix_moves_a_ball_as_a_whole() -> None:
    xyz, other = pair(300)
    radius = torch.full((6,), 0.4)
    mixed = rsmix(xyz, other, radius, generator=seeded())
    for row in range(6):
        old = among(mixed.xyz[row : row + 1], xyz[row : row + 1])[0]
        new = mixed.xyz[row, mixed.mask[row] & ~old]
        assert len(new) >= 2
        # Whichever point of the other cloud the first of them is, one shift makes them all its.
        moved = other[row] + (new[:1] - other[row])[:, None]  # (300, 300, 3), a shift each
        apart = (new[:, None, None] - moved).abs().amax(-1)  # (new, 300, 300)
        assert float(apart.amin(2).amax(0).min()) < 1e-6
        # They lie in one ball.
        assert float(torch.pdist(new).max()) < 2 * 0.4
        come = float(mixed.share[row]) * int(mixed.mask[row].sum())
        assert round(come) - len(new) in (
            0,
            1,
        )  # the middle of the ball may lie on that it replaced


def test_rsmix_takes_at_most_half_and_leaves_no_copies() -> None:
    xyz, other = pair(300)
    mixed = rsmix(xyz, other, torch.full((6,), 9.0), generator=seeded())  # all points
    assert mixed.mask.all()
    assert mixed.share.tolist() == [0.5] * 6
    # Of points so far apart one is in a ball, and the other places stay empty.
    mixed = rsmix(xyz, other * 1e4, torch.full((6,), 9.0), generator=seeded())
    assert mixed.mask.sum(1).tolist() == [151] * 6
    torch.testing.assert_close(mixed.share, torch.full((6,), 1 / 151))
    for points, real in zip(mixed.xyz, mixed.mask, strict=True):
        # The middle of the ball may lie on the one it replaced.
        assert len(torch.unique(points[real], dim=0)) >= int(real.sum()) - 1


# --- Mix


def test_mix_draws_who_how_and_how_much() -> None:
    xyz = cloud("surface", 40).expand(600, -1, -1) + torch.arange(600.0)[:, None, None] * 10
    mix = Mix(("cutmix_r", "rsmix"), prob=0.3)
    before = xyz.clone()
    mixed, partner = mix(xyz, generator=seeded())
    again, _ = mix(xyz, generator=seeded())
    assert torch.equal(xyz, before)
    assert torch.equal(mixed.xyz, again.xyz)
    assert partner.sort().values.tolist() == list(range(600))
    touched = mixed.share > 0
    assert 0.2 < float(touched.float().mean()) < 0.4
    assert torch.equal(mixed.xyz[~touched], xyz[~touched])
    assert mixed.mask[~touched].all()
    # Clouds lie 10 apart. What CutMix put in lies at its partner, what RSMix put in at its place.
    number = (mixed.xyz[..., 0] / 10).round().long()
    own = torch.arange(600)[:, None]
    assert ((number == own) | (number == partner[:, None])).all()
    moved = (number != own).any(1)
    assert 0.1 < float(moved.float().mean()) < 0.2  # one of two kinds
    share = (number != own).float().mean(1)
    torch.testing.assert_close(mixed.share[moved], share[moved])


@pytest.mark.parametrize(("beta", "std"), [(1.0, 12**-0.5), (0.2, 0.4226), (8.0, 0.1213)])
def test_shares_come_from_the_beta_distribution(beta: float, std: float) -> None:
    # Variance of Beta(b, b): 1 / (4 (2 b + 1)).
    xyz = torch.rand(4000, 1, 3, generator=seeded())
    mixed, _ = Mix(("mixup",), prob=1.0, beta=beta)(xyz, generator=seeded())
    assert float(mixed.share.mean()) == pytest.approx(0.5, abs=0.02)
    assert float(mixed.share.std()) == pytest.approx(std, abs=0.015)


def test_mix_of_one_cloud_is_that_cloud() -> None:
    xyz = cloud("surface", 40)
    mixed, partner = Mix(("cutmix_r",), prob=1.0)(xyz, generator=seeded())
    assert torch.equal(mixed.xyz, xyz)
    assert partner.tolist() == [0]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"kinds": ()}, r"kinds must name each way of mixing once, got \(\)"),
        ({"kinds": ("mixup", "mixup")}, "kinds must name each way of mixing once"),
        ({"kinds": ("cutout",)}, "a kind of mixing must be one of 'cutmix_r', 'cutmix_k', 'rsmix'"),
        ({"kinds": ("mixup",), "prob": 0.0}, "prob must be above 0 and at most 1, got 0.0"),
        ({"kinds": ("mixup",), "beta": 0.0}, "beta must be positive, got 0.0"),
    ],
)
def test_wrong_mix(wrong: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Mix(**wrong)


# --- training


def mixed_batch(options: list[str]) -> dict[str, Tensor]:
    recipe = load_recipe("procedural", [*options, "augment.scale=[1,1]", "augment.shift=0"])
    batch = {"xyz": cloud("surface", 64, batch=8), "label": torch.arange(8) % 7}
    return task_of(recipe).augment(batch, seeded())


def test_a_mixed_batch_has_two_labels_and_a_share() -> None:
    batch = mixed_batch(["augment.mix=cutmix_r", "augment.mix_prob=1"])
    xyz = cloud("surface", 64, batch=8)
    for row in range(8):
        of = among(batch["xyz"][row][None].expand(8, -1, -1), xyz).sum(1)  # points of each cloud
        share = float(batch["share"][row])
        assert int(of[row]) >= round((1 - share) * 64)
        others = [cloud for cloud in range(8) if cloud != row and of[cloud] >= round(share * 64)]
        assert int(batch["other_label"][row]) in {other % 7 for other in [*others, row]}
    assert "share" not in mixed_batch(["augment.mix=none"])


def test_points_are_dropped_of_what_was_mixed() -> None:
    batch = mixed_batch(["augment.mix=cutmix_r", "augment.mix_prob=1", "augment.drop=0.9"])
    xyz = cloud("surface", 64, batch=8)
    assert torch.equal(batch["mask"], random_drop(xyz, 0.9, generator=seeded()))
    foreign = ~among(batch["xyz"], xyz)
    mixed = foreign.any(1)  # a cloud may be its own partner
    assert mixed.sum() >= 4
    assert torch.equal(foreign.float().mean(1)[mixed], batch["share"][mixed])
    assert (foreign & ~batch["mask"]).any()
    assert (foreign & batch["mask"]).any()


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_is_that_of_both_labels_by_their_shares(smoothing: float) -> None:
    task = task_of(load_recipe("procedural", ["augment.mix=mixup"]))
    logits = torch.randn(6, 7, generator=seeded())
    label, other = torch.arange(6), torch.tensor([0, 3, 3, 1, 0, 2])
    one, two = (
        F.cross_entropy(logits, each, label_smoothing=smoothing, reduction="none")
        for each in (label, other)
    )
    batch = {"label": label, "other_label": other, "share": SHARES}
    expected = ((1 - SHARES) * one + SHARES * two).mean()
    torch.testing.assert_close(task.loss(logits, batch, smoothing), expected)
    batch["share"] = torch.zeros(6)
    plain = task.loss(logits, {"label": label}, smoothing)
    torch.testing.assert_close(task.loss(logits, batch, smoothing), plain)


@pytest.mark.parametrize("mix", KINDS)
def test_training_with_mixed_clouds(mix: str, tmp_path: Path) -> None:
    options = [f"augment.mix={mix}", "augment.mix_prob=0.8", "augment.wolf=0.5", "trainer.epochs=1"]
    recipe = load_recipe("procedural", [*QUICK, *options, "data.shapes=[28,14,14]"])
    train(recipe, tmp_path / "run")
    (row,) = read_metrics(tmp_path / "run" / "metrics.csv")
    assert 0 < float(row["train/loss"]) < 10
    assert 0 <= float(row["val/overall_accuracy"]) <= 1


def test_clouds_are_normalised_after_all_that() -> None:
    options = ["augment.mix=cutmix_r", "augment.view=0.5", "augment.stray=0.2", "augment.drop=0.5"]
    usual = mixed_batch(options)
    batch = mixed_batch([*options, "augment.normalize=true"])
    mask = batch["mask"]
    assert torch.equal(mask, usual["mask"])
    assert torch.equal(batch["share"], usual["share"])
    torch.testing.assert_close(batch["xyz"], normalize_unit_sphere(usual["xyz"], mask))
