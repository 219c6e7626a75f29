"""``ea-pointcloud evaluate``: the protocol's figures for a run."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ea_pointcloud.training.evaluate import RunReport

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
        _print_tables(report, run)
    if len(reports) > 1:
        _print_summary(reports)


def _print_summary(reports: "list[RunReport]") -> None:
    from statistics import mean, stdev

    from rich.table import Table

    from ea_pointcloud.cli._output import console

    table = Table(title=f"{len(reports)} seeds: mean and standard deviation")
    table.add_column("weights chosen by")
    for heading in ("overall accuracy", "mean class accuracy", "with votes"):
        table.add_column(heading, justify="right")
    for rows in zip(*(report.reports for report in reports), strict=True):
        columns = (
            [row.overall_accuracy for row in rows],
            [row.mean_class_accuracy for row in rows],
            [row.voted_accuracy for row in rows if row.voted_accuracy is not None],
        )
        cells = [f"{mean(c):.4f} ± {stdev(c):.4f}" if c else "-" for c in columns]
        table.add_row(rows[0].selection, *cells)
    console().print(table)


def _print_tables(report: "RunReport", run_folder: Path) -> None:
    from rich.table import Table

    from ea_pointcloud.cli._output import console

    out = console()
    votes, first = report.recipe.eval.votes, report.reports[0]
    table = Table(title=f"{run_folder}: {first.split} split, {first.shapes} shapes")
    table.add_column("weights chosen by")
    for heading in ("overall accuracy", "mean class accuracy", f"overall, {votes} votes"):
        table.add_column(heading, justify="right")
    for row in report.reports:
        voted = "-" if row.voted_accuracy is None else f"{row.voted_accuracy:.4f}"
        figures = f"{row.overall_accuracy:.4f}", f"{row.mean_class_accuracy:.4f}", voted
        table.add_row(row.selection, *figures)
    if report.legacy_accuracy is not None:
        table.add_row("test (legacy, as most papers)", f"{report.legacy_accuracy:.4f}", "-", "-")
    out.print(table)

    classes = Table(title=f"{first.selection}, by class")
    classes.add_column("class")
    classes.add_column("accuracy", justify="right")
    classes.add_column("taken for instead")
    names = list(first.class_accuracy)
    for index, (name, value) in enumerate(first.class_accuracy.items()):
        taken = zip(first.confusion[index], names, strict=True)
        mistakes = sorted(((count, other) for count, other in taken if count and other != name))
        shown = ", ".join(f"{other} {count}" for count, other in mistakes[::-1][:4])
        classes.add_row(name, "-" if value is None else f"{value:.3f}", shown)
    out.print(classes)
    out.print(
        f"{report.epochs_done} of {report.recipe.trainer.epochs} epochs, seed "
        f"{report.recipe.trainer.seed}; {report.parameters:,} parameters, "
        f"{report.macs / 1e6:.0f} M MACs a cloud of {report.recipe.data.num_points} points;\n"
        f"{first.clouds_per_second:.0f} clouds/s on {report.device} with batch {report.batch_size}"
    )
