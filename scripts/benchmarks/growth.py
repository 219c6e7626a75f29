"""Growth of the time and memory of one external-attention block with the points, in chunks."""

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ea_pointcloud.nn import ExternalAttention
from scripts.benchmarks.timing import current_device, in_own_process, peak_mb, reset_peak

CHANNELS = 64
CHUNK = 8192  # points; those of 64 channels stay in a processor's cache
SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
GOAL = 10.5  # times as much for ten times the points
_SWEEPS = 7  # through all sizes, so that a noisy minute of the machine does not affect one alone
_SECONDS = 3.0  # of calls that are averaged, the same for all sizes


def measure_growth(
    device: torch.device, sizes: Sequence[int], *, dynamic: bool = False, quick: bool = False
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Measure each size in a process of its own.

    Args:
        device: where to compute.
        sizes: points, each ten times the one before.
        dynamic: measure dynamic external attention.
        quick: one short sweep.

    Returns:
        rows: a size each: ``attention``, ``num_points``, ``ms`` (of CPU time on
        a CPU, which other processes do not affect), ``peak_mb`` of the features and everything the
        block allocates (None where the system does not report it), ``time_ratio`` and
        ``memory_ratio`` to the size before, ``met``.
        failed: size -> error.
    """
    rows: list[dict[str, Any]] = []
    failed = {}
    found: dict[int, list[dict[str, Any]]] = {size: [] for size in sizes}
    sweeps, seconds = (1, 0.2) if quick else (_SWEEPS, _SECONDS)
    for size in [*sizes] * sweeps:
        row, error = in_own_process(measure, str(device), size, seconds, dynamic)
        if row is None:
            failed[f"growth, {size} points"] = error
            break
        found[size].append(row)
    for each in filter(None, found.values()):
        row = min(each, key=lambda row: row["ms"])
        row["attention"] = "dynamic_external" if dynamic else "external"
        before = rows[-1] if rows else {}
        ratios = [_ratio(row[key], before.get(key)) for key in ("ms", "peak_mb")]
        row |= dict(zip(("time_ratio", "memory_ratio"), ratios, strict=True))
        row["met"] = all(ratio is None or ratio <= GOAL for ratio in ratios)
        rows.append(row)
    return rows, failed


def chunked_block(block: ExternalAttention, features: Tensor, chunk: int) -> None:
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
def measure(
    device_name: str, num_points: int, seconds: float, dynamic: bool = False
) -> dict[str, Any]:
    """Mean time of a call over at least ``seconds``, and peak memory, of one size."""
    device = torch.device(device_name)
    with current_device(device):
        torch.manual_seed(0)
        block = ExternalAttention(CHANNELS, dynamic=dynamic).to(device).eval()
        chunked_block(block, torch.randn(1, 2 * CHUNK, CHANNELS, device=device), CHUNK)  # warms up
        before = reset_peak(device)
        features = torch.randn(1, num_points, CHANNELS, device=device)
        calls, elapsed, started = 0, 0.0, _clock(device)
        while elapsed < seconds:
            chunked_block(block, features, CHUNK)
            calls, elapsed = calls + 1, _clock(device) - started
        most = peak_mb(device, before)
    return {"num_points": num_points, "ms": 1e3 * elapsed / calls, "peak_mb": most}


def _ratio(value: float | None, before: float | None) -> float | None:
    return value / before if value is not None and before else None


def _clock(device: torch.device) -> float:
    """Seconds."""
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()
