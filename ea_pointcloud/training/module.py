"""The Lightning module: one step, the optimiser and the schedule, for whichever task."""

import math

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.distributed.fsdp import FullyShardedDataParallel

from ea_pointcloud._device import generator_for, mix_seeds
from ea_pointcloud.metrics import MeanLoss
from ea_pointcloud.models import PretrainedModel
from ea_pointcloud.training.distributed import learning_rate_scale
from ea_pointcloud.training.precision import compile_network, optimizer_options
from ea_pointcloud.training.recipe_keys import OptimRecipe, Recipe
from ea_pointcloud.training.tasks import task_of

SPLITS = ("val", "test")  # what the validation loaders hold, in order; test in legacy runs only


class RecipeModule(LightningModule):
    """Train a network as a recipe says.

    All randomness of a step (augmentation, dropout) follows from the recipe's seed and the numbers
    of epoch and batch, counted over all processes, so a resumed run continues exactly as if never
    stopped.

    Args:
        model: the network.
        recipe: the checked recipe.
        class_count: (classes,) training clouds of each, which ``optim.logit_adjustment`` needs.
    """

    adjustment: Tensor | None  # (classes,) added to the logits in training

    def __init__(
        self, model: PretrainedModel, recipe: Recipe, class_count: Tensor | None = None
    ) -> None:
        super().__init__()
        self.model = model
        self.recipe = recipe
        self.task = task_of(recipe)
        # Known by name: parameters in parts on several GPUs have lost their shape.
        self.matrices = {name for name, p in model.named_parameters() if p.ndim > 1}
        # Metrics, because Lightning's own mean over processes of unequal parts is not exact.
        self.train_loss = MeanLoss()
        self.losses = torch.nn.ModuleDict({split: MeanLoss() for split in SPLITS})
        adjustment = None
        if recipe.optim.logit_adjustment:
            assert class_count is not None
            fraction = class_count.clamp_min(1) / class_count.sum()  # a class may have no clouds
            adjustment = recipe.optim.logit_adjustment * fraction.log()
        self.register_buffer("adjustment", adjustment, persistent=False)
        self.metrics = torch.nn.ModuleDict(
            {split: self.task.metrics(model.data_spec, f"{split}/") for split in SPLITS}
        )

    def on_fit_start(self) -> None:
        """Compile the network where the recipe says so; copies of it were made before."""
        compile_network(self.model, self.recipe.trainer.compile)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Augment, call the network, and measure the smoothed cross entropy.

        What a network adds to its loss itself is part of what is logged. With
        ``optim.logit_adjustment`` the logits of frequent classes are raised here and not later, so
        that they need not be by themselves.

        Reference:
            Menon et al., Long-tail learning via logit adjustment, ICLR 2021.
        """
        batch_number = batch_idx * self.trainer.world_size + self.global_rank
        place = (self.recipe.trainer.seed, self.current_epoch, batch_number)
        torch.manual_seed(mix_seeds(*place, 2))  # dropout knows the global generator only
        batch = self.task.augment(batch, generator_for(self.device, *place, 1))
        logits = self.task.logits(self.model, batch)
        if self.adjustment is not None:
            logits = logits + self.adjustment
        loss = self.task.loss(logits, batch, self.recipe.optim.label_smoothing)
        auxiliary = self.model.auxiliary_loss()
        if auxiliary is not None:
            loss = loss + auxiliary
        self.train_loss.update(loss, len(logits))
        self.log("train/loss", self.train_loss, on_epoch=True, on_step=False, prog_bar=True)
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
        mean = self.losses[split]
        assert isinstance(mean, MeanLoss)
        mean.update(self.task.loss(logits, batch), len(logits))
        self.log(f"{split}/loss", mean, add_dataloader_idx=False)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """No decay on vectors (norms, biases), warm-up and cosine by the step."""
        optim = self.recipe.optim
        lr = optim.lr * learning_rate_scale(optim, self.trainer.world_size)
        matrices = [p for name, p in self.model.named_parameters() if name in self.matrices]
        vectors = [p for name, p in self.model.named_parameters() if name not in self.matrices]
        groups = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
        decay = optim.weight_decay
        options = optimizer_options(optim, self.recipe.trainer.precision, self.device)
        if optim.name == "sgd":
            optimizer = torch.optim.SGD(groups, lr=lr, momentum=0.9, weight_decay=decay, **options)
        else:
            optimizer = torch.optim.AdamW(groups, lr=lr, weight_decay=decay, **options)
        total = int(self.trainer.estimated_stepping_batches)
        warmup = round(total * min(0.5, optim.warmup_epochs / self.recipe.trainer.epochs))
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: learning_rate_factor(step, total, warmup, optim)
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by the norm, which with FSDP is known to all processes together alone."""
        whole = self.trainer.strategy.model
        if isinstance(whole, FullyShardedDataParallel):
            assert gradient_clip_val is not None
            whole.clip_grad_norm_(gradient_clip_val)
            return
        super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)


def learning_rate_factor(step: int, total: int, warmup: int, optim: OptimRecipe) -> float:
    """Learning rate at ``step`` over ``optim.lr``: linear up, then half a cosine to ``min_lr``."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    lowest = optim.min_lr / optim.lr
    return lowest + (1 - lowest) * (1 + math.cos(math.pi * progress)) / 2
