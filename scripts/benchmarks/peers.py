"""Peers of the operators: plain torch, and other packages where they are installed.

Every peer runs with its fastest settings for the job and as many threads as torch; where several
settings may be the fastest, all are variants. Conversions that a user of torch tensors would not
need (to a padded index) are made off the clock.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scripts.benchmarks.cases import Case, Inputs
from scripts.benchmarks.peers_cupy import classic_fps
from scripts.benchmarks.plain_network import farthest_points
from scripts.benchmarks.timing import Contestant, describe_error

Variants = dict[str, Callable[[], Any]]


@dataclass(frozen=True)
class Peer:
    """A package that does what one operator of ours does."""

    name: str
    op: str
    variants: Callable[[Case, Inputs, ModuleType], Variants]  # a call for each setting
    read: Callable[[Any, Case], Tensor | None]  # the result as indices or values like ours
    module: str = "torch"  # that it needs
    devices: tuple[str, ...] = ("cpu", "cuda")
    distances: tuple[tuple[str, float], ...] = ()  # device -> the most it takes, if it forms all


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
        # A foreign library may raise anything on import; the others continue.
        except Exception as error:
            skipped[peer.name] = describe_error(error)
        else:
            contestants.append((Contestant(peer.name, variants), peer))
    return contestants, skipped


def gather_backward(gather: Callable[[Tensor], Tensor], inputs: Inputs) -> Callable[[], Tensor]:
    """The backward pass of ``gather`` alone; the forward pass runs once, at the first call."""
    leaf = inputs.features.detach().requires_grad_()
    made: list[Tensor] = []

    def backward() -> Tensor:
        if not made:
            made.append(gather(leaf))
        return torch.autograd.grad(made[0], leaf, inputs.gradient, retain_graph=True)[0]

    return backward


def _as_is(result: Tensor, case: Case) -> Tensor:
    del case
    return result


# --- plain torch, as tutorials write it


def _fps_loop(case: Case, inputs: Inputs, module: ModuleType) -> Variants:
    del module
    first = torch.zeros(case.batch, dtype=torch.long, device=inputs.points.device)
    return {"": lambda: farthest_points(inputs.points, case.num_queries, first)}


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


# --- kd-trees of numpy arrays: building them is timed, converting the arrays is not


def _for_each_cloud(
    case: Case, inputs: Inputs, dtype: type, search: Callable[[np.ndarray, np.ndarray, int], Any]
) -> Variants:
    """Threads within each search, or clouds spread over threads with one thread each."""
    threads = torch.get_num_threads()
    clouds = list(
        zip(inputs.points.numpy().astype(dtype), inputs.query.numpy().astype(dtype), strict=True)
    )
    variants: Variants = {
        "threads in a cloud": lambda: [search(points, query, threads) for points, query in clouds]
    }
    if case.batch > 1:
        pool = ThreadPoolExecutor(threads)
        variants["clouds over threads"] = lambda: list(
            pool.map(lambda cloud: search(cloud[0], cloud[1], 1), clouds)
        )
    return variants


def _scipy_knn(case: Case, inputs: Inputs, module: ModuleType) -> Variants:
    """Scipy's compiled kd-tree."""

    def search(points: np.ndarray, query: np.ndarray, threads: int) -> np.ndarray:
        # Built in half the time of the default, and searched as fast.
        tree = module.cKDTree(points, balanced_tree=False, compact_nodes=False)
        return tree.query(query, case.k, workers=threads)[1]

    return _for_each_cloud(case, inputs, np.float64, search)


def _small_gicp_knn(case: Case, inputs: Inputs, module: ModuleType) -> Variants:
    """small_gicp's kd-tree, which takes float64 only."""

    def search(points: np.ndarray, query: np.ndarray, threads: int) -> np.ndarray:
        tree = module.KdTree(points, num_threads=threads)
        return tree.batch_knn_search(query, case.k, num_threads=threads)[0]

    return _for_each_cloud(case, inputs, np.float64, search)


def _read_clouds(result: list[np.ndarray], case: Case) -> Tensor:
    """(B, S, K) indices from one array a cloud."""
    rows = np.stack(result).astype(np.int64)
    return torch.from_numpy(rows).view(case.batch, case.num_queries, case.k)


_PAIRS = (("cpu", 2e9), ("cuda", 5e9))  # a matrix of float32 distances: 8 and 20 GB
PEERS = (
    Peer("torch loop", "fps", _fps_loop, _as_is, distances=(("cpu", 5e8), ("cuda", 2e11))),
    Peer("torch-quickfps", "fps", _quickfps, _as_is, "torch_quickfps"),
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
    Peer("scipy cKDTree", "knn", _scipy_knn, _read_clouds, "scipy.spatial", ("cpu",)),
    Peer("small_gicp", "knn", _small_gicp_knn, _read_clouds, "small_gicp", ("cpu",)),
    Peer("torch where+topk", "ball", _ball_topk, _as_is, distances=_PAIRS),
    Peer("torch-cluster", "ball", _cluster_radius, _read_cluster_radius, "torch_cluster"),
    Peer("torch indexing", "gather", _torch_gather, _as_is),
    Peer("torch cdist+topk", "interpolate", _torch_interpolate, _as_is, distances=_PAIRS),
)  # fmt: skip
