"""``ea-pointcloud benchmark``: time operators, networks, files or data sets on this machine."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ea_pointcloud.benchmark.report import Table

NAME = "benchmark"
EXAMPLES = """Examples:

ea-pointcloud benchmark ops

ea-pointcloud benchmark ops --quick --only knn --only "fps 32x1024"

ea-pointcloud benchmark models --device cuda --json --out models.json

ea-pointcloud benchmark train --device cuda

ea-pointcloud benchmark infer --quick

ea-pointcloud benchmark io

ea-pointcloud benchmark data

ea-pointcloud benchmark attention --only growth
"""


def run(
    what: Annotated[
        str,
        typer.Argument(
            metavar="ops|models|train|infer|io|data|attention",
            help="Operators, networks, training and inference in depth, files, data, or attention.",
        ),
    ],
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Part of a case's name, or a model; repeatable."),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Small jobs and few rounds: a look, not a record.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the JSON there.")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Let --out replace an existing file.")
    ] = False,
) -> None:
    """Time our operators beside what else is installed, networks, files, data, or attention."""
    from ea_pointcloud._checks import check_choice
    from ea_pointcloud._device import resolve_device
    from ea_pointcloud.benchmark import BENCHMARKS
    from ea_pointcloud.benchmark.report import check_target, failures, tables, write_report

    check_choice("what", what, BENCHMARKS)
    check_target(out, force=force)
    chosen = resolve_device(device)
    typer.echo(f"on {chosen}", err=True)
    report = BENCHMARKS[what](
        chosen, only=only or [], quick=quick, progress=lambda line: typer.echo(line, err=True)
    )
    if out is not None:
        write_report(report, out)
        typer.echo(f"wrote {out}", err=True)
    if as_json:
        typer.echo(json.dumps(report, indent=2, allow_nan=False))
    else:
        for table in tables(report):
            _print(table)
    for line in failures(report):
        typer.echo(f"error: {line}", err=True)
    if failures(report):
        sys.exit(1)


def _print(table: "Table") -> None:
    from rich import table as rich_table

    from ea_pointcloud.cli._output import console

    shown = rich_table.Table(title=table.title)
    for index, heading in enumerate(table.headings):
        shown.add_column(heading, justify="left" if index < 2 else "right")
    for row in table.rows:
        shown.add_row(*row)
    console().print(shown)
