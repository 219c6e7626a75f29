"""The keys of a recipe with their defaults, meanings and checks, but for those of clouds."""

import math
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from ea_pointcloud._checks import check_at_least, check_choice, check_fraction, check_positive
from ea_pointcloud._device import check_device_name
from ea_pointcloud.descriptors.channels import feature_channels
from ea_pointcloud.models.base import named_config
from ea_pointcloud.models.factory import ARCHITECTURES, Architecture
from ea_pointcloud.models.metadata import DataSpec
from ea_pointcloud.models.pretrained import PretrainedModel
from ea_pointcloud.training.recipe_data import AugmentRecipe, DataRecipe

# Which data sets a task can be trained on.
TASKS = {
    "classification": ("modelnet", "procedural", "folder", "pyg"),
    "segmentation": ("shapenetpart", "parts", "procedural", "pyg"),
}
OPTIMIZERS = ("adamw", "sgd")
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "auto")
NEEDS_GPU = "trainer.precision=16-mixed needs a GPU; take 32-true or bf16-mixed on the CPU"
COMPILE_MODES = ("none", "default", "reduce-overhead", "max-autotune")
STRATEGIES = ("auto", "ddp", "fsdp")
LR_SCALES = ("none", "linear", "sqrt")


@dataclass
class ModelRecipe:
    """Which network: an architecture, a named size of it, and single settings to replace.

    Args:
        name: ``"ea"``, the point transformer with external attention, ``"eamlp"`` or ``"eagraph"``;
            of a classifier also one of the baselines ``"pointnet"`` and ``"dgcnn"``.
        size: a named size of the network, e.g. ``"tiny"`` or ``"base"``. With ``init`` it may be
            ``null``: then the network is that of the weights, and ``overrides`` in the run's
            recipe spell out its settings.
        init: trained weights to start from: a run folder, a name of pretrained weights, or
            USER/NAME on the hub.
        category: give a segmenter the category of each shape as an input.
        overrides: settings of the network to replace, e.g. ``model.overrides.attention=self``.
    """

    name: str = "ea"
    size: str | None = MISSING
    init: str | None = None
    category: bool = True
    overrides: dict[str, Any] = field(default_factory=dict)


@dataclass
class OptimRecipe:
    """The optimiser and the loss: linear warm-up, then cosine to ``min_lr``.

    Args:
        name: ``"adamw"``, or ``"sgd"`` with momentum 0.9.
        lr: highest learning rate, for the batch of one process.
        min_lr: learning rate at the end, for the batch of one process.
        weight_decay: decay of the weights.
        warmup_epochs: length of the warm-up; at most half of a short run.
        clip_norm: largest norm of the gradient.
        label_smoothing: probability mass given to the other classes.
        logit_adjustment: 1 trains a classifier for classes that are equally frequent, whatever
            their frequencies in training, 0 for those frequencies.
        ema_decay: decay of the exponential moving average of the weights; 0 keeps none.
        iou_weight: weight of the soft IoU in a segmenter's loss.
        scale_lr: how n processes change the learning rates: times n (``"linear"``), times its
            square root (``"sqrt"``), or not at all (``"none"``).
        fused: update all weights in one kernel: ``true``, ``false``, or ``"auto"``, on a GPU.
    """

    name: str = "adamw"
    lr: float = 1e-3
    min_lr: float = 1e-5
    weight_decay: float = 0.05
    warmup_epochs: float = 5.0
    clip_norm: float = 1.0
    label_smoothing: float = 0.2
    logit_adjustment: float = 0.0
    ema_decay: float = 0.0
    iou_weight: float = 0.0
    scale_lr: str = "none"
    fused: bool | str = "auto"

    def __post_init__(self) -> None:
        """Check the values that can be checked without the other sections."""
        check_choice("optim.name", self.name, OPTIMIZERS)
        check_positive("optim.lr", self.lr)
        check_positive("optim.clip_norm", self.clip_norm)
        for name in ("min_lr", "weight_decay", "warmup_epochs", "iou_weight", "logit_adjustment"):
            check_at_least(f"optim.{name}", getattr(self, name), 0)
        if not math.isfinite(self.lr) or self.min_lr > self.lr:
            raise ValueError(
                f"optim.lr must be finite and at least min_lr={self.min_lr}, got {self.lr}"
            )
        check_fraction("optim.label_smoothing", self.label_smoothing)
        check_fraction("optim.ema_decay", self.ema_decay)
        check_choice("optim.scale_lr", self.scale_lr, LR_SCALES)
        check_choice("optim.fused", self.fused, ("auto", True, False))


@dataclass
class TrainerRecipe:
    """How long, on what, and in what precision.

    Args:
        epochs: passes over the training split.
        batch_size: clouds of a step of one process.
        min_batches_per_epoch: least number of batches of an epoch; a small set is gone through
            again until it has as many.
        seed: of everything random in the run.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
        precision: ``"32-true"``, ``"bf16-mixed"``, ``"16-mixed"`` (on a GPU), or ``"auto"``:
            bf16-mixed where the processor has instructions for it, else 16-mixed on a GPU.
        tensorboard: also write TensorBoard events (the extra ``track``).
        devices: processes on each machine that train together, on a GPU each or on the CPU;
            ``auto`` is what torchrun or srun started, else one.
        num_nodes: machines; ``auto`` is what torchrun or srun started, else one.
        strategy: ``"ddp"``, ``"fsdp"`` (weights and optimiser in shards on the GPUs), or
            ``"auto"``, which is ddp for several processes.
        sync_batchnorm: take batch statistics over all processes.
        checkpoint_minutes: minutes between checkpoints within an epoch; 0 writes one only at
            SIGTERM. Those after an epoch are always written.
        compile: mode in which :func:`torch.compile` compiles the network: ``"default"``,
            ``"reduce-overhead"`` (with CUDA graphs) or ``"max-autotune"``; ``"none"`` does not.
    """

    epochs: int = MISSING
    batch_size: int = 32
    min_batches_per_epoch: int = 1
    seed: int = 0
    device: str = "auto"
    precision: str = "32-true"
    tensorboard: bool = False
    devices: int | str = "auto"
    num_nodes: int | str = "auto"
    strategy: str = "auto"
    sync_batchnorm: bool = False
    checkpoint_minutes: float = 10.0
    compile: str = "none"

    def __post_init__(self) -> None:
        """Check the values that can be checked without the other sections."""
        if self.epochs != MISSING:  # a recipe has to set it
            check_at_least("trainer.epochs", self.epochs, 1)
        check_at_least("trainer.batch_size", self.batch_size, 1)
        check_at_least("trainer.min_batches_per_epoch", self.min_batches_per_epoch, 1)
        check_at_least("trainer.seed", self.seed, 0)
        check_choice("trainer.precision", self.precision, PRECISIONS)
        check_choice("trainer.compile", self.compile, COMPILE_MODES)
        check_device_name("trainer.device", self.device)
        if self.precision == "16-mixed" and self.device == "cpu":
            raise ValueError(NEEDS_GPU)
        for name in ("devices", "num_nodes"):
            count = getattr(self, name)
            if isinstance(count, str):
                check_choice(f"trainer.{name}", count, ("auto", "a number"))
            else:
                check_at_least(f"trainer.{name}", count, 1)
        check_choice("trainer.strategy", self.strategy, STRATEGIES)
        check_at_least("trainer.checkpoint_minutes", self.checkpoint_minutes, 0)


@dataclass
class EvalRecipe:
    """How the figures at the end of a run are made.

    Args:
        batch_size: clouds of a forward pass.
        votes: passes over randomly scaled clouds whose probabilities are averaged; a segmenter has
            fixed scales for them.
        tta_copies: tilted and mirrored copies over which a segmenter's postprocessed parts are
            averaged; 0 for none.
        legacy: also log the test split every epoch, for comparison with papers that select on it;
            nothing is ever selected on it here.
    """

    batch_size: int = 64
    votes: int = 10
    tta_copies: int = 0
    legacy: bool = False

    def __post_init__(self) -> None:
        """Check the values that can be checked without the other sections."""
        check_at_least("eval.batch_size", self.batch_size, 1)
        check_at_least("eval.votes", self.votes, 0)
        check_at_least("eval.tta_copies", self.tta_copies, 0)


@dataclass
class Recipe:
    """A whole recipe.

    Args:
        name: that of the packaged recipe or file it started from.
        task: ``"classification"`` or ``"segmentation"``.
        data: see :class:`DataRecipe`.
        model: see :class:`ModelRecipe`.
        augment: see :class:`AugmentRecipe`.
        optim: see :class:`OptimRecipe`.
        trainer: see :class:`TrainerRecipe`.
        eval: see :class:`EvalRecipe`.
    """

    name: str = ""
    task: str = "classification"
    data: DataRecipe = field(default_factory=DataRecipe)
    model: ModelRecipe = field(default_factory=ModelRecipe)
    augment: AugmentRecipe = field(default_factory=AugmentRecipe)
    optim: OptimRecipe = field(default_factory=OptimRecipe)
    trainer: TrainerRecipe = field(default_factory=TrainerRecipe)
    eval: EvalRecipe = field(default_factory=EvalRecipe)

    def num_sampled(self) -> int:
        """Points of a cloud that are drawn again for every batch, 0 where they stay the same."""
        return 0 if self.data.sampling == "first" else self.data.num_points

    def architecture(self) -> Architecture:
        """The network of this task and name."""
        return ARCHITECTURES[self.task][self.model.name]

    def model_config(self, num_classes: int) -> Any:
        """The configuration of a classifier."""
        return self._config({"num_classes": num_classes})

    def segmenter_config(self, num_parts: int, num_categories: int) -> Any:
        """The configuration of a segmenter."""
        return self._config({"num_parts": num_parts, "num_categories": num_categories})

    def network(self, config: Any, spec: DataSpec | None = None) -> PretrainedModel:
        """The untrained network of a configuration."""
        return self.architecture().network(config, spec)  # pyright: ignore[reportCallIssue]

    def _config(self, fixed: dict[str, int]) -> Any:
        network, sizes = self.architecture()
        fixed = {**fixed, "feature_channels": feature_channels(self.data.features)}
        size = self.model.size or "base"
        return named_config(network.config_class, sizes, size, fixed, self.model.overrides)
