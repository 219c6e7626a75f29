"""Training and inference of classifiers, beside the same network in plain PyTorch and others."""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ea_pointcloud._checks import check_choice
from ea_pointcloud._device import generator_for, has_bfloat16, keep_freed_memory
from ea_pointcloud.augment.pipeline import Augmentation
from ea_pointcloud.models import EAClassifier, count_macs, create_model, list_models
from ea_pointcloud.nn.fuse_bn import fuse_batch_norm
from scripts.benchmarks.cases import surface_clouds
from scripts.benchmarks.peers_networks import make_peers
from scripts.benchmarks.plain_network import PlainClassifier
from scripts.benchmarks.report import SEED, TIMES, new_report, text_table, title
from scripts.benchmarks.timing import Contestant, current_device, race_rows

NUM_POINTS, NUM_CLASSES = 1024, 40
TRAIN_CLOUDS, TEST_CLOUDS = 9_843, 2_468  # ModelNet40's
BATCH, EVAL_BATCH = 32, 64  # of training
INFER_BATCHES = {"cpu": (1, 16), "cuda": (1, 16, 128)}
GOAL = 3.0  # times as fast as plain PyTorch, in inference
OURS, GRAPHS, PLAIN = "ours", "ours, CUDA graphs", "plain PyTorch"
_STEPS = TRAIN_CLOUDS // BATCH  # a last batch that is not full is left out, as in training
_AUGMENTATION = Augmentation(scale=(2 / 3, 3 / 2), shift=0.2)  # that of the recipe modelnet40

Progress = Callable[[str], None]


def benchmark_infer(
    device: torch.device,
    *,
    only: Sequence[str] = (),
    quick: bool = False,
    progress: Progress = lambda line: None,
) -> dict[str, Any]:
    """Time a forward pass as the Predictor runs it, on clouds of 1,024 points.

    ``only`` names classifiers, by default ``ea_classifier_base``. Raises ValueError for others.
    """
    report = _report("infer", device, only, quick, goal=GOAL)

    def forward(network: nn.Module, xyz: Tensor) -> Tensor:
        with torch.inference_mode():
            return network(xyz)

    with current_device(device):
        for name, dtype in _configurations(report, device, only):
            trained = build(name, device).eval()
            ours = {OURS: fuse_batch_norm(trained), "ours, batch norm not fused": trained}
            if device.type == "cuda":
                ours[GRAPHS] = _compiled(fuse_batch_norm(trained))
            networks = ours | _others(trained, device, dtype, report)
            inside = _autocast(device, dtype)
            for batch in INFER_BATCHES[device.type]:
                progress(f"{name}, batch {batch}, {dtype}")
                xyz = surface_clouds(batch, NUM_POINTS, device)
                contestants = [
                    Contestant(label, {"": partial(forward, network.eval(), xyz)}, inside)
                    for label, network in networks.items()
                ]
                _race(report, name, dtype, batch, contestants, device)
    for row in report["rows"]:
        row["met"] = row["ratio"] >= GOAL if row["name"] == PLAIN and row["ratio"] else None
    return report


def benchmark_train(
    device: torch.device,
    *,
    only: Sequence[str] = (),
    quick: bool = False,
    progress: Progress = lambda line: None,
) -> dict[str, Any]:
    """Time a training step: forward, loss, backward, clipping, and AdamW, of clouds in memory.

    An epoch of ModelNet40's sizes is run whole on a GPU; on a CPU it is a step times the steps of
    an epoch. ``only`` names classifiers, by default ``ea_classifier_base``. Raises ValueError for
    others.
    """
    batch = 4 if quick else BATCH
    report = _report("train", device, only, quick, batch=batch)
    if device.type == "cpu":
        keep_freed_memory()
    with current_device(device):
        xyz = surface_clouds(batch, NUM_POINTS, device)
        label = torch.arange(batch, device=device) % NUM_CLASSES
        for name, dtype in _configurations(report, device, only):
            progress(f"{name}, batch {batch}, {dtype}")
            ours = {OURS: build(name, device)}
            if device.type == "cuda":
                ours[GRAPHS] = _compiled(build(name, device))
            networks = ours | _others(build(name, device), device, dtype, report)
            contestants = [
                Contestant(kind, {"": _step(network.train(), xyz, label, dtype)})
                for kind, network in networks.items()
            ]
            for row in _race(report, name, dtype, batch, contestants, device):
                row["epoch"] = "from steps"
                row["epoch_seconds"] = row["median_ms"] / 1e3 * TRAIN_CLOUDS / batch
                if device.type == "cuda" and row["name"] in (*ours, PLAIN):
                    progress(f"{name}, {dtype}, {row['name']}: a whole epoch")
                    for _ in range(2):  # the first compiles what evaluation needs
                        seconds = _epoch(networks[row["name"]], device, dtype)
                    row |= {"epoch": "whole", "epoch_seconds": seconds}
    return report


def tables(report: dict[str, Any]) -> list[str]:
    """A row a contestant."""
    columns = {
        "model": ("model", ""),
        "contestant": ("name", ""),
        "precision": ("precision", ""),
        "batch": ("batch", "d"),
        **TIMES,
        "clouds/s": ("clouds_per_second", ".1f"),
    }
    if report["kind"] == "infer":
        columns[f">= {report['goal']:g}"] = ("met", "")
    else:
        columns |= {"s/epoch": ("epoch_seconds", ".1f"), "epoch": ("epoch", "")}
    sizes = {"model": ("model", ""), "parameters": ("parameters", ",d"), "MACs": ("macs", ",d")}
    return [
        text_table(title(report, f"{report['num_points']} points"), report["rows"], columns),
        text_table("sizes", report["models"], sizes),
    ]


def build(name: str, device: torch.device) -> Any:
    """A classifier, its weights drawn from ``SEED``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        return create_model(name, num_classes=NUM_CLASSES).to(device)


def _report(
    kind: str, device: torch.device, only: Sequence[str], quick: bool, **more: Any
) -> dict[str, Any]:
    for name in only:
        check_choice("--only", name, list_models("classification"))
    rounds = 3 if quick else 7
    return new_report(kind, device, only=only, quick=quick, rounds=rounds, num_points=NUM_POINTS,
                      models=[], rows=[], **more)  # fmt: skip


def _configurations(
    report: dict[str, Any], device: torch.device, only: Sequence[str]
) -> list[tuple[str, torch.dtype]]:
    """Models and precisions: float32, and bfloat16 where the processor has it."""
    found = []
    for name in only or ["ea_classifier_base"]:
        model = build(name, torch.device("cpu"))
        parameters = sum(parameter.numel() for parameter in model.parameters())
        sizes = {"parameters": parameters, "macs": count_macs(model, NUM_POINTS)}
        report["models"].append({"model": name, **sizes})
        dtypes = [torch.float32, torch.bfloat16] if has_bfloat16(device) else [torch.float32]
        found += [(name, dtype) for dtype in dtypes]
    return found


def _others(
    trained: nn.Module, device: torch.device, dtype: torch.dtype, report: dict[str, Any]
) -> dict[str, nn.Module]:
    """The same network in plain PyTorch, where there is one, and those of others in float32."""
    networks: dict[str, nn.Module] = {}
    if isinstance(trained, EAClassifier):
        networks[PLAIN] = PlainClassifier(trained)
    if dtype is torch.float32:  # others are not written for autocast
        peers, skipped = make_peers(NUM_CLASSES)
        networks |= peers
        report["skipped"] |= skipped
    return {name: network.to(device) for name, network in networks.items()}


def _race(
    report: dict[str, Any],
    model: str,
    dtype: torch.dtype,
    batch: int,
    contestants: list[Contestant],
    device: torch.device,
) -> list[dict[str, Any]]:
    """Add a row a contestant to the report."""
    precision = str(dtype).removeprefix("torch.")
    seconds = 2.0 if report["settings"]["quick"] else 15.0
    rounds, case = report["settings"]["rounds"], f"{model}, batch {batch}, {precision}"
    found = race_rows(case, contestants, device, report, rounds=rounds, seconds=seconds)
    rows = [
        {"model": model, "precision": precision, "batch": batch, **row,
         "clouds_per_second": 1e3 * batch / row["median_ms"]}
        for _, _, row in found
    ]  # fmt: skip
    report["rows"] += rows
    return rows


def _compiled(network: nn.Module) -> nn.Module:
    """The same network; its first call of each form compiles it and records CUDA graphs."""
    network.compile(mode="reduce-overhead", dynamic=False)
    return network


def _autocast(device: torch.device, dtype: torch.dtype) -> Callable[[], AbstractContextManager]:
    """A context for layers in ``dtype``; none for float32."""
    if dtype is torch.float32:
        return nullcontext
    return lambda: torch.autocast(device.type, dtype=dtype)


def _step(
    network: nn.Module,
    xyz: Tensor,
    label: Tensor,
    dtype: torch.dtype,
    optimizer: torch.optim.Optimizer | None = None,
) -> Callable[[], None]:
    """A call that takes one whole training step."""
    autocast = _autocast(xyz.device, dtype)
    chosen = optimizer or _adamw(network, xyz.device)

    def step() -> None:
        chosen.zero_grad()
        with autocast():
            logits = network(xyz)
        F.cross_entropy(logits.float(), label).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        chosen.step()

    return step


def _adamw(network: nn.Module, device: torch.device) -> torch.optim.Optimizer:
    return torch.optim.AdamW(network.parameters(), fused=device.type == "cuda")


def _epoch(network: nn.Module, device: torch.device, dtype: torch.dtype) -> float:
    """Seconds of an epoch: every cloud of a set on the device, augmented, then those of a test."""
    train = surface_clouds(BATCH, NUM_POINTS, device).repeat(_STEPS + 1, 1, 1)[:TRAIN_CLOUDS]
    labels = torch.arange(TRAIN_CLOUDS, device=device) % NUM_CLASSES
    optimizer, generator = _adamw(network, device), generator_for(device, SEED)
    torch.cuda.synchronize(device)
    started = time.perf_counter()
    for idx in torch.randperm(TRAIN_CLOUDS, device=device)[: _STEPS * BATCH].split(BATCH):
        xyz, _ = _AUGMENTATION(train[idx], generator=generator)
        _step(network, xyz, labels[idx], dtype, optimizer)()
    network.eval()
    with torch.inference_mode(), _autocast(device, dtype)():
        test = train[:TEST_CLOUDS].split(EVAL_BATCH)
        pred = torch.cat([network(part).argmax(1) for part in test])
    (pred == labels[:TEST_CLOUDS]).sum().item()
    seconds = time.perf_counter() - started
    network.train()
    return seconds
