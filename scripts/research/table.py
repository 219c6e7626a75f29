"""The protocol's table: figures of every run and over the seeds, as JSON and Markdown."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch

from ea_pointcloud._files import write_whole
from ea_pointcloud.models.pretrained import WEIGHTS_FILE
from ea_pointcloud.report.tables import LEGACY, Table, data_name, figure_columns, mean_and_std
from ea_pointcloud.training.callbacks import read_metrics, total_seconds
from ea_pointcloud.training.evaluate_run import RunReport, evaluate_run
from ea_pointcloud.training.run_folder import METRICS_FILE, load_run_recipe, read_versions
from scripts.research.plan import PlannedRun

MEASURED = "runs"  # folder of what was measured of each run
_COSTS = ("seeds", "parameters", "MACs", "clouds/s", "epochs", "training")


@dataclass(frozen=True)
class RunFigures:
    """What the table keeps of one run.

    Args:
        name: of the row.
        seed: of the training.
        run: the run folder.
        command: trains this run.
        weights: a hash of its weights.
        task: ``"classification"`` or ``"segmentation"``.
        data: the name of the set.
        shapes: clouds of its test split.
        num_points: points of each.
        votes: passes that are averaged beside the one plain pass.
        tta_copies: of a segmenter, see :class:`~ea_pointcloud.training.recipe_keys.EvalRecipe`.
        epochs: trained.
        train_seconds: all of them took, validation included.
        trained_on: the recipe's device.
        versions: the training ran with.
        parameters: of the network.
        macs: multiply-accumulates of one cloud.
        measured_on: where the figures and the rate are from.
        threads: of PyTorch there.
        batch_size: there.
        clouds_per_second: of the plain pass there; None of too few batches to measure.
        figures: how weights were chosen -> field of the report -> value.
    """

    name: str
    seed: int
    run: str
    command: str
    weights: str
    task: str
    data: str
    shapes: int
    num_points: int
    votes: int
    tta_copies: int
    epochs: int
    train_seconds: float
    trained_on: str
    versions: dict[str, str]
    parameters: int
    macs: int
    measured_on: str
    threads: int
    batch_size: int
    clouds_per_second: float | None
    figures: dict[str, dict[str, float | None]]


def measure(planned: PlannedRun, out: str | Path, device: torch.device) -> RunFigures:
    """Evaluate a complete run on its test split, once: what was measured before is read back.

    Args:
        planned: the run; its recipe says where the data lies.
        out: the folder of the table; ``out/runs`` gets a file for every run.
        device: where to compute.

    Raises:
        FileNotFoundError: if the run or its data is incomplete.
    """
    weights = _fingerprint(planned.run)
    kept = Path(out) / MEASURED / f"{planned.run.name}.json"
    wanted = {"weights": weights, "measured_on": str(device), "threads": torch.get_num_threads()}
    if kept.is_file():
        values = json.loads(kept.read_text(encoding="utf-8"))
        # Written by a version whose figures were others, they are measured again.
        if set(values) == {field.name for field in fields(RunFigures)} and all(
            values[name] == value for name, value in wanted.items()
        ):
            # The same run may be another row of this table.
            row = {"name": planned.variant.name, "run": str(planned.run)}
            return RunFigures(**{**values, **row, "command": planned.command})
    root = planned.recipe.data.root
    report = evaluate_run(planned.run, "test", device, data_root=root)
    found = _figures(planned, report, weights)
    kept.parent.mkdir(parents=True, exist_ok=True)
    write_whole(kept, json.dumps(asdict(found), indent=2, allow_nan=False) + "\n")
    return found


def protocol_table(rows: Sequence[Sequence[RunFigures]], seeds: int) -> Table:
    """Means and deviations over the seeds, several lines a row: one for each way to choose weights.

    Args:
        rows: the runs of each row, one at least; of one plan, which sees to it that their figures
            can stand in one column.
        seeds: how many each should have.
    """
    first = rows[0][0]
    headings = figure_columns(first.task, first.votes, first.tta_copies)
    lines = []
    for runs in rows:
        for number, selection in enumerate(_selections(runs)):
            values = [[run.figures[selection].get(field) for run in runs] for field in
                      headings.values()]  # fmt: skip
            costs = _costs(runs, seeds) if number == 0 else [""] * len(_COSTS)
            name = runs[0].name if number == 0 else ""
            lines.append((name, selection, *map(mean_and_std, values), *costs))
    titles = sorted({f"{run.data}, {run.shapes} test shapes, {run.num_points} points"
                     for runs in rows for run in runs})  # fmt: skip
    columns = ("recipe", "weights chosen by", *headings, *_COSTS)
    return Table("; ".join(titles), columns, lines, text=("weights chosen by",))


def write_protocol(
    out: str | Path, rows: Sequence[Sequence[RunFigures]], seeds: int, made_by: dict[str, Any]
) -> str:
    """Write ``table.json`` and ``table.md``.

    Args:
        out: the folder, made where it is missing.
        rows: the runs of each row, one at least.
        seeds: how many each should have.
        made_by: the command, machine and versions that are kept with it.

    Returns:
        The Markdown.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    content = {**made_by, "seeds": seeds, "rows": [_summary(runs) for runs in rows]}
    write_whole(out / "table.json", json.dumps(content, indent=2, allow_nan=False) + "\n")
    text = markdown(protocol_table(rows, seeds)) + "\n" + _notes(rows, made_by)
    write_whole(out / "table.md", text)
    return text


def markdown(table: Table) -> str:
    """A table as GitHub's Markdown has it."""
    aligned = ("---" if table.is_text(column) else "---:" for column in table.columns)
    rows = [table.columns, tuple(aligned), *table.rows]
    lines = ["| " + " | ".join(word.replace("|", "\\|") for word in row) + " |" for row in rows]
    return "\n".join([f"**{table.title}**", "", *lines]) + "\n"


def _figures(planned: PlannedRun, report: RunReport, weights: str) -> RunFigures:
    recipe, run = load_run_recipe(planned.run), planned.run
    metrics = read_metrics(run / METRICS_FILE)
    headings = figure_columns(recipe.task, recipe.eval.votes, recipe.eval.tta_copies)
    figures = {one.selection: {field: getattr(one, field) for field in headings.values()}
               for one in report.reports}  # fmt: skip
    if report.legacy_accuracy is not None:
        figures[LEGACY] = {next(iter(headings.values())): report.legacy_accuracy}
    return RunFigures(
        name=planned.variant.name,
        seed=recipe.trainer.seed,
        run=str(run),
        command=planned.command,
        weights=weights,
        task=recipe.task,
        data=data_name(recipe),
        shapes=report.reports[0].shapes,
        num_points=recipe.data.num_points,
        votes=recipe.eval.votes,
        tta_copies=recipe.eval.tta_copies,
        epochs=report.epochs_done,
        train_seconds=round(total_seconds(metrics), 1),
        trained_on=recipe.trainer.device,
        versions=read_versions(run),
        parameters=report.parameters,
        macs=report.macs,
        measured_on=report.device,
        threads=torch.get_num_threads(),
        batch_size=report.batch_size,
        clouds_per_second=report.reports[0].clouds_per_second,
        figures=figures,
    )


def _summary(runs: Sequence[RunFigures]) -> dict[str, Any]:
    summary: dict[str, Any] = {}
    for selection in _selections(runs):
        summary[selection] = {}
        for field in runs[0].figures[selection]:
            values = [run.figures[selection].get(field) for run in runs]
            found = [value for value in values if value is not None]
            if found:
                spread = stdev(found) if len(found) > 1 else None
                summary[selection][field] = {"mean": mean(found), "std": spread, "runs": len(found)}
    return {"name": runs[0].name, "summary": summary, "runs": [asdict(run) for run in runs]}


def _selections(runs: Sequence[RunFigures]) -> list[str]:
    """The ways of choosing weights that all runs of a row have, in their order."""
    return [way for way in runs[0].figures if all(way in run.figures for run in runs)]


def _costs(runs: Sequence[RunFigures], seeds: int) -> list[str]:
    rates = [run.clouds_per_second for run in runs if run.clouds_per_second is not None]
    minutes = mean(run.train_seconds for run in runs) / 60
    return [
        f"{len(runs)} of {seeds}",
        f"{runs[0].parameters:,}",
        f"{runs[0].macs / 1e6:.0f} M",
        f"{mean(rates):.0f}" if rates else "-",
        str(runs[0].epochs),
        f"{minutes:.1f} min on {runs[0].trained_on}",
    ]


def _notes(rows: Sequence[Sequence[RunFigures]], made_by: dict[str, Any]) -> str:
    first = rows[0][0]
    lines = [
        "Mean ± standard deviation over the seeds; weights chosen on validation are the primary "
        "figure, the test split chooses nothing but the legacy one. MACs of one cloud; clouds/s "
        f"on {first.measured_on} ({made_by['machine']}, {first.threads} threads) with batch "
        f"{first.batch_size}, one plain pass; training is the mean of a run, validation included.",
        "",
        f"Made by `{made_by['command']}` on {made_by['date']} with "
        + ", ".join(f"{name} {version}" for name, version in made_by["versions"].items())
        + ".",
    ]
    return "\n".join(lines) + "\n"


def _fingerprint(run: Path) -> str:
    digest = hashlib.sha256()
    for folder in ("best", "last"):
        digest.update((run / folder / WEIGHTS_FILE).read_bytes())
    return digest.hexdigest()
