"""The point transformer's backbone: per-point stem, neighbour embeddings, attention, fusion."""

import torch
from torch import Tensor, nn

from ea_pointcloud._checks import check_features, check_mask, check_xyz
from ea_pointcloud.models.config import ClassifierConfig
from ea_pointcloud.nn import AttentionBlock, LinearNorm, NeighborEmbedding
from ea_pointcloud.ops import gather_points


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
        self.stem_in = LinearNorm(3 + config.feature_channels, config.stem_channels)
        self.stem_out = LinearNorm(config.stem_channels, config.stem_channels)
        self.embeddings = nn.ModuleList()
        width = config.stem_channels
        for centers, neighbors, channels in zip(
            config.num_centers, config.num_neighbors, config.embed_channels, strict=True
        ):
            self.embeddings.append(
                NeighborEmbedding(width, channels, num_centers=centers, num_neighbors=neighbors)
            )
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

    def forward(
        self, xyz: Tensor, features: Tensor | None = None, *, mask: Tensor | None = None
    ) -> Tensor:
        """Encode."""
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
        lengths = None
        if mask is not None:
            if mask.device.type == "cpu" and not bool(mask.any(1).all()):
                raise ValueError("mask must keep a point of each cloud; drop empty clouds first")
            xyz, features, mask, lengths = _real_points_first(xyz, features, mask)
        point = xyz
        if features is not None:
            point = torch.cat([xyz, features], dim=-1)
        dtype = self.position.weight.dtype  # numpy's float64 is as good as float32 here
        point = self.stem_out(self.stem_in(point.to(dtype), mask), mask)
        for embedding in self.embeddings:
            xyz, point = embedding(xyz, point, lengths)
            lengths = None  # centres are always real points

        token = self.input(point)
        skip, position, outputs = point, self.position(xyz.to(dtype)), []
        for block in self.blocks:
            token = block(token, position)
            outputs.append(token)
        return self.fuse(torch.cat([*outputs, skip], dim=-1))


def _real_points_first(
    xyz: Tensor, features: Tensor | None, mask: Tensor
) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """Order each cloud so that padding comes last, which is what the operators' lengths mean."""
    order = mask.byte().argsort(dim=1, descending=True, stable=True)
    xyz = gather_points(xyz, order)
    if features is not None:
        features = gather_points(features, order)
    return xyz, features, mask.gather(1, order), mask.sum(1)
