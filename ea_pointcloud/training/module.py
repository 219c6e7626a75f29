"""The Lightning module: loss, optimiser, schedule, and metrics of a classifier."""

import math

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.nn import functional as F

from ea_pointcloud._device import generator_for, mix_seeds
from ea_pointcloud.metrics import classification_metrics
from ea_pointcloud.models import EAClassifier
from ea_pointcloud.training.recipe import OptimRecipe, Recipe

SPLITS = ("val", "test")  # what the validation loaders hold, in order; test in legacy runs only


class ClassifierModule(LightningModule):
    """Train a classifier as a recipe says.

    All randomness of a step (augmentation, dropout) follows from the recipe's seed and the numbers
    of epoch and batch, so a resumed run continues exactly as if never stopped.

    Args:
        model: the network.
        recipe: the checked recipe.
    """

    def __init__(self, model: EAClassifier, recipe: Recipe) -> None:
        super().__init__()
        self.model = model
        self.recipe = recipe
        self.augmentation = recipe.augmentation()
        num_classes = model.config.num_classes
        self.metrics = torch.nn.ModuleDict(
            {split: classification_metrics(num_classes, f"{split}/") for split in SPLITS}
        )

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Augment, classify, and measure the smoothed cross entropy."""
        place = (self.recipe.trainer.seed, self.current_epoch, batch_idx)
        generator = generator_for(self.device, *place, 1)
        torch.manual_seed(mix_seeds(*place, 2))  # dropout knows the global generator only
        xyz, mask = self.augmentation(batch["xyz"], generator=generator)
        logits = self.model(xyz, mask=mask)
        loss = F.cross_entropy(
            logits.float(), batch["label"], label_smoothing=self.recipe.optim.label_smoothing
        )
        self.log(
            "train/loss", loss, on_epoch=True, on_step=False, prog_bar=True, batch_size=len(xyz)
        )
        return loss

    def validation_step(
        self, batch: dict[str, Tensor], batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Collect the metrics of one split."""
        split = SPLITS[dataloader_idx]
        logits = self.model(batch["xyz"])
        metrics = self.metrics[split]
        metrics.update(logits, batch["label"])  # pyright: ignore[reportCallIssue]
        self.log_dict(
            metrics,  # pyright: ignore[reportArgumentType]
            prog_bar=True,
            add_dataloader_idx=False,
        )
        loss = F.cross_entropy(logits.float(), batch["label"])
        self.log(f"{split}/loss", loss, batch_size=len(logits), add_dataloader_idx=False)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW without decay on vectors (norms, biases), warm-up and cosine by the step."""
        optim = self.recipe.optim
        matrices = [p for p in self.model.parameters() if p.ndim > 1]
        vectors = [p for p in self.model.parameters() if p.ndim <= 1]
        optimizer = torch.optim.AdamW(
            [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}],
            lr=optim.lr,
            weight_decay=optim.weight_decay,
        )
        total = int(self.trainer.estimated_stepping_batches)
        warmup = round(total * min(0.5, optim.warmup_epochs / self.recipe.trainer.epochs))
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: learning_rate_factor(step, total, warmup, optim)
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


def learning_rate_factor(step: int, total: int, warmup: int, optim: OptimRecipe) -> float:
    """Learning rate at ``step`` over ``optim.lr``: linear up, then half a cosine to ``min_lr``."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    lowest = optim.min_lr / optim.lr
    return lowest + (1 - lowest) * (1 + math.cos(math.pi * progress)) / 2
