"""From a cloud of any size to the part of every point, and which way up it was taken."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ea_pointcloud.augment.transforms import AXES, normalize_unit_sphere, to_y_up
from ea_pointcloud.io import Cloud
from ea_pointcloud.models import DataSpec, Segmenter
from ea_pointcloud.models.inference import (
    PointLabels,
    farthest_points,
    label_points,
    most_probable_category,
    point_probs,
)
from ea_pointcloud.ops import gather_points, knn
from ea_pointcloud.prepare import AUTO, coordinates, inliers, normals, preference


@dataclass(frozen=True, eq=False)
class Segmentation:
    """The parts of a cloud, an entry for every input point.

    Args:
        labels: (N,) int64, places in ``names``.
        confidence: (N,) float32, the label's probability among the parts it was chosen from; 0 for
            a point that was left out as noise and has the label of its nearest neighbour.
        category: what the object was taken for; None where the weights know no categories.
        category_from: who said so.
        names: the parts the network tells apart, over all categories.
        up: the axis that was taken for up.
        up_margin: by how much ``up="auto"`` preferred it, see
            :func:`~ea_pointcloud.prepare.preference`; None where the axis was given.
        warning: a sentence for the user where the classifier that named the category found the
            cloud unlike anything in its training.
    """

    labels: NDArray[np.int64]
    confidence: NDArray[np.float32]
    category: str | None
    category_from: Literal["given", "classifier", "network"]
    names: tuple[str, ...]
    up: str
    up_margin: float | None
    warning: str | None


def category_place(spec: DataSpec, category: str, what: str) -> int:
    """The place of a category, written in whatever case, among those of the weights.

    Args:
        spec: of the weights.
        category: its name.
        what: what to call it in an error.

    Raises:
        ValueError: if it is unknown, or the weights know no parts of it.
    """
    if not spec.category_names:
        raise ValueError(f"{what} is {category!r}, but these weights know no categories")
    known = {name.casefold(): place for place, name in enumerate(spec.category_names)}
    place = known.get(category.casefold())
    if place is None:
        raise ValueError(
            f"{what} must be one of {', '.join(spec.category_names)}, got {category!r}"
        )
    if not spec.parts[place]:
        raise ValueError(f"{what} is {category!r}, of which these weights know no parts")
    return place


def segment_points(
    model: Segmenter,
    cloud: Cloud | NDArray[np.floating],
    *,
    up: str,
    category: int | None,
    rotations: int,
    denoise: bool,
) -> tuple[PointLabels, str, float | None]:
    """Label every point of a cloud.

    Args:
        model: in evaluation mode.
        cloud: with normals where the network was trained with some.
        up: the axis that is up, or ``"auto"``: the one under which the parts are the most certain.
        category: its place. A network that is told and a cloud without one: it is told each
            category in turn, and takes the one whose parts it then finds the most probable.
        rotations: turns about the up axis whose probabilities are averaged.
        denoise: leave out statistical outliers; they get the label of the nearest point that is
            left, at confidence 0.

    Returns:
        The labels, the axis taken for up, and by how much ``"auto"`` preferred it.

    Raises:
        ValueError: if the cloud has no usable points or lacks normals.
    """
    device = next(model.parameters()).device
    xyz = torch.from_numpy(coordinates(cloud)).to(device)
    features = None
    if model.data_spec.features == "normals":
        features = torch.from_numpy(normals(cloud)).to(device)
    kept = inliers(xyz) if denoise else torch.ones(len(xyz), dtype=torch.bool, device=device)
    if features is not None:
        features = features[kept][None]
    margin, posed = None, normalize_unit_sphere(xyz[kept][None]).float()
    if up == AUTO:
        up, margin = _most_certain_axis(model, posed, features, category)
    turned = None if features is None else to_y_up(features, up)
    if category is None and model.config.num_categories:
        category = most_probable_category(model, *_seen(model, to_y_up(posed, up), turned))
    found = label_points(model, to_y_up(posed, up), turned, category, rotations=rotations)
    return _with_outliers(found, xyz, kept), up, margin


@torch.inference_mode()
def _most_certain_axis(
    model: Segmenter, posed: Tensor, features: Tensor | None, category: int | None
) -> tuple[str, float]:
    """By the mean over the points of what their most probable part lacks to certainty."""
    posed, features = _seen(model, posed, features)
    lacking = []
    for axis in AXES:
        turned = None if features is None else to_y_up(features, axis)
        place = category
        if place is None and model.config.num_categories:
            place = most_probable_category(model, to_y_up(posed, axis), turned)
        probs = point_probs(model, to_y_up(posed, axis), turned, place)
        lacking.append(1 - probs.amax(-1).mean())
    best, margin = preference(torch.stack(lacking))
    return AXES[best], margin


def _seen(model: Segmenter, posed: Tensor, features: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """As many points as in training: enough to decide something for all, however many there are."""
    idx = farthest_points(posed, model.data_spec.num_points)
    return gather_points(posed, idx), None if features is None else gather_points(features, idx)


def _with_outliers(found: PointLabels, xyz: Tensor, kept: Tensor) -> PointLabels:
    """Labels of all of ``xyz`` (N, 3), given those of the points that were ``kept`` (N,)."""
    if bool(kept.all()):
        return found
    near = normalize_unit_sphere(xyz[None]).float()
    _, nearest = knn(near[:, ~kept], near[:, kept], 1)
    labels = found.labels.new_empty(len(xyz))
    labels[kept] = found.labels
    labels[~kept] = found.labels[nearest[0, :, 0]]
    confidence = found.confidence.new_zeros(len(xyz))
    confidence[kept] = found.confidence
    return PointLabels(labels, confidence, found.category)
