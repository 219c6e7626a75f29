"""What external attention is compared with in the same blocks: self-attention, and none."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ea_pointcloud._checks import check_features, check_mask
from ea_pointcloud.nn.norm import PointBatchNorm, initialise_linear


class PointwiseResidual(nn.Module):
    """External attention without exchange between the points: the control.

    The two projections, the normalisation and the residual of
    :class:`~ea_pointcloud.nn.ExternalAttention` stay, and a ReLU takes the place of the memories:
    without something non-linear there, the two projections would be one. An identity would remove
    depth and most weights together with the attention, and the comparison could not separate them.

    Args:
        channels: C.

    Shape:
        features: (B, N, C) -> (B, N, C); mask: (B, N) bool, True = real point.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.input = nn.Linear(channels, channels)
        self.output = nn.Linear(channels, channels, bias=False)
        self.norm = PointBatchNorm(channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise as external attention does.

        ===================== ==================================================
        tensor                distribution
        ===================== ==================================================
        input, output weight  normal, variance 2 / C
        input bias            0
        norm                  weight 1, bias 0
        ===================== ==================================================
        """
        initialise_linear(self.input)
        initialise_linear(self.output)
        self.norm.reset_parameters()

    def forward(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """Change each point by itself."""
        check_features("features", features)
        changed = self.output(F.relu(self.input(features)))
        return F.relu(features + self.norm(changed, mask))


class SelfAttention(nn.Module):
    """Self-attention of the PCT backbone, plain or offset, residual included; O(N^2).

    Queries and keys share one projection to C/4, the affinities get a softmax over the keys and
    then an L1 normalisation over the queries, as published. ``offset=True`` transforms the
    difference between input and attended features (offset attention), otherwise the attended
    features themselves.

    Args:
        channels: C, a multiple of 4.
        offset: offset attention instead of plain self-attention.

    Shape:
        features: (B, N, C) -> (B, N, C); mask: (B, N) bool, True = real point; rows of padded
        points come out meaningless and are to be ignored.

    Reference:
        Guo et al., PCT: Point cloud transformer, 2021, arXiv 2012.09688, sections 3.2 and 3.3.
    """

    def __init__(self, channels: int, *, offset: bool = False) -> None:
        super().__init__()
        if channels % 4:
            raise ValueError(f"channels must be a multiple of 4, got {channels}")
        self.offset = offset
        self.query_key = nn.Linear(channels, channels // 4, bias=False)
        self.value = nn.Linear(channels, channels)
        self.output = nn.Linear(channels, channels)
        self.norm = PointBatchNorm(channels)

    def forward(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend."""
        check_features("features", features)
        check_mask(mask, features)
        query_key = self.query_key(features)
        energy = query_key @ query_key.transpose(1, 2)  # (B, N queries, N keys)
        energy = energy if energy.dtype == torch.float64 else energy.float()
        if mask is not None:
            energy = energy.masked_fill(~mask[:, None, :], -torch.inf)
        affinity = energy.softmax(-1)
        if mask is not None:  # a padded query must not enter the sum over the queries
            affinity = affinity.masked_fill(~mask[:, :, None], 0.0)
        affinity = affinity / (affinity.sum(1, keepdim=True) + 1e-9)
        value = self.value(features)
        if mask is not None:  # whatever padding holds, NaN included, must not reach a real point
            value = value.masked_fill(~mask[:, :, None], 0.0)
        attended = affinity.transpose(1, 2).to(value.dtype) @ value
        update = features - attended if self.offset else attended
        return features + F.relu(self.norm(self.output(update), mask))
