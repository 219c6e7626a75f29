"""The names of the splits, and the fixed rule by which a train split gives up its val part."""

import torch
from torch import Tensor

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


def check_val_fraction(val_fraction: float) -> None:
    """Raise unless ``0 < val_fraction < 1``."""
    if not 0 < val_fraction < 1:
        raise ValueError(f"val_fraction must be between 0 and 1, got {val_fraction}")
