"""Two clouds mixed into one, whose label is shared between theirs by the points of each.

Batched, on the tensor's device, seeded by a generator, never in place. Every function takes a
batch and another one, cloud by cloud, and the share (B,) of points that shall come from the
other: 0 changes nothing. Masks mark the real points; clouds of any sizes can be mixed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ea_pointcloud._checks import (
    check_choice,
    check_mask,
    check_pair,
    check_positive,
    check_share,
    real_points,
)
from ea_pointcloud.augment.matching import inverse_order, match_points, optimal_match
from ea_pointcloud.ops import gather_points

_MOST_RIGID = 0.5  # of a cloud's points that RSMix exchanges, 512 of 1,024 as published


class Mixed(NamedTuple):
    """Mixed clouds.

    Args:
        xyz: (B, N, 3).
        mask: (B, N) bool, True = real point; None where all points are.
        share: (B,) in 0..1, the weight of the other cloud's label.
    """

    xyz: Tensor
    mask: Tensor | None
    share: Tensor


def point_cutmix_r(
    xyz: Tensor,
    other: Tensor,
    share: Tensor,
    *,
    mask: Tensor | None = None,
    other_mask: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Mixed:
    """PointCutMix-R: random points give way to those of the other cloud that they are paired with.

    Pairs are those of :func:`~ea_pointcloud.augment.matching.match_points`, where the published
    code approximates an optimal assignment, which takes longer than a training step on a CPU.

    Args:
        xyz: (B, N, 3).
        other: (B, N, 3) what is mixed in, in the same frame.
        share: (B,) of each cloud's points that are replaced, rounded to whole points.
        mask: (B, N) bool, True = real point.
        other_mask: (B, N) bool.
        generator: of all draws.

    Returns:
        Mixed: each point is one of ``xyz`` or of ``other``, ``mask`` is that of ``xyz``.

    Reference:
        Zhang et al., PointCutMix: regularization strategy for point cloud classification,
        Neurocomputing 2022.
    """
    real = _check(xyz, other, share, mask, other_mask)
    key = torch.rand(real.shape, generator=generator, device=xyz.device)
    return _cutmix(xyz, other, share, key, mask, other_mask)


def point_cutmix_k(
    xyz: Tensor,
    other: Tensor,
    share: Tensor,
    *,
    mask: Tensor | None = None,
    other_mask: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Mixed:
    """PointCutMix-K: the points nearest to a random one give way to those they are paired with.

    Arguments, pairs and reference are those of :func:`point_cutmix_r`.
    """
    real = _check(xyz, other, share, mask, other_mask)
    sq_dist = (xyz - _random_point(xyz, real, generator)).square().sum(-1)
    return _cutmix(xyz, other, share, sq_dist, mask, other_mask)


def point_mixup(
    xyz: Tensor,
    other: Tensor,
    share: Tensor,
    *,
    mask: Tensor | None = None,
    other_mask: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Mixed:
    """PointMixup: every point moves by ``share`` of the way to the one it is paired with.

    Pairs are those of :func:`~ea_pointcloud.augment.matching.optimal_match`, found on the CPU.

    Args:
        xyz: (B, N, 3).
        other: (B, N, 3) in the same frame.
        share: (B,) in 0..1.
        mask: (B, N) bool, True = real point.
        other_mask: (B, N) bool.
        generator: not needed; taken as by the others.

    Returns:
        Mixed: ``mask`` is that of ``xyz``.

    Reference:
        Chen et al., PointMixup: augmentation for point clouds, ECCV 2020.
    """
    _check(xyz, other, share, mask, other_mask)
    # Finding pairs takes longest: only where something moves.
    rows = share.nonzero()[:, 0]
    if len(rows) == 0:
        return Mixed(xyz.clone(), mask, share)
    near, far = xyz[rows], other[rows]
    idx = optimal_match(
        near,
        far,
        mask=None if mask is None else mask[rows],
        other_mask=None if other_mask is None else other_mask[rows],
    )
    part = share[rows, None, None].to(xyz.dtype)
    moved = (1 - part) * near + part * gather_points(far, idx)
    return Mixed(xyz.index_copy(0, rows, moved), mask, share)


def rsmix(
    xyz: Tensor,
    other: Tensor,
    share: Tensor,
    *,
    mask: Tensor | None = None,
    other_mask: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Mixed:
    """RSMix: the points of a ball give way to those of a ball of the other cloud, moved as a whole.

    Both balls have a random point in the middle and the radius ``share``. Of the first at most half
    of the cloud's points go; as many of the second come, at random places of it, or all of them,
    and the mask leaves out the places that stay empty. The published code fills those with copies.

    Args:
        xyz: (B, N, 3), about the size of the unit sphere.
        other: (B, N, 3) what is mixed in, in the same frame.
        share: (B,) the radius. The share that is returned is that of the points.
        mask: (B, N) bool, True = real point.
        other_mask: (B, N) bool.
        generator: of all draws.

    Returns:
        Mixed: ``share`` is that of ``other``'s points among those that ``mask`` marks.

    Reference:
        Lee et al., Regularization strategy for point cloud via rigidly mixed sample, CVPR 2021.
    """
    real = _check(xyz, other, share, mask, other_mask)
    other_real = real_points(other_mask, other)
    middle = _random_point(xyz, real, generator)
    other_middle = _random_point(other, other_real, generator)
    order, inside = _random_order(_ball(xyz, middle, share) & real, generator)
    other_order, other_inside = _random_order(
        _ball(other, other_middle, share) & other_real, generator
    )
    most = (real.sum(1) * _MOST_RIGID).ceil().long()
    gone = inside.minimum(most)[:, None]
    come = other_inside[:, None].minimum(gone)
    place = torch.arange(xyz.shape[1], device=xyz.device)
    moved = gather_points(other, other_order) - other_middle + middle
    # Place j of one order is exchanged for place j of the other.
    mixed = torch.where((place < come)[..., None], moved, gather_points(xyz, order))
    kept = real.gather(1, order) & ~((place >= come) & (place < gone))
    back = inverse_order(order)
    kept = kept.gather(1, back)
    return Mixed(gather_points(mixed, back), kept, come[:, 0] / kept.sum(1))


KINDS: dict[str, Callable[..., Mixed]] = {
    "cutmix_r": point_cutmix_r,
    "cutmix_k": point_cutmix_k,
    "rsmix": rsmix,
    "mixup": point_mixup,
}


@dataclass(frozen=True)
class Mix:
    """Mix the clouds of a batch with one another.

    Every cloud draws for itself whether it is mixed, in which way, and how much of another random
    cloud of the batch it gets; the published codes draw once for a whole batch.

    Args:
        kinds: of :data:`KINDS`, each as likely as the others.
        prob: of a cloud to be mixed.
        beta: shares come from Beta(beta, beta): 1 is U(0, 1), less is nearer to the ends.
    """

    kinds: tuple[str, ...]
    prob: float = 0.5
    beta: float = 1.0

    def __post_init__(self) -> None:
        """Check what would otherwise be found on the first batch."""
        if not self.kinds or len(set(self.kinds)) < len(self.kinds):
            raise ValueError(f"kinds must name each way of mixing once, got {self.kinds}")
        for kind in self.kinds:
            check_choice("a kind of mixing", kind, KINDS)
        check_share("prob", self.prob)
        check_positive("beta", self.beta)

    def __call__(
        self,
        xyz: Tensor,
        mask: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> tuple[Mixed, Tensor]:
        """Mixed clouds of the shape of ``xyz``, and the other cloud (B,) of the batch in each."""
        batch = len(xyz)
        partner = torch.randperm(batch, generator=generator, device=xyz.device)
        draw = torch.rand(2, batch, generator=generator, device=xyz.device)
        kind = (draw[0] * len(self.kinds)).long()
        share = _beta(self.beta, batch, xyz, generator) * (draw[1] < self.prob)
        other = xyz[partner]
        other_mask = None if mask is None else mask[partner]
        total = torch.zeros_like(share)
        # One after another, because none of them changes a cloud with share 0, and asking which
        # clouds are whose would make a GPU wait.
        for number, name in enumerate(self.kinds):
            xyz, mask, own = KINDS[name](
                xyz,
                other,
                share * (kind == number),
                mask=mask,
                other_mask=other_mask,
                generator=generator,
            )
            total = total + own
        return Mixed(xyz, mask, total), partner


def _check(
    xyz: Tensor, other: Tensor, share: Tensor, mask: Tensor | None, other_mask: Tensor | None
) -> Tensor:
    """The real points (B, N) of ``xyz``, if everything has a shape that can be mixed."""
    check_pair(xyz, other)
    if other.shape != xyz.shape:
        raise ValueError(
            f"other must have as many points as xyz, {xyz.shape[1]}, got {other.shape[1]}; pad "
            "the smaller clouds and give masks"
        )
    real = real_points(mask, xyz)
    check_mask(other_mask, other)
    if share.shape != xyz.shape[:1]:
        raise ValueError(f"share must have shape (B,) = ({len(xyz)},), got {tuple(share.shape)}")
    return real


def _cutmix(
    xyz: Tensor,
    other: Tensor,
    share: Tensor,
    key: Tensor,
    mask: Tensor | None,
    other_mask: Tensor | None,
) -> Mixed:
    """Replace the ``share`` of the real points whose ``key`` (B, N) is lowest."""
    count = key.new_full(share.shape, key.shape[1]) if mask is None else mask.sum(1)
    replaced = (share * count).round()
    key = key if mask is None else key.masked_fill(~mask, torch.inf)
    rank = key.argsort(dim=1).argsort(dim=1)
    idx = match_points(xyz, other, mask=mask, other_mask=other_mask)
    paired = gather_points(other, idx)
    mixed = torch.where((rank < replaced[:, None])[..., None], paired, xyz)
    return Mixed(mixed, mask, replaced / count)


def _random_point(xyz: Tensor, real: Tensor, generator: torch.Generator | None) -> Tensor:
    """(B, 1, 3) a real point of each cloud."""
    draw = torch.rand(real.shape, generator=generator, device=xyz.device)
    return gather_points(xyz, draw.masked_fill(~real, -1.0).argmax(1, keepdim=True))


def _ball(xyz: Tensor, middle: Tensor, radius: Tensor) -> Tensor:
    """(B, N) whether a point is nearer to the middle than the radius."""
    return (xyz - middle).square().sum(-1) < radius.square()[:, None]


def _random_order(chosen: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """Order (B, N) that has the chosen points (B, N) first, at random, and their count (B,)."""
    draw = torch.rand(chosen.shape, generator=generator, device=chosen.device)
    return draw.masked_fill(~chosen, 2.0).argsort(dim=1), chosen.sum(1)


def _beta(beta: float, batch: int, like: Tensor, generator: torch.Generator | None) -> Tensor:
    """(B,) from Beta(beta, beta)."""
    shape = torch.full((2, batch), beta, device=like.device)
    # What torch.distributions call, which take no generator themselves.
    one, two = torch._standard_gamma(shape, generator=generator)  # pyright: ignore
    tiny = torch.finfo(one.dtype).tiny  # both may have underflown where beta is small
    return (one + tiny) / (one + two + 2 * tiny)
