"""Progress on standard error: bars on a terminal, a line every few seconds elsewhere."""

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console

from ea_pointcloud.cli._common import HarmlessFormatter, say

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
            say(f"{what}: {done:,} of {total:,}")
            self.next = now + LINES_APART


def log_to_stderr(name: str) -> None:
    """Show what a logger reports, such as which mirror is tried, above a progress bar."""
    handler = logging.StreamHandler()
    handler.setFormatter(HarmlessFormatter())
    logging.basicConfig(handlers=[handler])
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
        say(str(self))
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
        counts: dict[str, Any] = {"total": tally.total, "completed": tally.earlier}
        self._task = self._progress.add_task("files", **counts, rate="")

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
