"""Helpers of the corruptions: masked clouds, random draws, selection of points, bounding boxes."""

from typing import NamedTuple

import torch
from torch import Tensor

from ea_pointcloud.ops import gather_points

PUBLISHED_POINTS = 1024  # of the clouds that both benchmarks were defined on


class Clouds(NamedTuple):
    """A batch of clouds of any sizes."""

    xyz: Tensor  # (B, N, 3)
    mask: Tensor  # (B, N) bool, True = real point

    @property
    def lengths(self) -> Tensor:
        """(B,) real points."""
        return self.mask.sum(1)

    def moved(self, xyz: Tensor) -> "Clouds":
        """The same points with other coordinates."""
        return Clouds(xyz, self.mask)

    def kept(self, keep: Tensor) -> "Clouds":
        """Those of the real points that ``keep`` (B, N) marks."""
        return Clouds(self.xyz, self.mask & keep)

    def joined(self, other: "Clouds") -> "Clouds":
        """The points of both."""
        return Clouds(
            torch.cat([self.xyz, other.xyz], dim=1), torch.cat([self.mask, other.mask], dim=1)
        )

    def scaled_count(self, count: float) -> Tensor:
        """(B,) ``count`` scaled from the 1,024 published points to the points of each cloud."""
        return (self.lengths * count / PUBLISHED_POINTS).round().long()

    def compact(self) -> "Clouds":
        """Real points first in their order, then zeros up to the size of the largest cloud."""
        order = self.mask.byte().argsort(dim=1, descending=True, stable=True)
        order = order[:, : int(self.lengths.max())]
        mask = self.mask.gather(1, order)
        return Clouds(gather_points(self.xyz, order).masked_fill(~mask[..., None], 0.0), mask)


class Draws:
    """Random numbers, drawn where the generator is and moved to where the points are.

    So a generator on the CPU gives the same corruption on every device.

    Args:
        like: a tensor of the device and dtype of the results.
        generator: by default torch's own of that device.
    """

    def __init__(self, like: Tensor, generator: torch.Generator | None) -> None:
        self.like = like
        self.generator = generator
        self.source = like.device if generator is None else generator.device

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """From U(low, high)."""
        draw = torch.rand(
            shape, generator=self.generator, device=self.source, dtype=self.like.dtype
        )
        return (low + draw * (high - low)).to(self.like.device)

    def normal(self, *shape: int) -> Tensor:
        """From N(0, 1)."""
        draw = torch.randn(
            shape, generator=self.generator, device=self.source, dtype=self.like.dtype
        )
        return draw.to(self.like.device)

    def sign(self, *shape: int) -> Tensor:
        """-1 or 1."""
        return torch.where(self.uniform(*shape) < 0.5, -1.0, 1.0).to(self.like.dtype)

    def integers(self, below: Tensor, *shape: int) -> Tensor:
        """(B, ...) int64 from 0 to ``below`` (B,) - 1."""
        limit = below.view(-1, *[1] * (len(shape) - 1))
        # A product may round up to the limit itself.
        return torch.minimum((self.uniform(*shape) * limit).long(), limit - 1)

    def rank(self, among: Tensor) -> Tensor:
        """(B, N) int64, ranks 0, 1, ... in a random order of the points that ``among`` marks."""
        key = self.uniform(*among.shape).masked_fill(~among, 2.0)
        return key.argsort(dim=1).argsort(dim=1).masked_fill(~among, among.shape[1])

    def point(self, clouds: Clouds) -> Tensor:
        """(B, 1, 3) a real point of each cloud."""
        idx = self.rank(clouds.mask).argmin(1, keepdim=True)
        return gather_points(clouds.xyz, idx)


def nearest_to(clouds: Clouds, point: Tensor, count: Tensor) -> Tensor:
    """(B, N) bool, the ``count`` (B,) real points nearest to ``point`` (B, 1, 3)."""
    sq_dist = (clouds.xyz - point).square().sum(-1).masked_fill(~clouds.mask, torch.inf)
    rank = sq_dist.argsort(dim=1).argsort(dim=1)
    return (rank < count[:, None]) & clouds.mask


def pick(clouds: Clouds, rank: Tensor, count: Tensor) -> Clouds:
    """The points of rank 0 to ``count`` (B,) - 1, ``rank`` (B, N) as of :meth:`Draws.rank`."""
    most = int(count.max())
    order = rank.argsort(dim=1, stable=True)[:, :most]
    mask = torch.arange(most, device=rank.device) < count[:, None]
    return Clouds(gather_points(clouds.xyz, order), mask & clouds.mask.gather(1, order))


def normalize_box(clouds: Clouds) -> Clouds:
    """Move the middle of the bounding box to the origin; its longest edge reaches from -1 to 1."""
    outside = ~clouds.mask[..., None]
    low = clouds.xyz.masked_fill(outside, torch.inf).amin(1, keepdim=True)
    high = clouds.xyz.masked_fill(outside, -torch.inf).amax(1, keepdim=True)
    longest = (high - low).amax(-1, keepdim=True).clamp_min(torch.finfo(low.dtype).tiny)
    return clouds.moved((clouds.xyz - (low + high) / 2) * (2 / longest))
