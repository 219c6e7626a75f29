"""The point transformer's backbone: per-point stem, neighbour embeddings, attention, fusion."""

import torch
from torch import Tensor, nn

from ea_pointcloud._checks import check_features, check_mask, check_xyz, values_readable
from ea_pointcloud.models.config import ClassifierConfig
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

    def __init__(self, config: ClassifierConfig) -> None:
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
        self.blocks = nn.ModuleList(
            AttentionBlock(
                width,
                attention=config.attention,
                memory_size=config.memory_size,
                heads=config.heads,
                norm=config.norm,
            )
            for _ in range(config.depth)
        )
        self.fuse = LinearNorm(
            width * (config.depth + 1), config.fuse_channels, activation=nn.LeakyReLU(0.2)
        )

    def build_pyramid(self, xyz: Tensor, mask: Tensor | None = None) -> tuple[PyramidLevel, ...]:
        """Compute what :meth:`forward` needs of the coordinates alone: one level per embedding.

        Args:
            xyz: (B, N, 3).
            mask: (B, N) bool, True = real point.
        """
        check_xyz("xyz", xyz)
        check_mask(mask, xyz)
        if mask is None:
            return build_pyramid(xyz, self.num_centers, self.num_neighbors)
        if values_readable(mask) and not bool(mask.any(1).all()):
            raise ValueError("mask must keep a point of each cloud; drop empty clouds first")
        # The operators want padding last; what they return is put back into the order of xyz.
        order = mask.byte().argsort(dim=1, descending=True, stable=True)
        first, *others = build_pyramid(
            gather_points(xyz, order), self.num_centers, self.num_neighbors, lengths=mask.sum(1)
        )
        neighbor = order.gather(1, first.neighbor.flatten(1)).view_as(first.neighbor)
        return (PyramidLevel(first.xyz, order.gather(1, first.center), neighbor), *others)

    def forward(
        self,
        xyz: Tensor,
        features: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        pyramid: tuple[PyramidLevel, ...] | None = None,
    ) -> Tensor:
        """Encode; ``pyramid`` is what :meth:`build_pyramid` gave for this ``xyz`` and ``mask``."""
        check_xyz("xyz", xyz)
        check_mask(mask, xyz)
        given = 0 if features is None else features.shape[-1]
        if given != self.feature_channels:
            raise ValueError(
                f"features must have {self.feature_channels} channels as in the config "
                f"(feature_channels), got {given}"
            )
        if features is not None:
            check_features("features", features, like=xyz)
        if pyramid is None:
            pyramid = self.build_pyramid(xyz, mask)
        if len(pyramid) != len(self.embeddings):
            raise ValueError(
                f"pyramid must have {len(self.embeddings)} levels as the config, "
                f"got {len(pyramid)}; build it with build_pyramid() of this model"
            )
        point = xyz
        if features is not None:
            point = torch.cat([xyz, features], dim=-1)
        dtype = self.position.weight.dtype  # numpy's float64 is as good as float32 here
        point = self.stem_out(self.stem_in(point.to(dtype), mask), mask)
        for embedding, level in zip(self.embeddings, pyramid, strict=True):
            point = embedding(point, level)

        token = self.input(point)
        skip, position, outputs = point, self.position(pyramid[-1].xyz.to(dtype)), []
        for block in self.blocks:
            token = block(token, position)
            outputs.append(token)
        return self.fuse(torch.cat([*outputs, skip], dim=-1))
