"""Every tensor argument of every Triton kernel permuted, unaligned, and empty; the self-check.

Runs on a GPU, or without one where TRITON_INTERPRET=1.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="Triton is not installed")

from ea_pointcloud.ops import _check_cases, _reference, _self_check, _triton
from tests.oracles import RUNS, running

# How many cases the interpreter gets: large clouds take minutes, and it multiplies bfloat16 wrong.
FIRST = {"farthest_point_sample": 4, "knn": 4, "ball_query": 4, "attend": 3}


@pytest.fixture(params=[run for run in RUNS if str(run.id).startswith("triton")])
def device(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    with running(request.param) as device, np.errstate(divide="ignore"):
        yield torch.device(device)


def cases(name: str, device: torch.device) -> list[_check_cases.Case]:
    found = list(_check_cases.CASES[name]())
    return found if device.type == "cuda" else found[: FIRST.get(name)]


@pytest.mark.parametrize("name", _self_check.OPERATORS)
def test_the_self_check_passes(
    device: torch.device, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = cases(name, device)
    monkeypatch.setitem(_check_cases.CASES, name, lambda: iter(few))
    assert _self_check.check(name, _triton, device).why == ""


@pytest.mark.parametrize("layout", [_check_cases.permuted, _check_cases.unaligned])
@pytest.mark.parametrize("name", _self_check.OPERATORS)
def test_every_argument_in_any_layout(device: torch.device, name: str, layout: Any) -> None:
    case = cases(name, device)[-1 if name.startswith("attend") else 0]
    expected = getattr(_reference, name)(*case.arguments)
    for number, argument in enumerate(case.arguments):
        if not isinstance(argument, Tensor):
            continue
        changed = list(case.arguments)
        changed[number] = layout(argument)
        moved = (_check_cases.move(each, device) for each in changed)
        found = getattr(_triton, name)(*moved)
        assert _self_check._equal(found, expected, case.tolerance), f"argument {number}"


@pytest.mark.parametrize("num_points", [100, 16_385, 30_001])
def test_a_batch_of_no_clouds_is_no_error(device: torch.device, num_points: int) -> None:
    xyz, none = torch.zeros(0, num_points, 3, device=device), torch.zeros(0, device=device).long()
    for lengths in (None, none):
        picks = _triton.farthest_point_sample(xyz, 7, lengths, none)
        sq_dist, idx = _triton.knn(xyz[:, :5], xyz, 3, lengths)
        hits, count = _triton.ball_query(xyz[:, :5], xyz, 0.1, 3, lengths)
        assert picks.shape == (0, 7)
        assert sq_dist.shape == idx.shape == hits.shape == (0, 5, 3)
        assert count.shape == (0, 5)
    features = torch.zeros(0, num_points, 4, device=device)
    assert _triton.gather(features, idx, None).shape == (0, 5, 3, 4)
    assert _triton.scatter(features[:, :5], idx, num_points, None).shape == features.shape
    winner = torch.zeros(0, 5, 4, dtype=torch.int32, device=device)
    assert _triton.scatter_max(features[:, :5], winner, num_points).shape == features.shape


def test_the_gradient_of_the_maximum_repeats_and_rounds_once(device: torch.device) -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(2, 300, 5, generator=generator).bfloat16()
    winner = torch.randint(4, (2, 300, 5), generator=generator).int()
    exact = torch.zeros(2, 9, 5, dtype=torch.float64)
    exact.scatter_add_(1, winner.long(), values.double())
    for implementation in (_triton.scatter_max, _reference.scatter_max):
        runs = [implementation(values.to(device), winner.to(device), 9).cpu() for _ in range(3)]
        assert all(torch.equal(runs[0], other) for other in runs[1:])
        torch.testing.assert_close(runs[0].double(), exact, rtol=2**-7, atol=1e-4)
