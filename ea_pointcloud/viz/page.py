"""Pages to turn a cloud in a browser: one file without a library, lit as pictures are."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ea_pointcloud._checks import check_count
from ea_pointcloud._files import write_whole
from ea_pointcloud.viz.coloring import CloudLike, ColoredCloud, color_cloud, y_up
from ea_pointcloud.viz.colors import SCALAR_COLORS
from ea_pointcloud.viz.interactive import MAX_POINTS, drawn_points
from ea_pointcloud.viz.pictures import closing_size
from ea_pointcloud.viz.style import BACKGROUNDS, Style

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ea_pointcloud.viz.style import StyleOptions

_EDGE = 1000  # pixels of the picture for which the size of points is found


def to_html(
    cloud: CloudLike,
    path: str | Path,
    *,
    max_points: int = MAX_POINTS,
    **style: Unpack[StyleOptions],
) -> None:
    """Write a page to turn, zoom and point at a cloud in a browser; it needs no network.

    Points are round and lit as in pictures (WebGL 2). A click on a name in the legend hides its
    points. At most ``max_points`` are drawn, chosen at random and always the same; the page says
    so. A cloud of 10,000 points takes about 0.3 MB.

    Args:
        cloud: see :func:`ea_pointcloud.viz.render`.
        path: of the page; replaced where it exists.
        max_points: >= 1.
        style: the fields of :class:`~ea_pointcloud.viz.Style`.

    Raises:
        OSError: if a file cannot be read or written.
        ValueError: see :func:`ea_pointcloud.viz.render`.
    """
    chosen = Style(**style)
    colored = color_cloud(cloud, chosen)
    title = chosen.title or colored.cloud.name
    write_page([colored], [""], [title], path, chosen, max_points)


def write_page(
    layers: Sequence[ColoredCloud],
    names: Sequence[str],
    titles: Sequence[str],
    path: str | Path,
    style: Style,
    max_points: int = MAX_POINTS,
) -> None:
    """Write a page with a menu of colourings of one cloud.

    Args:
        layers: the same points, each coloured in its way.
        names: in the menu.
        titles: above the cloud.
        path: of the page; replaced where it exists.
        style: background, camera, size of the points, legend.
        max_points: see :func:`to_html`.
    """
    check_count("max_points", max_points)
    first = layers[0]
    shown = drawn_points(len(first.cloud), max_points)
    xyz = first.unit_sphere()
    middle, turn, radius = _back(first)
    paper, ink = BACKGROUNDS[style.background]
    note = ""
    if len(shown) < len(first.cloud):
        note = f"{len(shown):,} of {len(first.cloud):,} points are drawn"
    texts, text = None, None
    if first.label_texts is not None:
        found, text = np.unique(first.label_texts[shown], return_inverse=True)
        texts = found.tolist()
    data: dict[str, Any] = {
        "note": note,
        "paper": paper,
        "ink": ink,
        "camera": [style.camera.azimuth, style.camera.elevation, style.camera.zoom],
        "size": style.point_size or 0,
        "spacing": closing_size(xyz[shown], (_EDGE, _EDGE)) / _EDGE,
        "ramp": SCALAR_COLORS.tolist(),
        "middle": middle.tolist(),
        "back": (turn * radius).ravel().tolist(),
        "xyz": _packed(xyz[shown], "<f4"),
        "texts": texts,
        "text": _packed(text, "<u2"),
        "confidence": _packed(None if first.confidence is None else first.confidence[shown], "<f4"),
        "layers": [
            _layer(each, name, title, shown, legend=style.legend)
            for each, name, title in zip(layers, names, titles, strict=True)
        ],
    }
    page = resources.files("ea_pointcloud").joinpath("viz/page.html").read_text(encoding="utf-8")
    plain = json.dumps(data, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")
    page = page.replace("@TITLE@", escape(titles[0] or "point cloud"), 1)
    write_whole(Path(path), page.replace("@DATA@", plain, 1))


def _layer(
    colored: ColoredCloud, name: str, title: str, shown: NDArray[np.int64], *, legend: bool
) -> dict[str, Any]:
    bar = colored.bar
    return {
        "name": name,
        "title": title,
        "colors": _packed(np.rint(colored.colors[shown] * 255), "u1"),
        "group": _packed(None if colored.group is None else colored.group[shown], "<u2"),
        "value": _packed(None if bar is None else bar.values[shown], "<f4"),
        "legend": [vars(entry) for entry in colored.legend] if legend else [],
        "bar": bar and {"title": bar.title, "low": bar.low, "high": bar.high},
    }


def _back(colored: ColoredCloud) -> tuple[NDArray[Any], NDArray[Any], float]:
    """How drawn points become those of the file: ``middle + radius * turn @ point``."""
    turn = y_up(np.eye(3), colored.up)  # rows: where each axis of the file goes
    stood = y_up(colored.cloud.xyz, colored.up)
    center = (stood.min(0) + stood.max(0)) / 2
    radius = float(np.linalg.norm(stood - center, axis=1).max()) or 1.0
    return turn @ center + colored.cloud.center, turn, radius


def _packed(values: NDArray[Any] | None, kind: str) -> str | None:
    if values is None:
        return None
    return base64.b64encode(np.ascontiguousarray(values, np.dtype(kind)).tobytes()).decode()
