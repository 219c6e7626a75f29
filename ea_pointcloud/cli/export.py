"""``ea-pointcloud export``: write a trained network to a file that runs without this package."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ea_pointcloud.cli import _common as opt
from ea_pointcloud.cli._common import print_table, say

if TYPE_CHECKING:
    from ea_pointcloud.export import Exported

NAME = "export"
SUFFIXES = {
    "onnx": ".onnx",
    "torch-export": ".pt2",
}  # ea_pointcloud.export.FORMATS, not imported yet
EXAMPLES = opt.examples(
    "ea-pointcloud export runs/modelnet10-seed0",
    "ea-pointcloud export runs/a --dynamic-points --output shapes.onnx",
    "ea-pointcloud export runs/psb_part-seed0 --format torch-export --json",
)


Format = Annotated[
    str, typer.Option("--format", metavar="onnx|torch-export", help="What to write.")
]
Output = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Where to; MODEL's name, here, with .onnx or .pt2 if omitted."
    ),
]
DynamicPoints = Annotated[
    bool,
    typer.Option("--dynamic-points", help="Take clouds of any size, instead of that of training."),
]
Normalize = Annotated[
    bool | None,
    typer.Option(
        "--normalize/--no-normalize",
        help="Centre and scale clouds inside (in float64); done wherever it can be.",
    ),
]


def run(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="Run folder, weights folder, or USER/NAME on the hub."
        ),
    ],
    file_format: Format = "onnx",
    output: Output = None,
    dynamic_points: DynamicPoints = False,
    normalize: Normalize = None,
    as_json: opt.AsJson = False,
    force: opt.Force = False,
) -> None:
    """Write a network, its sampling inside, to one file that runs without this package."""
    opt.check_option("--format", file_format, SUFFIXES)
    suffix = SUFFIXES[file_format]
    path = Path(Path(model).resolve().name + suffix) if output is None else output
    opt.check_output("--output", path, (suffix,), force=force)

    from ea_pointcloud.export import check_onnx, export_model
    from ea_pointcloud.models import Classifier, Segmenter, load_model

    if file_format == "onnx":
        check_onnx()
    network = load_model(model)
    assert isinstance(network, (Classifier, Segmenter))
    say(f"writing {path} and comparing it with {model}; takes a minute")
    options = {"dynamic_points": dynamic_points, "normalize": normalize, "force": force}
    found = export_model(network, path, file_format, **options)
    if found.difference is None:
        say(
            "not compared with the network: onnxruntime is missing; "
            "pip install 'ea-pointcloud[export]'"
        )
    if as_json:
        measured = {"file": str(path), "difference": found.difference, "clouds": found.clouds}
        text = json.dumps(measured | found.description, indent=2, ensure_ascii=False)
        typer.echo(text)
    else:
        _print(found)


def _print(found: "Exported") -> None:
    rows = [("file", f"{found.path} ({found.path.stat().st_size / 1e6:.1f} MB)")]
    for kind in ("inputs", "outputs"):
        for tensor in found.description[kind]:
            shape = ", ".join(map(str, tensor["shape"]))
            text = f"{tensor['name']} ({shape}) {tensor['type']}: {tensor['meaning']}"
            rows.append((kind.removesuffix("s"), text))
    if found.description["dynamic_points"]:
        rows.append(("points", f"{found.description['min_points']} or more"))
    if found.difference is not None:
        text = f"{found.difference:.1e} at most, on {found.clouds} clouds"
        rows.append(("difference", f"{text} (network and file)"))
    print_table(rows)
