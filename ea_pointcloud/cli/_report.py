"""How the results of many files are shown while they come: progress, JSON, tables, a summary."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from ea_pointcloud.inference import Outcome, Outcomes

Result = TypeVar("Result")
PAGE = 200  # rows a table holds before it is printed; thousands would wait in memory for the last


def readable(path: str) -> str:
    """A path that can be printed, whatever bytes its name is made of."""
    return os.fsencode(path).decode("utf-8", "replace")


def shown_up(up: str, margin: float | None) -> str:
    """The axis taken for up and, where it was found, by how much it was preferred."""
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
        text = json.dumps(row, indent=2).replace("\n", "\n  ")
        sys.stdout.write(f"{self._opening}  {text}")
        self._opening = ",\n"


class TablePages:
    """Tables on standard output, a page of rows each.

    Args:
        table: makes a table of rows of cells.
        pause: inside, nothing else is drawn on the terminal.
    """

    def __init__(
        self,
        table: "Callable[[list[list[Any]]], Table]",
        pause: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._table, self._pause = table, pause
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
        from ea_pointcloud.cli._output import console

        with self._pause():
            console().print(self._table(self._rows))
        self._rows = []


class Bar:
    """Progress on standard error: files, those that failed, files a second, time left.

    Args:
        total: files.
        completed: those that an earlier run did.
        shown: false where it would run into the results.
    """

    def __init__(self, total: int, *, completed: int = 0, shown: bool = True) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not (shown and sys.stderr.isatty()),
            transient=True,
            # Standard output may be a file while the bar is on a terminal.
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self._progress.add_task("files", total=total, completed=completed, rate="")

    def __enter__(self) -> "Bar":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def step(self, tally: "Tally") -> None:
        """One more file is done."""
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


@dataclass
class Tally:
    """What became of the files so far."""

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


def follow(
    outcomes: "Outcomes[Result]",
    show: "Callable[[Outcome[Result]], None]",
    tally: Tally,
    bar: Bar,
) -> None:
    """Count and show every outcome as it comes; what made them is closed at the end."""
    with closing(outcomes):
        for outcome in outcomes:
            show(outcome)
            tally.done += 1
            tally.errors += outcome.error is not None
            bar.step(tally)


def stopped(tally: Tally, *, goes_on: bool) -> typer.Exit:
    """Say after Ctrl-C how far it came, and how to go on where that is possible."""
    done = f"{tally.earlier + tally.done:,} of {tally.total:,}"
    remedy = "; run the same command again to go on" if goes_on else ""
    typer.echo(f"stopped after {done} files{remedy}", err=True)
    return typer.Exit(130)


def finish(tally: Tally) -> None:
    """Print the summary on standard error; exit status 1 if a file failed, now or earlier."""
    typer.echo(str(tally), err=True)
    if tally.failed:
        raise typer.Exit(1)
