"""The threads that run kernels: those of numba or OpenMP do not survive a fork."""

import itertools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch.utils.data import get_worker_info

# Elementary steps below which handing work to a thread takes longer than doing it.
_SMALL = 200_000
# More parts than threads, so that one slow thread does not delay all.
_PARTS = 4

_pools: dict[int, ThreadPoolExecutor] = {}


def num_threads() -> int:
    """As many as PyTorch uses, and one in a worker of a DataLoader, of which there are several."""
    return 1 if get_worker_info() is not None else torch.get_num_threads()


def run(function: Callable[..., Any], jobs: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Results of ``function(*job)`` for all jobs, over the threads where there are several."""
    threads = min(num_threads(), len(jobs))
    if threads <= 1:
        return [function(*job) for job in jobs]
    if num_threads() not in _pools:  # two may come here at once: an unused pool has no threads
        _pools.setdefault(num_threads(), ThreadPoolExecutor(num_threads()))
    return list(_pools[num_threads()].map(lambda job: function(*job), jobs))


def parts(total: int, steps: int) -> list[tuple[int, int]]:
    """Cut ``range(total)``, each item of which costs ``steps``, into runs worth a thread each."""
    if total == 0:
        return []
    most = _PARTS * num_threads() if num_threads() > 1 else 1
    count = max(1, min(total, most, total * steps // _SMALL))
    edges = [total * part // count for part in range(count + 1)]
    return list(itertools.pairwise(edges))


# A forked child has none of the threads.
if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_pools.clear)
