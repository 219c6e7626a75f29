"""Recipes: everything that fixes a training run, as structured, checked configuration.

A recipe is a YAML file (packaged in ``ea_pointcloud/recipes`` or one's own) over the defaults
below, with single values replaced by ``key=value``. All of it is checked before anything slow.
"""

import math
from dataclasses import asdict, dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any, cast

import torch
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from ea_pointcloud._atomic import write_whole
from ea_pointcloud._checks import check_at_least, check_choice, check_positive, check_range
from ea_pointcloud._device import check_device_name
from ea_pointcloud.models.config import named_config
from ea_pointcloud.models.factory import ARCHITECTURES, Architecture
from ea_pointcloud.models.hub import (
    FEATURES,
    DataSpec,
    PretrainedModel,
    read_description,
    resolve_weights,
)
from ea_pointcloud.transforms import AXES, POINT_CHOICES, Augmentation

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

    ``classes`` are those to take of ``modelnet`` or ``folder``, all of them where it is empty.

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
    resident: bool | str = "auto"
    buffer_mb: int = 256
    workers: int | None = None


@dataclass
class ModelRecipe:
    """Which network: an architecture, a named size of it, and fields of its config to replace.

    ``name`` is ``"ea"``, the point transformer with external attention, or ``"eamlp"``.
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
    """See :class:`~ea_pointcloud.transforms.Augmentation`.

    With ``variants`` so many copies of each shape are bent by ``warp`` and stretched by ``scale``
    before training, and described anew; batches are then not bent again. See
    :func:`~ea_pointcloud.datasets.variants.with_variants`. An epoch has all of them.
    """

    variants: int = 0
    warp: float = 0.0
    rotation: str = "none"
    mirror: bool = False
    scale: list[float] = field(default_factory=lambda: [0.6667, 1.5])
    shift: float = 0.2
    jitter: float = 0.0
    drop: float = 0.0


@dataclass
class OptimRecipe:
    """``"adamw"`` or ``"sgd"`` (momentum 0.9), linear warm-up, cosine to ``min_lr``.

    The warm-up takes ``warmup_epochs``, but at most half of a short run. ``ema_decay`` 0 keeps no
    average of the weights. ``iou_weight`` adds so much of the soft IoU to a segmenter's loss.

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

    def augmentation(self) -> Augmentation:
        """The training augmentation; a random point choice is drawn anew for every batch."""
        low, high = self.augment.scale
        return Augmentation(
            num_points=self.data.num_points if self.data.point_choice == "random" else 0,
            warp=0.0 if self.augment.variants else self.augment.warp,
            rotation=self.augment.rotation,
            mirror=self.augment.mirror,
            scale=(low, high),
            shift=self.augment.shift,
            jitter=self.augment.jitter,
            drop=self.augment.drop,
        )

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


def list_recipes() -> list[str]:
    """Names of the packaged recipes."""
    folder = resources.files("ea_pointcloud") / "recipes"
    return sorted(item.name[:-5] for item in folder.iterdir() if item.name.endswith(".yaml"))


def load_recipe(name_or_path: str | Path, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe, apply ``key=value`` overrides, and check every value.

    Raises:
        FileNotFoundError: if there is no such recipe.
        ValueError: if a key is unknown, a type is wrong or a value impossible; names the key.
    """
    text, source = _recipe_text(name_or_path)
    config = OmegaConf.structured(Recipe)
    try:
        config = OmegaConf.merge(config, OmegaConf.create(text))
        if any(override.startswith("model.init=") for override in overrides or []):
            # The network of the weights takes the place of the recipe's own.
            config.model.size, config.model.overrides = None, {}
        for override in overrides or []:
            if override.startswith("model.name=") and override != f"model.name={config.model.name}":
                config.model.overrides = {}  # those of another architecture
            key, separator, _ = override.partition("=")
            if not separator or not key:
                raise ValueError(f"override must read key=value, got {override!r}")
            source = f"override {override!r}"
            config = OmegaConf.merge(config, OmegaConf.from_dotlist([override]))
        if config.model.init is not None and OmegaConf.is_missing(config.model, "size"):
            config.model.size = None
        missing = OmegaConf.missing_keys(config)
        if missing:
            raise ValueError(f"{source}: {', '.join(sorted(missing))} must be set")
        recipe = OmegaConf.to_object(cast("DictConfig", config))
    except (OmegaConfBaseException, YAMLError, TypeError) as error:
        raise ValueError(f"{source}: {_explain(error)}") from error
    assert isinstance(recipe, Recipe)
    recipe.name = recipe.name or Path(name_or_path).stem
    try:
        check_choice("task", recipe.task, TASKS)
        if recipe.model.init is not None and recipe.model.size is None:
            recipe.model.overrides = network_of(recipe.model.init, recipe)
        check_recipe(recipe)
    except (TypeError, ValueError) as error:
        raise ValueError(f"recipe {name_or_path}: {error}") from error
    return recipe


def save_recipe(recipe: Recipe, path: Path) -> None:
    """Write every value of ``recipe`` as YAML that :func:`load_recipe` reads back."""
    write_whole(path, OmegaConf.to_yaml(OmegaConf.structured(recipe)))


def recipe_values(recipe: Recipe) -> dict[str, Any]:
    """Every value under its key, ``{"name": ..., "data.root": ..., ...}``."""
    values: dict[str, Any] = {}
    for section, entries in asdict(recipe).items():
        if isinstance(entries, dict):
            values |= {f"{section}.{key}": value for key, value in entries.items()}
        else:
            values[section] = entries
    return values


def check_recipe(recipe: Recipe) -> None:
    """Raise for any value that could not work, naming its key."""
    data, optim, trainer = recipe.data, recipe.optim, recipe.trainer
    check_choice("task", recipe.task, TASKS)
    check_choice(f"data.dataset for {recipe.task}", data.dataset, TASKS[recipe.task])
    check_choice("data.train_split", data.train_split, ("train", "trainval"))
    if data.train_split == "trainval" and data.dataset not in ("modelnet", "shapenetpart"):
        raise ValueError(
            "data.train_split=trainval needs a set whose val part is cut from its training split "
            f"(modelnet, shapenetpart), got data.dataset={data.dataset}"
        )
    check_at_least("data.num_points", data.num_points, 1)
    check_choice("data.point_choice", data.point_choice, POINT_CHOICES)
    if not 0 < data.val_fraction < 1:
        raise ValueError(f"data.val_fraction must be between 0 and 1, got {data.val_fraction}")
    if len(data.shapes) != 3 or min(data.shapes) < 1:
        raise ValueError(f"data.shapes must be three counts (train, val, test), got {data.shapes}")
    segments = recipe.task == "segmentation"
    check_choice("model.name", recipe.model.name, ARCHITECTURES[recipe.task])
    if recipe.model.size is not None or recipe.model.init is None:
        check_choice("model.size", recipe.model.size, recipe.architecture().sizes)
    if data.dataset == "folder":
        check_at_least("data.stored_points", data.stored_points, 1)
        check_range("data.num_points", data.num_points, 1, data.stored_points, "data.stored_points")
        check_choice("data.up", data.up, AXES)
        if data.root is None:
            raise ValueError("data.root must be set to the folder that holds the class folders")
    if data.dataset == "pyg":
        check_at_least("data.stored_points", data.stored_points, 1)
        check_choice("data.up", data.up, AXES)
        if data.root is None:
            raise ValueError("data.root must be set to the root of the PyG data set")
    if data.classes:
        check_choice("data.dataset with data.classes", data.dataset, ("modelnet", "folder"))
        if data.resident is False or len(set(data.classes)) < 2:
            raise ValueError(
                "data.classes must name two classes or more, of clouds that are held in memory, "
                f"got {data.classes} and data.resident={data.resident}"
            )
    check_choice("data.resident", data.resident, ("auto", True, False))
    if data.resident is False and data.dataset != "modelnet":
        raise ValueError(
            "data.resident=false needs data.dataset=modelnet, whose files are streamed, got "
            f"{data.dataset}; 'ea-pointcloud data prepare' makes such files of a folder of classes"
        )
    check_at_least("data.buffer_mb", data.buffer_mb, 1)
    if data.workers is not None:
        check_at_least("data.workers", data.workers, 0)
    check_choice("data.features", data.features, FEATURES)
    if data.features != "none" and not (segments and data.dataset == "shapenetpart"):
        raise ValueError(
            "data.features must be none unless parts are learned from data.dataset=shapenetpart, "
            f"got {data.features}"
        )
    augment = recipe.augment
    if data.features == "normals" and (
        augment.rotation != "none" or augment.mirror or augment.warp
    ):
        raise ValueError(
            "augment.rotation must be none, augment.mirror false and augment.warp 0 with "
            "data.features=normals, which are not turned"
        )
    check_at_least("augment.variants", augment.variants, 0)
    if augment.variants and (data.dataset != "shapenetpart" or data.features == "normals"):
        raise ValueError(
            "augment.variants needs data.dataset=shapenetpart and features that are found from the "
            f"coordinates, got {data.dataset} with data.features={data.features}"
        )
    if data.dataset == "procedural" and data.point_choice != "first":
        raise ValueError(
            "data.point_choice must be 'first' with the procedural set, whose points are drawn at "
            f"random when it is made, got {data.point_choice!r}"
        )
    with torch.device("meta"):  # builds every layer without memory or time
        recipe.network(recipe.segmenter_config(2, 1) if segments else recipe.model_config(2))
    if len(recipe.augment.scale) != 2 or not 0 < recipe.augment.scale[0] <= recipe.augment.scale[1]:
        raise ValueError(f"augment.scale must be [low, high], 0 < low, got {recipe.augment.scale}")
    for name in ("warp", "shift", "jitter"):
        check_at_least(f"augment.{name}", getattr(recipe.augment, name), 0)
    if not 0 <= recipe.augment.drop < 1:
        raise ValueError(f"augment.drop must be at least 0 and below 1, got {recipe.augment.drop}")
    recipe.augmentation()
    check_choice("optim.name", optim.name, OPTIMIZERS)
    check_positive("optim.lr", optim.lr)
    check_positive("optim.clip_norm", optim.clip_norm)
    for name in ("min_lr", "weight_decay", "warmup_epochs", "iou_weight"):
        check_at_least(f"optim.{name}", getattr(optim, name), 0)
    if not math.isfinite(optim.lr) or optim.min_lr > optim.lr:
        raise ValueError(
            f"optim.lr must be finite and at least min_lr={optim.min_lr}, got {optim.lr}"
        )
    for name in ("label_smoothing", "ema_decay"):
        if not 0 <= getattr(optim, name) < 1:
            raise ValueError(
                f"optim.{name} must be at least 0 and below 1, got {getattr(optim, name)}"
            )
    check_at_least("trainer.epochs", trainer.epochs, 1)
    check_at_least("trainer.batch_size", trainer.batch_size, 1)
    check_at_least("trainer.epoch_batches", trainer.epoch_batches, 1)
    check_at_least("trainer.seed", trainer.seed, 0)
    check_choice("trainer.precision", trainer.precision, PRECISIONS)
    check_choice("trainer.compile", trainer.compile, COMPILE_MODES)
    check_choice("optim.fused", optim.fused, ("auto", True, False))
    if optim.fused is True and trainer.precision == "16-mixed":
        raise ValueError(
            "optim.fused must be auto or false with trainer.precision=16-mixed, whose scaled "
            "gradients a fused step cannot clip; or take trainer.precision=bf16-mixed"
        )
    check_device_name("trainer.device", trainer.device)
    _check_processes(trainer, optim)
    if trainer.precision == "16-mixed" and trainer.device == "cpu":
        raise ValueError(
            "trainer.precision=16-mixed needs a GPU; take 32-true or bf16-mixed on the CPU"
        )
    check_at_least("eval.batch_size", recipe.eval.batch_size, 1)
    check_at_least("eval.votes", recipe.eval.votes, 0)
    check_at_least("eval.copies", recipe.eval.copies, 0)
    if recipe.eval.copies and data.features == "normals":
        raise ValueError(
            "eval.copies must be 0 with data.features=normals, which are not turned, got "
            f"{recipe.eval.copies}"
        )


def _check_processes(trainer: TrainerRecipe, optim: OptimRecipe) -> None:
    for name in ("devices", "num_nodes"):
        count = getattr(trainer, name)
        if isinstance(count, str):
            check_choice(f"trainer.{name}", count, ("auto", "a number"))
        else:
            check_at_least(f"trainer.{name}", count, 1)
    check_choice("trainer.strategy", trainer.strategy, STRATEGIES)
    check_at_least("trainer.checkpoint_minutes", trainer.checkpoint_minutes, 0)
    check_choice("optim.scale_lr", optim.scale_lr, LR_SCALES)
    if trainer.strategy == "fsdp" and optim.ema_decay:
        raise ValueError(
            f"optim.ema_decay must be 0 with trainer.strategy=fsdp, got {optim.ema_decay}: no "
            "process has all weights to average; take trainer.strategy=ddp"
        )


def network_of(init: str, recipe: Recipe) -> dict[str, Any]:
    """The overrides that make the network of trained weights, and over them the recipe's own.

    Where the recipe's own say everything, as those of a run do, the weights are not looked for.
    """
    segments = recipe.task == "segmentation"
    check_choice("model.name", recipe.model.name, ARCHITECTURES[recipe.task])
    # What the data says.
    given = {"num_parts", "num_categories", "feature_channels"} if segments else {"num_classes"}
    overrides = recipe.model.overrides
    kind = recipe.architecture().network.config_class
    if {field.name for field in fields(kind)} - given <= set(overrides):
        return overrides
    try:
        description = read_description(resolve_weights(init))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"model.init: {error}") from error
    known = {each.network.__name__: name for name, each in ARCHITECTURES[recipe.task].items()}
    if description["architecture"] not in known:
        raise ValueError(
            f"model.init={init} holds the weights of an {description['architecture']}, "
            f"task={recipe.task} needs those of an {' or '.join(known)}"
        )
    recipe.model.name = known[description["architecture"]]
    config = asdict(recipe.architecture().network.config_class(**description["config"]))
    values = ((name, config[name]) for name in sorted(set(config) - given))
    # As YAML has them, so that a run can compare its recipe with itself.
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in values}
    return {**plain, **overrides}


def _recipe_text(name_or_path: str | Path) -> tuple[str, str]:
    """The YAML of a packaged recipe or a file, and what to call it in an error."""
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise FileNotFoundError(f"no recipe file {path}")
        return path.read_text(encoding="utf-8"), str(path)
    if str(name_or_path) not in list_recipes():
        raise FileNotFoundError(
            f"no recipe {str(name_or_path)!r}; known are {', '.join(list_recipes())}, "
            "or give the path of a .yaml file"
        )
    resource = resources.files("ea_pointcloud") / "recipes" / f"{name_or_path}.yaml"
    return resource.read_text(encoding="utf-8"), f"recipe {name_or_path}"


def _explain(error: Exception) -> str:
    """One line with the full key, and the keys there are where the key is the trouble."""
    reason = " ".join(str(error).splitlines()[:1]) or type(error).__name__
    if isinstance(error, YAMLError):
        reason = "not valid YAML: " + " ".join(str(error).split())
    key = getattr(error, "full_key", None)
    known = getattr(error, "parent_node", None)
    if "not in" in reason and key and known is not None:
        return f"unknown key {key!r}; known there are {', '.join(sorted(map(str, known)))}"
    return f"{key}: {reason}" if key else reason
