"""Tables and a chart of the accuracy under corruptions, for the terminal and the page."""

from collections.abc import Sequence
from statistics import mean

import numpy as np
from plotly.graph_objects import Figure

from ea_pointcloud.datasets.corrupted import SEVERITIES
from ea_pointcloud.report.charts import heatmap, style
from ea_pointcloud.report.tables import Table, mean_and_std
from ea_pointcloud.robustness.corruptions import CORRUPTIONS
from ea_pointcloud.robustness.evaluation import CorruptionReport

_SHADES = ((0, "rgb(245,247,250)"), (0.25, "rgb(253,208,162)"), (0.5, "rgb(241,105,19)"),
           (0.75, "rgb(166,54,3)"), (1, "rgb(90,25,5)"))  # fmt: skip
_CELL = (68, 26)  # pixels across and down


def corruption_table(report: CorruptionReport, title: str) -> Table:
    """A row a corruption: error rates in % at each severity, and relative to the reference."""
    relative = ("CE", "RCE") if report.reference is not None else ()
    rows = []
    for name, values in report.accuracy.items():
        errors = [_percent(1 - value) for value in (*values, mean(values))]
        ratios = (report.corruption_error.get(name), report.relative_error.get(name))
        row = (_marked(name), CORRUPTIONS[name].group, *errors)
        rows.append((*row, *(_ratio(value) for value in ratios if relative)))
    means = [
        mean(1 - v[index] for v in report.accuracy.values()) for index in range(len(SEVERITIES))
    ]
    totals = (_ratio(report.mce), _ratio(report.rmce)) if relative else ()
    rows.append(("mean", "", *map(_percent, (*means, report.mean_error_rate)), *totals))
    severities = (f"severity {SEVERITIES[0]}", *map(str, SEVERITIES[1:]))
    return Table(
        f"{title}{_options(report)}: error rate in %, clean {_percent(1 - report.clean_accuracy)}, "
        f"{report.shapes} shapes",
        ("corruption", "kind", *severities, "mean", *relative),
        rows,
        text=("kind",),
    )


def corruption_line(report: CorruptionReport) -> str:
    """The clouds that were used, and the reference."""
    lines = [f"{report.benchmark}: {report.reason}"]
    if any(not CORRUPTIONS[name].graded for name in report.accuracy):
        how = "five viewpoints instead of severities"
        if "(generated)" in report.benchmark:
            how += "; hidden points are estimated from the points, there are no meshes"
        lines.append(f"* {how}")
    if report.reference is None:
        lines.append("no mCE: give a reference with --reference FILE")
    else:
        lines.append(
            f"CE and RCE relative to {report.reference.name}, "
            f"clean {_percent(1 - report.reference.clean_accuracy)} % wrong"
        )
    return "\n".join([*lines, f"{report.seconds:.0f} s"])


def corruption_summary(runs: Sequence[Sequence[CorruptionReport]]) -> Table:
    """A row a benchmark, mean and standard deviation over the runs.

    Args:
        runs: the reports of each run, the same benchmarks in the same order.
    """
    rows = [
        (
            same[0].benchmark,
            mean_and_std([100 * (1 - one.clean_accuracy) for one in same], 1),
            mean_and_std([100 * one.mean_error_rate for one in same], 1),
            mean_and_std([one.mce for one in same], 3),
            mean_and_std([one.rmce for one in same], 3),
        )
        for same in zip(*runs, strict=True)
    ]
    return Table(
        f"corruptions{_options(runs[0][0])}, {len(runs)} seeds: mean and standard deviation",
        ("benchmark", "clean error in %", "mean error rate in %", "mCE", "RmCE"),
        rows,
    )


def corruption_chart(report: CorruptionReport) -> Figure:
    """Error rates as colours: a row a corruption, below the clean clouds."""
    names = ["clean", *map(_marked, report.accuracy)]
    clean = (report.clean_accuracy,) * len(SEVERITIES)
    errors = 1 - np.array([clean, *report.accuracy.values()])
    made = heatmap(
        errors,
        _SHADES,
        x=list(SEVERITIES),
        y=names,
        text=[[_percent(error) for error in row] for row in errors],
        texttemplate="%{text}",
        hovertemplate="%{y}, severity %{x}: %{z:.1%} wrong<extra></extra>",
        colorbar={"title": {"text": "error"}, "tickformat": ".0%", "thickness": 12},
    )
    room = 20 + 8 * max(map(len, names))
    width, height = _CELL
    style(
        made,
        height=height * len(names) + 70,
        width=width * len(SEVERITIES) + room + 100,
        margin={"l": room, "r": 90, "t": 10, "b": 50},
    )
    made.update_xaxes(title="severity", tickvals=list(SEVERITIES), showgrid=False, zeroline=False)
    made.update_yaxes(autorange="reversed", showgrid=False, zeroline=False)
    return made


def _options(report: CorruptionReport) -> str:
    words = str(report.options)
    return f", {words}" if words else ""


def _marked(name: str) -> str:
    return name if CORRUPTIONS[name].graded else f"{name} *"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}"


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
