"""Farthest point sampling: a pick updates all points of small clouds, near boxes of large ones."""

import numpy as np
import torch
from torch import Tensor

from ea_pointcloud.ops._cpu._boxes import box_gap
from ea_pointcloud.ops._cpu._cloud import GROUP, LEAF, as_arrays, build, pack
from ea_pointcloud.ops._cpu._kernel import ABOVE, bits, kernel
from ea_pointcloud.ops._cpu._pool import parts, run

# From this number of points on, boxes save more than they cost.
BOXES_FROM = 3000

# In place of the squared distance to the nearest pick, as bit patterns.
UNSEEN = np.int32(ABOVE)
PICKED = np.int32(-1)


def farthest_point_sample(
    xyz: Tensor, num_samples: int, lengths: Tensor | None, start: Tensor
) -> Tensor:
    """See :func:`ea_pointcloud.ops.farthest_point_sample`."""
    batch, num_points = xyz.shape[:2]
    clouds, sizes = as_arrays(xyz, lengths)
    begin = start.contiguous().numpy()
    order = np.empty((batch, num_samples), np.int64)
    if num_points < BOXES_FROM:
        ranges = parts(batch, num_points * min(num_samples, num_points) // 4)
        run(_sample_all, [(clouds[i:j], sizes[i:j], begin[i:j], order[i:j]) for i, j in ranges])
    else:
        boxes = build(clouds, sizes, 1)
        run(_sample_boxes, list(zip(boxes, [num_points] * batch, begin, order, strict=True)))
    return torch.from_numpy(order)


@kernel
def _finish(order, picks):
    """Repeat order[:picks] to the end; a cloud without a valid point gets zeros."""
    if picks == 0:
        order[:] = 0
    for s in range(picks, len(order)):
        order[s] = order[s - picks]


@kernel
def _sample_all(xyz, lengths, start, order):
    """Sample clouds (B, N, 3) one after another."""
    leaves = (xyz.shape[1] + LEAF - 1) // LEAF
    planes = np.empty((3, leaves, LEAF), np.float32)
    index = np.empty((leaves, LEAF), np.int32)
    x, y, z = planes[0].reshape(-1), planes[1].reshape(-1), planes[2].reshape(-1)
    original = index.reshape(-1)
    closest = np.empty(leaves * LEAF, np.int32)
    for b in range(len(xyz)):
        count = pack(xyz[b], lengths[b], planes, index)
        size = (count + LEAF - 1) // LEAF * LEAF
        closest[:count] = UNSEEN
        closest[count:size] = PICKED
        last = np.int32(0)
        for n in range(count):
            if original[n] == start[b]:
                last = np.int32(n)
        picks = min(count, order.shape[1])
        for s in range(picks):
            order[b, s] = original[last]
            px, py, pz = x[last], y[last], z[last]
            closest[last] = PICKED
            farthest = PICKED
            for n in range(size):
                dx, dy, dz = x[n] - px, y[n] - py, z[n] - pz
                distance = min(bits(dx * dx + dy * dy + dz * dz), closest[n])
                closest[n] = distance
                farthest = max(farthest, distance)
            last = np.int32(size)
            for n in range(size):
                last = min(last, np.int32(n) if closest[n] == farthest else np.int32(size))
        _finish(order[b], picks)


@kernel
def _highest(values):
    """The largest of int32 values that are at least PICKED."""
    highest = PICKED
    for n in range(len(values)):
        highest = max(highest, values[n])
    return highest


@kernel
def _lowest(distance, index, wanted):
    """The lowest index among those at the wanted distance."""
    lowest = UNSEEN
    for n in range(len(distance)):
        lowest = min(lowest, index[n] if distance[n] == wanted else UNSEEN)
    return lowest


@kernel
def _sample_boxes(boxes, num_points, start, order):
    """Sample one cloud; a pick opens the boxes that it is nearer to than their farthest point."""
    planes, index, leaves, groups = boxes.planes, boxes.index, boxes.leaves, boxes.groups
    num_groups = groups.shape[1]
    closest = np.full(index.shape, UNSEEN, np.int32)
    position = np.full(num_points, -1, np.int32)
    for leaf in range(len(index)):
        for n in range(LEAF):
            if index[leaf, n] == ABOVE:
                closest[leaf, n] = PICKED
            else:
                position[index[leaf, n]] = leaf * LEAF + n
    # Of each leaf and group the farthest distance, and the lowest index that has it.
    leaf_far = np.full((num_groups, GROUP), UNSEEN, np.int32)
    leaf_pick = np.full((num_groups, GROUP), UNSEEN, np.int32)
    group_far = np.full(num_groups, UNSEEN, np.int32)
    group_pick = np.full(num_groups, UNSEEN, np.int32)
    near_group = np.empty(num_groups, np.bool_)
    near_leaf = np.empty(GROUP, np.bool_)

    picks = min(boxes.count, len(order))
    known = 0 <= start < num_points and position[start] >= 0
    pick = start if known else boxes.lowest[0] if picks else 0
    for s in range(picks):
        order[s] = pick
        leaf, n = position[pick] // LEAF, position[pick] % LEAF
        px, py, pz = planes[0, leaf, n], planes[1, leaf, n], planes[2, leaf, n]
        # No distance exceeds UNSEEN: the pick's own boxes are opened in any case.
        closest[leaf, n] = PICKED
        leaf_far[leaf // GROUP, leaf % GROUP] = UNSEEN
        group_far[leaf // GROUP] = UNSEEN
        for g in range(num_groups):
            near_group[g] = box_gap(groups, g, px, py, pz) < group_far[g]
        for g in range(num_groups):
            if not near_group[g]:
                continue
            first = g * GROUP
            for j in range(GROUP):
                near_leaf[j] = box_gap(leaves, first + j, px, py, pz) < leaf_far[g, j]
            for j in range(GROUP):
                if not near_leaf[j]:
                    continue
                leaf = first + j
                farthest = PICKED
                for n in range(LEAF):
                    dx, dy = planes[0, leaf, n] - px, planes[1, leaf, n] - py
                    dz = planes[2, leaf, n] - pz
                    distance = min(bits(dx * dx + dy * dy + dz * dz), closest[leaf, n])
                    closest[leaf, n] = distance
                    farthest = max(farthest, distance)
                leaf_far[g, j] = farthest
                leaf_pick[g, j] = _lowest(closest[leaf], index[leaf], farthest)
            group_far[g] = _highest(leaf_far[g])
            group_pick[g] = _lowest(leaf_far[g], leaf_pick[g], group_far[g])
        pick = _lowest(group_far, group_pick, _highest(group_far))
    _finish(order, picks)
