"""The labels of a data set in the order of the names that a model knows."""

from copy import copy

import torch
from torch import Tensor

from ea_pointcloud.datasets import FolderDataset, ModelNet
from ea_pointcloud.datasets.out_of_core import OutOfCoreModelNet
from ea_pointcloud.models import DataSpec
from ea_pointcloud.training.data import PartShapes, Shapes


def match_labels(dataset: Shapes, spec: DataSpec) -> Shapes:
    """The data set with its labels counted as the model counts them, matched by name.

    Sets that come from different archives order the same classes differently. Names are what
    counts; the data need not have all that the model knows.

    Args:
        dataset: as it was opened; not altered.
        spec: of the model, for parts where it has categories, else for classes.

    Returns:
        ``dataset`` itself where all names agree in order, else a copy that shares its clouds.

    Raises:
        ValueError: if the data has a name that the model does not know.
    """
    if not spec.category_names:
        assert not isinstance(dataset, PartShapes)
        label_map = _label_map("classes", dataset.class_names, spec.class_names)
        if dataset.class_names == spec.class_names:
            return dataset
        matched = copy(dataset)
        matched.class_names, matched.label = spec.class_names, _look_up(label_map, dataset.label)
        return matched
    assert not isinstance(dataset, ModelNet | FolderDataset | OutOfCoreModelNet)
    categories = _label_map("categories", dataset.category_names, spec.category_names)
    parts = _label_map("parts", dataset.part_names, spec.class_names)
    if (dataset.category_names, dataset.part_names) == (spec.category_names, spec.class_names):
        return dataset
    matched = copy(dataset)
    matched.category_names = spec.category_names
    matched.category = _look_up(categories, dataset.category)
    matched.part_names = spec.class_names
    matched.part_label = _look_up(parts, dataset.part_label)
    matched.parts = spec.parts
    return matched


def _label_map(what: str, found: tuple[str, ...], known: tuple[str, ...]) -> Tensor:
    """(len(found) + 1,) where each name is among those known; -1, for padding, stays -1."""
    strange = [name for name in found if name not in known]
    if strange:
        raise ValueError(
            f"the data's {what} {strange} are not the model's {list(known)}; evaluate on data with "
            "the model's names"
        )
    return torch.tensor([*map(known.index, found), -1])


def _look_up(label_map: Tensor, labels: Tensor) -> Tensor:
    return label_map.to(labels.device)[labels]
