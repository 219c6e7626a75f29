"""Reports of benchmarks: the machine, tables as plain text, files of JSON."""

import json
import os
import platform
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from math import floor, log10
from pathlib import Path
from typing import Any

import torch

from ea_pointcloud._files import write_whole

SEED = 0
_PACKAGES = (
    "ea-pointcloud", "torch", "triton", "numba", "numpy", "torch-geometric", "torch-cluster",
    "torch-quickfps", "torch-quickfps-cu128", "torch-quickfps-cu130", "small_gicp", "scipy",
    "cupy-cuda12x", "cupy-cuda13x",
)  # fmt: skip

# Heading -> (key of the row or function of it, format specification or function of the value).
Columns = Mapping[str, tuple[str | Callable[[dict[str, Any]], Any], str | Callable[[Any], str]]]


def new_report(
    kind: str, device: torch.device, *, only: Sequence[str], quick: bool, rounds: int, **more: Any
) -> dict[str, Any]:
    """What all reports have: machine, settings, and what did not take part, and why."""
    return {
        "kind": kind,
        "machine": describe_machine(device),
        "settings": {"only": list(only), "quick": quick, "seed": SEED, "rounds": rounds},
        **more,
        "skipped": {},
        "failed": {},
    }


def add_case(report: dict[str, Any], case: Any, rows: list[dict[str, Any]]) -> None:
    """Add the settings of a case, a dataclass with ``name`` and ``dtype``, and its contestants."""
    dtype = str(case.dtype).removeprefix("torch.")
    settings = {"name": case.name, **asdict(case), "dtype": dtype}
    report["cases"].append({**settings, "contestants": rows})


def case_rows(report: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for every contestant of every case."""
    return [
        {"case": each["name"], **row} for each in report["cases"] for row in each["contestants"]
    ]


def summary(case: str, rows: list[dict[str, Any]]) -> str:
    """Contestants of a case in one line."""
    times = (f"{row['name']} {milliseconds(row['median_ms'])} ms" for row in rows)
    return f"{case}: {', '.join(times)}"


def failures(report: dict[str, Any]) -> list[str]:
    """What of ours raised an error or missed a goal; the failure of a peer is skipped instead."""
    failed = [f"{name}: {error}" for name, error in report["failed"].items()]
    missed = [goal for goal in report.get("goals", ()) if not goal["met"]]
    return failed + [
        f"{goal['case']}: {goal['value']:.3g} misses {goal['goal']}" for goal in missed
    ]


def text_table(title: str, rows: Sequence[dict[str, Any]], columns: Columns) -> str:
    """Aligned plain text; None becomes a dash, and a first cell that repeats is left blank."""
    lines = [[_cell(row, *column) for column in columns.values()] for row in rows]
    firsts = [line[0] for line in lines]
    for line, before in zip(lines[1:], firsts, strict=False):
        if line[0] == before:
            line[0] = ""
    lines.insert(0, list(columns))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    # Words to the left, figures to the right.
    words = [any(isinstance(_value(row, key), str) for row in rows) for key, _ in columns.values()]
    text = [title]
    for line in lines:
        cells = zip(line, widths, words, strict=True)
        padded = (cell.ljust(size) if word else cell.rjust(size) for cell, size, word in cells)
        text.append("  ".join(padded).rstrip())
    return "\n".join(text)


def milliseconds(value: float) -> str:
    """Three significant figures, without an exponent."""
    decimals = 2 - floor(log10(value)) if value > 0 else 0
    return f"{value:.{max(0, decimals)}f}"


def _span(row: dict[str, Any]) -> str:
    return f"{milliseconds(row['min_ms'])}..{milliseconds(row['max_ms'])}"


TIMES: Columns = {
    "median ms": ("median_ms", milliseconds),
    "min..max": (_span, ""),
    "/ ours": ("ratio", ".2f"),
}


def not_measured(report: dict[str, Any]) -> Iterator[str]:
    """A table of what did not take part, and why, if there is anything."""
    reasons: dict[str, list[str]] = {}
    for kind in ("skipped", "failed"):
        for name, reason in report[kind].items():
            reasons.setdefault(f"{kind}: {reason}", []).append(name)
    rows = [
        {"why": why, "what": names[0] + (f" and {len(names) - 1} more" if names[1:] else "")}
        for why, names in reasons.items()
    ]
    if rows:
        yield text_table("not measured", rows, {"what": ("what", ""), "why": ("why", "")})


def title(report: dict[str, Any], *words: str) -> str:
    """What the figures of a report were measured on."""
    machine = report["machine"]
    versions = ", ".join(
        f"{name} {machine['versions'][name]}"
        for name in ("torch", "triton", "numba")
        if name in machine["versions"]
    )
    all_words = [machine["device_name"], versions, f"{machine['threads']} threads", *words]
    return "; ".join(filter(None, [*all_words, disturbance(machine)]))


def check_target(path: Path | None, *, force: bool) -> None:
    """Raise before the work for a file that could not be written after it.

    Raises:
        FileNotFoundError: if the folder does not exist, or the path is a folder.
        FileExistsError: if the file exists and ``force`` is false.
    """
    if path is None:
        return
    if path.is_dir() or not path.parent.is_dir():
        raise FileNotFoundError(f"--output {path}: no such folder, or a folder itself")
    if path.exists() and not force:
        raise FileExistsError(f"{path} exists; choose another name or add --force")


def write_report(report: dict[str, Any], path: Path) -> None:
    """Write a report as JSON, whole or not at all."""
    write_whole(path, json.dumps(report, indent=2, allow_nan=False) + "\n")


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Device, processor, threads, load, and the versions of everything that may have been timed."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    on_gpu = device.type == "cuda"
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if on_gpu else _processor(),
        "cpu": _processor(),
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "cores": os.cpu_count(),
        "platform": platform.platform(),
        "cuda": torch.version.cuda,
        "versions": versions,
    }


def disturbance(machine: dict[str, Any]) -> str:
    """A warning about figures taken while others were using the processor, or nothing.

    Threads that wait for each other lose far more than the core that is missing, so that even
    ratios shift.
    """
    load, cores = machine["load_average"], machine["cores"]
    if load is None or cores is None or load < cores / 2:
        return ""
    return f"load {load:.1f} on {cores} cores before the start: not for the record"


def _processor() -> str:
    if sys.platform.startswith("linux"):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _value(row: dict[str, Any], key: str | Callable[[dict[str, Any]], Any]) -> Any:
    return key(row) if callable(key) else row.get(key)


def _cell(
    row: dict[str, Any],
    key: str | Callable[[dict[str, Any]], Any],
    form: str | Callable[[Any], str],
) -> str:
    value = _value(row, key)
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "NO"
    return form(value) if callable(form) else format(value, form)
