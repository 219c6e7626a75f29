"""Pooling by an external memory: one vector per cloud from what each slot attends to."""

import torch
from torch import Tensor, nn

from ea_pointcloud._checks import check_count, check_features, check_mask
from ea_pointcloud.ops import slot_state


class MemoryPooling(nn.Module):
    """Pool a cloud by the slots of a learned key memory, each of which gathers what it attends to.

    The first half of dynamic external attention: with logits ``L = F K^T`` and their softmax ``P``
    over the points, slot m holds ``sum_i P[i, m] F[i]``, which one layer shared by the slots
    narrows. Where a maximum keeps one point a channel, a slot keeps a whole feature of one region.
    Cost is O(N * M * C).

    Args:
        channels: C.
        slots: M.
        slot_channels: D, width of what is kept of each slot.

    Shape:
        features (B, N, C), mask (B, N) bool or None, True = real point -> (B, M * D).

    Reference:
        Guo et al. 2021, arXiv 2105.02358 (external memory); Lee et al., Set transformer, ICML 2019
        (pooling by learned queries); Arandjelovic et al., NetVLAD, CVPR 2016.
    """

    def __init__(self, channels: int, *, slots: int = 32, slot_channels: int = 16) -> None:
        super().__init__()
        check_count("slots", slots)
        check_count("slot_channels", slot_channels)
        self.key_memory = nn.Parameter(torch.empty(slots, channels))
        self.slot = nn.Linear(channels, slot_channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise.

        ===================== ==================================================
        tensor                distribution
        ===================== ==================================================
        key memory (M, C)     normal, variance 2 / M, as of external attention
        slot weight, bias     uniform, as :class:`torch.nn.Linear` draws them
        ===================== ==================================================
        """
        nn.init.normal_(self.key_memory, std=(2.0 / len(self.key_memory)) ** 0.5)
        self.slot.reset_parameters()

    def forward(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """Pool."""
        check_features("features", features)
        if mask is not None:  # whatever padding holds, -inf included, must not reach a gradient
            check_mask(mask, features)
            features = features.masked_fill(~mask[..., None], 0)
        content = slot_state(features, self.key_memory, mask=mask, dynamic=True).content
        assert content is not None
        return self.slot(content).flatten(1)
