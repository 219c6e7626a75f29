"""Segmentation of every point of larger and larger clouds: external beside self-attention."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ea_pointcloud._checks import check_choice
from ea_pointcloud._device import available_memory
from scripts.benchmarks.cases import surface_clouds
from scripts.benchmarks.report import SEED, new_report, text_table, title
from scripts.benchmarks.timing import in_own_process, peak_mb, reset_peak

KINDS = ("external", "self")
POINTS = (10_000, 100_000, 1_000_000)
_AFFINITIES = 3  # (N, N) float32 tables that live at once in self-attention


def benchmark_segment(
    device: torch.device,
    *,
    only: Sequence[str] = (),
    quick: bool = False,
    points: Sequence[int] | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Segment one cloud by ``Predictor.segment``, each size in a process of its own.

    The networks are untrained, of the published dimensions and without a category. Self-attention
    compares all points with each other: it is not started where its affinities would not fit.

    ``only`` is ``"external"`` or ``"self"``; ``quick`` takes 10,000 points only. Raises ValueError
    for other kinds.
    """
    for kind in only:
        check_choice("--only", kind, KINDS)
    report = new_report("segment", device, only=only, quick=quick, rounds=1, rows=[])
    for kind in only or KINDS:
        before = None
        for count in points or POINTS[: 1 if quick else None]:
            name = f"{kind}, {count:,} points"
            progress(name)
            needed, room = 4 * _AFFINITIES * count**2, available_memory(device)
            if kind == "self" and room is not None and needed > room:
                why = f"needs {needed / 1e9:,.1f} GB, {room / 1e9:,.1f} GB are free"
                report["skipped"][name] = why
                break
            row, error = in_own_process(measure, str(device), kind, count, torch.get_num_threads())
            if row is None:
                report["failed" if kind == "external" else "skipped"][name] = error
                break
            growth = row["seconds"] / before if before else None
            report["rows"].append({"attention": kind, "num_points": count, **row, "growth": growth})
            before = row["seconds"]
    return report


def measure(device_name: str, attention: str, count: int, threads: int) -> dict[str, Any]:
    """Seconds on the clock and of the processor, and peak memory of the process, of a cloud."""
    from ea_pointcloud.inference.predictor import Predictor
    from ea_pointcloud.models import create_model

    device = torch.device(device_name)
    torch.set_num_threads(threads)
    torch.manual_seed(SEED)
    model = create_model("ea_segmenter_base", num_categories=0, attention=attention)
    predictor = Predictor(model, device)
    cloud = surface_clouds(1, count, torch.device("cpu"))[0].numpy()
    predictor.segment(cloud[:1000])  # warms up
    reset_peak(device)
    started, worked = time.perf_counter(), time.process_time()
    result = predictor.segment(cloud)
    seconds, cpu = time.perf_counter() - started, time.process_time() - worked
    assert len(result.labels) == count
    return {"seconds": seconds, "cpu_seconds": cpu, "peak_mb": peak_mb(device, 0)}


def tables(report: dict[str, Any]) -> list[str]:
    """A row a kind of attention and size."""
    columns = {
        "attention": ("attention", ""),
        "points": ("num_points", ",d"),
        "s": ("seconds", ".2f"),
        "s of CPU": ("cpu_seconds", ".2f"),
        "/ before": ("growth", ".1f"),
        "peak MB": ("peak_mb", ".0f"),
    }
    return [text_table(title(report), report["rows"], columns)]
