"""One training step taken apart: where its time goes, and how far from the floor of arithmetic."""

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ea_pointcloud.benchmark._measure import Contestant, race
from ea_pointcloud.models import EAClassifier
from ea_pointcloud.ops import PyramidLevel, farthest_point_sample, gather_points, knn
from ea_pointcloud.ops.sampling import outermost_point

PARTS = ("sampling", "neighbours", "layers", "backward", "optimiser")
_MATMUL_SIZE = {"cpu": 2048, "cuda": 8192}


def training_step(
    network: nn.Module, optimizer: torch.optim.Optimizer, xyz: Tensor, label: Tensor, dtype: Any
) -> Callable[[], None]:
    """A call that takes one whole step; under autocast where ``dtype`` is not float32."""
    lower = dtype is not torch.float32

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(xyz.device.type, dtype=dtype, enabled=lower):
            logits = network(xyz)
        F.cross_entropy(logits.float(), label).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()

    return step


def step_parts(
    model: EAClassifier,
    optimizer: torch.optim.Optimizer,
    xyz: Tensor,
    label: Tensor,
    dtype: torch.dtype,
    rounds: int,
) -> dict[str, float]:
    """Median milliseconds of each of ``PARTS``, one after the other.

    On a GPU each part is waited for, so that their sum is more than an undisturbed step takes.

    Args:
        model: in training mode.
        optimizer: of its parameters.
        xyz: (B, N, 3).
        label: (B,).
        dtype: of the layers; float32 without autocast.
        rounds: steps, after one that is not counted.
    """
    taken: dict[str, list[float]] = {part: [] for part in PARTS}
    encoder: Any = model.encoder
    lower = dtype is not torch.float32
    for counted in [False] + [True] * rounds:
        marks = [now(xyz.device)]
        below, centers = xyz, []
        for count in encoder.num_centers:
            center = farthest_point_sample(below, count, start=outermost_point(below))
            centers.append((gather_points(below, center), center))
            below = centers[-1][0]
        marks.append(now(xyz.device))
        below, levels = xyz, []
        for (center_xyz, center), k in zip(centers, encoder.num_neighbors, strict=True):
            _, neighbor = knn(center_xyz, below, min(k, below.shape[1]))
            levels.append(PyramidLevel(center_xyz, center, neighbor))
            below = center_xyz
        marks.append(now(xyz.device))
        optimizer.zero_grad()
        with torch.autocast(xyz.device.type, dtype=dtype, enabled=lower):
            logits = model(xyz, pyramid=tuple(levels))
        loss = F.cross_entropy(logits.float(), label)
        marks.append(now(xyz.device))
        loss.backward()
        marks.append(now(xyz.device))
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        marks.append(now(xyz.device))
        if counted:
            for part, start, end in zip(PARTS, marks[:-1], marks[1:], strict=True):
                taken[part].append(1e3 * (end - start))
    return {part: median(values) for part, values in taken.items()}


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Multiply-accumulates a second of one large matrix product: the floor of the arithmetic."""
    size = _MATMUL_SIZE[device.type]
    one = torch.randn(size, size, device=device).to(dtype)
    two = torch.randn(size, size, device=device).to(dtype)
    timings, failed = race(
        [Contestant("product", {"": lambda: one @ two})], device, rounds=5, seconds=2.0
    )
    if failed:
        raise RuntimeError(f"could not measure the rate of products: {failed['product']}")
    return size**3 / (timings["product"].min_ms / 1e3)


def now(device: torch.device) -> float:
    """Seconds on a clock, after everything that the device was told to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
