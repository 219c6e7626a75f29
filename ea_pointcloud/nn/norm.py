"""Batch normalisation of point features, channels last, blind to padded points."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ea_pointcloud._checks import check_mask


class PointBatchNorm(nn.BatchNorm1d):
    """Batch normalisation over every axis but the last; padded points do not enter the statistics.

    Same parameters, buffers and formula as :class:`torch.nn.BatchNorm1d`. In training one single
    row (a batch of one cloud after pooling) has no variance; it is normalised with the running
    statistics instead of failing.

    Shape:
        features: (B, N, C), (B, S, K, C) or (B, C); mask: (B, N) bool for the first form only.
    """

    def forward(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """Normalise; the output has the shape of ``features``."""
        rows = features.flatten(0, -2)
        if mask is not None:
            check_mask(mask, features)
        count = len(rows) if mask is None or not self.training else int(mask.sum())
        if not self.training or count == 1:
            out = F.batch_norm(
                rows, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        elif mask is None:
            out = super().forward(rows)
        else:
            # Selecting the real rows makes a padded batch exactly its cropped clouds.
            real = mask.flatten()
            out = rows.new_zeros(rows.shape)
            out[real] = super().forward(rows[real]).to(rows.dtype)
        return out.view(features.shape)


class LinearNorm(nn.Sequential):
    """Linear layer without bias, batch normalisation, activation: the field's "1x1 conv, BN, act".

    Args:
        in_channels: channels read.
        out_channels: channels written.
        activation: module applied last; ReLU without it.
        bias: whether the linear layer has one (redundant before the normalisation, but published
            networks have it in places).

    Shape:
        features: (..., C_in) -> (..., C_out); mask as in :class:`PointBatchNorm`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        activation: nn.Module | None = None,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.linear = nn.Linear(in_channels, out_channels, bias=bias)
        self.norm = PointBatchNorm(out_channels)
        self.activation = activation if activation is not None else nn.ReLU()

    def forward(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """Apply the three in order."""
        return self.activation(self.norm(self.linear(features), mask))

    def __repr__(self) -> str:
        linear, activation = self.linear, type(self.activation).__name__
        return f"LinearNorm({linear.in_features}, {linear.out_features}, {activation})"


def initialise_linear(linear: nn.Linear) -> None:
    """Normal weights with variance 2 / fan-out, zero bias: the official rule for 1x1 convs."""
    nn.init.normal_(linear.weight, std=(2.0 / linear.out_features) ** 0.5)
    if linear.bias is not None:
        with torch.no_grad():
            linear.bias.zero_()
