"""Batch normalisation of point features, channels last, that leaves padded points out."""

from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional as F

from ea_pointcloud._checks import check_mask


class PointBatchNorm(nn.BatchNorm1d):
    """Batch normalisation over every axis but the last; padded points do not enter the statistics.

    Same parameters, buffers and formula as :class:`torch.nn.BatchNorm1d`. In training one single
    row (a batch of one cloud after pooling) has no variance; it is normalised with the running
    statistics instead of failing. :func:`synchronize_norms` makes the statistics of a training step
    those of all processes.

    Shape:
        features: (B, N, C), (B, S, K, C) or (B, C); mask: (B, N) bool for the first form only.
    """

    synchronized = False

    def forward(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """Normalise; the output has the shape of ``features``."""
        if torch.compiler.is_exporting() and not self.training:
            return self._scaled(features)
        rows = features.flatten(0, -2)
        if mask is not None:
            check_mask(mask, features)
        if not self.training:
            return self._by_running(rows).view(features.shape)
        # Masked sums wait for no GPU and compile whole; selecting rows is faster on a CPU.
        selects = mask is None or (rows.device.type == "cpu" and not torch.compiler.is_compiling())
        if self.synchronized or not selects:
            return self._by_sums(rows, mask).view(features.shape)
        if mask is None:
            out = self._by_running(rows) if len(rows) == 1 else super().forward(rows)
            return out.view(features.shape)
        real = mask.flatten()
        out = rows.new_zeros(rows.shape)
        selected = rows[real]
        normed = self._by_running(selected) if len(selected) == 1 else super().forward(selected)
        out[real] = normed.to(rows.dtype)
        return out.view(features.shape)

    def _by_running(self, rows: Tensor) -> Tensor:
        return F.batch_norm(
            rows, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
        )

    def _scaled(self, features: Tensor) -> Tensor:
        """The running statistics without the reshapes, whose sizes an export cannot relate."""
        assert self.running_mean is not None
        assert self.running_var is not None
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        return features * scale + (self.bias - self.running_mean * scale)

    def _by_sums(self, rows: Tensor, mask: Tensor | None) -> Tensor:
        """Rows (n, C) normalised with the mean and variance of the real ones, 0 for the others.

        Of all processes where the norms are synchronized.
        """
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        add = _SumOverProcesses.apply if self.synchronized else lambda tensor: tensor
        values = rows.float()
        padding = None if mask is None else ~mask.flatten()[:, None]
        if padding is None:
            count = values.new_full((1,), len(rows))
        else:
            values = values.masked_fill(padding, 0)
            count = (~padding).sum(0).float()
        total = add(torch.cat([values.sum(0), count]))
        count = total[-1]
        mean = total[:-1] / count.clamp_min(1)
        # The squares follow the mean in a sum of their own: taken together they would cancel.
        centred = values - mean
        squares = centred.square()
        if padding is not None:
            squares = squares.masked_fill(padding, 0)
        variance = add(squares.sum(0)) / count.clamp_min(1)
        several = count > 1
        # A single row has no variance: it gets the running statistics, and does not change them.
        used_mean = torch.where(several, mean, self.running_mean)
        used_variance = torch.where(several, variance, self.running_var)
        with torch.no_grad():
            unbiased = variance * count / (count - 1).clamp_min(1)
            momentum = torch.where(several, self.momentum, 0.0)
            self.num_batches_tracked.add_(several)
            self.running_mean.lerp_(mean, momentum)
            self.running_var.lerp_(unbiased, momentum)
        out = (values - used_mean) * (used_variance + self.eps).rsqrt() * self.weight + self.bias
        if padding is not None:
            out = out.masked_fill(padding, 0)
        return out.to(rows.dtype)


class _SumOverProcesses(torch.autograd.Function):
    """Sum of a tensor over all processes; so is the gradient, for each of them used the sum."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        tensor = tensor.clone()
        dist.all_reduce(tensor)
        return tensor

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        gradient = gradient.contiguous().clone()
        dist.all_reduce(gradient)
        return gradient


def synchronize_norms(model: nn.Module) -> int:
    """Let the batch normalisations of a network see the batches of all processes in training.

    Each then costs two small sums over the processes forward and two backward. PyTorch's
    ``SyncBatchNorm`` has no mask. A process group must exist from the first
    training step on. Before this call no norm is synchronized, and evaluation never communicates.

    Returns:
        How many there are.
    """
    norms = [module for module in model.modules() if isinstance(module, PointBatchNorm)]
    for norm in norms:
        norm.synchronized = True
    return len(norms)


class LinearNorm(nn.Sequential):
    """Linear layer without bias, batch normalisation, activation: the field's "1x1 conv, BN, act".

    Args:
        in_channels: channels read.
        out_channels: channels written.
        activation: module applied last; ReLU if omitted.
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


def weight_of(layer: nn.Linear) -> Tensor:
    """The weight of a layer, also of one that torch's ``quantize_dynamic`` has packed."""
    weight: Any = layer.weight
    return weight if isinstance(weight, Tensor) else weight().dequantize()


def bias_of(layer: nn.Linear) -> Tensor | None:
    """The bias of a layer, likewise."""
    bias: Any = layer.bias
    packed = not isinstance(bias, Tensor | None)
    return bias() if packed else bias
