"""What a cloud looks like before it is drawn: which colour each point has and what colours mean."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from ea_pointcloud._checks import check_choice
from ea_pointcloud.augment.transforms import AXES, to_y_up
from ea_pointcloud.io import Cloud, read_cloud
from ea_pointcloud.viz._open3d import import_open3d
from ea_pointcloud.viz.colors import (
    RIGHT,
    UNKNOWN,
    WRONG,
    error_colors,
    part_colors,
    scalar_colors,
    scalar_limits,
)

COLORINGS = ("auto", "labels", "error", "confidence", "height", "normals", "colors")
_NORMAL_NEIGHBORS = 16


@runtime_checkable
class Labelled(Protocol):
    """What :class:`ea_pointcloud.inference.Segmentation` has, for instance."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """(N,) places in ``names``."""
        ...

    @property
    def confidence(self) -> NDArray[np.float32]:
        """(N,) probability of the labels."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """What the labels mean."""
        ...


CloudLike = str | Path | Cloud | NDArray[np.floating]
Labels = NDArray[np.integer] | Labelled


@dataclass(frozen=True)
class Entry:
    """A line of a legend: a meaning and its colour in 0..255."""

    text: str
    color: tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Scale:
    """What a colour bar shows: (N,) ``values`` from ``low``, the darkest colour, to ``high``."""

    title: str
    values: NDArray[np.float64]
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Painted:
    """A cloud and how it is to look.

    Args:
        cloud: what is drawn.
        up: the axis of the cloud that is up.
        colors: (N, 3) red, green, blue in 0..1.
        legend: the meaning of the colours; empty where a bar, or nothing, explains them.
        group: (N,) the entry of each point in ``legend``; None where that is empty.
        scale: the colour bar, where a scalar is shown.
        label_texts: (N,) names of the labels, where there are labels.
        confidence: (N,) of the labels, where it is known.
    """

    cloud: Cloud
    up: str
    colors: NDArray[np.floating]
    legend: tuple[Entry, ...]
    group: NDArray[np.int64] | None
    scale: Scale | None
    label_texts: NDArray[np.str_] | None
    confidence: NDArray[np.floating] | None

    def unit_sphere(self) -> NDArray[np.float64]:
        """(N, 3) points turned to y up, their middle at the origin, the farthest at distance 1."""
        xyz = y_up(self.cloud.xyz, self.up)
        xyz = xyz - (xyz.min(0) + xyz.max(0)) / 2
        return xyz / (np.linalg.norm(xyz, axis=1).max() or 1.0)


def paint(
    cloud: CloudLike,
    *,
    labels: Labels | None,
    truth: NDArray[np.integer] | None,
    color_by: str | ArrayLike,
    names: Sequence[str] | None,
    up: str,
    limits: tuple[float, float] | None,
) -> Painted:
    """Colour a cloud; the arguments are those of :func:`ea_pointcloud.viz.render`."""
    check_choice("up", up, AXES)
    cloud = _as_cloud(cloud)
    count = len(cloud)
    confidence = cloud.confidence
    if labels is None:
        labels = cloud.labels
    elif isinstance(labels, Labelled):
        confidence, names = labels.confidence, names or labels.names
        labels = labels.labels
    if labels is not None:
        labels = _whole("labels", labels, count)
    if truth is not None:
        truth = _whole("truth", truth, count)
    given = None if isinstance(color_by, str) else np.asarray(color_by)
    if given is None:
        check_choice("color_by", color_by, COLORINGS)
    if isinstance(color_by, str) and color_by == "auto":
        color_by = _best(labels, truth, cloud.colors)

    texts = None if labels is None else label_texts(labels, names)
    colors, legend, group, scale = None, (), None, None
    if given is not None and given.shape == (count, 3):
        colors = given / 255 if given.dtype == np.uint8 else given.astype(np.float64)
        if not (np.isfinite(colors).all() and colors.min() >= 0 and colors.max() <= 1):
            raise ValueError("color_by of shape (N, 3) must hold colours in 0..1, or uint8")
    elif given is not None:
        if given.shape != (count,) or given.dtype.kind not in "biuf":
            raise ValueError(
                f"color_by must be a word or numbers of shape ({count},) or ({count}, 3), got "
                f"{given.dtype} of shape {given.shape}"
            )
        scale = _scale("value", given, limits)
    elif color_by == "labels":
        labels = _needed(labels, "labels", "give labels=, or a file that has them")
        assert texts is not None
        colors = part_colors(labels)
        legend, group = _part_legend(labels, texts)
    elif color_by == "error":
        labels = _needed(labels, "labels", "give labels=, or a file that has them")
        truth = _needed(truth, "truth", "give truth=, the true labels")
        colors = error_colors(labels, truth)
        legend, group = _error_legend(labels, truth)
    elif color_by == "confidence":
        confidence = _needed(confidence, "confidence", "give labels=, what segment returned")
        scale = _scale("confidence", confidence, limits or (0.0, 1.0))
    elif color_by == "normals":
        colors = (_normals(cloud, up) + 1) / 2
    elif color_by == "colors":
        colors = _needed(cloud.colors, "colors", "give color_by='height', or (N, 3) colours")
    else:
        axis = AXES.index(up)
        height = cloud.xyz[:, axis] + cloud.center[axis]
        scale = _scale("height", height, limits)
    if scale is not None:
        colors = scalar_colors(scale.values, (scale.low, scale.high))
    assert colors is not None
    return Painted(cloud, up, colors, legend, group, scale, texts, confidence)


def y_up(vectors: NDArray[np.floating], up: str) -> NDArray[np.float64]:
    """(N, 3) vectors turned so that ``up`` becomes y."""
    return to_y_up(torch.from_numpy(vectors.astype(np.float64)), up).numpy()


def label_texts(labels: NDArray[np.integer], names: Sequence[str] | None) -> NDArray[np.str_]:
    """(N,) the names of labels, without the category where they all share it."""
    present, place = np.unique(labels, return_inverse=True)
    if names is not None and len(present) and present[-1] >= len(names):
        raise ValueError(
            f"names must have an entry for each label, got {len(names)} and a label {present[-1]}"
        )
    texts = [
        "no label" if label < 0 else f"label {label}" if names is None else str(names[label])
        for label in present.tolist()
    ]
    # "Airplane/wing" and "Airplane/tail" are told apart by what follows the category.
    categories = {text.partition("/")[0] for text in texts if text != "no label"}
    if len(categories) == 1:
        texts = [text.partition("/")[2] or text for text in texts]
    return np.array(texts, dtype=np.str_)[place]


def _as_cloud(cloud: CloudLike) -> Cloud:
    if isinstance(cloud, Cloud):
        return cloud
    if isinstance(cloud, (str, Path)):
        return read_cloud(cloud)
    xyz = np.asarray(cloud)
    if xyz.ndim != 2 or xyz.shape[1] != 3 or len(xyz) == 0:
        raise ValueError(f"a cloud must have shape (N, 3) with N >= 1, got {xyz.shape}")
    xyz = xyz.astype(np.float64)
    if not np.isfinite(xyz).all():
        raise ValueError("a cloud must have finite coordinates; drop rows with NaN or inf first")
    center = (xyz.min(0) + xyz.max(0)) / 2
    return Cloud(xyz=(xyz - center).astype(np.float32), center=center)


def _whole(name: str, values: ArrayLike, count: int) -> NDArray[np.integer]:
    array = np.asarray(values)
    if array.shape != (count,) or array.dtype.kind not in "iu":
        raise ValueError(
            f"{name} must be integers of shape ({count},), one a point, got {array.dtype} of "
            f"shape {array.shape}"
        )
    return array


def _best(*known: NDArray | None) -> str:
    labels, truth, colors = (array is not None for array in known)
    if labels:
        return "error" if truth else "labels"
    return "colors" if colors else "height"


def _needed(values: NDArray | None, name: str, remedy: str) -> NDArray:
    if values is None:
        raise ValueError(f"this cloud has no {name} to be coloured by; {remedy}")
    return values


def _scale(title: str, values: NDArray[np.generic], limits: tuple[float, float] | None) -> Scale:
    values = values.astype(np.float64)
    low, high = limits or scalar_limits(values)
    if not low <= high:
        raise ValueError(f"limits must be (low, high) with low <= high, got ({low}, {high})")
    return Scale(title, values, low, high)


def _part_legend(
    labels: NDArray[np.integer], texts: NDArray[np.str_]
) -> tuple[tuple[Entry, ...], NDArray[np.int64]]:
    present, first, group, counts = np.unique(
        labels, return_index=True, return_inverse=True, return_counts=True
    )
    colors = np.rint(part_colors(present) * 255).astype(int)
    entries = tuple(
        Entry(f"{texts[at]}  {_percent(count, len(labels))}", (color[0], color[1], color[2]))
        for at, count, color in zip(first, counts, colors.tolist(), strict=True)
    )
    return entries, group


def _error_legend(
    labels: NDArray[np.integer], truth: NDArray[np.integer]
) -> tuple[tuple[Entry, ...], NDArray[np.int64]]:
    kind = np.where(truth < 0, 2, np.where(labels == truth, 0, 1))
    meanings = (("right", RIGHT), ("wrong", WRONG), ("no truth", UNKNOWN))
    present, group, counts = np.unique(kind, return_inverse=True, return_counts=True)
    entries = tuple(
        Entry(f"{meanings[which][0]}  {_percent(count, len(kind))}", meanings[which][1])
        for which, count in zip(present, counts, strict=True)
    )
    return entries, group


def _percent(count: int, total: int) -> str:
    """Such that only all is 100% and only nothing is 0%."""
    share = 100 * count / total
    if 0 < share < 1:
        return "<1%"
    return f"{min(round(share), 99 if count < total else 100)}%"


def _normals(cloud: Cloud, up: str) -> NDArray[np.float64]:
    """(N, 3) with y up; without normals those of the planes through each point's neighbours."""
    if cloud.normals is not None:
        return y_up(cloud.normals, up)
    open3d = import_open3d("finding the normals that this cloud lacks")
    xyz = cloud.xyz.astype(np.float64)
    estimate = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(xyz))
    estimate.estimate_normals(open3d.geometry.KDTreeSearchParamKNN(knn=_NORMAL_NEIGHBORS))
    normals = np.asarray(estimate.normals)
    # Planes have two sides; away from the middle is outside for most objects.
    outward = ((xyz - xyz.mean(0)) * normals).sum(1, keepdims=True)
    return y_up(np.where(outward < 0, -normals, normals), up)
