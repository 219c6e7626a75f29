"""The keys of a recipe: structured configuration with its defaults and what each means."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from ea_pointcloud.augment.mixup import Mix
from ea_pointcloud.augment.pipeline import Augmentation
from ea_pointcloud.models.base import named_config
from ea_pointcloud.models.data_spec import FEATURES, DataSpec
from ea_pointcloud.models.factory import ARCHITECTURES, Architecture
from ea_pointcloud.models.pretrained import PretrainedModel

# Which data sets a task can be trained on.
TASKS = {
    "classification": ("modelnet", "procedural", "folder", "pyg"),
    "segmentation": ("shapenetpart", "procedural", "pyg"),
}
OPTIMIZERS = ("adamw", "sgd")
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "auto")
COMPILE_MODES = ("none", "default", "reduce-overhead", "max-autotune")
STRATEGIES = ("auto", "ddp", "fsdp")
LR_SCALES = ("none", "linear", "sqrt")


@dataclass
class DataRecipe:
    """Which clouds.

    With ``train_split="trainval"`` the val part is trained on too, for a last run after everything
    was chosen: nothing is selected then, the last epoch counts. ``shapes`` belongs to the
    procedural set (train, val, test).

    ``up``, ``stored_points``, ``skip_bad`` and ``drop_invalid`` belong to a folder of classes, see
    :class:`~ea_pointcloud.datasets.FolderDataset`; ``root`` is that folder. ``features`` are what
    points carry beside coordinates when parts are learned: ``"none"``, ``"normals"`` (the text
    layout has them), ``"local_shape"``, ``"surface_shape"`` or ``"whole_shape"``.

    ``pyg`` is what a data set of PyTorch Geometric has stored below ``root``, see
    :func:`~ea_pointcloud.datasets.pyg_source.open_pyg`; ``up`` and ``stored_points`` count there
    too.

    ``point_choice`` keeps ``num_points`` of each cloud: the ``"first"``, ``"random"`` ones, or by
    farthest point sampling (``"fps"``). The last two are drawn again for every training batch, the
    last of a random half of the points; held-out clouds keep the same points always.

    ``classes`` are those to take of ``modelnet`` or ``folder``, all of them where it is empty.

    ``mirrored`` says whether the files are mirror images of the objects, whose x is negated when
    they are read: ``true``, ``false``, or ``auto``, which takes the published clouds of ModelNet40
    for it, see :func:`~ea_pointcloud.datasets.axes.find_mirroring`. It belongs to ``modelnet``,
    ``folder`` and ``pyg``; what was done is stored with the weights.

    ``resident`` holds the clouds in memory (``true``), streams them from disk (``false``, of
    ``modelnet`` alone), or decides by the memory there is (``auto``). ``buffer_mb`` and
    ``workers`` belong to streaming, see
    :class:`~ea_pointcloud.datasets.batch_stream.BatchStream`.
    """

    dataset: str = "modelnet"
    root: str | None = None
    name: str = "modelnet40"
    num_points: int = 1024
    point_choice: str = "first"
    train_split: str = "train"
    val_fraction: float = 0.1
    shapes: list[int] = field(default_factory=lambda: [1680, 280, 420])
    features: str = "none"
    up: str = "y"
    stored_points: int = 2048
    skip_bad: bool = False
    drop_invalid: bool = False
    classes: list[str] = field(default_factory=list)
    mirrored: bool | str = "auto"
    resident: bool | str = "auto"
    buffer_mb: int = 256
    workers: int | None = None


@dataclass
class ModelRecipe:
    """Which network: an architecture, a named size of it, and fields of its config to replace.

    ``name`` is ``"ea"``, the point transformer with external attention, ``"eamlp"`` or
    ``"eagraph"``; of a classifier also one of the baselines ``"pointnet"`` and ``"dgcnn"``.
    ``init`` names trained weights to start from; without a ``size`` of one's own the network is
    theirs, which ``overrides`` then spell out. ``category`` tells a segmenter the category of each
    shape; without it, it has to do without.
    """

    name: str = "ea"
    size: str | None = MISSING
    init: str | None = None
    category: bool = True
    overrides: dict[str, Any] = field(default_factory=dict)


@dataclass
class AugmentRecipe:
    """See :class:`~ea_pointcloud.augment.Augmentation`.

    With ``variants`` so many copies of each shape are bent by ``warp`` and stretched by ``scale``
    before training, and described anew; batches are then not bent again. See
    :func:`~ea_pointcloud.datasets.variants.with_variants`. An epoch has all of them.

    ``mix`` mixes the clouds of a batch, and their labels by the points of each, for classifiers:
    ``"cutmix_r"``, ``"cutmix_k"``, ``"rsmix"``, ``"mixup"``, several joined by ``+`` of which each
    cloud draws one, or ``"none"``, see :class:`~ea_pointcloud.augment.Mix`. Points are left out
    after that. ``mix_prob`` is the share of clouds that are mixed, ``mix_beta`` the
    parameter of the Beta distribution of how much. WOLFMix is ``wolf=1 mix=rsmix mix_prob=0.5``.

    With ``normalize`` a classifier's clouds are centred and scaled to the unit sphere after all
    that, as clouds are when they are classified: what was added or left out moves and scales the
    rest there. A shift has no effect then, and a scale only as far as it differs by axis.
    """

    variants: int = 0
    wolf: float = 0.0
    warp: float = 0.0
    rotation: str = "none"
    mirror: bool = False
    scale: list[float] = field(default_factory=lambda: [0.6667, 1.5])
    shift: float = 0.2
    jitter: float = 0.0
    stray: float = 0.0
    view: float = 0.0
    cut: float = 0.0
    drop: float = 0.0
    spoiled: float = 1.0
    mix: str = "none"
    mix_prob: float = 0.5
    mix_beta: float = 1.0
    normalize: bool = False


@dataclass
class OptimRecipe:
    """``"adamw"`` or ``"sgd"`` (momentum 0.9), linear warm-up, cosine to ``min_lr``.

    The warm-up takes ``warmup_epochs``, but at most half of a short run. ``ema_decay`` 0 keeps no
    average of the weights. ``logit_adjustment`` 1 trains a classifier for classes that are equally
    frequent, whatever their shares in training, 0 for those shares, see
    :meth:`~ea_pointcloud.training.module.RecipeModule.training_step`. ``iou_weight`` adds so much
    of the soft IoU to a segmenter's loss.

    ``lr`` and ``min_lr`` are meant for the batch of one process; with n processes ``scale_lr``
    multiplies both by n (``"linear"``), its square root (``"sqrt"``), or leaves them (``"none"``).

    ``fused`` updates all weights in one kernel: ``true``, ``false``, or ``"auto"``, on a GPU.
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


@dataclass
class TrainerRecipe:
    """How it runs.

    An epoch goes through a small set again until it has ``epoch_batches`` batches.

    ``devices`` processes on each of ``num_nodes`` machines train together, each on ``batch_size``
    clouds a step: on a GPU each, or on the CPU. ``auto`` is what torchrun or srun started, else
    one. ``strategy`` is ``"ddp"``, ``"fsdp"`` (weights and optimiser in parts on the GPUs), or
    ``"auto"``, which is ddp for several. ``sync_batchnorm`` takes batch statistics over all.

    A checkpoint within an epoch is written every ``checkpoint_minutes``, and at SIGTERM; 0 is at
    SIGTERM alone. Those after an epoch are always written.

    ``precision`` is ``"32-true"``, ``"bf16-mixed"``, ``"16-mixed"`` (a GPU), or ``"auto"``:
    bf16-mixed where the processor has instructions for it. ``compile`` compiles the network with
    :func:`torch.compile` in ``"default"``, ``"reduce-overhead"`` (with CUDA graphs) or
    ``"max-autotune"`` mode; ``"none"`` does not.
    """

    epochs: int = MISSING
    batch_size: int = 32
    epoch_batches: int = 1
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


@dataclass
class EvalRecipe:
    """``votes`` are passes over randomly scaled clouds; a segmenter has fixed scales for them.

    ``copies`` averages a segmenter's refined parts over so many tilted and mirrored copies.
    ``legacy`` also logs the test split every epoch; nothing is ever selected on it.
    """

    batch_size: int = 64
    votes: int = 10
    copies: int = 0
    legacy: bool = False


@dataclass
class Recipe:
    """A whole recipe; ``name`` is that of the packaged recipe or file it started from."""

    name: str = ""
    task: str = "classification"
    data: DataRecipe = field(default_factory=DataRecipe)
    model: ModelRecipe = field(default_factory=ModelRecipe)
    augment: AugmentRecipe = field(default_factory=AugmentRecipe)
    optim: OptimRecipe = field(default_factory=OptimRecipe)
    trainer: TrainerRecipe = field(default_factory=TrainerRecipe)
    eval: EvalRecipe = field(default_factory=EvalRecipe)

    def num_drawn(self) -> int:
        """Points of a cloud that are drawn again for every batch, 0 where they stay the same."""
        return 0 if self.data.point_choice == "first" else self.data.num_points

    def augmentation(self) -> Augmentation:
        """The training augmentation, but for the points that are drawn for every batch."""
        low, high = self.augment.scale
        return Augmentation(
            wolf=self.augment.wolf,
            warp=0.0 if self.augment.variants else self.augment.warp,
            rotation=self.augment.rotation,
            mirror=self.augment.mirror,
            scale=(low, high),
            shift=self.augment.shift,
            jitter=self.augment.jitter,
            stray=self.augment.stray,
            view=self.augment.view,
            cut=self.augment.cut,
            drop=self.augment.drop,
            spoiled=self.augment.spoiled,
        )

    def mixing(self) -> Mix | None:
        """How the clouds of a batch are mixed, None for not at all."""
        augment = self.augment
        if augment.mix == "none":
            return None
        return Mix(tuple(augment.mix.split("+")), prob=augment.mix_prob, beta=augment.mix_beta)

    def architecture(self) -> Architecture:
        """The network of this task and name."""
        return ARCHITECTURES[self.task][self.model.name]

    def model_config(self, num_classes: int) -> Any:
        """The configuration of a classifier."""
        return self._config({"num_classes": num_classes}, self.model.overrides)

    def segmenter_config(self, num_parts: int, num_categories: int) -> Any:
        """The configuration of a segmenter."""
        overrides = {**self.model.overrides, "feature_channels": FEATURES[self.data.features]}
        return self._config({"num_parts": num_parts, "num_categories": num_categories}, overrides)

    def network(self, config: Any, spec: DataSpec | None = None) -> PretrainedModel:
        """The untrained network of a configuration."""
        return self.architecture().network(config, spec)  # pyright: ignore[reportCallIssue]

    def _config(self, fixed: dict[str, int], overrides: dict[str, Any]) -> Any:
        network, sizes = self.architecture()
        size = self.model.size or "base"
        return named_config(network.config_class, sizes, size, fixed, overrides)
