"""``ea-pointcloud slots``: how a data set uses the memory slots of a trained network."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ea_pointcloud.explain import SlotUsage

NAME = "slots"
EXAMPLES = """Examples:

ea-pointcloud slots runs/modelnet10-seed0

ea-pointcloud slots runs/modelnet10-seed0 --layer 0 --render slots.png

ea-pointcloud slots runs/psb_part-seed0 --split test --json > slots.json
"""
_SHOWN = 5  # slots listed of each class


def run(
    run_dir: Annotated[
        Path, typer.Argument(metavar="RUN", help="Run folder with external attention.")
    ],
    split: Annotated[str, typer.Option(help="train, val or test.")] = "val",
    layer: Annotated[
        int, typer.Option(help="Layer to show by class; 0 is the first, -1 the last.")
    ] = -1,
    dead_below: Annotated[
        float,
        typer.Option(
            metavar="SHARES", help="Dead: no point gives the slot as much, in fair shares 1/M."
        ),
    ] = 1.0,
    render: Annotated[
        Path | None, typer.Option(help="Write a heat map of classes and slots (.png).")
    ] = None,
    data_root: Annotated[
        Path | None, typer.Option(help="Folder of data sets, if it is no longer the run's.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Let --render replace an existing file.")
    ] = False,
) -> None:
    """Which memory slots the points of each class look at, how evenly, and which are dead."""
    from dataclasses import replace

    from ea_pointcloud._checks import check_choice, check_range
    from ea_pointcloud._device import resolve_device
    from ea_pointcloud.cli._clouds import check_picture
    from ea_pointcloud.explain import attention_layers, slot_usage
    from ea_pointcloud.models import Classifier, Segmenter, load_model
    from ea_pointcloud.training.data import open_held_out
    from ea_pointcloud.training.labels import match_labels
    from ea_pointcloud.training.run_folder import load_run_recipe

    check_choice("--split", split, ("train", "val", "test"))
    check_picture(render, force=force)
    recipe = load_run_recipe(run_dir)
    if data_root is not None:
        recipe = replace(recipe, data=replace(recipe.data, root=str(data_root)))
    model = load_model(str(run_dir)).to(resolve_device(device))
    assert isinstance(model, (Classifier, Segmenter))
    depth = len(attention_layers(model))
    check_range("--layer", layer, -depth, depth - 1)
    spec = model.data_spec
    names = spec.category_names if isinstance(model, Segmenter) else spec.class_names
    usages = slot_usage(
        model,
        match_labels(open_held_out(recipe, split), spec),
        names,
        batch_size=recipe.eval.batch_size,
        dead_below=dead_below,
    )
    shown = usages[layer]
    if as_json:
        rows = [usage.as_dict() for usage in usages]
        typer.echo(json.dumps(rows, indent=2, allow_nan=False))
    else:
        _print_tables(usages, shown, f"{run_dir}: {int(shown.shapes.sum())} {split} shapes")
    if render is not None:
        from ea_pointcloud.viz.attention import usage_heatmap

        title = f"layer {shown.layer}: use of the memory slots by class, {split} split"
        usage_heatmap(shown.usage.numpy(), shown.class_names, render, title=title)
        typer.echo(f"wrote {render}", err=True)


def _print_tables(usages: "list[SlotUsage]", shown: "SlotUsage", title: str) -> None:
    from rich.table import Table

    from ea_pointcloud.cli._output import console

    table = Table(title=title)
    table.add_column("layer", justify="right")
    for heading in ("slots", "effective", "per point", "dead"):
        table.add_column(heading, justify="right")
    table.add_column("most used (fair shares)")
    for usage in usages:
        table.add_row(
            str(usage.layer),
            str(len(usage.peak)),
            f"{usage.effective_slots:.1f}",
            f"{usage.slots_per_point:.1f}",
            str(len(usage.dead)),
            _most(usage.overall.tolist()),
        )
    out = console()
    out.print(table)

    shared = shown.shared_by_all()
    table = Table(title=f"layer {shown.layer}, by class")
    table.add_column("class")
    table.add_column("shapes", justify="right")
    table.add_column("most used (fair shares)")
    table.add_column("above fair share in every shape")
    for place, name in enumerate(shown.class_names):
        count = int(shown.shapes[place])
        most = _most(shown.usage[place].tolist()) if count else "-"
        table.add_row(name, str(count), most, ", ".join(map(str, shared[name])) or "-")
    out.print(table)
    out.print(
        "effective: slots that would, used alike, have the same entropy; per point: the same of "
        "the slots one point looks at"
    )


def _most(usage: list[float]) -> str:
    order = sorted(range(len(usage)), key=lambda slot: -usage[slot])[:_SHOWN]
    return ", ".join(f"{slot} ({usage[slot] * len(usage):.1f})" for slot in order)
