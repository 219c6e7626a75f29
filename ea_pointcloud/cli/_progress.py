"""Progress on standard error: bars on a terminal, a line every few seconds elsewhere."""

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn, TaskID

FIRST_LINE, LINES_APART = 1.5, 5.0  # seconds


def progress_bar(*columns: "ProgressColumn", shown: bool = True, **options: Any) -> "Progress":
    """A progress bar with ``columns`` on standard error, where that is a terminal."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(), *columns, TimeRemainingColumn(),
        console=console, disable=not (shown and console.is_terminal), **options,
    )  # fmt: skip


@contextmanager
def show_progress() -> Iterator[None]:
    """Inside, show the progress that the library reports."""
    from ea_pointcloud.io.progress import listening

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


def log_to_stderr(name: str) -> None:
    """Show what a logger reports, such as which mirror is tried, above a progress bar."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger(name).setLevel(logging.INFO)
