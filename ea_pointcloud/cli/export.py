"""``ea-pointcloud export``: write a trained network to a file that runs without this package."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ea_pointcloud.export import Exported

NAME = "export"
EXAMPLES = """Examples:

ea-pointcloud export runs/modelnet10-seed0

ea-pointcloud export runs/modelnet10-seed0 --dynamic-points --output shapes.onnx

ea-pointcloud export runs/psb_part-seed0 --format torch-export --json
"""


def run(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="Run folder, weights folder, or USER/NAME on the hub."
        ),
    ],
    file_format: Annotated[
        str, typer.Option("--format", metavar="onnx|torch-export", help="What to write.")
    ] = "onnx",
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Where to; MODEL's name, here, with .onnx or .pt2 without it."
        ),
    ] = None,
    dynamic_points: Annotated[
        bool,
        typer.Option(
            "--dynamic-points", help="Take clouds of any size, instead of that of training."
        ),
    ] = False,
    normalize: Annotated[
        bool | None,
        typer.Option(
            "--normalize/--no-normalize",
            help="Centre and scale clouds inside (in float64); done wherever it can be.",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print what the file says as JSON, not as a table.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
) -> None:
    """Write a network, its sampling inside, to one file that runs without this package."""
    from ea_pointcloud._checks import check_choice
    from ea_pointcloud.cli._clouds import check_output
    from ea_pointcloud.export import FORMATS, check_onnx, export_model
    from ea_pointcloud.models import Classifier, Segmenter, load_model

    check_choice("--format", file_format, FORMATS)
    suffix = FORMATS[file_format]
    path = Path(Path(model).resolve().name + suffix) if output is None else output
    check_output("--output", path, (suffix,), force=force)
    if file_format == "onnx":
        check_onnx()
    network = load_model(model)
    assert isinstance(network, (Classifier, Segmenter))
    typer.echo(f"writing {path} and comparing it with {model}; takes a minute", err=True)
    found = export_model(
        network,
        path,
        file_format,
        dynamic_points=dynamic_points,
        normalize=normalize,
        force=force,
    )
    if found.difference is None:
        typer.echo(
            "not compared with the network: onnxruntime is missing; "
            "pip install 'ea-pointcloud[export]'",
            err=True,
        )
    if as_json:
        measured = {"file": str(path), "difference": found.difference, "clouds": found.clouds}
        text = json.dumps(measured | found.description, indent=2, ensure_ascii=False)
        typer.echo(text)
    else:
        _print_table(found)


def _print_table(found: "Exported") -> None:
    from rich.table import Table

    from ea_pointcloud.cli._output import console

    table = Table(show_header=False, box=None)
    table.add_row("file", f"{found.path} ({found.path.stat().st_size / 1e6:.1f} MB)")
    for kind in ("inputs", "outputs"):
        for tensor in found.description[kind]:
            shape = ", ".join(map(str, tensor["shape"]))
            text = f"{tensor['name']} ({shape}) {tensor['type']}: {tensor['meaning']}"
            table.add_row(kind.removesuffix("s"), text)
    if found.description["dynamic_points"]:
        table.add_row("points", f"{found.description['min_points']} or more")
    if found.difference is not None:
        text = f"{found.difference:.1e} at most, on {found.clouds} clouds"
        table.add_row("difference", f"{text} (network and file)")
    console().print(table)
