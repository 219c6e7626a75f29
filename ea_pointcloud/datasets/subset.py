"""The subset of a data set that has only some of its classes."""

from collections.abc import Sequence
from copy import copy

import torch
from torch import Tensor

from ea_pointcloud.datasets.folder import FolderDataset
from ea_pointcloud.datasets.modelnet import ModelNet


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
    chosen = label >= 0
    selected = copy(dataset)
    for name, value in vars(dataset).items():
        if isinstance(value, Tensor) and len(value) == len(chosen):
            setattr(selected, name, value[chosen])
    selected.label, selected.class_names = label[chosen], tuple(classes)
    if isinstance(selected, FolderDataset):
        kept = zip(selected.files, chosen.tolist(), strict=True)
        selected.files = tuple(file for file, wanted in kept if wanted)
    return selected
