"""Names of the splits, the fixed rule that divides train and val, and checks of what is opened."""

import torch
from torch import Tensor

from ea_pointcloud._checks import check_at_least, check_choice
from ea_pointcloud.ops.sampling import SAMPLINGS

SPLITS = ("train", "val", "test", "trainval")
SPLIT_SEED = 0  # fixed for good: another value would be another val set


def stratified_mask(label: Tensor, fraction: float) -> Tensor:
    """(n,) bool, True for the fraction of each class that goes to val; the same at every call.

    A class with at least two samples has at least one on either side.
    """
    generator = torch.Generator().manual_seed(SPLIT_SEED)
    mask = torch.zeros(len(label), dtype=torch.bool)
    for value in label.unique():
        members = (label == value).nonzero().flatten()
        count = min(max(1, round(len(members) * fraction)), len(members) - 1)
        order = torch.randperm(len(members), generator=generator)
        mask[members[order[:count]]] = True
    return mask


def check_opening(split: str, num_points: int, sampling: str, val_fraction: float | None) -> None:
    """Raise unless a data set can be opened with these arguments.

    Raises:
        ValueError: if the split or choice is unknown, or a number is out of its range.
    """
    check_choice("split", split, SPLITS)
    check_at_least("num_points", num_points, 0)
    check_choice("sampling", sampling, SAMPLINGS)
    if val_fraction is not None and not 0 < val_fraction < 1:
        raise ValueError(f"val_fraction must be between 0 and 1, got {val_fraction}")
