"""External attention beside its published form, its compiled form, and self-attention."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from shutil import which
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ea_pointcloud.ops import _backend, _reference, external_attention
from scripts.benchmarks.growth import CHANNELS, CHUNK, GOAL, SIZES, measure_growth
from scripts.benchmarks.report import (
    SEED,
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
    call_mb,
    copy_bandwidth,
    current_device,
    describe_error,
    race_rows,
)

SLOTS = 64
POINTS = (1_000, 10_000, 100_000, 1_000_000)
WIDTHS = (64, 128, 256, 512)
_BATCH_POINTS = {"cuda": 100_000, "cpu": 4_000}  # points of a batch, at least
_MOST_VALUES = {"cuda": 6e8, "cpu": 7e7}  # of the features; a training step takes many times that
_QUICK_VALUES = 7e5
# Products of self-attention, which are quadratic in the points: beyond these it takes minutes.
_MOST_PRODUCTS = {"cuda": 3e13, "cpu": 3e10}
# The compiler takes up to a minute a case and pass: the widest and largest tell no more.
_COMPILED_WIDTHS = (64, 256)

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class AttentionCase:
    """Sizes of one call."""

    batch: int  # clouds B
    num_points: int  # points N of each
    channels: int  # C
    dtype: torch.dtype = torch.float32  # of the features and the memories
    backward: bool = False  # the gradients of features and memories too

    @property
    def name(self) -> str:
        """What tables and ``--only`` call it."""
        both = "forward+backward" if self.backward else "forward"
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{self.batch}x{self.num_points} C={self.channels} {dtype} {both}"

    @property
    def values(self) -> int:
        """Of the features."""
        return self.batch * self.num_points * self.channels

    def traffic(self) -> int:
        """Bytes that must be read and written where no map of points and slots is kept.

        The sum over the points has to end before the first result: features are read twice and the
        result written. Backward the same sum couples the gradients: features and the gradient that
        arrives are read twice, the gradient of the features is written. The memories are nothing.
        """
        return (3 + 5 * self.backward) * self.values * self.dtype.itemsize


def attention_cases(device: torch.device) -> list[AttentionCase]:
    """The cases for a device; half precision on a GPU only."""
    dtypes = (torch.float32, torch.bfloat16) if device.type == "cuda" else (torch.float32,)
    cases = [
        AttentionCase(
            max(1, _BATCH_POINTS[device.type] // num_points),
            num_points, channels, dtype, backward,
        )
        for num_points in POINTS
        for channels in WIDTHS
        for dtype in dtypes
        for backward in (False, True)
    ]  # fmt: skip
    return [case for case in cases if case.values <= _MOST_VALUES[device.type]]


def benchmark_attention(
    device: torch.device,
    *,
    only: Sequence[str] = (),
    quick: bool = False,
    cases: Sequence[AttentionCase] | None = None,
    sizes: Sequence[int] | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Time external attention with 64 slots and what computes the same, beside self-attention.

    ``only`` keeps the cases whose name contains one of its words; ``growth`` is one. ``sizes`` are
    the points at which the growth of a block in chunks is measured. The report has ``cases`` (each
    with ``contestants``) and ``growth``. Raises ValueError if one of ``only`` names no case.
    """
    cases = attention_cases(device) if cases is None else list(cases)
    if quick:
        cases = [case for case in cases if case.values <= _QUICK_VALUES]
    if sizes is None:
        sizes = SIZES[:2] if quick else SIZES
    for word in only:
        if word != "growth" and not any(word in case.name for case in cases):
            names = ", ".join(repr(case.name) for case in cases)
            raise ValueError(f"no case is named like {word!r}; there are 'growth', {names}")
    if only:
        cases = [case for case in cases if any(word in case.name for word in only)]
    rounds, seconds = (3, 1.0) if quick else (7, 5.0)
    report = new_report(
        "attention", device, only=only, quick=quick, rounds=rounds, slots=SLOTS, cases=[],
        growth={"channels": CHANNELS, "chunk": CHUNK, "goal": GOAL, "rows": []},
    )  # fmt: skip
    compiles = not quick and (device.type == "cuda" or which("c++") is not None)
    if not compiles:
        why = "not with --quick" if quick else "needs a C++ compiler on a CPU"
        report["skipped"]["torch.compile"] = why
    if not only or "growth" in only:  # first, while this process holds little memory
        for dynamic in (False, True):
            rows, failed = measure_growth(device, sizes, dynamic=dynamic, quick=quick)
            report["growth"]["rows"] += rows
            report["failed"] |= failed
    with current_device(device):
        bandwidth = copy_bandwidth(device) if cases and device.type == "cuda" else None
        for number, case in enumerate(cases, 1):
            rows = _run(case, device, bandwidth, report, compiles=compiles, rounds=rounds,
                        seconds=seconds)  # fmt: skip
            add_case(report, case, rows)
            progress(f"[{number}/{len(cases)}] {summary(case.name, rows)}")
    return report


def tables(report: dict[str, Any]) -> list[str]:
    """Contestants by case, and the growth of a block."""
    rows, growth, found = case_rows(report), report["growth"], []
    if rows:
        columns = {"case": ("case", ""), "contestant": ("name", ""), **TIMES,
                   "peak MB": ("peak_mb", ".1f"), "floor": ("floor_share", ".0%")}  # fmt: skip
        found.append(text_table(title(report, f"{report['slots']} slots"), rows, columns))
    if growth["rows"]:
        columns = {
            "attention": ("attention", ""),
            "points": ("num_points", ",d"),
            "ms": ("ms", milliseconds),
            "/ before": ("time_ratio", ".2f"),
            "peak MB": ("peak_mb", ".1f"),
            "/ before ": ("memory_ratio", ".2f"),
            f"<= {growth['goal']:g}": ("met", ""),
        }
        words = f"a block of {growth['channels']} channels, {growth['chunk']} points at a time"
        found.append(text_table(title(report, words), growth["rows"], columns))
    return found


def published(features: Tensor, key_memory: Tensor, value_memory: Tensor) -> Tensor:
    """The two steps of the paper: softmax over the points, division by the sum over the slots."""
    attention = (features @ key_memory.T).softmax(dim=1)
    attention = attention / (1e-9 + attention.sum(dim=2, keepdim=True))
    return attention @ value_memory


def self_attention(features: Tensor, key_memory: Tensor, value_memory: Tensor) -> Tensor:
    """One head over the points themselves, by the fastest kernel that PyTorch has."""
    heads = features[:, None]  # (B, 1, N, C)
    return F.scaled_dot_product_attention(heads, heads, heads)[:, 0]


def _run(
    case: AttentionCase,
    device: torch.device,
    bandwidth: float | None,
    report: dict[str, Any],
    *,
    compiles: bool,
    rounds: int,
    seconds: float,
) -> list[dict[str, Any]]:
    """A row a contestant; what fails is added to the report."""
    try:
        contestants = _contestants(case, device, compiles=compiles)
    except torch.OutOfMemoryError as error:
        report["failed"][case.name] = describe_error(error)
        return []
    rows = []
    for contestant, timing, row in race_rows(
        case.name, contestants, device, report, rounds=rounds, seconds=seconds
    ):
        row |= {"peak_mb": None, "floor_share": None}
        if bandwidth is not None:
            row["peak_mb"] = call_mb(contestant, "", device)
            row["floor_share"] = 1e3 * case.traffic() / bandwidth / timing.median_ms
        rows.append(row)
    return rows


def _contestants(case: AttentionCase, device: torch.device, *, compiles: bool) -> list[Contestant]:
    torch.compiler.reset()  # or the limit of recompilations falls back to eager, unseen
    generator = torch.Generator().manual_seed(SEED)

    def normal(*shape: int) -> Tensor:
        drawn = torch.randn(shape, generator=generator).to(device, case.dtype)
        return drawn.requires_grad_(case.backward)

    features = normal(case.batch, case.num_points, case.channels)
    memories = [normal(SLOTS, case.channels) for _ in range(2)]
    gradient = torch.ones_like(features) if case.backward else None

    def contestant(name: str, attend: Attend, *, plain: bool = False) -> Contestant:
        def call() -> None:  # a result would be kept until all have run
            out = attend(features, memories[0], memories[1])
            if gradient is not None:
                of = [features] if attend is self_attention else [features, *memories]
                torch.autograd.grad(out, of, gradient)

        if plain:
            return Contestant(name, {"": call}, partial(_backend.use_implementation, _reference))
        return Contestant(name, {"": call})

    chosen = [contestant("ours", external_attention)]
    if device.type == "cuda":
        chosen.append(contestant("ours plain", external_attention, plain=True))
    if compiles and case.channels in _COMPILED_WIDTHS:
        compiled = torch.compile(external_attention)
        chosen.append(contestant("plain, torch.compile", compiled, plain=True))
    chosen.append(contestant("published two steps", published))
    products = case.batch * case.num_points**2 * case.channels
    if products <= _MOST_PRODUCTS[device.type]:
        chosen.append(contestant("self-attention", self_attention))
    return chosen
