"""``ea-pointcloud info``: versions, devices, operators, recipes, models, weights."""

from typing import TYPE_CHECKING, Annotated

import typer

from ea_pointcloud.cli import _common as opt
from ea_pointcloud.cli._common import print_json, print_table

if TYPE_CHECKING:
    from ea_pointcloud.ops._self_check import Verdict

NAME = "info"
EXAMPLES = opt.examples(
    "ea-pointcloud info",
    "ea-pointcloud info --json",
    "ea-pointcloud info --warm-up",
    "ea-pointcloud info --check",
)


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
    as_json: opt.AsJson = False,
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
        print_json(
            {**facts, "operators": [each._asdict() for each in verdicts]} if check else facts
        )
        return
    print_table(facts.items())
    if check and not verdicts:
        typer.echo(f"Nothing to compare: the operators on {device} are plain PyTorch.")
    elif check:
        columns = ("operator", "implementation", "equal?", "ms", "times plain PyTorch")
        print_table(map(_row, verdicts), columns, right=columns[3:])


def _row(verdict: "Verdict") -> tuple[str, ...]:
    implementation = "kernel" if verdict.own and not verdict.why else "plain PyTorch"
    equal = verdict.why or ("yes" if verdict.own else "")
    if not verdict.ms or not verdict.plain_ms:
        return verdict.operator, implementation, equal, "", ""
    ratio = f"{verdict.plain_ms / verdict.ms:.1f}"
    return verdict.operator, implementation, equal, f"{verdict.ms:.2f}", ratio
