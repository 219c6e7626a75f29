"""Cases that the operators are timed on: sizes that networks use, and large single clouds."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ea_pointcloud._checks import check_choice
from ea_pointcloud.ops import _reference
from scripts.benchmarks.report import SEED

OPERATORS = ("fps", "knn", "ball", "gather", "interpolate")
_AXES = (1.0, 0.6, 0.3)
_NOISE = 0.005


@dataclass(frozen=True)
class Case:
    """Sizes of one operator."""

    op: str  # one of OPERATORS
    batch: int  # clouds B
    num_points: int  # points N of each that are sampled, searched, or carry features
    num_queries: int  # samples or queries S
    k: int = 0  # neighbours K, 0 for sampling
    radius: float = 0.0  # of the ball query
    channels: int = 0  # C of the features, for gathering and interpolation
    dtype: torch.dtype = torch.float32  # of the features
    backward: bool = False  # time the backward pass alone

    def __post_init__(self) -> None:
        check_choice("op", self.op, OPERATORS)

    @property
    def name(self) -> str:
        """What tables, goals and ``--only`` call it."""
        if self.op == "fps":
            return f"fps {self.batch}x{self.num_points}->{self.num_queries}"
        shape = f"{self.op} {self.batch}x({self.num_queries} of {self.num_points}) k={self.k}"
        if self.op == "ball":
            return f"{shape} r={self.radius:g}"
        if self.channels:
            shape += f" C={self.channels} {str(self.dtype).removeprefix('torch.')}"
        return f"{shape} backward" if self.backward else shape

    @property
    def distances(self) -> int:
        """Distances that a search of every point for every query computes."""
        return self.batch * self.num_queries * self.num_points

    def traffic(self) -> int:
        """Bytes that must be read and written whatever the algorithm."""
        rows = self.batch * self.num_queries
        coordinates = 12 * self.batch * (self.num_points + self.num_queries)
        item = self.dtype.itemsize
        features = self.batch * self.num_points * self.channels * item
        return {
            "fps": 12 * self.batch * self.num_points + 8 * rows,
            "knn": coordinates + 12 * rows * self.k,
            "ball": coordinates + 8 * rows * (self.k + 1),
            "gather": features + 8 * rows * self.k + rows * self.k * self.channels * item,
            "interpolate": coordinates + features + rows * self.channels * item,
        }[self.op]


@dataclass(frozen=True)
class Inputs:
    """Tensors of a case, on its device."""

    points: Tensor  # (B, N, 3)
    query: Tensor  # (B, S, 3), of the same clouds: the first S points, or all of a larger cloud
    features: Tensor  # (B, N, C)
    idx: Tensor  # (B, S, K) nearest neighbours, for gathering
    gradient: Tensor  # (B, S, K, C) arriving from above, for the backward pass


def operator_cases(device: torch.device) -> list[Case]:
    """The cases for a device; features in half precision on a GPU only."""
    cases = [
        Case("fps", 32, 1024, 512),
        Case("fps", 32, 512, 256),
        Case("fps", 16, 2048, 512),
        Case("fps", 1, 1024, 512),
        Case("fps", 8, 8192, 2048),
        Case("fps", 1, 100_000, 10_000),
        Case("fps", 1, 1_000_000, 100_000),
        Case("knn", 32, 1024, 512, 32),
        Case("knn", 32, 512, 256, 32),
        Case("knn", 32, 1024, 1024, 20),
        Case("knn", 32, 512, 1024, 3),
        Case("knn", 16, 2048, 512, 32),
        Case("knn", 1, 100_000, 100_000, 16),
        Case("knn", 1, 1_000_000, 1_000_000, 16),
        Case("ball", 32, 1024, 512, 32, radius=0.1),
        Case("ball", 32, 1024, 512, 32, radius=0.2),
        Case("ball", 16, 2048, 512, 32, radius=0.2),
    ]
    dtypes = (torch.float32, torch.bfloat16) if device.type == "cuda" else (torch.float32,)
    for dtype in dtypes:
        for backward in (False, True):
            cases.append(
                Case("gather", 32, 1024, 512, 32, channels=64, dtype=dtype, backward=backward)
            )
    cases.append(Case("interpolate", 32, 512, 1024, 3, channels=256))
    cases.append(Case("interpolate", 16, 512, 2048, 3, channels=128))
    return cases


def select(cases: Sequence[Case], only: Sequence[str]) -> list[Case]:
    """The cases whose name holds one of ``only``; all without any.

    Raises:
        ValueError: if one of ``only`` names no case.
    """
    for word in only:
        if not any(word in case.name for case in cases):
            names = ", ".join(repr(case.name) for case in cases)
            raise ValueError(f"no case is named like {word!r}; there are {names}")
    return [case for case in cases if not only or any(word in case.name for word in only)]


def surface_clouds(batch: int, num_points: int, device: torch.device) -> Tensor:
    """(B, N, 3) points near the surface of an ellipsoid, drawn on the CPU from ``SEED``."""
    generator = torch.Generator().manual_seed(SEED)
    shape = (batch, num_points, 3)
    surface = F.normalize(torch.randn(shape, generator=generator), dim=-1) * torch.tensor(_AXES)
    return (surface + _NOISE * torch.randn(shape, generator=generator)).to(device)


def make_inputs(case: Case, device: torch.device) -> Inputs:
    """Draw the tensors of a case."""
    cloud = surface_clouds(case.batch, max(case.num_points, case.num_queries), device)
    points = cloud[:, : case.num_points].contiguous()
    query = cloud[:, : case.num_queries].contiguous()
    generator = torch.Generator().manual_seed(SEED)
    empty = torch.empty(0, device=device)
    features = idx = gradient = empty
    if case.channels:
        shape = (case.batch, case.num_points, case.channels)
        features = torch.randn(shape, generator=generator).to(device, case.dtype)
    if case.op == "gather":
        _, idx = _reference.knn(query, points, case.k, None)
        gradient = torch.randn((*idx.shape, case.channels), generator=generator)
        gradient = gradient.to(device, case.dtype)
    return Inputs(points, query, features, idx, gradient)
