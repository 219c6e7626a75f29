"""Clouds per second of the classifiers, forward and in training."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from shutil import which
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ea_pointcloud._checks import check_choice
from ea_pointcloud.benchmark._machine import describe_machine
from ea_pointcloud.benchmark._measure import Contestant, current_device, race
from ea_pointcloud.benchmark.cases import SEED, surface_clouds
from ea_pointcloud.models import Classifier, count_macs, create_model, list_models

NUM_POINTS = 1024
BATCHES = (1, 8, 32)
_NUM_CLASSES = 40


def benchmark_models(
    device: torch.device,
    *,
    only: Sequence[str] = (),
    quick: bool = False,
    batches: Sequence[int] = BATCHES,
    num_points: int = NUM_POINTS,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Time a forward pass without gradients and a whole training step of each classifier.

    Args:
        device: where to compute.
        only: names of classifiers; without any all on a GPU, the smallest on a CPU.
        quick: fewer rounds, nothing compiled.
        batches: clouds a batch.
        num_points: points a cloud.
        progress: told a line at the start of each configuration.

    Returns:
        A dictionary for JSON: ``machine``, ``settings``, ``num_points``, ``models`` (name ->
        parameters and MACs), ``rows`` (one a configuration), ``skipped`` and ``failed`` (what ->
        why).

    Raises:
        ValueError: if a name is unknown.
    """
    classifiers = list_models("classification")
    for name in only:
        check_choice("--only", name, classifiers)
    on_gpu = device.type == "cuda"
    names = list(only) or (classifiers if on_gpu else classifiers[:1])
    rounds, seconds = (3, 1.0) if quick else (7, 10.0)
    report: dict[str, Any] = {
        "kind": "models",
        "machine": describe_machine(device),
        "settings": {"only": list(only), "quick": quick, "seed": SEED, "rounds": rounds},
        "num_points": num_points,
        "models": {},
        "rows": [],
        "skipped": {},
        "failed": {},
    }
    modes = ["eager"]
    if quick:
        report["skipped"]["torch.compile"] = "not with --quick"
    elif not on_gpu and which("c++") is None:
        report["skipped"]["torch.compile"] = "needs a C++ compiler on a CPU"
    else:
        modes.append("compile")
    precisions = ("float32", "bfloat16") if on_gpu else ("float32",)
    configurations = [(batch, precision) for batch in batches for precision in precisions]
    with current_device(device):
        for name in names:
            report["models"][name] = _size(name, num_points)
            for batch, precision in configurations:
                progress(f"{name}, batch {batch}, {precision}")
                xyz = surface_clouds(batch, num_points, device)
                # Compiling takes up to a minute each: at the largest batch only.
                tried = modes if batch == max(batches) else modes[:1]
                contestants = _contestants(name, xyz, tried, precision)
                timings, failures = race(contestants, device, rounds=rounds, seconds=seconds)
                for label, timing in timings.items():
                    mode, _, kind = label.partition(" ")
                    report["rows"].append({
                        "model": name, "pass": kind, "batch": batch, "precision": precision,
                        "mode": mode, "median_ms": timing.median_ms, "min_ms": timing.min_ms,
                        "max_ms": timing.max_ms, "rounds": timing.rounds, "calls": timing.calls,
                        "clouds_per_second": 1e3 * batch / timing.median_ms,
                    })  # fmt: skip
                for label, error in failures.items():
                    kind = "failed" if label.startswith("eager") else "skipped"
                    report[kind][f"{name}, batch {batch}, {precision}, {label}"] = error
    return report


def _contestants(name: str, xyz: Tensor, modes: Sequence[str], precision: str) -> list[Contestant]:
    """Forward pass and training step in each mode."""
    torch.compiler.reset()  # or the limit of recompilations falls back to eager, unseen
    device = xyz.device.type

    def inside() -> AbstractContextManager[Any]:
        if precision == "float32":
            return nullcontext()
        return torch.autocast(device, dtype=getattr(torch, precision))

    return [
        Contestant(f"{mode} {kind}", {"": make(name, xyz, mode)}, inside)
        for mode in modes
        for kind, make in (("forward", _forward), ("training step", _training_step))
    ]


def _size(name: str, num_points: int) -> dict[str, Any]:
    model = _model(name, torch.device("cpu"))
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "macs": count_macs(model, num_points),
    }


def _model(name: str, device: torch.device) -> Classifier:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        return create_model(name, num_classes=_NUM_CLASSES).to(device)


def _forward(name: str, xyz: Tensor, mode: str) -> Callable[[], Tensor]:
    model = _model(name, xyz.device).eval()
    run = torch.compile(model) if mode == "compile" else model

    def forward() -> Tensor:
        with torch.no_grad():
            return run(xyz)

    return forward


def _training_step(name: str, xyz: Tensor, mode: str) -> Callable[[], None]:
    model = _model(name, xyz.device).train()
    run = torch.compile(model) if mode == "compile" else model
    label = torch.arange(len(xyz), device=xyz.device) % _NUM_CLASSES
    optimizer = torch.optim.AdamW(model.parameters())

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(run(xyz).float(), label).backward()
        optimizer.step()

    return step
