"""What becomes of part probabilities after the network: neighbours, and parts too small."""

import pytest
import torch
from torch import Tensor

from ea_pointcloud.inference.postprocess import (
    drop_small_parts,
    min_part_fractions,
    postprocess,
    smooth_over_neighbors,
)


def probs_of(labels: list[int], num_parts: int, second: int) -> Tensor:
    """(1, N, P): 0.6 for the label, 0.3 for ``second``, the rest shared by the others."""
    found = torch.full((1, len(labels), num_parts), 0.1 / max(1, num_parts - 2))
    found[..., second] = 0.3
    found.scatter_(2, torch.tensor(labels)[None, :, None], 0.6)
    return found / found.sum(-1, keepdim=True)


def test_least_shares_of_parts_that_a_shape_may_lack() -> None:
    labels = torch.tensor(
        [
            [0, 0, 0, 1],  # 1 has a quarter
            [0, 0, 1, 1],  # a half
            [0, 0, 0, 0],  # lacks it
            [2, 3, 3, -1],  # the padding does not count: 2 has a third
            [2, 2, 3, -1],
        ]
    )
    category = torch.tensor([0, 0, 0, 1, 1])
    # 0, 2 and 3 are in every shape of their category, 4 in none.
    shares = min_part_fractions(labels, category, [(0, 1, 4), (2, 3)], 5)
    assert shares == (0.0, 0.25, 0.0, 0.0, 0.0)


def test_a_part_too_small_goes_to_the_next_best() -> None:
    probs = probs_of([0] * 9 + [1], 3, second=2)
    least = torch.tensor([0.0, 0.14, 0.0])  # three quarters are 0.105, part 1 has 0.1
    postprocessed = drop_small_parts(probs, least)
    assert postprocessed.argmax(-1).tolist() == [[0] * 9 + [2]]
    assert (postprocessed[..., 1] == 0).all()
    torch.testing.assert_close(postprocessed.sum(-1), torch.ones(1, 10))
    # Three quarters are 0.0975, or never lacking: it stays.
    for kept in ([0.0, 0.13, 0.0], [0.0, 0.0, 0.0]):
        assert torch.equal(drop_small_parts(probs, torch.tensor(kept)), probs)


def test_the_smallest_goes_first_and_may_save_another() -> None:
    # 1 and 2 are both too small; the point of 1 goes to 2, which is then large enough.
    probs = probs_of([0] * 8 + [1, 2], 3, second=2)
    least = torch.tensor([0.0, 0.5, 0.2])
    assert drop_small_parts(probs, least).argmax(-1).tolist() == [[0] * 8 + [2, 2]]


def test_something_is_left_and_what_is_no_choice_stays_none() -> None:
    probs = torch.tensor([[[0.7, 0.3, 0.0], [0.7, 0.3, 0.0], [0.3, 0.7, 0.0]]])
    postprocessed = drop_small_parts(probs, torch.ones(3))
    assert torch.equal(postprocessed, torch.tensor([[[1.0, 0.0, 0.0]] * 3]))


def test_clouds_of_a_batch_are_decided_one_by_one_and_padding_does_not_count() -> None:
    few, many = probs_of([0] * 9 + [1], 3, second=2), probs_of([0] * 7 + [1] * 3, 3, second=2)
    least = torch.tensor([0.0, 0.3, 0.0])
    both = drop_small_parts(torch.cat([few, many]), least)
    assert torch.equal(both[:1], drop_small_parts(few, least))
    assert torch.equal(both[1:], many)
    mask = torch.ones(1, 10, dtype=torch.bool)
    mask[0, 3:9] = False  # 1 of 4 points is more than 0.225
    assert torch.equal(drop_small_parts(few, least, mask), few)


def test_smoothing_is_the_mean_over_the_nearest() -> None:
    generator = torch.Generator().manual_seed(0)
    xyz, probs = (torch.rand(2, 30, c, generator=generator) for c in (3, 4))
    near = torch.cdist(xyz, xyz).topk(8, largest=False).indices  # (2, 30, 8)
    expected = torch.stack([row[idx].mean(1) for row, idx in zip(probs, near, strict=True)])
    torch.testing.assert_close(smooth_over_neighbors(probs, xyz), expected)


def test_smoothing_keeps_to_the_real_points() -> None:
    generator = torch.Generator().manual_seed(1)
    xyz, probs = (torch.rand(1, 20, c, generator=generator) for c in (3, 2))
    padded = torch.cat([xyz, xyz[:, :5]], dim=1), torch.cat([probs, 9 + probs[:, :5]], dim=1)
    mask = torch.arange(25)[None] < 20
    found = smooth_over_neighbors(padded[1], padded[0], mask)[:, :20]
    torch.testing.assert_close(found, smooth_over_neighbors(probs, xyz))


@pytest.mark.parametrize("points", [1, 3])
def test_refine_takes_clouds_smaller_than_a_neighbourhood(points: int) -> None:
    probs = torch.rand(1, points, 2)
    postprocessed = postprocess(probs, torch.rand(1, points, 3), torch.zeros(2))
    assert postprocessed.shape == probs.shape
    torch.testing.assert_close(postprocessed.sum(-1), torch.ones(1, points))
