"""Options that ``classify`` and ``segment`` have in common."""

from typing import Annotated, Any

import typer

Paths = Annotated[
    list[str], typer.Argument(metavar="PATH...", help="Clouds or meshes, or folders of them.")
]
Model = Annotated[
    str | None,
    typer.Option(
        metavar="WEIGHTS",
        help="Run folder, weights folder, a name that 'info' lists, or USER/NAME on the hub; "
        "without it weights that come with the package.",
    ),
]
Recursive = Annotated[
    bool, typer.Option("--recursive", "-r", help="Also take the folders inside folders.")
]
Up = Annotated[
    str, typer.Option(help="Axis that is up in the files: x, y, z, or auto to try them.")
]
Rotations = Annotated[
    int, typer.Option(min=1, metavar="N", help="Average over N turns about the up axis.")
]
DropInvalid = Annotated[
    bool, typer.Option("--drop-invalid", help="Leave out points that are not finite.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Workers = Annotated[
    int | None,
    typer.Option(
        min=0, metavar="N", help="Processes that read ahead, 0 for none; chosen without it."
    ),
]
Engine = Annotated[
    str, typer.Option(metavar="local|ray", help="Ray spreads the work over a cluster.")
]


def json_schema(command: str) -> Any:
    """The option ``--json-schema`` of a command, which prints its schema and ends."""

    def show(wanted: bool) -> None:
        if not wanted:
            return
        from importlib.resources import files

        schema = files("ea_pointcloud") / "schemas" / f"{command}.schema.json"
        typer.echo(schema.read_text(encoding="utf-8").rstrip())
        raise typer.Exit

    return typer.Option("--json-schema", is_eager=True, callback=show, help="Print that of --json.")
