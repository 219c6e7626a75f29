"""The operators against each other and against what else a user could run."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from ea_pointcloud.benchmark._machine import describe_machine
from ea_pointcloud.benchmark._measure import (
    Contestant,
    Timing,
    copy_bandwidth,
    current_device,
    describe_error,
    peak_megabytes,
    race,
    replay_ms,
)
from ea_pointcloud.benchmark.cases import (
    SEED,
    Case,
    make_inputs,
    operator_cases,
    select,
)
from ea_pointcloud.benchmark.goals import check_goals
from ea_pointcloud.benchmark.ours import our_contestants
from ea_pointcloud.benchmark.peers import Peer, peer_contestants
from ea_pointcloud.benchmark.report import milliseconds

# --quick leaves out the cases that take minutes.
_QUICK_DISTANCES = 2e8
# What pruning cannot be blamed for: beyond it no implementation forms every distance.
_BRUTE_FORCE_POINTS = 8192


def benchmark_ops(
    device: torch.device,
    *,
    only: Sequence[str] = (),
    quick: bool = False,
    cases: Sequence[Case] | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Time every implementation of the operators and every peer that is installed.

    The contestants of a case run in turns within one process, so their ratios hold even where the
    machine is noisy; compare milliseconds of different runs with care.

    Args:
        device: where to compute.
        only: keep the cases whose name holds one of these.
        quick: three rounds and no large clouds, for a look rather than for a record.
        cases: instead of :func:`operator_cases`.
        progress: told a line after each case.

    Returns:
        A dictionary for JSON: ``machine``, ``settings``, ``cases`` (each with ``contestants`` and
        ``skipped``), and on CUDA ``goals``.

    Raises:
        ValueError: if one of ``only`` names no case.
    """
    chosen = select(operator_cases(device) if cases is None else cases, only)
    if quick:
        chosen = [case for case in chosen if case.distances <= _QUICK_DISTANCES]
    rounds, seconds = (3, 1.0) if quick else (7, 10.0)
    machine = describe_machine(device)
    limits, rows = None, []
    with current_device(device):
        if device.type == "cuda":
            limits = _Limits(device)
        for number, case in enumerate(chosen, 1):
            row = _run(case, device, limits, rounds=rounds, seconds=seconds)
            times = [
                f"{each['name']} {milliseconds(each['median_ms'])} ms"
                for each in row["contestants"]
            ]
            progress(f"[{number}/{len(chosen)}] {case.name}: {', '.join(times)}")
            rows.append(row)
    report: dict[str, Any] = {
        "kind": "ops",
        "machine": machine,
        "settings": {"only": list(only), "quick": quick, "seed": SEED, "rounds": rounds},
        "memory": "peak_mb is what one call adds to the GPU's memory; on the CPU it is not "
        "measured, since native code allocates past what Python can count and the process's peak "
        "never falls",
        "cases": rows,
    }
    if limits is not None:
        report["copy_gb_per_s"] = limits.bytes_per_second / 1e9
        report["float32_tera_ops"] = limits.operations_per_second / 1e12
        report["goals"] = check_goals(report)
    return report


class _Limits:
    """What the GPU can do at most: a measured copy, and its arithmetic without fused operations."""

    def __init__(self, device: torch.device) -> None:
        self.bytes_per_second = copy_bandwidth(device)
        properties = torch.cuda.get_device_properties(device)
        lanes = 64 if (properties.major, properties.minor) in ((7, 0), (7, 5), (8, 0)) else 128
        # Not every supported version of torch knows the clock.
        clock = 1e3 * getattr(properties, "clock_rate", 0)
        self.operations_per_second = properties.multi_processor_count * lanes * clock

    def floor_ms(self, case: Case) -> dict[str, float]:
        """Milliseconds below which the job cannot go, by memory and by arithmetic.

        Sampling is a chain of dependent picks, which no such floor describes: left out.
        """
        if case.op == "fps":
            return {}
        floors = {"memory": 1e3 * case.traffic() / self.bytes_per_second}
        brute_force = case.op != "gather" and case.num_points <= _BRUTE_FORCE_POINTS
        if brute_force and self.operations_per_second:
            # Three differences, three products, two sums and a comparison each.
            floors["arithmetic"] = 1e3 * 9 * case.distances / self.operations_per_second
        return floors


def _run(
    case: Case, device: torch.device, limits: _Limits | None, *, rounds: int, seconds: float
) -> dict[str, Any]:
    try:
        inputs = make_inputs(case, device)
        ours, skipped = our_contestants(case, inputs, device)
        peers, skipped_peers = peer_contestants(case, inputs, device)
    except torch.OutOfMemoryError as error:
        failed = {"ours": describe_error(error)}
        return {**_describe(case), "contestants": [], "skipped": {}, "failed": failed}
    contestants = [*ours, *(contestant for contestant, _ in peers)]
    timings, failures = race(contestants, device, rounds=rounds, seconds=seconds)
    readers = {contestant.name: peer for contestant, peer in peers}
    base = next((contestant.name for contestant in ours if contestant.name in timings), None)
    rows = []
    for contestant in contestants:
        if contestant.name not in timings:
            continue
        timing = timings[contestant.name]
        row = {"name": contestant.name, **_figures(timing)}
        row["ratio"] = None if base is None else timing.median_ms / timings[base].median_ms
        row["same"] = None
        if base is not None:
            row["same"] = _same(timings[base].result, timing.result, case, readers.get(row["name"]))
        if limits is not None:
            row |= _gpu_figures(contestant, timing, case, device, limits, ours=contestant in ours)
        rows.append(row)
    return {
        **_describe(case),
        "contestants": rows,
        "skipped": {**skipped, **skipped_peers},
        "failed": failures,
    }


def _describe(case: Case) -> dict[str, Any]:
    dtype = str(case.dtype).removeprefix("torch.")
    return {"name": case.name, **asdict(case), "dtype": dtype}


def _figures(timing: Timing) -> dict[str, Any]:
    return {
        "variant": timing.variant,
        "median_ms": timing.median_ms,
        "min_ms": timing.min_ms,
        "max_ms": timing.max_ms,
        "rounds": timing.rounds,
        "calls": timing.calls,
    }


def _same(expected: Tensor, result: Any, case: Case, peer: Peer | None) -> float | None:
    """Share of indices that equal ours, or of values within rounding of ours."""
    found = result if peer is None else peer.read(result, case)
    if found is None or found.shape != expected.shape:
        return None
    if expected.is_floating_point():
        # A backward pass adds up to K * S terms in another order.
        tolerance = 1e-4 if case.dtype == torch.float32 else 5e-2
        equal = torch.isclose(found, expected, rtol=tolerance, atol=tolerance)
    else:
        equal = found.to(expected.device) == expected
    return float(equal.double().mean())


def _gpu_figures(
    contestant: Contestant,
    timing: Timing,
    case: Case,
    device: torch.device,
    limits: _Limits,
    *,
    ours: bool,
) -> dict[str, Any]:
    floors = limits.floor_ms(case)
    row: dict[str, Any] = {
        "peak_mb": peak_megabytes(contestant, timing.variant, device),
        "graph_ms": None,
        "floor_ms": max(floors.values()) if floors else None,
        "floor": max(floors, key=lambda name: floors[name]) if floors else None,
    }
    # The stream of a backward pass is that of its forward pass, which no capture may leave, and
    # the plain implementation reads values back, which no capture allows.
    if ours and not case.backward and contestant.name != "ours reference":
        try:
            row["graph_ms"] = replay_ms(contestant, timing.variant, device, timing.calls)
        except RuntimeError as error:
            row["graph_error"] = describe_error(error)
    best = row["graph_ms"] or timing.median_ms
    row["floor_share"] = row["floor_ms"] / best if floors else None
    return row
