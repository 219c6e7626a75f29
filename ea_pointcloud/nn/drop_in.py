"""External attention with the interfaces of other libraries' self-attention, residual-free.

``replace.py`` swaps these for the originals; the published units are in ``attention.py``.
"""

import torch
from torch import Tensor, nn

from ea_pointcloud._checks import check_choice, check_count, values_readable
from ea_pointcloud.nn.norm import initialise_linear
from ea_pointcloud.ops import attention_map, external_attention
from ea_pointcloud.ops.attention import NORMS


class _DropIn(nn.Module):
    """Heads of width C / H, each with memories of its own: the heads of the attention replaced.

    Published multi-head external attention shares one pair of memories among many heads. Here
    each head stands for one head of a trained attention, whose keys have a space of their own.

    Args:
        channels: C, a multiple of ``heads``.
        heads: H.
        memory_size: M, slots of each memory.
        norm: ``"double"`` as published, or ``"softmax"`` over the slots alone, with which a token
            no longer depends on the others.
    """

    def __init__(
        self, channels: int, *, heads: int, memory_size: int = 64, norm: str = "double"
    ) -> None:
        super().__init__()
        check_count("heads", heads)
        check_count("memory_size", memory_size)
        check_choice("norm", norm, NORMS)
        if channels % heads:
            raise ValueError(f"channels must be a multiple of heads={heads}, got {channels}")
        self.norm_kind = norm
        self.num_heads = heads
        self.input = nn.Linear(channels, channels)
        self.query_norm: nn.Module = nn.Identity()
        shape = (heads, memory_size, channels // heads)
        self.key_memory = nn.Parameter(torch.empty(shape))
        self.value_memory = nn.Parameter(torch.empty(shape))
        self.key_bias = None  # it would cancel in the double normalisation
        if norm == "softmax":
            self.key_bias = nn.Parameter(torch.empty(shape[:2]))
        self.output = nn.Linear(channels, channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise.

        ===================== ==================================================
        tensor                distribution
        ===================== ==================================================
        input, output weight  normal, variance 2 / C
        key memory (H, M, d)  normal, variance 2 / M
        value memory          a copy of the key memory; trained independently
        all biases            0
        ===================== ==================================================
        """
        initialise_linear(self.input)
        initialise_linear(self.output)
        nn.init.normal_(self.key_memory, std=(2.0 / self.key_memory.shape[1]) ** 0.5)
        with torch.no_grad():
            self.value_memory.copy_(self.key_memory)
            if self.key_bias is not None:
                self.key_bias.zero_()

    def queries(self, tokens: Tensor) -> Tensor:
        """(B, N, H, C / H) of tokens (B, N, C)."""
        heads, _, width = self.key_memory.shape
        return self.query_norm(self.input(tokens).unflatten(-1, (heads, width)))

    def attention_map(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, N, H, M) weights that :meth:`attend` mixes the values by; rows sum to 1."""
        maps = [
            attention_map(query, keys, mask=mask, norm=self.norm_kind, key_bias=bias)
            for query, keys, bias in self._by_head(tokens)
        ]
        return torch.stack(maps, dim=2)

    def attend(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend with all heads and project.

        Args:
            tokens: (B, N, C).
            mask: (B, N) bool, True = real token; padded ones do not count.

        Returns:
            (B, N, C).
        """
        attended = [
            external_attention(query, keys, values, mask=mask, norm=self.norm_kind, key_bias=bias)
            for (query, keys, bias), values in zip(
                self._by_head(tokens), self.value_memory.unbind(0), strict=True
            )
        ]
        return self.output(torch.cat(attended, dim=-1))

    def _by_head(self, tokens: Tensor) -> list[tuple[Tensor, Tensor, Tensor | None]]:
        queries = self.queries(tokens).unbind(2)
        biases = [None] * len(queries) if self.key_bias is None else self.key_bias.unbind(0)
        return list(zip(queries, self.key_memory.unbind(0), biases, strict=True))

    def extra_repr(self) -> str:
        """Return the sizes."""
        heads, slots, width = self.key_memory.shape
        return f"channels={heads * width}, heads={heads}, memory_size={slots}, {self.norm_kind}"


class ExternalMultiheadAttention(_DropIn):
    """External attention called like :class:`torch.nn.MultiheadAttention`.

    Self-attention only: one tensor is query, key and value. Attention weights have no dropout.

    Args:
        channels: C, torch's ``embed_dim``; a multiple of ``heads``.
        heads: H, torch's ``num_heads``.
        memory_size: M, slots of each memory of each head.
        norm: ``"double"`` as published, or ``"softmax"`` over the slots alone.
        batch_first: whether batched tokens are (B, N, C) instead of torch's default (N, B, C).

    Shape:
        query, key, value: (B, N, C), (N, B, C) or unbatched (N, C), the same tensor three times
        -> the same shape, and None in place of the attention weights.
    """

    # torch's transformer layers read these; None and False keep them off their fused path, which
    # would compute self-attention without calling this module.
    in_proj_bias = None
    _qkv_same_embed_dim = False

    def __init__(
        self,
        channels: int,
        *,
        heads: int,
        memory_size: int = 64,
        norm: str = "double",
        batch_first: bool = False,
    ) -> None:
        super().__init__(channels, heads=heads, memory_size=memory_size, norm=norm)
        self.batch_first = batch_first
        self.embed_dim = channels

    @property
    def in_proj_weight(self) -> Tensor:
        """Where torch's encoder looks for gradients; only queries are projected."""
        return self.input.weight

    @property
    def out_proj(self) -> nn.Linear:
        """The output projection under torch's name."""
        return self.output

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = False,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, None]:
        """Attend; torch's arguments in torch's order.

        Args:
            query: (B, N, C), (N, B, C) or (N, C).
            key: the same tensor.
            value: the same tensor.
            key_padding_mask: (B, N), or (N,) for unbatched tokens; True or -inf = padding.
            need_weights: unlike torch's, False by default: weights over slots would be misread
                as weights over tokens.
            attn_mask: must be None.
            average_attn_weights: without effect, as in torch where no weights are needed.
            is_causal: must be False.

        Returns:
            attended tokens in the shape of ``query``, and None.

        Raises:
            ValueError: if external attention cannot express the request, or the shapes do not
                agree.
        """
        if query is not key or key is not value:
            raise ValueError(
                "query, key and value must be one tensor: external attention has memories instead "
                "of keys and cannot replace cross-attention; leave this module as it was with skip="
            )
        if need_weights:
            raise ValueError(
                "need_weights must be False: external attention has no (L, S) weights; "
                "attention_map() gives the weights over its memory slots"
            )
        _check_unmasked(attn_mask, is_causal)
        if query.is_nested:
            raise ValueError(
                "query must not be a nested tensor; set use_nested_tensor = False on the "
                "TransformerEncoder, which replace_attention does where it sees the encoder"
            )
        if query.ndim not in (2, 3) or query.shape[-1] != self.embed_dim:
            wanted = "(B, N, C)" if self.batch_first else "(N, B, C)"
            raise ValueError(
                f"query must have shape {wanted} or (N, C) with C={self.embed_dim}, "
                f"got {tuple(query.shape)}"
            )
        flipped = query.ndim == 3 and not self.batch_first
        tokens = query[None] if query.ndim == 2 else query.transpose(0, 1) if flipped else query
        out = self.attend(tokens, real_tokens(key_padding_mask, tokens))
        return (out[0] if query.ndim == 2 else out.transpose(0, 1) if flipped else out), None


class ExternalTokenAttention(_DropIn):
    """External attention called like timm's ``Attention``, also on images of tokens.

    Args:
        channels: C, timm's ``dim``; a multiple of ``heads``.
        heads: H, timm's ``num_heads``.
        memory_size: M, slots of each memory of each head.
        norm: ``"double"`` as published, or ``"softmax"`` over the slots alone.
        dropout: probability of dropping an output channel, timm's ``proj_drop``.

    Shape:
        x: (B, N, C) or (B, ..., C) such as (B, height, width, C) -> the same shape.
    """

    def __init__(
        self,
        channels: int,
        *,
        heads: int,
        memory_size: int = 64,
        norm: str = "double",
        dropout: float = 0.0,
    ) -> None:
        super().__init__(channels, heads=heads, memory_size=memory_size, norm=norm)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False
    ) -> Tensor:
        """Attend.

        Args:
            x: (B, ..., C) tokens.
            attn_mask: must be None.
            is_causal: must be False.

        Raises:
            ValueError: if a mask is given, or ``x`` has no axis of tokens.
        """
        _check_unmasked(attn_mask, is_causal)
        if x.ndim < 3:
            raise ValueError(f"x must have shape (B, N, C) or (B, ..., C), got {tuple(x.shape)}")
        return self.dropout(self.attend(x.flatten(1, -2))).view(x.shape)


def real_tokens(key_padding_mask: Tensor | None, tokens: Tensor) -> Tensor | None:
    """(B, N) bool, True = real token, of torch's mask for ``tokens`` (B, N, C).

    Raises:
        ValueError: if the shapes do not agree, or a value is neither 0 nor -inf; values are read
            on the CPU only.
    """
    if key_padding_mask is None:
        return None
    mask = key_padding_mask if key_padding_mask.ndim == 2 else key_padding_mask[None]
    if mask.shape != tokens.shape[:2]:
        raise ValueError(
            f"key_padding_mask must have shape (B, N) = {tuple(tokens.shape[:2])}, "
            f"got {tuple(key_padding_mask.shape)}"
        )
    if mask.dtype == torch.bool:
        return ~mask
    padded = mask.isneginf()
    if values_readable(mask) and not bool((padded | (mask == 0)).all()):
        raise ValueError(
            "key_padding_mask must hold 0 for a real and -inf for a padded token: a bias of single "
            "keys has no counterpart in external attention; pass a bool mask"
        )
    return ~padded


def _check_unmasked(attn_mask: Tensor | None, is_causal: bool) -> None:
    if attn_mask is not None or is_causal:
        raise ValueError(
            "attn_mask must be None and is_causal False: external attention compares no pairs of "
            "tokens and cannot hide one from another; mark padding with key_padding_mask, or leave "
            "this module as it was with skip="
        )
