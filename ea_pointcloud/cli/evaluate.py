"""``ea-pointcloud evaluate``: the protocol's figures for a run."""

import json
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ea_pointcloud.report.tables import Table
    from ea_pointcloud.training.evaluate import RunReport

NAME = "evaluate"
EXAMPLES = """Examples:

ea-pointcloud evaluate runs/modelnet10-seed0 --split test

ea-pointcloud evaluate runs/modelnet10-seed0 runs/modelnet10-seed1

ea-pointcloud evaluate runs/modelnet10-seed0 --json > figures.json

ea-pointcloud evaluate runs/modelnet10-seed0 --report report

ea-pointcloud evaluate runs/an-older-run --calibrate
"""


def run(
    run_folders: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Run folders, one a seed.")
    ],
    split: Annotated[str, typer.Option(help="train, val or test.")] = "test",
    data_root: Annotated[
        Path | None, typer.Option(help="Folder of data sets, if it is no longer the run's.")
    ] = None,
    calibrate: Annotated[
        bool,
        typer.Option(
            "--calibrate",
            help="First calibrate the weights on val and store that with them; training does so "
            "at its end.",
        ),
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Write DIR/index.html: figures, charts and pictures of the mistakes in one page "
            "that needs no network.",
        ),
    ] = None,
    worst: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Pictures in the report: a classifier's most confident mistakes (12 without it), "
            "a segmenter's worst shapes of each category (1).",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Let the report replace an existing one.")
    ] = False,
) -> None:
    """Measure runs: validation-selected, last epoch, with votes; several seeds as mean and std."""
    from ea_pointcloud._checks import check_choice
    from ea_pointcloud._device import resolve_device
    from ea_pointcloud.report import answers_for, write_report
    from ea_pointcloud.training.evaluate import calibrate_run, check_same_recipe, evaluate_run
    from ea_pointcloud.training.fit import load_run_recipe

    check_choice("--split", split, ("train", "val", "test"))
    _check_report(report, worst, force=force)
    check_same_recipe(run_folders)
    chosen = resolve_device(device)
    if calibrate:
        for run in run_folders:
            calibrate_run(run, chosen, data_root=data_root)
    kept = [None if report is None else answers_for(load_run_recipe(run)) for run in run_folders]
    measured = [
        evaluate_run(run, split, chosen, data_root=data_root, observe=answers)
        for run, answers in zip(run_folders, kept, strict=True)
    ]
    if as_json:
        rows = [asdict(one) for one in measured]
        typer.echo(json.dumps(rows, indent=2, allow_nan=False))
    else:
        for run, one in zip(run_folders, measured, strict=True):
            _print_run(one, run)
        if len(measured) > 1:
            _print_summary(measured)
    if report is not None:
        page = write_report(
            report,
            run_folders,
            measured,
            [answers for answers in kept if answers is not None],
            command=shlex.join(["ea-pointcloud", *sys.argv[1:]]),
            worst=worst,
        )
        typer.echo(f"wrote {page}", err=True)


def _check_report(folder: Path | None, worst: int | None, *, force: bool) -> None:
    """Raise before the work for a page that could not be written after it."""
    from ea_pointcloud.report import PAGE_FILE

    if folder is None:
        if worst is not None:
            raise ValueError("--worst chooses pictures of the report; add --report DIR")
        if force:
            raise ValueError("--force lets a report replace another; add --report DIR")
        return
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"--report {folder} is a file; name a folder")
    if (folder / PAGE_FILE).exists() and not force:
        raise FileExistsError(f"{folder / PAGE_FILE} exists; choose another folder or add --force")


def _print_table(table: "Table") -> None:
    from rich.table import Table as Drawn

    from ea_pointcloud.cli._output import console

    drawn = Drawn(title=table.title)
    for column in table.columns:
        drawn.add_column(column, justify="left" if table.is_text(column) else "right")
    for row in table.rows:
        drawn.add_row(*row)
    console().print(drawn)


def _print_run(report: "RunReport", run_folder: Path) -> None:
    from ea_pointcloud.cli._output import console
    from ea_pointcloud.report import tables
    from ea_pointcloud.training.evaluate import SegmentationReport

    first = report.reports[0]
    _print_table(tables.run_table(report, run_folder))
    if isinstance(first, SegmentationReport):
        _print_table(tables.category_table([first]))
    else:
        _print_table(tables.class_table([first]))
    console().print(f"{tables.cost_line(report)}\n{tables.calibration_line(report)}")


def _print_summary(reports: "list[RunReport]") -> None:
    from ea_pointcloud.report import tables
    from ea_pointcloud.training.evaluate import SegmentationReport

    _print_table(tables.seeds_table(reports))
    firsts = [report.reports[0] for report in reports]
    segmented = [first for first in firsts if isinstance(first, SegmentationReport)]
    if segmented:
        _print_table(tables.category_table(segmented))
