"""``ea-pointcloud segment``: name the part of every point of files."""

import sys
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
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
from ea_pointcloud.cli._resume import OutputFolder, fingerprint
from ea_pointcloud.io.pool import without_interrupts

if TYPE_CHECKING:
    import numpy as np
    from rich.table import Table

    from ea_pointcloud.inference import Outcome, Outcomes, Segmented
    from ea_pointcloud.inference.segment import Segmentation

NAME = "segment"
FORMATS = ("ply", "npz", "csv")
EXAMPLES = """Examples:

ea-pointcloud segment chair.ply --category Chair --output parts

ea-pointcloud segment *.off --model runs/a --up z --render parts.png

ea-pointcloud segment scan.pcd --model runs/a --classifier runs/b --json

ea-pointcloud segment scans -r --model runs/a --category chair --output parts
"""


@dataclass(frozen=True)
class Part:
    """What of a cloud belongs to one part."""

    name: str
    label: int
    points: int
    confidence: float  # mean over its points


@dataclass(frozen=True)
class Row:
    """What is printed of a file."""

    category: str | None
    category_from: str
    points: int
    parts: tuple[Part, ...]  # those that occur, the largest first
    confidence: float  # mean over all points
    up: str
    up_margin: float | None
    warning: str | None
    output: Path | None


def run(
    paths: Paths,
    model: Model = None,
    recursive: Recursive = False,
    category: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="What the objects are, all of them; the network decides without it.",
        ),
    ] = None,
    classifier: Annotated[
        str | None, typer.Option(metavar="WEIGHTS", help="A classifier that says what they are.")
    ] = None,
    up: Up = "y",
    tta_rotations: Rotations = 1,
    remove_outliers: Annotated[
        bool,
        typer.Option(
            "--remove-outliers",
            help="Leave out statistical outliers; they get the nearest label, at confidence 0.",
        ),
    ] = False,
    drop_invalid: DropInvalid = False,
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Write DIR/NAME.ply with labels, colours, confidence, in folders as the files "
            "are; the same command again goes on with those that are missing.",
        ),
    ] = None,
    file_format: Annotated[
        str, typer.Option("--format", metavar="ply|npz|csv", help="Of the files in DIR.")
    ] = "ply",
    as_json: AsJson = False,
    render: Annotated[
        Path | None, typer.Option(help="Write a picture of the clouds and their parts (.png).")
    ] = None,
    device: Device = "auto",
    workers: Workers = None,
    engine: Engine = "local",
    force: Annotated[
        bool, typer.Option("--force", help="Let --output and --render replace existing files.")
    ] = False,
    schema: Annotated[bool, json_schema(NAME)] = False,
) -> None:
    """Name the part of every point; a file that cannot be read is reported, the others go on."""
    start_early(paths, recursive=recursive, engine=engine, workers=workers)
    with without_interrupts():
        from ea_pointcloud._checks import check_choice
        from ea_pointcloud.augment.transforms import AXES
        from ea_pointcloud.inference import find_files, segmentation
        from ea_pointcloud.inference.predictor import Predictor
        from ea_pointcloud.models.pretrained import DEFAULT_SEGMENTER

    check_choice("--up", up, (*AXES, "auto"))
    check_choice("--format", file_format, FORMATS)
    check_engine(engine, workers)
    check_picture(render, force=force)
    if category is not None and classifier is not None:
        raise ValueError("--category and --classifier both name the category; give one of them")
    weights, predictor = load_predictor(model, DEFAULT_SEGMENTER, device, engine=engine)
    loaded_on = "cpu" if engine == "ray" else device
    namer = None if classifier is None else Predictor.from_pretrained(classifier, loaded_on)
    predictor.check_segment(category=category, classifier=namer)

    options = {
        "up": up,
        "tta_rotations": tta_rotations,
        "remove_outliers": remove_outliers,
        "drop_invalid": drop_invalid,
    }
    found = partial(find_files, paths, recursive=recursive, exclude=output)
    tally = Tally(sum(1 for _ in found()), "segmented")
    folder = None
    if output is not None:
        made_with = {
            "command": NAME,
            "model": weights,
            "weights": fingerprint(weights),
            "category": None if category is None else category.casefold(),
            "classifier": None if classifier is None else fingerprint(classifier),
            **options,
        }
        folder = OutputFolder(output, file_format, made_with)
        tally.earlier = folder.begin(found(), paths, force=force)
    pictured: dict[str, Segmented] = {}

    def show(told: "Outcome[Row]") -> None:
        if json_rows is not None:
            json_rows.add(json_row(told, weights))
        if pages is not None:
            pages.add(_cells(told))

    def rows(answered: "Outcomes[Segmented]") -> "Outcomes[Row]":
        with closing(answered):
            for outcome in answered:
                told = _told(outcome, folder)
                if render is not None and outcome.result and len(pictured) < PICTURES:
                    pictured[outcome.file] = outcome.result
                yield told

    try:
        with ExitStack() as stack:
            in_the_way = as_json and sys.stdout.isatty()
            bar = Bar(tally.total, completed=tally.earlier, shown=not in_the_way)
            stack.enter_context(bar)
            json_rows = stack.enter_context(JsonRows()) if as_json else None
            pages = None if as_json else stack.enter_context(TablePages(_table, bar.pause))
            answered = answers(
                partial(segmentation, category=category, classifier=namer, **options),
                predictor,
                (file.path for file in found()) if folder is None else folder.missing(found()),
                engine=engine,
                workers=workers,
                device=device,
                total=tally.total - tally.earlier,
            )
            follow(rows(answered), show, tally, bar)
    except KeyboardInterrupt:
        raise stopped(tally, goes_on=folder is not None) from None
    if folder is not None and tally.done > tally.errors:
        typer.echo(f"wrote {tally.done - tally.errors:,} files into {output}", err=True)
    if render is not None and pictured:
        _render(render, pictured)
    finish(tally)


def _told(outcome: "Outcome[Segmented]", folder: OutputFolder | None) -> "Outcome[Row]":
    """What is printed of a file, after its points were written if they shall be."""
    from ea_pointcloud.inference import Outcome
    from ea_pointcloud.io import write_cloud
    from ea_pointcloud.viz import part_colors

    output = None if folder is None else folder.take(outcome.file)
    if outcome.result is None:
        return Outcome(outcome.file, error=outcome.error)
    parts = outcome.result.parts
    if output is not None:
        painted = replace(
            outcome.result.cloud,
            labels=parts.labels,
            colors=part_colors(parts.labels),
            confidence=parts.confidence,
        )
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
            write_cloud(output, painted)
        except (OSError, ValueError) as error:
            return Outcome(outcome.file, error=str(error))
    return Outcome(outcome.file, _row(parts, output))


def _row(result: "Segmentation", output: Path | None) -> Row:
    import numpy as np

    labels, counts = np.unique(result.labels, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    parts = tuple(
        Part(
            name=result.names[label],
            label=int(label),
            points=int(count),
            confidence=_mean(result.confidence[result.labels == label]),
        )
        for label, count in zip(labels[order], counts[order], strict=True)
    )
    return Row(
        category=result.category,
        category_from=result.category_from,
        points=len(result.labels),
        parts=parts,
        confidence=_mean(result.confidence),
        up=result.up,
        up_margin=result.up_margin,
        warning=result.warning,
        output=output,
    )


def _mean(values: "np.ndarray") -> float:
    return float(values.mean(dtype="f8"))


def json_row(outcome: "Outcome[Row]", weights: str) -> dict[str, Any]:
    """An entry of the JSON output, as ``schemas/segment.schema.json`` describes it."""
    row = outcome.result
    if row is None:
        return {"file": outcome.file, "error": outcome.error}
    return {
        "file": outcome.file,
        "category": row.category,
        "category_from": row.category_from,
        "points": row.points,
        "parts": [
            {"part": part.name, "points": part.points, "confidence": part.confidence}
            for part in row.parts
        ],
        "up": row.up,
        "up_margin": row.up_margin,
        "warning": row.warning,
        "output": None if row.output is None else str(row.output),
        "weights": weights,
    }


def _short(part: Part, row: Row) -> str:
    """The name of a part without the category that stands beside it."""
    return part.name.removeprefix(f"{row.category}/")


def _table(rows: list[list[Any]]) -> "Table":
    from rich.table import Table

    table = Table()
    table.add_column("file", overflow="fold")
    table.add_column("category")
    table.add_column("from")
    table.add_column("points", justify="right")
    table.add_column("parts")
    table.add_column("mean confidence", justify="right")
    table.add_column("up")
    if any(row[-1] for row in rows):
        table.add_column("warning", style="yellow")
    for row in rows:
        table.add_row(*row[: len(table.columns)])
    return table


def _cells(outcome: "Outcome[Row]") -> list[Any]:
    from rich.text import Text

    file, row = readable(outcome.file), outcome.result
    if row is None:
        return [file, Text("error", style="red"), "", "", outcome.error, "", "", ""]
    shares = Text(", ").join(
        Text(f"{_short(part, row)} {part.points / row.points:.1%}", _style(part))
        for part in row.parts
    )
    points, confidence = f"{row.points:,}", f"{row.confidence:.3f}"
    return [
        file,
        row.category or "-",
        row.category_from,
        points,
        shares,
        confidence,
        shown_up(row.up, row.up_margin),
        row.warning or "",
    ]


def _style(part: Part) -> str:
    red, green, blue = (round(255 * float(value)) for value in _colors([part])[0])
    return f"rgb({red},{green},{blue})"


def _colors(parts: "tuple[Part, ...] | list[Part]") -> "np.ndarray":
    import numpy as np

    from ea_pointcloud.viz import part_colors

    return part_colors(np.array([part.label for part in parts]))


def _render(path: Path, pictured: "dict[str, Segmented]") -> None:
    from ea_pointcloud.viz import compare

    titles, labels, ups = [], [], []
    for file, (_, parts) in pictured.items():
        name, category = Path(file).name, parts.category
        titles.append(f"{name}: {category}" if category else name)
        names = tuple(part.removeprefix(f"{category}/") for part in parts.names)
        labels.append(replace(parts, names=names))
        ups.append(parts.up)
    compare([cloud for cloud, _ in pictured.values()], titles, path, labels=labels, up=ups)
    typer.echo(f"wrote {path}", err=True)
