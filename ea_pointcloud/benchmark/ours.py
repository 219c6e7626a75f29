"""Our implementations as contestants, called as users call them."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from ea_pointcloud.benchmark._measure import Contestant
from ea_pointcloud.benchmark.cases import Case, Inputs
from ea_pointcloud.ops import (
    _backend,
    ball_query,
    farthest_point_sample,
    gather_points,
    interpolate_features,
    knn,
)

# Device -> implementation modules in ea_pointcloud.ops, the one that is meant for it first.
IMPLEMENTATIONS = {"cuda": ("_triton", "_reference"), "cpu": ("_cpu", "_reference")}
# The plain implementation forms every distance: beyond so many it takes minutes.
_REFERENCE_DISTANCES = {"cuda": 2e11, "cpu": 5e8}


def our_contestants(
    case: Case, inputs: Inputs, device: torch.device
) -> tuple[list[Contestant], dict[str, str]]:
    """Every implementation that runs on ``device``, and why the others do not."""
    contestants, skipped = [], {}
    for module in IMPLEMENTATIONS[device.type]:
        name = f"ours {module.removeprefix('_')}"
        limit = _REFERENCE_DISTANCES[device.type]
        if module == "_reference" and case.op != "gather" and case.distances > limit:
            skipped[name] = f"{case.distances:.0e} distances, more than {limit:.0e}"
            continue
        try:
            implementation: Any = import_module(f"ea_pointcloud.ops.{module}")
        except ImportError as error:
            skipped[name] = str(error)
            continue
        contestants.append(
            Contestant(
                name,
                {"": _call(case, inputs)},
                lambda chosen=implementation: _backend.use_implementation(chosen),
            )
        )
    return contestants, skipped


def _call(case: Case, inputs: Inputs) -> Callable[[], Tensor]:
    points, query, features = inputs.points, inputs.query, inputs.features
    if case.op == "fps":
        return lambda: farthest_point_sample(points, case.num_queries)
    if case.op == "knn":
        return lambda: knn(query, points, case.k)[1]
    if case.op == "ball":
        return lambda: ball_query(query, points, case.radius, case.k)[0]
    if case.op == "interpolate":
        return lambda: interpolate_features(query, points, features, case.k)
    if case.backward:
        return gather_backward(lambda leaf: gather_points(leaf, inputs.idx), inputs)
    return lambda: gather_points(features, inputs.idx)


def gather_backward(gather: Callable[[Tensor], Tensor], inputs: Inputs) -> Callable[[], Tensor]:
    """The backward pass of ``gather`` alone; the forward pass runs once, at the first call."""
    leaf = inputs.features.detach().requires_grad_()
    made: list[Tensor] = []

    def backward() -> Tensor:
        if not made:
            made.append(gather(leaf))
        return torch.autograd.grad(made[0], leaf, inputs.gradient, retain_graph=True)[0]

    return backward
