"""Which leaves of a large cloud a block of nearby queries has to read."""

import numpy as np

from ea_pointcloud.ops._cpu._cloud import GROUP, LEAF
from ea_pointcloud.ops._cpu._kernel import INFINITY, bits, kernel


@kernel
def _gap(low, high, at):
    """How far a coordinate lies outside an interval."""
    return max(max(low - at, at - high), np.float32(0))


@kernel
def box_gap(bounds, i, x, y, z):
    """Bit pattern of the squared distance from a point to box i of bounds (6, L)."""
    dx = _gap(bounds[0, i], bounds[1, i], x)
    dy = _gap(bounds[2, i], bounds[3, i], y)
    dz = _gap(bounds[4, i], bounds[5, i], z)
    return bits(dx * dx + dy * dy + dz * dz)


@kernel
def _nearest(bounds, i, others, j):
    """Bit pattern of the least squared distance between two boxes."""
    zero = np.float32(0)
    dx = max(max(bounds[0, i] - others[1, j], others[0, j] - bounds[1, i]), zero)
    dy = max(max(bounds[2, i] - others[3, j], others[2, j] - bounds[3, i]), zero)
    dz = max(max(bounds[4, i] - others[5, j], others[4, j] - bounds[5, i]), zero)
    return bits(dx * dx + dy * dy + dz * dz)


@kernel
def _furthest(bounds, i, others, j):
    """Bit pattern of the largest squared distance between points of two boxes."""
    dx = max(bounds[1, i] - others[0, j], others[1, j] - bounds[0, i])
    dy = max(bounds[3, i] - others[2, j], others[3, j] - bounds[2, i])
    dz = max(bounds[5, i] - others[4, j], others[5, j] - bounds[4, i])
    return bits(dx * dx + dy * dy + dz * dz)


@kernel
def reach_of_nearest(boxes, blocks, block, k):
    """A squared distance within which each query of a block has k points, as a bit pattern."""
    reach = np.int32(INFINITY)
    if k <= LEAF * GROUP:
        for group in range(boxes.count // (LEAF * GROUP)):  # those that are full
            reach = min(reach, _furthest(boxes.groups, group, blocks.leaves, block))
    if k <= LEAF:
        for group in range(boxes.groups.shape[1]):
            if _nearest(boxes.groups, group, blocks.leaves, block) <= reach:
                last = min(boxes.count // LEAF, (group + 1) * GROUP)
                for leaf in range(group * GROUP, last):
                    reach = min(reach, _furthest(boxes.leaves, leaf, blocks.leaves, block))
    return reach


@kernel
def list_leaves(boxes, blocks, block, reach, bounds, listed):
    """List the leaves within reach of a block, and copy their bounds; returns how many."""
    leaves = (boxes.count + LEAF - 1) // LEAF
    count = 0
    for group in range(boxes.groups.shape[1]):
        if _nearest(boxes.groups, group, blocks.leaves, block) > reach:
            continue
        for leaf in range(group * GROUP, min(leaves, (group + 1) * GROUP)):
            listed[count] = leaf
            for bound in range(6):
                bounds[bound, count] = boxes.leaves[bound, leaf]
            count += _nearest(boxes.leaves, leaf, blocks.leaves, block) <= reach
    return count
