"""Charts of an evaluation, by plotly; the page sets the colour of their text."""

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray
from plotly import graph_objects
from plotly.graph_objects import Figure

from ea_pointcloud.training.evaluate_classifier import ClassificationReport
from ea_pointcloud.training.evaluate_segmenter import SegmentationReport
from ea_pointcloud.training.evaluation import Reliability
from ea_pointcloud.viz.colors import PART_PALETTE

Rows = list[dict[str, str]]  # of a metrics.csv

# Those of the palette that show on white and on dark: blue, vermilion, green, pink, orange, sky.
_RUN_COLORS = tuple(f"rgb{PART_PALETTE[index]}" for index in (4, 5, 2, 6, 0, 1))
_GREY = "rgb(128,128,128)"
_GRID = "rgba(128,128,128,0.3)"
# Of fractions: one of a hundred already differs from none.
_SHADES = ((0, "rgb(245,247,250)"), (0.001, "rgb(214,228,243)"), (0.2, "rgb(133,178,224)"),
           (0.5, "rgb(66,120,190)"), (1, "rgb(8,48,107)"))  # fmt: skip
_WIDTH = 760  # the most that is useful, pixels
_MOST_WITH_COUNTS = 20  # classes; past that a cell is too small for a number
_LARGEST_CELL, _SMALLEST_CELL = 52, 17  # pixels
_BIN_GROWTH = 20  # pixels by which the marker of a bin with all predictions is larger
_BAR_ROOM = 100  # for the colour bar, pixels
_LETTER = 7  # pixels, about


def confusion_chart(reports: Sequence[ClassificationReport]) -> Figure:
    """Confusion matrix: fractions of the true classes (rows); counts of all runs on hover."""
    names = [escape(name) for name in reports[0].class_accuracy]
    counts = np.sum([report.confusion for report in reports], axis=0)
    fractions = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    cell = int(np.clip(820 / len(names), _SMALLEST_CELL, _LARGEST_CELL))
    room = 40 + _LETTER * max(map(len, names))
    texts = np.where(counts > 0, counts.astype(str), "")
    # By index and not by name: two classes may have the same name, and a name may be a number.
    indices = list(range(len(names)))
    made = heatmap(
        fractions,
        _SHADES,
        x=indices,
        y=indices,
        text=texts if len(names) <= _MOST_WITH_COUNTS else None,
        texttemplate="%{text}" if len(names) <= _MOST_WITH_COUNTS else None,
        customdata=[
            [
                f"<b>{true}</b> predicted {'correctly' if true == name else f'as <b>{name}</b>'}: "
                f"{count} of {row.sum()}"
                for name, count in zip(names, row.tolist(), strict=True)
            ]
            for true, row in zip(names, counts, strict=True)
        ],
        hovertemplate="%{customdata} (%{z:.1%})<extra></extra>",
        colorbar={"title": {"text": "fraction"}, "tickformat": ".0%", "thickness": 12},
    )
    side = cell * len(names)
    style(
        made,
        height=side + room + 60,
        width=side + room + _BAR_ROOM,
        margin={"l": room, "r": _BAR_ROOM - 20, "t": 10, "b": room},
    )
    ticks: dict[str, Any] = {
        "tickmode": "array",
        "tickvals": indices,
        "ticktext": names,
        "showgrid": False,
        "zeroline": False,
    }
    made.update_xaxes(**ticks, tickangle=-90 if len(names) > _MOST_WITH_COUNTS else -45)
    made.update_yaxes(**ticks, autorange="reversed")
    made.update_xaxes(title="predicted", title_standoff=12)
    made.update_yaxes(title="true", title_standoff=12)
    return made


def reliability_chart(found: Sequence[Reliability], labels: Sequence[str]) -> Figure:
    """Reliability diagram: accuracy over confidence; on the diagonal calibration is perfect."""
    made = Figure()
    made.add_scatter(
        x=[0, 1],
        y=[0, 1],
        mode="lines",
        name="perfect calibration",
        line={"color": _GREY, "dash": "dot"},
    )
    for run, (one, label) in enumerate(zip(found, labels, strict=True)):
        kinds = [
            ("uncalibrated", one.bins, "dash"),
            ("calibrated", one.bins_calibrated, "solid"),
        ]
        for kind, bins, dash in kinds:
            if not bins:
                continue
            counts = np.array([each.count for each in bins])
            made.add_scatter(
                x=[each.prob for each in bins],
                y=[each.accuracy for each in bins],
                customdata=counts.tolist(),
                mode="lines+markers",
                name=f"{kind}{label}",
                line={"color": _run_color(run), "dash": dash},
                marker={
                    "symbol": "circle" if dash == "solid" else "circle-open",
                    "size": 6 + _BIN_GROWTH * np.sqrt(counts / counts.sum()),
                },
                cliponaxis=False,
                hovertemplate="confidence %{x:.3f}, accuracy %{y:.3f}<br>"
                "%{customdata:,} predictions",
            )
    style(made, height=460, width=_WIDTH)
    made.update_xaxes(title="mean confidence of a bin", range=[0, 1.01])
    made.update_yaxes(title="accuracy", range=[0, 1.01])
    return made


def curve_charts(
    tables: Sequence[Rows], labels: Sequence[str], metric: str, *, selected: bool
) -> dict[str, Figure]:
    """Training curves, epoch by epoch.

    Args:
        tables: the rows of ``metrics.csv`` of each run.
        labels: of the runs, appended to the names of the lines.
        metric: that selects the weights, without its split.
        selected: whether to mark the selected epoch.

    Returns:
        heading -> chart, for what was logged.
    """
    heading = metric.replace("_", " ").replace("miou", "mIoU")
    groups = {
        "Loss": {"val/loss": "val", "train/loss": "train"},
        heading[0].upper() + heading[1:]: {
            f"val/{metric}": "val",
            f"test/{metric}": "test (legacy)",
        },
        "Learning rate": {"lr": "learning rate"},
    }
    charts = {}
    for heading, columns in groups.items():
        made = Figure()
        for run, (rows, label) in enumerate(zip(tables, labels, strict=True)):
            for number, (column, name) in enumerate(columns.items()):
                known = {int(row["epoch"]): float(row[column]) for row in rows if row.get(column)}
                # A colour a line where there is one run, else a colour a run.
                line = {"color": _run_color(number)}
                if len(tables) > 1:
                    line = {"color": _run_color(run), "dash": "dot" if number else "solid"}
                if known:
                    made.add_scatter(**_curve(known), name=f"{name}{label}", line=line)
                if known and selected and column == f"val/{metric}":
                    best = max(known, key=known.__getitem__)  # the first of equals, as in training
                    star = {"symbol": "star", "size": 13, "color": line["color"]}
                    made.add_scatter(
                        **_curve({best: known[best]}), name=f"selected{label}", marker=star
                    )
        if made.data:
            style(made, height=340)
            made.update_xaxes(title="epoch")
            made.update_layout(hovermode="x unified")
            charts[heading] = made
    return charts


def _curve(values: dict[int, float]) -> dict[str, Any]:
    """The arguments of a trace; a single epoch makes no line."""
    mode = "lines" if len(values) > 1 else "markers"
    return {"x": list(values), "y": list(values.values()), "mode": mode}


def category_chart(reports: Sequence[SegmentationReport]) -> Figure:
    """The IoU of each category that occurs, the best above; mean and deviation of the runs."""
    values = {
        name: [value for report in reports if (value := report.category_iou[name]) is not None]
        for name in reports[0].category_iou
    }
    means = {name: float(np.mean(found)) for name, found in values.items() if found}
    order = sorted(means, key=means.__getitem__)
    spread = [float(np.std(values[name], ddof=1)) if len(values[name]) > 1 else 0 for name in order]
    made = Figure(
        graph_objects.Bar(
            x=[means[name] for name in order],
            y=list(range(len(order))),
            orientation="h",
            text=[f"{means[name]:.3f}" for name in order],
            customdata=[escape(name) for name in order],
            textposition="inside",
            insidetextanchor="start",
            marker_color=_RUN_COLORS[0],
            error_x={"array": spread, "visible": len(reports) > 1, "color": _GREY},
            hovertemplate="%{customdata}: %{x:.4f}<extra></extra>",
        )
    )
    average = float(np.mean([report.category_miou for report in reports]))
    made.add_vline(
        average,
        line={"color": _RUN_COLORS[1], "dash": "dot"},
        annotation={
            "text": f"mean {average:.3f}",
            "y": 1,
            "yanchor": "bottom",
            "xanchor": "center",
        },
    )
    room = 20 + _LETTER * max((len(name) for name in order), default=0)
    style(
        made,
        height=110 + 24 * len(order),
        width=_WIDTH,
        margin={"l": room, "r": 20, "t": 30, "b": 50},
    )
    made.update_xaxes(title="IoU", range=[0, 1])
    made.update_yaxes(
        tickmode="array",
        tickvals=list(range(len(order))),
        ticktext=[escape(name) for name in order],
        showgrid=False,
    )
    return made


def heatmap(fractions: NDArray[np.floating], shades: Sequence[Any], **trace: Any) -> Figure:
    """A heat map of fractions in 0..1; ``trace`` are plotly's further arguments."""
    return Figure(
        graph_objects.Heatmap(
            z=fractions, zmin=0, zmax=1, colorscale=shades, xgap=1, ygap=1, **trace
        )
    )


def style(made: Figure, **layout: Any) -> None:
    """Style a chart for the page; ``layout`` takes precedence."""
    made.update_layout(
        **{
            "template": "none",
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "margin": {"l": 60, "r": 20, "t": 10, "b": 50},
            "legend": {"orientation": "h", "yanchor": "bottom", "y": 1.02, "x": 0},
            "font": {"family": "system-ui, sans-serif", "size": 13},
            **layout,
        }
    )
    axes: dict[str, Any] = {"gridcolor": _GRID, "zerolinecolor": _GRID, "automargin": True}
    made.update_xaxes(**axes)
    made.update_yaxes(**axes)


def _run_color(run: int) -> str:
    return _RUN_COLORS[run % len(_RUN_COLORS)]
