"""Clouds to turn with the mouse in a notebook, by plotly."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ea_pointcloud._checks import check_count
from ea_pointcloud.viz.coloring import CloudLike, ColorBar, ColoredCloud, color_cloud
from ea_pointcloud.viz.colors import SCALAR_COLORS
from ea_pointcloud.viz.style import BACKGROUNDS, Style

if TYPE_CHECKING:
    from plotly.graph_objects import Figure
    from typing_extensions import Unpack

    from ea_pointcloud.viz.style import StyleOptions

MAX_POINTS = 50_000  # what a browser without a GPU still turns smoothly
# Distance of plotly's camera: its field of view is 45 degrees, and the sphere around the cloud
# has a diameter of 1.
_EYE_DISTANCE = 1.08 * 0.5 / np.sin(np.radians(45 / 2))


def figure(
    cloud: CloudLike, *, max_points: int = MAX_POINTS, **style: Unpack[StyleOptions]
) -> Figure:
    """Make a plotly figure of a cloud: turn, zoom, and point at a point to read what it is.

    A click on a name in the legend hides its points. At most ``max_points`` points are drawn,
    chosen at random and always the same; the title says so.

    Args:
        cloud: see :func:`ea_pointcloud.viz.render`.
        max_points: >= 1.
        style: the fields of :class:`~ea_pointcloud.viz.Style`.

    Returns:
        The figure. Its coordinates are turned and scaled for plotly, which has z up; those of the
        file are shown where one points.

    Raises:
        ImportError: if plotly is missing; says what to install.
        OSError: if a file cannot be read.
        ValueError: see :func:`ea_pointcloud.viz.render`.
    """
    try:
        from plotly import graph_objects
    except ImportError as error:
        raise ImportError(f"this needs plotly ({error}); pip install plotly") from error

    chosen = Style(**style)
    check_count("max_points", max_points)
    colored = color_cloud(cloud, chosen)
    count = len(colored.cloud)
    shown = drawn_points(count, max_points)
    # Large enough to close surfaces, so that the front hides the back.
    size = chosen.point_size or float(np.clip(360 / np.sqrt(len(shown)), 2.5, 10.0))
    xyz = _z_up(colored.unit_sphere())
    made = graph_objects.Figure()
    if colored.group is None:
        made.add_scatter3d(**_points(colored, xyz, shown, size), showlegend=False)
    else:
        for index, entry in enumerate(colored.legend):
            members = shown[colored.group[shown] == index]
            if len(members):
                trace = _points(colored, xyz, members, size)
                trace["marker"]["color"] = _css(entry.color)
                made.add_scatter3d(**trace, name=escape(entry.text))
    title = escape(chosen.title or colored.cloud.name)
    if len(shown) < count:
        title += f"<br><sup>{len(shown):,} of {count:,} points are drawn</sup>"
    made.update_layout(**_layout(chosen, title))
    return made


def _layout(style: Style, title: str) -> dict[str, Any]:
    """Around the points of a figure: its title, colours, and where one looks from."""
    (paper, ink), camera = BACKGROUNDS[style.background], style.camera
    return {
        "title": {"text": title, "x": 0.5},
        "paper_bgcolor": _css(paper),
        "font_color": ink,
        "legend": {"itemsizing": "constant"},
        "margin": {"l": 0, "r": 0, "t": 60 if title else 36, "b": 0},
        "scene": {
            "aspectmode": "cube",
            "dragmode": "turntable",
            "camera": {"eye": _xyz(_z_up(camera.axes[2:])[0] * _EYE_DISTANCE / camera.zoom)},
            **{f"{axis}axis": {"visible": False, "range": [-1, 1]} for axis in "xyz"},
        },
    }


def show_notebook(
    cloud: CloudLike, *, max_points: int = MAX_POINTS, **style: Unpack[StyleOptions]
) -> None:
    """Show the :func:`figure` of a cloud below the cell of a notebook that calls this.

    Args and errors are those of :func:`figure`.

    Raises:
        ImportError: also outside a notebook where IPython is missing.
    """
    made = figure(cloud, max_points=max_points, **style)
    try:
        from IPython.display import display
    except ImportError as error:
        raise ImportError(
            "show_notebook is for notebooks; pip install ipython, or write a page with to_html"
        ) from error
    display(made)


def drawn_points(count: int, max_points: int) -> NDArray[np.int64]:
    """Indices of the points of a cloud that are drawn, in order."""
    if count <= max_points:
        return np.arange(count)
    return np.sort(np.random.default_rng(0).choice(count, max_points, replace=False))


def _points(
    colored: ColoredCloud, xyz: NDArray[np.floating], members: NDArray[np.int64], size: float
) -> dict[str, Any]:
    """The arguments of a trace of some of the points, drawn at ``xyz``."""
    cloud, bar = colored.cloud, colored.bar
    hover = dict(zip("xyz", (cloud.xyz[members] + cloud.center).T, strict=True))
    if colored.confidence is not None:
        hover["confidence"] = colored.confidence[members]
    if bar is not None:
        hover[bar.title] = bar.values[members]
    lines = [f"{name} %{{customdata[{index}]:.6g}}" for index, name in enumerate(hover)]
    marker: dict[str, Any] = {"size": size, "line": {"width": 0}, "opacity": 1}
    if bar is not None:
        marker |= _bar(bar, members)
    elif colored.group is None:
        bytes_ = np.rint(colored.colors[members] * 255).astype(int).tolist()
        marker["color"] = [_css(color) for color in bytes_]
    trace: dict[str, Any] = {}
    if colored.label_texts is not None:
        trace["text"] = [escape(text) for text in colored.label_texts[members].tolist()]
        lines.insert(0, "<b>%{text}</b>")
    return trace | {
        "mode": "markers",
        "marker": marker,
        "customdata": np.stack(list(hover.values()), axis=1),
        "hovertemplate": "<br>".join(lines) + "<extra></extra>",
        **dict(zip("xyz", xyz[members].T, strict=True)),
    }


def _bar(bar: ColorBar, members: NDArray[np.int64]) -> dict[str, Any]:
    steps = np.linspace(0, 1, len(SCALAR_COLORS)).tolist()
    return {
        "color": bar.values[members],
        "cmin": bar.low,
        "cmax": bar.high,
        "colorscale": [
            [step, _css(color)] for step, color in zip(steps, SCALAR_COLORS.tolist(), strict=True)
        ],
        "colorbar": {"title": {"text": bar.title}, "thickness": 15, "len": 0.6},
    }


def _z_up(vectors: NDArray[np.floating]) -> NDArray[np.floating]:
    """(N, 3) vectors from y up to z up, front to front."""
    return vectors[:, [0, 2, 1]] * [1, -1, 1]


def _xyz(vector: NDArray[np.floating]) -> dict[str, float]:
    return dict(zip("xyz", vector.tolist(), strict=True))


def _css(color: Sequence[int]) -> str:
    return f"rgb({','.join(str(int(channel)) for channel in color)})"
