"""The training augmentation of clouds: which changes, how strong, in what order."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ea_pointcloud._checks import check_choice, check_share
from ea_pointcloud.augment.corruption import random_cut, random_stray, random_view
from ea_pointcloud.augment.pointwolf import random_wolf
from ea_pointcloud.augment.transforms import (
    ROTATIONS,
    TILT,
    choose_points,
    random_drop,
    random_jitter,
    random_mirror,
    random_rotate,
    random_rotate_up,
    random_scale,
    random_shift,
    random_tilt,
    random_warp,
)
from ea_pointcloud.ops import gather_points


@dataclass(frozen=True)
class Augmentation:
    """The training augmentation: points, wolf, warp, rotation, mirror, scale, shift, ..., drop.

    The order of the entries is that in which they are applied.

    Every entry at its default changes nothing.

    Args:
        num_points: points drawn anew from each cloud, 0 for all of them.
        wolf: share of the clouds that PointWOLF bends, see
            :func:`~ea_pointcloud.augment.random_wolf`.
        warp: strength of the smooth bending, see :func:`~ea_pointcloud.augment.random_warp`.
        rotation: ``"none"``, ``"up"``, ``"tilt"`` (at most 30 degrees about any axis) or ``"any"``,
            uniform over all rotations, SO(3).
        rotation_prob: fraction of the clouds that are rotated.
        mirror: whether half of the clouds are mirrored in an upright plane.
        scale: lowest and highest factor, drawn for each axis.
        shift: largest shift along an axis.
        jitter: standard deviation of the noise, cut off at five times that.
        stray: largest share of points put anywhere, see
            :func:`~ea_pointcloud.augment.random_stray`.
        view: share of the clouds that are seen from one side only, the rest of them left out by the
            mask, see :func:`~ea_pointcloud.augment.random_view`.
        cut: largest share of points beyond a plane, left out by the mask, see
            :func:`~ea_pointcloud.augment.random_cut`.
        drop: largest share of points left out by the mask.
        spoiled: share of the clouds that ``stray``, ``view``, ``cut`` and ``drop`` apply to; the
            others keep all of their points where they are.
    """

    num_points: int = 0
    wolf: float = 0.0
    warp: float = 0.0
    rotation: str = "none"
    rotation_prob: float = 1.0
    mirror: bool = False
    scale: tuple[float, float] = (1.0, 1.0)
    shift: float = 0.0
    jitter: float = 0.0
    stray: float = 0.0
    view: float = 0.0
    cut: float = 0.0
    drop: float = 0.0
    spoiled: float = 1.0

    def __post_init__(self) -> None:
        """Check what the functions would only find on the first batch."""
        check_choice("rotation", self.rotation, ROTATIONS)
        check_share("rotation_prob", self.rotation_prob)

    def __call__(
        self,
        xyz: Tensor,
        *,
        mask: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Return new coordinates and the mask of the points kept (None if all are).

        ``mask`` (B, N) tells ``wolf``, ``stray``, ``view`` and ``cut`` what is padding.
        """
        if self.num_points:
            idx = choose_points(xyz, self.num_points, "random", generator=generator)
            xyz = gather_points(xyz, idx)
            mask = None if mask is None else mask.gather(1, idx)
        if self.wolf:
            bent = random_wolf(xyz, mask=mask, generator=generator)
            chosen = torch.rand(len(xyz), generator=generator, device=xyz.device) < self.wolf
            xyz = torch.where(chosen[:, None, None], bent, xyz)
        if self.warp:
            xyz = random_warp(xyz, self.warp, generator=generator)
        if self.rotation != "none":
            xyz = self._rotate(xyz, generator)
        if self.mirror:
            xyz = random_mirror(xyz, generator=generator)
        if tuple(self.scale) != (1.0, 1.0):
            xyz = random_scale(xyz, *self.scale, generator=generator)
        if self.shift:
            xyz = random_shift(xyz, self.shift, generator=generator)
        if self.jitter:
            xyz = random_jitter(xyz, self.jitter, 5 * self.jitter, generator=generator)
        spoiled, kept = self._spoil(xyz, mask, generator)
        if self.spoiled == 1:
            return spoiled, kept
        whole = torch.rand(len(xyz), 1, generator=generator, device=xyz.device) >= self.spoiled
        xyz = torch.where(whole[..., None], xyz, spoiled)
        return xyz, None if kept is None else kept | whole

    def _rotate(self, xyz: Tensor, generator: torch.Generator | None) -> Tensor:
        if self.rotation == "up":
            rotated = random_rotate_up(xyz, generator=generator)
        elif self.rotation == "tilt":
            rotated = random_tilt(xyz, TILT, generator=generator)
        else:
            rotated = random_rotate(xyz, generator=generator)
        if self.rotation_prob == 1:
            return rotated
        draw = torch.rand(len(xyz), 1, 1, generator=generator, device=xyz.device)
        return torch.where(draw < self.rotation_prob, rotated, xyz)

    def _spoil(
        self, xyz: Tensor, mask: Tensor | None, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor | None]:
        """Coordinates and kept points as real sensors might give them."""
        if self.stray:
            xyz = random_stray(xyz, self.stray, mask=mask, generator=generator)
        kept = None
        if self.view:
            kept = random_view(xyz, self.view, mask=mask, generator=generator)
        if self.cut:
            seen = mask if kept is None else kept
            kept = random_cut(xyz, self.cut, mask=seen, generator=generator)
        if self.drop:
            dropped = random_drop(xyz, self.drop, generator=generator)
            kept = dropped if kept is None else left_in(kept, dropped)
        return xyz, kept


def left_in(mask: Tensor, kept: Tensor) -> Tensor:
    """What both masks (B, N) mark; where that is nothing of a cloud, what ``mask`` marks."""
    both = mask & kept
    return torch.where(both.any(1, keepdim=True), both, mask)
