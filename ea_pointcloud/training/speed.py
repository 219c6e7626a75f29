"""What makes training faster and changes nothing else: precision, optimiser, compiling, mean."""

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor, nn

from ea_pointcloud._device import has_bfloat16
from ea_pointcloud.training.recipe_keys import OptimRecipe


def resolve_precision(precision: str, device: torch.device) -> str:
    """``"auto"`` is bf16-mixed where the processor multiplies bfloat16 natively, else 32-true.

    Weights, optimiser, losses, distances and the normalisation of the attention stay in float32 in
    any case.
    """
    if precision != "auto":
        return precision
    return "bf16-mixed" if has_bfloat16(device) else "32-true"


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

    Its weights, their names, and copies made before stay as they are. Shapes are taken as fixed: a
    last, smaller batch is compiled for itself.

    Args:
        network: in training or evaluation mode; each is compiled for itself.
        mode: ``"none"``, or one of :func:`torch.compile`. ``"reduce-overhead"`` also records CUDA
            graphs, which launch a whole pass at once.
    """
    if mode != "none":
        network.compile(mode=mode, dynamic=False)


class MovingAverage(WeightAveraging):
    """Exponential moving average of the weights whose decay grows from 0.1 to ``decay``.

    With a constant decay the running statistics of the batch normalisations keep a trace of their
    initial values for epochs: they start at a variance of 1 where coordinates have 0.01.

    The number of updates is known on the host and the weights of one dtype are averaged together:
    Lightning's own update waits for the GPU twice for each weight.

    Args:
        decay: at least 0 and below 1.

    Reference:
        The warm-up of TensorFlow's ExponentialMovingAverage, min(decay, (1 + n) / (10 + n)).
    """

    def __init__(self, decay: float) -> None:
        super().__init__()
        self.decay = decay

    @torch.no_grad()
    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Average, once for each step of the optimiser."""
        updates = self._latest_update_step  # one for each step
        if trainer.global_step <= updates:
            return
        assert self._average_model is not None
        average_weights(
            [*self._average_model.module.parameters(), *self._average_model.module.buffers()],
            [*pl_module.parameters(), *pl_module.buffers()],
            min(self.decay, (1 + updates) / (10 + updates)) if updates else 0.0,
        )
        self._average_model.n_averaged += 1
        self._latest_update_step = trainer.global_step


def average_weights(means: list[Tensor], current: list[Tensor], decay: float) -> None:
    """``mean = decay * mean + (1 - decay) * current``, in place; counters are copied."""
    floating: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}
    for mean, now in zip(means, current, strict=True):
        if mean.is_floating_point():
            pair = floating.setdefault(mean.dtype, ([], []))
            pair[0].append(mean)
            pair[1].append(now)
        else:
            mean.copy_(now, non_blocking=True)
    for mean, now in floating.values():
        torch._foreach_lerp_(mean, now, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]
