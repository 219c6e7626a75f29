"""What a network costs, counted and not timed."""

import torch

from ea_pointcloud._device import generator_for
from ea_pointcloud.models.base_segmenter import Segmenter
from ea_pointcloud.models.pretrained import PretrainedModel


def count_macs(model: PretrainedModel, num_points: int) -> int:
    """Multiply-accumulates of the matrix products for one cloud of ``num_points`` points."""
    from torch.utils.flop_counter import FlopCounterMode  # imports triton, half a second

    device = next(model.parameters()).device
    generator = generator_for(device, 0)
    cloud = torch.rand(1, num_points, 3, generator=generator, device=device)
    inputs = {}
    if model.config.feature_channels:
        shape = (1, num_points, model.config.feature_channels)
        inputs["features"] = torch.rand(shape, generator=generator, device=device)
    if isinstance(model, Segmenter) and model.config.num_categories:
        inputs["category"] = torch.zeros(1, dtype=torch.long, device=device)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model.eval()(cloud, **inputs)
    return counter.get_total_flops() // 2
