"""Blocks of EAMLP: patches to tokens, pre-norm attention and MLP, drop path."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ea_pointcloud._checks import check_count, check_fraction
from ea_pointcloud.nn.attention import MultiHeadExternalAttention
from ea_pointcloud.nn.norm import LinearNorm, PointBatchNorm
from ea_pointcloud.ops import PyramidLevel, gather_points, max_over_neighbors


class DropPath(nn.Module):
    """Stochastic depth: in training, leave a residual branch out for a random subset of clouds.

    What stays is scaled up, so that the expectation is that of evaluation, where nothing happens.

    Args:
        rate: probability that a cloud skips the branch, at least 0 and below 1.

    Shape:
        branch: (B, ...) -> (B, ...).

    Reference:
        Huang et al., Deep networks with stochastic depth, ECCV 2016.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        check_fraction("rate", rate)
        self.rate = rate

    def forward(self, branch: Tensor) -> Tensor:
        """Zero or scale each cloud's branch."""
        if not self.training or self.rate == 0:
            return branch
        kept = torch.rand(len(branch), device=branch.device) >= self.rate
        factor = kept.to(branch.dtype) / (1 - self.rate)
        return branch * factor.view(-1, *[1] * (branch.ndim - 1))

    def extra_repr(self) -> str:
        """The rate."""
        return f"rate={self.rate:.3g}"


class PatchEmbedding(nn.Module):
    """Turn the surroundings of each centre into a token: a small PointNet.

    Shared layers over the neighbours' coordinates relative to the centre and their features, the
    maximum over the neighbours, and one layer to the width of the tokens.

    Args:
        feature_channels: F, features of the points beside coordinates.
        hidden: widths of the shared layers.
        out_channels: C of the tokens.

    Shape:
        points (B, N, 3 + F), ``level`` with S centres and K neighbours among these points, see
        :func:`~ea_pointcloud.ops.build_pyramid` -> (B, S, C).

    Reference:
        Qi et al., PointNet, CVPR 2017; Yu et al., Point-BERT, CVPR 2022 (patches as tokens).
    """

    def __init__(self, feature_channels: int, hidden: tuple[int, ...], out_channels: int) -> None:
        super().__init__()
        if not hidden:
            raise ValueError("hidden must name at least one width, got none")
        widths = (3 + feature_channels, *hidden)
        self.shared = nn.Sequential(*[LinearNorm(one, two) for one, two in pairwise(widths[:-1])])
        self.last = nn.Linear(widths[-2], widths[-1], bias=False)
        self.last_norm = PointBatchNorm(widths[-1])
        self.out = nn.Linear(widths[-1], out_channels)

    def forward(self, points: Tensor, level: PyramidLevel) -> Tensor:
        """Return the tokens."""
        center = F.pad(level.xyz.to(points.dtype), (0, points.shape[-1] - 3))  # features stay
        patches = gather_points(points, level.neighbor, offset=-center)  # (B, S, K, 3 + F)
        hidden = self.last_norm(self.last(self.shared(patches)))
        # ReLU commutes with the maximum: applied after it, it handles K times fewer values.
        return self.out(F.relu(max_over_neighbors(hidden)))


class EAMLPBlock(nn.Module):
    """One block of EAMLP: multi-head external attention, then an MLP, both pre-norm.

    Both are residual branches under drop path. Nothing but the sums over the points inside the
    attention's normalisation goes from one token to another.

    Args:
        channels: C.
        heads: H of the attention, see :class:`~ea_pointcloud.nn.MultiHeadExternalAttention`.
        memory_size: M.
        expansion: of the attention.
        mlp_ratio: width of the MLP's hidden layer over C.
        drop_path: rate of both branches.
        norm: normalisation of the attention, ``"double"`` or ``"softmax"``.

    Shape:
        tokens (B, S, C) -> (B, S, C); mask: (B, S) bool, True = real token.

    Reference:
        Guo et al. 2021, arXiv 2105.02358, section 3.3 and the released EAMLP.
    """

    def __init__(
        self,
        channels: int,
        *,
        heads: int,
        memory_size: int = 64,
        expansion: int = 4,
        mlp_ratio: int = 2,
        drop_path: float = 0.0,
        norm: str = "double",
    ) -> None:
        super().__init__()
        check_count("mlp_ratio", mlp_ratio)
        self.attention_norm = nn.LayerNorm(channels)
        self.attention = MultiHeadExternalAttention(
            channels, heads=heads, memory_size=memory_size, expansion=expansion, norm=norm
        )
        self.mlp_norm = nn.LayerNorm(channels)
        self.mlp = nn.Sequential(
            nn.Linear(channels, mlp_ratio * channels),
            nn.GELU(),
            nn.Linear(mlp_ratio * channels, channels),
        )
        self.drop_path = DropPath(drop_path)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend, then apply the MLP to each token."""
        tokens = tokens + self.drop_path(self.attention(self.attention_norm(tokens), mask))
        return tokens + self.drop_path(self.mlp(self.mlp_norm(tokens)))
