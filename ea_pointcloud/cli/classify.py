"""``ea-pointcloud classify``: name the class of files."""

import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ea_pointcloud.cli._clouds import (
    PICTURES,
    answers,
    check_engine,
    check_picture,
    load_predictor,
    start_early,
)
from ea_pointcloud.cli._options import (
    AsJson,
    Device,
    DropInvalid,
    Engine,
    Model,
    Paths,
    Recursive,
    Rotations,
    Up,
    Workers,
    json_schema,
)
from ea_pointcloud.cli._report import (
    Bar,
    JsonRows,
    TablePages,
    Tally,
    finish,
    follow,
    readable,
    shown_up,
    stopped,
)
from ea_pointcloud.cli._resume import CsvLog, fingerprint
from ea_pointcloud.io.pool import without_interrupts

if TYPE_CHECKING:
    from rich.table import Table

    from ea_pointcloud.inference import Outcome
    from ea_pointcloud.inference.classify import Classification

NAME = "classify"
EXAMPLES = """Examples:

ea-pointcloud classify chair.ply

ea-pointcloud classify *.off --model runs/modelnet10-seed0 --up z --json

ea-pointcloud classify scans -r --model runs/a --up auto --csv scans.csv

ea-pointcloud classify a.ply b.obj --model runs/a --render predictions.png
"""


def run(
    paths: Paths,
    model: Model = None,
    recursive: Recursive = False,
    up: Up = "y",
    tta_rotations: Rotations = 1,
    remove_outliers: Annotated[
        bool, typer.Option("--remove-outliers", help="Leave out statistical outliers first.")
    ] = False,
    drop_invalid: DropInvalid = False,
    topk: Annotated[int, typer.Option(min=1, help="Candidates to show.")] = 3,
    csv: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write rows there as they come; the same command again goes on after the last.",
        ),
    ] = None,
    as_json: AsJson = False,
    render: Annotated[
        Path | None, typer.Option(help="Write a picture of the clouds and their names (.png).")
    ] = None,
    device: Device = "auto",
    workers: Workers = None,
    engine: Engine = "local",
    force: Annotated[
        bool, typer.Option("--force", help="Let --csv and --render replace existing files.")
    ] = False,
    schema: Annotated[bool, json_schema(NAME)] = False,
) -> None:
    """Classify each file; unreadable files are reported and skipped."""
    start_early(paths, recursive=recursive, engine=engine, workers=workers)
    with without_interrupts():
        from ea_pointcloud._checks import check_choice
        from ea_pointcloud.augment.transforms import AXES
        from ea_pointcloud.inference import classification, find_files
        from ea_pointcloud.models.pretrained import DEFAULT_CLASSIFIER

    check_choice("--up", up, (*AXES, "auto"))
    check_engine(engine, workers)
    check_picture(render, force=force)
    weights, predictor = load_predictor(model, DEFAULT_CLASSIFIER, device, engine=engine)
    predictor.check_classify()
    topk = min(topk, len(predictor.model.data_spec.class_names))
    options = {
        "up": up,
        "topk": topk,
        "tta_rotations": tta_rotations,
        "remove_outliers": remove_outliers,
        "drop_invalid": drop_invalid,
    }
    found = partial(find_files, paths, recursive=recursive, exclude=csv)
    tally = Tally(sum(1 for _ in found()), "classified")
    log = None
    if csv is not None:
        made_with = {"command": NAME, "model": weights, "weights": fingerprint(weights), **options}
        log = CsvLog(csv, _columns(topk), made_with, force=force)
        tally.earlier, tally.earlier_errors = log.count(file.path for file in found())
    pictured: dict[str, Classification] = {}

    def show(outcome: "Outcome[Classification]") -> None:
        if log is not None:
            log.write(_csv_row(outcome, topk))
        if json_rows is not None:
            json_rows.add(json_row(outcome, weights))
        if pages is not None:
            pages.add(_cells(outcome))
        if render is not None and outcome.result is not None and len(pictured) < PICTURES:
            pictured[outcome.file] = outcome.result

    try:
        with ExitStack() as stack:
            in_the_way = as_json and sys.stdout.isatty()
            bar = Bar(tally.total, completed=tally.earlier, shown=not in_the_way)
            stack.enter_context(bar)
            json_rows = stack.enter_context(JsonRows()) if as_json else None
            pages = None
            if log is not None:
                stack.enter_context(log)
            elif not as_json:
                pages = stack.enter_context(TablePages(_table, bar.pause))
            outcomes = answers(
                partial(classification, **options),
                predictor,
                (file.path for file in found() if log is None or file.path not in log.done),
                engine=engine,
                workers=workers,
                device=device,
                total=tally.total - tally.earlier,
            )
            follow(outcomes, show, tally, bar)
    except KeyboardInterrupt:
        raise stopped(tally, goes_on=log is not None) from None
    if render is not None and pictured:
        _render(render, pictured, drop_invalid=drop_invalid)
    finish(tally)


def json_row(outcome: "Outcome[Classification]", weights: str) -> dict[str, Any]:
    """An entry of the JSON output, as ``schemas/classify.schema.json`` describes it."""
    result = outcome.result
    if result is None:
        return {"file": outcome.file, "error": outcome.error}
    return {
        "file": outcome.file,
        "label": result.label,
        "prob": result.prob,
        "top": [{"label": candidate.label, "prob": candidate.prob} for candidate in result.top],
        "up": result.up,
        "up_margin": result.up_margin,
        "ood_score": result.ood_score,
        "warning": result.warning,
        "weights": weights,
    }


def _columns(topk: int) -> list[str]:
    others = [f"{name}_{place}" for place in range(2, topk + 1) for name in ("label", "prob")]
    extras = ["up", "up_margin", "ood_score", "warning"]
    return ["file", "label", "prob", *others, *extras, "error"]


def _csv_row(outcome: "Outcome[Classification]", topk: int) -> list[str]:
    result = outcome.result
    if result is None:
        empty = [""] * (len(_columns(topk)) - 2)
        return [outcome.file, *empty, outcome.error or ""]
    pairs = [text for candidate in result.top for text in (candidate.label, _short(candidate.prob))]
    extras = [_short(result.up_margin), _short(result.ood_score), result.warning or ""]
    return [outcome.file, *pairs, result.up, *extras, ""]


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _table(rows: list[list[Any]]) -> "Table":
    from rich.table import Table

    table = Table()
    table.add_column("file", overflow="fold")
    table.add_column("class")
    table.add_column("probability", justify="right")
    table.add_column("next")
    table.add_column("up")
    if any(row[-1] for row in rows):
        table.add_column("warning", style="yellow")
    for row in rows:
        table.add_row(*row[: len(table.columns)])
    return table


def _cells(outcome: "Outcome[Classification]") -> list[Any]:
    from rich.text import Text

    file, result = readable(outcome.file), outcome.result
    if result is None:
        return [file, Text("error", style="red"), "", outcome.error, "", ""]
    others = ", ".join(f"{other.label} {other.prob:.1%}" for other in result.top[1:])
    up = shown_up(result.up, result.up_margin)
    return [file, result.label, f"{result.prob:.1%}", others, up, result.warning or ""]


def _render(path: Path, results: "dict[str, Classification]", *, drop_invalid: bool) -> None:
    from ea_pointcloud.io import read_cloud
    from ea_pointcloud.viz import compare

    # Read once more: held until now, all the clouds of a folder could be too many.
    clouds = [read_cloud(file, drop_invalid=drop_invalid) for file in results]
    titles = [
        f"{Path(file).name}: {result.label} {result.prob:.0%}" for file, result in results.items()
    ]
    compare(clouds, titles, path, up=[result.up for result in results.values()])
    typer.echo(f"wrote {path}", err=True)
