"""The run of a command over many files: workers, resume, rows as they come, exit status."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import typer

from ea_pointcloud.cli._common import RECIPE_FILE, JsonRows, TablePages, check_option, say
from ea_pointcloud.cli._progress import FileBar, Tally

if TYPE_CHECKING:
    from ea_pointcloud.inference import Found, Job, Outcome, Outcomes
    from ea_pointcloud.inference.predictor import Predictor

Result = TypeVar("Result")
Row = TypeVar("Row")
ENGINES = ("local", "ray")
# Those of ``inference.batch``, which takes seconds to import.
PRELOAD = ("ea_pointcloud.inference.batch", "ea_pointcloud.ops._cpu")
_LISTED = 12  # classes of the pretrained weights that are named
PICTURES = 100  # clouds in a picture; more would be too small to see and too many to hold


class Store(Protocol):
    """Results on disk that a later run continues."""

    def __enter__(self) -> Any: ...

    def __exit__(self, *_: object) -> None: ...

    def begin(self, found: "Iterable[Found]") -> tuple[int, int]:
        """How many of the files an earlier run did, and how many of these failed."""
        ...

    def missing(self, found: "Iterable[Found]") -> Iterator[str]:
        """Paths of the files that are left to do."""
        ...


@dataclass(frozen=True)
class Show(Generic[Result, Row]):
    """What is made of an outcome."""

    verb: str  # for the summary
    # Called once for every outcome, where results are written; returns what is shown.
    take: "Callable[[Outcome[Result]], Outcome[Row]]"
    json: "Callable[[Outcome[Row]], dict[str, Any]]"  # an entry of the JSON output
    cells: "Callable[[Outcome[Row]], list[Any]]"  # a row of the table
    headings: Sequence[str]  # of the table; the last is left out where it is empty
    right: Sequence[str]  # those aligned to the right


@dataclass(frozen=True)
class Batch:
    """Files, and the processes that work on them."""

    paths: Sequence[str]  # files and folders
    recursive: bool  # also the folders inside
    exclude: Path | None  # results of this run, which are no input
    engine: str  # "local" or "ray"
    workers: int | None  # of the local engine; None chooses by the cores and the files
    device: str  # of the network

    def __post_init__(self) -> None:
        """Check, then start workers before this process spends seconds on its own imports."""
        from ea_pointcloud.io.pool import FEW, default_workers, import_ahead, without_interrupts

        _check_engine(self.engine, self.workers)
        workers = self.workers
        if workers is None and self.engine == "local":
            workers = default_workers(len(list(islice(self._names(), FEW))))
        if workers:
            import_ahead(PRELOAD)
        with without_interrupts():
            import ea_pointcloud.inference.predictor  # noqa: F401

    def _names(self) -> Iterator[str]:
        for path in self.paths:
            if not Path(path).is_dir():
                yield path
                continue
            for _, _, inside in os.walk(path):
                yield from inside
                if not self.recursive:
                    break

    def find(self) -> "Iterator[Found]":
        """The files, in order."""
        from ea_pointcloud.inference import find_files

        return find_files(self.paths, recursive=self.recursive, exclude=self.exclude)

    def load(self, model: str | None, default: str) -> "tuple[str, Predictor]":
        """The name of ``model`` and its predictor; ``default`` if omitted, which is announced."""
        from ea_pointcloud._device import keep_freed_memory
        from ea_pointcloud.inference.predictor import Predictor

        # Ray's workers choose their own device.
        device = "cpu" if self.engine == "ray" else self.device
        predictor = Predictor.from_pretrained(default if model is None else model, device)
        if predictor.device.type == "cpu":
            keep_freed_memory()
        if model is not None:
            return model, predictor
        spec = predictor.model.data_spec
        names = spec.category_names or spec.class_names
        kind = "categories" if spec.category_names else "classes"
        listed = ", ".join(names[:_LISTED]) + (", ..." if len(names) > _LISTED else "")
        say(f"Using pretrained {default} ({len(names)} {kind}: {listed}). Change with --model.")
        return default, predictor

    def up_axis(self, up: str | None, model: str | None) -> str | None:
        """``up`` or, if omitted, that of the files a run was trained on; None for the format's."""
        recipe = Path(model or "") / RECIPE_FILE
        if up is not None or model is None or not recipe.is_file():
            return up
        from ea_pointcloud.training.recipe import own_up

        trained = own_up(recipe)
        if trained is not None:
            say(f"Assuming {trained} up, as in training. Change with --up.")
        return trained

    def _count(self, up: str | None) -> int:
        """The number of files; says which axes are assumed where none is given."""
        if up is not None:
            return sum(1 for _ in self.find())
        count = 0

        def counted() -> Iterator[str]:
            nonlocal count
            for each in self.find():
                count += 1
                yield each.path

        announce_up(counted())
        return count

    def run(
        self,
        make_job: "Callable[[Predictor], Job[Any, Result]]",
        predictor: "Predictor",
        show: Show[Result, Row],
        *,
        up: str | None,
        store: Store | None,
        as_json: bool,
        table: bool = True,
    ) -> Tally:
        """Work through the files that ``store`` lacks, and show every outcome as it comes.

        Where ``up`` is None, that of each file's format is assumed, which is announced.

        Raises:
            typer.Exit: with status 130 after Ctrl-C.
        """
        tally = Tally(self._count(up), show.verb)
        try:
            with ExitStack() as stack:
                files: Iterator[str] = (each.path for each in self.find())
                if store is not None:
                    stack.enter_context(store)
                    tally.earlier, tally.earlier_errors = store.begin(self.find())
                    files = store.missing(self.find())
                shown = not (as_json and sys.stdout.isatty())
                bar = stack.enter_context(FileBar(tally, shown=shown))
                rows = pages = None
                if as_json:
                    rows = stack.enter_context(JsonRows())
                elif table:
                    pages = TablePages(show.headings, show.right, bar.pause)
                    stack.enter_context(pages)
                outcomes = self._outcomes(make_job, predictor, files, tally.total - tally.earlier)
                for outcome in stack.enter_context(closing(outcomes)):
                    row = show.take(outcome)
                    if rows is not None:
                        rows.add(show.json(row))
                    if pages is not None:
                        pages.add(show.cells(row))
                    bar.step(failed=row.error is not None)
        except KeyboardInterrupt:
            remedy = "" if store is None else "; run the same command again to go on"
            done = f"{tally.earlier + tally.done:,} of {tally.total:,}"
            say(f"stopped after {done} files{remedy}")
            raise typer.Exit(130) from None
        return tally

    def _outcomes(
        self,
        make_job: "Callable[[Predictor], Job[Any, Result]]",
        predictor: "Predictor",
        files: Iterable[str],
        count: int,
    ) -> "Outcomes[Result]":
        if self.engine == "ray":
            from ea_pointcloud.inference.ray import batch_inference_ray

            return batch_inference_ray(make_job, predictor, files, device=self.device)
        from ea_pointcloud.inference import batch_inference
        from ea_pointcloud.io.pool import default_workers

        workers = default_workers(count) if self.workers is None else self.workers
        return batch_inference(make_job(predictor), files, workers=workers)


def _check_engine(engine: str, workers: int | None) -> None:
    """Raise for options of the two engines that do not go together, or Ray where it is missing."""
    from importlib.util import find_spec

    check_option("--engine", engine, ENGINES)
    if engine == "ray":
        if workers is not None:
            raise ValueError("--workers is for --engine local; Ray takes the cores it is given")
        if find_spec("ray") is None:
            remedy = "pip install 'ea-pointcloud[ray]', or leave it out"
            raise ImportError(f"--engine ray needs Ray; {remedy}")


def announce_up(files: Iterable[str]) -> None:
    """Say on standard error which axes are assumed to be up in files, by their formats."""
    from ea_pointcloud.io.read import assumed_up

    say(f"Assuming {assumed_up(files)} files. Change with --up.")
