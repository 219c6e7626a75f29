"""Files a second, from the disk to the class, beside the network alone on the same clouds."""

import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from ea_pointcloud._checks import check_choice
from ea_pointcloud.datasets import ProceduralShapes
from ea_pointcloud.inference import batch_inference
from ea_pointcloud.inference.batch import PRELOAD, classification
from ea_pointcloud.inference.predictor import Predictor
from ea_pointcloud.io import Cloud, write_cloud
from ea_pointcloud.io.pool import default_workers, import_ahead
from ea_pointcloud.models import DataSpec, create_model, list_models
from scripts.benchmarks.report import SEED, new_report, text_table, title

FILES = 2_000
NUM_POINTS = 1_024  # of a file
SEEN_POINTS = 512  # by the network, as in the recipe modelnet10
GOAL = 0.70  # of the rate of the network alone
_SHAPES = 140  # different ones; the files are these with their points in other orders


def benchmark_files(
    device: torch.device,
    *,
    only: Sequence[str] = (),
    quick: bool = False,
    files: int | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Classify small binary PLY files of procedural shapes, alternately with the network alone.

    The network alone gets the same batches, loaded ahead. The other rate is of the whole way with
    all it costs, the start of the workers included. Weights are untrained, which takes the same
    time. ``only`` names classifiers, by default the smallest. Raises ValueError for others.
    """
    classifiers = list_models("classification")
    for name in only:
        check_choice("--only", name, classifiers)
    count = files or (320 if quick else FILES)
    workers, rounds = default_workers(count), 1 if quick else 3
    report = new_report("files", device, only=only, quick=quick, rounds=rounds, files=count,
                        workers=workers, goal=GOAL, rows=[])  # fmt: skip
    if workers:
        import_ahead(PRELOAD)  # as the command does, which then imports torch itself
    with TemporaryDirectory() as folder:
        progress(f"writing {count} files of {NUM_POINTS} points")
        paths = _write(Path(folder), count)
        for name in list(only) or classifiers[:1]:
            row, different = _race(name, paths, device, workers, rounds, progress)
            report["rows"].append(row)
            if different:
                report["failed"][name] = f"{different} files have another label than alone"
    return report


def tables(report: dict[str, Any]) -> list[str]:
    """A row a model."""
    columns = {
        "model": ("model", ""),
        "files/s": ("whole_per_second", ".1f"),
        "model alone/s": ("alone_per_second", ".1f"),
        "ratio": ("ratio", ".3f"),
        "min": ("min_ratio", ".3f"),
        "max": ("max_ratio", ".3f"),
        f">= {report['goal']:g}": ("met", ""),
    }
    words = f"{report['files']} files of {NUM_POINTS} points; {report['workers']} workers"
    return [text_table(title(report, words), report["rows"], columns)]


def _write(folder: Path, count: int) -> list[str]:
    shapes = ProceduralShapes("test", num_shapes=min(count, _SHAPES), num_points=NUM_POINTS)
    generator = torch.Generator().manual_seed(SEED)
    paths = []
    for index in range(count):
        order = torch.randperm(NUM_POINTS, generator=generator)
        xyz = shapes.xyz[index % len(shapes)][order].numpy()
        paths.append(str(folder / f"{index:06d}.ply"))
        write_cloud(paths[-1], Cloud(xyz, np.zeros(3)))
    return paths


def _race(
    name: str,
    paths: list[str],
    device: torch.device,
    workers: int,
    rounds: int,
    progress: Callable[[str], None],
) -> tuple[dict[str, Any], int]:
    """The row of a model, and the number of files whose labels differ between both ways."""
    spec = DataSpec(DataSpec.unnamed(10).class_names, num_points=SEEN_POINTS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = create_model(name, data_spec=spec)
    job = classification(Predictor(model, device))
    progress(f"{name}: loading")
    loaded = [job.load(path) for path in paths]
    job.predict(loaded[: job.batch_size])  # compiles and allocates

    def alone() -> list[str]:
        source = iter(loaded)
        labels = []
        while batch := list(islice(source, job.batch_size)):
            labels += [result.label for result in job.predict(batch)]
        return labels

    def whole() -> list[str]:
        outcomes = batch_inference(job, paths, workers=workers)
        return [each.result.label if each.result else f"error: {each.error}" for each in outcomes]

    rates: dict[str, list[float]] = {"alone": [], "whole": []}
    labels: dict[str, list[str]] = {}
    for number in range(rounds):
        progress(f"{name}: round {number + 1} of {rounds}")
        for what, call in (("alone", alone), ("whole", whole)):
            started = time.perf_counter()
            labels[what] = call()
            rates[what].append(len(paths) / (time.perf_counter() - started))
    ratios = [whole / alone for whole, alone in zip(rates["whole"], rates["alone"], strict=True)]
    row = {
        "model": name,
        "alone_per_second": median(rates["alone"]),
        "whole_per_second": median(rates["whole"]),
        "ratio": median(ratios),
        "min_ratio": min(ratios),
        "max_ratio": max(ratios),
        "met": median(ratios) >= GOAL,
    }
    return row, sum(a != b for a, b in zip(labels["alone"], labels["whole"], strict=True))
