"""Networks for inference alone: batch normalisation fused into the linear layers before it."""

from copy import deepcopy
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_linear_bn_eval

from ea_pointcloud.nn.attention import ExternalAttention
from ea_pointcloud.nn.blocks import (
    AttentionBlock,
    EdgeConv,
    MaxEdgeConv,
    NeighborEmbedding,
    parts_of_pairs,
)
from ea_pointcloud.nn.compared import PointwiseResidual, SelfAttention
from ea_pointcloud.nn.mlp import PatchEmbedding
from ea_pointcloud.nn.norm import LinearNorm
from ea_pointcloud.ops import PyramidLevel, gather_max, gather_points

_Network = TypeVar("_Network", bound=nn.Module)
# Values of the pairs of a neighbour embedding that a CPU handles at a time: the C library keeps
# buffers of 16 MB for the next call. Much smaller parts were slower where threads share cores with
# other programs, and wait for each other after every part.
_PAIR_VALUES = 2**22


def fuse_batch_norm(model: _Network) -> _Network:
    """A copy of ``model`` that computes the same in evaluation mode, in fewer passes.

    With running statistics a batch normalisation is a scale and a shift of each channel, which the
    weights and the bias of the linear layer before it can hold. Outputs differ by rounding. The
    copy can be neither trained nor saved; later changes of ``model`` do not reach it.

    Args:
        model: any of the package's networks, or one of its layers.

    Returns:
        The copy, in evaluation mode, its parameters without gradients.

    Raises:
        RuntimeError: of ``state_dict()`` of the copy, and so where it is saved.
    """
    fused = _fuse(deepcopy(model).eval().requires_grad_(False))
    fused.register_state_dict_pre_hook(_refuse)
    return fused  # pyright: ignore[reportReturnType]


class FusedNorm(nn.Module):
    """Where a normalisation was that the layer before it has taken over."""

    def forward(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """The features themselves."""
        return features


class FusedNeighborEmbedding(nn.Module):
    """A :class:`~ea_pointcloud.nn.NeighborEmbedding` for inference.

    Args:
        trained: in evaluation mode.

    Shape:
        As of the embedding that it computes.
    """

    def __init__(self, trained: NeighborEmbedding) -> None:
        super().__init__()
        pair = fuse_linear_bn_eval(trained.pair, trained.pair_norm)
        to_neighbor, to_center = parts_of_pairs(pair)
        self.to_neighbor = _constant(to_neighbor.clone())
        self.to_center = _constant(to_center)
        self.pair_bias = _constant(pair.bias)
        mix = fuse_linear_bn_eval(trained.mix, trained.mix_norm)
        self.mix, self.mix_bias = _constant(mix.weight), _constant(mix.bias)

    def forward(self, features: Tensor, level: PyramidLevel) -> Tensor:
        """Return the features of the centres."""
        centers = gather_points(features, level.center)
        own = F.linear(centers, self.to_center, self.pair_bias)  # (B, S, C)
        points = F.linear(features, self.to_neighbor)
        clouds = max(1, _PAIR_VALUES // (level.neighbor[0].numel() * own.shape[2]))
        if features.device.type != "cpu" or torch.compiler.is_compiling() or clouds >= len(own):
            strongest = self._strongest(points, level.neighbor, own)
        else:
            parts = zip(points.split(clouds), level.neighbor.split(clouds), own.split(clouds),
                        strict=True)  # fmt: skip
            strongest = torch.cat([self._strongest(*part) for part in parts])
        # The bias is that of all K neighbours, so it can wait until after the maximum.
        return F.relu(strongest + self.mix_bias)

    def _strongest(self, points: Tensor, neighbor: Tensor, own: Tensor) -> Tensor:
        """(b, S, C) of the pairs of some clouds, without bias."""
        pairs = gather_points(points, neighbor, offset=own).relu_()  # (b, S, K, C)
        return F.linear(pairs, self.mix).amax(2)


class FusedMaxEdgeConv(nn.Module):
    """A :class:`~ea_pointcloud.nn.MaxEdgeConv` for inference.

    A negative scale does not commute with the maximum: its magnitude goes into the linear layer,
    its sign is applied to the maximum.

    Args:
        trained: in evaluation mode.

    Shape:
        As of the edge convolution that it computes.
    """

    def __init__(self, trained: MaxEdgeConv) -> None:
        super().__init__()
        norm = trained.norm
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        to_neighbor, to_point = parts_of_pairs(trained.pair)
        self.to_neighbor = _constant(to_neighbor * scale.abs()[:, None])
        self.to_point = _constant(to_point * scale[:, None])
        self.bias = _constant(norm.bias - norm.running_mean * scale)
        self.sign = None if (scale >= 0).all() else _constant(scale.sign())

    def forward(self, features: Tensor, neighbor_idx: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the features of the points; a real point has real neighbours only."""
        if mask is not None:
            features = features.masked_fill(~mask[..., None], 0)  # also NaN
        strongest = gather_max(F.linear(features, self.to_neighbor), neighbor_idx)
        own = F.linear(features, self.to_point, self.bias)
        return F.relu(own + (strongest if self.sign is None else strongest * self.sign))


def _constant(value: Tensor) -> nn.Parameter:
    return nn.Parameter(value.detach(), requires_grad=False)


def _fuse(module: nn.Module) -> nn.Module:
    if isinstance(module, NeighborEmbedding):
        return FusedNeighborEmbedding(module)
    if isinstance(module, MaxEdgeConv):
        return FusedMaxEdgeConv(module)
    if isinstance(module, LinearNorm):
        _fuse_pair(module, "linear", module, "norm")
    elif isinstance(module, (ExternalAttention, PointwiseResidual, SelfAttention)):
        _fuse_pair(module, "output", module, "norm")
    elif isinstance(module, AttentionBlock) and module.outer_norm is not None:
        _fuse_pair(module.attention, "output", module, "outer_norm")
    elif isinstance(module, PatchEmbedding):
        _fuse_pair(module, "last", module, "last_norm")
    elif isinstance(module, EdgeConv):
        _fuse_pair(module, "pair", module, "norm")
    for name, child in list(module.named_children()):
        setattr(module, name, _fuse(child))
    return module


def _fuse_pair(one: nn.Module, linear: str, two: nn.Module, norm: str) -> None:
    """Let the linear layer of that name take over the normalisation of that name."""
    setattr(one, linear, fuse_linear_bn_eval(getattr(one, linear), getattr(two, norm)))
    setattr(two, norm, FusedNorm())


def _refuse(module: nn.Module, prefix: str, keep_vars: bool) -> None:
    raise RuntimeError(
        "a network with fused normalisations cannot be saved; save the one that it was made from"
    )
