"""``ea-pointcloud info``: versions, devices, operators, recipes, models, weights."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from ea_pointcloud.ops._self_check import Verdict

NAME = "info"
EXAMPLES = """Examples:

ea-pointcloud info

ea-pointcloud info --json

ea-pointcloud info --warm-up

ea-pointcloud info --check
"""


def run(
    warm_up: Annotated[
        bool,
        typer.Option(
            "--warm-up",
            help="Also compile the CPU operators now, once for this machine, instead of in the "
            "first run that needs them.",
        ),
    ] = False,
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Compare each operator with plain PyTorch on the best device, and time both.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Show versions, devices, and what runs on them."""
    import torch

    from ea_pointcloud._device import resolve_device
    from ea_pointcloud.models import list_models, list_pretrained
    from ea_pointcloud.ops import _backend
    from ea_pointcloud.training.recipe import list_recipes
    from ea_pointcloud.training.run_folder import versions
    from ea_pointcloud.viz.pictures import describe_drawing
    from ea_pointcloud.viz.window import describe_window

    device = resolve_device("auto")
    facts = {
        **versions(),
        "device": str(device),
        "threads": str(torch.get_num_threads()),
        "operators on cpu": _backend.describe("cpu"),
        "pictures": describe_drawing(),
        "windows": describe_window(),
        "models": ", ".join(list_models()),
        "recipes": ", ".join(list_recipes()),
        "weights": ", ".join(list_pretrained()),
    }
    if device.type == "cuda":
        facts["gpu"] = torch.cuda.get_device_name(device)
        facts["operators on cuda"] = _backend.describe("cuda")
    if warm_up:
        _backend.warm_up("cpu")
    verdicts = _backend.compare(device) if check else []
    if as_json:
        found = {"operators": [each._asdict() for each in verdicts]} if check else {}
        typer.echo(json.dumps({**facts, **found}, indent=2))
        return
    from rich.table import Table

    from ea_pointcloud.cli._output import console

    table = Table(show_header=False, box=None)
    for name, value in facts.items():
        table.add_row(name, value)
    console().print(table)
    if check:
        console().print(_table_of(verdicts, str(device)))


def _table_of(verdicts: "list[Verdict]", device: str) -> "Table | str":
    from rich.table import Table

    if not verdicts:
        return f"Nothing to compare: the operators on {device} are plain PyTorch."
    table = Table("operator", "implementation", "equal?", "ms", "times plain PyTorch", box=None)
    for each in verdicts:
        own = each.own and not each.why
        equal = each.why or ("yes" if each.own else "")
        speed = ("", "")
        if each.ms and each.plain_ms:
            speed = f"{each.ms:.2f}", f"{each.plain_ms / each.ms:.1f}"
        table.add_row(each.operator, "kernel" if own else "plain PyTorch", equal, *speed)
    return table
