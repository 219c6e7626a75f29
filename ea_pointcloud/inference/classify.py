"""Classification of preprocessed clouds: pose, probabilities, out-of-distribution score."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ea_pointcloud.descriptors.channels import rotate_points
from ea_pointcloud.inference.preprocess import AUTO, ModelInput, preference, turns_about_y
from ea_pointcloud.models import Classifier, MahalanobisDetector
from ea_pointcloud.ops.frames import AXES, to_y_up

_FACINGS = 4  # turns about each axis that "auto" tries
OOD_WARNING = "out of distribution: the prediction is unreliable"
_TOGETHER = 32  # clouds whose poses are in memory at a time
_BATCH_SIZE = 32
# Clouds farther from training than this fraction of val are tried with the other axes up, too,
# which must be nearer by _AXIS_MARGIN. Of 200 test clouds of ModelNet10, 21 % are tried and one
# gets a wrong hint; with z given for y, 79 % are tried and 70 % get the right one.
_TRY_AXES_BEYOND = 0.8
_AXIS_MARGIN = 0.1


@dataclass(frozen=True)
class Candidate:
    """One possible class and its probability."""

    label: str
    prob: float


@dataclass(frozen=True)
class Classification:
    """The class of a cloud.

    Args:
        label: the most probable class.
        prob: its probability.
        top: the candidates, most probable first.
        up: the axis that is up.
        up_margin: by how much ``up="auto"`` preferred it, see
            :func:`~ea_pointcloud.inference.preprocess.preference`; None where the axis was given.
        ood_score: the fraction of the validation clouds that are nearer to the training clouds;
            None where the weights have no calibration.
        warning: for the user, where the cloud is out of distribution or another axis fits better.
    """

    label: str
    prob: float
    top: tuple[Candidate, ...]
    up: str
    up_margin: float | None
    ood_score: float | None
    warning: str | None


class _Pose(NamedTuple):
    """A cloud (n, 3 + F) turned so that y is up, and how that was decided."""

    points: Tensor
    up: str
    margin: float | None


def classify_inputs(
    model: Classifier, inputs: Sequence[ModelInput], *, topk: int, tta_rotations: int
) -> list[Classification]:
    """Classify preprocessed clouds.

    Where a cloud's axis is ``"auto"``, it is brought into the pose that is nearest to training:
    each of x, y and z up, facing four ways, as training is not invariant to the facing. Without a
    calibration that is the pose of the highest probability, which is correct for fewer.

    Args:
        model: in evaluation mode.
        inputs: from :func:`~ea_pointcloud.inference.preprocess.preprocess`.
        topk: candidates kept, >= 1.
        tta_rotations: rotations about the up axis whose probabilities are averaged, >= 1.
    """
    results = []
    for start in range(0, len(inputs), _TOGETHER):
        poses = _poses(model, inputs[start : start + _TOGETHER])
        turned = [
            turned_points(model, pose.points, turn)
            for pose in poses
            for turn in turns_about_y(tta_rotations)
        ]
        features, logits = embed_clouds(model, turned)
        probs = class_probs(model, logits).view(len(poses), tta_rotations, -1).mean(1)
        anomaly = _anomaly(model, features, logits).view(len(poses), tta_rotations).amin(1).tolist()
        hints = _axis_hints(model, inputs[start : start + _TOGETHER], poses, anomaly)
        columns = zip(poses, probs, anomaly, hints, strict=True)
        results += [_result(model, *each, topk) for each in columns]
    return results


def _axis_hints(
    model: Classifier, inputs: Sequence[ModelInput], poses: Sequence[_Pose], anomaly: list[float]
) -> list[str | None]:
    """For each cloud the axis that fits better than the given one, in words, if there is one."""
    hints: list[str | None] = [None] * len(poses)
    detector = None if model.calibration is None else model.calibration.detector
    if detector is None:
        return hints
    scores = [detector.ood_score(distance) for distance in anomaly]
    far = [
        index
        for index, pose in enumerate(poses)
        if pose.margin is None and scores[index] > _TRY_AXES_BEYOND
    ]
    if not far:
        return hints
    others = [[axis for axis in AXES if axis != poses[index].up] for index in far]
    tried = [
        _stood_up(model, inputs[index].points, axis)
        for index, axes in zip(far, others, strict=True)
        for axis in axes
    ]
    features, logits = embed_clouds(model, tried)
    distances = detector.distance(features).view(len(far), -1)
    probs = class_probs(model, logits).view(len(far), distances.shape[1], -1)
    for row, index in enumerate(far):
        best = int(distances[row].argmin())
        if fits_better(detector, float(distances[row, best]), anomaly[index]):
            prob, label = probs[row, best].max(-1)
            found = f"{model.data_spec.class_names[int(label)]} {float(prob):.0%}"
            hints[index] = up_hint(others[row][best], found)
    return hints


def fits_better(detector: MahalanobisDetector, other: float, given: float) -> bool:
    """Whether the distance under another axis is clearly below that under the given one."""
    return not detector.is_ood(other) and other < (1 - _AXIS_MARGIN) * given


def up_hint(axis: str, found: str) -> str:
    """The advice to try another axis, under which ``found``, if anything, is predicted."""
    return f"{axis} up fits better{f' ({found})' if found else ''}: try --up {axis}"


def pose_clouds(model: Classifier, inputs: Sequence[ModelInput]) -> list[Tensor]:
    """Preprocessed clouds (n, 3 + F), y up; an open axis is found as by :func:`classify_inputs`."""
    return [pose.points for pose in _poses(model, inputs)]


def _poses(model: Classifier, inputs: Sequence[ModelInput]) -> list[_Pose]:
    turns = turns_about_y(_FACINGS)
    tried = [
        turned_points(model, _stood_up(model, each.points, axis), turn)
        for each in inputs
        if each.up == AUTO
        for axis in AXES
        for turn in turns
    ]
    scores = iter(())
    if tried:
        scores = iter(_anomaly(model, *embed_clouds(model, tried)).view(-1, len(AXES), _FACINGS))
    poses = []
    for each in inputs:
        if each.up != AUTO:
            poses.append(_Pose(_stood_up(model, each.points, each.up), each.up, None))
            continue
        anomaly = next(scores)
        best, margin = preference(anomaly.amin(1))
        standing = _stood_up(model, each.points, AXES[best])
        posed = turned_points(model, standing, turns[anomaly[best].argmin()])
        poses.append(_Pose(posed, AXES[best], margin))
    return poses


def _stood_up(model: Classifier, points: Tensor, up: str) -> Tensor:
    """Points (n, 3 + F) with y up."""
    return rotate_points(points, model.data_spec.features, lambda xyz: to_y_up(xyz, up))


def turned_points(model: Classifier, points: Tensor, turn: Tensor) -> Tensor:
    """Points (n, 3 + F) after a rotation (3, 3) of rows."""
    return rotate_points(points, model.data_spec.features, lambda xyz: xyz @ turn)


def _anomaly(model: Classifier, features: Tensor, logits: Tensor) -> Tensor:
    """(B,) the distance of poses to the training clouds; without a detector 1 - probability."""
    if model.calibration is None or model.calibration.detector is None:
        return 1 - class_probs(model, logits).amax(-1)
    return model.calibration.detector.distance(features)


def _result(
    model: Classifier, pose: _Pose, probs: Tensor, anomaly: float, hint: str | None, topk: int
) -> Classification:
    names = model.data_spec.class_names
    values, idx = probs.topk(min(topk, len(names)))
    pairs = zip(idx.tolist(), values.tolist(), strict=True)
    candidates = tuple(Candidate(names[place], value) for place, value in pairs)
    if not math.isfinite(candidates[0].prob + anomaly):
        raise ValueError(
            "the output of the network is not finite; the weights are damaged or were never trained"
        )
    known = None if model.calibration is None else model.calibration.detector
    ood_score, warnings = None, [hint]
    if known is not None:
        ood_score = known.ood_score(anomaly)
        warnings.insert(0, OOD_WARNING if known.is_ood(anomaly) else None)
    return Classification(
        label=candidates[0].label,
        prob=candidates[0].prob,
        top=candidates,
        up=pose.up,
        up_margin=pose.margin,
        ood_score=ood_score,
        warning="; ".join(filter(None, warnings)) or None,
    )


@torch.inference_mode()
def embed_clouds(model: Classifier, clouds: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Features and logits of clouds of any sizes, independent of what is in the same batch.

    Args:
        model: in evaluation mode.
        clouds: each (n, 3 + F) float32, coordinates posed as the model expects and features; on
            any device.

    Returns:
        features: (B, C) float32 on the CPU, the input of the last layer.
        logits: (B, classes) float32 on the CPU, at temperature 1.
    """
    last, embedded, logits = model.head[-1], [], []
    device = next(model.parameters()).device
    for start in range(0, len(clouds), _BATCH_SIZE):
        batch = clouds[start : start + _BATCH_SIZE]
        lengths = torch.tensor([len(cloud) for cloud in batch])
        points = pad_sequence(list(batch), batch_first=True).to(device)
        mask = torch.arange(points.shape[1]) < lengths[:, None]
        given = points[..., 3:] if points.shape[-1] > 3 else None
        features = model.embed(
            points[..., :3], given, mask=None if bool(mask.all()) else mask.to(device)
        )
        embedded.append(features.float().cpu())
        logits.append(last(features).float().cpu())
    return torch.cat(embedded), torch.cat(logits)


def class_probs(model: Classifier, logits: Tensor) -> Tensor:
    """(B, classes) probabilities of logits, at the temperature of the weights if they have one."""
    temperature = 1.0 if model.calibration is None else model.calibration.temperature
    return (logits / temperature).softmax(-1)


@torch.inference_mode()
def turned_probs(
    model: Classifier, xyz: Tensor, mask: Tensor | None = None, *, tta_rotations: int = 1
) -> Tensor:
    """(B, classes) probabilities, averaged over rotations about y.

    Args:
        model: in evaluation mode.
        xyz: (B, N, 3), posed as the model expects, on its device; every point is seen.
        mask: (B, N) bool, True = real point.
        tta_rotations: their number, >= 1.
    """
    turns = turns_about_y(tta_rotations, xyz.device).to(xyz.dtype)
    each = [class_probs(model, model(xyz @ turn, mask=mask).float()) for turn in turns]
    return torch.stack(each).mean(0)
