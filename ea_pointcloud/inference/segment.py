"""Segmentation of a cloud of any size: pose, category, the part of every point."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ea_pointcloud.descriptors.channels import rotate_features
from ea_pointcloud.inference.category import best_category, category_scores, point_logits
from ea_pointcloud.inference.classify import OOD_WARNING, Candidate, fits_better, up_hint
from ea_pointcloud.inference.postprocess import postprocess
from ea_pointcloud.inference.preprocess import (
    AUTO,
    channels,
    coordinates,
    farthest_points,
    inliers,
    network_input,
    preference,
    turns_about_y,
)
from ea_pointcloud.io import Cloud
from ea_pointcloud.models import Segmenter
from ea_pointcloud.models.base_segmenter import Embedding
from ea_pointcloud.ops import gather_points, interpolate_features, knn
from ea_pointcloud.ops.frames import AXES, normalize_unit_sphere, to_y_up

# Points that wide layers, or the way back to all points, handle at a time. Smaller parts fit the
# caches of a CPU better (100,000 points in the base network: 7.0 s of CPU time, by 16,384 8.0 s),
# but even smaller ones wait for one another where threads share cores with other programs.
CHUNK = 8_192


@dataclass(frozen=True, eq=False)
class Segmentation:
    """The parts of a cloud, an entry for every input point.

    Args:
        labels: (N,) int64, indices into ``names``.
        confidence: (N,) float32, the label's probability among the parts it was chosen from; 0 for
            an outlier, which has the label of its nearest neighbour.
        category: of the object; None where the weights have no categories.
        category_from: where it comes from.
        names: the parts of all categories.
        up: the axis that is up.
        up_margin: by how much ``up="auto"`` preferred it, see
            :func:`~ea_pointcloud.inference.preprocess.preference`; None where the axis was given.
        warning: where the cloud is out of distribution, another axis fits better, or the
            classifier that found the category has one.
        ood_score: the fraction of the validation clouds that are nearer to the training clouds;
            None where the weights have no such calibration.
        categories: the most probable ones, the best first, with the probability of their own parts,
            or that of a classifier; empty where the category was given.
        category_margin: by how much the first of them is more probable than the next.
    """

    labels: NDArray[np.int64]
    confidence: NDArray[np.float32]
    category: str | None
    category_from: Literal["given", "classifier", "network"]
    names: tuple[str, ...]
    up: str
    up_margin: float | None
    warning: str | None
    ood_score: float | None = None
    categories: tuple[Candidate, ...] = ()
    category_margin: float | None = None


class _View(NamedTuple):
    """The points of a cloud that a network sees, and their embedding."""

    xyz: Tensor
    features: Tensor | None
    embedding: Embedding


class _Result(NamedTuple):
    """The labels of a cloud and how they were found.

    Args:
        found: of every point.
        up: the axis that is up.
        margin: by how much ``"auto"`` preferred it.
        ood_score: see :class:`Segmentation`.
        warning: in words.
    """

    found: "PointLabels"
    up: str
    margin: float | None
    ood_score: float | None
    warning: str | None


class PointLabels(NamedTuple):
    """The parts of the points of one cloud."""

    labels: Tensor  # (N,) int64, part ids
    confidence: Tensor  # (N,) float32, probability among the parts of the category
    category: int | None  # None where the network has none
    scores: Tensor | None = None  # (categories,) of all, None where the category was given


@torch.inference_mode()
def segment_points(
    model: Segmenter,
    cloud: Cloud | NDArray[np.floating],
    *,
    up: str,
    category: int | None,
    tta_rotations: int,
    remove_outliers: bool,
) -> _Result:
    """Label every point of a cloud; for the options see :meth:`Predictor.segment`.

    Args:
        model: in evaluation mode.
        cloud: with the channels that the network was trained with.
        up: the axis that is up, or ``"auto"``: the one under which the parts are the most certain.
        category: its index; found by the network if omitted.
        tta_rotations: rotations about the up axis whose probabilities are averaged.
        remove_outliers: leave out statistical outliers.

    Raises:
        ValueError: if the cloud has no usable points or lacks a channel.
    """
    device = next(model.parameters()).device
    xyz = torch.from_numpy(coordinates(cloud)).to(device)
    features = channels(cloud, model.data_spec)
    kept = (
        inliers(xyz) if remove_outliers else torch.ones(len(xyz), dtype=torch.bool, device=device)
    )
    if features is not None:
        features = features.to(device)[kept][None]
    margin, posed = None, normalize_unit_sphere(xyz[kept][None]).float()
    if up == AUTO:
        up, margin = _most_certain_axis(model, posed, features, category)
    turned = _stood_up(model, features, up)
    standing = to_y_up(posed, up)
    # A network of neighbourhoods sees the same points for every purpose, any other all of them.
    whole = _view(model, standing, turned) if model.has_neighborhoods else None
    view = whole or _view(model, *_seen(model, standing, turned))
    ood_score, warning = _compared(model, view, posed, features, up, given=margin is None)
    scores = None
    if category is None and model.config.num_categories:
        scores = category_scores(model, view.embedding)
        category = int(scores.argmax())
    found = label_points(model, standing, turned, category, tta_rotations=tta_rotations, view=whole)
    if scores is not None:
        found = found._replace(scores=scores)
    if not bool(found.confidence.isfinite().all()):
        raise ValueError(
            "the output of the network is not finite; the weights are damaged or were never trained"
        )
    return _Result(_with_outliers(found, xyz, kept), up, margin, ood_score, warning)


@torch.inference_mode()
def pooled_features(model: Segmenter, xyz: Tensor, features: Tensor | None = None) -> Tensor:
    """(C,) mean features of one posed cloud (1, N, 3) on the CPU, for its OOD score."""
    return _mean(_view(model, *_seen(model, xyz, features)).embedding)[0]


@torch.inference_mode()
def _compared(
    model: Segmenter,
    view: _View,
    posed: Tensor,
    features: Tensor | None,
    up: str,
    *,
    given: bool,
) -> tuple[float | None, str | None]:
    """The OOD score, and in words whether that is much, and which axis fits better if any does."""
    detector = None if model.calibration is None else model.calibration.detector
    if detector is None:
        return None, None
    distance = float(detector.distance(_mean(view.embedding)))
    score = detector.ood_score(distance)
    if not detector.is_ood(distance):
        return score, None
    if not given:
        return score, OOD_WARNING
    posed, features = _seen(model, posed, features)
    best, hint = distance, None
    for axis in (axis for axis in AXES if axis != up):
        turned = _stood_up(model, features, axis)
        other = _view(model, to_y_up(posed, axis), turned).embedding
        near = float(detector.distance(_mean(other)))
        if near < best and fits_better(detector, near, distance):
            found = ""
            if model.config.num_categories:
                index = best_category(model, other)
                found = model.data_spec.category_names[index]
            best, hint = near, up_hint(axis, found)
    return score, "; ".join(filter(None, (OOD_WARNING, hint)))


@torch.inference_mode()
def _most_certain_axis(
    model: Segmenter, posed: Tensor, features: Tensor | None, category: int | None
) -> tuple[str, float]:
    """The axis under which the probability of the best part, averaged over points, is highest."""
    posed, features = _seen(model, posed, features)
    lacking = []
    for axis in AXES:
        turned = _stood_up(model, features, axis)
        embedding, index = _view(model, to_y_up(posed, axis), turned).embedding, category
        if index is None and model.config.num_categories:
            index = best_category(model, embedding)
        probs = point_logits(model, embedding, index).softmax(-1)
        lacking.append(1 - probs.amax(-1).mean())
    best, margin = preference(torch.stack(lacking))
    return AXES[best], margin


def _stood_up(model: Segmenter, features: Tensor | None, up: str) -> Tensor | None:
    """Features (1, N, F) of a cloud with y up."""
    if features is None:
        return None
    return rotate_features(features, model.data_spec.features, lambda each: to_y_up(each, up))


def _seen(model: Segmenter, posed: Tensor, features: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The number of points of training, farthest first: enough for what is decided once."""
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
    return found._replace(labels=labels, confidence=confidence)


@torch.inference_mode()
def label_points(
    model: Segmenter,
    xyz: Tensor,
    features: Tensor | None = None,
    category: int | None = None,
    *,
    tta_rotations: int = 1,
    view: _View | None = None,
) -> PointLabels:
    """Label every point of one posed cloud.

    A network without neighbourhoods sees them all. Others see the farthest ones, as many as in
    training, and their probabilities are interpolated to all points, after
    :func:`~ea_pointcloud.inference.postprocess.postprocess` where the weights have a
    ``min_part_fraction``.

    Args:
        model: in evaluation mode; its ``data_spec`` lists categories and parts.
        xyz: (1, N, 3) float32, posed as the model expects, on the model's device.
        features: (1, N, F); what follows from the coordinates is computed here.
        category: of the cloud. If omitted, and the network has categories, the one whose parts are
            the most probable, summed over all points.
        tta_rotations: rotations about y whose probabilities are averaged.
        view: what the network sees of ``xyz``, where it is already embedded.

    Returns:
        For every point, ties to the lowest part.

    Raises:
        ValueError: see :meth:`Segmenter.forward`.
    """
    spec = model.data_spec
    seen, known, embedding = view or _view(model, xyz, features)
    logits = point_logits(model, embedding, category)
    if tta_rotations > 1:  # of the points chosen once; normals turn with them
        logits = logits.log_softmax(-1)
        for turn in turns_about_y(tta_rotations, xyz.device)[1:]:
            turned = None
            if features is not None and known is not None:
                turned = rotate_features(known, spec.features, lambda each: each @ turn)  # noqa: B023
            other = point_logits(model, _view(model, seen @ turn, turned).embedding, category)
            logits = logits.logaddexp(other.log_softmax(-1))

    scores = None
    if category is None and spec.parts:
        total = torch.zeros(len(spec.class_names), dtype=torch.float64, device=xyz.device)
        for probs in _carried(logits.softmax(-1), seen, xyz):
            total += probs.sum(0, dtype=torch.float64)
        scores = torch.stack([total[list(ids)].sum() for ids in spec.parts]) / xyz.shape[1]
        category = int(scores.argmax())
    own = range(len(spec.class_names)) if category is None else spec.parts[category]
    ids = torch.tensor(own, device=xyz.device)
    probs = logits[:, ids].softmax(-1)
    if spec.min_part_fraction:
        least = torch.tensor(spec.min_part_fraction, device=xyz.device)[ids]
        probs = postprocess(probs[None], seen, least)[0]
    best = [probs.max(-1) for probs in _carried(probs, seen, xyz)]
    labels = ids[torch.cat([index for _, index in best])]
    return PointLabels(labels, torch.cat([value for value, _ in best]), category, scores)


def _view(model: Segmenter, xyz: Tensor, features: Tensor | None) -> _View:
    """What a network sees of one posed cloud (1, N, 3), see ``network_input``, embedded."""
    seen, known = network_input(model, xyz, features)
    in_parts = model.supports_chunks and seen.shape[1] > CHUNK
    return _View(seen, known, model.embed(seen, known, chunk=CHUNK if in_parts else None))


def _mean(embedding: Embedding) -> Tensor:
    """(B, C) mean of the points' features on the CPU; the maximum separates less."""
    return embedding.pooled.chunk(2, dim=-1)[1].float().cpu()


def _carried(values: Tensor, seen: Tensor, xyz: Tensor) -> Iterator[Tensor]:
    """Values (S, C) of the points ``seen`` (1, S, 3), at all of ``xyz``: (n, C) after (n, C)."""
    if seen is xyz:
        yield values
        return
    for part in xyz.split(CHUNK, dim=1):
        yield interpolate_features(part, seen, values[None], min(3, seen.shape[1]))[0]
