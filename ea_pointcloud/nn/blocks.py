"""Blocks of the point transformer: attention with a position embedding, or none; neighbours."""

from torch import Tensor, nn
from torch.nn import functional as F

from ea_pointcloud._checks import check_choice, check_features
from ea_pointcloud.nn.attention import ExternalAttention, MultiHeadExternalAttention, SelfAttention
from ea_pointcloud.nn.norm import PointBatchNorm, initialise_linear
from ea_pointcloud.ops import PyramidLevel, SlotState, gather_points, max_over_neighbors

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
    ) -> None:
        super().__init__()
        check_choice("attention", attention, ATTENTION)
        self.outer_norm = None
        dynamic = "dynamic" in attention
        if attention in ("external", "dynamic_external"):
            self.attention = ExternalAttention(
                channels, memory_size=memory_size, norm=norm, dynamic=dynamic
            )
        elif attention in ("multihead_external", "multihead_dynamic_external"):
            self.attention = MultiHeadExternalAttention(
                channels, heads=heads, memory_size=memory_size, norm=norm, dynamic=dynamic
            )
            self.outer_norm = PointBatchNorm(channels)  # this kind brings no residual of its own
        elif attention == "none":
            self.attention = PointwiseResidual(channels)
        else:
            self.attention = SelfAttention(channels, offset=attention == "offset")

    def slot_state(
        self, features: Tensor, position: Tensor, mask: Tensor | None = None
    ) -> SlotState | None:
        """What :meth:`forward` needs of a whole cloud when it is given a part of one.

        Compute it for every part, merge the states, and pass the result to :meth:`forward` of each
        part; None where nothing is needed. In evaluation mode the parts are then exactly those of
        the whole.

        Raises:
            ValueError: if the attention is of a kind that compares all points with each other.
        """
        if isinstance(self.attention, SelfAttention):
            raise ValueError(
                "self- and offset-attention compare all points with each other and cannot work in "
                "parts; call the network without chunk, or build it with external attention"
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


class PointwiseResidual(nn.Module):
    """What remains of external attention when no point learns of another: the control.

    The two projections, the normalisation and the residual of
    :class:`~ea_pointcloud.nn.ExternalAttention` stay, and a ReLU takes the place of the memories:
    without something non-linear there, the two projections would be one. An identity would take
    depth and most weights away together with the attention, and the comparison would not tell which
    of them mattered.

    Args:
        channels: C.

    Shape:
        features: (B, N, C) -> (B, N, C); mask: (B, N) bool, True = real point.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.input = nn.Linear(channels, channels)
        self.output = nn.Linear(channels, channels, bias=False)
        self.norm = PointBatchNorm(channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise as external attention does.

        ===================== ==================================================
        tensor                distribution
        ===================== ==================================================
        input, output weight  normal, variance 2 / C
        input bias            0
        norm                  weight 1, bias 0
        ===================== ==================================================
        """
        initialise_linear(self.input)
        initialise_linear(self.output)
        self.norm.reset_parameters()

    def forward(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """Change each point by itself."""
        check_features("features", features)
        changed = self.output(F.relu(self.input(features)))
        return F.relu(features + self.norm(changed, mask))


class NeighborEmbedding(nn.Module):
    """Look at the nearest neighbours of each centre and keep the strongest response.

    Two layers read ``concat[neighbour - centre, centre]`` features of the K nearest points, and a
    maximum over the neighbours remains. The first linear layer commutes with the gather,
    ``W [x_j - x_i; x_i] = A x_j + (B - A) x_i``, so it runs on the N points instead of the S * K
    pairs: the same function for S * K / N times less work.

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
        # ReLU commutes with the maximum: after it, it touches K times fewer values.
        return F.relu(max_over_neighbors(mixed))


def linear_of_pairs(
    layer: nn.Linear, features: Tensor, centers: Tensor, neighbor: Tensor
) -> Tensor:
    """``layer(concat[neighbour - centre, centre])`` for all neighbours of all centres.

    It runs on the points and the centres instead of the pairs and is gathered after that,
    ``W [x_j - x_i; x_i] = A x_j + (B - A) x_i``.

    Args:
        layer: from 2 C to C' channels.
        features: (B, N, C) of the points.
        centers: (B, S, C) of the centres.
        neighbor: (B, S, K) int64, places of the neighbours among the points.

    Returns:
        (B, S, K, C').
    """
    to_neighbor, to_center = parts_of_pairs(layer)
    own = F.linear(centers, to_center, layer.bias)
    return gather_points(F.linear(features, to_neighbor), neighbor, offset=own)


def parts_of_pairs(layer: nn.Linear) -> tuple[Tensor, Tensor]:
    """What ``layer`` of ``[x_j - x_i; x_i]`` does to x_j alone, and to x_i: A and B - A."""
    to_neighbor, to_center = layer.weight.chunk(2, dim=1)
    return to_neighbor, to_center - to_neighbor
