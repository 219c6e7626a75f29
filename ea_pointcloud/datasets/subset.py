"""Subsets of data sets in memory: some of the classes, some of the clouds."""

from collections.abc import Sequence
from copy import copy
from typing import Any, TypeVar

import torch
from torch import Tensor

from ea_pointcloud.datasets.folder import FolderDataset
from ea_pointcloud.datasets.modelnet import ModelNet

AnyShapes = TypeVar("AnyShapes", bound=Any)


def select_classes(
    dataset: ModelNet | FolderDataset, classes: Sequence[str]
) -> ModelNet | FolderDataset:
    """The clouds of ``classes``, with labels in that order; others are left out.

    Args:
        dataset: not altered.
        classes: names, each once.

    Raises:
        ValueError: if a name is unknown or occurs twice.
    """
    strange = [name for name in classes if name not in dataset.class_names]
    if strange or len(set(classes)) != len(classes) or not classes:
        raise ValueError(
            f"classes must be some of {list(dataset.class_names)}, each once, got {list(classes)}"
        )
    place = torch.full((len(dataset.class_names),), -1)
    place[[dataset.class_names.index(name) for name in classes]] = torch.arange(len(classes))
    label = place[dataset.label]
    chosen = (label >= 0).nonzero().flatten()
    selected = _select(dataset, chosen)
    selected.label, selected.class_names = label[chosen], tuple(classes)
    return selected


def limit_shapes(dataset: AnyShapes, limit: int | None) -> AnyShapes:
    """At most ``limit`` clouds, spread evenly over the set so that all classes occur.

    Raises:
        ValueError: if the clouds are not in memory.
    """
    if limit is None or limit >= len(dataset):
        return dataset
    if not hasattr(dataset, "xyz"):
        raise ValueError(
            "limit takes clouds that are held in memory; set data.in_memory=true, or leave it out"
        )
    return _select(dataset, spread(len(dataset), limit))


def spread(count: int, limit: int | None) -> Tensor:
    """Indices of at most ``limit`` of ``count`` clouds, spread evenly so that all classes occur."""
    kept = count if limit is None else min(limit, count)
    return torch.arange(kept) * count // max(kept, 1)


def _select(dataset: AnyShapes, chosen: Tensor) -> AnyShapes:
    """The clouds at the indices ``chosen``."""
    selected: Any = copy(dataset)
    for name, value in vars(dataset).items():
        if isinstance(value, Tensor) and len(value) == len(dataset):
            setattr(selected, name, value[chosen])
    if hasattr(selected, "files"):
        selected.files = tuple(selected.files[index] for index in chosen.tolist())
    return selected
