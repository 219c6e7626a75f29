"""Pairing the points of two clouds."""

from itertools import permutations

import pytest
import torch
from torch import Tensor

from ea_pointcloud.augment.matching import match_points, optimal_match
from ea_pointcloud.ops import gather_points
from tests.oracles import cloud, seeded

MATCHES = [match_points, optimal_match]


def cost(xyz: Tensor, other: Tensor, idx: Tensor) -> Tensor:
    return (xyz - gather_points(other, idx)).square().sum((1, 2))


@pytest.mark.parametrize("match", MATCHES)
@pytest.mark.parametrize("num_points", [1, 2, 5, 64, 100])
def test_clouds_of_one_size_are_paired_one_to_one(match, num_points: int) -> None:
    xyz, other = (
        cloud("surface", num_points, batch=3),
        cloud("surface", num_points, batch=3, seed=1),
    )
    idx = match(xyz, other)
    assert (idx.sort(1).values == torch.arange(num_points)).all()


@pytest.mark.parametrize("match", MATCHES)
def test_a_cloud_is_paired_with_its_own_points(match) -> None:
    xyz = cloud("surface", 100, batch=2)
    order = torch.stack([torch.randperm(100, generator=seeded(i)) for i in range(2)])
    idx = match(xyz, gather_points(xyz, order))
    assert torch.equal(order.gather(1, idx), torch.arange(100).expand(2, -1))


@pytest.mark.parametrize("seed", range(5))
def test_few_points_are_paired_at_the_least_cost_of_all(seed: int) -> None:
    xyz, other = torch.randn(2, 4, 5, 3, generator=seeded(seed))
    every = torch.tensor(list(permutations(range(5))))  # (120, 5)
    costs = torch.stack([cost(xyz, other, one.expand(4, -1)) for one in every])
    torch.testing.assert_close(cost(xyz, other, optimal_match(xyz, other)), costs.amin(0))


def test_larger_cells_come_nearer_to_the_least_cost() -> None:
    xyz, other = torch.rand(2, 8, 128, 3, generator=seeded())
    random = torch.arange(128).expand(8, -1)
    costs = [cost(xyz, other, random), cost(xyz, other, match_points(xyz, other))]
    costs += [cost(xyz, other, optimal_match(xyz, other, cell=cell)) for cell in (8, 32, 128)]
    means = [float(each.mean()) for each in costs]
    assert means == sorted(means, reverse=True)
    assert means[1] < 0.6 * means[0]
    assert means[1] < 2 * means[-1]  # not far from the best there is


@pytest.mark.parametrize("match", MATCHES)
@pytest.mark.parametrize("padding", [0.0, 1e9, float("nan")])
def test_padding_is_never_taken_and_has_no_influence(match, padding: float) -> None:
    xyz, other = torch.rand(2, 3, 90, 3, generator=seeded())
    mask, other_mask = torch.rand(2, 3, 90, generator=seeded(1)) < 0.6
    spoiled, other_spoiled = xyz.clone(), other.clone()
    spoiled[~mask], other_spoiled[~other_mask] = padding, padding
    idx = match(spoiled, other_spoiled, mask=mask, other_mask=other_mask)
    for row, (real, other_real) in enumerate(zip(mask, other_mask, strict=True)):
        own = idx[row, real]
        assert other_real[own].all()
        counts = own.bincount(minlength=90)[other_real]  # as evenly as can be
        assert int(counts.max() - counts.min()) <= 1
        alone = match(xyz[None, row, real], other[None, row, other_real])
        assert torch.equal(own, other_real.nonzero()[:, 0][alone[0]])


def test_clouds_of_other_sizes() -> None:
    xyz, other = cloud("surface", 7), cloud("surface", 12, seed=1)
    assert len(set(match_points(xyz, other)[0].tolist())) == 7
    assert set(match_points(other, xyz)[0].tolist()) == set(range(7))


def test_wrong_arguments() -> None:
    xyz = cloud("surface", 5)
    with pytest.raises(ValueError, match="query and points must have the same B, got 1 and 2"):
        match_points(xyz, xyz.expand(2, -1, -1))
    with pytest.raises(ValueError, match="cell must be at least 1, got 0"):
        optimal_match(xyz, xyz, cell=0)
