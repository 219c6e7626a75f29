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
)
from ea_pointcloud._device import check_device_name
from ea_pointcloud.augment.transforms import AXES, SAMPLINGS
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
    check_choice("data.sampling", data.sampling, SAMPLINGS)
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
        if data.in_memory is False or len(set(data.classes)) < 2:
            raise ValueError(
                "data.classes must name two classes or more, of clouds that are held in memory, "
                f"got {data.classes} and data.in_memory={data.in_memory}"
            )
    check_choice("data.mirrored", data.mirrored, MIRRORED)
    if data.mirrored != "auto" and data.dataset not in ("modelnet", "folder", "pyg"):
        raise ValueError(
            "data.mirrored belongs to data.dataset=modelnet, folder or pyg, got "
            f"{data.mirrored} with {data.dataset}; leave it out"
        )
    check_choice("data.in_memory", data.in_memory, ("auto", True, False))
    if data.in_memory is False and data.dataset != "modelnet":
        raise ValueError(
            "data.in_memory=false needs data.dataset=modelnet, which is read out of core, got "
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
    if data.dataset == "procedural" and data.sampling != "first":
        raise ValueError(
            "data.sampling must be 'first' with the procedural set, whose points are drawn at "
            f"random when it is made, got {data.sampling!r}"
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
        augment.rotation != "none" or augment.mirror or augment.elastic
    ):
        raise ValueError(
            "augment.rotation must be none, augment.mirror false and augment.elastic 0 with "
            "data.features=normals, which are not rotated"
        )
    check_at_least("augment.offline_copies", augment.offline_copies, 0)
    if augment.offline_copies and (data.dataset != "shapenetpart" or data.features == "normals"):
        raise ValueError(
            "augment.offline_copies needs data.dataset=shapenetpart and features computed from the "
            f"coordinates, got {data.dataset} with data.features={data.features}"
        )
    if len(augment.scale) != 2 or not 0 < augment.scale[0] <= augment.scale[1]:
        raise ValueError(f"augment.scale must be [low, high], 0 < low, got {augment.scale}")
    for name in ("elastic", "shift", "jitter"):
        check_at_least(f"augment.{name}", getattr(augment, name), 0)
    for name in ("outlier_ratio", "crop_ratio", "point_dropout"):
        check_fraction(f"augment.{name}", getattr(augment, name))
    if augment.outlier_ratio and recipe.task == "segmentation":
        raise ValueError(
            f"augment.outlier_ratio must be 0 with task=segmentation, got {augment.outlier_ratio}: "
            "outliers belong to no part; take augment.jitter"
        )
    for name in ("partial_view_prob", "corruption_prob", "cutmix_prob"):
        check_probability(f"augment.{name}", getattr(augment, name))
    if augment.normalize and recipe.task == "segmentation":
        raise ValueError(
            "augment.normalize must be false with task=segmentation; it is for classifiers"
        )
    recipe.augmentation()
    _check_cutmix(recipe)


def _check_cutmix(recipe: Recipe) -> None:
    augment = recipe.augment
    check_positive("augment.cutmix_beta", augment.cutmix_beta)
    if not augment.cutmix_prob:
        return
    if recipe.task != "classification":
        raise ValueError(
            f"augment.cutmix_prob must be 0 with task={recipe.task}, got {augment.cutmix_prob}: "
            "CutMix mixes the labels of whole clouds, which only classifiers have"
        )
    if recipe.trainer.batch_size < 2:
        raise ValueError(
            "augment.cutmix_prob mixes the clouds of a batch, so trainer.batch_size must be at "
            f"least 2, got {recipe.trainer.batch_size}"
        )


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
    check_at_least("trainer.min_batches_per_epoch", trainer.min_batches_per_epoch, 1)
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
    check_at_least("eval.tta_copies", evaluation.tta_copies, 0)
    if evaluation.tta_copies and data.features == "normals":
        raise ValueError(
            "eval.tta_copies must be 0 with data.features=normals, which are not rotated, got "
            f"{evaluation.tta_copies}"
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
