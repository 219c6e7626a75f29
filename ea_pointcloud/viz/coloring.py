"""The colours of a cloud's points and their meaning: by label, error, confidence, height, ..."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from ea_pointcloud.io import Cloud, read_cloud
from ea_pointcloud.ops.frames import AXES, to_y_up
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
from ea_pointcloud.viz.style import Labelled, Style

CloudLike = str | Path | Cloud | NDArray[np.floating]
_NORMAL_NEIGHBORS = 16


@dataclass(frozen=True)
class LegendEntry:
    """A line of a legend: a meaning and its colour in 0..255."""

    text: str
    color: tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class ColorBar:
    """(N,) ``values`` from ``low``, the darkest colour, to ``high``, the brightest."""

    title: str
    values: NDArray[np.float64]
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class ColoredCloud:
    """A cloud with the colours of its points and their meaning.

    Args:
        cloud: the points.
        up: the axis of the cloud that is up.
        colors: (N, 3) red, green, blue in 0..1.
        legend: the meaning of the colours; empty where a bar, or nothing, explains them.
        group: (N,) index of each point's entry in ``legend``; None where that is empty.
        bar: the colour bar, where the points are coloured by a scalar.
        label_texts: (N,) names of the labels, where there are labels.
        confidence: (N,) of the labels, where it is known.
    """

    cloud: Cloud
    up: str
    colors: NDArray[np.floating]
    legend: tuple[LegendEntry, ...]
    group: NDArray[np.int64] | None
    bar: ColorBar | None
    label_texts: NDArray[np.str_] | None
    confidence: NDArray[np.floating] | None

    def unit_sphere(self) -> NDArray[np.float64]:
        """(N, 3) points turned to y up, their middle at the origin, the farthest at distance 1."""
        xyz = y_up(self.cloud.xyz, self.up)
        xyz = xyz - (xyz.min(0) + xyz.max(0)) / 2
        return xyz / (np.linalg.norm(xyz, axis=1).max() or 1.0)


def color_cloud(cloud: CloudLike, style: Style) -> ColoredCloud:
    """Read a cloud where it is a file, and colour its points.

    Raises:
        OSError: if a file cannot be read.
        ValueError: if a shape is wrong, or the cloud lacks what ``style`` colours by.
    """
    cloud = _as_cloud(cloud)
    count = len(cloud)
    confidence, names = cloud.confidence, style.names
    labels = cloud.labels if style.labels is None else style.labels
    if isinstance(labels, Labelled):
        confidence, names = labels.confidence, names or labels.names
        labels = labels.labels
    if labels is not None:
        labels = _integers("labels", labels, count)
    truth = None if style.truth is None else _integers("truth", style.truth, count)
    if names is None and style.labels is None:
        names = cloud.label_names or None
    texts = None if labels is None else label_texts(labels, names)

    color_by = style.color_by
    if isinstance(color_by, str) and color_by == "auto":
        color_by = _first_available(labels, truth, cloud.colors)
    legend, group, bar = (), None, None
    if not isinstance(color_by, str):
        found = _given_colors(np.asarray(color_by), count, style)
    elif color_by == "labels":
        labels = _required(labels, "labels", "give labels=, or a file that has them")
        assert texts is not None
        found, legend, group = _by_label(labels, texts)
    elif color_by == "error":
        labels = _required(labels, "labels", "give labels=, or a file that has them")
        found, legend, group = _by_error(
            labels, _required(truth, "truth", "give truth=, the true labels")
        )
    elif color_by == "confidence":
        values = _required(confidence, "confidence", "give labels=, the result of segment")
        found = _color_bar("confidence", values, style.limits or (0.0, 1.0))
    elif color_by == "normals":
        found = (find_normals(cloud, style.up) + 1) / 2
    elif color_by == "colors":
        found = _required(cloud.colors, "colors", "give color_by='height', or (N, 3) colours")
    else:
        axis = AXES.index(style.up)
        found = _color_bar("height", cloud.xyz[:, axis] + cloud.center[axis], style.limits)
    if isinstance(found, ColorBar):
        bar, found = found, scalar_colors(found.values, (found.low, found.high))
    return ColoredCloud(cloud, style.up, found, legend, group, bar, texts, confidence)


def label_texts(
    labels: NDArray[np.integer], names: Sequence[str] | Mapping[int, str] | None
) -> NDArray[np.str_]:
    """(N,) the names of labels, without the category where they all share it."""
    present, index = np.unique(labels, return_inverse=True)
    known = names if isinstance(names, Mapping) else dict(enumerate(names or ()))
    if names is not known and names is not None and len(present) and present[-1] >= len(names):
        raise ValueError(
            f"names must have an entry for each label, got {len(names)} and a label {present[-1]}"
        )
    texts = [
        "no label" if label < 0 else str(known.get(label, f"label {label}"))
        for label in present.tolist()
    ]
    # "Airplane/wing" and "Airplane/tail" differ in what follows the category.
    categories = {text.partition("/")[0] for text in texts if text != "no label"}
    if len(categories) == 1:
        texts = [text.partition("/")[2] or text for text in texts]
    return np.array(texts, dtype=np.str_)[index]


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


def _integers(name: str, values: ArrayLike, count: int) -> NDArray[np.integer]:
    array = np.asarray(values)
    if array.shape != (count,) or array.dtype.kind not in "iu":
        raise ValueError(
            f"{name} must be integers of shape ({count},), one a point, got {array.dtype} of "
            f"shape {array.shape}"
        )
    return array


def _first_available(*arrays: NDArray | None) -> str:
    labels, truth, colors = (array is not None for array in arrays)
    if labels:
        return "error" if truth else "labels"
    return "colors" if colors else "height"


def _required(values: NDArray | None, name: str, remedy: str) -> NDArray:
    if values is None:
        raise ValueError(f"this cloud has no {name} to be coloured by; {remedy}")
    return values


def _given_colors(values: NDArray, count: int, style: Style) -> ColorBar | NDArray[np.float64]:
    """Colours (N, 3) as they are, numbers (N,) by a colour bar."""
    if values.shape == (count, 3):
        colors = values / 255 if values.dtype == np.uint8 else values.astype(np.float64)
        if not (np.isfinite(colors).all() and colors.min() >= 0 and colors.max() <= 1):
            raise ValueError("color_by of shape (N, 3) must hold colours in 0..1, or uint8")
        return colors
    if values.shape != (count,) or values.dtype.kind not in "biuf":
        raise ValueError(
            f"color_by must be a word or numbers of shape ({count},) or ({count}, 3), got "
            f"{values.dtype} of shape {values.shape}"
        )
    return _color_bar(style.quantity, values, style.limits)


def _color_bar(
    title: str, values: NDArray[np.generic], limits: tuple[float, float] | None
) -> ColorBar:
    values = values.astype(np.float64)
    low, high = limits or scalar_limits(values)
    if not low <= high:
        raise ValueError(f"limits must be (low, high) with low <= high, got ({low}, {high})")
    return ColorBar(title, values, low, high)


def _by_label(
    labels: NDArray[np.integer], texts: NDArray[np.str_]
) -> tuple[NDArray[np.floating], tuple[LegendEntry, ...], NDArray[np.int64]]:
    """Colours, legend, and the entry of each point."""
    _, first, group = np.unique(labels, return_index=True, return_inverse=True)
    colors = part_colors(labels)
    swatches = np.rint(colors[first] * 255).astype(int).tolist()
    meanings = list(zip(texts[first].tolist(), swatches, strict=True))
    return colors, _legend(meanings, group), group


def _by_error(
    labels: NDArray[np.integer], truth: NDArray[np.integer]
) -> tuple[NDArray[np.floating], tuple[LegendEntry, ...], NDArray[np.int64]]:
    """Colours, legend, and the entry of each point."""
    kinds = (("right", RIGHT), ("wrong", WRONG), ("no truth", UNKNOWN))
    kind = np.where(truth < 0, 2, np.where(labels == truth, 0, 1))
    present, group = np.unique(kind, return_inverse=True)
    legend = _legend([kinds[index] for index in present], group)
    return error_colors(labels, truth), legend, group


def _legend(
    meanings: Sequence[tuple[str, Sequence[int]]], group: NDArray[np.int64]
) -> tuple[LegendEntry, ...]:
    """Entries with the percentage of the points in each group."""
    counts = np.bincount(group, minlength=len(meanings)).tolist()
    return tuple(
        LegendEntry(f"{text}  {_percent(count, len(group))}", (color[0], color[1], color[2]))
        for (text, color), count in zip(meanings, counts, strict=True)
    )


def _percent(count: int, total: int) -> str:
    """Such that only all is 100% and only nothing is 0%."""
    percent = 100 * count / total
    if 0 < percent < 1:
        return "<1%"
    return f"{min(round(percent), 99 if count < total else 100)}%"


def y_up(vectors: NDArray[np.floating], up: str) -> NDArray[np.float64]:
    """(N, 3) vectors turned so that ``up`` becomes y."""
    return to_y_up(torch.from_numpy(vectors.astype(np.float64)), up).numpy()


def find_normals(cloud: Cloud, up: str) -> NDArray[np.float64]:
    """(N, 3) with y up; estimated from planes through each point's neighbours where missing."""
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
