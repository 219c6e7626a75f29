"""Time and memory of calls, measured alternately on one device or each in its own process."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch

# Shorter batches would measure the clock and the scheduler rather than the call.
_BATCH_SECONDS = 0.05
_COPY_BYTES = 2**30
_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Contestant:
    """One way to do a job; all variants do the whole job, and the fastest one competes."""

    name: str
    variants: dict[str, Callable[[], Any]]  # label -> call
    inside: Callable[[], AbstractContextManager[Any]] = field(default=nullcontext)  # of the calls


@dataclass(frozen=True)
class Timing:
    """Milliseconds a call over ``rounds`` batches of ``calls`` calls each."""

    median_ms: float
    min_ms: float
    max_ms: float
    rounds: int
    calls: int
    variant: str
    result: Any  # of the first call

    def figures(self) -> dict[str, Any]:
        """For JSON: everything but the result."""
        return {key: value for key, value in vars(self).items() if key != "result"}


def race(
    contestants: list[Contestant], device: torch.device, *, rounds: int, seconds: float
) -> tuple[dict[str, Timing], dict[str, str]]:
    """Time the contestants alternately, so that a noisy minute of the machine affects all of them.

    Calls are made unmeasured first, which pays for compilation; fast calls are repeated until a
    batch takes 0.05 s. After ``seconds`` in measured batches a contestant gets no further round.

    Returns:
        timings: by name, for those that ran.
        failures: name -> error, for those that did not.
    """
    starters: list[tuple[Contestant, str, int]] = []
    results: dict[str, Any] = {}
    failures: dict[str, str] = {}
    for contestant in contestants:
        try:
            label, estimate, result = _fastest(contestant, device, patience=seconds)
        # A foreign library may raise anything; the others continue.
        except Exception as error:
            failures[contestant.name] = describe_error(error)
            continue
        starters.append((contestant, label, max(1, round(_BATCH_SECONDS / estimate + 0.5))))
        results[contestant.name] = result
    samples: dict[str, list[float]] = {contestant.name: [] for contestant, _, _ in starters}
    for _ in range(rounds):
        for contestant, label, calls in starters:
            own = samples[contestant.name]
            if own and sum(own) * calls >= seconds:
                continue
            with contestant.inside():
                own.append(_batch(contestant.variants[label], calls, device) / calls)
    timings = {}
    for contestant, label, calls in starters:
        times = [1e3 * sample for sample in samples[contestant.name]]
        timings[contestant.name] = Timing(
            median(times), min(times), max(times), len(times), calls, label,
            results[contestant.name],
        )  # fmt: skip
    return timings, failures


def race_rows(
    case: str,
    contestants: list[Contestant],
    device: torch.device,
    report: dict[str, Any],
    *,
    rounds: int,
    seconds: float,
) -> list[tuple[Contestant, Timing, dict[str, Any]]]:
    """Race the contestants of a case; those that fail are added to the report.

    The ratio of each row is to the first of ours, which is named ``ours...``.
    """
    timings, failures = race(contestants, device, rounds=rounds, seconds=seconds)
    for name, error in failures.items():
        kind = "failed" if name.startswith("ours") else "skipped"
        report[kind][f"{case}, {name}"] = error
    base = next((timings[name].median_ms for name in timings if name.startswith("ours")), None)
    rows = []
    for contestant in contestants:
        if timing := timings.get(contestant.name):
            ratio = None if base is None else timing.median_ms / base
            row = {"name": contestant.name, **timing.figures(), "ratio": ratio}
            rows.append((contestant, timing, row))
    return rows


def replay_ms(contestant: Contestant, label: str, device: torch.device, calls: int) -> float:
    """Milliseconds a call when a CUDA graph replays it: the GPU's time, without the host's."""
    call = contestant.variants[label]
    with contestant.inside():
        side = torch.cuda.Stream(device)
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):  # capture wants the first use of everything behind it
            call()
        torch.cuda.current_stream(device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            call()
        graph.replay()
        return 1e3 * median(_batch(graph.replay, calls, device) / calls for _ in range(5))


def call_mb(contestant: Contestant, label: str, device: torch.device) -> float | None:
    """Peak GPU memory of a call beyond its arguments, results included, in 1e6 B."""
    with contestant.inside():
        before = reset_peak(device)
        result = contestant.variants[label]()
        torch.cuda.synchronize(device)
        del result
    return peak_mb(device, before)


def copy_bandwidth(device: torch.device) -> float:
    """Bytes a second, read and written together, of a large copy within the GPU's memory."""
    source = torch.empty(_COPY_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copy = Contestant("copy", {"": lambda: target.copy_(source)})
    timings, failures = race([copy], device, rounds=7, seconds=5.0)
    if failures:
        raise RuntimeError(f"could not measure the copy bandwidth: {failures['copy']}")
    return 2 * _COPY_BYTES / (timings["copy"].median_ms / 1e3)


def reset_peak(device: torch.device) -> int | None:
    """Start to record the peak; bytes in use now, None where the system does not report them."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    try:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak becomes what is in use
    except OSError:
        return None
    return _most_bytes(device)


def peak_mb(device: torch.device, before: int | None) -> float | None:
    """The most memory in use at a time since :func:`reset_peak` returned ``before``, in 1e6 B."""
    most = None if before is None else _most_bytes(device)
    return None if before is None or most is None else (most - before) / 1e6


def _most_bytes(device: torch.device) -> int | None:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM")), None)


def in_own_process(
    function: Callable[..., dict[str, Any]], *arguments: Any
) -> tuple[dict[str, Any] | None, str]:
    """Call a function in a new process, because freed memory may stay with an old one.

    Args:
        function: of a module, returns what JSON can hold.
        arguments: numbers and words.

    Returns:
        What it returned, None where it failed, and the last line of its error.
    """
    module, name = function.__module__, function.__name__
    code = f"import json; from {module} import {name}; print(json.dumps({name}(*{arguments!r})))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=_ROOT, check=False)
    if done.returncode:
        return None, (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
    return json.loads(done.stdout), ""


def current_device(device: torch.device) -> AbstractContextManager[Any]:
    """Make a GPU the current one, where events, streams and other packages work."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def describe_error(error: Exception) -> str:
    """The kind of an error and its first line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _fastest(
    contestant: Contestant, device: torch.device, *, patience: float
) -> tuple[str, float, Any]:
    """Label, seconds a call, and result of the fastest variant.

    Each is called once to warm up and once for the estimate, but a call of more than ``patience``
    seconds is long enough to serve as both.
    """
    best: tuple[str, float, Any] | None = None
    with contestant.inside():
        for label, call in contestant.variants.items():
            started = time.perf_counter()
            result = call()
            seconds = time.perf_counter() - started
            if seconds <= patience:
                seconds = _batch(call, 1, device)
            if best is None or seconds < best[1]:
                best = label, seconds, result
    assert best is not None, f"{contestant.name} has no variant"
    return best


def _batch(call: Callable[[], Any], calls: int, device: torch.device) -> float:
    """Seconds that ``calls`` calls take, by the GPU's clock where there is one."""
    if device.type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(device)
        start.record()
        for _ in range(calls):
            call()
        end.record()
        torch.cuda.synchronize(device)
        return start.elapsed_time(end) / 1e3
    started = time.perf_counter()
    for _ in range(calls):
        call()
    return time.perf_counter() - started
