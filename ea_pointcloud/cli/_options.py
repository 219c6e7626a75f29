"""Options that several commands share, and the checks of what was given for them."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

UPS = ("x", "y", "z", "auto")
SPLITS = ("train", "val", "test")
ENGINES = ("local", "ray")

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
    Path | None, typer.Option(help="Folder of data sets, if it is no longer the run's.")
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


def check_engine(engine: str, workers: int | None) -> None:
    """Raise for options of the two engines that do not go together, or Ray where it is missing."""
    from importlib.util import find_spec

    check_option("--engine", engine, ENGINES)
    if engine == "ray":
        if workers is not None:
            raise ValueError("--workers is for --engine local; Ray takes the cores it is given")
        if find_spec("ray") is None:
            raise ImportError(
                "--engine ray needs Ray; pip install 'ea-pointcloud[ray]', or leave it out"
            )
