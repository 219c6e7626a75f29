"""Operators: every implementation of ours beside what else a user could run."""

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from ea_pointcloud.ops import (
    _backend,
    ball_query,
    farthest_point_sample,
    gather_points,
    interpolate_features,
    knn,
)
from scripts.benchmarks.cases import Case, Inputs, make_inputs, operator_cases, select
from scripts.benchmarks.peers import Peer, gather_backward, peer_contestants
from scripts.benchmarks.report import (
    TIMES,
    add_case,
    case_rows,
    milliseconds,
    new_report,
    summary,
    text_table,
    title,
)
from scripts.benchmarks.timing import (
    Contestant,
    Timing,
    call_mb,
    copy_bandwidth,
    current_device,
    describe_error,
    race_rows,
    replay_ms,
)

# --quick leaves out the cases that take minutes.
_QUICK_DISTANCES = 2e8
# Device -> implementation modules in ea_pointcloud.ops, the one that is meant for it first.
IMPLEMENTATIONS = {"cuda": ("_triton", "_reference"), "cpu": ("_cpu", "_reference")}
# The plain implementation forms every distance: beyond this many it takes minutes.
_REFERENCE_DISTANCES = {"cuda": 2e11, "cpu": 5e8}

# Goals on an H100. Case -> the most milliseconds a call may take, the host's time included.
MILLISECONDS = {
    "fps 32x1024->512": 0.20,
    "fps 1x100000->10000": 20.0,
    "knn 32x(512 of 1024) k=32": 0.10,
    "knn 32x(1024 of 512) k=3": 0.06,
    "ball 32x(512 of 1024) k=32 r=0.1": 0.06,
    "ball 32x(512 of 1024) k=32 r=0.2": 0.06,
}
# Case -> the least fraction of a plain copy's bandwidth.
BANDWIDTH = {
    "gather 32x(512 of 1024) k=32 C=64 float32": 0.8,
    "gather 32x(512 of 1024) k=32 C=64 bfloat16": 0.8,
}


def benchmark_ops(
    device: torch.device,
    *,
    only: Sequence[str] = (),
    quick: bool = False,
    cases: Sequence[Case] | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Time every implementation of the operators and every peer that is installed.

    The contestants of a case run alternately in one process, so their ratios hold even where the
    machine is noisy; compare milliseconds of different runs with care.

    ``only`` keeps the cases whose name contains one of its words; ``cases`` replaces
    :func:`operator_cases`. The report has ``cases`` (each with ``contestants``) and on CUDA
    ``goals`` and memory: native code of a CPU allocates past what Python can count. Raises
    ValueError if one of ``only`` names no case.
    """
    chosen = select(operator_cases(device) if cases is None else cases, only)
    if quick:
        chosen = [case for case in chosen if case.distances <= _QUICK_DISTANCES]
    rounds, seconds = (3, 1.0) if quick else (7, 10.0)
    report = new_report("ops", device, only=only, quick=quick, rounds=rounds, cases=[])
    with current_device(device):
        bandwidth = copy_bandwidth(device) if device.type == "cuda" else None
        for number, case in enumerate(chosen, 1):
            rows = _run(case, device, bandwidth, report, rounds=rounds, seconds=seconds)
            add_case(report, case, rows)
            progress(f"[{number}/{len(chosen)}] {summary(case.name, rows)}")
    if bandwidth is not None:
        report["copy_gb_per_s"] = bandwidth / 1e9
        report["goals"] = check_goals(report)
    return report


def check_goals(report: dict[str, Any]) -> list[dict[str, Any]]:
    """One entry a goal whose case ran: ``case``, ``goal`` in words, ``value``, ``met``."""
    goals = []
    for case in report["cases"]:
        row = next((each for each in case["contestants"] if each["name"].startswith("ours")), None)
        if row is None:
            continue
        if limit := MILLISECONDS.get(case["name"]):
            value = row["median_ms"]
            goals.append((case["name"], f"<= {limit:g} ms", value, value <= limit))
        if fraction := BANDWIDTH.get(case["name"]):
            value = row["floor_ms"] / row["median_ms"]
            goals.append(
                (case["name"], f">= {fraction:.0%} of the bandwidth", value, value >= fraction)
            )
    return [dict(zip(("case", "goal", "value", "met"), goal, strict=True)) for goal in goals]


def tables(report: dict[str, Any]) -> list[str]:
    """Contestants by case, and the goals of a GPU."""
    columns = {
        "case": ("case", ""),
        "contestant": (lambda row: f"{row['name']} {row['variant']}".strip(), ""),
        **TIMES,
        "same": ("same", ".2%"),
    }
    if "goals" not in report:
        return [text_table(title(report), case_rows(report), columns)]
    columns |= {
        "graph ms": ("graph_ms", milliseconds),
        "floor": ("floor_share", ".0%"),
        "peak MB": ("peak_mb", ".1f"),
    }
    goals = {"case": ("case", ""), "goal": ("goal", ""), "value": ("value", ".3f"),
             "met": ("met", "")}  # fmt: skip
    return [
        text_table(title(report), case_rows(report), columns),
        text_table("goals on an H100", report["goals"], goals),
    ]


def our_contestants(
    case: Case, inputs: Inputs, device: torch.device
) -> tuple[list[Contestant], dict[str, str]]:
    """Every implementation that runs on ``device``, and why the others do not."""
    contestants, skipped = [], {}
    for module in IMPLEMENTATIONS[device.type]:
        name = f"ours {module.removeprefix('_')}"
        limit = _REFERENCE_DISTANCES[device.type]
        if module == "_reference" and case.op != "gather" and case.distances > limit:
            skipped[name] = f"{case.distances:.0e} distances, more than {limit:.0e}"
            continue
        try:
            implementation: Any = import_module(f"ea_pointcloud.ops.{module}")
        except ImportError as error:
            skipped[name] = str(error)
            continue
        inside = lambda chosen=implementation: _backend.use_implementation(chosen)  # noqa: E731
        contestants.append(Contestant(name, {"": _call(case, inputs)}, inside))
    return contestants, skipped


def _call(case: Case, inputs: Inputs) -> Callable[[], Tensor]:
    points, query, features = inputs.points, inputs.query, inputs.features
    if case.op == "fps":
        return lambda: farthest_point_sample(points, case.num_queries)
    if case.op == "knn":
        return lambda: knn(query, points, case.k)[1]
    if case.op == "ball":
        return lambda: ball_query(query, points, case.radius, case.k)[0]
    if case.op == "interpolate":
        return lambda: interpolate_features(query, points, features, case.k)
    if case.backward:
        return gather_backward(lambda leaf: gather_points(leaf, inputs.idx), inputs)
    return lambda: gather_points(features, inputs.idx)


def _run(
    case: Case,
    device: torch.device,
    bandwidth: float | None,
    report: dict[str, Any],
    *,
    rounds: int,
    seconds: float,
) -> list[dict[str, Any]]:
    """A row a contestant; what does not take part is added to the report."""
    try:
        inputs = make_inputs(case, device)
        ours, skipped = our_contestants(case, inputs, device)
        peers, skipped_peers = peer_contestants(case, inputs, device)
    except torch.OutOfMemoryError as error:
        report["failed"][case.name] = describe_error(error)
        return []
    for name, why in {**skipped, **skipped_peers}.items():
        report["skipped"][f"{case.name}, {name}"] = why
    contestants = [*ours, *(contestant for contestant, _ in peers)]
    readers = {contestant.name: peer for contestant, peer in peers}
    found = race_rows(case.name, contestants, device, report, rounds=rounds, seconds=seconds)
    expected = next((timing.result for contestant, timing, _ in found if contestant in ours), None)
    rows = []
    for contestant, timing, row in found:
        row["same"] = None
        if expected is not None:
            row["same"] = _same(expected, timing.result, case, readers.get(contestant.name))
        if bandwidth is not None:
            own = contestant in ours
            row |= _gpu_figures(contestant, timing, case, device, bandwidth, ours=own)
        rows.append(row)
    return rows


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
    bandwidth: float,
    *,
    ours: bool,
) -> dict[str, Any]:
    row: dict[str, Any] = {
        "peak_mb": call_mb(contestant, timing.variant, device),
        "graph_ms": None,
        "floor_ms": None,
        "floor_share": None,
    }
    # The stream of a backward pass is that of its forward pass, which no capture may leave, and
    # the plain implementation reads values back, which no capture allows.
    if ours and not case.backward and contestant.name != "ours reference":
        try:
            row["graph_ms"] = replay_ms(contestant, timing.variant, device, timing.calls)
        except RuntimeError as error:
            row["graph_error"] = describe_error(error)
    if case.op != "fps":  # a chain of dependent picks, which no such floor describes
        row["floor_ms"] = 1e3 * case.traffic() / bandwidth
        row["floor_share"] = row["floor_ms"] / (row["graph_ms"] or timing.median_ms)
    return row
