"""Attention blocks of the point transformer, and the kinds they compare external attention with."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ea_pointcloud._checks import check_choice, check_features, check_mask
from ea_pointcloud.nn.attention import ExternalAttention, MultiHeadExternalAttention
from ea_pointcloud.nn.norm import PointBatchNorm, initialise_linear
from ea_pointcloud.ops import SlotState

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


class PointwiseResidual(nn.Module):
    """External attention without exchange between the points: the control.

    The two projections, the normalisation and the residual of
    :class:`~ea_pointcloud.nn.ExternalAttention` stay, and a ReLU takes the place of the memories:
    without something non-linear there, the two projections would be one. An identity would remove
    depth and most weights together with the attention, and the comparison could not separate them.

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


class SelfAttention(nn.Module):
    """Self-attention of the PCT backbone, plain or offset, residual included; O(N^2).

    Queries and keys share one projection to C/4, the affinities get a softmax over the keys and
    then an L1 normalisation over the queries, as published. ``offset=True`` transforms the
    difference between input and attended features (offset attention), otherwise the attended
    features themselves.

    Args:
        channels: C, a multiple of 4.
        offset: offset attention instead of plain self-attention.

    Shape:
        features: (B, N, C) -> (B, N, C); mask: (B, N) bool, True = real point; rows of padded
        points come out meaningless and are to be ignored.

    Reference:
        Guo et al., PCT: Point cloud transformer, 2021, arXiv 2012.09688, sections 3.2 and 3.3.
    """

    def __init__(self, channels: int, *, offset: bool = False) -> None:
        super().__init__()
        if channels % 4:
            raise ValueError(f"channels must be a multiple of 4, got {channels}")
        self.offset = offset
        self.query_key = nn.Linear(channels, channels // 4, bias=False)
        self.value = nn.Linear(channels, channels)
        self.output = nn.Linear(channels, channels)
        self.norm = PointBatchNorm(channels)

    def forward(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend."""
        check_features("features", features)
        check_mask(mask, features)
        query_key = self.query_key(features)
        energy = query_key @ query_key.transpose(1, 2)  # (B, N queries, N keys)
        energy = energy if energy.dtype == torch.float64 else energy.float()
        if mask is not None:
            energy = energy.masked_fill(~mask[:, None, :], -torch.inf)
        affinity = energy.softmax(-1)
        if mask is not None:  # a padded query must not enter the sum over the queries
            affinity = affinity.masked_fill(~mask[:, :, None], 0.0)
        affinity = affinity / (affinity.sum(1, keepdim=True) + 1e-9)
        value = self.value(features)
        if mask is not None:  # whatever padding holds, NaN included, must not reach a real point
            value = value.masked_fill(~mask[:, :, None], 0.0)
        attended = affinity.transpose(1, 2).to(value.dtype) @ value
        update = features - attended if self.offset else attended
        return features + F.relu(self.norm(self.output(update), mask))
