"""``ea-pointcloud info``: versions, devices, operators, recipes, models."""

import json
from typing import Annotated

import typer

NAME = "info"
EXAMPLES = """Examples:

ea-pointcloud info

ea-pointcloud info --json
"""


def run(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Show versions, devices, and what runs on them."""
    import torch

    from ea_pointcloud._device import resolve_device
    from ea_pointcloud.models import list_models
    from ea_pointcloud.ops import _backend
    from ea_pointcloud.training.fit import versions
    from ea_pointcloud.training.recipe import list_recipes

    device = resolve_device("auto")
    facts = {
        **versions(),
        "device": str(device),
        "threads": str(torch.get_num_threads()),
        "operators": _backend.describe(device.type),
        "models": ", ".join(list_models()),
        "recipes": ", ".join(list_recipes()),
    }
    if device.type == "cuda":
        facts["gpu"] = torch.cuda.get_device_name(device)
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    from rich.table import Table

    from ea_pointcloud.cli._output import console

    table = Table(show_header=False, box=None)
    for name, value in facts.items():
        table.add_row(name, value)
    console().print(table)
