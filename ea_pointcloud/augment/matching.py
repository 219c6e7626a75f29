"""Pairing the points of two clouds: roughly by their places in a k-d tree, or at the least cost."""

import torch
from torch import Tensor

from ea_pointcloud._checks import check_at_least, check_pair, real_points
from ea_pointcloud.ops.gather import gather_points

_CELL = 32  # points that are paired at the least cost together


def match_points(
    xyz: Tensor, other: Tensor, *, mask: Tensor | None = None, other_mask: Tensor | None = None
) -> Tensor:
    """Pair each point with one of another cloud in about the same place.

    Both clouds are cut in halves of equally many points along x, y, z, x, ... until single points
    are left, which are paired in order. Between clouds of one size every point is taken once;
    between others as evenly as can be. On the device of the points, without waiting for it, in
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
    place, count = _places(xyz, mask)
    other_place, other_count = _places(other, other_mask)
    target = ((2 * place + 1) * other_count // (2 * count)).minimum(other_count - 1)
    return inverse_order(other_place).gather(1, target)


def optimal_match(
    xyz: Tensor,
    other: Tensor,
    *,
    mask: Tensor | None = None,
    other_mask: Tensor | None = None,
    cell: int = _CELL,
) -> Tensor:
    """Pair points as :func:`match_points`, then at the least sum of squared distances in cells.

    A cell is ``cell`` points next to one another in the k-d tree; clouds of up to so many points
    are paired optimally as wholes (where the other cloud is of another size, after its points were
    repeated or left out). An optimal assignment of whole clouds takes O(N^3), which is more than
    a training step. The cells are solved on the CPU, one after another, wherever the points are.

    Args:
        xyz: (B, N, 3).
        other: (B, M, 3) in the same frame.
        mask: (B, N) bool, True = real point.
        other_mask: (B, M) bool; padding is never taken.
        cell: >= 1.

    Returns:
        idx: (B, N) int64, ``other[b, idx[b, i]]`` belongs to ``xyz[b, i]``.

    Reference:
        Crouse, On implementing 2D rectangular assignment algorithms, IEEE TAES 2016.
    """
    from scipy.optimize import linear_sum_assignment

    check_at_least("cell", cell, 1)
    idx = match_points(xyz, other, mask=mask, other_mask=other_mask)
    place, count = _places(xyz, mask)
    order = inverse_order(place)
    match = idx.gather(1, order)  # in the order of the tree
    near, far = gather_points(xyz, order), gather_points(other, match)
    better = match.clone().cpu()
    for start in range(0, xyz.shape[1], cell):
        part = slice(start, start + cell)
        cost = torch.cdist(near[:, part].double(), far[:, part].double()).square().cpu().numpy()
        sizes = (count[:, 0] - start).clamp(0, cell).tolist()
        for row, (costs, size) in enumerate(zip(cost, sizes, strict=True)):
            _, column = linear_sum_assignment(costs[:size, :size])
            better[row, start : start + size] = better[row, start + torch.from_numpy(column)]
    return torch.empty_like(idx).scatter(1, order, better.to(idx.device))


def _places(xyz: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Place (B, N) of each point in the tree, padding last, and the count (B, 1) of real points."""
    batch, num_points = xyz.shape[:2]
    real = real_points(mask, xyz)
    count = real.sum(1, keepdim=True)
    # In 0..1, so that the whole number of the cell can be added: one sort does for both. Rounding
    # then makes some nearly equal coordinates equal, which costs nothing.
    inside = xyz.float().masked_fill(~real[..., None], 0.0)
    low = inside.amin(1, keepdim=True)
    reach = (inside.amax(1, keepdim=True) - low).clamp_min(torch.finfo(torch.float32).tiny)
    inside = (inside - low) / reach * 0.5
    place = torch.zeros((batch, num_points), dtype=torch.int64, device=xyz.device)
    for level in range(max(1, (num_points - 1).bit_length())):
        cells = 1 << level
        cell = (place * cells // count).masked_fill(~real, num_points * 2)
        key = cell + inside[..., level % 3]
        place = inverse_order(key.argsort(dim=1, stable=True))
    return place, count


def inverse_order(order: Tensor) -> Tensor:
    """(B, N) where each index stands in the order (B, N)."""
    steps = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter(1, order, steps)
