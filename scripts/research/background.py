"""Does an attention suffer from points that are not of the object? One table over runs.

    python -m scripts.research.background figures.json ...      # what was measured already
    python -m scripts.research.background runs/a-seed0 ... --output FOLDER [--split val]

A file is what ``ea-pointcloud evaluate RUN... --corruptions all --json`` printed. A run folder is
measured, which takes 112 passes over the split; every attention of ``model.overrides.attention`` is
a row, over its seeds. Errors in %, means over the five severities. With --output also as
FOLDER/background.md and FOLDER/background.json.
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from statistics import mean
from typing import Any

from ea_pointcloud._device import resolve_device
from ea_pointcloud.report.tables import Table, mean_and_std
from ea_pointcloud.robustness.options import InferenceOptions
from ea_pointcloud.training.evaluate_corruptions import evaluate_run_corruptions
from ea_pointcloud.training.run_folder import load_run_recipe
from scripts.research.table import markdown

# What puts points where the object has none.
ADDED = ("background", "add_global", "add_local", "impulse", "uniform", "upsampling")


def main() -> None:
    """Measure or read, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sources", nargs="+", type=Path, metavar="RUN|FILE")
    parser.add_argument("--split", default="test", choices=("val", "test"))
    parser.add_argument("--limit", type=int, help="shapes, spread over the split")
    parser.add_argument(
        "--remove-outliers", action="store_true", help="leave out statistical outliers"
    )
    parser.add_argument("--adapt", type=float, help="weight of batch-norm adaptation, 0 to 1")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--output", type=Path, metavar="FOLDER")
    arguments = parser.parse_args()
    options = InferenceOptions(
        remove_outliers=arguments.remove_outliers, adaptation=arguments.adapt
    )

    rows = []
    for source in arguments.sources:
        if source.is_file():
            rows += read(source)
        else:
            rows.append(measure(source, options, arguments))
    text = markdown(compare(rows))
    sys.stdout.write(text)
    if arguments.output is not None:
        arguments.output.mkdir(parents=True, exist_ok=True)
        (arguments.output / "background.md").write_text(text, encoding="utf-8")
        figures = json.dumps(rows, indent=2, allow_nan=False)
        (arguments.output / "background.json").write_text(figures + "\n", encoding="utf-8")


def measure(run: Path, options: InferenceOptions, arguments: argparse.Namespace) -> dict[str, Any]:
    """The figures of a run folder."""
    recipe = load_run_recipe(run)
    found = evaluate_run_corruptions(
        run,
        recipe,
        arguments.split,
        "all",
        resolve_device(arguments.device),
        limit=arguments.limit,
        options=options,
        say=lambda line: print(f"{run}: {line}", file=sys.stderr),  # noqa: T201
    )
    return figures_of(asdict(recipe), [asdict(each) for each in found], arguments.split)


def read(path: Path) -> list[dict[str, Any]]:
    """The figures of a file that evaluate has printed, or that this script has written."""
    rows = json.loads(path.read_text(encoding="utf-8"))
    if "settings" in rows[0]:
        return rows
    try:
        return [
            figures_of(row["recipe"], row["corruptions"], row["reports"][0]["split"])
            for row in rows
        ]
    except KeyError as error:
        raise SystemExit(
            f"{path} must be what 'evaluate RUN... --corruptions all --json' printed, "
            f"it lacks {error}"
        ) from error


def figures_of(recipe: dict[str, Any], reports: list[dict[str, Any]], split: str) -> dict[str, Any]:
    """Error rates of one run under every corruption, and what network it is."""
    model = recipe["model"]
    settings = {"size": model["size"], "attention": "external", **model["overrides"]}
    if model["name"] != "ea":
        settings["attention"] = model["name"]
    errors = {
        name: 1 - mean(accuracy)
        for report in reports
        for name, accuracy in report["accuracy"].items()
    }
    return {
        "settings": settings,
        "options": reports[0]["options"],
        "seed": recipe["trainer"]["seed"],
        "split": split,
        "shapes": reports[0]["shapes"],
        "clean": 1 - reports[0]["clean_accuracy"],
        "errors": errors,
        "mean_errors": {report["benchmark"]: report["mean_error_rate"] for report in reports},
    }


def compare(rows: list[dict[str, Any]]) -> Table:
    """A row a kind of network, mean and standard deviation over its runs."""
    splits = sorted({f"{row['shapes']} shapes of the {row['split']} split" for row in rows})
    if len(splits) > 1:
        raise SystemExit(f"the figures must be of the same shapes, got {' and '.join(splits)}")
    added = [name for name in ADDED if name in rows[0]["errors"]]
    totals = list(rows[0]["mean_errors"])
    table = []
    kinds = [kind_of(row, rows) for row in rows]
    for kind in dict.fromkeys(kinds):
        same = [row for row, own in zip(rows, kinds, strict=True) if own == kind]
        columns = [[row["clean"] for row in same]]
        columns += [[row["errors"][name] for row in same] for name in added]
        columns += [[row["mean_errors"][name] for row in same] for name in totals]
        words = (mean_and_std([100 * value for value in values], 1) for values in columns)
        table.append((kind, str(len(same)), *words))
    headings = ("attention", "runs", "clean", *added, *(f"mean of {name}" for name in totals))
    return Table(f"Error rate in %, {splits[0]}", headings, table)


def kind_of(row: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """The attention of a run, and in what else it differs from another one."""
    settings = row["settings"]
    words = [settings["attention"]]
    for name, value in settings.items():
        if name != "attention" and any(each["settings"].get(name) != value for each in rows):
            words.append(f"{name}={value}")
    words.append(str(InferenceOptions(**row["options"])))
    return ", ".join(filter(None, words))


if __name__ == "__main__":
    main()
