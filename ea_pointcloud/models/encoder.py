"""The point transformer's backbone: per-point stem, neighbour embeddings, attention, fusion."""

import torch
from torch import Tensor, nn

from ea_pointcloud._checks import check_features, check_mask, check_no_empty_cloud, check_xyz
from ea_pointcloud.models.config import ClassifierConfig, SegmenterConfig
from ea_pointcloud.nn import AttentionBlock, LinearNorm, NeighborEmbedding
from ea_pointcloud.ops import PyramidLevel, build_pyramid, gather_points


class PointEncoder(nn.Module):
    """Turn a cloud into S tokens that know each other.

    Two layers per point, neighbour embeddings that thin the cloud out, attention blocks whose
    outputs are all concatenated with their input, one layer that fuses them. The result does not
    depend on the order of the points (exact ties of distance aside).

    Args:
        config: the architecture; the head's entries are not read.

    Shape:
        xyz (B, N, 3), features (B, N, F) or None, mask (B, N) bool or None
        -> tokens (B, S, ``config.fuse_channels``).
    """

    def __init__(self, config: ClassifierConfig | SegmenterConfig) -> None:
        super().__init__()
        self.feature_channels = config.feature_channels
        self.num_centers = config.num_centers
        self.num_neighbors = config.num_neighbors
        self.stem_in = LinearNorm(3 + config.feature_channels, config.stem_channels)
        self.stem_out = LinearNorm(config.stem_channels, config.stem_channels)
        self.embeddings = nn.ModuleList()
        width = config.stem_channels
        for channels in config.embed_channels:
            self.embeddings.append(NeighborEmbedding(width, channels))
            width = channels
        self.input = nn.Sequential(*[LinearNorm(width, width) for _ in range(config.input_layers)])
        self.position = nn.Linear(3, width, bias=False)
        self.blocks = attention_blocks(config, width)
        self.fuse = LinearNorm(
            width * (config.depth + 1), config.fuse_channels, activation=nn.LeakyReLU(0.2)
        )

    def build_pyramid(self, xyz: Tensor, mask: Tensor | None = None) -> tuple[PyramidLevel, ...]:
        """Compute what :meth:`forward` needs of the coordinates alone: one level per embedding.

        Args:
            xyz: (B, N, 3).
            mask: (B, N) bool, True = real point.
        """
        return masked_pyramid(xyz, mask, self.num_centers, self.num_neighbors)

    def forward(
        self,
        xyz: Tensor,
        features: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        pyramid: tuple[PyramidLevel, ...] | None = None,
    ) -> Tensor:
        """Encode; ``pyramid`` is what :meth:`build_pyramid` gave for this ``xyz`` and ``mask``."""
        points = stem_input(xyz, features, mask, self.feature_channels)
        if pyramid is None:
            pyramid = self.build_pyramid(xyz, mask)
        # numpy's float64 is as good as float32 here
        levels = self.levels(points.to(self.position.weight.dtype), mask, pyramid)
        return self.tokens(levels[-1], pyramid)

    def levels(
        self, points: Tensor, mask: Tensor | None, pyramid: tuple[PyramidLevel, ...]
    ) -> list[Tensor]:
        """Features of all points, then of the centres of each level, [(B, N, C_0), (B, S, C_1)].

        Args:
            points: (B, N, 3 + F) from :func:`stem_input`, in the dtype of the weights.
            mask: (B, N) bool, True = real point.
            pyramid: from :meth:`build_pyramid`.
        """
        if len(pyramid) != len(self.embeddings):
            raise ValueError(
                f"pyramid must have {len(self.embeddings)} levels as the config, "
                f"got {len(pyramid)}; build it with build_pyramid() of this model"
            )
        levels = [self.stem_out(self.stem_in(points, mask), mask)]
        for embedding, level in zip(self.embeddings, pyramid, strict=True):
            levels.append(embedding(levels[-1], level))
        return levels

    def tokens(self, top: Tensor, pyramid: tuple[PyramidLevel, ...]) -> Tensor:
        """Attend between the centres of the last level, whose features are ``top``."""
        token, position = self.input(top), self.position(pyramid[-1].xyz.to(top.dtype))
        outputs = []
        for block in self.blocks:
            token = block(token, position)
            outputs.append(token)
        return self.fuse(torch.cat([*outputs, top], dim=-1))


def masked_pyramid(
    xyz: Tensor, mask: Tensor | None, num_centers: tuple[int, ...], num_neighbors: tuple[int, ...]
) -> tuple[PyramidLevel, ...]:
    """:func:`~ea_pointcloud.ops.build_pyramid` of clouds whose padding may be anywhere."""
    check_xyz("xyz", xyz)
    check_mask(mask, xyz)
    if mask is None:
        return build_pyramid(xyz, num_centers, num_neighbors)
    check_no_empty_cloud(mask)
    # The operators want padding last; what they return is put back into the order of xyz.
    order = mask.byte().argsort(dim=1, descending=True, stable=True)
    first, *others = build_pyramid(
        gather_points(xyz, order), num_centers, num_neighbors, lengths=mask.sum(1)
    )
    neighbor = order.gather(1, first.neighbor.flatten(1)).view_as(first.neighbor)
    return (PyramidLevel(first.xyz, order.gather(1, first.center), neighbor), *others)


def attention_blocks(config: ClassifierConfig | SegmenterConfig, width: int) -> nn.ModuleList:
    """The attention blocks that a configuration asks for, ``width`` channels wide."""
    return nn.ModuleList(
        AttentionBlock(
            width,
            attention=config.attention,
            memory_size=config.memory_size,
            heads=config.heads,
            norm=config.norm,
        )
        for _ in range(config.depth)
    )


def stem_input(
    xyz: Tensor, features: Tensor | None, mask: Tensor | None, feature_channels: int
) -> Tensor:
    """(B, N, 3 + F) checked coordinates and features of the points."""
    check_xyz("xyz", xyz)
    check_mask(mask, xyz)
    given = 0 if features is None else features.shape[-1]
    if given != feature_channels:
        raise ValueError(
            f"features must have {feature_channels} channels as in the config "
            f"(feature_channels), got {given}"
        )
    if features is None:
        return xyz
    check_features("features", features, like=xyz)
    return torch.cat([xyz, features], dim=-1)
