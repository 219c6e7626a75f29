"""``ea-pointcloud classify``: name the class of files."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ea_pointcloud.io import Cloud
    from ea_pointcloud.predictor import Classification

NAME = "classify"
EXAMPLES = """Examples:

ea-pointcloud classify chair.ply --model runs/modelnet10-seed0

ea-pointcloud classify *.off --model runs/modelnet10-seed0 --up z --json

ea-pointcloud classify a.ply b.obj --model runs/a --render predictions.png
"""


def run(
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Clouds or meshes.")],
    model: Annotated[
        str, typer.Option(help="Run folder, weights folder, or USER/NAME on the hub.")
    ],
    up: Annotated[str, typer.Option(help="Axis that is up in the files: x, y or z.")] = "y",
    top: Annotated[int, typer.Option(min=1, help="Candidates to show.")] = 3,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    render: Annotated[
        Path | None, typer.Option(help="Write a picture of the clouds and their names (.png).")
    ] = None,
    drop_invalid: Annotated[
        bool, typer.Option("--drop-invalid", help="Leave out points that are not finite.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Let --render replace an existing file.")
    ] = False,
) -> None:
    """Name the class of each file; a file that cannot be read is reported, the others go on."""
    from ea_pointcloud._checks import check_choice
    from ea_pointcloud.cli._clouds import check_picture, each_cloud
    from ea_pointcloud.predictor import Predictor
    from ea_pointcloud.transforms import AXES

    check_choice("--up", up, AXES)
    check_picture(render, force=force)
    predictor = Predictor.from_pretrained(model, device)
    predictor.check_classify()

    pictured: dict[str, Cloud] = {}

    def classify(file: str, cloud: "Cloud") -> "Classification":
        result = predictor.classify(cloud, up=up, top=top)
        if render is not None:
            pictured[file] = cloud
        return result

    results, errors = each_cloud(files, classify, drop_invalid=drop_invalid)

    if as_json:
        rows = [_json_row(file, results.get(file), errors.get(file)) for file in files]
        typer.echo(json.dumps(rows, indent=2))
    else:
        _print_table(files, results, errors)
    if render is not None and pictured:
        _render(render, pictured, results, up)
    if errors:
        sys.exit(1)


def _json_row(file: str, result: "Classification | None", error: str | None) -> dict[str, Any]:
    if result is None:
        return {"file": file, "error": error}
    top = [{"label": candidate.label, "prob": candidate.prob} for candidate in result.top]
    return {"file": file, "label": result.label, "prob": result.prob, "top": top}


def _print_table(
    files: list[str], results: "dict[str, Classification]", errors: dict[str, str]
) -> None:
    from rich.table import Table
    from rich.text import Text

    from ea_pointcloud.cli._output import console

    table = Table()
    table.add_column("file", overflow="fold")
    table.add_column("class")
    table.add_column("probability", justify="right")
    table.add_column("next")
    for file in files:
        if file in errors:
            table.add_row(file, Text("error", style="red"), "", errors[file])
            continue
        result = results[file]
        others = ", ".join(f"{other.label} {other.prob:.1%}" for other in result.top[1:])
        table.add_row(file, result.label, f"{result.prob:.1%}", others)
    console().print(table)


def _render(
    path: Path, clouds: "dict[str, Cloud]", results: "dict[str, Classification]", up: str
) -> None:
    from ea_pointcloud.viz import contact_sheet

    titles = [
        f"{Path(file).name}: {result.label} {result.prob:.0%}" for file, result in results.items()
    ]
    contact_sheet([clouds[file].xyz for file in results], titles, path, up=up)
    typer.echo(f"wrote {path}", err=True)
