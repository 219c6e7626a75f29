"""The console command ``ea-pointcloud``: its commands, a file each, and the progress they show."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

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
from ea_pointcloud.cli._common import progress_bar

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

FIRST_LINE, LINES_APART = 1.5, 5.0  # seconds

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
    try:
        with show_progress():
            app()
    except (ValueError, OSError, ImportError, MemoryError, FloatingPointError) as error:
        sys.stderr.write(f"error: {printable(str(error))}\n")
        sys.exit(1)


@contextmanager
def show_progress() -> Iterator[None]:
    """Inside, show the progress that the library reports."""
    from ea_pointcloud.io.pool import listening

    if os.environ.get("LOCAL_RANK", "0") != "0":  # one of several processes that train together
        yield
        return
    listener = _Bars() if Console(stderr=True).is_terminal else _Lines()
    with listening(listener):
        yield


class _Bars:
    """A bar for each loop that is under way."""

    def __init__(self) -> None:
        self.bars: Progress | None = None
        self.tasks: dict[str, TaskID] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        if self.bars is None:
            from rich.progress import MofNCompleteColumn

            self.bars = progress_bar(MofNCompleteColumn(), transient=True)
        if what not in self.tasks:
            self.tasks[what] = self.bars.add_task(what, total=total)
            self.bars.start()
        self.bars.update(self.tasks[what], completed=done)
        if done == total:
            self.bars.remove_task(self.tasks.pop(what))
            if not self.tasks:
                self.bars.stop()


class _Lines:
    """A line now and then for a loop that takes long enough to need one."""

    def __init__(self) -> None:
        self.next: float | None = None

    def __call__(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if self.next is None:
            self.next = now + FIRST_LINE
        if 0 < done < total and now >= self.next:
            typer.echo(f"{what}: {done:,} of {total:,}", err=True)
            self.next = now + LINES_APART
