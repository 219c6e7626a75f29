"""Exponential moving average of the weights, with a warm-up of its decay."""

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor


class ExponentialMovingAverage(WeightAveraging):
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
