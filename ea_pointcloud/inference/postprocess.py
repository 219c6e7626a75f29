"""Postprocessing of part probabilities: smoothing over neighbours, removal of parts too small.

A part that a shape lacks, yet a few points are assigned to, is the most expensive error in instance
mIoU: the part counts 0 instead of 1.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ea_pointcloud._checks import real_points
from ea_pointcloud.ops import gather_points, knn

NEIGHBORS = 8  # a point among them
TOO_SMALL = 0.75  # of the smallest fraction that a part had in training
_QUERIES = 8_192  # at a time: their neighbours' probabilities take 8 times the memory


def min_part_fractions(
    part_label: Tensor, category: Tensor, parts: Sequence[Sequence[int]], num_parts: int
) -> tuple[float, ...]:
    """How small each part that a shape may lack was in the shapes that have it.

    Args:
        part_label: (n, N) int64 part ids, below 0 for a point without one.
        category: (n,) int64, places in ``parts``.
        parts: the part ids of each category.
        num_parts: P.

    Returns:
        For each part the smallest fraction of the points of a shape that has it; 0 for one that
        every shape of its category has, or none.
    """
    fractions = torch.zeros(num_parts, dtype=torch.float64)
    for place, ids in enumerate(parts):
        labels = part_label[category == place]
        points = (labels >= 0).sum(1)
        for part in ids:
            fraction = ((labels == part).sum(1) / points.clamp_min(1)).double()
            present = fraction > 0
            if bool(present.any()) and not bool(present[points > 0].all()):
                fractions[part] = fraction[present].min()
    return tuple(fractions.tolist())


def postprocess(
    probs: Tensor, xyz: Tensor, min_part_fraction: Tensor, mask: Tensor | None = None
) -> Tensor:
    """:func:`drop_small_parts` of :func:`smooth_over_neighbors`, whose arguments these are."""
    return drop_small_parts(smooth_over_neighbors(probs, xyz, mask), min_part_fraction, mask)


def smooth_over_neighbors(probs: Tensor, xyz: Tensor, mask: Tensor | None = None) -> Tensor:
    """The mean of the probabilities over the 8 nearest points, a point among them.

    Args:
        probs: (B, N, P).
        xyz: (B, N, 3).
        mask: (B, N) bool, True = real point; real points come first.

    Returns:
        (B, N, P); rows of padded points are meaningless.
    """
    lengths = None if mask is None else mask.sum(1)
    k = min(NEIGHBORS, xyz.shape[1])
    means = []
    for part in xyz.split(_QUERIES, dim=1):
        _, idx = knn(part, xyz, k, lengths=lengths)
        means.append(gather_points(probs, idx).mean(2))
    return torch.cat(means, dim=1)


def drop_small_parts(
    probs: Tensor, min_part_fraction: Tensor, mask: Tensor | None = None
) -> Tensor:
    """Take away, one after another, parts given to fewer points than they ever have.

    Each point is given its most probable part. Of the parts with less than three quarters of
    ``min_part_fraction`` the one that lacks the most is taken away and its points get their next
    best, until none is too small. The last part of a cloud stays.

    Args:
        probs: (B, N, P), 0 for what is no choice.
        min_part_fraction: (P,) from :func:`min_part_fractions`; 0 keeps a part.
        mask: (B, N) bool, True = real point.

    Returns:
        (B, N, P), 0 for parts taken away, that sum to 1 over the parts that are left.
    """
    least = min_part_fraction.to(probs) * TOO_SMALL
    real = real_points(mask, probs)
    part_ids = torch.arange(probs.shape[2], device=probs.device)
    choice = probs.clone()
    for _ in part_ids:
        given = (choice.argmax(-1)[..., None] == part_ids) & real[..., None]  # (B, N, P)
        fraction = given.sum(1) / real.sum(1, keepdim=True).clamp_min(1)  # (B, P)
        lacking = torch.where((fraction > 0) & (fraction < least), fraction / least, torch.inf)
        smallest, part = lacking.min(1)
        found = smallest.isfinite()
        if not bool(found.any()):
            break
        # Below what is no choice: a point without a next best part gets any other.
        gone = (part[:, None] == part_ids) & found[:, None]
        choice = choice.masked_fill(gone[:, None], -1.0)
    left = choice.clamp_min(0.0)
    return left / left.sum(-1, keepdim=True).clamp_min(torch.finfo(left.dtype).tiny)
