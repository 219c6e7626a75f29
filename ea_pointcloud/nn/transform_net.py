"""T-Net: a small PointNet that predicts a linear transform of a cloud's points."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ea_pointcloud.nn.norm import LinearNorm, weight_of


class TransformNet(nn.Module):
    """Predict a square matrix for each cloud; at the start of training it is the identity.

    Args:
        channels: C of the points, and of both sides of the matrix.
        point_channels: widths of the layers over each point; their maximum is taken.
        head_channels: widths of the layers after it.

    Shape:
        features (B, N, C), mask (B, N) bool, True = real point -> (B, C, C) in float32 or wider,
        to be multiplied from the right.

    Reference:
        Qi et al., PointNet, CVPR 2017, section 4.2 (joint alignment network).
    """

    def __init__(
        self,
        channels: int,
        *,
        point_channels: tuple[int, ...] = (64, 128, 1024),
        head_channels: tuple[int, ...] = (512, 256),
    ) -> None:
        super().__init__()
        if not point_channels:
            raise ValueError("point_channels must name at least one width, got none")
        widths = (channels, *point_channels)
        # ReLU waits until after the maximum, with which it commutes.
        last = LinearNorm(widths[-2], widths[-1], activation=nn.Identity())
        self.points = nn.ModuleList(LinearNorm(one, two) for one, two in pairwise(widths[:-1]))
        self.points.append(last)
        widths = (point_channels[-1], *head_channels)
        self.head = nn.Sequential(*[LinearNorm(one, two) for one, two in pairwise(widths)])
        self.out = nn.Linear(widths[-1], channels * channels)
        with torch.no_grad():
            self.out.weight.zero_()
            self.out.bias.copy_(torch.eye(channels).flatten())

    def forward(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the matrices."""
        if mask is not None:
            features = features.masked_fill(~mask[..., None], 0)  # also NaN
        channels = features.shape[-1]
        for layer in self.points:
            features = layer(features, mask)
        if mask is not None:
            features = features.masked_fill(~mask[..., None], -torch.inf)
        hidden = self.head(F.relu(features.max(1).values))
        # Near the identity half precision would leave three digits of the difference.
        with torch.autocast(hidden.device.type, enabled=False):
            return self.out(hidden.to(weight_of(self.out).dtype)).view(-1, channels, channels)
