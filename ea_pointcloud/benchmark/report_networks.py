"""Tables of the reports on training and inference."""

from collections.abc import Iterator
from typing import Any

from ea_pointcloud.benchmark._table import (
    Table,
    absent,
    milliseconds,
    number,
    timing,
    title,
    verdict,
)


def infer_tables(report: dict[str, Any]) -> Iterator[Table]:
    """Inference by contestant, and how each kind of attention grows."""
    headings = (
        "model", "contestant", "batch", "precision", "median ms", "min..max", "/ ours", "clouds/s",
        "floor", f">= {report['goal']:g}",
    )  # fmt: skip
    rows = [
        (
            row["model"],
            row["contestant"],
            str(row["batch"]),
            row["precision"],
            *timing(row),
            number(row["ratio"], ".2f"),
            f"{row['clouds_per_second']:.1f}",
            number(row["floor_share"], ".0%"),
            verdict(row["met"]),
        )
        for row in report["rows"]
    ]
    yield Table(f"{title(report)}; {report['num_points']} points a cloud", headings, rows)
    headings = ("attention", "model", "points", "ms", "clouds/s", "peak MB", "MACs", "floor")
    rows = [
        (
            row["attention"],
            row["model"],
            f"{row['num_points']:,}",
            milliseconds(row["ms"]),
            f"{row['clouds_per_second']:.2f}",
            number(row["peak_mb"], ".0f"),
            number(row["macs"], ",d"),
            number(row["floor_share"], ".0%"),
        )
        for row in report["growth"]
    ]
    if rows:
        yield Table("one cloud, attention on all its points", headings, rows)
    yield from absent(report)


def train_tables(report: dict[str, Any]) -> Iterator[Table]:
    """Training by contestant, and a step in its parts."""
    headings = (
        "model", "contestant", "precision", "median ms", "min..max", "/ ours", "clouds/s",
        "s/epoch", "epoch", "floor",
    )  # fmt: skip
    rows = [
        (
            row["model"],
            row["contestant"],
            row["precision"],
            *timing(row),
            number(row["ratio"], ".2f"),
            f"{row['clouds_per_second']:.1f}",
            f"{row['epoch_seconds']:.1f}",
            row["epoch"],
            number(row["floor_share"], ".0%"),
        )
        for row in report["rows"]
    ]
    words = f"{report['num_points']} points a cloud, batch {report['batch']}"
    yield Table(f"{title(report)}; {words}", headings, rows)
    if report["parts"]:
        names = tuple(report["parts"][0]["parts"])
        headings = ("attention", "model", "batch", "points", *names, "clouds/s", "peak MB", "floor")
        rows = [
            (
                row["attention"],
                row["model"],
                str(row["batch"]),
                f"{row['num_points']:,}",
                *(milliseconds(row["parts"][name]) for name in names),
                f"{row['clouds_per_second']:.1f}",
                number(row["peak_mb"], ".0f"),
                number(row["floor_share"], ".0%"),
            )
            for row in report["parts"]
        ]
        yield Table("a training step in its parts, ms", headings, rows)
    yield from absent(report)
