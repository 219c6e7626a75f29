"""External attention over the points of a cloud: the published units, single- and multi-head.

Each maps (B, N, C) features and an optional (B, N) mask to (B, N, C); the residual connection
belongs to the layer where its paper puts it there.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ea_pointcloud._checks import check_count, check_features
from ea_pointcloud.nn.dynamic_form import DynamicForm, check_form
from ea_pointcloud.nn.norm import PointBatchNorm, initialise_linear
from ea_pointcloud.ops import SlotState, attention_map, external_attention, slot_state
from ea_pointcloud.ops.attention import check_norm


class _MemoryAttention(nn.Module):
    """What both kinds of external attention share: queries that attend to two memories."""

    norm_kind: str
    dynamic: bool
    key_memory: nn.Parameter
    value_memory: nn.Parameter
    key_bias: nn.Parameter | None
    form: DynamicForm | None

    def queries(self, features: Tensor) -> Tensor:
        """(B, N, C), or (B, N, heads, width of a head), of features (B, N, C)."""
        raise NotImplementedError

    def slot_state(self, features: Tensor, mask: Tensor | None = None) -> SlotState | None:
        """What :meth:`forward` needs of all points of a cloud; states of its chunks are merged.

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

    def attend(
        self, features: Tensor, mask: Tensor | None, chunk: int | None, state: SlotState | None
    ) -> Tensor:
        """Attend with the queries of ``features``; the result has their shape."""
        check_features("features", features)
        queries = self.queries(features)
        if self.form is not None:
            if state is None:
                state = slot_state(queries, self.key_memory, mask=mask, chunk=chunk, dynamic=True)
            state = self.form.changed(state)
        attended = external_attention(
            queries,
            self.key_memory,
            self.value_memory,
            mask=mask,
            chunk=chunk,
            norm=self.norm_kind,
            key_bias=self.key_bias,
            dynamic=self.dynamic,
            state=state,
        )
        return attended if self.form is None else self.form(queries, attended)

    def reset_memories(self, std: float | None) -> None:
        """Draw the key memory and copy it to the value memory."""
        nn.init.normal_(self.key_memory, std=std or (2.0 / len(self.key_memory)) ** 0.5)
        with torch.no_grad():
            self.value_memory.copy_(self.key_memory)


class ExternalAttention(_MemoryAttention):
    """The single-head external attention unit of the official code, residual included.

    Input projection with bias, attention to two memories, output projection without bias, batch
    normalisation, identity, ReLU. Cost is O(N * M * C): linear in the number of points.

    Args:
        channels: C.
        memory_size: M, slots of each memory; 64 as published.
        norm: ``"double"`` as published, or ``"softmax"`` over the slots alone.
        dynamic: add to the values what each slot attends to in the cloud, see
            :func:`ea_pointcloud.ops.external_attention`; not published.
        dynamic_form: variant of the dynamic form, see ``nn.dynamic_form.DynamicForm``.
        memory_std: standard deviation of the initial memories; sqrt(2 / M) if None, as published.

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
        dynamic_form: str = "plain",
        memory_std: float | None = None,
    ) -> None:
        super().__init__()
        check_count("memory_size", memory_size)
        check_norm(norm, dynamic=dynamic)
        check_form(dynamic_form, dynamic=dynamic)
        self.norm_kind = norm
        self.dynamic = dynamic
        self.input = nn.Linear(channels, channels)
        self.key_memory = nn.Parameter(torch.empty(memory_size, channels))
        self.key_bias = None  # it would cancel in the double normalisation
        self.value_memory = nn.Parameter(torch.empty(memory_size, channels))
        self.output = nn.Linear(channels, channels, bias=False)
        self.norm = PointBatchNorm(channels)
        self.memory_std = memory_std
        self.reset_parameters()
        self.form = None
        if dynamic_form != "plain":
            self.form = DynamicForm(dynamic_form, channels)

    def reset_parameters(self) -> None:
        """Initialise as published.

        ===================== ==================================================
        tensor                distribution
        ===================== ==================================================
        input, output weight  normal, variance 2 / C
        input bias            0
        key memory (M, C)     normal, variance 2 / M (a 1x1 conv from C to M), or memory_std
        value memory (M, C)   a copy of the key memory; trained independently
        norm                  weight 1, bias 0
        ===================== ==================================================
        """
        initialise_linear(self.input)
        initialise_linear(self.output)
        self.reset_memories(self.memory_std)
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
        attended = self.attend(features, mask, chunk, state)
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
        dynamic: add to the values what each slot attends to in the cloud, see
            :func:`ea_pointcloud.ops.external_attention`; not published.
        dynamic_form: variant of the dynamic form, see ``nn.dynamic_form.DynamicForm``.
        memory_std: standard deviation of the initial memories; sqrt(2 / M) if None, as published.

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
        dynamic_form: str = "plain",
        memory_std: float | None = None,
    ) -> None:
        super().__init__()
        check_count("heads", heads)
        check_count("memory_size", memory_size)
        check_count("expansion", expansion)
        check_norm(norm, dynamic=dynamic)
        check_form(dynamic_form, dynamic=dynamic)
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
        self.memory_std = memory_std
        self.reset_parameters()
        self.form = (
            None if dynamic_form == "plain" else DynamicForm(dynamic_form, self.head_channels)
        )

    def reset_parameters(self) -> None:
        """Initialise.

        ===================== ==================================================
        tensor                distribution
        ===================== ==================================================
        input, output weight  normal, variance 2 / fan-out
        key memory (M, C/H)   normal, variance 2 / M, or memory_std
        value memory          a copy of the key memory; trained independently
        all biases            0
        ===================== ==================================================
        """
        initialise_linear(self.input)
        initialise_linear(self.output)
        self.reset_memories(self.memory_std)
        with torch.no_grad():
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
        attended = self.attend(features, mask, chunk, state)
        return self.output((attended + self.value_bias).flatten(2))

    def queries(self, features: Tensor) -> Tensor:
        """(B, N, 4H, C / H)."""
        return self.input(features).unflatten(-1, (-1, self.head_channels))
