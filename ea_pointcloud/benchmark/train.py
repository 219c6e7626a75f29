"""Seconds of a training epoch on a set of ModelNet40's sizes, and where the time of a step goes."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ea_pointcloud._checks import check_choice
from ea_pointcloud._device import generator_for, keep_freed_memory
from ea_pointcloud.augmentation import Augmentation
from ea_pointcloud.benchmark._machine import describe_machine
from ea_pointcloud.benchmark._measure import Contestant, current_device, race
from ea_pointcloud.benchmark._step import matmul_rate, training_step
from ea_pointcloud.benchmark.cases import SEED, surface_clouds
from ea_pointcloud.benchmark.infer import (
    GRAPHS,
    NUM_CLASSES,
    NUM_POINTS,
    OURS,
    PLAIN,
    autocast,
    build,
    compiled,
    dtypes,
)
from ea_pointcloud.benchmark.peers_networks import PEERS, make_peers
from ea_pointcloud.benchmark.plain_network import PlainClassifier
from ea_pointcloud.benchmark.scaling import SIZES, measure_scaling
from ea_pointcloud.models import count_macs
from ea_pointcloud.models.config import CLASSIFIER_SIZES
from ea_pointcloud.nn.blocks import ATTENTION

TRAIN_CLOUDS, TEST_CLOUDS = 9_843, 2_468  # ModelNet40's
BATCH, EVAL_BATCH = 32, 64
_STEPS = TRAIN_CLOUDS // BATCH  # a last batch that is not full is left out, as in training
_QUICK_BATCH = 4
_AUGMENTATION = Augmentation(scale=(2 / 3, 3 / 2), shift=0.2)  # that of the recipe modelnet40


def benchmark_train(
    device: torch.device,
    *,
    only: Sequence[str] = (),
    quick: bool = False,
    sizes: Sequence[int] = SIZES,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Time training steps of a classifier, ours, plain and of others; then steps in their parts.

    A step is forward, loss, backward, clipping, and AdamW, of resident clouds. An epoch on a GPU
    is run whole; on a CPU it is a step times the steps of an epoch, and says so.

    Args:
        device: where to compute.
        only: sizes of the classifier, ``"tiny"``, ``"small"`` or ``"base"``; base without any.
        quick: small batches, few rounds, no parts.
        sizes: points of a cloud where steps are taken apart.
        progress: told a line at the start of each configuration.

    Returns:
        A dictionary for JSON: ``machine``, ``settings``, ``num_points``, ``batch``, ``rows`` (one a
        size, precision and contestant), ``parts`` (rows of
        :func:`~ea_pointcloud.benchmark.scaling.measure_training`), ``skipped``, ``failed``.

    Raises:
        ValueError: if a size is unknown.
    """
    for name in only:
        check_choice("--only", name, CLASSIFIER_SIZES)
    rounds, seconds = (3, 2.0) if quick else (5, 20.0)
    batch = _QUICK_BATCH if quick else BATCH
    report: dict[str, Any] = {
        "kind": "train",
        "machine": describe_machine(device),
        "settings": {"only": list(only), "quick": quick, "seed": SEED, "rounds": rounds},
        "num_points": NUM_POINTS,
        "batch": batch,
        "rows": [],
        "parts": [],
        "skipped": {},
        "failed": {},
    }
    if device.type == "cpu":
        keep_freed_memory()
    with current_device(device):
        for size in list(only) or ["base"]:
            macs = count_macs(build(size, device), NUM_POINTS)
            xyz = surface_clouds(batch, NUM_POINTS, device)
            label = torch.arange(batch, device=device) % NUM_CLASSES
            for dtype in dtypes(device):
                precision = str(dtype).removeprefix("torch.")
                progress(f"{size}, batch {batch}, {precision}")
                networks = _networks(size, device)
                if dtype is torch.float32:  # others are not written for autocast
                    others, skipped = make_peers(NUM_CLASSES)
                    networks |= {key: other.to(device) for key, other in others.items()}
                    report["skipped"] |= skipped
                steps = {
                    name: training_step(network, _adamw(network, device), xyz, label, dtype)
                    for name, network in networks.items()
                }
                contestants = [Contestant(name, {"": step}) for name, step in steps.items()]
                timings, failed = race(contestants, device, rounds=rounds, seconds=seconds)
                rate = matmul_rate(device, dtype)
                for name, timing in timings.items():
                    ours = timings[OURS].median_ms if OURS in timings else None
                    epoch, how = timing.median_ms / 1e3 * TRAIN_CLOUDS / batch, "from steps"
                    if device.type == "cuda" and name not in PEERS:
                        progress(f"{size}, {precision}, {name}: a whole epoch")
                        for _ in range(2):  # the first compiles what evaluation needs
                            epoch, how = _epoch(networks[name], device, dtype), "whole"
                    share = None
                    if name not in PEERS:  # a backward pass multiplies twice as much
                        share = 3e3 * batch * macs / rate / timing.median_ms
                    report["rows"].append({
                        "model": size, "contestant": name, "precision": precision,
                        "median_ms": timing.median_ms, "min_ms": timing.min_ms,
                        "max_ms": timing.max_ms,
                        "ratio": None if ours is None else timing.median_ms / ours,
                        "clouds_per_second": 1e3 * batch / timing.median_ms,
                        "epoch_seconds": epoch, "epoch": how, "floor_share": share,
                    })  # fmt: skip
                for name, error in failed.items():
                    kind = "failed" if name == OURS else "skipped"
                    report[kind][f"{size}, {precision}, {name}"] = error
    if quick:
        report["skipped"]["parts of a step"] = "not with --quick"
    else:
        report["parts"], skipped = measure_scaling("train", device, ATTENTION, sizes, progress)
        report["skipped"] |= skipped
    return report


def _networks(size: str, device: torch.device) -> dict[str, nn.Module]:
    """Contestant -> network of the same weights, in training mode."""
    networks: dict[str, nn.Module] = {
        OURS: build(size, device),
        PLAIN: PlainClassifier(build(size, device)),
    }
    if device.type == "cuda":
        networks[GRAPHS] = compiled(build(size, device))
    return {name: network.to(device).train() for name, network in networks.items()}


def _adamw(network: nn.Module, device: torch.device) -> torch.optim.Optimizer:
    return torch.optim.AdamW(network.parameters(), fused=device.type == "cuda")


def _epoch(network: nn.Module, device: torch.device, dtype: torch.dtype) -> float:
    """Seconds of an epoch: every cloud of a set on the device, augmented, then those held out."""
    train = surface_clouds(BATCH, NUM_POINTS, device).repeat(_STEPS + 1, 1, 1)[:TRAIN_CLOUDS]
    held_out = train[:TEST_CLOUDS]
    labels = torch.arange(TRAIN_CLOUDS, device=device) % NUM_CLASSES
    optimizer = _adamw(network, device)
    torch.cuda.synchronize(device)
    started = time.perf_counter()
    order = torch.randperm(TRAIN_CLOUDS, device=device)
    generator = generator_for(device, SEED)
    for idx in order[: _STEPS * BATCH].split(BATCH):
        xyz, _ = _AUGMENTATION(train[idx], generator=generator)
        training_step(network, optimizer, xyz, labels[idx], dtype)()
    right = _right(network.eval(), held_out, labels[:TEST_CLOUDS], autocast(device, dtype))
    right.item()
    seconds = time.perf_counter() - started
    network.train()
    return seconds


def _right(network: nn.Module, xyz: Tensor, labels: Tensor, inside: Callable[[], Any]) -> Tensor:
    """() how many clouds are named right."""
    with torch.inference_mode(), inside():
        found = [network(part).argmax(1) for part in xyz.split(EVAL_BATCH)]
    return (torch.cat(found) == labels).sum()
