"""Comparison of a written file with its network on random clouds."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ea_pointcloud.export.network import Deployed
from ea_pointcloud.ops.frames import normalize_unit_sphere

TOLERANCE = 1e-4  # of a probability; of logits relative to the largest, or 1

Run = Callable[[list[Tensor]], Mapping[str, NDArray]]


def example_inputs(
    network: Deployed, batch: int, num_points: int, generator: torch.Generator
) -> list[Tensor]:
    """Random ellipsoids in the form that the network takes, in its order of inputs."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    config = network.model.config
    axes = 0.2 + torch.rand((batch, 1, 3), generator=generator)
    surface = torch.nn.functional.normalize(normal(batch, num_points, 3), dim=-1) * axes
    xyz = normalize_unit_sphere(surface + 0.01 * normal(batch, num_points, 3))
    given = {"xyz": 5.0 * xyz + 3.0 if network.normalize else xyz}
    if "features" in network.input_names:
        given["features"] = normal(batch, num_points, config.feature_channels)
        mean, std = network.model.feature_mean, network.model.feature_std
        if mean is not None and std is not None:  # in the units of the files
            given["features"] = given["features"] * std + mean
    if "category" in network.input_names:
        given["category"] = torch.randint(config.num_categories, (batch,), generator=generator)
    return [given[name] for name in network.input_names]


def largest_difference(network: Deployed, run: Run, min_points: int) -> tuple[float, int]:
    """The largest difference of any output, see ``TOLERANCE``, and the number of clouds compared.

    Clouds of few (from ``min_points``) and many points, alone and in batches; ``run`` evaluates the
    file on inputs in order.
    """
    usual = network.model.data_spec.num_points
    sizes = [(1, usual), (3, usual)]
    if network.dynamic_points:
        few = max(min_points, 2)
        sizes = [(2, few), (1, max(few, usual // 2)), (3, usual), (1, 2 * usual + 1)]
    generator, largest = torch.Generator().manual_seed(0), 0.0
    for batch, num_points in sizes:
        inputs = example_inputs(network, batch, num_points, generator)
        with torch.inference_mode():
            expected = network(*inputs)
        found = run(inputs)
        for name, value in expected.items():
            scale = max(1.0, float(value.abs().max()))
            difference = float(np.abs(found[name] - value.numpy()).max()) / scale
            largest = max(largest, difference) if difference == difference else float("nan")
    return largest, sum(batch for batch, _ in sizes)
