"""The console command ``ea-pointcloud``: one file a command, heavy imports inside the commands."""

import logging
import sys
from importlib.metadata import version
from typing import Annotated

import typer

from ea_pointcloud._files import printable
from ea_pointcloud.cli import (
    classify,
    data,
    evaluate,
    explain,
    export,
    info,
    segment,
    train,
    view,
)
from ea_pointcloud.cli._common import HarmlessFormatter
from ea_pointcloud.cli._progress import show_progress

app = typer.Typer(
    name="ea-pointcloud",
    help="Classify and segment point clouds and meshes with external attention.",
    epilog="Start with: ea-pointcloud classify FILE, or ea-pointcloud train procedural",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


def _print_version(shown: bool) -> None:
    if shown:
        typer.echo(version("ea-pointcloud"))
        raise typer.Exit


@app.callback()
def _root(
    show_version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    pass


for command in (info, train, evaluate, classify, segment, view, explain, export):
    app.command(command.NAME, epilog=command.EXAMPLES)(command.run)
app.add_typer(data.app, name=data.NAME)


def main() -> None:
    """Run the command line; what a user can get wrong ends in one line and exit status 1."""
    if logging.lastResort is not None:  # prints the warnings of the library
        logging.lastResort.setFormatter(HarmlessFormatter())
    try:
        with show_progress():
            app()
    except (ValueError, OSError, ImportError, MemoryError, FloatingPointError) as error:
        sys.stderr.write(f"error: {printable(str(error))}\n")
        sys.exit(1)
