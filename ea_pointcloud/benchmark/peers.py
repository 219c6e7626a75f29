"""What a user would run otherwise, as contestants: plain torch, and packages where installed.

Every peer runs with its fastest settings for the job and as many threads as torch; where several
settings may be the fastest, all are variants. Conversions that a user of torch tensors would not
need (to a padded index) are made off the clock.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from shutil import which
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ea_pointcloud.benchmark._measure import Contestant, describe_error
from ea_pointcloud.benchmark.cases import Case, Inputs
from ea_pointcloud.benchmark.ours import gather_backward
from ea_pointcloud.benchmark.peers_cupy import classic_fps, lbvh_knn
from ea_pointcloud.benchmark.peers_trees import (
    nanoflann_knn,
    open3d_knn,
    read_clouds,
    scipy_knn,
    small_gicp_knn,
)

Variants = dict[str, Callable[[], Any]]


class UnsuitableError(Exception):
    """A peer cannot do a case; the message says why."""


@dataclass(frozen=True)
class Peer:
    """Somebody else's way to do one kind of job.

    Args:
        name: what tables call it.
        op: the kind of job.
        variants: (case, inputs, module) -> calls, one a setting.
        read: (result, case) -> (B, S) or (B, S, K) indices, or values, None where it has neither.
        module: what it needs installed.
        devices: where it runs.
        distances: device -> the most distances it takes, for those that form them all.
    """

    name: str
    op: str
    variants: Callable[[Case, Inputs, ModuleType], Variants]
    read: Callable[[Any, Case], Tensor | None]
    module: str = "torch"
    devices: tuple[str, ...] = ("cpu", "cuda")
    distances: tuple[tuple[str, float], ...] = ()


def peer_contestants(
    case: Case, inputs: Inputs, device: torch.device
) -> tuple[list[tuple[Contestant, Peer]], dict[str, str]]:
    """The peers for a case, and why others of its kind do not take part."""
    contestants, skipped = [], {}
    for peer in PEERS:
        if peer.op != case.op or device.type not in peer.devices:
            continue
        limit = dict(peer.distances).get(device.type, float("inf"))
        if case.distances > limit:
            skipped[peer.name] = f"{case.distances:.0e} distances, more than {limit:.0e}"
            continue
        try:
            variants = peer.variants(case, inputs, import_module(peer.module))
        except ModuleNotFoundError as error:
            skipped[peer.name] = f"{error.name} is not installed"
        except UnsuitableError as error:
            skipped[peer.name] = str(error)
        # A foreign library may fail in its own way on import; the others go on without it.
        except Exception as error:
            skipped[peer.name] = describe_error(error)
        else:
            contestants.append((Contestant(peer.name, variants), peer))
    return contestants, skipped


def _as_is(result: Tensor, case: Case) -> Tensor:
    del case
    return result


# --- plain torch, as tutorials write it


def _fps_loop(case: Case, inputs: Inputs, module: ModuleType) -> Variants:
    del module
    xyz, batch = inputs.points, torch.arange(case.batch, device=inputs.points.device)

    def loop() -> Tensor:
        closest = torch.full(xyz.shape[:2], torch.inf, device=xyz.device)
        idx = torch.empty(case.batch, case.num_queries, dtype=torch.long, device=xyz.device)
        last = torch.zeros(case.batch, dtype=torch.long, device=xyz.device)
        for step in range(case.num_queries):
            idx[:, step] = last
            sq_dist = (xyz - xyz[batch, last][:, None]).square().sum(-1)
            closest = torch.minimum(closest, sq_dist)
            last = closest.argmax(-1)
        return idx

    return {"": loop}


def _cdist_topk(case: Case, inputs: Inputs, module: ModuleType) -> Variants:
    del module
    query, points = inputs.query, inputs.points
    return {"": lambda: torch.cdist(query, points).topk(case.k, largest=False).indices}


def _ball_topk(case: Case, inputs: Inputs, module: ModuleType) -> Variants:
    del module
    position = torch.arange(case.num_points, device=inputs.points.device)
    rows = max(1, 2**21 // (case.batch * case.num_points))  # 8 MB of distances stay in cache

    def chunked() -> Tensor:
        found = []
        for chunk in inputs.query.split(rows, dim=1):
            inside = torch.cdist(chunk, inputs.points) <= case.radius
            slot = torch.where(inside, position, case.num_points)
            slot = slot.topk(case.k, largest=False, sorted=True).values
            found.append(torch.where(slot < case.num_points, slot, slot[..., :1]))
        return torch.cat(found, 1)

    return {"": chunked}


def _torch_gather(case: Case, inputs: Inputs, module: ModuleType) -> Variants:
    del module
    idx, batch = inputs.idx, torch.arange(case.batch, device=inputs.idx.device)[:, None, None]
    flat = idx.flatten(1)[..., None].expand(-1, -1, case.channels)
    forms: dict[str, Callable[[Tensor], Tensor]] = {
        "features[batch, idx]": lambda features: features[batch, idx],
        "torch.gather": lambda features: features.gather(1, flat).view(*idx.shape, case.channels),
    }
    if case.backward:
        return {label: gather_backward(form, inputs) for label, form in forms.items()}
    return {label: lambda form=form: form(inputs.features) for label, form in forms.items()}


def _torch_interpolate(case: Case, inputs: Inputs, module: ModuleType) -> Variants:
    del module
    batch = torch.arange(case.batch, device=inputs.points.device)[:, None, None]

    def interpolate() -> Tensor:
        distance, idx = torch.cdist(inputs.query, inputs.points).topk(case.k, largest=False)
        weight = 1.0 / (distance.square() + 1e-8)
        weight = weight / weight.sum(-1, keepdim=True)
        return (inputs.features[batch, idx] * weight[..., None]).sum(2)

    return {"": interpolate}


# --- packages for torch


def _quickfps(case: Case, inputs: Inputs, module: ModuleType) -> Variants:
    heights = (3,) if case.num_points <= 16384 else (7, 8, 9, 10)
    variants: Variants = {
        f"bucket h={height}": lambda height=height: module.sample_idx(
            inputs.points, case.num_queries, h=height, start_idx=0
        )
        for height in heights
    }
    if case.distances <= 5e8 or inputs.points.is_cuda:
        variants["plain"] = lambda: module.sample_idx_baseline(
            inputs.points, case.num_queries, start_idx=0
        )
    return variants


def _torch_fps(case: Case, inputs: Inputs, module: ModuleType) -> Variants:
    if not inputs.points.is_cuda and not (which("c++") and which("ninja")):
        raise UnsuitableError("compiles at first use; no C++ compiler or no ninja here")
    mask = torch.ones(inputs.points.shape[:2], dtype=torch.bool, device=inputs.points.device)
    start = torch.zeros(case.batch, dtype=torch.long, device=inputs.points.device)
    return {
        "": lambda: module.farthest_point_sampling(
            inputs.points, mask, case.num_queries, start_idx=start, validate=False,
            assume_finite=True,
        )
    }  # fmt: skip


def _cluster_fps(case: Case, inputs: Inputs, module: ModuleType) -> Variants:
    flat, batch = _flat(inputs.points)
    ratio = case.num_queries / case.num_points
    return {"": lambda: module.fps(flat, batch, ratio, random_start=False, batch_size=case.batch)}


def _cluster_knn(case: Case, inputs: Inputs, module: ModuleType) -> Variants:
    (x, batch_x), (y, batch_y) = _flat(inputs.points), _flat(inputs.query)
    if case.batch > 1:
        return {"": lambda: module.knn(x, y, case.k, batch_x, batch_y, batch_size=case.batch)}
    return {"": lambda: module.knn(x, y, case.k, num_workers=torch.get_num_threads())}


def _cluster_radius(case: Case, inputs: Inputs, module: ModuleType) -> Variants:
    (x, batch_x), (y, batch_y) = _flat(inputs.points), _flat(inputs.query)
    return {
        "": lambda: module.radius(
            x, y, case.radius, batch_x, batch_y, max_num_neighbors=case.k, batch_size=case.batch
        )
    }


def _flat(xyz: Tensor) -> tuple[Tensor, Tensor]:
    batch = torch.arange(len(xyz), device=xyz.device).repeat_interleave(xyz.shape[1])
    return xyz.flatten(0, 1), batch


def _read_cluster_fps(result: Tensor, case: Case) -> Tensor | None:
    if result.numel() != case.batch * case.num_queries:  # its rounding of the ratio
        return None
    return result.view(case.batch, case.num_queries) % case.num_points


def _read_cluster_knn(result: Tensor, case: Case) -> Tensor:
    return result[1].view(case.batch, case.num_queries, case.k) % case.num_points


def _read_cluster_radius(result: Tensor, case: Case) -> Tensor:
    """Edges (2, E) to rows of ascending indices that repeat their first."""
    row, point = result[0], result[1] % case.num_points
    count = row.bincount(minlength=case.batch * case.num_queries)
    slot = torch.arange(len(row), device=row.device) - (count.cumsum(0) - count)[row]
    idx = torch.full((len(count), case.k), case.num_points, device=row.device)
    idx[row, slot] = point
    idx = idx.sort(1).values
    idx = torch.where(idx < case.num_points, idx, idx[:, :1])
    return idx.view(case.batch, case.num_queries, case.k)


_PAIRS = (("cpu", 2e9), ("cuda", 5e9))  # a matrix of float32 distances: 8 and 20 GB
PEERS = (
    Peer("torch loop", "fps", _fps_loop, _as_is, distances=(("cpu", 5e8), ("cuda", 2e11))),
    Peer("torch-quickfps", "fps", _quickfps, _as_is, "torch_quickfps"),
    Peer("torch-fps", "fps", _torch_fps, _as_is, "torch_fps", distances=(("cpu", 5e8),)),
    Peer(
        "torch-cluster", "fps", _cluster_fps, _read_cluster_fps, "torch_cluster",
        distances=(("cpu", 5e8), ("cuda", 2e10)),
    ),
    Peer(
        "classic CUDA kernel", "fps", classic_fps, _as_is, "cupy", ("cuda",),
        distances=(("cuda", 2e10),),
    ),
    Peer("torch cdist+topk", "knn", _cdist_topk, _as_is, distances=_PAIRS),
    Peer(
        "torch-cluster", "knn", _cluster_knn, _read_cluster_knn, "torch_cluster",
        distances=(("cuda", 2e10),),
    ),
    Peer("scipy cKDTree", "knn", scipy_knn, read_clouds, "scipy.spatial", ("cpu",)),
    Peer("pynanoflann", "knn", nanoflann_knn, read_clouds, "pynanoflann", ("cpu",)),
    Peer("small_gicp", "knn", small_gicp_knn, read_clouds, "small_gicp", ("cpu",)),
    Peer("open3d", "knn", open3d_knn, read_clouds, "open3d.core", ("cpu",)),
    Peer("cupy-knn", "knn", lbvh_knn, _as_is, "cupy_knn", ("cuda",)),
    Peer("torch where+topk", "ball", _ball_topk, _as_is, distances=_PAIRS),
    Peer("torch-cluster", "ball", _cluster_radius, _read_cluster_radius, "torch_cluster"),
    Peer("torch indexing", "gather", _torch_gather, _as_is),
    Peer("torch cdist+topk", "interpolate", _torch_interpolate, _as_is, distances=_PAIRS),
)  # fmt: skip
