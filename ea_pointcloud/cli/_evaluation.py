"""Evaluations of runs: measured, printed, written as a report."""

import shlex
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ea_pointcloud.cli._common import print_json, print_table, print_text, say

if TYPE_CHECKING:
    import torch

    from ea_pointcloud.report.tables import Table
    from ea_pointcloud.robustness.evaluation import CorruptionReport
    from ea_pointcloud.training.evaluate_run import RunReport
    from ea_pointcloud.training.evaluation_data import EvaluationOptions


@dataclass(frozen=True)
class CorruptionStudy:
    """How runs are evaluated under corruptions."""

    which: str  # a benchmark, or "all"
    reference: Path | None  # figures of another network, as JSON
    limit: int | None  # shapes that are corrupted; None for all
    tta_rotations: int  # this and the rest as ``robustness.options.InferenceOptions``
    remove_outliers: bool
    adaptation: float | None

    def check(self, run: Path, split: str) -> None:
        """Raise before the work for what could not be measured after it."""
        from ea_pointcloud.robustness.options import InferenceOptions
        from ea_pointcloud.training.evaluate_corruptions import check_corruptions, read_figures
        from ea_pointcloud.training.run_folder import load_run_recipe

        InferenceOptions(self.tta_rotations, self.remove_outliers, self.adaptation)
        recipe = load_run_recipe(run)
        check_corruptions(self.which, recipe)
        if self.reference is not None:
            read_figures(self.reference, recipe, split)

    def measure(
        self, run: Path, report: "RunReport", split: str, device: "torch.device"
    ) -> "list[CorruptionReport]":
        """The figures of a run that was evaluated already."""
        from ea_pointcloud.robustness.options import InferenceOptions
        from ea_pointcloud.training.evaluate_corruptions import evaluate_run_corruptions

        return evaluate_run_corruptions(
            run,
            report.recipe,
            split,
            self.which,
            device,
            reference=self.reference,
            limit=self.limit,
            options=InferenceOptions(self.tta_rotations, self.remove_outliers, self.adaptation),
            say=say,
        )


def check_report(folder: Path | None, *, force: bool) -> None:
    """Raise before the work for a page that could not be written after it."""
    from ea_pointcloud.report import PAGE_FILE

    if folder is None:
        return
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"--report {folder} is a file; name a folder")
    if (folder / PAGE_FILE).exists() and not force:
        raise FileExistsError(f"{folder / PAGE_FILE} exists; choose another folder or add --force")


def prepare_runs(
    runs: list[Path], device: str, data_root: Path | None, *, calibrate: bool
) -> "torch.device":
    """Check that runs differ by their seed only, calibrate them, and return the device."""
    from ea_pointcloud._device import resolve_device
    from ea_pointcloud.training.evaluate_run import calibrate_run, check_same_recipe

    check_same_recipe(runs)
    chosen = resolve_device(device)
    for run in runs if calibrate else ():
        calibrate_run(run, chosen, data_root=data_root)
    return chosen


def evaluate_on(
    weights: list[Path], data: str | None, split: str, data_root: Path | None, device: str,
    options: "EvaluationOptions", *, as_json: bool,
) -> None:  # fmt: skip
    """Evaluate weights on any data set, and print their figures."""
    from ea_pointcloud._device import resolve_device
    from ea_pointcloud.report import tables
    from ea_pointcloud.training.evaluate_classifier import ClassificationReport
    from ea_pointcloud.training.evaluate_run import evaluate_weights

    chosen = resolve_device(device)
    found = [
        evaluate_weights(str(each), data, split, chosen, data_root=data_root, options=options)
        for each in weights
    ]
    if as_json:
        print_json([asdict(one) for one in found])
        return
    for one in found:
        _print(tables.weights_table(one))
        if isinstance(one.report, ClassificationReport):
            _print(tables.class_table([one.report]))
        else:
            _print(tables.category_table([one.report]))


def evaluate_runs(
    runs: list[Path],
    split: str,
    device: "torch.device",
    data_root: Path | None,
    farthest_of: int | None,
    options: "EvaluationOptions",
    study: CorruptionStudy | None,
    report: Path | None,
    worst: int | None,
    *,
    as_json: bool,
) -> None:
    """Evaluate runs on their own data, print their figures, and write the report if it is named."""
    from ea_pointcloud.report import predictions_for, write_report
    from ea_pointcloud.training.evaluate_run import evaluate_run
    from ea_pointcloud.training.run_folder import load_run_recipe

    kept = [None if report is None else predictions_for(load_run_recipe(run)) for run in runs]
    measured = [
        evaluate_run(run, split, device, data_root=data_root, hook=hook, farthest_of=farthest_of,
                     options=options)
        for run, hook in zip(runs, kept, strict=True)
    ]  # fmt: skip
    robust = []
    if study is not None:
        robust = [study.measure(*one, split, device) for one in zip(runs, measured, strict=True)]
    if as_json:
        rows = [asdict(one) for one in measured]
        for row, found in zip(rows, robust, strict=False):
            row["corruptions"] = [asdict(one) for one in found]
        print_json(rows)
    else:
        _print_runs(runs, measured)
        _print_corruptions(runs, robust)
    if report is not None:
        page = write_report(
            report,
            runs,
            measured,
            [predictions for predictions in kept if predictions is not None],
            command=shlex.join(["ea-pointcloud", *sys.argv[1:]]),
            worst=worst,
            corruptions=robust,
        )
        say(f"wrote {page}")


def _print(table: "Table") -> None:
    right = [column for column in table.columns if not table.is_text(column)]
    print_table(table.rows, table.columns, title=table.title, right=right)


def _print_runs(runs: list[Path], measured: "list[RunReport]") -> None:
    from ea_pointcloud.report import tables
    from ea_pointcloud.training.evaluate_segmenter import SegmentationReport

    firsts = [report.reports[0] for report in measured]
    for run, report, first in zip(runs, measured, firsts, strict=True):
        _print(tables.run_table(report, run))
        if isinstance(first, SegmentationReport):
            _print(tables.category_table([first]))
        else:
            _print(tables.class_table([first]))
        print_text(f"{tables.cost_line(report)}\n{tables.calibration_line(report)}")
    if len(measured) > 1:
        _print(tables.seeds_table(measured))
        segmented = [first for first in firsts if isinstance(first, SegmentationReport)]
        if segmented:
            _print(tables.category_table(segmented))


def _print_corruptions(runs: list[Path], robust: "list[list[CorruptionReport]]") -> None:
    from ea_pointcloud.report import corruptions

    for run, found in zip(runs, robust, strict=False):
        for one in found:
            _print(corruptions.corruption_table(one, f"{run}, {one.benchmark}"))
            print_text(corruptions.corruption_line(one))
    if len(robust) > 1:
        _print(corruptions.corruption_summary(robust))
