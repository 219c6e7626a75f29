"""What commands share: options, the checks of what was given for them, and printing."""

import json
import logging
import math
import os
import shutil
import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from ea_pointcloud._files import printable

UPS = ("x", "y", "z", "auto")
SPLITS = ("train", "val", "test")
RECIPE_FILE = "recipe.yaml"  # ea_pointcloud.training.run_folder's, not imported yet
BACKENDS = ("auto", "software", "open3d")
_NAMES_WIDTH = 100  # of names and values in a pipe, which are read by people
_NARROW = 100  # columns of a terminal in which warnings stand below the table
_PIPE_WIDTH = 400  # no reader of a pipe wants file names broken over lines
PAGE = 200  # rows a table holds before it is printed; thousands would wait in memory for the last

Paths = Annotated[
    list[str], typer.Argument(metavar="PATH...", help="Clouds or meshes, or folders of them.")
]
Model = Annotated[
    str | None,
    typer.Option(
        metavar="WEIGHTS",
        help="Run folder, weights folder, a name that 'info' lists, or USER/NAME on the hub; "
        "pretrained weights if omitted.",
    ),
]
Recursive = Annotated[
    bool, typer.Option("--recursive", "-r", help="Also search the folders inside folders.")
]
Up = Annotated[
    str | None,
    typer.Option(
        help="Axis that is up in the files: x, y, z, or auto to try them; if omitted that of the "
        "files a run was trained on, else z in .off, .stl, .las, .laz, .pcd, .e57, y in others."
    ),
]
Rotations = Annotated[
    int,
    typer.Option(min=1, metavar="N", help="Average over N rotations about the up axis."),
]
RemoveOutliers = Annotated[
    bool,
    typer.Option(
        "--remove-outliers",
        help="Leave out statistical outliers; segment gives them the nearest label, confidence 0.",
    ),
]
DropInvalid = Annotated[
    bool | None,
    typer.Option(
        "--drop-invalid/--keep-invalid",
        help="Leave out points that are not finite, or refuse their file; by default they are "
        "left out of .pcd files only.",
    ),
]
Columns = Annotated[
    str | None,
    typer.Option(metavar="ROLES", help="What the columns are: x,y,z,_,label or NAME=x,NAME=y,..."),
]
Render = Annotated[
    Path | None, typer.Option(help="Write a picture of the clouds and predictions (.png).")
]
Backend = Annotated[
    str,
    typer.Option(
        metavar="auto|software|open3d",
        help="What draws pictures: our own renderer, which needs no driver, or Open3D.",
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Let outputs replace existing files.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Workers = Annotated[
    int | None,
    typer.Option(
        min=0, metavar="N", help="Processes that read ahead, 0 for none; chosen if omitted."
    ),
]
Engine = Annotated[
    str, typer.Option(metavar="local|ray", help="Ray spreads the work over a cluster.")
]
Split = Annotated[str, typer.Option(help="train, val or test.")]
DataRoot = Annotated[
    Path | None,
    typer.Option(help="Folder of data sets, if it is no longer the run's; of weights the set."),
]
Data = Annotated[
    str | None,
    typer.Option(
        metavar="SET",
        help="Take this data set instead of the run's own, classes matched by name: a name "
        "('data list') or a folder.",
    ),
]
NumPoints = Annotated[
    int | None,
    typer.Option(
        min=0, help="Points of each cloud, 0 for all; those of training (parts: all) if omitted."
    ),
]
Limit = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Take N shapes, spread over the split.")
]
Root = Annotated[
    Path | None,
    typer.Option("--root", help="Folder of data sets; $EA_POINTCLOUD_DATA or ./data if omitted."),
]


def examples(*commands: str) -> str:
    """The end of a command's help."""
    return "\n\n".join(["Examples:", *commands])


def json_schema(command: str) -> Any:
    """The option ``--json-schema`` of a command, which prints its schema and ends."""

    def show(wanted: bool) -> None:
        if not wanted:
            return
        from importlib.resources import files

        schema = files("ea_pointcloud") / "schemas" / f"{command}.schema.json"
        typer.echo(schema.read_text(encoding="utf-8").rstrip())
        raise typer.Exit

    return typer.Option(
        "--json-schema", is_eager=True, callback=show, help="Print the schema of --json."
    )


def check_option(option: str, value: str | None, choices: Collection[str]) -> None:
    """Raise unless ``value`` is one of ``choices``.

    As :func:`ea_pointcloud._checks.check_choice`, which takes as long as importing torch.
    """
    if value is not None and value not in choices:
        raise ValueError(f"{option} must be one of {str(list(choices))[1:-1]}, got {value!r}")


def check_absent(reason: str, **options: object) -> None:
    """Raise for an option that was given.

    Args:
        reason: what is wrong with that, and the remedy.
        options: name -> value; None and False were not given.
    """
    for name, value in options.items():
        if value is not None and value is not False:
            raise ValueError(f"--{name.replace('_', '-')} {reason}")


def check_output(option: str, path: Path | None, suffixes: Sequence[str], *, force: bool) -> None:
    """Raise before the work for a file that could not be written after it."""
    if path is None:
        return
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"{option} must name a {' or '.join(suffixes)} file, got {path}")
    if path.is_dir() or not path.parent.is_dir():
        raise FileNotFoundError(f"{option} {path}: no such folder, or a folder itself")
    if path.exists() and not force:
        raise FileExistsError(f"{path} exists; choose another name or add --force")


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
    print_text(table, _PIPE_WIDTH if headings else _NAMES_WIDTH)


def print_text(text: Any, pipe_width: int = _PIPE_WIDTH) -> None:
    """Print a text or table on standard output."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else pipe_width
    Console(width=width, markup=False, highlight=False, emoji=False).print(_harmless(text))


def _harmless(cell: Any) -> Any:
    """A text without escape sequences, which names of files, classes and parts may hold."""
    from rich.text import Text

    if isinstance(cell, Text) and not cell.plain.isprintable():
        return Text(printable(cell.plain), cell.style)
    return printable(cell) if isinstance(cell, str) else cell


def say(text: str) -> None:
    """Print a text on standard error; what a terminal might obey in names from files is escaped."""
    typer.echo(printable(text), err=True)


class HarmlessFormatter(logging.Formatter):
    """Formats messages of the library so that no terminal obeys a name in them."""

    def format(self, record: logging.LogRecord) -> str:
        """The message alone."""
        return printable(super().format(record))


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
    """Tables on standard output, a page of rows each.

    The last column is left out where it is empty, and stands below the table in a narrow terminal.
    """

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
        noted = [row for row in self._rows if row[-1]]
        narrow = sys.stdout.isatty() and shutil.get_terminal_size().columns < _NARROW
        count = len(self._headings) - (not noted or narrow)
        with self._pause():
            print_table([row[:count] for row in self._rows], self._headings[:count],
                        right=self._right)  # fmt: skip
            for row in noted if narrow else ():
                print_text(f"{row[0]}: {row[-1]}")
        self._rows = []
