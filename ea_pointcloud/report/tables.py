"""The tables of an evaluation as text, the same in the terminal and on a page."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from ea_pointcloud.datasets.axes import STORED_AS
from ea_pointcloud.report.predictions import PartPredictions
from ea_pointcloud.training.evaluate_classifier import ClassificationReport
from ea_pointcloud.training.evaluate_run import RunReport, WeightsReport
from ea_pointcloud.training.evaluate_segmenter import VOTE_SIZES, SegmentationReport
from ea_pointcloud.training.recipe_keys import Recipe

LEGACY = "test (legacy, as most papers)"
_CONFUSED = 4  # other classes listed in a row
_NAMELESS = ("procedural", "folder", "parts")  # their data.name is not used


@dataclass(frozen=True)
class Table:
    """A table of text.

    Args:
        title: above the table.
        columns: headings.
        rows: a cell a column.
        text: headings of the columns of text, beside the first; the others hold figures.
    """

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    text: tuple[str, ...] = ()

    def is_text(self, column: str) -> bool:
        """Whether a column is aligned to the left."""
        return column == self.columns[0] or column in self.text


def mean_and_std(values: Sequence[float | None], digits: int = 4) -> str:
    """Mean and standard deviation over the runs that have a value; a dash where none has."""
    found = [value for value in values if value is not None]
    if not found:
        return "-"
    if len(found) == 1:  # one run, or the category is missing from the others
        return f"{found[0]:.{digits}f}"
    return f"{mean(found):.{digits}f} ± {stdev(found):.{digits}f}"


def figures_table(reports: Sequence[RunReport], title: str) -> Table:
    """A row a way of choosing weights, mean and standard deviation where there are several runs."""
    recipe, farthest_of = reports[0].recipe, reports[0].farthest_of
    if farthest_of is not None:
        title += f", FPS from {farthest_of or 'all'} points"
    headings = figure_columns(recipe.task, recipe.eval.votes, recipe.eval.tta_copies)
    rows = []
    for same in zip(*(report.reports for report in reports), strict=True):
        figures = ([getattr(one, field) for one in same] for field in headings.values())
        rows.append((same[0].selection, *map(mean_and_std, figures)))
    legacy = [report.legacy_accuracy for report in reports]
    if None not in legacy:
        rest = ["-"] * (len(headings) - 1)
        rows.append((LEGACY, mean_and_std(legacy), *rest))
    return Table(title, ("weights chosen by", *headings), rows)


def run_table(report: RunReport, run: str | Path) -> Table:
    """The figures of one run."""
    first = report.reports[0]
    return figures_table([report], f"{run}: {first.split} split, {first.shapes} shapes")


def weights_table(found: WeightsReport) -> Table:
    """The figures of weights on a data set with any of their classes."""
    report = found.report
    if isinstance(report, SegmentationReport):
        headings = figure_columns("segmentation", found.votes)
        row = ("all", *(mean_and_std([getattr(report, field)]) for field in headings.values()))
        rows, first = [row], "parts"
    else:
        headings = figure_columns("classification", found.votes)
        figures = [getattr(report, field) for field in headings.values()]
        rows = [(f"all {len(report.confusion)}", *(mean_and_std([one]) for one in figures))]
        if report.restricted_accuracy is not None:
            figures = [report.restricted_accuracy, report.restricted_mean_class_accuracy, None]
            kept = f"the data's {len(report.data_classes)}"
            rows.append((kept, *(mean_and_std([one]) for one in figures)))
        first = "predicted among"
    title = f"{found.weights} on {found.data}: {report.split} split, {report.shapes} shapes"
    return Table(title, (first, *headings), rows)


def seeds_table(reports: Sequence[RunReport]) -> Table:
    """The figures of several runs."""
    return figures_table(reports, f"{len(reports)} seeds: mean and standard deviation")


def class_table(reports: Sequence[ClassificationReport]) -> Table:
    """A row for each class of the data; confusions are counted over all runs."""
    rows = []
    names = list(reports[0].class_accuracy)
    for index, name in enumerate(names):
        if name not in reports[0].data_classes:
            continue
        counts = [
            sum(report.confusion[index][to] for report in reports) for to in range(len(names))
        ]
        mistakes = [(count, -to) for to, count in enumerate(counts) if count and to != index]
        shown = ", ".join(
            f"{names[-to]} {count}" for count, to in sorted(mistakes, reverse=True)[:_CONFUSED]
        )
        recall = [report.class_accuracy[name] for report in reports]
        precision = [_precision(report.confusion, index) for report in reports]
        rows.append(
            (
                name,
                str(sum(reports[0].confusion[index])),
                mean_and_std(recall, 3),
                mean_and_std(precision, 3),
                shown,
            )
        )
    return Table(
        f"{reports[0].selection}, by class",
        ("class", "shapes", "accuracy (recall)", "precision", "confused with"),
        rows,
        text=("confused with",),
    )


def category_table(reports: Sequence[SegmentationReport]) -> Table:
    """A row for each category that occurs."""
    found = [
        (name, mean_and_std([report.category_iou[name] for report in reports]))
        for name in reports[0].category_iou
    ]
    rows = [(name, iou) for name, iou in found if iou != "-"]
    return Table(f"{reports[0].selection}, by category", ("category", "IoU"), rows)


def part_table(
    reports: Sequence[SegmentationReport], predictions: Sequence[PartPredictions]
) -> Table:
    """A row a category that occurs, with its parts.

    The IoU of a part is the mean over the shapes of its category, as that of the category is the
    mean of its parts.
    """
    rows = []
    for category, name in enumerate(predictions[0].spec.category_names):
        by_run = [run.of_category(category) for run in predictions]
        if not by_run[0]:
            continue
        parts = []
        for index, part in enumerate(part_names(predictions[0], category)):
            means = [mean(shape.part_iou[index] for shape in shapes) for shapes in by_run]
            words = f"{part} {mean_and_std(means, 3)}"
            parts.append(words.replace(" ", "\N{NO-BREAK SPACE}"))  # lines end between parts
        iou = mean_and_std([report.category_iou[name] for report in reports])
        rows.append((name, str(len(by_run[0])), iou, ", ".join(parts)))
    return Table(
        f"{reports[0].selection}, by category",
        ("category", "shapes", "IoU", "IoU of the parts"),
        rows,
        text=("IoU of the parts",),
    )


def part_names(predictions: PartPredictions, category: int) -> list[str]:
    """The names of a category's parts, without the category in front."""
    spec = predictions.spec
    return [spec.class_names[part].split("/", 1)[-1] for part in spec.parts[category]]


def data_name(recipe: Recipe) -> str:
    """The name of the data set."""
    return recipe.data.dataset if recipe.data.dataset in _NAMELESS else recipe.data.name


def cost_line(report: RunReport) -> str:
    """Length of the training and cost of the network."""
    rate = report.reports[0].clouds_per_second
    pace = "" if rate is None else f"{rate:.0f} clouds/s on {report.device}, "
    return (
        f"{report.epochs_done} of {report.recipe.trainer.epochs} epochs, seed "
        f"{report.recipe.trainer.seed}; {report.parameters:,} parameters, "
        f"{report.macs / 1e6:.0f} M MACs a cloud of {report.recipe.data.num_points} points;\n"
        f"{pace}batch {report.batch_size}; clouds {STORED_AS[report.mirroring]}"
    )


def calibration_line(report: RunReport) -> str:
    """The calibration of the weights reported first."""
    found = report.reports[0].calibration
    calibrated = "not calibrated, --calibrate does that"
    if found.ece_calibrated is not None:
        calibrated = (
            f"{found.ece_calibrated:.4f} with temperature {found.temperature:.3f} fitted on val"
        )
    return f"expected calibration error {found.ece:.4f}, {calibrated}"


def figure_columns(task: str, votes: int, tta_copies: int = 0) -> dict[str, str]:
    """The columns of a run's figures: heading -> field of its reports."""
    if task == "segmentation":
        scales = f"{len(VOTE_SIZES) if votes else 0} scales"
        return {
            "instance mIoU": "instance_miou",
            "category mIoU": "category_miou",
            "point accuracy": "point_accuracy",
            "all-parts instance mIoU": "all_parts_instance_miou",
            f"instance mIoU, {scales}": "voted_instance_miou",
            f"category mIoU, {scales}": "voted_category_miou",
            "instance mIoU, postprocessed": "postprocessed_instance_miou",
            f"instance mIoU, postprocessed, {tta_copies} TTA copies": "tta_instance_miou",
        }
    return {
        "overall accuracy": "overall_accuracy",
        "mean class accuracy": "mean_class_accuracy",
        f"overall, {votes} votes": "voted_accuracy",
    }


def _precision(confusion: list[list[int]], index: int) -> float | None:
    """The fraction of the predictions of a class that are correct; None without predictions."""
    predicted = sum(row[index] for row in confusion)
    return confusion[index][index] / predicted if predicted else None
