"""``ea-pointcloud explain``: how a data set uses the memory slots of a trained network."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ea_pointcloud.cli import _common as opt
from ea_pointcloud.cli._common import print_json, print_table, print_text, say

if TYPE_CHECKING:
    from ea_pointcloud.explain import SlotUsage

NAME = "explain"
EXAMPLES = opt.examples(
    "ea-pointcloud explain runs/modelnet10-seed0",
    "ea-pointcloud explain runs/modelnet10-seed0 --layer 0 --render slots.png",
    "ea-pointcloud explain eamlp-small-modelnet10 --data-root ~/data --limit 100",
    "ea-pointcloud explain runs/psb_part-seed0 --split test --json > slots.json",
)
_SHOWN = 5  # slots listed of each class


Layer = Annotated[int, typer.Option(help="Layer to show by class; 0 is the first, -1 the last.")]
DeadBelow = Annotated[
    float,
    typer.Option(
        metavar="SHARES", help="Dead: no point gives the slot this weight, in fair shares 1/M."
    ),
]
Render = Annotated[Path | None, typer.Option(help="Write a heat map of classes and slots (.png).")]


def run(
    run_dir: Annotated[
        Path,
        typer.Argument(metavar="RUN", help="Run folder, or weights, with external attention."),
    ],
    split: opt.Split = "val",
    layer: Layer = -1,
    dead_below: DeadBelow = 1.0,
    render: Render = None,
    data_root: opt.DataRoot = None,
    data: opt.Data = None,
    num_points: opt.NumPoints = None,
    limit: opt.Limit = None,
    device: opt.Device = "auto",
    as_json: opt.AsJson = False,
    force: opt.Force = False,
) -> None:
    """Which memory slots the points of each class attend to, how evenly, and which are dead."""
    opt.check_option("--split", split, opt.SPLITS)
    opt.check_output("--render", render, (".png",), force=force)

    options = {"num_points": num_points, "limit": limit}
    usages = _measure(run_dir, split, layer, dead_below, data, data_root, options, device)
    shown = usages[layer]
    if as_json:
        print_json([usage.as_dict() for usage in usages])
    else:
        _print_tables(usages, shown, f"{run_dir}: {int(shown.shapes.sum())} {split} shapes")
    if render is not None:
        from ea_pointcloud.viz.attention import usage_heatmap

        title = f"layer {shown.layer}: use of the memory slots by class, {split} split"
        usage_heatmap(shown.usage.numpy(), shown.class_names, render, title=title)
        say(f"wrote {render}")


def _measure(
    weights: Path, split: str, layer: int, dead_below: float, data: str | None,
    data_root: Path | None, options: dict[str, int | None], device: str,
) -> "list[SlotUsage]":  # fmt: skip
    from ea_pointcloud._checks import check_range
    from ea_pointcloud._device import resolve_device
    from ea_pointcloud.explain import attention_layers, slot_usage
    from ea_pointcloud.models import Classifier, Segmenter, load_model
    from ea_pointcloud.training.evaluation_data import (
        EvaluationOptions,
        moved_recipe,
        open_for_weights,
        open_of_run,
    )
    from ea_pointcloud.training.labels import match_labels

    model = load_model(str(weights)).to(resolve_device(device))
    assert isinstance(model, (Classifier, Segmenter))
    depth = len(attention_layers(model))
    check_range("--layer", layer, -depth, depth - 1)
    chosen, spec = EvaluationOptions(**options), model.data_spec
    if data is None and (weights / opt.RECIPE_FILE).is_file():
        recipe = chosen.applied_to(moved_recipe(weights, data_root))
        dataset = open_of_run(recipe, split, chosen)
    else:
        dataset, _ = open_for_weights(weights, model, split, data, data_root, chosen)
    return slot_usage(
        model,
        match_labels(dataset, spec),
        spec.category_names if isinstance(model, Segmenter) else spec.class_names,
        dead_below=dead_below,
    )


def _print_tables(usages: "list[SlotUsage]", shown: "SlotUsage", title: str) -> None:
    rows = [
        (
            str(usage.layer),
            str(len(usage.peak)),
            f"{usage.effective_slots:.1f}",
            f"{usage.slots_per_point:.1f}",
            str(len(usage.dead)),
            _most(usage.overall.tolist()),
        )
        for usage in usages
    ]
    most = "most used (fair shares)"
    headings = ("layer", "slots", "effective", "per point", "dead", most)
    print_table(rows, headings, title=title, right=headings[:-1])

    shared = shown.shared_by_all()
    rows = []
    for index, name in enumerate(shown.class_names):
        count = int(shown.shapes[index])
        used = _most(shown.usage[index].tolist()) if count else "-"
        rows.append((name, str(count), used, ", ".join(map(str, shared[name])) or "-"))
    headings = ("class", "shapes", most, "above fair share in every shape")
    print_table(rows, headings, title=f"layer {shown.layer}, by class", right=("shapes",))
    print_text(
        "effective: number of slots that, evenly used, have the same entropy; per point: the same "
        "of the slots that one point attends to"
    )


def _most(usage: list[float]) -> str:
    order = sorted(range(len(usage)), key=lambda slot: -usage[slot])[:_SHOWN]
    return ", ".join(f"{slot} ({usage[slot] * len(usage):.1f})" for slot in order)
