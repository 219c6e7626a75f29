"""Edge convolutions: a layer over each point and its neighbours, then the maximum."""

from torch import Tensor, nn
from torch.nn import functional as F

from ea_pointcloud._checks import check_count
from ea_pointcloud.nn.blocks import linear_of_pairs, parts_of_pairs
from ea_pointcloud.nn.norm import PointBatchNorm
from ea_pointcloud.ops import feature_neighbors, gather_max, max_over_neighbors


class EdgeConv(nn.Module):
    """One layer over ``concat[neighbour - point, point]`` of the K nearest, then their maximum.

    If ``neighbor_idx`` is omitted the nearest are those in the space of the features themselves, so
    that every layer has its own graph. As in :class:`~ea_pointcloud.nn.NeighborEmbedding` the
    linear layer runs on the N points instead of the N * K pairs,
    ``W [x_j - x_i; x_i] = A x_j + (B - A) x_i``: the same function for K times less work.

    Args:
        in_channels: C of the points.
        out_channels: C after it.
        num_neighbors: K, the point itself among them; a smaller cloud has as many as it has points.

    Shape:
        features (B, N, C_in), neighbor_idx (B, N, K) int64, mask (B, N) bool, True = real point
        -> (B, N, C_out). Rows of padded points are finite and mean nothing.

    Reference:
        Wang et al., Dynamic graph CNN for learning on point clouds, ACM TOG 2019.
    """

    def __init__(self, in_channels: int, out_channels: int, *, num_neighbors: int = 20) -> None:
        super().__init__()
        check_count("num_neighbors", num_neighbors)
        self.num_neighbors = num_neighbors
        self.pair = nn.Linear(2 * in_channels, out_channels, bias=False)
        self.norm = PointBatchNorm(out_channels)

    def forward(
        self, features: Tensor, mask: Tensor | None = None, *, neighbor_idx: Tensor | None = None
    ) -> Tensor:
        """Return the features of the points; a real point has real neighbours only."""
        if mask is not None:
            features = features.masked_fill(~mask[..., None], 0)  # also NaN
        if neighbor_idx is None:
            k = at_most(self.num_neighbors, features.shape[1])
            neighbor_idx = feature_neighbors(features, k, mask=mask)
        pairs = linear_of_pairs(self.pair, features, features, neighbor_idx)
        flat = None if mask is None else mask.repeat_interleave(neighbor_idx.shape[2], dim=1)
        pairs = self.norm(pairs.flatten(1, 2), flat).view(pairs.shape)  # (B, N, K, C)
        # The activation rises, so it commutes with the maximum and touches K times fewer values.
        return F.leaky_relu(max_over_neighbors(pairs), 0.2)


class MaxEdgeConv(nn.Module):
    """An edge convolution whose normalisation stands after the maximum over the neighbours.

    ``relu(norm(max_j W [x_j - x_i; x_i]))``. The linear layer runs on the points as in
    :class:`EdgeConv`, and all that is left to do for each of the N * K pairs is one comparison.
    Where the scale of the normalisation is positive it commutes with the maximum, so that both
    layers can be the same function; the statistics here are those of the strongest neighbours.

    Args:
        in_channels: C of the points.
        out_channels: C after it.

    Shape:
        features (B, N, C_in), neighbor_idx (B, N, K) int64, mask (B, N) bool, True = real point
        -> (B, N, C_out). Rows of padded points are finite and mean nothing.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.pair = nn.Linear(2 * in_channels, out_channels, bias=False)
        self.norm = PointBatchNorm(out_channels)

    def forward(self, features: Tensor, neighbor_idx: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the features of the points; a real point has real neighbours only."""
        if mask is not None:
            features = features.masked_fill(~mask[..., None], 0)  # also NaN
        to_neighbor, to_point = parts_of_pairs(self.pair)
        strongest = gather_max(F.linear(features, to_neighbor), neighbor_idx)
        return F.relu(self.norm(strongest + F.linear(features, to_point), mask))


def at_most(wanted: int, available: int) -> int:
    """``min()``, which an export turns into a number computed when the program runs."""
    return wanted if wanted <= available else available
