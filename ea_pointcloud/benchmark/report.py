"""Reports as tables and as files; who prints them, and how, is not decided here."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ea_pointcloud._atomic import write_whole
from ea_pointcloud.benchmark._table import (
    Table,
    absent,
    milliseconds,
    number,
    timing,
    title,
    verdict,
)
from ea_pointcloud.benchmark.report_networks import infer_tables, train_tables


def tables(report: dict[str, Any]) -> list[Table]:
    """The tables of a report of any kind."""
    make = {
        "ops": _ops_tables,
        "models": _models_tables,
        "io": _io_tables,
        "data": _data_tables,
        "attention": _attention_tables,
        "infer": infer_tables,
        "train": train_tables,
    }[report["kind"]]
    return list(make(report))


def check_target(path: Path | None, *, force: bool) -> None:
    """Raise before the work for a file that could not be written after it.

    Raises:
        FileNotFoundError: if the folder does not exist, or the path is a folder.
        FileExistsError: if the file exists and ``force`` is false.
    """
    if path is None:
        return
    if path.is_dir() or not path.parent.is_dir():
        raise FileNotFoundError(f"--out {path}: no such folder, or a folder itself")
    if path.exists() and not force:
        raise FileExistsError(f"{path} exists; choose another name or add --force")


def write_report(report: dict[str, Any], path: Path) -> None:
    """Write a report as JSON, whole or not at all."""
    write_whole(path, json.dumps(report, indent=2, allow_nan=False) + "\n")


def failures(report: dict[str, Any]) -> list[str]:
    """What of ours raised an error; a peer's failure is the peer's."""
    if report["kind"] != "ops":
        return [f"{name}: {error}" for name, error in report["failed"].items()]
    return [
        f"{case['name']}, {name}: {error}"
        for case in report["cases"]
        for name, error in case["failed"].items()
        if name.startswith("ours")
    ]


def _ops_tables(report: dict[str, Any]) -> Iterator[Table]:
    on_gpu = "goals" in report
    headings = ("case", "contestant", "median ms", "min..max", "/ ours", "same")
    if on_gpu:
        headings += ("graph ms", "floor", "peak MB")
    rows, notes = [], []
    for case in report["cases"]:
        for index, row in enumerate(case["contestants"]):
            variant = f" ({row['variant']})" if row["variant"] else ""
            cells = (
                "" if index else case["name"],
                row["name"] + variant,
                *timing(row),
                number(row["ratio"], ".2f"),
                number(row["same"], ".2%"),
            )
            if on_gpu:
                cells += (
                    "-" if row["graph_ms"] is None else milliseconds(row["graph_ms"]),
                    number(row["floor_share"], ".0%"),
                    number(row["peak_mb"], ".1f"),
                )
            rows.append(cells)
        for kind in ("skipped", "failed"):
            notes += [
                (name, f"{kind}: {reason}", case["name"]) for name, reason in case[kind].items()
            ]
    yield Table(title(report), headings, rows)
    if notes:
        yield Table("did not take part", ("contestant", "why", "cases"), _merge(notes))
    if on_gpu:
        yield Table(
            "goals",
            ("case", "goal", "value", "graph ms", "met"),
            [
                (
                    goal["case"], goal["goal"], number(goal["value"], ".3f"),
                    number(goal["graph_ms"], ".3f"), verdict(goal["met"]),
                )
                for goal in report["goals"]
            ],
        )  # fmt: skip


def _models_tables(report: dict[str, Any]) -> Iterator[Table]:
    headings = (
        "model", "pass", "batch", "precision", "mode", "median ms", "min..max", "clouds/s",
    )  # fmt: skip
    rows = [
        (
            row["model"],
            row["pass"],
            str(row["batch"]),
            row["precision"],
            row["mode"],
            *timing(row),
            f"{row['clouds_per_second']:.0f}",
        )
        for row in report["rows"]
    ]
    yield Table(f"{title(report)}; {report['num_points']} points a cloud", headings, rows)
    sizes = [
        (name, "", f"{size['parameters']:,}", number(size["macs"], ",d"))
        for name, size in report["models"].items()
    ]
    yield Table("sizes", ("model", "", "parameters", "MACs a cloud"), sizes)
    yield from absent(report)


def _io_tables(report: dict[str, Any]) -> Iterator[Table]:
    headings = ("model", "", "files/s", "model alone/s", "ratio", "min..max", "goal", "met")
    rows = [
        (
            row["model"],
            "",
            f"{row['whole_per_second']:.1f}",
            f"{row['alone_per_second']:.1f}",
            f"{row['ratio']:.3f}",
            f"{row['min_ratio']:.3f}..{row['max_ratio']:.3f}",
            f">= {report['goal']:.2f}",
            verdict(row["met"]),
        )
        for row in report["rows"]
    ]
    words = (
        f"{report['files']} files of {report['num_points']} points, {report['seen_points']} seen; "
        f"{report['workers']} workers"
    )
    yield Table(f"{title(report)}; {words}", headings, rows)


def _data_tables(report: dict[str, Any]) -> Iterator[Table]:
    headings = (
        "model", "data", "loading/s", "training/s", "model alone/s", "/ in memory", "min..max",
        "goal", "met",
    )  # fmt: skip
    rows = [
        (
            row["model"],
            row["way"],
            f"{row['loading_per_second']:,.0f}",
            f"{row['training_per_second']:.1f}",
            f"{row['model_alone_per_second']:.1f}",
            f"{row['ratio']:.3f}",
            f"{row['min_ratio']:.3f}..{row['max_ratio']:.3f}",
            f">= {report['goal']:.2f}",
            verdict(row["met"]),
        )
        for row in report["rows"]
    ]
    words = f"{report['clouds']} clouds of {report['num_points']} points, batch {report['batch']}"
    yield Table(f"{title(report)}; {words}", headings, rows)


def _attention_tables(report: dict[str, Any]) -> Iterator[Table]:
    rows = [
        (
            "" if index else case["name"],
            row["name"],
            *timing(row),
            number(row["ratio"], ".2f"),
            number(row["peak_mb"], ".1f"),
            number(row["floor_share"], ".0%"),
        )
        for case in report["cases"]
        for index, row in enumerate(case["contestants"])
    ]
    headings = ("case", "contestant", "median ms", "min..max", "/ ours", "peak MB", "floor")
    if rows:
        yield Table(f"{title(report)}; {report['slots']} slots", headings, rows)
    growth = report["growth"]
    rows = [
        (
            f"{row['num_points']:,} points",
            "",
            milliseconds(row["ms"]),
            number(row["time_ratio"], ".2f"),
            number(row["peak_mb"], ".1f"),
            number(row["memory_ratio"], ".2f"),
            verdict(row["met"]),
        )
        for row in growth["rows"]
    ]
    words = f"a block of {growth['channels']} channels, {growth['chunk']} points at a time"
    headings = ("growth", "", "ms", "/ before", "peak MB", "/ before", f"<= {growth['goal']:g}")
    if rows:
        yield Table(f"{title(report)}; {words}", headings, rows)
    yield from absent(report)


def _merge(notes: Sequence[tuple[str, str, str]]) -> list[tuple[str, ...]]:
    """One row for each contestant and reason, with the number of cases or the only one."""
    cases: dict[tuple[str, str], list[str]] = {}
    for name, why, case in notes:
        cases.setdefault((name, why), []).append(case)
    return [
        (name, why, found[0] if len(found) == 1 else f"{len(found)} cases")
        for (name, why), found in cases.items()
    ]
