"""Distances as integers, and clouds cut into blocks with boxes, for the Triton kernels.

Kernels compare squared distances by their bits: the int32 pattern of a non-negative float sorts
like the float, integers reduce in one instruction a warp, and -1 stands below every distance. Every
kernel that calls :func:`sq_dist_bits` or :func:`box_bits` must be launched with
``enable_fp_fusion=False``: a fused multiply-add rounds once where the operators promise two steps.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

INFINITY = tl.constexpr(0x7F800000)  # the bits of +inf, above those of every finite distance
NO_INDEX = tl.constexpr(0x7FFFFFFF)  # above every index


@triton.jit
def sq_dist_bits(dx, dy, dz):
    """The int32 bits of ``((dx*dx) + (dy*dy)) + (dz*dz)``, for differences that are not NaN."""
    return (dx * dx + dy * dy + dz * dz).to(tl.int32, bitcast=True)


@triton.jit
def is_finite(x, y, z):
    """Whether all three float32 coordinates are finite."""
    magnitude = _magnitude_bits(x)
    magnitude = tl.maximum(magnitude, _magnitude_bits(y))
    magnitude = tl.maximum(magnitude, _magnitude_bits(z))
    return magnitude < INFINITY


@triton.jit
def _magnitude_bits(value):
    return value.to(tl.int32, bitcast=True) & 0x7FFFFFFF


@triton.jit
def box_bits(x, y, z, low_x, low_y, low_z, high_x, high_y, high_z):
    """The bits of a distance that no point in the box is nearer to the finite (x, y, z) than.

    Bound and distance are compared as computed, not as real numbers. Along one axis, where c < low,
    every point p of the box has p - c >= low - c > 0, so fl(p - c) >= fl(low - c) because rounding
    is monotone; where c > high, likewise with c - high; else the bound is 0. Squaring and the two
    sums are monotone for non-negative values before rounding and therefore after it, and both sides
    take the same steps. So the bound never exceeds the float32 distance of any point of the box,
    overflow and denormals included. An empty box, low = inf and high = -inf, is infinitely far.
    """
    dx = tl.maximum(tl.maximum(low_x - x, x - high_x), 0.0)
    dy = tl.maximum(tl.maximum(low_y - y, y - high_y), 0.0)
    dz = tl.maximum(tl.maximum(low_z - z, z - high_z), 0.0)
    return sq_dist_bits(dx, dy, dz)


def power_of_two(number: int) -> int:
    """The least power of two that is not below ``number`` >= 1."""
    return 1 << (number - 1).bit_length()


def parts_of(number: int, size: int) -> int:
    """How many parts of at most ``size`` make up ``number``."""
    return -(-number // size)


class Blocks(NamedTuple):
    """Clouds sorted along a space-filling curve and cut into Q blocks of equal size, P points.

    Attributes:
        xyz: (B, 3, P) float32 coordinate planes, 0 where there is no valid point.
        index: (B, P) int32 index in the cloud, -1 where there is no valid point.
        low: (B, 3, Q) float32 lower corner of the box around each block, inf without points.
        high: (B, 3, Q) float32 upper corner, -inf without points.
    """

    xyz: Tensor
    index: Tensor
    low: Tensor
    high: Tensor


def sort_into_blocks(xyz: Tensor, valid: Tensor, size: int) -> Blocks:
    """Cut the valid points of each cloud into compact blocks.

    Args:
        xyz: (B, N, 3) float32.
        valid: (B, N) bool.
        size: points of a block; the last is filled up with invalid points.
    """
    batch, num_points = valid.shape
    order = morton_order(xyz, valid)
    padding = -num_points % size
    shape = (batch, 3, (num_points + padding) // size, size)
    valid = torch.nn.functional.pad(valid.gather(1, order), (0, padding))  # (B, P)
    order = torch.nn.functional.pad(order, (0, padding))
    planes = xyz.gather(1, order[..., None].expand(-1, -1, 3)).transpose(1, 2)  # (B, 3, P)

    def masked(fill: float) -> Tensor:
        return planes.masked_fill(~valid[:, None], fill)

    return Blocks(
        xyz=masked(0.0).contiguous(),
        index=order.masked_fill(~valid, -1).int(),
        low=masked(torch.inf).reshape(shape).amin(-1),
        high=masked(-torch.inf).reshape(shape).amax(-1),
    )


def morton_order(xyz: Tensor, valid: Tensor) -> Tensor:
    """(B, N) int64: each cloud's points along a Morton curve through its box, invalid ones last."""
    low = xyz.masked_fill(~valid[..., None], torch.inf).amin(1, keepdim=True)
    high = xyz.masked_fill(~valid[..., None], -torch.inf).amax(1, keepdim=True)
    extent = (high - low).amax(-1, keepdim=True)  # one for all axes: the cells are cubes
    # A cloud without extent, or one so large that it overflows, falls into one cell: slow, not
    # wrong. nan_to_num also covers the invalid points.
    cell = ((xyz - low) / extent * 1023).nan_to_num(0.0, 0.0, 0.0).clamp_(0, 1023).int()
    x, y, z = _spread(cell).unbind(-1)
    code = x | (y << 1) | (z << 2)
    return code.masked_fill(~valid, 1 << 30).sort(dim=1, stable=True).indices


def _spread(value: Tensor) -> Tensor:
    """Move bit i of 10-bit integers to bit 3i."""
    value = (value | (value << 16)) & 0x030000FF
    value = (value | (value << 8)) & 0x0300F00F
    value = (value | (value << 4)) & 0x030C30C3
    return (value | (value << 2)) & 0x09249249
