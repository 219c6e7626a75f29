"""How time and memory of one external-attention block grow with the points, streamed."""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ea_pointcloud.benchmark._measure import current_device
from ea_pointcloud.benchmark._memory import peak_bytes, reset_peak
from ea_pointcloud.nn import ExternalAttention

CHANNELS = 64
CHUNK = 8192  # points; those of 64 channels stay in a processor's cache
SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
GOAL = 10.5  # times as much for ten times the points
_SWEEPS = 7  # through all sizes, so that a noisy minute of the machine does not hit one alone
_SECONDS = 3.0  # of calls whose mean is taken, alike for all sizes


def measure_growth(
    device: torch.device, sizes: Sequence[int], *, quick: bool = False
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Measure each size in a process of its own: freed memory may stay with a process.

    Args:
        device: where to compute.
        sizes: points, each ten times the one before.
        quick: one short sweep, for a look.

    Returns:
        rows: a size each: ``num_points``, ``ms`` (of the processor where that computes, which
        others do not disturb), ``peak_mb`` of the features and everything the block takes beside
        them (None where the system does not tell), ``time_ratio`` and ``memory_ratio`` to the
        size before, ``met``.
        failed: size -> error.
    """
    rows: list[dict[str, Any]] = []
    failed = {}
    found: dict[int, list[dict[str, Any]]] = {size: [] for size in sizes}
    sweeps, seconds = (1, 0.2) if quick else (_SWEEPS, _SECONDS)
    for size in [*sizes] * sweeps:
        call = f"print_measured({str(device)!r}, {size}, {seconds})"
        code = f"import {__name__} as growth; growth.{call}"
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
            failed[f"growth, {size} points"] = lines[-1]
            break
        found[size].append(json.loads(done.stdout))
    for each in filter(None, found.values()):
        row = min(each, key=lambda row: row["ms"])
        before = rows[-1] if rows else None
        ratios = [_ratio(before, row, "ms"), _ratio(before, row, "peak_mb")]
        row |= dict(zip(("time_ratio", "memory_ratio"), ratios, strict=True))
        row["met"] = all(ratio is None or ratio <= GOAL for ratio in ratios)
        rows.append(row)
    return rows, failed


def stream_block(block: ExternalAttention, features: Tensor, chunk: int) -> None:
    """Replace the (B, N, C) features by the block's result, ``chunk`` points at a time."""
    parts = features.split(chunk, dim=1)
    total = block.slot_state(parts[0])
    assert total is not None  # the double normalisation has one
    for part in parts[1:]:
        further = block.slot_state(part)
        assert further is not None
        total = total.merge(further)
    for part in parts:
        part.copy_(block(part, state=total))


@torch.no_grad()
def measure(device: torch.device, num_points: int, seconds: float) -> dict[str, Any]:
    """Mean time of at least so many seconds of calls, and the most memory, of one size."""
    with current_device(device):
        torch.manual_seed(0)
        block = ExternalAttention(CHANNELS).to(device).eval()
        stream_block(block, torch.randn(1, 2 * CHUNK, CHANNELS, device=device), CHUNK)  # warms up
        before = reset_peak(device)
        features = torch.randn(1, num_points, CHANNELS, device=device)
        calls, taken, started = 0, 0.0, _clock(device)
        while taken < seconds:
            stream_block(block, features, CHUNK)
            calls, taken = calls + 1, _clock(device) - started
        peak = peak_bytes(device)
    peak_mb = None if before is None or peak is None else (peak - before) / 1e6
    return {"num_points": num_points, "ms": 1e3 * taken / calls, "peak_mb": peak_mb}


def print_measured(device: str, num_points: int, seconds: float) -> None:
    """What a process of its own does: :func:`measure`, as JSON."""
    sys.stdout.write(json.dumps(measure(torch.device(device), num_points, seconds)) + "\n")


def _ratio(before: dict[str, Any] | None, row: dict[str, Any], key: str) -> float | None:
    if before is None or not before[key] or row[key] is None:
        return None
    return row[key] / before[key]


def _clock(device: torch.device) -> float:
    """Seconds."""
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()
