"""``ea-pointcloud evaluate``: the protocol's figures for a run."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from ea_pointcloud.training.evaluate import (
        ClassificationReport,
        RunReport,
        SegmentationReport,
    )

NAME = "evaluate"
EXAMPLES = """Examples:

ea-pointcloud evaluate runs/modelnet10-seed0 --split test

ea-pointcloud evaluate runs/modelnet10-seed0 runs/modelnet10-seed1

ea-pointcloud evaluate runs/modelnet10-seed0 --json > figures.json
"""


def run(
    run_folders: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Run folders, one a seed.")
    ],
    split: Annotated[str, typer.Option(help="train, val or test.")] = "test",
    data_root: Annotated[
        Path | None, typer.Option(help="Folder of data sets, if it is no longer the run's.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Measure runs: validation-selected, last epoch, with votes; several seeds as mean and std."""
    from ea_pointcloud._checks import check_choice
    from ea_pointcloud._device import resolve_device
    from ea_pointcloud.training.evaluate import check_same_recipe, evaluate_run

    check_choice("--split", split, ("train", "val", "test"))
    check_same_recipe(run_folders)
    chosen = resolve_device(device)
    reports = [evaluate_run(run, split, chosen, data_root=data_root) for run in run_folders]
    if as_json:
        rows = [asdict(report) for report in reports]
        typer.echo(json.dumps(rows, indent=2, allow_nan=False))
        return
    for run, report in zip(run_folders, reports, strict=True):
        _print_run(report, run)
    if len(reports) > 1:
        _print_summary(reports)


def _headings(report: "RunReport") -> dict[str, str]:
    """The columns of a run's table: heading -> field of its reports."""
    from ea_pointcloud.training.evaluate import VOTE_SIZES

    if report.recipe.task == "segmentation":
        scales = f"{len(VOTE_SIZES) if report.recipe.eval.votes else 0} scales"
        return {
            "instance mIoU": "instance_miou",
            "category mIoU": "category_miou",
            "point accuracy": "point_accuracy",
            "all-parts instance mIoU": "all_parts_instance_miou",
            f"instance mIoU, {scales}": "voted_instance_miou",
            f"category mIoU, {scales}": "voted_category_miou",
        }
    return {
        "overall accuracy": "overall_accuracy",
        "mean class accuracy": "mean_class_accuracy",
        f"overall, {report.recipe.eval.votes} votes": "voted_accuracy",
    }


def _mean_and_std(values: "list[float | None]") -> str:
    from statistics import mean, stdev

    found = [value for value in values if value is not None]
    if not found:
        return "-"
    if len(found) == 1:  # the category or the figure is missing from the other runs
        return f"{found[0]:.4f}"
    return f"{mean(found):.4f} ± {stdev(found):.4f}"


def _figures_table(reports: "list[RunReport]", title: str) -> "Table":
    """A row for each way of choosing weights; means and deviations where there are several runs."""
    from rich.table import Table

    headings = _headings(reports[0])
    table = Table(title=title)
    table.add_column("weights chosen by")
    for heading in headings:
        table.add_column(heading, justify="right")
    for rows in zip(*(report.reports for report in reports), strict=True):
        figures = ([getattr(row, field) for row in rows] for field in headings.values())
        table.add_row(rows[0].selection, *map(_mean_and_std, figures))
    legacy = [report.legacy_accuracy for report in reports]
    if None not in legacy:
        rest = ["-"] * (len(headings) - 1)
        table.add_row("test (legacy, as most papers)", _mean_and_std(legacy), *rest)
    return table


def _class_table(report: "ClassificationReport") -> "Table":
    from rich.table import Table

    table = Table(title=f"{report.selection}, by class")
    table.add_column("class")
    table.add_column("accuracy", justify="right")
    table.add_column("taken for instead")
    names = list(report.class_accuracy)
    for index, (name, value) in enumerate(report.class_accuracy.items()):
        taken = zip(report.confusion[index], names, strict=True)
        mistakes = sorted(((count, other) for count, other in taken if count and other != name))
        shown = ", ".join(f"{other} {count}" for count, other in mistakes[::-1][:4])
        table.add_row(name, "-" if value is None else f"{value:.3f}", shown)
    return table


def _category_table(reports: "list[SegmentationReport]") -> "Table":
    from rich.table import Table

    table = Table(title=f"{reports[0].selection}, by category")
    table.add_column("category")
    table.add_column("IoU", justify="right")
    for name in reports[0].category_iou:
        table.add_row(name, _mean_and_std([report.category_iou[name] for report in reports]))
    return table


def _print_run(report: "RunReport", run_folder: Path) -> None:
    from ea_pointcloud.cli._output import console
    from ea_pointcloud.training.evaluate import SegmentationReport

    out, first = console(), report.reports[0]
    out.print(_figures_table([report], f"{run_folder}: {first.split} split, {first.shapes} shapes"))
    if isinstance(first, SegmentationReport):
        out.print(_category_table([first]))
    else:
        out.print(_class_table(first))
    out.print(
        f"{report.epochs_done} of {report.recipe.trainer.epochs} epochs, seed "
        f"{report.recipe.trainer.seed}; {report.parameters:,} parameters, "
        f"{report.macs / 1e6:.0f} M MACs a cloud of {report.recipe.data.num_points} points;\n"
        f"{first.clouds_per_second:.0f} clouds/s on {report.device} with batch {report.batch_size}"
    )


def _print_summary(reports: "list[RunReport]") -> None:
    from ea_pointcloud.cli._output import console
    from ea_pointcloud.training.evaluate import SegmentationReport

    out = console()
    out.print(_figures_table(reports, f"{len(reports)} seeds: mean and standard deviation"))
    firsts = [report.reports[0] for report in reports]
    segmented = [first for first in firsts if isinstance(first, SegmentationReport)]
    if segmented:
        out.print(_category_table(segmented))
