"""Reports as tables and as files; who prints them, and how, is not decided here."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import floor, log10
from pathlib import Path
from typing import Any

from ea_pointcloud._atomic import write_whole
from ea_pointcloud.benchmark._machine import disturbance


@dataclass(frozen=True)
class Table:
    """Headings and rows of equal length; the first two columns are words, the others figures."""

    title: str
    headings: tuple[str, ...]
    rows: list[tuple[str, ...]]

    def __str__(self) -> str:
        """Plain text, columns aligned."""
        lines = [self.headings, *self.rows]
        widths = [max(len(line[column]) for line in lines) for column in range(len(self.headings))]
        text = [self.title] if self.title else []
        for line in lines:
            cells = [
                cell.ljust(width) if column < 2 else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(line, widths, strict=True))
            ]
            text.append("  ".join(cells).rstrip())
        return "\n".join(text)


def tables(report: dict[str, Any]) -> list[Table]:
    """The tables of a report of any kind."""
    make = {
        "ops": _ops_tables,
        "models": _models_tables,
        "io": _io_tables,
        "data": _data_tables,
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


def _title(report: dict[str, Any]) -> str:
    machine = report["machine"]
    versions = ", ".join(
        f"{name} {machine['versions'][name]}"
        for name in ("torch", "triton", "numba")
        if name in machine["versions"]
    )
    words = [machine["device_name"], versions, f"{machine['threads']} threads"]
    return "; ".join(filter(None, [*words, disturbance(machine)]))


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
                milliseconds(row["median_ms"]),
                f"{milliseconds(row['min_ms'])}..{milliseconds(row['max_ms'])}",
                _number(row["ratio"], ".2f"),
                _number(row["same"], ".2%"),
            )
            if on_gpu:
                cells += (
                    "-" if row["graph_ms"] is None else milliseconds(row["graph_ms"]),
                    _number(row["floor_share"], ".0%"),
                    _number(row["peak_mb"], ".1f"),
                )
            rows.append(cells)
        for kind in ("skipped", "failed"):
            notes += [
                (name, f"{kind}: {reason}", case["name"]) for name, reason in case[kind].items()
            ]
    yield Table(_title(report), headings, rows)
    if notes:
        yield Table("did not take part", ("contestant", "why", "cases"), _merge(notes))
    if on_gpu:
        yield Table(
            "goals",
            ("case", "goal", "value", "graph ms", "met"),
            [
                (
                    goal["case"], goal["goal"], _number(goal["value"], ".3f"),
                    _number(goal["graph_ms"], ".3f"), "yes" if goal["met"] else "NO",
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
            milliseconds(row["median_ms"]),
            f"{milliseconds(row['min_ms'])}..{milliseconds(row['max_ms'])}",
            f"{row['clouds_per_second']:.0f}",
        )
        for row in report["rows"]
    ]
    yield Table(f"{_title(report)}; {report['num_points']} points a cloud", headings, rows)
    sizes = [
        (name, "", f"{size['parameters']:,}", _number(size["macs"], ",d"))
        for name, size in report["models"].items()
    ]
    yield Table("sizes", ("model", "", "parameters", "MACs a cloud"), sizes)
    notes = [
        (name, f"{kind}: {reason}", "")
        for kind in ("skipped", "failed")
        for name, reason in report[kind].items()
    ]
    if notes:
        yield Table("did not take part", ("what", "why", ""), notes)


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
            "yes" if row["met"] else "NO",
        )
        for row in report["rows"]
    ]
    words = (
        f"{report['files']} files of {report['num_points']} points, {report['seen_points']} seen; "
        f"{report['workers']} workers"
    )
    yield Table(f"{_title(report)}; {words}", headings, rows)


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
            "yes" if row["met"] else "NO",
        )
        for row in report["rows"]
    ]
    words = f"{report['clouds']} clouds of {report['num_points']} points, batch {report['batch']}"
    yield Table(f"{_title(report)}; {words}", headings, rows)


def _merge(notes: Sequence[tuple[str, str, str]]) -> list[tuple[str, ...]]:
    """One row for each contestant and reason, with the number of cases or the only one."""
    cases: dict[tuple[str, str], list[str]] = {}
    for name, why, case in notes:
        cases.setdefault((name, why), []).append(case)
    return [
        (name, why, found[0] if len(found) == 1 else f"{len(found)} cases")
        for (name, why), found in cases.items()
    ]


def milliseconds(value: float) -> str:
    """Three significant figures, without an exponent."""
    decimals = 2 - floor(log10(value)) if value > 0 else 0
    return f"{value:.{max(0, decimals)}f}"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
