"""Blocks of the networks: over each point and its neighbours, and over a whole cloud."""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from ea_pointcloud._checks import check_choice, check_count
from ea_pointcloud.nn.attention import ExternalAttention, MultiHeadExternalAttention
from ea_pointcloud.nn.compared import PointwiseResidual, SelfAttention
from ea_pointcloud.nn.norm import PointBatchNorm, bias_of, weight_of
from ea_pointcloud.ops import (
    PyramidLevel,
    SlotState,
    feature_neighbors,
    gather_max,
    gather_points,
    max_over_neighbors,
)
from ea_pointcloud.ops.neighbors import at_most

ATTENTION = (
    "external",
    "dynamic_external",
    "multihead_external",
    "multihead_dynamic_external",
    "self",
    "offset",
    "none",
)


class AttentionBlock(nn.Module):
    """One attention layer of the backbone, whichever attention it uses.

    The position embedding is added to the input first, as in the published update of PCT. All
    kinds share this interface, so the paper's comparison runs in one backbone. ``"none"`` is its
    control, :class:`PointwiseResidual`.

    Args:
        channels: C.
        attention: one of ``ATTENTION``; the dynamic kinds let the slots read the cloud.
        memory_size: M of the external kinds.
        heads: H of the multi-head kinds.
        norm: normalisation of the external kinds, ``"double"`` or ``"softmax"``.
        dynamic_form: variant of the dynamic kinds, see ``nn.dynamic_form.DynamicForm``.
        memory_std: of the initial memories of the external kinds, see
            :class:`~ea_pointcloud.nn.ExternalAttention`.

    Shape:
        features, position: (B, N, C) -> (B, N, C); mask: (B, N) bool, True = real point.
    """

    def __init__(
        self,
        channels: int,
        *,
        attention: str = "external",
        memory_size: int = 64,
        heads: int = 8,
        norm: str = "double",
        dynamic_form: str = "plain",
        memory_std: float | None = None,
    ) -> None:
        super().__init__()
        check_choice("attention", attention, ATTENTION)
        self.outer_norm = None
        memory: dict[str, Any] = {
            "memory_size": memory_size,
            "norm": norm,
            "dynamic": "dynamic" in attention,
            "dynamic_form": dynamic_form,
            "memory_std": memory_std,
        }
        if attention in ("external", "dynamic_external"):
            self.attention = ExternalAttention(channels, **memory)
        elif attention in ("multihead_external", "multihead_dynamic_external"):
            self.attention = MultiHeadExternalAttention(channels, heads=heads, **memory)
            self.outer_norm = PointBatchNorm(channels)  # this kind brings no residual of its own
        elif attention == "none":
            self.attention = PointwiseResidual(channels)
        else:
            self.attention = SelfAttention(channels, offset=attention == "offset")

    def slot_state(
        self, features: Tensor, position: Tensor, mask: Tensor | None = None
    ) -> SlotState | None:
        """What :meth:`forward` needs of a whole cloud when it is given a chunk of one.

        Compute it for every chunk, merge the states, and pass the result to :meth:`forward` of each
        chunk; None where nothing is needed. In evaluation mode the chunks are then exactly those of
        the whole.

        Raises:
            ValueError: if the attention is of a kind that compares all points with each other.
        """
        if isinstance(self.attention, SelfAttention):
            raise ValueError(
                "self- and offset-attention compare all points with each other and cannot work in "
                "chunks; call the network without chunk, or build it with external attention"
            )
        if isinstance(self.attention, PointwiseResidual):
            return None
        return self.attention.slot_state(features + position, mask)

    def forward(
        self,
        features: Tensor,
        position: Tensor,
        mask: Tensor | None = None,
        *,
        state: SlotState | None = None,
    ) -> Tensor:
        """Add the position embedding, attend, close the residual."""
        features = features + position
        if isinstance(self.attention, (SelfAttention, PointwiseResidual)):
            attended = self.attention(features, mask)
        else:
            attended = self.attention(features, mask, state=state)
        if self.outer_norm is None:
            return attended
        return F.relu(features + self.outer_norm(attended, mask))


class NeighborEmbedding(nn.Module):
    """Embed the nearest neighbours of each centre and keep the strongest response.

    Two layers read ``concat[neighbour - centre, centre]`` features of the K nearest points, the
    first as in :func:`linear_of_pairs`, and a maximum over the neighbours remains.

    Args:
        in_channels: C of the points.
        out_channels: C of the centres.

    Shape:
        features (B, N, C_in), ``level`` with S centres and K neighbours among these points, see
        :func:`~ea_pointcloud.ops.build_pyramid` -> (B, S, C_out).

    Reference:
        Guo et al., PCT: Point cloud transformer, 2021, arXiv 2012.09688, section 3.4.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.pair = nn.Linear(2 * in_channels, out_channels, bias=False)
        self.pair_norm = PointBatchNorm(out_channels)
        self.mix = nn.Linear(out_channels, out_channels, bias=False)
        self.mix_norm = PointBatchNorm(out_channels)

    def forward(self, features: Tensor, level: PyramidLevel) -> Tensor:
        """Return the features of the centres."""
        centers = gather_points(features, level.center)
        pairs = linear_of_pairs(self.pair, features, centers, level.neighbor)
        mixed = self.mix_norm(self.mix(F.relu(self.pair_norm(pairs))))  # (B, S, K, C)
        # ReLU commutes with the maximum: applied after it, it handles K times fewer values.
        return F.relu(max_over_neighbors(mixed))


class EdgeConv(nn.Module):
    """One layer over ``concat[neighbour - point, point]`` of the K nearest, then their maximum.

    If ``neighbor_idx`` is omitted the nearest are those in the space of the features themselves, so
    that every layer has its own graph. The linear layer is that of :func:`linear_of_pairs`.

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
        # The activation rises, so it commutes with the maximum: fewer values to handle.
        return F.leaky_relu(max_over_neighbors(pairs), 0.2)


class MaxEdgeConv(nn.Module):
    """An edge convolution whose normalisation stands after the maximum over the neighbours.

    ``relu(norm(max_j W [x_j - x_i; x_i]))``: for each of the N * K pairs one comparison is left to
    do. Where the scale of the normalisation is positive it commutes with the maximum, so that both
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


def linear_of_pairs(
    layer: nn.Linear, features: Tensor, centers: Tensor, neighbor: Tensor
) -> Tensor:
    """``layer(concat[neighbour - centre, centre])`` for all neighbours of all centres.

    A linear layer commutes with the gather, ``W [x_j - x_i; x_i] = A x_j + (B - A) x_i``, so it
    runs on the N points instead of the S * K pairs: the same function for S * K / N times less
    work.

    Args:
        layer: from 2 C to C' channels.
        features: (B, N, C) of the points.
        centers: (B, S, C) of the centres.
        neighbor: (B, S, K) int64, indices of the neighbours among the points.

    Returns:
        (B, S, K, C').
    """
    to_neighbor, to_center = parts_of_pairs(layer)
    own = F.linear(centers, to_center, bias_of(layer))
    return gather_points(F.linear(features, to_neighbor), neighbor, offset=own)


def parts_of_pairs(layer: nn.Linear) -> tuple[Tensor, Tensor]:
    """What ``layer`` of ``[x_j - x_i; x_i]`` does to x_j alone, and to x_i: A and B - A."""
    to_neighbor, to_center = weight_of(layer).chunk(2, dim=1)
    return to_neighbor, to_center - to_neighbor
