"""Weights that come with the package: their names, and weights rounded to take half the space."""

from importlib import resources
from pathlib import Path

import torch
from torch import Tensor, nn

DEFAULT_CLASSIFIER = "eamlp-small-modelnet10-robust"
DEFAULT_SEGMENTER = "eagraph-tiny-psb"
SHIPPED_FOLDER = Path(str(resources.files("ea_pointcloud"))) / "weights"


def list_pretrained() -> list[str]:
    """The names of the weights that come with the package, for ``from_pretrained``."""
    return sorted(path.parent.name for path in SHIPPED_FOLDER.glob("[!.]*/config.json"))


def rounded_state(model: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    """The state of a network with its parameters in another dtype.

    Buffers stay as they are: they are few, and the variances of rarely used channels are smaller
    than half precision can tell from 0.

    Args:
        model: not altered.
        dtype: floating, e.g. ``torch.float16``.

    Raises:
        ValueError: if a parameter would lose more than rounding does, because its values are too
            large or too small for ``dtype``; names it.
    """
    state = dict(model.state_dict())
    for name, parameter in model.named_parameters():
        wide = parameter.detach()
        rounded = wide.to(dtype)
        lost = (rounded.to(wide.dtype) - wide).norm()
        if not bool(lost <= torch.finfo(dtype).eps * wide.norm()):
            smallest, largest = wide.abs().min(), wide.abs().max()
            raise ValueError(
                f"{name} must keep its values as {dtype}, got magnitudes from {smallest:.3g} to "
                f"{largest:.3g}; store the weights as they are"
            )
        state[name] = rounded
    return state
