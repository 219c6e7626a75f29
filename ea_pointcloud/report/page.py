"""One page that shows an evaluation, to open from disk without a network."""

from base64 import b64encode
from collections.abc import Sequence
from datetime import datetime
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image
from plotly.graph_objects import Figure
from plotly.offline import get_plotlyjs

from ea_pointcloud._files import write_whole
from ea_pointcloud.report import charts, corruptions, tables
from ea_pointcloud.report.predictions import (
    ClassExample,
    ClassPredictions,
    PartExample,
    PartPredictions,
    Predictions,
    examples,
    first_of_each_class,
    worst_mistakes,
)
from ea_pointcloud.robustness.evaluation import CorruptionReport
from ea_pointcloud.training.callbacks import read_metrics
from ea_pointcloud.training.evaluate_classifier import ClassificationReport
from ea_pointcloud.training.evaluate_run import RunReport
from ea_pointcloud.training.evaluate_segmenter import SegmentationReport
from ea_pointcloud.training.run_folder import METRICS_FILE, RECIPE_FILE, VERSIONS_FILE
from ea_pointcloud.training.tasks import task_of
from ea_pointcloud.viz import part_colors, render

PAGE_FILE = "index.html"
MISTAKES = 12  # drawn by default
WORST_SHAPES = 1  # of a category, by default
_TEMPLATE = "page.html.j2"
_EDGE = {"mistake": 280, "shape": 240, "example": 180}  # of a picture in pixels
# Lossy: as PNG the pictures of a hundred shapes would be far larger than the charts.
_QUALITY = 70


def write_report(
    folder: str | Path,
    runs: Sequence[Path],
    reports: Sequence[RunReport],
    predictions: Sequence[Predictions],
    *,
    command: str,
    worst: int | None = None,
    corruptions: Sequence[Sequence[CorruptionReport]] = (),
) -> Path:
    """Write ``index.html`` into ``folder``, which is made where it is missing; replaces it.

    The page is self-contained: about 5 MB, most of it plotly, and 10 kB a picture.

    Args:
        folder: where to write.
        runs: run folders of one recipe with different seeds.
        reports: of the runs.
        predictions: of the weights reported first, of each run.
        command: that made the report, as it was typed.
        worst: clouds to draw: a classifier's most confident mistakes (12 by default), or a
            segmenter's worst shapes of every category (1 by default), beside the median one.
        corruptions: reports of each run, of the same benchmarks; empty for none.

    Returns:
        The page.
    """
    shown = _content(runs, reports, command)
    shown |= {"classes": None, "parts": None, "corruptions": _corruptions(runs, corruptions)}
    first = [report.reports[0] for report in reports]
    if isinstance(predictions[0], PartPredictions):
        shown["parts"] = _parts(
            cast("list[SegmentationReport]", first),
            cast("list[PartPredictions]", predictions),
            WORST_SHAPES if worst is None else worst,
        )
    else:
        shown["classes"] = _classes(
            cast("list[ClassificationReport]", first),
            cast("list[ClassPredictions]", predictions),
            MISTAKES if worst is None else worst,
            [report.recipe.trainer.seed for report in reports],
        )
    template = (files("ea_pointcloud.report") / _TEMPLATE).read_text(encoding="utf-8")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals["zip"] = zip
    page = environment.from_string(template).render(**shown, plotly=Markup(get_plotlyjs()))
    path = Path(folder) / PAGE_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, page)
    return path


def _content(runs: Sequence[Path], reports: Sequence[RunReport], command: str) -> dict[str, Any]:
    """The parts of the page that classifiers and segmenters have in common."""
    recipe, several = reports[0].recipe, len(reports) > 1
    labels = [f", seed {report.recipe.trainer.seed}" if several else "" for report in reports]
    curves = charts.curve_charts(
        [read_metrics(run / METRICS_FILE) for run in runs],
        labels,
        task_of(recipe).monitor.removeprefix("val/"),
        selected=recipe.data.train_split == "train",
    )
    calibrations = [report.reports[0].calibration for report in reports]
    return {
        "title": f"{tables.data_name(recipe)}, {reports[0].reports[0].split} split",
        "facts": _facts(runs, reports, command),
        "summary": tables.seeds_table(reports) if several else None,
        "runs": [
            {
                "figures": tables.run_table(report, run),
                "cost": tables.cost_line(report),
                "calibration": tables.calibration_line(report),
            }
            for run, report in zip(runs, reports, strict=True)
        ],
        "curves": {
            heading: _html(made, f"curve-{index}")
            for index, (heading, made) in enumerate(curves.items())
        },
        "reliability": _html(charts.reliability_chart(calibrations, labels), "reliability"),
        "files": {
            f"{run / name}": (run / name).read_text(encoding="utf-8")
            for run in runs
            for name in (RECIPE_FILE, VERSIONS_FILE)
            if (run / name).is_file()
        },
    }


def _facts(runs: Sequence[Path], reports: Sequence[RunReport], command: str) -> dict[str, str]:
    """Origin of the figures."""
    first, recipe = reports[0], reports[0].recipe
    measured = first.reports[0]
    counted = f"{measured.shapes:,} shapes"
    if isinstance(measured, ClassificationReport):
        counted += f", {len(measured.class_accuracy)} classes"
    else:
        counted += f", {len(measured.category_iou)} categories"
    trained = [run / VERSIONS_FILE for run in runs]
    dates = [
        datetime.fromtimestamp(path.stat().st_mtime).strftime("%Y-%m-%d %H:%M")
        for path in trained
        if path.is_file()
    ]
    return {
        "run" if len(runs) == 1 else "runs": ", ".join(map(str, runs)),
        "recipe": f"{recipe.name} ({recipe.task}, network {recipe.model.size})",
        "seed" if len(runs) == 1 else "seeds": ", ".join(
            str(report.recipe.trainer.seed) for report in reports
        ),
        "data": f"{tables.data_name(recipe)}, {measured.split} split: {counted}",
        "training started": ", ".join(dates) or "unknown",
        "measured": f"{datetime.now():%Y-%m-%d %H:%M} on {first.device}",
        "command": command,
    }


def _classes(
    reports: Sequence[ClassificationReport],
    predictions: Sequence[ClassPredictions],
    worst: int,
    seeds: Sequence[int],
) -> dict[str, Any]:
    """The part of the page on a classifier."""
    up = predictions[0].spec.up_axis
    wrong = [f"{sum(map(sum, one.confusion)) - _correct(one):,}" for one in reports]
    if len(seeds) > 1:
        wrong = [f"{count} (seed {seed})" for count, seed in zip(wrong, seeds, strict=True)]

    def drawn(example: ClassExample, kind: str) -> dict[str, Any]:
        picture = _picture(example.xyz, kind, up=up, color_by="height")
        return {"picture": picture, "example": example, "runs": _which_runs(example, seeds)}

    return {
        "table": tables.class_table(reports),
        "confusion": _html(charts.confusion_chart(reports), "confusion"),
        "wrong": ", ".join(wrong),
        "shapes": reports[0].shapes,
        "examples": [drawn(each, "example") for each in first_of_each_class(predictions[0])],
        "mistakes": [drawn(each, "mistake") for each in worst_mistakes(predictions, worst)],
    }


def _correct(report: ClassificationReport) -> int:
    return sum(row[index] for index, row in enumerate(report.confusion))


def _which_runs(example: ClassExample, seeds: Sequence[int]) -> str:
    """How many of several runs are wrong."""
    if len(seeds) == 1:
        return ""
    return f"seed {seeds[example.run]}; wrong in {example.wrong_runs} of {len(seeds)} runs"


def _corruptions(
    runs: Sequence[Path], reports: Sequence[Sequence[CorruptionReport]]
) -> dict[str, Any] | None:
    """The part of the page on corruptions."""
    if not reports:
        return None
    found = [(run, one) for run, each in zip(runs, reports, strict=True) for one in each]
    return {
        "summary": corruptions.corruption_summary(reports) if len(reports) > 1 else None,
        "benchmarks": [
            {
                "table": corruptions.corruption_table(one, f"{run}, {one.benchmark}"),
                "chart": _html(corruptions.corruption_chart(one), f"corruptions-{index}"),
                "line": corruptions.corruption_line(one),
            }
            for index, (run, one) in enumerate(found)
        ],
    }


def _parts(
    reports: Sequence[SegmentationReport], predictions: Sequence[PartPredictions], worst: int
) -> dict[str, Any]:
    """The part of the page on a segmenter."""
    spec = predictions[0].spec
    categories = []
    for category, name in enumerate(spec.category_names):
        shown = examples(predictions, category, worst)
        if not shown:
            continue
        colors = np.rint(part_colors(np.array(spec.parts[category])) * 255).astype(int)
        categories.append(
            {
                "name": name,
                "iou": tables.mean_and_std([report.category_iou[name] for report in reports]),
                "legend": [
                    (part, "#" + "".join(f"{channel:02x}" for channel in color))
                    for part, color in zip(
                        tables.part_names(predictions[0], category), colors.tolist(), strict=True
                    )
                ],
                "examples": [_drawn(example, spec.up_axis) for example in shown],
            }
        )
    return {
        "table": tables.part_table(reports, predictions),
        "bars": _html(charts.category_chart(reports), "categories"),
        "categories": categories,
    }


def _drawn(example: PartExample, up: str) -> dict[str, Any]:
    """A shape three times: true parts, predicted parts, and errors."""
    shape = example.shape
    options: dict[str, Any] = {"up": up}
    return {
        "example": example,
        "wrong": float((shape.pred != shape.truth).mean()),
        "pictures": {
            "truth": _picture(shape.xyz, "shape", labels=shape.truth, **options),
            "prediction": _picture(shape.xyz, "shape", labels=shape.pred, **options),
            "error": _picture(shape.xyz, "shape", labels=shape.pred, truth=shape.truth, **options),
        },
    }


def _picture(xyz: NDArray[np.float32], kind: str, **options: Any) -> Markup:
    """A picture of a cloud as a data URL."""
    content = BytesIO()
    drawn = render(xyz, size=_EDGE[kind], legend=False, **options)
    Image.fromarray(drawn).save(content, "WEBP", quality=_QUALITY, method=6)
    return Markup("data:image/webp;base64," + b64encode(content.getvalue()).decode())


def _html(made: Figure, name: str) -> Markup:
    """A chart for the page, which has plotly already; as wide as there is room."""
    widest = f"{made.layout.width}px" if made.layout.width else "none"
    made.layout.width = None
    plot = made.to_html(
        full_html=False,
        include_plotlyjs=False,
        div_id=name,
        config={"displayModeBar": False, "responsive": True},
    )
    return Markup('<div class="chart" style="max-width: {}">{}</div>').format(widest, Markup(plot))
