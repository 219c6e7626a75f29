"""Attention layers over the points of a cloud: external, multi-head external, self, offset.

Each maps (B, N, C) features and an optional (B, N) mask to (B, N, C), and is a drop-in for the
others; the residual connection belongs to the layer where its paper puts it there.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ea_pointcloud._checks import check_count, check_features, check_mask
from ea_pointcloud.nn.norm import PointBatchNorm, initialise_linear
from ea_pointcloud.ops import SlotState, attention_map, external_attention, slot_state
from ea_pointcloud.ops.attention import check_norm


class _MemoryAttention(nn.Module):
    """What both kinds of external attention share: queries that meet a key memory."""

    norm_kind: str
    key_memory: nn.Parameter
    key_bias: nn.Parameter | None
    dynamic: bool

    def queries(self, features: Tensor) -> Tensor:
        """(B, N, C), or (B, N, heads, width of a head), of features (B, N, C)."""
        raise NotImplementedError

    def slot_state(self, features: Tensor, mask: Tensor | None = None) -> SlotState | None:
        """What :meth:`forward` needs of all points of a cloud; of its parts, to be merged.

        None where it needs nothing.
        """
        if self.norm_kind == "softmax":
            return None
        return slot_state(self.queries(features), self.key_memory, mask=mask, dynamic=self.dynamic)

    def attention_map(
        self,
        features: Tensor,
        mask: Tensor | None = None,
        *,
        state: SlotState | None = None,
        norm: str | None = None,
    ) -> Tensor:
        """(B, N, M) weights that :meth:`forward` mixes the values by, or those of another norm.

        With heads (B, N, heads, M). See :func:`ea_pointcloud.ops.attention.attention_map`.
        """
        return attention_map(
            self.queries(features),
            self.key_memory,
            mask=mask,
            norm=norm or self.norm_kind,
            key_bias=self.key_bias,
            state=state,
        )


class ExternalAttention(_MemoryAttention):
    """The single-head external attention unit of the official code, residual included.

    Input projection with bias, attention to two memories, output projection without bias, batch
    normalisation, identity, ReLU. Cost is O(N * M * C): linear in the number of points.

    Args:
        channels: C.
        memory_size: M, slots of each memory; 64 as published.
        norm: ``"double"`` as published, or ``"softmax"`` over the slots alone.
        dynamic: let the values take in what each slot attends to in the cloud, see
            :func:`ea_pointcloud.ops.external_attention`; not published.

    Shape:
        features: (B, N, C) -> (B, N, C); mask: (B, N) bool, True = real point; rows of padded
        points come out meaningless and are to be ignored.

    Reference:
        Guo et al. 2021, arXiv 2105.02358; github.com/MenghaoGuo/EANet.
    """

    def __init__(
        self,
        channels: int,
        *,
        memory_size: int = 64,
        norm: str = "double",
        dynamic: bool = False,
    ) -> None:
        super().__init__()
        check_count("memory_size", memory_size)
        check_norm(norm, dynamic=dynamic)
        self.norm_kind = norm
        self.dynamic = dynamic
        self.input = nn.Linear(channels, channels)
        self.key_memory = nn.Parameter(torch.empty(memory_size, channels))
        self.key_bias = None  # it would cancel in the double normalisation
        self.value_memory = nn.Parameter(torch.empty(memory_size, channels))
        self.output = nn.Linear(channels, channels, bias=False)
        self.norm = PointBatchNorm(channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise as published.

        ===================== ==================================================
        tensor                distribution
        ===================== ==================================================
        input, output weight  normal, variance 2 / C
        input bias            0
        key memory (M, C)     normal, variance 2 / M (a 1x1 conv from C to M)
        value memory (M, C)   a copy of the key memory; trained independently
        norm                  weight 1, bias 0
        ===================== ==================================================
        """
        initialise_linear(self.input)
        initialise_linear(self.output)
        nn.init.normal_(self.key_memory, std=(2.0 / len(self.key_memory)) ** 0.5)
        with torch.no_grad():
            self.value_memory.copy_(self.key_memory)
        self.norm.reset_parameters()

    def forward(
        self,
        features: Tensor,
        mask: Tensor | None = None,
        *,
        chunk: int | None = None,
        state: SlotState | None = None,
    ) -> Tensor:
        """Attend; options as in :func:`ea_pointcloud.ops.external_attention`."""
        check_features("features", features)
        attended = external_attention(
            self.queries(features),
            self.key_memory,
            self.value_memory,
            mask=mask,
            chunk=chunk,
            norm=self.norm_kind,
            dynamic=self.dynamic,
            state=state,
        )
        return F.relu(features + self.norm(self.output(attended), mask))

    def queries(self, features: Tensor) -> Tensor:
        """(B, N, C)."""
        return self.input(features)


class MultiHeadExternalAttention(_MemoryAttention):
    """Multi-head external attention as published: narrow heads sharing one pair of memories.

    The input is expanded ``expansion`` times and split into ``expansion * heads`` heads of width
    C / heads. No residual and no normalisation around it: those belong to the block. A bias of the
    key memory would cancel in the double normalisation (it is the same for all points), so there
    is one with ``norm="softmax"`` only.

    Args:
        channels: C, a multiple of ``heads``.
        heads: H; the number of heads attending is ``expansion * heads``.
        memory_size: M, slots of the shared memories; 64 as published.
        expansion: 4 as published.
        norm: ``"double"`` as published, or ``"softmax"`` over the slots alone.
        dynamic: let the values take in what each slot attends to in the cloud, see
            :func:`ea_pointcloud.ops.external_attention`; not published.

    Shape:
        features: (B, N, C) -> (B, N, C); mask: (B, N) bool, True = real point.

    Reference:
        Guo et al. 2021, arXiv 2105.02358, section 3.3.
    """

    def __init__(
        self,
        channels: int,
        *,
        heads: int = 8,
        memory_size: int = 64,
        expansion: int = 4,
        norm: str = "double",
        dynamic: bool = False,
    ) -> None:
        super().__init__()
        check_count("heads", heads)
        check_count("memory_size", memory_size)
        check_count("expansion", expansion)
        check_norm(norm, dynamic=dynamic)
        if channels % heads:
            raise ValueError(f"channels must be a multiple of heads={heads}, got {channels}")
        self.norm_kind = norm
        self.dynamic = dynamic
        self.head_channels = channels // heads
        self.input = nn.Linear(channels, channels * expansion)
        self.key_memory = nn.Parameter(torch.empty(memory_size, self.head_channels))
        self.value_memory = nn.Parameter(torch.empty(memory_size, self.head_channels))
        self.value_bias = nn.Parameter(torch.empty(self.head_channels))
        self.key_bias = nn.Parameter(torch.empty(memory_size)) if norm == "softmax" else None
        self.output = nn.Linear(channels * expansion, channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise.

        ===================== ==================================================
        tensor                distribution
        ===================== ==================================================
        input, output weight  normal, variance 2 / fan-out
        key memory (M, C/H)   normal, variance 2 / M
        value memory          a copy of the key memory; trained independently
        all biases            0
        ===================== ==================================================
        """
        initialise_linear(self.input)
        initialise_linear(self.output)
        nn.init.normal_(self.key_memory, std=(2.0 / len(self.key_memory)) ** 0.5)
        with torch.no_grad():
            self.value_memory.copy_(self.key_memory)
            self.value_bias.zero_()
            if self.key_bias is not None:
                self.key_bias.zero_()

    def forward(
        self,
        features: Tensor,
        mask: Tensor | None = None,
        *,
        chunk: int | None = None,
        state: SlotState | None = None,
    ) -> Tensor:
        """Attend; options as in :func:`ea_pointcloud.ops.external_attention`."""
        check_features("features", features)
        attended = external_attention(
            self.queries(features),
            self.key_memory,
            self.value_memory,
            mask=mask,
            chunk=chunk,
            norm=self.norm_kind,
            key_bias=self.key_bias,
            dynamic=self.dynamic,
            state=state,
        )
        return self.output((attended + self.value_bias).flatten(2))

    def queries(self, features: Tensor) -> Tensor:
        """(B, N, 4H, C / H)."""
        return self.input(features).unflatten(-1, (-1, self.head_channels))


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
