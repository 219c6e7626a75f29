"""The training augmentation of clouds: which changes, how strong, in what order."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ea_pointcloud._checks import check_choice, check_share
from ea_pointcloud.augment.corruption import random_crop, random_outliers, random_partial_view
from ea_pointcloud.augment.transforms import (
    ROTATIONS,
    TILT,
    random_elastic,
    random_jitter,
    random_mirror,
    random_point_dropout,
    random_rotate,
    random_rotate_up,
    random_scale,
    random_shift,
    random_tilt,
    transform_with_normals,
)


@dataclass(frozen=True)
class Augmentation:
    """Random changes of training clouds, applied in the order of the fields.

    Every field at its default changes nothing.

    Args:
        elastic: strength of :func:`~ea_pointcloud.augment.random_elastic`.
        rotation: ``"none"``, ``"up"`` (about the up axis), ``"tilt"`` (at most 30 degrees about
            any axis) or ``"any"``, uniform over SO(3).
        rotation_prob: fraction of the clouds that are rotated.
        mirror: whether half of the clouds are mirrored in an upright plane.
        scale: lowest and highest factor, drawn for each axis.
        shift: largest shift along an axis.
        jitter: standard deviation of the noise, cut off at five times that.
        outlier_ratio: largest fraction of points that become outliers, see
            :func:`~ea_pointcloud.augment.random_outliers`.
        partial_view_prob: fraction of the clouds that become partial views, see
            :func:`~ea_pointcloud.augment.random_partial_view`.
        crop_ratio: largest fraction of points cropped beyond a plane, see
            :func:`~ea_pointcloud.augment.random_crop`.
        point_dropout: largest fraction of points in point dropout.
        corruption_prob: fraction of the clouds to which ``outlier_ratio``, ``partial_view_prob``,
            ``crop_ratio`` and ``point_dropout`` apply.
    """

    elastic: float = 0.0
    rotation: str = "none"
    rotation_prob: float = 1.0
    mirror: bool = False
    scale: tuple[float, float] = (1.0, 1.0)
    shift: float = 0.0
    jitter: float = 0.0
    outlier_ratio: float = 0.0
    partial_view_prob: float = 0.0
    crop_ratio: float = 0.0
    point_dropout: float = 0.0
    corruption_prob: float = 1.0

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
        """Augment clouds (B, N, 3) with mask (B, N), True for real points.

        Returns:
            xyz: (B, N, 3), new coordinates in the same order.
            kept: (B, N) bool, False for cropped, dropped or hidden points; None if all are kept.
        """
        xyz, _, kept = self.with_normals(xyz, None, mask=mask, generator=generator)
        return xyz, kept

    def with_normals(
        self,
        xyz: Tensor,
        normals: Tensor | None,
        *,
        mask: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """As calling it, for clouds with normals (B, N, 3), which stay those of the surface.

        An outlier has the normal of the point in whose place it is.

        Returns:
            xyz: (B, N, 3).
            normals: (B, N, 3) of unit length, or zero where they were.
            kept: (B, N) bool or None.
        """
        if self.elastic:
            xyz = random_elastic(xyz, self.elastic, generator=generator)
        xyz, normals = transform_with_normals(
            lambda points: self._transform(points, generator), xyz, normals
        )
        if self.shift:
            xyz = random_shift(xyz, self.shift, generator=generator)
        if self.jitter:
            xyz = random_jitter(xyz, self.jitter, 5 * self.jitter, generator=generator)
        corrupted, kept = self._corrupt(xyz, mask, generator)
        if self.corruption_prob == 1:
            return corrupted, normals, kept
        draw = torch.rand(len(xyz), 1, generator=generator, device=xyz.device)
        clean = draw >= self.corruption_prob
        xyz = torch.where(clean[..., None], xyz, corrupted)
        return xyz, normals, None if kept is None else kept | clean

    def _transform(self, xyz: Tensor, generator: torch.Generator | None) -> Tensor:
        """What is a matrix for each cloud: rotation, mirroring and scaling."""
        if self.rotation != "none":
            xyz = self._rotate(xyz, generator)
        if self.mirror:
            xyz = random_mirror(xyz, generator=generator)
        if tuple(self.scale) != (1.0, 1.0):
            xyz = random_scale(xyz, *self.scale, generator=generator)
        return xyz

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

    def _corrupt(
        self, xyz: Tensor, mask: Tensor | None, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor | None]:
        """Coordinates and kept points as a sensor might give them."""
        kept = None
        if self.outlier_ratio:
            xyz = random_outliers(xyz, self.outlier_ratio, mask=mask, generator=generator)
        if self.partial_view_prob:
            kept = random_partial_view(xyz, self.partial_view_prob, mask=mask, generator=generator)
        if self.crop_ratio:
            visible = mask if kept is None else kept
            kept = random_crop(xyz, self.crop_ratio, mask=visible, generator=generator)
        if self.point_dropout:
            dropout = random_point_dropout(xyz, self.point_dropout, generator=generator)
            kept = dropout if kept is None else intersect_masks(kept, dropout)
        return xyz, kept


def intersect_masks(mask: Tensor, kept: Tensor) -> Tensor:
    """``mask & kept``, both (B, N); where that leaves nothing of a cloud, its ``mask``."""
    both = mask & kept
    return torch.where(both.any(1, keepdim=True), both, mask)
