"""Clouds to turn with the mouse in a browser or a notebook, by plotly."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ea_pointcloud._checks import check_choice, check_count, check_positive
from ea_pointcloud._files import write_whole
from ea_pointcloud.viz._camera import Camera
from ea_pointcloud.viz._paint import CloudLike, Labels, Painted, Scale, paint
from ea_pointcloud.viz.colors import SCALAR_COLORS
from ea_pointcloud.viz.pictures import BACKGROUNDS, Background

if TYPE_CHECKING:
    from plotly.graph_objects import Figure
    from typing_extensions import Unpack

MAX_POINTS = 50_000  # what a browser without a GPU still turns smoothly
# Where plotly's camera stands: its field of view is 45 degrees, and the sphere around the cloud
# has a diameter of 1.
_EYE_DISTANCE = 1.08 * 0.5 / np.sin(np.radians(45 / 2))
_PAGE = """<!doctype html>
<html>
<head><meta charset="utf-8"><title>{title}</title></head>
<body style="margin: 0; background: {paper}">
{figure}
</body>
</html>
"""


def figure(
    cloud: CloudLike,
    *,
    labels: Labels | None = None,
    truth: NDArray[np.integer] | None = None,
    color_by: str | ArrayLike = "auto",
    names: Sequence[str] | None = None,
    limits: tuple[float, float] | None = None,
    up: str = "y",
    background: Background = "white",
    point_size: float | None = None,
    camera: Camera | None = None,
    title: str = "",
    max_points: int = MAX_POINTS,
) -> Figure:
    """Make a plotly figure of a cloud: turn, zoom, and point at a point to read what it is.

    A click on a name in the legend hides what has it. Of more than ``max_points`` points as many
    are drawn, chosen at random and always the same, and the title says so.

    Args:
        cloud: see :func:`ea_pointcloud.viz.render`, also for the arguments that are not named here.
        labels: see there.
        truth: see there.
        color_by: see there.
        names: see there.
        limits: see there.
        up: see there.
        background: see there.
        point_size: diameter of a point in pixels; by the number of points without it.
        camera: where from at first.
        title: above the cloud; its name without it.
        max_points: that are drawn, >= 1.

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

    check_choice("background", background, BACKGROUNDS)
    check_count("max_points", max_points)
    if point_size is not None:
        check_positive("point_size", point_size)
    painted = paint(
        cloud, labels=labels, truth=truth, color_by=color_by, names=names, up=up, limits=limits
    )
    count = len(painted.cloud)
    shown = np.arange(count)
    if count > max_points:
        shown = np.sort(np.random.default_rng(0).choice(count, max_points, replace=False))
    size = point_size or float(np.clip(180 / np.sqrt(len(shown)), 1.5, 8.0))
    paper, ink = BACKGROUNDS[background]
    seen = camera or Camera()
    places = _z_up(painted.unit_sphere())
    made = graph_objects.Figure()
    if painted.group is None:
        made.add_scatter3d(**_points(painted, places, shown, size), showlegend=False)
    else:
        for place, entry in enumerate(painted.legend):
            members = shown[painted.group[shown] == place]
            if len(members):
                trace = _points(painted, places, members, size)
                trace["marker"]["color"] = _css(entry.color)
                made.add_scatter3d(**trace, name=escape(entry.text))
    title = escape(title or painted.cloud.name)
    if len(shown) < count:
        title += f"<br><sup>{len(shown):,} of {count:,} points are drawn</sup>"
    made.update_layout(
        title={"text": title, "x": 0.5},
        paper_bgcolor=_css(paper),
        font_color=ink,
        legend={"itemsizing": "constant"},
        margin={"l": 0, "r": 0, "t": 60 if title else 36, "b": 0},
        scene={
            "aspectmode": "cube",
            "dragmode": "turntable",
            "camera": {"eye": _xyz(_z_up(seen.axes[2:])[0] * _EYE_DISTANCE / seen.zoom)},
            **{f"{axis}axis": {"visible": False, "range": [-1, 1]} for axis in "xyz"},
        },
    )
    return made


class FigureOptions(TypedDict, total=False):
    """The keyword arguments of :func:`figure`."""

    labels: Labels | None
    truth: NDArray[np.integer] | None
    color_by: str | ArrayLike
    names: Sequence[str] | None
    limits: tuple[float, float] | None
    up: str
    background: Background
    point_size: float | None
    camera: Camera | None
    title: str
    max_points: int


def show_notebook(cloud: CloudLike, **options: Unpack[FigureOptions]) -> None:
    """Show the :func:`figure` of a cloud below the cell of a notebook that calls this.

    Args and errors are those of :func:`figure`.

    Raises:
        ImportError: also outside a notebook where IPython is missing.
    """
    made = figure(cloud, **options)
    try:
        from IPython.display import display
    except ImportError as error:
        raise ImportError(
            "show_notebook is for notebooks; pip install ipython, or write a page with to_html"
        ) from error
    display(made)


def to_html(cloud: CloudLike, path: str | Path, **options: Unpack[FigureOptions]) -> None:
    """Write the :func:`figure` of a cloud as one page that opens from disk, without a network.

    Args are those of :func:`figure`; an existing ``path`` is replaced. About 5 MB, plotly itself.
    """
    write_page(figure(cloud, **options), path)


def write_page(made: Figure, path: str | Path) -> None:
    """Write a figure as one page that opens from disk, without a network; replaces ``path``."""
    plot = made.to_html(
        full_html=False,
        include_plotlyjs=True,
        default_height="100vh",
        config={"displaylogo": False, "responsive": True},
    )
    # Plotly's titles are HTML, of which a page's title takes none.
    title = (made.layout.title.text or "point cloud").partition("<")[0]
    page = _PAGE.format(title=title, paper=made.layout.paper_bgcolor, figure=plot)
    write_whole(Path(path), page)


def _points(
    painted: Painted, places: NDArray[np.floating], members: NDArray[np.int64], size: float
) -> dict[str, Any]:
    """The arguments of a trace of some of the points, which are drawn at ``places``."""
    cloud, scale = painted.cloud, painted.scale
    told = dict(zip("xyz", (cloud.xyz[members] + cloud.center).T, strict=True))
    if painted.confidence is not None:
        told["confidence"] = painted.confidence[members]
    if scale is not None:
        told[scale.title] = scale.values[members]
    lines = [f"{name} %{{customdata[{place}]:.6g}}" for place, name in enumerate(told)]
    marker: dict[str, Any] = {"size": size, "line": {"width": 0}, "opacity": 1}
    if scale is not None:
        marker |= _bar(scale, members)
    elif painted.group is None:
        bytes_ = np.rint(painted.colors[members] * 255).astype(int).tolist()
        marker["color"] = [_css(color) for color in bytes_]
    trace: dict[str, Any] = {}
    if painted.label_texts is not None:
        trace["text"] = [escape(text) for text in painted.label_texts[members].tolist()]
        lines.insert(0, "<b>%{text}</b>")
    return trace | {
        "mode": "markers",
        "marker": marker,
        "customdata": np.stack(list(told.values()), axis=1),
        "hovertemplate": "<br>".join(lines) + "<extra></extra>",
        **dict(zip("xyz", places[members].T, strict=True)),
    }


def _bar(scale: Scale, members: NDArray[np.int64]) -> dict[str, Any]:
    steps = np.linspace(0, 1, len(SCALAR_COLORS)).tolist()
    return {
        "color": scale.values[members],
        "cmin": scale.low,
        "cmax": scale.high,
        "colorscale": [
            [step, _css(color)] for step, color in zip(steps, SCALAR_COLORS.tolist(), strict=True)
        ],
        "colorbar": {"title": {"text": scale.title}, "thickness": 15, "len": 0.6},
    }


def _z_up(vectors: NDArray[np.floating]) -> NDArray[np.floating]:
    """(N, 3) vectors from y up to z up, front to front."""
    return vectors[:, [0, 2, 1]] * [1, -1, 1]


def _xyz(vector: NDArray[np.floating]) -> dict[str, float]:
    return dict(zip("xyz", vector.tolist(), strict=True))


def _css(color: Sequence[int]) -> str:
    return f"rgb({','.join(str(int(channel)) for channel in color)})"
