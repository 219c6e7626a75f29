"""Examples of one's own classes: checking them, and the classifier they make."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ea_pointcloud._checks import check_count
from ea_pointcloud.augment.corruption import random_partial_view
from ea_pointcloud.datasets import list_examples
from ea_pointcloud.inference.classify import embed_clouds, pose_clouds, turned_points
from ea_pointcloud.inference.few_shot import embedding_of, few_shot_network, fit_head
from ea_pointcloud.inference.preprocess import CloudLike, ModelInput, preprocess, turns_about_y
from ea_pointcloud.inference.support_report import SupportReport, support_report
from ea_pointcloud.models import Classifier
from ea_pointcloud.ops.frames import normalize_unit_sphere


class Example(NamedTuple):
    """A cloud of a known class, and how it is called in messages."""

    name: str
    class_name: str
    cloud: CloudLike | ModelInput


Examples = str | Path | Mapping[str, Sequence[CloudLike | ModelInput]] | Sequence[Example]


def listed_examples(examples: Examples) -> list[Example]:
    """Examples one by one, with names where they have none, of a folder its files."""
    if isinstance(examples, (str, Path)):
        files = list_examples(Path(examples))
        return [Example(str(path), class_name, path) for path, class_name in files]
    if not isinstance(examples, Mapping):
        return list(examples)
    return [
        Example(
            str(cloud) if isinstance(cloud, (str, Path)) else f"{class_name}[{index}]",
            class_name,
            cloud,
        )
        for class_name, clouds in examples.items()
        for index, cloud in enumerate(clouds)
    ]


def check_examples(
    examples: Sequence[Example], inputs: Sequence[ModelInput]
) -> tuple[list[int], tuple[str, ...]]:
    """Indices of the examples to keep, and notes on those that are not.

    Raises:
        ValueError: if there are fewer than two classes, or one cloud has two of them.
    """
    names = list(dict.fromkeys(each.class_name for each in examples))
    if len(examples) < 2:
        raise ValueError(
            f"there must be examples of 2 classes or more, got {len(examples)} example"
            f"{'' if examples else 's'}; add one folder for each class, CLASS/FILE"
        )
    if len(names) < 2:
        raise ValueError(
            f"there must be examples of 2 classes or more, got only {names[0]!r}; add a class of "
            "what else may occur"
        )
    seen: dict[bytes, Example] = {}
    kept, notes = [], []
    for index, (each, cloud) in enumerate(zip(examples, inputs, strict=True)):
        points = cloud.points.numpy().tobytes()
        first = seen.setdefault(points, each)
        if first is each:
            kept.append(index)
        elif first.class_name != each.class_name:
            raise ValueError(
                f"{first.name} ({first.class_name}) and {each.name} ({each.class_name}) are the "
                "same cloud in two classes; remove one of them"
            )
        else:
            notes.append(f"{each.name} is the same cloud as {first.name} and is left out")
    return kept, tuple(notes)


def fit_examples(
    model: Classifier,
    examples: Examples,
    *,
    up: str,
    remove_outliers: bool,
    rotations: int,
    partial_views: int,
) -> tuple[Classifier, SupportReport]:
    """A few-shot classifier of the classes of examples, and what can be expected of it.

    Args:
        model: a trained classifier; not altered.
        examples: see :meth:`~ea_pointcloud.Predictor.with_support`, as for all that follow.
        up: the axis that is up.
        remove_outliers: leave out statistical outliers first.
        rotations: of each example, >= 1.
        partial_views: of each example, >= 0.
    """
    check_count("rotations", rotations)
    check_count("partial_views", partial_views, 0)
    listed = listed_examples(examples)
    inputs = [
        each.cloud
        if isinstance(each.cloud, ModelInput)
        else preprocess(each.cloud, model.data_spec, up=up, remove_outliers=remove_outliers)
        for each in listed
    ]
    kept, notes = check_examples(listed, inputs)
    listed = [listed[index] for index in kept]
    names = sorted({each.class_name for each in listed})
    label = torch.tensor([names.index(each.class_name) for each in listed])
    posed = pose_clouds(model, [inputs[index] for index in kept])
    clouds, group = _copies(model, posed, rotations, partial_views)
    network = few_shot_network(model, embedding_of(model, clouds), names)
    embedded, _ = embed_clouds(network, clouds)
    head = fit_head(embedded, label[group], group)
    with torch.no_grad():
        network.head[-1].get_parameter("weight").copy_(head.weight)
    network.calibration = head.calibration()
    titles = [each.name for each in listed]
    report = support_report(network, head, titles, label, embedded, group, notes)
    return network, report


def _copies(
    model: Classifier, clouds: Sequence[Tensor], rotations: int, partial_views: int
) -> tuple[list[Tensor], Tensor]:
    """Each cloud (n, 3 + F), its rotations about y, and views from one side; and whose they are."""
    generator = torch.Generator().manual_seed(0)
    copies, group = [], []
    for index, cloud in enumerate(clouds):
        own = [turned_points(model, cloud, turn) for turn in turns_about_y(rotations)]
        for _ in range(partial_views):
            seen = cloud[random_partial_view(cloud[None, :, :3], 1.0, generator=generator)[0]]
            xyz = normalize_unit_sphere(seen[None, :, :3].double()).float()[0]
            own.append(torch.cat([xyz, seen[:, 3:]], dim=-1))
        copies += own
        group += [index] * len(own)
    return copies, torch.tensor(group)
