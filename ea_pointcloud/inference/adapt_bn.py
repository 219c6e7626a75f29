"""Batch normalisations that take their statistics from the clouds at hand, in a copy."""

from copy import deepcopy
from typing import TypeVar

import torch
from torch import Tensor, nn

from ea_pointcloud._checks import check_mask, check_share, check_xyz
from ea_pointcloud.models.base import Classifier

# Layers after the pooling have one row a cloud: of fewer, a variance says little.
LEAST_CLOUDS = 16
_BATCH_SIZE = 64

_Classifier = TypeVar("_Classifier", bound=Classifier)


def check_enough(clouds: int) -> None:
    """Raise where there are too few clouds to adapt to."""
    if clouds < LEAST_CLOUDS:
        raise ValueError(
            f"batch-norm adaptation needs at least {LEAST_CLOUDS} clouds, got {clouds}; give more, "
            "or leave it out"
        )


@torch.no_grad()
def adapt_batch_norm(
    model: _Classifier,
    xyz: Tensor,
    mask: Tensor | None = None,
    *,
    features: Tensor | None = None,
    weight: float = 1.0,
) -> _Classifier:
    """A copy of ``model`` whose batch normalisations have the statistics of other clouds.

    For clouds that all differ from those of training in the same way, as those of a new sensor do.
    No labels are needed and nothing is trained. The clouds must be in the mixture of classes that
    is going to be classified: of a single class, the statistics would hide what distinguishes it.
    Their order does not matter beyond rounding and the division into batches, which is drawn with a
    fixed seed.

    Args:
        model: any classifier; not altered.
        xyz: (B, N, 3), B >= 16, posed and scaled as the model expects, on its device.
        mask: (B, N) bool, True = real point.
        features: (B, N, F) where the model reads some.
        weight: of the new statistics against those of training, 0 < weight <= 1.

    Returns:
        The copy, in evaluation mode; the calibration, of other features, is dropped.

    Raises:
        ValueError: if there are too few clouds, or the weight is outside its range.

    Reference:
        Schneider et al., Improving robustness against common image corruptions by covariate shift
        adaptation, NeurIPS 2020; with ``weight=1`` the batch normalisation baseline of Wang et al.,
        Tent, ICLR 2021.
    """
    check_share("weight", weight)
    check_xyz("xyz", xyz)
    check_mask(mask, xyz)
    check_enough(len(xyz))
    adapted = deepcopy(model).eval()
    adapted.calibration = None
    norms = [module for module in adapted.modules() if isinstance(module, nn.BatchNorm1d)]
    statistics = ("running_mean", "running_var")
    trained = [[norm.get_buffer(name).clone() for name in statistics] for norm in norms]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over the batches
        norm.train()
    # Files are often in the order of the classes, and batches shall be alike.
    order = torch.randperm(len(xyz), generator=torch.Generator().manual_seed(0)).to(xyz.device)
    for rows in order.chunk(-(-len(xyz) // _BATCH_SIZE)):
        adapted.embed(
            xyz[rows],
            None if features is None else features[rows],
            mask=None if mask is None else mask[rows],
        )
    for norm, before, momentum in zip(norms, trained, momenta, strict=True):
        norm.eval()
        norm.momentum = momentum
        for name, value in zip(statistics, before, strict=True):
            buffer = norm.get_buffer(name)
            buffer.copy_(value.lerp(buffer, weight))
    return adapted
