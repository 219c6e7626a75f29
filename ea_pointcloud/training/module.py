"""The Lightning module: one step, the optimiser and the schedule, for whichever task."""

import math

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from ea_pointcloud._device import generator_for, mix_seeds
from ea_pointcloud.models import PretrainedModel
from ea_pointcloud.training.recipe import OptimRecipe, Recipe
from ea_pointcloud.training.tasks import task_of

SPLITS = ("val", "test")  # what the validation loaders hold, in order; test in legacy runs only


class RecipeModule(LightningModule):
    """Train a network as a recipe says.

    All randomness of a step (augmentation, dropout) follows from the recipe's seed and the numbers
    of epoch and batch, so a resumed run continues exactly as if never stopped.

    Args:
        model: the network.
        recipe: the checked recipe.
    """

    def __init__(self, model: PretrainedModel, recipe: Recipe) -> None:
        super().__init__()
        self.model = model
        self.recipe = recipe
        self.task = task_of(recipe)
        self.metrics = torch.nn.ModuleDict(
            {split: self.task.metrics(model.data_spec, f"{split}/") for split in SPLITS}
        )

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Augment, call the network, and measure the smoothed cross entropy."""
        place = (self.recipe.trainer.seed, self.current_epoch, batch_idx)
        torch.manual_seed(mix_seeds(*place, 2))  # dropout knows the global generator only
        batch = self.task.augment(batch, generator_for(self.device, *place, 1))
        logits = self.task.logits(self.model, batch)
        loss = self.task.loss(logits, batch, self.recipe.optim.label_smoothing)
        self.log(
            "train/loss", loss, on_epoch=True, on_step=False, prog_bar=True, batch_size=len(logits)
        )
        return loss

    def validation_step(
        self, batch: dict[str, Tensor], batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Collect the metrics of one split."""
        split = SPLITS[dataloader_idx]
        logits = self.task.logits(self.model, batch)
        metrics = self.metrics[split]
        self.task.update(metrics, logits, batch)  # pyright: ignore[reportArgumentType]
        self.log_dict(
            metrics,  # pyright: ignore[reportArgumentType]
            prog_bar=True,
            add_dataloader_idx=False,
        )
        loss = self.task.loss(logits, batch)
        self.log(f"{split}/loss", loss, batch_size=len(logits), add_dataloader_idx=False)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """No decay on vectors (norms, biases), warm-up and cosine by the step."""
        optim = self.recipe.optim
        matrices = [p for p in self.model.parameters() if p.ndim > 1]
        vectors = [p for p in self.model.parameters() if p.ndim <= 1]
        groups = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
        decay = optim.weight_decay
        if optim.name == "sgd":
            optimizer = torch.optim.SGD(groups, lr=optim.lr, momentum=0.9, weight_decay=decay)
        else:
            optimizer = torch.optim.AdamW(groups, lr=optim.lr, weight_decay=decay)
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
