"""What makes a step faster: mixed precision, fused optimisers, and compilation."""

from typing import Any

import torch
from torch import nn

from ea_pointcloud._device import has_bfloat16
from ea_pointcloud.training.recipe_keys import NEEDS_GPU, OptimRecipe


def resolve_precision(precision: str, device: torch.device) -> str:
    """``"auto"`` is bf16-mixed where the processor multiplies bfloat16 natively.

    Elsewhere it is 16-mixed on a GPU and 32-true on a CPU. Weights, optimiser, losses, distances
    and the normalisation of the attention stay in float32 in any case.

    Raises:
        ValueError: if bf16-mixed is chosen for a GPU that has no bfloat16, or 16-mixed without one.
    """
    on_gpu = device.type == "cuda"
    if precision == "16-mixed" and not on_gpu:
        raise ValueError(NEEDS_GPU)
    if precision == "bf16-mixed" and on_gpu and not has_bfloat16(device):
        raise ValueError(
            "trainer.precision=bf16-mixed needs a GPU of compute capability 8.0, which this one is "
            "below; use trainer.precision=16-mixed or auto"
        )
    if precision != "auto":
        return precision
    if has_bfloat16(device):
        return "bf16-mixed"
    return "16-mixed" if on_gpu else "32-true"


def optimizer_options(optim: OptimRecipe, precision: str, device: torch.device) -> dict[str, Any]:
    """``fused`` for PyTorch's optimisers: one kernel for all weights instead of a dozen for each.

    ``"auto"`` fuses on GPUs. On a CPU it made no difference (0.42 s of CPU time a step of the
    ``tiny`` classifier either way). Under a scaler of gradients a fused step would have to undo the
    scale itself, and their norm could not be clipped before.
    """
    if optim.fused != "auto":
        return {"fused": bool(optim.fused)}
    return {"fused": True} if device.type == "cuda" and precision != "16-mixed" else {}


def compile_network(network: nn.Module, mode: str) -> None:
    """Compile the forward and backward pass of ``network``, in place, at its next call.

    Its weights, their names, and copies made before stay as they are. Shapes are fixed: a last,
    smaller batch is compiled separately.

    Args:
        network: in training or evaluation mode; each is compiled for itself.
        mode: ``"none"``, or one of :func:`torch.compile`. ``"reduce-overhead"`` also records CUDA
            graphs, which launch a whole pass at once.
    """
    if mode != "none":
        network.compile(mode=mode, dynamic=False)
