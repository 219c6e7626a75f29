"""CutMix of two clouds, the pairing of their points, the mixed label, and training on it."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ea_pointcloud.augment import CutMix, normalize_unit_sphere, random_point_dropout
from ea_pointcloud.augment.cutmix import match_points, point_cutmix
from ea_pointcloud.ops import gather_points
from ea_pointcloud.training.callbacks import read_metrics
from ea_pointcloud.training.fit import train
from ea_pointcloud.training.recipe import load_recipe
from ea_pointcloud.training.tasks import task_of
from tests.oracles import cloud, seeded
from tests.test_training import QUICK

LAMBDAS = torch.tensor([1.0, 0.9, 0.67, 0.5, 0.25, 0.0])


def pair(num_points: int = 80) -> tuple[Tensor, Tensor]:
    return cloud("surface", num_points, batch=6), cloud("surface", num_points, batch=6, seed=1)


def masks(num_points: int = 80) -> tuple[Tensor, Tensor]:
    one, other = torch.rand(2, 6, num_points, generator=seeded(2)) < 0.6
    return one, other


def among(points: Tensor, clouds: Tensor) -> Tensor:
    """(B, N) bool, whether each point is, to the bit, one of the cloud's."""
    return (points[:, :, None] == clouds[:, None]).all(-1).any(-1)


# --- PointCutMix


def test_lam_one_changes_nothing() -> None:
    xyz, other = pair()
    mask, other_mask = masks()
    one = torch.ones(6)
    for given in ({}, {"mask": mask, "other_mask": other_mask}):
        mixed, lam = point_cutmix(xyz, other, one, **given, generator=seeded())
        assert torch.equal(mixed, xyz)
        assert torch.equal(lam, one)


def test_lam_zero_is_the_other_cloud() -> None:
    xyz, other = pair()
    mixed, lam = point_cutmix(xyz, other, torch.zeros(6), generator=seeded())
    torch.testing.assert_close(mixed, gather_points(other, match_points(xyz, other)))
    assert among(other, mixed).all()  # each of its points
    assert (lam == 0).all()


def test_the_input_is_not_altered_and_the_generator_decides() -> None:
    xyz, other = pair()
    mask, other_mask = masks()
    given = (xyz, other, LAMBDAS, mask, other_mask)
    before = [each.clone() for each in given]
    one, two, third = (
        point_cutmix(xyz, other, LAMBDAS, mask=mask, other_mask=other_mask, generator=seeded(seed))[
            0
        ]
        for seed in (0, 0, 1)
    )
    one.add_(0.0)
    assert all(torch.equal(*each) for each in zip(given, before, strict=True))
    assert one.data_ptr() != xyz.data_ptr()
    assert torch.equal(one, two)
    assert not torch.equal(one, third)


@pytest.mark.parametrize("padding", [0.0, 1e9])
def test_padding_never_becomes_a_point(padding: float) -> None:
    xyz, other = pair()
    mask, other_mask = masks()
    xyz = xyz.masked_fill(~mask[..., None], padding)
    other = other.masked_fill(~other_mask[..., None], padding)
    mixed, _ = point_cutmix(
        xyz, other, LAMBDAS, mask=mask, other_mask=other_mask, generator=seeded()
    )
    real = mixed[mask]
    assert (real.abs() < 100).all()
    assert (real != 0).any(1).all()


def test_wrong_arguments() -> None:
    xyz, other = pair()
    with pytest.raises(ValueError, match=r"other must have as many points as xyz, 80, got 79; pad"):
        point_cutmix(xyz, other[:, 1:], LAMBDAS)
    with pytest.raises(ValueError, match=r"lam must have shape \(B,\) = \(6,\), got \(5,\)"):
        point_cutmix(xyz, other, LAMBDAS[1:])
    with pytest.raises(ValueError, match=r"mask must have shape \(B, N\) = \(6, 80\), got \(6, 9"):
        point_cutmix(xyz, other, LAMBDAS, mask=torch.ones(6, 9).bool())
    with pytest.raises(ValueError, match=r"query must have shape \(B, S, 3\), got \(80, 3\)"):
        point_cutmix(xyz[0], other[0], LAMBDAS)


@pytest.mark.parametrize("masked", [False, True])
def test_lam_is_the_fraction_of_points_that_stay(masked: bool) -> None:
    xyz, other = pair()
    mask, other_mask = masks() if masked else (None, None)
    mixed, lam = point_cutmix(
        xyz, other, LAMBDAS, mask=mask, other_mask=other_mask, generator=seeded()
    )
    real = torch.ones(6, 80, dtype=torch.bool) if mask is None else mask
    assert among(mixed, torch.cat([xyz, other], dim=1)).all()
    new = (~among(mixed, xyz) & real).sum(1)
    torch.testing.assert_close(lam, 1 - new / real.sum(1))
    assert ((lam - LAMBDAS).abs() <= 0.5 / real.sum(1) + 1e-6).all()


def test_points_are_replaced_by_those_they_are_paired_with() -> None:
    xyz, other = pair()
    mixed, _ = point_cutmix(xyz, other, LAMBDAS, generator=seeded())
    paired = gather_points(other, match_points(xyz, other))
    assert ((mixed == xyz) | (mixed == paired)).all()


# --- the pairing of points


@pytest.mark.parametrize("num_points", [1, 2, 5, 64, 100])
def test_clouds_of_one_size_are_paired_one_to_one(num_points: int) -> None:
    xyz = cloud("surface", num_points, batch=3)
    other = cloud("surface", num_points, batch=3, seed=1)
    assert (match_points(xyz, other).sort(1).values == torch.arange(num_points)).all()


def test_a_cloud_is_paired_with_its_own_points() -> None:
    xyz = cloud("surface", 100, batch=2)
    order = torch.stack([torch.randperm(100, generator=seeded(i)) for i in range(2)])
    idx = match_points(xyz, gather_points(xyz, order))
    assert torch.equal(order.gather(1, idx), torch.arange(100).expand(2, -1))


def test_pairs_are_near_the_optimal_assignment() -> None:
    from scipy.optimize import linear_sum_assignment

    xyz, other = torch.rand(2, 8, 128, 3, generator=seeded())

    def cost(idx: Tensor) -> float:
        return float((xyz - gather_points(other, idx)).square().sum())

    sq_dist = torch.cdist(xyz, other).square().numpy()
    optimal = torch.stack([torch.from_numpy(linear_sum_assignment(each)[1]) for each in sq_dist])
    random = torch.arange(128).expand(8, -1)
    found = cost(match_points(xyz, other))
    assert cost(optimal) < found < 0.6 * cost(random)
    assert found < 2 * cost(optimal)


@pytest.mark.parametrize("padding", [0.0, 1e9, float("nan")])
def test_padding_is_never_paired_and_has_no_influence(padding: float) -> None:
    xyz, other = torch.rand(2, 3, 90, 3, generator=seeded())
    mask, other_mask = torch.rand(2, 3, 90, generator=seeded(1)) < 0.6
    padded, other_padded = xyz.clone(), other.clone()
    padded[~mask], other_padded[~other_mask] = padding, padding
    idx = match_points(padded, other_padded, mask=mask, other_mask=other_mask)
    for row, (real, other_real) in enumerate(zip(mask, other_mask, strict=True)):
        own = idx[row, real]
        assert other_real[own].all()
        counts = own.bincount(minlength=90)[other_real]  # as evenly as can be
        assert int(counts.max() - counts.min()) <= 1
        alone = match_points(xyz[None, row, real], other[None, row, other_real])
        assert torch.equal(own, other_real.nonzero()[:, 0][alone[0]])


def test_clouds_of_other_sizes() -> None:
    xyz, other = cloud("surface", 7), cloud("surface", 12, seed=1)
    assert len(set(match_points(xyz, other)[0].tolist())) == 7
    assert set(match_points(other, xyz)[0].tolist()) == set(range(7))
    with pytest.raises(ValueError, match="query and points must have the same B, got 1 and 2"):
        match_points(xyz, xyz.expand(2, -1, -1))


# --- CutMix of a batch


def test_cutmix_draws_which_clouds_and_how_much() -> None:
    xyz = cloud("surface", 40).expand(600, -1, -1) + torch.arange(600.0)[:, None, None] * 10
    cutmix = CutMix(prob=0.3)
    before = xyz.clone()
    mixed, lam, partner = cutmix(xyz, generator=seeded())
    assert torch.equal(xyz, before)
    assert torch.equal(mixed, cutmix(xyz, generator=seeded()).xyz)
    assert partner.sort().values.tolist() == list(range(600))
    touched = lam < 1
    assert 0.2 < float(touched.float().mean()) < 0.4
    assert torch.equal(mixed[~touched], xyz[~touched])
    # Clouds lie 10 apart, so that a point shows where it comes from.
    number = (mixed[..., 0] / 10).round().long()
    own = torch.arange(600)[:, None]
    assert ((number == own) | (number == partner[:, None])).all()
    torch.testing.assert_close(lam, (number == own).float().mean(1))


@pytest.mark.parametrize(("beta", "std"), [(1.0, 12**-0.5), (0.2, 0.4226), (8.0, 0.1213)])
def test_lam_comes_from_the_beta_distribution(beta: float, std: float) -> None:
    # Variance of Beta(b, b): 1 / (4 (2 b + 1)); rounded to hundreds.
    xyz = torch.rand(4000, 100, 3, generator=seeded())
    lam = CutMix(prob=1.0, beta=beta)(xyz, generator=seeded()).lam
    assert float(lam.mean()) == pytest.approx(0.5, abs=0.02)
    assert float(lam.std()) == pytest.approx(std, abs=0.015)


def test_cutmix_of_one_cloud_is_that_cloud() -> None:
    xyz = cloud("surface", 40)
    mixed, _, partner = CutMix(prob=1.0)(xyz, generator=seeded())
    assert torch.equal(mixed, xyz)
    assert partner.tolist() == [0]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"prob": 0.0}, "cutmix_prob must be above 0 and at most 1, got 0.0"),
        ({"beta": 0.0}, "cutmix_beta must be positive, got 0.0"),
    ],
)
def test_wrong_cutmix(wrong: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        CutMix(**wrong)


# --- training


def mixed_batch(options: list[str]) -> dict[str, Tensor]:
    recipe = load_recipe("procedural", [*options, "augment.scale=[1,1]", "augment.shift=0"])
    batch = {"xyz": cloud("surface", 64, batch=8), "label": torch.arange(8) % 7}
    return task_of(recipe).augment(batch, seeded())


def test_a_mixed_batch_has_two_labels_and_lam() -> None:
    batch = mixed_batch(["augment.cutmix_prob=1"])
    xyz = cloud("surface", 64, batch=8)
    for row in range(8):
        of = among(batch["xyz"][row][None].expand(8, -1, -1), xyz).sum(1)  # points of each cloud
        lam = float(batch["lam"][row])
        assert int(of[row]) >= round(lam * 64)
        others = [cloud for cloud in range(8) if cloud != row and of[cloud] >= round(64 - lam * 64)]
        assert int(batch["other_label"][row]) in {other % 7 for other in [*others, row]}
    assert "lam" not in mixed_batch([])


def test_points_are_dropped_after_mixing() -> None:
    batch = mixed_batch(["augment.cutmix_prob=1", "augment.point_dropout=0.9"])
    xyz = cloud("surface", 64, batch=8)
    assert torch.equal(batch["mask"], random_point_dropout(xyz, 0.9, generator=seeded()))
    foreign = ~among(batch["xyz"], xyz)
    mixed = foreign.any(1)  # a cloud may be its own partner
    assert mixed.sum() >= 4
    torch.testing.assert_close(1 - foreign.float().mean(1)[mixed], batch["lam"][mixed])
    assert (foreign & ~batch["mask"]).any()
    assert (foreign & batch["mask"]).any()


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_weighs_both_labels_by_lam(smoothing: float) -> None:
    task = task_of(load_recipe("procedural", ["augment.cutmix_prob=0.5"]))
    logits = torch.randn(6, 7, generator=seeded())
    label, other = torch.arange(6), torch.tensor([0, 3, 3, 1, 0, 2])
    one, two = (
        F.cross_entropy(logits, each, label_smoothing=smoothing, reduction="none")
        for each in (label, other)
    )
    batch = {"label": label, "other_label": other, "lam": LAMBDAS}
    expected = (LAMBDAS * one + (1 - LAMBDAS) * two).mean()
    torch.testing.assert_close(task.loss(logits, batch, smoothing), expected)
    batch["lam"] = torch.ones(6)
    plain = task.loss(logits, {"label": label}, smoothing)
    torch.testing.assert_close(task.loss(logits, batch, smoothing), plain)


def test_training_with_mixed_clouds(tmp_path: Path) -> None:
    options = ["augment.cutmix_prob=0.8", "augment.elastic=0.5", "trainer.epochs=1"]
    recipe = load_recipe("procedural", [*QUICK, *options, "data.shapes=[28,14,14]"])
    train(recipe, tmp_path / "run")
    (row,) = read_metrics(tmp_path / "run" / "metrics.csv")
    assert 0 < float(row["train/loss"]) < 10
    assert 0 <= float(row["val/overall_accuracy"]) <= 1


def test_clouds_are_normalised_after_all_that() -> None:
    options = ["augment.cutmix_prob=0.5", "augment.partial_view_prob=0.5"]
    options += ["augment.outlier_ratio=0.2", "augment.point_dropout=0.5"]
    usual = mixed_batch(options)
    batch = mixed_batch([*options, "augment.normalize=true"])
    mask = batch["mask"]
    assert torch.equal(mask, usual["mask"])
    assert torch.equal(batch["lam"], usual["lam"])
    torch.testing.assert_close(batch["xyz"], normalize_unit_sphere(usual["xyz"], mask))
