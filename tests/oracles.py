"""Brute-force oracles in numpy float32, the clouds they are tried on, and where tests run.

The oracles repeat the contract of the operators and share no code with them: squared distance
``((dx*dx) + (dy*dy)) + (dz*dz)`` with one float32 rounding a step, ties to the lowest index.
"""

import importlib.util
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ea_pointcloud.ops import _backend, _reference

# Every implementation runs through the same test bodies; add (module, device) pairs here.
RUNS = [
    pytest.param((_reference, "cpu"), id="reference-cpu"),
    pytest.param((_reference, "cuda"), id="reference-cuda", marks=pytest.mark.gpu),
]
if importlib.util.find_spec("numba"):
    from ea_pointcloud.ops import _cpu

    RUNS.append(pytest.param((_cpu, "cpu"), id="numba-cpu"))
if importlib.util.find_spec("triton"):
    from ea_pointcloud.ops import _triton

    if os.environ.get("TRITON_INTERPRET") == "1":  # a process of its own, with no other purpose
        RUNS = [pytest.param((_triton, "cpu"), id="triton-interpreter")]
        # It takes as long for an instruction on one row as on eight.
        _triton.neighbors.ROWS = 8
    else:
        RUNS.append(pytest.param((_triton, "cuda"), id="triton-cuda", marks=pytest.mark.gpu))

CLOUDS = (
    "surface",
    "lattice",
    "tenths",
    "equal",
    "line",
    "offset",
    "tiny",
    "denormal",
    "large",
    "overflow",
)


@contextmanager
def running(run: tuple[ModuleType, str]) -> Iterator[str]:
    """Run the operators on one implementation; yields the device to put tensors on."""
    implementation, device = run
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    # Triton's interpreter computes with numpy, which warns where a distance overflows.
    quiet = np.errstate(over="ignore", under="ignore", invalid="ignore")
    with _backend.use_implementation(implementation), quiet:
        yield device


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cloud(kind: str, num_points: int, *, batch: int = 1, seed: int = 0) -> Tensor:
    """(B, N, 3) float32 on the CPU."""
    shape = (batch, num_points, 3)
    surface = torch.nn.functional.normalize(torch.randn(shape, generator=seeded(seed)), dim=-1)
    surface = surface * torch.tensor([1.0, 0.6, 0.3])
    lattice = torch.randint(4, shape, generator=seeded(seed)) * 0.25
    return {
        "surface": surface,
        "lattice": lattice,
        # Ties in exact arithmetic that the prescribed float32 roundings break, each its own way.
        "tenths": torch.randint(8, shape, generator=seeded(seed)) * 0.1,
        "equal": torch.tensor([0.1, -0.7, 0.3]).expand(shape).clone(),
        "line": lattice * torch.tensor([1.0, 0.0, 0.0]),
        "offset": surface + torch.tensor([5e5, -4e6, 100.0]),
        "tiny": surface * 1e-18,
        "denormal": surface * 1e-21,
        "large": surface * 1e18,
        "overflow": surface * 1e25,
    }[kind]


def sq_dists(query: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(N,) from one query to points (N, 3)."""
    assert query.dtype == points.dtype == np.float32
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        dx, dy, dz = (query - points).T
        return ((dx * dx) + (dy * dy)) + (dz * dz)


def valid_indices(points: np.ndarray, length: int | None) -> np.ndarray:
    finite = np.isfinite(points).all(1)
    finite[len(points) if length is None else length :] = False
    return np.flatnonzero(finite)


def fps_oracle(
    xyz: Tensor, num_samples: int, lengths: Sequence[int] | None = None, start: Sequence[int] = ()
) -> list[list[int]]:
    rows = []
    for b, points in enumerate(xyz.float().cpu().numpy()):
        valid = valid_indices(points, None if lengths is None else lengths[b]).tolist()
        pick = start[b] if start and start[b] in valid else valid[0]
        left, order = [i for i in valid if i != pick], [pick]
        closest = sq_dists(points[pick], points)
        while left and len(order) < num_samples:
            pick = left[int(np.argmax(closest[left]))]  # the first of equal maxima
            left.remove(pick)
            order.append(pick)
            closest = np.fmin(closest, sq_dists(points[pick], points))
        rows.append([order[j % len(order)] for j in range(num_samples)])
    return rows


def knn_oracle(
    query: Tensor, points: Tensor, k: int, lengths: Sequence[int] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    clouds = points.float().cpu().numpy()
    all_sq_dist = np.empty((*query.shape[:2], k), np.float32)
    all_idx = np.empty((*query.shape[:2], k), np.int64)
    for b, centers in enumerate(query.float().cpu().numpy()):
        valid = valid_indices(clouds[b], None if lengths is None else lengths[b])
        for s, center in enumerate(centers):
            sq_dist = sq_dists(center, clouds[b][valid])
            order = np.argsort(sq_dist, kind="stable")[:k]
            order = np.concatenate([order, np.repeat(order[:1], k - len(order))])
            all_sq_dist[b, s], all_idx[b, s] = sq_dist[order], valid[order]
    return all_sq_dist, all_idx


def ball_oracle(
    query: Tensor, points: Tensor, radius: float, k: int, lengths: Sequence[int] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    clouds = points.float().cpu().numpy()
    with np.errstate(over="ignore", under="ignore"):
        limit = np.float32(radius) * np.float32(radius)
    all_idx = np.empty((*query.shape[:2], k), np.int64)
    count = np.empty(query.shape[:2], np.int64)
    for b, centers in enumerate(query.float().cpu().numpy()):
        valid = valid_indices(clouds[b], None if lengths is None else lengths[b])
        for s, center in enumerate(centers):
            sq_dist = sq_dists(center, clouds[b][valid])
            hits = valid[sq_dist <= limit][:k]
            count[b, s] = len(hits)
            first = hits[0] if len(hits) else valid[np.argmin(sq_dist)]
            all_idx[b, s] = np.concatenate([hits, np.repeat(first, k - len(hits))])
    return all_idx, count


def randomise(module: nn.Module) -> nn.Module:
    """Give every parameter and running statistic a value that shows."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.5)
        for name, buffer in module.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_()
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 2.0)
    return module
