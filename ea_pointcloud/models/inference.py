"""How a trained network is asked about a posed cloud of any size: tensors in, tensors out."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ea_pointcloud.descriptors import DESCRIPTORS
from ea_pointcloud.models.base import Classifier
from ea_pointcloud.models.base_segmenter import Segmenter
from ea_pointcloud.models.part_labels import refine
from ea_pointcloud.ops import (
    farthest_point_sample,
    gather_points,
    interpolate_features,
    outermost_point,
)

# Points that wide layers, or the way back to all points, handle at a time. Smaller parts fit the
# caches of a CPU better (100,000 points in the base network: 7.0 s of CPU time, by 16,384 8.0 s),
# but even smaller ones wait for one another where threads share cores with other programs.
CHUNK = 8_192
_BATCH_SIZE = 32


class PointLabels(NamedTuple):
    """The parts of the points of one cloud."""

    labels: Tensor  # (N,) int64, part ids
    confidence: Tensor  # (N,) float32, probability among the parts of the category
    category: int | None  # None where the network knows none


def farthest_points(xyz: Tensor, num_points: int) -> Tensor:
    """Choose the points that a network sees of a cloud with more than it was trained on.

    Whatever the points of training were: farthest points cover any cloud evenly, need no seed, and
    do not depend on the order in the file. On ModelNet10's val split they are as good as points
    drawn at random (0.972 against 0.969, trained on random points).

    Args:
        xyz: (B, N, 3).
        num_points: of the training clouds.

    Returns:
        (B, min(N, num_points)) int64.
    """
    return farthest_point_sample(xyz, min(num_points, xyz.shape[1]), start=outermost_point(xyz))


def network_input(
    model: Classifier | Segmenter, xyz: Tensor, features: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """What a network is given of a posed cloud: which points, and what follows from them.

    Args:
        model: its ``data_spec`` says how many points it was trained on, and with what features.
        xyz: (1, N, 3) float32, posed as the model expects.
        features: (1, N, F) that do not follow from the coordinates.

    Returns:
        seen: (1, n, 3) the farthest points, as many as in training, or ``xyz`` itself where the
            cloud has no more or the network knows no neighbourhoods.
        features: (1, n, F) of those, or None.
    """
    spec, seen = model.data_spec, xyz
    dense = isinstance(model, Classifier) or model.has_neighborhoods
    if dense and xyz.shape[1] > spec.num_points:
        # Of more points than in training, neighbourhoods would be of another scale.
        idx = farthest_points(xyz, spec.num_points)
        seen = gather_points(xyz, idx)
        features = None if features is None else gather_points(features, idx)
    if spec.features in DESCRIPTORS:
        describe, _ = DESCRIPTORS[spec.features]
        # Neighbours are the first in index order: shuffled, a scan's own order does not matter.
        shuffle = torch.randperm(seen.shape[1], generator=torch.Generator().manual_seed(0))
        shuffle = shuffle.to(xyz.device)
        features = describe(seen[:, shuffle])[:, shuffle.argsort()]
    return seen, features


def turns_about_y(count: int, device: torch.device | str = "cpu") -> Tensor:
    """(count, 3, 3) evenly spread turns about y for rows of points; the first changes nothing."""
    angle = torch.arange(count) * (2 * math.pi / count)
    cos, sin, zero, one = angle.cos(), angle.sin(), torch.zeros(count), torch.ones(count)
    rows = [cos, zero, -sin, zero, one, zero, sin, zero, cos]
    return torch.stack(rows, dim=1).view(count, 3, 3).to(device)


@torch.inference_mode()
def embed_clouds(model: Classifier, clouds: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Ask a classifier about clouds of different sizes; what is in the same batch does not matter.

    Args:
        model: in evaluation mode.
        clouds: each (n, 3) float32, posed as the model expects; on any device.

    Returns:
        features: (B, C) float32 on the CPU, what the last layer is given.
        logits: (B, classes) float32 on the CPU, at temperature 1.
    """
    last, embedded, logits = model.head[-1], [], []
    device = next(model.parameters()).device
    for start in range(0, len(clouds), _BATCH_SIZE):
        batch = clouds[start : start + _BATCH_SIZE]
        lengths = torch.tensor([len(cloud) for cloud in batch])
        xyz = pad_sequence(list(batch), batch_first=True).to(device)
        mask = torch.arange(xyz.shape[1]) < lengths[:, None]
        features = model.embed(xyz, mask=None if bool(mask.all()) else mask.to(device))
        embedded.append(features.float().cpu())
        logits.append(last(features).float().cpu())
    return torch.cat(embedded), torch.cat(logits)


def class_probs(model: Classifier, logits: Tensor) -> Tensor:
    """(B, classes) probabilities of logits, at the temperature of the weights if they have one."""
    temperature = 1.0 if model.calibration is None else model.calibration.temperature
    return (logits / temperature).softmax(-1)


@torch.inference_mode()
def turned_probs(
    model: Classifier, xyz: Tensor, mask: Tensor | None = None, *, rotations: int = 1
) -> Tensor:
    """(B, classes) probabilities, averaged over turns about y.

    Args:
        model: in evaluation mode.
        xyz: (B, N, 3), posed as the model expects, on its device; every point is seen.
        mask: (B, N) bool, True = real point.
        rotations: how many turns, >= 1.
    """
    turns = turns_about_y(rotations, xyz.device).to(xyz.dtype)
    each = [class_probs(model, model(xyz @ turn, mask=mask).float()) for turn in turns]
    return torch.stack(each).mean(0)


@torch.inference_mode()
def label_points(
    model: Segmenter,
    xyz: Tensor,
    features: Tensor | None = None,
    category: int | None = None,
    *,
    rotations: int = 1,
) -> PointLabels:
    """Label every point of one cloud.

    A network without neighbourhoods sees them all. Others see the farthest ones, as many as in
    training, and their probabilities are carried to all points. Where the weights know how small
    the parts of training were, the probabilities are refined first, see
    :func:`~ea_pointcloud.models.part_labels.refine`.

    Args:
        model: in evaluation mode; its ``data_spec`` names categories and parts.
        xyz: (1, N, 3) float32, posed as the model expects, on the model's device.
        features: (1, N, F); what follows from the coordinates is found here.
        category: of the cloud. Without it, and of a network that knows categories, the one whose
            parts are the most probable, summed over all points; the labels are the best among its
            parts.
        rotations: turns about y whose probabilities are averaged.

    Returns:
        For every point, ties to the lowest part.

    Raises:
        ValueError: see :meth:`Segmenter.forward`.
    """
    spec = model.data_spec
    seen, known = network_input(model, xyz, features)
    logits = _point_logits(model, seen, known, category)
    if rotations > 1:  # of the points chosen once; normals turn with them
        logits = logits.log_softmax(-1)
        for turn in turns_about_y(rotations, xyz.device)[1:]:
            turned = None if features is None or known is None else known @ turn
            other = _point_logits(model, *network_input(model, seen @ turn, turned), category)
            logits = logits.logaddexp(other.log_softmax(-1))

    if category is None and spec.parts:
        total = torch.zeros(len(spec.class_names), dtype=torch.float64, device=xyz.device)
        for probs in _carried(logits.softmax(-1), seen, xyz):
            total += probs.sum(0, dtype=torch.float64)
        category = int(torch.stack([total[list(ids)].sum() for ids in spec.parts]).argmax())
    own = range(len(spec.class_names)) if category is None else spec.parts[category]
    ids = torch.tensor(own, device=xyz.device)
    probs = logits[:, ids].softmax(-1)
    if spec.least_share:
        least = torch.tensor(spec.least_share, device=xyz.device)[ids]
        probs = refine(probs[None], seen, least)[0]
    best = [probs.max(-1) for probs in _carried(probs, seen, xyz)]
    labels = ids[torch.cat([place for _, place in best])]
    return PointLabels(labels, torch.cat([value for value, _ in best]), category)


@torch.inference_mode()
def point_probs(
    model: Segmenter, xyz: Tensor, features: Tensor | None = None, category: int | None = None
) -> Tensor:
    """(n, P) probabilities of the points that a network sees of one cloud, see label_points."""
    return _point_logits(model, *network_input(model, xyz, features), category).softmax(-1)


@torch.inference_mode()
def most_probable_category(model: Segmenter, xyz: Tensor, features: Tensor | None = None) -> int:
    """The category of a cloud, of a network that is told one: it is told each in turn.

    Told the wrong category, a network gives some points parts of the right one all the same. So the
    category is taken whose own parts are the most probable: of the 38 val shapes of the labelled
    Princeton benchmark, in 19 categories, 32 are named right. The certainty of the points finds 19.

    Args:
        model: in evaluation mode.
        xyz: (1, N, 3), see :func:`label_points`.
        features: (1, N, F).
    """
    seen, known = network_input(model, xyz, features)
    own = []
    for place, ids in enumerate(model.data_spec.parts):
        probs = _point_logits(model, seen, known, place).softmax(-1)
        own.append(probs[:, list(ids)].sum(-1).mean())
    return int(torch.stack(own).argmax())


def _point_logits(
    model: Segmenter, xyz: Tensor, features: Tensor | None, category: int | None
) -> Tensor:
    """(N, P) calibrated logits of the points of one cloud."""
    told = None
    if model.config.num_categories and category is not None:
        told = torch.tensor([category], device=xyz.device)
    in_parts = model.streams and xyz.shape[1] > CHUNK
    logits = model(xyz, features, category=told, chunk=CHUNK if in_parts else None)[0].float()
    return logits / (1.0 if model.calibration is None else model.calibration.temperature)


def _carried(values: Tensor, seen: Tensor, xyz: Tensor) -> Iterator[Tensor]:
    """Values (S, C) of the points ``seen`` (1, S, 3), at all of ``xyz``: (n, C) after (n, C)."""
    if seen is xyz:
        yield values
        return
    for part in xyz.split(CHUNK, dim=1):
        yield interpolate_features(part, seen, values[None], min(3, seen.shape[1]))[0]
