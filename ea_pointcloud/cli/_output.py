"""What commands print: tables, rows of JSON, progress, a summary."""

import json
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console

from ea_pointcloud._files import printable

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn

_PIPE_WIDTH = 400  # no reader of a pipe wants file names broken over lines
PAGE = 200  # rows a table holds before it is printed; thousands would wait in memory for the last


def print_table(
    rows: Iterable[Sequence[Any]],
    headings: Sequence[str] = (),
    *,
    title: str | None = None,
    right: Sequence[str] = (),
) -> None:
    """Print a table on standard output.

    As wide as the terminal, or unbroken lines where the output is a file or pipe.

    Args:
        rows: cells, texts or what Rich renders.
        headings: of the columns; if omitted, rows are names and values without a frame.
        title: above the table.
        right: headings of the columns that are aligned to the right.
    """
    from rich.table import Table

    table = Table(title=title) if headings else Table(show_header=False, box=None)
    for heading in headings:
        if heading == "file":
            table.add_column(heading, overflow="fold")
        else:
            style = "yellow" if heading == "warning" else None
            table.add_column(heading, justify="right" if heading in right else "left", style=style)
    for row in rows:
        table.add_row(*map(_harmless, row))
    print_text(table)


def print_text(text: Any) -> None:
    """Print a text or table on standard output."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else _PIPE_WIDTH
    Console(width=width, markup=False, highlight=False, emoji=False).print(_harmless(text))


def _harmless(cell: Any) -> Any:
    """A text without escape sequences, which names of files, classes and parts may hold."""
    from rich.text import Text

    if isinstance(cell, Text) and not cell.plain.isprintable():
        return Text(printable(cell.plain), cell.style)
    return printable(cell) if isinstance(cell, str) else cell


def print_json(value: object) -> None:
    """Print a value as JSON; what JSON has no number for is an error."""
    typer.echo(json.dumps(value, indent=2, allow_nan=False))


def readable(path: str) -> str:
    """A path that can be printed, whatever bytes its name is made of."""
    return os.fsencode(path).decode("utf-8", "replace")


def shown_up(up: str, margin: float | None) -> str:
    """The up axis and, where it was found, by how much it was preferred."""
    return up if margin is None else f"{up} (+{margin:.2f})"


class JsonRows:
    """A JSON list on standard output, an entry at a time."""

    def __init__(self) -> None:
        self._opening = "[\n"

    def __enter__(self) -> "JsonRows":
        return self

    def __exit__(self, *_: object) -> None:
        """Close the list, also of a run that was stopped."""
        sys.stdout.write("[]\n" if self._opening == "[\n" else "\n]\n")

    def add(self, row: dict[str, Any]) -> None:
        try:
            text = json.dumps(row, indent=2, allow_nan=False)
        except ValueError:  # JSON has no NaN
            text = json.dumps(_finite(row), indent=2)
        text = text.replace("\n", "\n  ")
        sys.stdout.write(f"{self._opening}  {text}")
        self._opening = ",\n"


def _finite(value: Any) -> Any:
    """``value`` with None in place of numbers that are not finite."""
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class TablePages:
    """Tables on standard output, a page of rows each; the last column is left out where empty."""

    def __init__(
        self,
        headings: Sequence[str],
        right: Sequence[str],
        pause: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._headings, self._right, self._pause = headings, right, pause
        self._rows: list[list[Any]] = []

    def __enter__(self) -> "TablePages":
        return self

    def __exit__(self, *_: object) -> None:
        if self._rows:
            self._print()

    def add(self, row: list[Any]) -> None:
        self._rows.append(row)
        if len(self._rows) == PAGE:
            self._print()

    def _print(self) -> None:
        count = len(self._headings) - (not any(row[-1] for row in self._rows))
        with self._pause():
            print_table([row[:count] for row in self._rows], self._headings[:count],
                        right=self._right)  # fmt: skip
        self._rows = []


def progress_bar(*columns: "ProgressColumn", shown: bool = True, **options: Any) -> "Progress":
    """A progress bar with ``columns`` on standard error, where that is a terminal."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"), BarColumn(), *columns, TimeRemainingColumn(),
        console=console, disable=not (shown and console.is_terminal), **options,
    )  # fmt: skip


def log_to_stderr(name: str) -> None:
    """Show what a logger reports, such as which mirror is tried, above a progress bar."""
    import logging

    logging.basicConfig(format="%(message)s")
    logging.getLogger(name).setLevel(logging.INFO)


@dataclass
class Tally:
    """How many files there are, are done, and failed."""

    total: int
    verb: str  # "classified"
    earlier: int = 0  # done by an earlier run, and of these
    earlier_errors: int = 0
    done: int = 0
    errors: int = 0
    started: float = field(default_factory=time.perf_counter)

    @property
    def rate(self) -> float:
        """Files a second of this run."""
        return self.done / max(time.perf_counter() - self.started, 1e-9)

    @property
    def failed(self) -> int:
        """Files without a result, of this run or an earlier one."""
        return self.errors + self.earlier_errors

    def __str__(self) -> str:
        """One line for standard error."""
        good = self.earlier + self.done - self.failed
        parts = [f"{good:,} of {self.total:,} files {self.verb}"]
        if self.failed:
            parts.append(f"{self.failed:,} failed")
        if self.earlier:
            parts.append(f"{self.earlier:,} by an earlier run")
        if self.done:
            parts.append(f"{self.rate:.1f} files/s")
        return ", ".join(parts)

    def finish(self) -> None:
        """Print the summary on standard error; exit status 1 if a file failed, now or earlier."""
        typer.echo(str(self), err=True)
        if self.failed:
            raise typer.Exit(1)


class FileBar:
    """Progress on standard error: files, those that failed, files a second, time left."""

    def __init__(self, tally: Tally, *, shown: bool) -> None:
        from rich.progress import MofNCompleteColumn, TextColumn

        # Standard output may be a file while the bar is on a terminal.
        self._progress = progress_bar(
            MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), shown=shown, transient=True,
            redirect_stdout=False, redirect_stderr=False,
        )  # fmt: skip
        self._tally = tally
        self._task = self._progress.add_task(
            "files", total=tally.total, completed=tally.earlier, rate=""
        )

    def __enter__(self) -> "FileBar":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def step(self, *, failed: bool) -> None:
        """One more file is done."""
        tally = self._tally
        tally.done += 1
        tally.errors += failed
        self._progress.update(
            self._task,
            advance=1,
            description=f"files ({tally.errors} failed)" if tally.errors else "files",
            rate=f"{tally.rate:.1f} files/s",
        )

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Inside, the terminal is free for something else."""
        self._progress.stop()
        yield
        self._progress.start()
