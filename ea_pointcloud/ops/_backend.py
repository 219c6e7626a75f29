"""Which implementation of the operators runs; callers never branch on the device.

An implementation is a module with the functions of :class:`Implementation`. The plain PyTorch one
runs everywhere and is the oracle that any other must equal, integer for integer. The first call on
a kind of device decides for the process: Triton on CUDA, numba on the CPU, plain PyTorch elsewhere,
while exporting, and where the faster one cannot be imported.
"""

import importlib
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from ea_pointcloud._checks import check_choice
from ea_pointcloud.ops import _reference

# For a process that should do without the fast implementations: EA_POINTCLOUD_OPS=reference.
VARIABLE = "EA_POINTCLOUD_OPS"


class Implementation(Protocol):
    """What an implementation provides; arguments come checked, coordinates as float32."""

    def farthest_point_sample(
        self, xyz: Tensor, num_samples: int, lengths: Tensor | None, start: Tensor
    ) -> Tensor:
        """See :func:`ea_pointcloud.ops.farthest_point_sample`; ``start`` is (B,)."""
        ...

    def knn(
        self, query: Tensor, points: Tensor, k: int, lengths: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """See :func:`ea_pointcloud.ops.knn`."""
        ...

    def ball_query(
        self, query: Tensor, points: Tensor, radius: float, k: int, lengths: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """See :func:`ea_pointcloud.ops.ball_query`."""
        ...

    def gather(self, features: Tensor, idx: Tensor, offset: Tensor | None) -> Tensor:
        """(B, N, C), (B, S, K) -> (B, S, K, C), ``features[b, idx[b, s, k]] + offset[b, s]``."""
        ...

    def interpolate(self, features: Tensor, idx: Tensor, weight: Tensor) -> Tensor:
        """(B, N, C), (B, S, K) -> (B, S, C), ``sum_k weight[b, s, k] * features[b, idx[b, s, k]]``.

        Summed in float32 or wider and rounded once.
        """
        ...

    def scatter(
        self, values: Tensor, idx: Tensor, num_points: int, weight: Tensor | None
    ) -> Tensor:
        """(B, S, C), (B, S, K) -> (B, N, C), the transpose of :meth:`interpolate`.

        ``out[b, n]`` is the sum of ``weight[b, s, k] * values[b, s]`` over ``idx[b, s, k] == n``,
        in float32 or wider, rounded once, in an order that does not change from run to run.
        """
        ...

    def max_pool(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(B, S, K, C) -> greatest values (B, S, C), and which neighbour has them, int32.

        The first one of equal values, the last NaN or the first: the value is then NaN.
        """
        ...

    def max_unpool(self, values: Tensor, winner: Tensor, num_neighbors: int) -> Tensor:
        """(B, S, C) -> (B, S, K, C), each value at the neighbour ``winner`` says, 0 elsewhere."""
        ...

    def gather_max(self, features: Tensor, idx: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N, C), (B, S, K) -> :meth:`max_pool` of what ``idx`` gathers: values and the points.

        The second (B, S, C), int32, is the index of the point that has each value.
        """
        ...

    def scatter_max(self, values: Tensor, winner: Tensor, num_points: int) -> Tensor:
        """(B, S, C) -> (B, N, C), ``out[b, n, c]`` the sum of values whose ``winner`` is n.

        In float32 or wider, rounded once, in an order that does not change from run to run.
        """
        ...


class _Fast(NamedTuple):
    module: str
    name: str
    remedy: str
    attends: bool = False


_FAST = {
    "cpu": _Fast("ea_pointcloud.ops._cpu", "numba", "pip install numba"),
    "cuda": _Fast(
        "ea_pointcloud.ops._triton",
        "Triton",
        "it comes with PyTorch on Linux, and links its driver with the system's C compiler",
        attends=True,
    ),
}


class _Choice(NamedTuple):
    implementation: Implementation
    reason: str


_choices: dict[str, _Choice] = {}
_override: Implementation | None = None
_kept = False


def operators() -> Any:
    """Where to call the operators: ``torch.ops.ea_pointcloud``, or plain PyTorch for an export.

    An exported program must run where this package is not installed, unless :func:`keep_operators`
    says that they will be translated.
    """
    if torch.compiler.is_exporting() and not _kept:
        return _reference
    return torch.ops.ea_pointcloud


def implementation(device_type: str) -> Implementation:
    """The implementation for tensors on a ``device_type`` such as ``"cpu"``."""
    if _override is not None:
        return _override
    return _choice(device_type).implementation


@torch.compiler.assume_constant_result
def has_attention(device_type: str) -> bool:
    """Whether the implementation has ``attend`` and ``attend_backward``, which not all need have.

    Without them external attention is plain PyTorch, and autograd derives it.
    """
    if _override is None:
        fast = _FAST.get(device_type)
        if fast is None or not fast.attends:  # nothing is loaded to find that out
            return False
        if device_type == "cuda" and torch.cuda.get_device_capability() < (8, 0):
            return False  # no bfloat16 and no TF32, and half the shared memory
    return hasattr(implementation(device_type), "attend")


def describe(device_type: str) -> str:
    """One line for ``ea-pointcloud info``: what runs on ``device_type``, and why."""
    if _override is not None:
        return "overridden by use_implementation()"
    return _choice(device_type).reason


def warm_up(device_type: str) -> None:
    """Compile ahead what the implementation of ``device_type`` would compile at its first calls."""
    ahead = getattr(implementation(device_type), "warm_up", None)
    if ahead is not None:
        ahead()


@contextmanager
def use_implementation(chosen: Implementation) -> Iterator[None]:
    """Run every operator inside the block on ``chosen``, whatever the device (for tests)."""
    global _override
    before, _override = _override, chosen
    try:
        yield
    finally:
        _override = before


@contextmanager
def keep_operators() -> Iterator[None]:
    """Inside the block an export keeps each operator as one node, for a format with its own."""
    global _kept
    before, _kept = _kept, True
    try:
        yield
    finally:
        _kept = before


def _choice(device_type: str) -> _Choice:
    if device_type not in _choices:
        _choices[device_type] = _choose(device_type)
    return _choices[device_type]


def _choose(device_type: str) -> _Choice:
    wanted = os.environ.get(VARIABLE, "auto")
    check_choice(VARIABLE, wanted, ("auto", "reference"))
    if wanted == "reference":
        return _Choice(_reference, f"plain PyTorch, as {VARIABLE} says")
    fast = _FAST.get(device_type)
    if fast is None:
        return _Choice(_reference, f"plain PyTorch: nothing faster is written for {device_type}")
    obstacle = _unsuitable_gpu() if device_type == "cuda" else ""
    if not obstacle:
        try:
            module: Any = importlib.import_module(fast.module)
            if device_type == "cuda":
                _launch(module)
            return _Choice(module, f"{fast.name} kernels")
        except Exception as error:  # a broken installation raises anything; the fallback works
            obstacle = f"{fast.name} does not run ({error}); {fast.remedy}"
    warnings.warn(
        f"the operators run in plain PyTorch on {device_type}, several times slower: {obstacle}",
        stacklevel=2,
    )
    return _Choice(_reference, f"plain PyTorch: {obstacle}")


def _launch(module: Implementation) -> None:
    """Run the smallest kernel there is: Triton finds out what it lacks at its first launch."""
    features = torch.zeros(1, 1, 1, device="cuda")
    module.gather(features, torch.zeros(1, 1, 1, dtype=torch.long, device="cuda"), None)


def _unsuitable_gpu() -> str:
    """Why the Triton kernels cannot run on this GPU, or nothing."""
    if torch.version.hip is not None:
        return "the kernels are tested on NVIDIA GPUs only"
    capability = torch.cuda.get_device_capability()
    if capability < (7, 5):
        return f"Triton needs compute capability 7.5, this GPU has {capability[0]}.{capability[1]}"
    return ""
