"""CutMix of the clouds of a batch: PointCutMix-R, and the pairing of points that it needs.

Batched, on the tensor's device, seeded by a generator, never in place.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ea_pointcloud._checks import check_mask, check_pair, check_positive, check_share, real_points
from ea_pointcloud.ops.neighbors import gather_points


class Mixed(NamedTuple):
    """Mixed clouds.

    Args:
        xyz: (B, N, 3), or (B, N, 3 + F) as given, with the mask of the clouds that were mixed.
        lam: (B,) in 0..1, the weight of each cloud's own label; 1 - ``lam`` is that of the other.
        partner: (B,) int64, the other cloud of the batch in each.
    """

    xyz: Tensor
    lam: Tensor
    partner: Tensor


@dataclass(frozen=True)
class CutMix:
    """Mix the clouds of a batch with one another by PointCutMix-R.

    Every cloud draws separately whether it is mixed, and with which ``lam``; the published code
    draws once for a whole batch.

    Args:
        prob: fraction of the clouds that are mixed, above 0.
        beta: ``lam`` comes from Beta(beta, beta): 1 is U(0, 1), less is nearer to the ends.
    """

    prob: float = 0.5
    beta: float = 1.0

    def __post_init__(self) -> None:
        """Check the values before the first batch."""
        check_share("cutmix_prob", self.prob)
        check_positive("cutmix_beta", self.beta)

    def __call__(
        self,
        xyz: Tensor,
        mask: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> Mixed:
        """Mix clouds (B, N, 3) with mask (B, N) True for real points; the masks stay.

        Features of points may follow their coordinates, (B, N, 3 + F).
        """
        batch = len(xyz)
        partner = torch.randperm(batch, generator=generator, device=xyz.device)
        chosen = torch.rand(batch, generator=generator, device=xyz.device) < self.prob
        lam = torch.where(chosen, _beta(self.beta, batch, xyz, generator), 1.0)
        other_mask = None if mask is None else mask[partner]
        mixed, lam = point_cutmix(
            xyz, xyz[partner], lam, mask=mask, other_mask=other_mask, generator=generator
        )
        return Mixed(mixed, lam, partner)


def point_cutmix(
    xyz: Tensor,
    other: Tensor,
    lam: Tensor,
    *,
    mask: Tensor | None = None,
    other_mask: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """PointCutMix-R: replace random points by those of another cloud that they are paired with.

    Pairs are those of :func:`match_points`, where the published code approximates an optimal
    assignment, which takes longer than a training step on a CPU.

    Args:
        xyz: (B, N, 3), or (B, N, 3 + F) with features, which stay with their points.
        other: the same shape, in the same frame.
        lam: (B,) fraction of the points of ``xyz`` that stay, rounded to whole points.
        mask: (B, N) bool, True = real point; it is that of the result too.
        other_mask: (B, N) bool.
        generator: of all draws.

    Returns:
        xyz: each point one of ``xyz`` or of ``other``.
        lam: (B,) the fraction that stayed, after rounding.

    Reference:
        Zhang et al., PointCutMix: regularization strategy for point cloud classification,
        Neurocomputing 2022.
    """
    check_pair(xyz[..., :3], other[..., :3])
    if other.shape != xyz.shape:
        raise ValueError(
            f"other must have as many points as xyz, {xyz.shape[1]}, got {other.shape[1]}; pad "
            "the smaller clouds and give masks"
        )
    real = real_points(mask, xyz)
    check_mask(other_mask, other)
    if lam.shape != xyz.shape[:1]:
        raise ValueError(f"lam must have shape (B,) = ({len(xyz)},), got {tuple(lam.shape)}")
    count = real.sum(1)
    replaced = ((1 - lam) * count).round()
    key = torch.rand(real.shape, generator=generator, device=xyz.device)
    rank = key.masked_fill(~real, torch.inf).argsort(dim=1).argsort(dim=1)
    match = match_points(xyz[..., :3], other[..., :3], mask=mask, other_mask=other_mask)
    paired = gather_points(other, match)
    mixed = torch.where((rank < replaced[:, None])[..., None], paired, xyz)
    return mixed, 1 - replaced / count


def match_points(
    xyz: Tensor, other: Tensor, *, mask: Tensor | None = None, other_mask: Tensor | None = None
) -> Tensor:
    """Pair each point with one of another cloud in about the same place.

    Both clouds are cut in halves of equally many points along x, y, z, x, ... until single points
    are left, which are paired in order. Between clouds of one size every point is taken once;
    between others as evenly as can be. On the device of the points, without a synchronisation, in
    O(N log(N)^2).

    Args:
        xyz: (B, N, 3).
        other: (B, M, 3) in the same frame.
        mask: (B, N) bool, True = real point.
        other_mask: (B, M) bool; padding is never taken.

    Returns:
        idx: (B, N) int64, ``other[b, idx[b, i]]`` belongs to ``xyz[b, i]``. Padding of ``xyz``
            gets some real point.
    """
    check_pair(xyz, other)
    position, count = _tree_positions(xyz, mask)
    other_position, other_count = _tree_positions(other, other_mask)
    target = ((2 * position + 1) * other_count // (2 * count)).minimum(other_count - 1)
    return _inverse_order(other_position).gather(1, target)


def _tree_positions(xyz: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Position (B, N) of each point in the tree, padding last; count (B, 1) of real points."""
    batch, num_points = xyz.shape[:2]
    real = real_points(mask, xyz)
    count = real.sum(1, keepdim=True)
    # In 0..1, so that the number of the cell can be added: one sort does for both. Rounding then
    # makes some nearly equal coordinates equal, which costs nothing.
    inside = xyz.float().masked_fill(~real[..., None], 0.0)
    low = inside.amin(1, keepdim=True)
    extent = (inside.amax(1, keepdim=True) - low).clamp_min(torch.finfo(torch.float32).tiny)
    inside = (inside - low) / extent * 0.5
    position = torch.zeros((batch, num_points), dtype=torch.int64, device=xyz.device)
    for level in range(max(1, (num_points - 1).bit_length())):
        cells = 1 << level
        cell = (position * cells // count).masked_fill(~real, num_points * 2)
        key = cell + inside[..., level % 3]
        position = _inverse_order(key.argsort(dim=1, stable=True))
    return position, count


def _inverse_order(order: Tensor) -> Tensor:
    """(B, N) position of each index in the order (B, N)."""
    steps = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter(1, order, steps)


def _beta(beta: float, batch: int, like: Tensor, generator: torch.Generator | None) -> Tensor:
    """(B,) from Beta(beta, beta)."""
    shape = torch.full((2, batch), beta, device=like.device)
    # What torch.distributions call, which take no generator themselves.
    one, two = torch._standard_gamma(shape, generator=generator)  # pyright: ignore
    tiny = torch.finfo(one.dtype).tiny  # both may have underflown where beta is small
    return (one + tiny) / (one + two + 2 * tiny)
