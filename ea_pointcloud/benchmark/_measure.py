"""Timing calls against each other on one device; what is called is not decided here."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch

# Shorter batches would measure the clock and the scheduler rather than the call.
_BATCH_SECONDS = 0.05
_COPY_BYTES = 2**30


@dataclass(frozen=True)
class Contestant:
    """One way to do a job.

    Args:
        name: what tables call it.
        variants: label -> call; all do the whole job, and the fastest one competes.
        inside: context that the calls run in.
    """

    name: str
    variants: dict[str, Callable[[], Any]]
    inside: Callable[[], AbstractContextManager[Any]] = field(default=nullcontext)


@dataclass(frozen=True)
class Timing:
    """Milliseconds a call over ``rounds`` batches of ``calls`` calls each.

    Args:
        variant: label of the variant that was timed.
        result: what its first call returned.
    """

    median_ms: float
    min_ms: float
    max_ms: float
    rounds: int
    calls: int
    variant: str
    result: Any


def race(
    contestants: list[Contestant], device: torch.device, *, rounds: int, seconds: float
) -> tuple[dict[str, Timing], dict[str, str]]:
    """Time the contestants in turns, so that a noisy minute of the machine hits all of them.

    Calls are made unmeasured first, which pays for compilation; fast calls are repeated until a
    batch takes 0.05 s.

    Args:
        contestants: with different names.
        device: where they compute.
        rounds: batches of each.
        seconds: after so many in measured batches a contestant gets no further round.

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
        # A library of somebody else may raise anything; the others go on without it.
        except Exception as error:
            failures[contestant.name] = describe_error(error)
            continue
        starters.append((contestant, label, max(1, round(_BATCH_SECONDS / estimate + 0.5))))
        results[contestant.name] = result
    samples: dict[str, list[float]] = {contestant.name: [] for contestant, _, _ in starters}
    for _ in range(rounds):
        for contestant, label, calls in starters:
            taken = samples[contestant.name]
            if taken and sum(taken) * calls >= seconds:
                continue
            with contestant.inside():
                taken.append(_batch(contestant.variants[label], calls, device) / calls)
    timings = {}
    for contestant, label, calls in starters:
        taken = [1e3 * sample for sample in samples[contestant.name]]
        timings[contestant.name] = Timing(
            median(taken), min(taken), max(taken), len(taken), calls, label,
            results[contestant.name],
        )  # fmt: skip
    return timings, failures


def replay_ms(contestant: Contestant, label: str, device: torch.device, calls: int) -> float:
    """Milliseconds a call when a CUDA graph replays it: the GPU's share, without the host's."""
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


def peak_megabytes(contestant: Contestant, label: str, device: torch.device) -> float:
    """What one call takes at most on the GPU beyond its arguments, results included, in 1e6 B."""
    with contestant.inside():
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        result = contestant.variants[label]()
        torch.cuda.synchronize(device)
        del result
    return (torch.cuda.max_memory_allocated(device) - before) / 1e6


def copy_bandwidth(device: torch.device) -> float:
    """Bytes a second, read and written together, of a large copy within the GPU's memory."""
    source = torch.empty(_COPY_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copy = Contestant("copy", {"": lambda: target.copy_(source)})
    timings, failures = race([copy], device, rounds=7, seconds=5.0)
    if failures:
        raise RuntimeError(f"could not measure the copy bandwidth: {failures['copy']}")
    return 2 * _COPY_BYTES / (timings["copy"].median_ms / 1e3)


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
