"""``ea-pointcloud classify``: the class of files."""

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ea_pointcloud.cli import _common as opt
from ea_pointcloud.cli._batch import PICTURES, Batch, Show
from ea_pointcloud.cli._common import readable, say, shown_up
from ea_pointcloud.cli._csv_log import CsvLog
from ea_pointcloud.cli._resume import settings
from ea_pointcloud.cli._support import check_support, support_predictor

if TYPE_CHECKING:
    from ea_pointcloud.inference import Classification, Outcome

NAME = "classify"
EXAMPLES = opt.examples(
    "ea-pointcloud classify chair.ply",
    "ea-pointcloud classify *.off --model runs/modelnet10-seed0 --up z --json",
    "ea-pointcloud classify scans -r --model runs/a --up auto --csv scans.csv",
    "ea-pointcloud classify a.ply b.obj --model runs/a --render predictions.png",
    "ea-pointcloud classify scans --support examples --save-model mugs",
)
HEADINGS = ("file", "class", "probability", "next", "up", "warning")

_IN_A_ROW = 4  # candidates after the first; more stand below one another

Csv = Annotated[
    Path | None,
    typer.Option(
        "--csv",
        metavar="FILE",
        help="Write rows there as they come; the same command again skips files with a row.",
    ),
]
Support = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Classes of your own instead of those of the weights: DIR/CLASS/FILE, a few examples "
        "of each; nothing is trained.",
    ),
]
SupportRotations = Annotated[
    int | None,
    typer.Option(
        min=1, metavar="N", help="With --support: N rotations of each example; files may be turned."
    ),
]
SupportViews = Annotated[
    int | None,
    typer.Option(
        min=0,
        metavar="N",
        help="With --support: add N views of each example from one side, for such scans.",
    ),
]
SaveModel = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR", help="With --support: write the classifier, weights that --model takes."
    ),
]


def run(
    paths: opt.Paths,
    model: opt.Model = None,
    recursive: opt.Recursive = False,
    up: opt.Up = None,
    tta_rotations: opt.Rotations = 1,
    remove_outliers: opt.RemoveOutliers = False,
    drop_invalid: opt.DropInvalid = None,
    columns: opt.Columns = None,
    topk: Annotated[int, typer.Option(min=1, help="Candidates to show.")] = 3,
    csv_file: Csv = None,
    as_json: opt.AsJson = False,
    render: opt.Render = None,
    backend: opt.Backend = "auto",
    support: Support = None,
    support_rotations: SupportRotations = None,
    support_views: SupportViews = None,
    save_model: SaveModel = None,
    device: opt.Device = "auto",
    workers: opt.Workers = None,
    engine: opt.Engine = "local",
    force: opt.Force = False,
    schema: Annotated[bool, opt.json_schema(NAME)] = False,
) -> None:
    """Classify each file; unreadable files are reported and skipped."""
    opt.check_option("--up", up, opt.UPS)
    opt.check_option("--backend", backend, opt.BACKENDS)
    opt.check_output("--render", render, (".png",), force=force)
    copies = {"support_rotations": support_rotations, "support_views": support_views}
    check_support(support, save_model, force=force, **copies)
    batch = Batch(paths, recursive, csv_file, engine, workers, device)

    from ea_pointcloud.inference import classification
    from ea_pointcloud.models.pretrained import DEFAULT_CLASSIFIER

    weights, predictor = batch.load(model, DEFAULT_CLASSIFIER)
    predictor.check_classify()
    up = batch.up_axis(up, model)
    reading = {"drop_invalid": drop_invalid, "columns": columns}
    fitted: dict[str, str] = {}
    if support is not None:
        predictor, fitted["support"] = support_predictor(
            predictor, weights, support, {"remove_outliers": remove_outliers, **reading}, up=up,
            workers=workers, rotations=support_rotations, partial_views=support_views,
            save_model=save_model,
        )  # fmt: skip
    options = {
        "up": up,
        "topk": min(topk, len(predictor.model.data_spec.class_names)),
        "tta_rotations": tta_rotations,
        "remove_outliers": remove_outliers,
        **reading,
    }
    by_format = {"up": up or "format", **fitted}
    log, header = None, _columns(options["topk"])
    if csv_file is not None:
        log = CsvLog(csv_file, header, settings(NAME, weights, options | by_format), force=force)
    pictured: dict[str, Classification] = {}

    def take(outcome: "Outcome[Classification]") -> "Outcome[Classification]":
        if log is not None:
            log.write(_csv_row(outcome, header))
        if render is not None and outcome.result is not None and len(pictured) < PICTURES:
            pictured[outcome.file] = outcome.result
        return outcome

    job = partial(classification, **options)
    show = Show("classified", take, partial(_json_row, weights), _cells, HEADINGS, ("probability",))
    tally = batch.run(job, predictor, show, up=up, store=log, as_json=as_json, table=log is None)
    if render is not None and pictured:
        _render(render, pictured, reading, backend)
    tally.finish()


def _json_row(weights: str, outcome: "Outcome[Classification]") -> dict[str, Any]:
    """An entry of the JSON output, as ``schemas/classify.schema.json`` describes it."""
    if outcome.result is None:
        return {"file": outcome.file, "error": outcome.error}
    return {"file": outcome.file, **asdict(outcome.result), "weights": weights}


def _columns(topk: int) -> list[str]:
    others = [f"{name}_{rank}" for rank in range(2, topk + 1) for name in ("label", "prob")]
    return ["file", "label", "prob", *others, "up", "up_margin", "ood_score", "warning", "error"]


def _csv_row(outcome: "Outcome[Classification]", columns: list[str]) -> list[str]:
    result = outcome.result
    if result is None:
        return [outcome.file, *[""] * (len(columns) - 2), outcome.error or ""]
    pairs = [text for each in result.top for text in (each.label, _short(each.prob))]
    scores = [_short(result.up_margin), _short(result.ood_score)]
    return [outcome.file, *pairs, result.up, *scores, result.warning or "", ""]


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _cells(outcome: "Outcome[Classification]") -> list[Any]:
    from rich.text import Text

    file, result = readable(outcome.file), outcome.result
    if result is None:
        return [file, Text("error", style="red"), "", outcome.error, "", ""]
    others = [f"{other.label} {other.prob:.1%}" for other in result.top[1:]]
    others = (", " if len(others) < _IN_A_ROW else "\n").join(others)
    up = shown_up(result.up, result.up_margin)
    return [file, result.label, f"{result.prob:.1%}", others, up, result.warning or ""]


def _render(
    path: Path, results: "dict[str, Classification]", reading: dict[str, Any], backend: Any
) -> None:
    from ea_pointcloud.io import read_cloud
    from ea_pointcloud.viz import compare

    # Read once more: held until now, all the clouds of a folder could be too many.
    clouds = [read_cloud(file, **reading) for file in results]
    titles = [f"{Path(file).name}: {each.label} {each.prob:.0%}" for file, each in results.items()]
    up = [result.up for result in results.values()]
    compare(clouds, titles, path, up=up, backend=backend)
    say(f"wrote {path}")
