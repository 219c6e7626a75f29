"""``ea-pointcloud segment``: name the part of every point of files."""

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import numpy as np

    from ea_pointcloud.io import Cloud
    from ea_pointcloud.predictor import Segmentation

NAME = "segment"
FORMATS = ("ply", "npz", "csv")
EXAMPLES = """Examples:

ea-pointcloud segment chair.ply --model runs/a --category Chair --out parts

ea-pointcloud segment *.off --model runs/a --up z --render parts.png

ea-pointcloud segment scan.pcd --model runs/a --classifier runs/b --json
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
    output: Path | None


def run(
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Clouds or meshes.")],
    model: Annotated[
        str, typer.Option(help="Run folder, weights folder, or USER/NAME on the hub.")
    ],
    category: Annotated[
        str | None, typer.Option(metavar="NAME", help="What the objects are, all of them.")
    ] = None,
    classifier: Annotated[
        str | None, typer.Option(metavar="WEIGHTS", help="A classifier that says what they are.")
    ] = None,
    up: Annotated[str, typer.Option(help="Axis that is up in the files: x, y or z.")] = "y",
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write DIR/NAME.ply with labels, colours, confidence."),
    ] = None,
    file_format: Annotated[
        str, typer.Option("--format", metavar="ply|npz|csv", help="Of the files in DIR.")
    ] = "ply",
    render: Annotated[
        Path | None, typer.Option(help="Write a picture of the clouds and their parts (.png).")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    drop_invalid: Annotated[
        bool, typer.Option("--drop-invalid", help="Leave out points that are not finite.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Let --out and --render replace existing files.")
    ] = False,
) -> None:
    """Name the part of every point; a file that cannot be read is reported, the others go on."""
    from ea_pointcloud._checks import check_choice
    from ea_pointcloud.cli._clouds import check_picture, each_cloud
    from ea_pointcloud.io import write_cloud
    from ea_pointcloud.predictor import Predictor
    from ea_pointcloud.transforms import AXES
    from ea_pointcloud.viz import part_colors

    check_choice("--up", up, AXES)
    check_choice("--format", file_format, FORMATS)
    check_picture(render, force=force)
    outputs = {} if out is None else _outputs(files, out, file_format, force=force)
    if category is not None and classifier is not None:
        raise ValueError("--category and --classifier both name the category; give one of them")
    predictor = Predictor.from_pretrained(model, device)
    namer = None if classifier is None else Predictor.from_pretrained(classifier, device)
    predictor.check_segment(category=category, classifier=namer)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)

    pictured: dict[str, tuple[Cloud, Segmentation]] = {}

    def segment(file: str, cloud: "Cloud") -> Row:
        result = predictor.segment(cloud, up=up, category=category, classifier=namer)
        output = outputs.get(file)
        if output is not None:
            painted = replace(
                cloud,
                labels=result.labels,
                colors=part_colors(result.labels),
                confidence=result.confidence,
            )
            write_cloud(output, painted, overwrite=force)
        if render is not None:
            pictured[file] = cloud, result
        return _row(result, output)

    rows, errors = each_cloud(files, segment, drop_invalid=drop_invalid)
    if as_json:
        shown = [_json_row(file, rows.get(file), errors.get(file)) for file in files]
        typer.echo(json.dumps(shown, indent=2))
    else:
        _print_table(files, rows, errors)
    if outputs and rows:
        typer.echo(f"wrote {len(rows)} of {len(files)} files into {out}", err=True)
    if render is not None and pictured:
        _render(render, pictured, rows, up)
    if errors:
        sys.exit(1)


def _outputs(files: list[str], folder: Path, suffix: str, *, force: bool) -> dict[str, Path]:
    """File -> where its points go; raises before the work for what could not be written after."""
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"--out {folder} is a file; name a folder")
    inputs = {Path(file).resolve(): file for file in files}
    taken: dict[Path, str] = {}
    for file in files:
        output = folder / f"{Path(file).stem}.{suffix}"
        if output in taken:
            raise ValueError(
                f"{taken[output]} and {file} would both be written to {output}; rename one of "
                "them, or segment them into different folders"
            )
        if output.resolve() in inputs:
            raise ValueError(
                f"{output} would replace the input {inputs[output.resolve()]}; "
                "choose another folder for --out"
            )
        if output.exists() and not force:
            raise FileExistsError(f"{output} exists; choose another folder or add --force")
        taken[output] = file
    return {file: output for output, file in taken.items()}


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
        output=output,
    )


def _mean(values: "np.ndarray") -> float:
    return float(values.mean(dtype="f8"))


def _json_row(file: str, row: Row | None, error: str | None) -> dict[str, Any]:
    if row is None:
        return {"file": file, "error": error}
    return {
        "file": file,
        "category": row.category,
        "category_from": row.category_from,
        "points": row.points,
        "parts": [
            {"part": part.name, "points": part.points, "confidence": part.confidence}
            for part in row.parts
        ],
        "output": None if row.output is None else str(row.output),
    }


def _short(part: Part, row: Row) -> str:
    """The name of a part without the category that stands beside it."""
    return part.name.removeprefix(f"{row.category}/")


def _print_table(files: list[str], rows: dict[str, Row], errors: dict[str, str]) -> None:
    from rich.table import Table
    from rich.text import Text

    from ea_pointcloud.cli._output import console

    table = Table()
    table.add_column("file", overflow="fold")
    table.add_column("category")
    table.add_column("from")
    table.add_column("points", justify="right")
    table.add_column("parts")
    table.add_column("mean confidence", justify="right")
    for file in files:
        if file in errors:
            table.add_row(file, Text("error", style="red"), "", "", errors[file], "")
            continue
        row = rows[file]
        shares = Text(", ").join(
            Text(f"{_short(part, row)} {part.points / row.points:.1%}", _style(part))
            for part in row.parts
        )
        points, confidence = f"{row.points:,}", f"{row.confidence:.3f}"
        table.add_row(file, row.category or "-", row.category_from, points, shares, confidence)
    console().print(table)


def _style(part: Part) -> str:
    red, green, blue = (round(255 * float(value)) for value in _colors([part])[0])
    return f"rgb({red},{green},{blue})"


def _colors(parts: "tuple[Part, ...] | list[Part]") -> "np.ndarray":
    import numpy as np

    from ea_pointcloud.viz import part_colors

    return part_colors(np.array([part.label for part in parts]))


def _render(
    path: Path,
    pictured: "dict[str, tuple[Cloud, Segmentation]]",
    rows: dict[str, Row],
    up: str,
) -> None:
    from ea_pointcloud.viz import contact_sheet, part_colors

    titles, legends = [], []
    for file in pictured:
        row, name = rows[file], Path(file).name
        titles.append(f"{name}: {row.category}" if row.category else name)
        shares = [f"{_short(part, row)} {part.points / row.points:.0%}" for part in row.parts]
        legends.append(dict(zip(shares, _colors(row.parts), strict=True)))
    contact_sheet(
        [cloud.xyz for cloud, _ in pictured.values()],
        titles,
        path,
        colors=[part_colors(result.labels) for _, result in pictured.values()],
        legends=legends,
        up=up,
    )
    typer.echo(f"wrote {path}", err=True)
