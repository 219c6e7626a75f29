"""Every Triton kernel compiles, as it is launched, for GPUs that need not be there.

Compiled code shows what the interpreter cannot: whether a kernel keeps to its registers, and
whether the distances are computed with the roundings that the operators promise. With
EA_POINTCLOUD_COMPILE=all every launch is compiled for every GPU, and attention in its larger sizes.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="the kernels are compiled by Triton, which is not installed")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("TRITON_INTERPRET=1 compiles nothing", allow_module_level=True)

from ea_pointcloud.ops import _triton
from ea_pointcloud.ops._triton import neighbors, sampling
from tests.ahead_of_time import ARCHITECTURES, compile_launch, record_launches

# Contractions round once where two steps are promised; FTZ drops denormals. Conversions between
# integers and floats, for divisions of indices, may carry either word.
FUSED = ("FFMA.*", "DFMA.*")
FLUSHED = (r"F(?:ADD|MUL|FMA|MNMX|SETP|SET|SEL)\S*\.FTZ\S*",)
HOPPER = (90,)
AMPERE = tuple(each for each in ARCHITECTURES if each >= 80)  # attention needs bfloat16
ALL = os.environ.get("EA_POINTCLOUD_COMPILE") == "all"
BY_DEFAULT = ARCHITECTURES if ALL else (75, 90, 120)
SHARED = 101_376  # bytes a program may have from compute capability 8.0 on
SHARED_TURING = 65_536


def floats(*shape: int) -> Tensor:
    return torch.empty(shape, device="meta")


def integers(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.long, device="meta")


@dataclass(frozen=True)
class Case:
    """A call of an operator on meta tensors.

    Attributes:
        call: launches one kernel or several.
        distances: whether the kernels compute distances.
        spills: bytes a thread may keep in memory because it has no registers left for them.
        architectures: every kernel compiles for all, its rarer variants for one.
    """

    call: Callable[[], object]
    distances: bool = True
    spills: int = 0
    architectures: tuple[int, ...] = BY_DEFAULT


def fps(num_points: int, *, lengths: bool = True, spills: int = 0) -> Case:
    return Case(
        lambda: sampling.farthest_point_sample(
            floats(2, num_points, 3), 64, integers(2) if lengths else None, integers(2)
        ),
        spills=spills,
    )


def knn(k: int, num_points: int = 1024, *, architectures: tuple[int, ...] = BY_DEFAULT) -> Case:
    return Case(
        lambda: neighbors.knn(floats(2, 512, 3), floats(2, num_points, 3), k, integers(2)),
        architectures=architectures,
    )


def ball(k: int) -> Case:
    return Case(lambda: neighbors.ball_query(floats(2, 512, 3), floats(2, 1024, 3), 0.1, k, None))


def move(channels: int, dtype: torch.dtype, *, architectures: tuple[int, ...] = BY_DEFAULT) -> Case:
    def call() -> None:
        features = floats(2, 1024, channels).to(dtype)
        idx, weight = integers(2, 512, 3), floats(2, 512, 3)
        _triton.gather(features, idx, None)
        _triton.gather(features, idx, features[:, :512])
        _triton.interpolate(features, idx, weight)
        _triton.scatter(features[:, :512], idx, 1024, weight)
        _triton.scatter(features[:, :512], idx[..., :1], 1024, None)
        winner = integers(2, 512, channels).int()
        _triton.scatter_max(features[:, :512], winner, 1024)

    return Case(call, distances=False, architectures=architectures)


def attend(
    channels: int,
    dtype: torch.dtype,
    *,
    slots: int = 64,
    spills: int = 0,
    architectures: tuple[int, ...] = AMPERE,
) -> Case:
    def call() -> None:
        features = floats(2, 4096, 1, channels).to(dtype)
        memory, total = floats(slots, channels).to(dtype), floats(2, 1, slots)
        mask = floats(2, 4096).bool()
        _triton.attend(features, memory, memory, None, mask, None)
        _triton.attend_backward(features, features, memory, memory, None, mask, total, True, False)

    return Case(call, distances=False, spills=spills, architectures=architectures)


CASES = {
    "fps-100": fps(100),
    "fps-512": fps(512),
    "fps-1024": fps(1024),
    "fps-1024-full": fps(1024, lengths=False),
    "fps-2048": fps(2048),
    "fps-4096": fps(4096),
    "fps-8192": fps(8192),
    "fps-16384": fps(16384, spills=1200),
    "fps-20000": fps(20_000, spills=32),
    "fps-100000": fps(100_000, spills=32),
    "fps-250000": fps(250_000, spills=32),
    "fps-1000000": fps(1_000_000, spills=32),
    "fps-4000000": fps(4_000_000, spills=32),
    "knn-1": knn(1, architectures=HOPPER),
    "knn-2": knn(2, architectures=HOPPER),
    "knn-3": knn(3, architectures=HOPPER),
    "knn-16": knn(16, architectures=HOPPER),
    "knn-32": knn(32),
    "knn-64": knn(64, architectures=HOPPER),
    "knn-16-100000": knn(16, 100_000),
    "knn-64-100000": knn(64, 100_000, architectures=HOPPER),
    "ball-32": ball(32),
    "move-3": move(3, torch.float32, architectures=HOPPER),
    "move-64": move(64, torch.float32),
    "move-64-half": move(64, torch.float16, architectures=HOPPER),
    "move-1000-bfloat16": move(1000, torch.bfloat16, architectures=HOPPER),
    "attend-64-half": attend(64, torch.float16, architectures=HOPPER),
}
if ALL:  # seven seconds each
    CASES |= {
        "attend-64-half": attend(64, torch.float16),
        "attend-64": attend(64, torch.float32, spills=512),
        "attend-256-half": attend(256, torch.float16, spills=128),
        "attend-256-bfloat16": attend(256, torch.bfloat16, spills=128),
        "attend-128-bfloat16": attend(128, torch.bfloat16, architectures=HOPPER),
        "attend-512-bfloat16": attend(512, torch.bfloat16, spills=64, architectures=HOPPER),
        "attend-32-256-slots": attend(
            32, torch.bfloat16, slots=256, spills=64, architectures=HOPPER
        ),
    }


@pytest.mark.parametrize(
    ("case", "architecture"),
    [
        pytest.param(case, architecture, id=f"{name}-{architecture}")
        for name, case in CASES.items()
        for architecture in case.architectures
    ],
)
def test_kernels_compile(case: Case, architecture: int) -> None:
    launches = record_launches(case.call)
    assert launches
    unfused = 0
    for launch in launches:
        compiled = compile_launch(launch, architecture)
        assert compiled.spilled <= case.spills, str(launch)
        assert compiled.shared <= (SHARED if architecture >= 80 else SHARED_TURING), str(launch)
        if case.distances:
            unfused += compiled.count("FMUL", "FADD", r"FMUL2\S*", r"FADD2\S*")
            assert compiled.count(*FUSED) == 0, str(launch)
            assert compiled.count(*FLUSHED) == 0, str(launch)
    assert unfused > 0 or not case.distances
