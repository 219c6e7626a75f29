"""The splits of a recipe: opened, held out, augmented offline, moved to the device."""

from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ea_pointcloud._device import available_memory, generator_for
from ea_pointcloud.datasets import (
    FolderDataset,
    ModelNet,
    PartFolderDataset,
    ProceduralShapes,
    ShapeNetPart,
)
from ea_pointcloud.datasets._files import data_root, find_modelnet
from ea_pointcloud.datasets.layouts import recognize
from ea_pointcloud.datasets.offline_augmentation import augment_offline
from ea_pointcloud.datasets.out_of_core import OutOfCoreModelNet
from ea_pointcloud.datasets.pyg_source import PyGShapes, open_pyg
from ea_pointcloud.datasets.subset import select_classes
from ea_pointcloud.descriptors.channels import feature_channels, scalar_columns
from ea_pointcloud.inference.postprocess import min_part_fractions
from ea_pointcloud.inference.preprocess import farthest_points
from ea_pointcloud.models import DataSpec
from ea_pointcloud.ops import gather_points
from ea_pointcloud.ops.frames import normalize_unit_sphere
from ea_pointcloud.training.recipe_data import OWN_FILES, DataRecipe
from ea_pointcloud.training.recipe_keys import Recipe

PartShapes = ShapeNetPart | PartFolderDataset
Shapes = ModelNet | ProceduralShapes | PartShapes | FolderDataset | OutOfCoreModelNet | PyGShapes
PROCEDURAL_SPLITS = ("train", "val", "test")  # the order of ``data.shapes``
_OF_OWN_FILES = ("up", "stored_points", "skip_bad", "drop_invalid", "features", "columns")
_OFFLINE = 7  # tells their draws from all others of the seed
_HELD = 3  # times the size of its files: one split is read, and joined, beside another
_MEASURED = 1000  # about as many clouds show the scale of a channel
_CHOSEN_AT_ONCE = 256  # clouds, of which farthest points are chosen
_DEVICE_SHARE = 0.5  # of the free memory of a GPU; the network needs some too


def open_split(data: DataRecipe, split: str, *, all_points: bool = False) -> Shapes:
    """The split that a recipe names.

    Args:
        data: the recipe's data section.
        split: ``"train"``, ``"val"`` or ``"test"``.
        all_points: keep every stored point, for a point choice that is drawn again for every batch.
    """
    if data.classes:
        whole = open_split(replace(data, classes=[]), split, all_points=all_points)
        if not isinstance(whole, ModelNet | FolderDataset):
            raise ValueError("data.classes needs the clouds in memory; set data.in_memory=true")
        return select_classes(whole, data.classes)
    if data.dataset == "procedural":
        num_shapes = data.shapes[PROCEDURAL_SPLITS.index(split)]
        return ProceduralShapes(split, num_shapes=num_shapes, num_points=data.num_points)
    usual: dict[str, Any] = {
        "split": split,
        "num_points": 0 if all_points else data.num_points,
        "sampling": data.sampling,
        "val_fraction": data.val_fraction,
    }
    if data.dataset in OWN_FILES:
        assert data.root is not None
        reading = {name: getattr(data, name) for name in _OF_OWN_FILES}
        if data.dataset == "parts":
            return PartFolderDataset(data.root, **usual, **reading)
        return FolderDataset(data.root, **usual, **reading, mirrored=data.mirrored)
    if data.dataset == "shapenetpart":
        return ShapeNetPart(data.root, name=data.name, features=data.features, **usual)
    if data.dataset == "pyg":
        assert data.root is not None
        return open_pyg(
            data.root,
            up=data.up,
            stored_points=data.stored_points,
            mirrored=data.mirrored is True,
            **usual,
        )
    text = _text_folder(data)
    if text is not None:
        stored = max(data.stored_points, data.num_points)
        data = replace(data, dataset="folder", root=str(text), stored_points=stored)
        return open_split(data, split, all_points=all_points)
    usual |= {"name": data.name, "mirrored": data.mirrored, "features": data.features}
    outline = OutOfCoreModelNet(data.root, buffer_mb=data.buffer_mb, **usual)
    return ModelNet(data.root, **usual) if stays_in_memory(data, outline) else outline


def _text_folder(data: DataRecipe) -> Path | None:
    """The folder of the set as text with normals, where its HDF5 files are not there."""
    root = data_root(data.root)
    for folder in (root, root / f"{data.name}_normal_resampled"):
        if folder.is_dir() and recognize(folder) == "modelnet_txt":
            try:
                find_modelnet(data.root, data.name)
            except FileNotFoundError:
                return folder
    return None


def stays_in_memory(
    data: DataRecipe, outline: OutOfCoreModelNet | None = None, *, copies: int = 1
) -> bool:
    """Whether the clouds of a recipe are held in memory, else they are read out of core.

    ``data.in_memory=auto`` leaves a set in ModelNet's layout on disk that would take more than is
    available; everything else is held.

    Args:
        data: the recipe's data section.
        outline: of any split but test, if it has been opened.
        copies: processes of this machine that would each hold them.
    """
    if data.in_memory != "auto":
        return bool(data.in_memory)
    if data.dataset != "modelnet" or _text_folder(data) is not None:
        return True
    if outline is None or outline.split == "test":
        outline = OutOfCoreModelNet(
            data.root, name=data.name, split="trainval", features=data.features
        )
    room = available_memory(torch.device("cpu"))
    return room is None or copies * _HELD * outline.file_bytes <= room


def put_on(dataset: Shapes, device: torch.device) -> tuple[Shapes, str]:
    """The set on the training device where it fits, and where it is now, for a person.

    Returns:
        dataset: itself, or a copy on the device.
        where: like ``"train: 8,858 clouds, 109 MB on cuda:0"``.
    """
    count = f"{dataset.split}: {len(dataset):,} clouds"
    if isinstance(dataset, OutOfCoreModelNet):
        size = dataset.num_bytes / 1e6
        return dataset, f"{count}, {size:,.0f} MB read out of core from {dataset.folder}"
    tensors = {name: value for name, value in vars(dataset).items() if isinstance(value, Tensor)}
    size = sum(tensor.nbytes for tensor in tensors.values())
    room = available_memory(device) if device.type == "cuda" else None
    if room is None or size > _DEVICE_SHARE * room:
        return dataset, f"{count}, {size / 1e6:,.0f} MB in memory"
    placed = copy(dataset)
    for name, tensor in tensors.items():
        setattr(placed, name, tensor.to(device))
    return placed, f"{count}, {size / 1e6:,.0f} MB on {device}"


def open_held_out(
    recipe: Recipe, split: str, *, farthest_of: int | None = None, all_points: bool | None = None
) -> Shapes:
    """A split to measure on: parts are asked of every point there is, whatever training saw.

    Args:
        recipe: of the run.
        split: ``"train"``, ``"val"`` or ``"test"``.
        all_points: keep every stored point; if omitted, for segmentation alone.
        farthest_of: of this number of points of each cloud, the first that are stored (0: all), the
            farthest are kept, as many as in training, and as ``classify`` chooses them.

    Raises:
        ValueError: if ``farthest_of`` is asked of parts or of clouds that are not in memory whole,
            or is less than the points that are kept.
    """
    if farthest_of is None:
        every = recipe.task == "segmentation" if all_points is None else all_points
        return open_split(recipe.data, split, all_points=every)
    stored = farthest_of or recipe.data.num_points
    first = replace(recipe.data, num_points=stored, sampling="first")
    given = open_split(first, split, all_points=farthest_of == 0)
    if not isinstance(given, ModelNet):
        raise ValueError(
            "farthest points are for classifiers of clouds in ModelNet's layout, held in memory "
            f"(data.in_memory=true), got {recipe.data.dataset} for {recipe.task}"
        )
    if given.xyz.shape[1] < recipe.data.num_points:
        raise ValueError(
            f"farthest points must be chosen among at least the data.num_points="
            f"{recipe.data.num_points} of training, got {given.xyz.shape[1]}"
        )
    seen = copy(given)
    clouds = [normalize_unit_sphere(some) for some in given.xyz.split(_CHOSEN_AT_ONCE)]
    idx = torch.cat([farthest_points(some, recipe.data.num_points) for some in clouds])
    seen.xyz = gather_points(torch.cat(clouds), idx)
    if given.features is not None:
        seen.features = gather_points(given.features, idx)
    return seen


def open_training(recipe: Recipe) -> Shapes:
    """The split to train on, with the variants that the recipe asks for."""
    fresh_points = recipe.num_sampled() > 0
    dataset = open_split(recipe.data, recipe.data.train_split, all_points=fresh_points)
    if not recipe.augment.offline_copies:
        return dataset
    assert isinstance(dataset, ShapeNetPart)
    low, high = recipe.augment.scale
    return augment_offline(
        dataset,
        recipe.augment.offline_copies,
        features=recipe.data.features,
        elastic=recipe.augment.elastic,
        scale=(low, high),
        generator=generator_for(torch.device("cpu"), recipe.trainer.seed, _OFFLINE),
    )


def data_spec(recipe: Recipe, dataset: Shapes) -> DataSpec:
    """What the weights have to know of the data they were trained on."""
    names, categories, parts, fractions = (), (), (), ()
    if recipe.task == "segmentation":
        assert not isinstance(dataset, ModelNet | FolderDataset | OutOfCoreModelNet)
        names, categories, parts = dataset.part_names, dataset.category_names, dataset.parts
        fractions = min_part_fractions(dataset.part_label, dataset.category, parts, len(names))
    else:
        assert not isinstance(dataset, PartShapes)
        names = dataset.class_names
    mean, std = _feature_scale(dataset, recipe.data.features)
    return DataSpec(
        class_names=names,
        up_axis=dataset.up_axis,
        mirroring=dataset.mirroring,
        num_points=recipe.data.num_points,
        sampling=recipe.data.sampling,
        category_names=categories,
        parts=parts,
        features=tuple(recipe.data.features),
        min_part_fraction=fractions,
        feature_mean=mean,
        feature_std=std,
    )


def _feature_scale(
    dataset: Shapes, features: list[str]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of the channels that have units of their own; of others 0 and 1."""
    scalar = scalar_columns(features)
    if not scalar:
        return (), ()
    step = max(1, len(dataset) // _MEASURED)
    batch = dataset[list(range(0, len(dataset), step))]
    values = batch["features"]
    values = (values[batch["mask"]] if "mask" in batch else values.flatten(0, 1))[:, scalar]
    values = values.double().cpu()
    mean, std = (torch.zeros(feature_channels(features)).double() + fill for fill in (0, 1))
    mean[scalar] = values.mean(0)
    deviation = values.std(0, correction=0)
    std[scalar] = torch.where(deviation > 0, deviation, 1.0)  # a constant channel becomes 0
    short = [tuple(float(f"{value:.6g}") for value in each.tolist()) for each in (mean, std)]
    return short[0], short[1]


def class_count(dataset: Shapes) -> Tensor:
    """(classes,) how many clouds of each class there are."""
    assert not isinstance(dataset, PartShapes)
    return torch.bincount(dataset.label.cpu(), minlength=len(dataset.class_names))
