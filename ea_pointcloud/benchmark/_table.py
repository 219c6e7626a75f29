"""Tables of text, and the parts that those of several reports share."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import floor, log10
from typing import Any

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


def title(report: dict[str, Any]) -> str:
    """What the figures of a report were measured on."""
    machine = report["machine"]
    versions = ", ".join(
        f"{name} {machine['versions'][name]}"
        for name in ("torch", "triton", "numba")
        if name in machine["versions"]
    )
    words = [machine["device_name"], versions, f"{machine['threads']} threads"]
    return "; ".join(filter(None, [*words, disturbance(machine)]))


def absent(report: dict[str, Any]) -> Iterator[Table]:
    """What did not take part, and why, if there is any."""
    notes = [
        (name, f"{kind}: {reason}", "")
        for kind in ("skipped", "failed")
        for name, reason in report[kind].items()
    ]
    if notes:
        yield Table("did not take part", ("what", "why", ""), notes)


def milliseconds(value: float) -> str:
    """Three significant figures, without an exponent."""
    decimals = 2 - floor(log10(value)) if value > 0 else 0
    return f"{value:.{max(0, decimals)}f}"


def timing(row: dict[str, Any]) -> tuple[str, str]:
    """Median, and from the least to the most."""
    span = f"{milliseconds(row['min_ms'])}..{milliseconds(row['max_ms'])}"
    return milliseconds(row["median_ms"]), span


def verdict(met: bool | None) -> str:
    """Whether a goal was met; nothing where there was none."""
    return "" if met is None else "yes" if met else "NO"


def number(value: float | None, form: str) -> str:
    """Formatted, or a dash for None."""
    return "-" if value is None else format(value, form)
