"""Peers on the CPU that search numpy arrays with a kd-tree, one tree a cloud.

Building the tree is part of the job; bringing the arrays into the type that the library wants is
not.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ea_pointcloud.benchmark.cases import Case, Inputs

Variants = dict[str, Callable[[], Any]]


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


def scipy_knn(case: Case, inputs: Inputs, module: ModuleType) -> Variants:
    """Scipy's compiled kd-tree."""

    def search(points: np.ndarray, query: np.ndarray, threads: int) -> np.ndarray:
        # Built in half the time of the default, and searched as fast.
        tree = module.cKDTree(points, balanced_tree=False, compact_nodes=False)
        return tree.query(query, case.k, workers=threads)[1]

    return _for_each_cloud(case, inputs, np.float64, search)


def nanoflann_knn(case: Case, inputs: Inputs, module: ModuleType) -> Variants:
    """Nanoflann's kd-tree."""

    def search(points: np.ndarray, query: np.ndarray, threads: int) -> np.ndarray:
        tree = module.KDTree(n_neighbors=case.k)
        tree.fit(points)
        return tree.kneighbors(query, n_jobs=threads)[1]

    return _for_each_cloud(case, inputs, np.float32, search)


def small_gicp_knn(case: Case, inputs: Inputs, module: ModuleType) -> Variants:
    """small_gicp's kd-tree, which takes float64 only."""

    def search(points: np.ndarray, query: np.ndarray, threads: int) -> np.ndarray:
        tree = module.KdTree(points, num_threads=threads)
        return tree.batch_knn_search(query, case.k, num_threads=threads)[0]

    return _for_each_cloud(case, inputs, np.float64, search)


def open3d_knn(case: Case, inputs: Inputs, module: ModuleType) -> Variants:
    """Open3D's search, which wraps nanoflann."""

    def search(points: np.ndarray, query: np.ndarray, threads: int) -> np.ndarray:
        del threads  # takes OpenMP's
        tree = module.nns.NearestNeighborSearch(module.Tensor.from_numpy(points))
        tree.knn_index()
        return tree.knn_search(module.Tensor.from_numpy(query), case.k)[0].numpy()

    inside, *_ = _for_each_cloud(case, inputs, np.float32, search).items()
    return dict([inside])


def read_clouds(result: list[np.ndarray], case: Case) -> Tensor:
    """(B, S, K) indices from one array a cloud."""
    rows = np.stack(result).astype(np.int64)
    return torch.from_numpy(rows).view(case.batch, case.num_queries, case.k)
