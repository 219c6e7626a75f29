"""Clouds per second of a classifier as the Predictor runs it, beside plain PyTorch and others."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ea_pointcloud._checks import check_choice
from ea_pointcloud._device import has_bfloat16
from ea_pointcloud.benchmark._machine import describe_machine
from ea_pointcloud.benchmark._measure import Contestant, current_device, race
from ea_pointcloud.benchmark._step import matmul_rate
from ea_pointcloud.benchmark.cases import SEED, surface_clouds
from ea_pointcloud.benchmark.peers_networks import PEERS, make_peers
from ea_pointcloud.benchmark.plain_network import PlainClassifier
from ea_pointcloud.benchmark.scaling import SIZES, measure_scaling
from ea_pointcloud.models import EAClassifier, classifier_config, count_macs
from ea_pointcloud.models.config import CLASSIFIER_SIZES
from ea_pointcloud.models.folded import fold_batch_norm
from ea_pointcloud.nn.blocks import ATTENTION

NUM_POINTS = 1024
NUM_CLASSES = 40
BATCHES = {"cpu": (1, 16), "cuda": (1, 16, 128)}
GOAL = 3.0  # times as fast as plain PyTorch
OURS, GRAPHS, PLAIN = "ours", "ours, CUDA graphs", "plain PyTorch"


def benchmark_infer(
    device: torch.device,
    *,
    only: Sequence[str] = (),
    quick: bool = False,
    sizes: Sequence[int] = SIZES,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Time classifiers on clouds of 1,024 points, and how each kind of attention grows with them.

    Args:
        device: where to compute.
        only: sizes of the classifier, ``"tiny"``, ``"small"`` or ``"base"``; base without any.
        quick: few rounds, nothing on growth.
        sizes: points of a cloud where growth is measured.
        progress: told a line at the start of each configuration.

    Returns:
        A dictionary for JSON: ``machine``, ``settings``, ``num_points``, ``rows`` (one a size,
        batch, precision and contestant), ``growth`` (rows of
        :func:`~ea_pointcloud.benchmark.scaling.measure_inference`), ``skipped``, ``failed``.

    Raises:
        ValueError: if a size is unknown.
    """
    for name in only:
        check_choice("--only", name, CLASSIFIER_SIZES)
    rounds, seconds = (3, 2.0) if quick else (9, 10.0)
    report: dict[str, Any] = {
        "kind": "infer",
        "machine": describe_machine(device),
        "settings": {"only": list(only), "quick": quick, "seed": SEED, "rounds": rounds},
        "num_points": NUM_POINTS,
        "goal": GOAL,
        "rows": [],
        "growth": [],
        "skipped": {},
        "failed": {},
    }
    with current_device(device):
        for size in list(only) or ["base"]:
            trained = build(size, device)
            macs = count_macs(trained, NUM_POINTS)
            for dtype in dtypes(device):
                precision = str(dtype).removeprefix("torch.")
                rate = matmul_rate(device, dtype)
                for batch in BATCHES[device.type]:
                    progress(f"{size}, batch {batch}, {precision}")
                    xyz = surface_clouds(batch, NUM_POINTS, device)
                    networks = _networks(trained)
                    if dtype is torch.float32:  # others are not written for autocast
                        others, skipped = make_peers(NUM_CLASSES)
                        networks |= {key: other.to(device).eval() for key, other in others.items()}
                        report["skipped"] |= skipped
                    contestants = [
                        Contestant(name, {"": _forward(network, xyz)}, autocast(device, dtype))
                        for name, network in networks.items()
                    ]
                    timings, failed = race(contestants, device, rounds=rounds, seconds=seconds)
                    for name, timing in timings.items():
                        ours = timings[OURS].median_ms if OURS in timings else None
                        row = {
                            "model": size, "contestant": name, "batch": batch,
                            "precision": precision, "median_ms": timing.median_ms,
                            "min_ms": timing.min_ms, "max_ms": timing.max_ms,
                            "ratio": None if ours is None else timing.median_ms / ours,
                            "clouds_per_second": 1e3 * batch / timing.median_ms,
                            "macs": None, "floor_share": None, "met": None,
                        }  # fmt: skip
                        if name not in PEERS:  # whose arithmetic is another
                            floor_ms = 1e3 * batch * macs / rate
                            row |= {"macs": macs, "floor_share": floor_ms / timing.median_ms}
                        if name == PLAIN and ours is not None:
                            row["met"] = timing.median_ms / ours >= GOAL
                        report["rows"].append(row)
                    for name, error in failed.items():
                        kind = "failed" if name == OURS else "skipped"
                        report[kind][f"{size}, batch {batch}, {precision}, {name}"] = error
    if quick:
        report["skipped"]["growth with the points"] = "not with --quick"
    else:
        report["growth"], skipped = measure_scaling("infer", device, ATTENTION, sizes, progress)
        report["skipped"] |= skipped
    return report


def build(size: str, device: torch.device) -> EAClassifier:
    """A classifier of a named size, its weights drawn from ``SEED``, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        return EAClassifier(classifier_config(size, NUM_CLASSES)).to(device).eval()


def compiled(network: nn.Module) -> nn.Module:
    """The same network; its first call of each form compiles it and records CUDA graphs."""
    network.compile(mode="reduce-overhead", dynamic=False)
    return network


def dtypes(device: torch.device) -> list[torch.dtype]:
    """float32, and bfloat16 where the processor has it."""
    return [torch.float32, torch.bfloat16] if has_bfloat16(device) else [torch.float32]


def autocast(device: torch.device, dtype: torch.dtype) -> Callable[[], AbstractContextManager[Any]]:
    """A context for layers in ``dtype``; none for float32."""
    if dtype is torch.float32:
        return nullcontext
    return lambda: torch.autocast(device.type, dtype=dtype)


def _networks(trained: EAClassifier) -> dict[str, nn.Module]:
    """Contestant -> network of the same weights, in evaluation mode."""
    device = next(trained.parameters()).device
    networks: dict[str, nn.Module] = {
        OURS: fold_batch_norm(trained),
        "ours, not folded": trained,
        PLAIN: PlainClassifier(trained),
    }
    if device.type == "cuda":
        networks[GRAPHS] = compiled(fold_batch_norm(trained))
    return {name: network.to(device).eval() for name, network in networks.items()}


def _forward(network: nn.Module, xyz: Tensor) -> Callable[[], Tensor]:
    def forward() -> Tensor:
        with torch.inference_mode():
            return network(xyz)

    return forward
