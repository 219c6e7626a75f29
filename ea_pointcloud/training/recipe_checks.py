"""Checks of a recipe that span its sections; those of single values stand beside the keys."""

import torch

from ea_pointcloud._checks import check_choice
from ea_pointcloud.descriptors.channels import descriptor_of, file_channels
from ea_pointcloud.models.factory import ARCHITECTURES
from ea_pointcloud.models.stored import at_most, check_settings
from ea_pointcloud.training.recipe_keys import TASKS, Recipe

_LAYERS_AND_TENSORS = 20_000  # of a network; those of the package have under 400


def check_recipe(recipe: Recipe) -> None:
    """Raise for values of different sections that do not fit together, naming their keys."""
    check_choice("task", recipe.task, TASKS)
    name = recipe.name
    plain = name.isprintable() and not {"/", "\\"} & set(name) and len(name) <= 100
    if not plain or not name or name.startswith("."):
        raise ValueError(
            "name must be a plain name for a folder, 100 characters at most and without / or \\, "
            f"got {name[:100]!r}"
        )
    check_choice(f"data.dataset for {recipe.task}", recipe.data.dataset, TASKS[recipe.task])
    _check_features(recipe)
    _check_model(recipe)
    if recipe.task == "segmentation":
        _check_segmentation(recipe)
    _check_training(recipe)


def _check_features(recipe: Recipe) -> None:
    data, augment = recipe.data, recipe.augment
    if data.features and data.dataset in ("procedural", "pyg"):
        raise ValueError(
            f"data.features must be none with data.dataset={data.dataset}, whose points have "
            f"coordinates only, got {data.features}"
        )
    if descriptor_of(data.features) and data.dataset != "shapenetpart":
        raise ValueError(
            "data.features must be channels of the files unless parts are learned from "
            f"data.dataset=shapenetpart, got {data.features}"
        )
    channels = file_channels(data.features)
    if "normals" in channels and augment.elastic:
        raise ValueError(
            "augment.elastic must be 0 with normals in data.features, which it does not deform, "
            f"got {augment.elastic}"
        )
    if augment.offline_copies and (channels or data.dataset != "shapenetpart"):
        raise ValueError(
            "augment.offline_copies needs data.dataset=shapenetpart and features computed from the "
            f"coordinates, got {data.dataset} with data.features={data.features}"
        )


def _check_model(recipe: Recipe) -> None:
    check_choice("model.name", recipe.model.name, ARCHITECTURES[recipe.task])
    if recipe.model.size is not None or recipe.model.init is None:
        check_choice("model.size", recipe.model.size, recipe.architecture().sizes)
    segments = recipe.task == "segmentation"
    check_settings(recipe.model.overrides)
    with (
        torch.device("meta"),
        at_most(_LAYERS_AND_TENSORS),
    ):  # builds every layer without memory or time
        recipe.network(recipe.segmenter_config(2, 1) if segments else recipe.model_config(2))


def _check_segmentation(recipe: Recipe) -> None:
    """Raise for what only classifiers can use."""
    for key, value, reason in (
        ("augment.outlier_ratio", recipe.augment.outlier_ratio,
         "outliers belong to no part; take augment.jitter"),
        ("augment.cutmix_prob", recipe.augment.cutmix_prob,
         "CutMix mixes the labels of whole clouds, which only classifiers have"),
        ("optim.logit_adjustment", recipe.optim.logit_adjustment,
         "take optim.iou_weight, which weighs parts alike"),
    ):  # fmt: skip
        if value:
            raise ValueError(f"{key} must be 0 with task=segmentation, got {value}: {reason}")
    if recipe.augment.normalize:
        raise ValueError(
            "augment.normalize must be false with task=segmentation; it is for classifiers"
        )


def _check_training(recipe: Recipe) -> None:
    optim, trainer = recipe.optim, recipe.trainer
    if recipe.augment.cutmix_prob and trainer.batch_size < 2:
        raise ValueError(
            "augment.cutmix_prob mixes the clouds of a batch, so trainer.batch_size must be at "
            f"least 2, got {trainer.batch_size}"
        )
    if optim.fused is True and trainer.precision == "16-mixed":
        raise ValueError(
            "optim.fused must be auto or false with trainer.precision=16-mixed, whose scaled "
            "gradients a fused step cannot clip; or take trainer.precision=bf16-mixed"
        )
    if trainer.strategy == "fsdp" and optim.ema_decay:
        raise ValueError(
            f"optim.ema_decay must be 0 with trainer.strategy=fsdp, got {optim.ema_decay}: no "
            "process has all weights to average; take trainer.strategy=ddp"
        )
