"""Which implementation of the operators runs; callers never branch on the device.

An implementation is a module with the functions of :class:`Implementation`. The plain PyTorch one
runs everywhere and is the oracle that any other must equal, integer for integer.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from torch import Tensor

from ea_pointcloud.ops import _reference


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


_override: Implementation | None = None


def implementation(xyz: Tensor) -> Implementation:
    """The implementation for tensors on the device of ``xyz``."""
    del xyz  # one implementation serves every device so far
    return _override if _override is not None else _reference


def describe(device_type: str) -> str:
    """One line for ``ea-pointcloud info``: what runs on ``device_type``, and why."""
    if _override is not None:
        return "overridden by use_implementation()"
    return f"reference: plain PyTorch, runs on every device ({device_type} included)"


@contextmanager
def use_implementation(chosen: Implementation) -> Iterator[None]:
    """Run every operator inside the block on ``chosen``, whatever the device (for tests)."""
    global _override
    before, _override = _override, chosen
    try:
        yield
    finally:
        _override = before
