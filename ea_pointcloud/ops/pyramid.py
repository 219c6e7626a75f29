"""All index levels of a network at once: centres of centres, and the neighbours of each."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from ea_pointcloud.ops.gather import gather_points
from ea_pointcloud.ops.neighbors import knn
from ea_pointcloud.ops.sampling import farthest_point_sample, outermost_point


class PyramidLevel(NamedTuple):
    """One level: S centres among the N points of the level below, with K neighbours each.

    Attributes:
        xyz: (B, S, 3) centres.
        center: (B, S) int64, their indices among the points below.
        neighbor: (B, S, K) int64, the points below nearest to each centre, nearest first.
    """

    xyz: Tensor
    center: Tensor
    neighbor: Tensor

    def to(self, *target: object, **options: object) -> "PyramidLevel":
        """Move all three, with the arguments of :meth:`torch.Tensor.to` for a device."""
        return PyramidLevel(*(tensor.to(*target, **options) for tensor in self))  # pyright: ignore


def build_pyramid(
    xyz: Tensor,
    num_samples: Sequence[int],
    k: int | Sequence[int],
    *,
    lengths: Tensor | None = None,
) -> tuple[PyramidLevel, ...]:
    """Sample a cloud level by level, and find the neighbours of each centre.

    The levels depend on the coordinates alone, so they can be computed ahead of the network: on a
    side stream, for the next batch while this one trains, outside autocast, or once for clouds
    that are evaluated many times. Farthest point sampling starts at the outermost point, so no
    level depends on the order of the points (exact ties of distance aside).

    Args:
        xyz: (B, N, 3) points, any frame and unit.
        num_samples: S of each level.
        k: K of each level, or one for all; a level below with fewer points gives all it has.
        lengths: (B,) valid points of each padded cloud of ``xyz``; all N if omitted.

    Returns:
        One level for each entry of ``num_samples``; ``xyz`` of a level is ``below[b, center]``.

    Raises:
        ValueError: if a shape is wrong, a count below 1, or ``k`` and ``num_samples`` differ in
            length.
    """
    counts = [k] * len(num_samples) if isinstance(k, int) else list(k)
    if len(counts) != len(num_samples):
        raise ValueError(
            f"k must be an int or have one entry for each of the {len(num_samples)} levels in "
            f"num_samples, got {len(counts)}"
        )
    levels = []
    for centers, neighbors in zip(num_samples, counts, strict=True):
        start = outermost_point(xyz, lengths)
        center = farthest_point_sample(xyz, centers, lengths=lengths, start=start)
        center_xyz = gather_points(xyz, center)
        # Not min(), of which an export makes a number that is known only when the program runs.
        most = neighbors if neighbors <= xyz.shape[1] else xyz.shape[1]
        _, neighbor = knn(center_xyz, xyz, most, lengths=lengths)
        levels.append(PyramidLevel(center_xyz, center, neighbor))
        xyz, lengths = center_xyz, None  # centres are always real points
    return tuple(levels)
