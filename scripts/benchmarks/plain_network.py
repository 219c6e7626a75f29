"""The classifier in plain PyTorch as usual: channels first, neighbours gathered first.

The peer that the package's own network is timed against. It computes the same function with the
same weights; what differs is how.
"""

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ea_pointcloud.models import ClassifierConfig, EAClassifier
from ea_pointcloud.models.base import POOLING
from ea_pointcloud.nn import ExternalAttention, LinearNorm, NeighborEmbedding


class PlainClassifier(nn.Module):
    """The point transformer with external attention, without this package's operators.

    A loop of PyTorch calls samples farthest points; neighbours are the smallest of all distances;
    pairs of neighbour and centre are built before the first layer that reads them; every 1x1
    convolution is one, with batch normalisation and activation after it; the attention is
    normalised in two steps, as published. The weights of ``trained`` are copied.

    Shape:
        xyz (B, N, 3) -> logits (B, classes).
    """

    def __init__(self, trained: EAClassifier) -> None:
        super().__init__()
        config = trained.config
        assert isinstance(config, ClassifierConfig)
        assert (config.attention, config.norm) == ("external", "double")
        assert config.feature_channels == 0
        assert config.pooling in POOLING
        encoder: Any = trained.encoder
        self.config = config
        self.stem = nn.Sequential(_layers(encoder.stem_in), _layers(encoder.stem_out))
        self.embeddings = nn.ModuleList(_embedding(each) for each in encoder.embeddings)
        self.input = nn.Sequential(*[_layers(each) for each in encoder.input])
        self.position = _convolution(encoder.position)
        self.blocks = nn.ModuleList(_Attention(block.attention) for block in encoder.blocks)
        self.fuse = _layers(encoder.fuse)
        head: list[nn.Module] = []
        for layer in trained.head:
            if isinstance(layer, LinearNorm):
                head += [deepcopy(layer.linear), _batch_norm(layer.norm), layer.activation]
            else:
                head.append(deepcopy(layer))
        self.head = nn.Sequential(*head)

    def forward(self, xyz: Tensor) -> Tensor:
        """Classify."""
        features = self.stem(xyz.transpose(1, 2)).transpose(1, 2)  # (B, N, C)
        for embedding, count, k in zip(
            self.embeddings, self.config.num_centers, self.config.num_neighbors, strict=True
        ):
            xyz, pairs = sample_and_group(xyz, features, count, k)  # (B, S, K, 2C)
            batch, centers = pairs.shape[:2]
            response = embedding(pairs.flatten(0, 1).transpose(1, 2))  # (B * S, C, K)
            features = F.adaptive_max_pool1d(response, 1).view(batch, centers, -1)
        top = features.transpose(1, 2)  # (B, C, S)
        token, position = self.input(top), self.position(xyz.transpose(1, 2))
        outputs = []
        for block in self.blocks:
            token = block(token + position)
            outputs.append(token)
        token = self.fuse(torch.cat([*outputs, top], dim=1))
        pooled = F.adaptive_max_pool1d(token, 1)[..., 0]
        if self.config.pooling == "max_mean":
            pooled = torch.cat([pooled, token.mean(2)], dim=1)
        return self.head(pooled)


class _Attention(nn.Module):
    """External attention with its residual, as in the official code.

    Reference:
        github.com/MenghaoGuo/EANet; Guo et al. 2021, arXiv 2105.02358.
    """

    def __init__(self, trained: ExternalAttention) -> None:
        super().__init__()
        slots, channels = trained.key_memory.shape
        self.input = _convolution(trained.input)
        self.keys = nn.Conv1d(channels, slots, 1, bias=False)
        self.values = nn.Conv1d(slots, channels, 1, bias=False)
        with torch.no_grad():
            self.keys.weight.copy_(trained.key_memory[..., None])
            self.values.weight.copy_(trained.value_memory.t()[..., None])
        self.output = nn.Sequential(_convolution(trained.output), _batch_norm(trained.norm))

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, N) -> (B, C, N)."""
        affinity = F.softmax(self.keys(self.input(features)), dim=-1)  # (B, M, N)
        affinity = affinity / (1e-9 + affinity.sum(dim=1, keepdim=True))
        return F.relu(features + self.output(self.values(affinity)))


def sample_and_group(
    xyz: Tensor, features: Tensor, num_centers: int, k: int
) -> tuple[Tensor, Tensor]:
    """Farthest points (B, S, 3), and (B, S, K, 2C) ``concat[neighbour - centre, centre]``."""
    k = min(k, xyz.shape[1])
    outermost = xyz.square().sum(-1).argmax(1)
    order = farthest_points(xyz, num_centers, outermost)
    centers, own = _rows(xyz, order), _rows(features, order)[:, :, None]  # (B, S, 1, C)
    near = _rows(features, _nearest(centers, xyz, k))  # (B, S, K, C)
    return centers, torch.cat([near - own, own.expand_as(near)], dim=-1)


def farthest_points(xyz: Tensor, count: int, first: Tensor) -> Tensor:
    """(B, count) indices by a loop over the picks, beginning with the (B,) indices ``first``."""
    batch, num_points, _ = xyz.shape
    order = torch.empty(batch, count, dtype=torch.long, device=xyz.device)
    closest = torch.full((batch, num_points), torch.inf, device=xyz.device)
    rows, last = torch.arange(batch, device=xyz.device), first
    for step in range(count):
        order[:, step] = last
        sq_dist = (xyz - xyz[rows, last][:, None]).square().sum(-1)
        closest = torch.minimum(closest, sq_dist)
        last = closest.argmax(1)
    return order


def _nearest(query: Tensor, points: Tensor, k: int) -> Tensor:
    # The matrix form of cdist would cancel, and find other neighbours.
    distance = torch.cdist(query, points, compute_mode="donot_use_mm_for_euclid_dist")
    return distance.topk(k, dim=-1, largest=False).indices


def _rows(values: Tensor, idx: Tensor) -> Tensor:
    cloud = torch.arange(len(values), device=values.device).view(-1, *[1] * (idx.ndim - 1))
    return values[cloud, idx]


def _layers(trained: nn.Module) -> nn.Sequential:
    assert isinstance(trained, LinearNorm)
    return nn.Sequential(
        _convolution(trained.linear), _batch_norm(trained.norm), trained.activation
    )


def _embedding(trained: nn.Module) -> nn.Sequential:
    assert isinstance(trained, NeighborEmbedding)
    return nn.Sequential(
        _convolution(trained.pair), _batch_norm(trained.pair_norm), nn.ReLU(),
        _convolution(trained.mix), _batch_norm(trained.mix_norm), nn.ReLU(),
    )  # fmt: skip


def _convolution(trained: nn.Linear) -> nn.Conv1d:
    bias = trained.bias is not None
    made = nn.Conv1d(trained.in_features, trained.out_features, 1, bias=bias)
    with torch.no_grad():
        made.weight.copy_(trained.weight[..., None])
        if made.bias is not None:
            made.bias.copy_(trained.bias)
    return made


def _batch_norm(trained: nn.BatchNorm1d) -> nn.BatchNorm1d:
    made = nn.BatchNorm1d(trained.num_features, eps=trained.eps, momentum=trained.momentum)
    made.load_state_dict(trained.state_dict())
    return made
