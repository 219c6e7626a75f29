"""How networks with each kind of attention grow with the points, in time and in memory.

``python -m ea_pointcloud.benchmark.scaling infer|train DEVICE KIND N`` measures one size and prints
JSON: each has a process of its own, because freed memory stays with a process, and one that takes
too much or too long ends without the others.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import torch

from ea_pointcloud._device import available_memory
from ea_pointcloud.benchmark._measure import current_device
from ea_pointcloud.benchmark._memory import peak_bytes, reset_peak
from ea_pointcloud.benchmark._step import matmul_rate, now, step_parts
from ea_pointcloud.benchmark.cases import SEED, surface_clouds
from ea_pointcloud.models import count_macs, create_model
from ea_pointcloud.models.folded import fold_batch_norm

SIZES = (1_024, 4_096, 16_384, 65_536)
# Attends on all points: nothing but the attention could grow faster than they do.
_ON_ALL_POINTS = {"cpu": "ea_segmenter_tiny", "cuda": "ea_segmenter_base"}
_CLASSIFIER = {"cpu": "ea_classifier_tiny", "cuda": "ea_classifier_base"}
_BATCH = {"cpu": 4, "cuda": 32}  # of a training step
_AFFINITIES = 4  # float32 matrices of N x N that self-attention holds at a time
_ROUNDS, _PATIENCE = 5, 5.0  # seconds after which a size gets no further round
_LIMIT = 120.0  # seconds that one size may take, with the start of its process


def measure_scaling(
    what: str,
    device: torch.device,
    kinds: Sequence[str],
    sizes: Sequence[int],
    progress: Callable[[str], None],
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Measure each kind of attention at each number of points.

    Args:
        what: ``"infer"``, one cloud in a network that attends on all its points, or ``"train"``, a
            step of a classifier.
        device: where to compute.
        kinds: of attention, of :data:`ea_pointcloud.nn.blocks.ATTENTION`.
        sizes: points of a cloud, ascending.
        progress: told a line for each.

    Returns:
        rows: what :func:`measure_inference` or :func:`measure_training` gives.
        skipped: size -> why it was not measured; after one that failed no larger one is tried.
    """
    rows, skipped = [], {}
    for kind in kinds:
        for size in sizes:
            name = f"{kind}, {size:,} points"
            progress(name)
            reason = _too_large(what, kind, size, device)
            row = None
            if not reason:
                row, reason = _in_a_process(what, device, kind, size)
            if row is None:
                skipped[name] = reason
                break
            rows.append(row)
    return rows, skipped


@torch.inference_mode()
def measure_inference(device: torch.device, kind: str, num_points: int) -> dict[str, Any]:
    """Milliseconds and memory of one cloud through a network that attends on all points.

    Returns:
        ``model``, ``attention``, ``num_points``, ``ms`` (median), ``clouds_per_second``,
        ``peak_mb`` beyond weights and input, ``macs``, ``floor_share``.
    """
    name = _ON_ALL_POINTS[device.type]
    model = _network(name, kind, device, num_parts=50, num_categories=0).eval()
    xyz = surface_clouds(1, num_points, device)
    folded = fold_batch_norm(model)
    folded(xyz[:, :256])  # warms up
    before = reset_peak(device)
    seconds: list[float] = []
    while len(seconds) < _ROUNDS and sum(seconds) < _PATIENCE:
        started = now(device)
        folded(xyz)
        seconds.append(now(device) - started)
    peak_mb = _megabytes(before, peak_bytes(device))
    macs = count_macs(model, num_points)
    floor = macs / matmul_rate(device, torch.float32)
    return {
        "model": name,
        "attention": kind,
        "num_points": num_points,
        "ms": 1e3 * median(seconds),
        "clouds_per_second": 1 / median(seconds),
        "peak_mb": peak_mb,
        "macs": macs,
        "floor_share": floor / median(seconds),
    }


def measure_training(device: torch.device, kind: str, num_points: int) -> dict[str, Any]:
    """A training step of a classifier in its parts.

    Returns:
        ``model``, ``attention``, ``num_points``, ``batch``, ``parts`` (part -> median ms), ``ms``,
        their sum, ``clouds_per_second``, ``peak_mb``, ``macs`` of a cloud forward, ``floor_share``
        (a backward pass multiplies twice as much as a forward pass).
    """
    name, batch = _CLASSIFIER[device.type], _BATCH[device.type]
    model = _network(name, kind, device, num_classes=40).train()
    optimizer = torch.optim.AdamW(model.parameters())
    xyz = surface_clouds(batch, num_points, device)
    label = torch.arange(batch, device=device) % 40
    before = reset_peak(device)
    parts = step_parts(model, optimizer, xyz, label, torch.float32, _ROUNDS)
    peak_mb = _megabytes(before, peak_bytes(device))
    macs = count_macs(model, num_points)
    seconds = sum(parts.values()) / 1e3
    return {
        "model": name,
        "attention": kind,
        "num_points": num_points,
        "batch": batch,
        "parts": parts,
        "ms": 1e3 * seconds,
        "clouds_per_second": batch / seconds,
        "peak_mb": peak_mb,
        "macs": macs,
        "floor_share": 3 * batch * macs / matmul_rate(device, torch.float32) / seconds,
    }


def _network(name: str, kind: str, device: torch.device, **sizes: Any) -> Any:
    torch.manual_seed(SEED)
    return create_model(name, attention=kind, **sizes).to(device)


def _too_large(what: str, kind: str, num_points: int, device: torch.device) -> str:
    """Why a size is not even tried, or nothing."""
    room = available_memory(device)
    if what == "train" or kind not in ("self", "offset") or room is None:
        return ""
    needed = _AFFINITIES * 4 * num_points**2
    if needed <= room:
        return ""
    return f"its affinities take about {needed / 1e9:.1f} GB, {room / 1e9:.1f} GB are free"


def _in_a_process(
    what: str, device: torch.device, kind: str, num_points: int
) -> tuple[dict[str, Any] | None, str]:
    command = [sys.executable, "-m", __name__, what, str(device), kind, str(num_points)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_LIMIT)
    except subprocess.TimeoutExpired:
        return None, f"took more than {_LIMIT:.0f} s"
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        return None, lines[-1]
    return json.loads(done.stdout), ""


def _megabytes(before: int | None, peak: int | None) -> float | None:
    return None if before is None or peak is None else (peak - before) / 1e6


def main(what: str, device_name: str, kind: str, num_points: str) -> None:
    """Print the JSON of one size."""
    device = torch.device(device_name)
    measure = {"infer": measure_inference, "train": measure_training}[what]
    with current_device(device):
        row = measure(device, kind, int(num_points))
    sys.stdout.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
