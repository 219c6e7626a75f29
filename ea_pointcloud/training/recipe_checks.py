"""What a recipe may say: every value is checked before anything slow."""

import math

import torch

from ea_pointcloud._checks import (
    check_at_least,
    check_choice,
    check_fraction,
    check_positive,
    check_probability,
    check_range,
    check_share,
)
from ea_pointcloud._device import check_device_name
from ea_pointcloud.augment.mixup import KINDS
from ea_pointcloud.augment.transforms import AXES, POINT_CHOICES
from ea_pointcloud.datasets.axes import MIRRORED
from ea_pointcloud.models.data_spec import FEATURES
from ea_pointcloud.models.factory import ARCHITECTURES
from ea_pointcloud.training.recipe_keys import (
    COMPILE_MODES,
    LR_SCALES,
    OPTIMIZERS,
    PRECISIONS,
    STRATEGIES,
    TASKS,
    DataRecipe,
    EvalRecipe,
    OptimRecipe,
    Recipe,
    TrainerRecipe,
)


def check_recipe(recipe: Recipe) -> None:
    """Raise for any value that could not work, naming its key."""
    check_choice("task", recipe.task, TASKS)
    _check_data(recipe.data, recipe.task)
    _check_model(recipe)
    _check_augment(recipe)
    _check_optim(recipe)
    _check_trainer(recipe.trainer)
    _check_processes(recipe.trainer, recipe.optim)
    _check_eval(recipe.eval, recipe.data)


def _check_data(data: DataRecipe, task: str) -> None:
    check_choice(f"data.dataset for {task}", data.dataset, TASKS[task])
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
    check_choice("data.mirrored", data.mirrored, MIRRORED)
    if data.mirrored != "auto" and data.dataset not in ("modelnet", "folder", "pyg"):
        raise ValueError(
            "data.mirrored belongs to data.dataset=modelnet, folder or pyg, got "
            f"{data.mirrored} with {data.dataset}; leave it out"
        )
    check_choice("data.resident", data.resident, ("auto", True, False))
    if data.resident is False and data.dataset != "modelnet":
        raise ValueError(
            "data.resident=false needs data.dataset=modelnet, which is read out of core, got "
            f"{data.dataset}; 'ea-pointcloud data prepare' makes such files of a folder of classes"
        )
    check_at_least("data.buffer_mb", data.buffer_mb, 1)
    if data.workers is not None:
        check_at_least("data.workers", data.workers, 0)
    check_choice("data.features", data.features, FEATURES)
    if data.features != "none" and not (task == "segmentation" and data.dataset == "shapenetpart"):
        raise ValueError(
            "data.features must be none unless parts are learned from data.dataset=shapenetpart, "
            f"got {data.features}"
        )
    if data.dataset == "procedural" and data.point_choice != "first":
        raise ValueError(
            "data.point_choice must be 'first' with the procedural set, whose points are drawn at "
            f"random when it is made, got {data.point_choice!r}"
        )


def _check_model(recipe: Recipe) -> None:
    segments = recipe.task == "segmentation"
    check_choice("model.name", recipe.model.name, ARCHITECTURES[recipe.task])
    if recipe.model.size is not None or recipe.model.init is None:
        check_choice("model.size", recipe.model.size, recipe.architecture().sizes)
    with torch.device("meta"):  # builds every layer without memory or time
        recipe.network(recipe.segmenter_config(2, 1) if segments else recipe.model_config(2))


def _check_augment(recipe: Recipe) -> None:
    data, augment = recipe.data, recipe.augment
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
    if len(augment.scale) != 2 or not 0 < augment.scale[0] <= augment.scale[1]:
        raise ValueError(f"augment.scale must be [low, high], 0 < low, got {augment.scale}")
    for name in ("warp", "shift", "jitter"):
        check_at_least(f"augment.{name}", getattr(augment, name), 0)
    for name in ("stray", "cut", "drop"):
        check_fraction(f"augment.{name}", getattr(augment, name))
    if augment.stray and recipe.task == "segmentation":
        raise ValueError(
            f"augment.stray must be 0 with task=segmentation, got {augment.stray}: points that "
            "were put anywhere belong to no part; take augment.jitter"
        )
    for name in ("wolf", "view", "spoiled"):
        check_probability(f"augment.{name}", getattr(augment, name))
    if augment.normalize and recipe.task == "segmentation":
        raise ValueError(
            "augment.normalize must be false with task=segmentation; it is for classifiers"
        )
    if augment.wolf and data.features != "none":
        raise ValueError(
            "augment.wolf must be 0 with data.features, which were found before the clouds are "
            f"bent, got {augment.wolf} with data.features={data.features}"
        )
    recipe.augmentation()
    _check_mix(recipe)


def _check_mix(recipe: Recipe) -> None:
    augment = recipe.augment
    if augment.mix == "none":
        return
    kinds = augment.mix.split("+")
    for kind in kinds:
        check_choice("augment.mix", kind, ("none", *KINDS))
    if "none" in kinds or len(set(kinds)) < len(kinds):
        raise ValueError(
            f"augment.mix must name each way once and no 'none' among them, got {augment.mix}; "
            "augment.mix_prob says how many clouds are mixed"
        )
    if recipe.task != "classification":
        raise ValueError(
            f"augment.mix must be none with task={recipe.task}, got {augment.mix}: mixed clouds "
            "have shared labels, which classifiers learn from; take augment.wolf"
        )
    if recipe.trainer.batch_size < 2:
        raise ValueError(
            "augment.mix mixes the clouds of a batch, so trainer.batch_size must be at least 2, "
            f"got {recipe.trainer.batch_size}"
        )
    check_share("augment.mix_prob", augment.mix_prob)
    check_positive("augment.mix_beta", augment.mix_beta)


def _check_optim(recipe: Recipe) -> None:
    optim, trainer = recipe.optim, recipe.trainer
    check_choice("optim.name", optim.name, OPTIMIZERS)
    check_positive("optim.lr", optim.lr)
    check_positive("optim.clip_norm", optim.clip_norm)
    for name in ("min_lr", "weight_decay", "warmup_epochs", "iou_weight", "logit_adjustment"):
        check_at_least(f"optim.{name}", getattr(optim, name), 0)
    if optim.logit_adjustment and recipe.task == "segmentation":
        raise ValueError(
            "optim.logit_adjustment must be 0 with task=segmentation, got "
            f"{optim.logit_adjustment}; take optim.iou_weight, which weighs parts alike"
        )
    if not math.isfinite(optim.lr) or optim.min_lr > optim.lr:
        raise ValueError(
            f"optim.lr must be finite and at least min_lr={optim.min_lr}, got {optim.lr}"
        )
    for name in ("label_smoothing", "ema_decay"):
        if not 0 <= getattr(optim, name) < 1:
            raise ValueError(
                f"optim.{name} must be at least 0 and below 1, got {getattr(optim, name)}"
            )
    check_choice("optim.fused", optim.fused, ("auto", True, False))
    if optim.fused is True and trainer.precision == "16-mixed":
        raise ValueError(
            "optim.fused must be auto or false with trainer.precision=16-mixed, whose scaled "
            "gradients a fused step cannot clip; or take trainer.precision=bf16-mixed"
        )


def _check_trainer(trainer: TrainerRecipe) -> None:
    check_at_least("trainer.epochs", trainer.epochs, 1)
    check_at_least("trainer.batch_size", trainer.batch_size, 1)
    check_at_least("trainer.epoch_batches", trainer.epoch_batches, 1)
    check_at_least("trainer.seed", trainer.seed, 0)
    check_choice("trainer.precision", trainer.precision, PRECISIONS)
    check_choice("trainer.compile", trainer.compile, COMPILE_MODES)
    check_device_name("trainer.device", trainer.device)
    if trainer.precision == "16-mixed" and trainer.device == "cpu":
        raise ValueError(
            "trainer.precision=16-mixed needs a GPU; take 32-true or bf16-mixed on the CPU"
        )


def _check_eval(evaluation: EvalRecipe, data: DataRecipe) -> None:
    check_at_least("eval.batch_size", evaluation.batch_size, 1)
    check_at_least("eval.votes", evaluation.votes, 0)
    check_at_least("eval.copies", evaluation.copies, 0)
    if evaluation.copies and data.features == "normals":
        raise ValueError(
            "eval.copies must be 0 with data.features=normals, which are not turned, got "
            f"{evaluation.copies}"
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
