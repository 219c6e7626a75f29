"""The keys of a recipe: structured configuration with its defaults and what each means."""

from dataclasses import dataclass, field, fields
from typing import Any

from omegaconf import MISSING

from ea_pointcloud.augment.cutmix import CutMix
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
    """Which data set, which of its points, and how it is read.

    Args:
        dataset: kind of data set: ``"modelnet"`` (its HDF5 layout), ``"shapenetpart"`` (part
            labels), ``"folder"`` (classes of your own), ``"procedural"`` (generated) or ``"pyg"``
            (what a data set of PyTorch Geometric has stored, see
            :func:`~ea_pointcloud.datasets.pyg_source.open_pyg`).
        root: folder of data sets; if omitted ``$EA_POINTCLOUD_DATA``, then ``./data``. With
            ``folder`` and ``pyg`` the data set itself.
        name: the set in that folder, as in ``NAME_ply_hdf5_2048``.
        num_points: points of each cloud that the network sees.
        sampling: how they are chosen: ``"first"``, ``"random"``, or ``"fps"`` (farthest point
            sampling). The last two are drawn again for every training batch, ``"fps"`` from a
            random half of the stored points; held-out clouds always keep the same points.
        train_split: ``"train"``, or ``"trainval"`` to train on val too, for a last run after
            everything was chosen: nothing is selected then, the last epoch counts.
        val_fraction: fraction of each class of the training split that is set apart as val.
        shapes: numbers of generated shapes to train, validate and test on (``procedural``).
        features: what points carry beside coordinates when parts are learned: ``"none"``,
            ``"normals"`` (the text layout has them), or descriptors that are computed from the
            coordinates: ``"local_shape"``, ``"surface_shape"`` or ``"whole_shape"``.
        up: axis that is up in the files, ``"x"``, ``"y"`` or ``"z"`` (``folder`` and ``pyg``).
        stored_points: points kept of each file (``folder`` and ``pyg``).
        skip_bad: leave out files that cannot be read, instead of stopping (``folder``).
        drop_invalid: leave out points that are not finite; by default in ``.pcd`` files only
            (``folder``).
        mirrored: whether the files are mirror images, whose x is negated when they are read:
            ``true``, ``false``, or ``auto``, which recognises the published clouds of ModelNet40,
            see :func:`~ea_pointcloud.datasets.axes.find_mirroring` (``modelnet``, ``folder`` and
            ``pyg``). What was done is stored with the weights.
        classes: classes to take (``modelnet`` and ``folder``); all of them if empty.
        in_memory: hold the clouds in memory (``true``), read them out of core (``false``, only
            ``modelnet``), or decide by the available memory (``auto``).
        buffer_mb: memory of the shuffle buffer when clouds are read out of core, see
            :class:`~ea_pointcloud.datasets.OutOfCoreLoader`.
        workers: processes that read ahead when clouds are read out of core; chosen if ``null``.
    """

    dataset: str = "modelnet"
    root: str | None = None
    name: str = "modelnet40"
    num_points: int = 1024
    sampling: str = "first"
    train_split: str = "train"
    val_fraction: float = 0.1
    shapes: list[int] = field(default_factory=lambda: [1680, 280, 420])
    features: str = "none"
    up: str = "y"
    stored_points: int = 2048
    skip_bad: bool = False
    drop_invalid: bool | None = None
    classes: list[str] = field(default_factory=list)
    mirrored: bool | str = "auto"
    in_memory: bool | str = "auto"
    buffer_mb: int = 256
    workers: int | None = None


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
class AugmentRecipe:
    """Random changes of the training clouds; ``Augmentation`` applies them, in this order.

    Args:
        offline_copies: copies of each shape made before training by ``elastic`` and ``scale``,
            with descriptors of their own; an epoch goes through all of them, and batches are not
            deformed again. See
            :func:`~ea_pointcloud.datasets.offline_augmentation.augment_offline`.
        elastic: strength of a smooth deformation.
        rotation: ``"none"``, ``"up"`` (about the up axis), ``"tilt"`` (at most 30 degrees about any
            axis) or ``"any"`` (uniform over SO(3)).
        rotation_prob: fraction of the clouds that are rotated.
        mirror: mirror half of the clouds in an upright plane.
        scale: lowest and highest factor, drawn for each axis.
        shift: largest shift along an axis.
        jitter: standard deviation of the noise on each coordinate, cut off at five times that.
        outlier_ratio: largest fraction of points that become outliers.
        partial_view_prob: fraction of the clouds that become partial views, seen from one side.
        crop_ratio: largest fraction of points cropped beyond a random plane.
        point_dropout: largest fraction of points in point dropout.
        corruption_prob: fraction of the clouds to which ``outlier_ratio``, ``partial_view_prob``,
            ``crop_ratio`` and ``point_dropout`` apply.
        cutmix_prob: fraction of a classifier's clouds that are mixed with another cloud of the
            batch, see :class:`~ea_pointcloud.augment.CutMix`. Mixed clouds lose points after that.
        cutmix_beta: parameter of the Beta distribution of CutMix's ``lam``.
        normalize: centre and scale a classifier's clouds to the unit sphere after all that, as in
            inference, where outliers and missing points move and scale the rest. A shift has no
            effect then, and a scale only as far as it differs by axis.
    """

    offline_copies: int = 0
    elastic: float = 0.0
    rotation: str = "none"
    rotation_prob: float = 1.0
    mirror: bool = False
    scale: list[float] = field(default_factory=lambda: [0.6667, 1.5])
    shift: float = 0.2
    jitter: float = 0.0
    outlier_ratio: float = 0.0
    partial_view_prob: float = 0.0
    crop_ratio: float = 0.0
    point_dropout: float = 0.0
    corruption_prob: float = 1.0
    cutmix_prob: float = 0.0
    cutmix_beta: float = 1.0
    normalize: bool = False


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
            bf16-mixed where the processor has instructions for it.
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

    def augmentation(self) -> Augmentation:
        """The augmentation of training clouds, after their points were sampled."""
        values = {each.name: getattr(self.augment, each.name) for each in fields(Augmentation)}
        low, high = self.augment.scale
        values["scale"] = low, high
        if self.augment.offline_copies:
            values["elastic"] = 0.0
        return Augmentation(**values)

    def cutmix(self) -> CutMix | None:
        """CutMix of the clouds of a batch, None without it."""
        augment = self.augment
        if not augment.cutmix_prob:
            return None
        return CutMix(augment.cutmix_prob, augment.cutmix_beta)

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
