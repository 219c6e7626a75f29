"""Clouds a second of each way to training data, beside the network that trains on them."""

import time
from collections.abc import Callable, Iterable, Sequence
from itertools import chain, count, islice
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ea_pointcloud._checks import check_choice
from ea_pointcloud.benchmark._machine import describe_machine
from ea_pointcloud.benchmark.cases import SEED, surface_clouds
from ea_pointcloud.datasets import ModelNet
from ea_pointcloud.datasets.batch_stream import BatchStream
from ea_pointcloud.datasets.streamed import StreamedModelNet
from ea_pointcloud.datasets.writing import write_modelnet
from ea_pointcloud.models import create_model, list_models

NUM_POINTS = 1_024
CLOUDS = 4_096
BATCH = 32
GOAL = 0.80  # of the rate of training from memory
_CLASSES = 40
_SHARDS = 4
_BUFFER_MB = 16  # a third of the set: windows are read while others are used, as of a large set
# Training steps a round: on a CPU a step takes long, and its rate depends on what else runs there.
_STEPS = {"cpu": 1, "cuda": 64}

Batch = dict[str, Tensor]


def benchmark_data(
    device: torch.device,
    *,
    only: Sequence[str] = (),
    quick: bool = False,
    clouds: int = CLOUDS,
    num_points: int = NUM_POINTS,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Train on one set from memory, from disk, and through PyG's loader, in turns.

    The set is written to a temporary folder, not compressed, and stays in the system's file cache.
    Each way is timed alone, through the whole set, and with training steps; the network alone
    trains on one batch that is there.

    Args:
        device: of the network.
        only: names of classifiers; without any ``ea_classifier_base`` on a GPU, the smallest on a
            CPU.
        quick: an eighth of the clouds and fewer rounds.
        clouds: in the set.
        num_points: of each.
        progress: told a line at the start of each part.

    Returns:
        A dictionary for JSON: ``machine``, ``settings``, ``goal``, ``rows`` (one a model and way:
        clouds a second alone and with training, the shares of the network alone and of training
        from memory), and ``failed`` (what -> why).

    Raises:
        ValueError: if a name is unknown.
    """
    classifiers = list_models("classification")
    for name in only:
        check_choice("--only", name, classifiers)
    usual = "ea_classifier_base" if device.type == "cuda" else classifiers[0]
    size = clouds // 8 if quick else clouds
    rounds = 5 if quick else 15
    report: dict[str, Any] = {
        "kind": "data",
        "machine": describe_machine(device),
        "settings": {"only": list(only), "quick": quick, "seed": SEED, "rounds": rounds},
        "clouds": size,
        "num_points": num_points,
        "batch": BATCH,
        "goal": GOAL,
        "rows": [],
        "failed": {},
    }
    with TemporaryDirectory() as folder:
        progress(f"writing {size} clouds of {num_points} points")
        _write(Path(folder), size, num_points)
        ways = _ways(Path(folder), device)
        alone: dict[str, list[float]] = {way: [] for way in ways}
        for number in range(rounds + 1):
            progress(f"loading: round {number} of {rounds}" if number else "loading: warming up")
            for way, load in ways.items():
                rate = _rate(load(number), lambda batch: None, device)
                alone[way] += [rate] if number else []
        for name in list(only) or [usual]:
            trained = _train(name, ways, device, rounds, progress)
            report["rows"] += _rows(name, alone, trained)
    return report


def _write(folder: Path, clouds: int, num_points: int) -> None:
    xyz = surface_clouds(clouds, num_points, torch.device("cpu")).numpy()
    label = (torch.arange(clouds) % _CLASSES).numpy()
    names = [f"class{number}" for number in range(_CLASSES)]
    pieces = [(xyz[shard::_SHARDS], label[shard::_SHARDS]) for shard in range(_SHARDS)]
    write_modelnet(folder, names, train=pieces)


def _ways(folder: Path, device: torch.device) -> dict[str, Callable[[int], Iterable[Batch]]]:
    """What makes the batches of an epoch, by the name of the way."""
    # Here, because the other benchmarks go without the libraries that these need.
    from ea_pointcloud.datasets.pyg import PyGDataset, pyg_batches
    from ea_pointcloud.training.data import batches, put_on

    held, _ = put_on(ModelNet(folder, split="trainval"), device)
    streamed = StreamedModelNet(folder, split="trainval", buffer_mb=_BUFFER_MB)

    def in_memory(epoch: int) -> Iterable[Batch]:
        return batches(held, BATCH, shuffle_seed=SEED, beginning=(epoch, 0))

    def from_disk(epoch: int) -> Iterable[Batch]:
        stream = BatchStream(streamed, BATCH, shuffle_seed=SEED)
        stream.set_epoch(epoch)
        return stream

    def through_pyg(epoch: int) -> Iterable[Batch]:
        generator = torch.Generator().manual_seed(epoch)
        return pyg_batches(graphs, BATCH, shuffle=True, drop_last=True, generator=generator)

    graphs = PyGDataset(ModelNet(folder, split="trainval"))
    return {"in memory": in_memory, "HDF5 streamed": from_disk, "PyG's loader": through_pyg}


def _train(
    name: str,
    ways: dict[str, Callable[[int], Iterable[Batch]]],
    device: torch.device,
    rounds: int,
    progress: Callable[[str], None],
) -> dict[str, list[float]]:
    """Clouds a second of training, by way; ``""`` is the network alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = create_model(name, num_classes=_CLASSES).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters())

    def step(batch: Batch) -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(batch["xyz"]), batch["label"]).backward()
        optimizer.step()

    steps = _STEPS[device.type]
    ready = {key: value.to(device) for key, value in next(iter(ways["in memory"](0))).items()}
    step(ready)  # compiles and allocates
    loaders = {
        way: chain.from_iterable(map(load, count())) for way, load in ways.items()
    }  # epoch after epoch
    for loader in loaders.values():
        next(loader)
    rates: dict[str, list[float]] = {way: [] for way in ("", *ways)}
    for number in range(rounds):
        progress(f"{name}: round {number + 1} of {rounds}")
        rates[""].append(_rate([ready] * steps, step, device))
        for way, load in loaders.items():
            rates[way].append(_rate(islice(load, steps), step, device))
    return rates


def _rate(loader: Iterable[Batch], use: Callable[[Batch], None], device: torch.device) -> float:
    """Clouds a second, on the device and used."""
    clouds, started = 0, time.perf_counter()
    for batch in loader:
        use({name: value.to(device) for name, value in batch.items()})
        clouds += len(batch["label"])
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clouds / (time.perf_counter() - started)


def _rows(
    name: str, alone: dict[str, list[float]], trained: dict[str, list[float]]
) -> list[dict[str, Any]]:
    rows = []
    for way, rates in alone.items():
        ratios = [a / b for a, b in zip(trained[way], trained["in memory"], strict=True)]
        ratio = median(trained[way]) / median(trained["in memory"])
        rows.append({
            "model": name,
            "way": way,
            "loading_per_second": median(rates),
            "training_per_second": median(trained[way]),
            "model_alone_per_second": median(trained[""]),
            "ratio": ratio,
            "min_ratio": min(ratios),
            "max_ratio": max(ratios),
            "met": ratio >= GOAL,
        })  # fmt: skip
    return rows
