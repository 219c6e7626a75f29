"""Replacing the self-attention of any model by external attention, with a report."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from ea_pointcloud._checks import check_choice, check_count
from ea_pointcloud.nn.drop_in import ExternalMultiheadAttention, ExternalTokenAttention
from ea_pointcloud.ops.attention import NORMS

DropIn = ExternalMultiheadAttention | ExternalTokenAttention

# Parts and arguments of timm's Attention; anything else (a bias of relative positions, a gate)
# would be lost silently.
_TIMM_PARTS = {"qkv", "q_norm", "k_norm", "attn_drop", "norm", "proj", "proj_drop"}
_TIMM_ARGUMENTS = {"x", "attn_mask", "is_causal"}


@dataclass(frozen=True)
class Swap:
    """One attention that was replaced.

    Args:
        paths: names of the module in the model; several where it is shared.
        kind: class of the original.
        channels: C.
        heads: H.
        memory_size: M.
        parameters: before and after.
        original: the attention that was there, for :func:`~ea_pointcloud.nn.initialise_memories`.
        replacement: the attention that is there now.
    """

    paths: tuple[str, ...]
    kind: str
    channels: int
    heads: int
    memory_size: int
    parameters: tuple[int, int]
    original: nn.Module = field(repr=False)
    replacement: DropIn = field(repr=False)

    def macs(self, num_tokens: int) -> tuple[int, int]:
        """Multiply-accumulates of the matrix products for (1, num_tokens, C), before and after."""
        projection = num_tokens * self.channels**2
        before = 4 * projection + 2 * num_tokens**2 * self.channels
        return before, 2 * projection + 2 * num_tokens * self.memory_size * self.channels


@dataclass(frozen=True)
class Replacement:
    """What :func:`replace_attention` did; ``print`` it.

    Args:
        swaps: the attentions replaced, in the order of the model.
        left: path -> why, of the attentions that stay as they were.
        num_tokens: N of the multiply-accumulates printed.
    """

    swaps: tuple[Swap, ...]
    left: dict[str, str]
    num_tokens: int

    @property
    def parameters(self) -> tuple[int, int]:
        """Parameters of the attentions replaced, before and after."""
        return _sums([swap.parameters for swap in self.swaps])

    def macs(self, num_tokens: int | None = None) -> tuple[int, int]:
        """Multiply-accumulates of the attentions replaced, before and after.

        Args:
            num_tokens: N; that of the report if omitted.
        """
        count = self.num_tokens if num_tokens is None else num_tokens
        return _sums([swap.macs(count) for swap in self.swaps])

    def __str__(self) -> str:
        names = ("attention", "was", "C", "heads", "slots", "parameters")
        rows: list[tuple[str, ...]] = [(*names, f"MACs, N={self.num_tokens:,}")]
        for swap in self.swaps:
            sizes = (swap.channels, swap.heads, swap.memory_size)
            costs = (swap.parameters, swap.macs(self.num_tokens))
            rows.append((" = ".join(swap.paths), swap.kind, *map(str, sizes), *map(_change, costs)))
        total = (_change(self.parameters), _change(self.macs()))
        rows.append(("all", "", "", "", "", *total))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        return "\n".join([*lines, *(f"left: {path}: {why}" for path, why in self.left.items())])


def replace_attention(
    model: nn.Module,
    memory_size: int = 64,
    *,
    norm: str = "double",
    skip: Sequence[str] = (),
    num_tokens: int = 1024,
) -> Replacement:
    """Replace the self-attention of ``model`` by external attention, in place.

    Replaced are :class:`torch.nn.MultiheadAttention`, alone or in torch's transformer layers, and
    timm's ``Attention``. Each replacement has the interface, heads, device, dtype and training
    mode of its original and takes over its query and output projections. Its memories are random:
    :func:`~ea_pointcloud.nn.initialise_memories` starts them from data. Nothing changes where an
    error is raised. Build optimisers afterwards, for the parameters are others.

    A class token, which sees the other tokens through attention alone, receives little through
    external attention; pool the tokens instead.

    Args:
        model: changed in place. In its ``TransformerEncoder`` modules nested tensors are turned
            off. Memory of the originals is freed with the report.
        memory_size: M >= 1, slots of each memory of each head.
        norm: ``"double"`` as published, or ``"softmax"`` over the slots alone, with which no token
            sees another.
        skip: shell patterns (``"decoder.*"``) of paths of attentions to leave as they are.
        num_tokens: N of the multiply-accumulates that the report prints.

    Returns:
        What was replaced and at what cost, and what was left and why.

    Raises:
        ValueError: if a number or ``norm`` is impossible, a pattern of ``skip`` matches no
            attention, ``model`` is itself an attention, or nothing can be replaced.
    """
    check_count("memory_size", memory_size)
    check_count("num_tokens", num_tokens)
    check_choice("norm", norm, NORMS)
    paths, left = _chosen(model, skip)
    swaps = [_swap(names, original, memory_size, norm) for original, names in paths.items()]
    for swap in swaps:
        for path in swap.paths:
            model.set_submodule(path, swap.replacement)
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False
    return Replacement(tuple(swaps), left, num_tokens)


def _chosen(
    model: nn.Module, skip: Sequence[str]
) -> tuple[dict[nn.Module, list[str]], dict[str, str]]:
    """Paths of each attention to replace, and path -> why, of those that are left."""
    found = _find(model)
    if "" in found and not _why_left("", model, model):
        raise ValueError(
            f"model is itself a {type(model).__name__}, which cannot be replaced in place; hand in "
            "the model that contains it, or nn.ModuleList([attention])"
        )
    for pattern in skip:
        if not any(fnmatchcase(path, pattern) for path in found):
            raise ValueError(
                f"skip pattern {pattern!r} matches no attention; there are: "
                f"{', '.join(found) or 'none'}"
            )
    paths: dict[nn.Module, list[str]] = {}
    left: dict[str, str] = {}
    for path, module in found.items():
        why = _why_left(path, module, model)
        if any(fnmatchcase(path, pattern) for pattern in skip):
            why = "named in skip"
        if why:
            left[path] = why
        else:
            paths.setdefault(module, []).append(path)
    if not paths:
        listed = "; ".join(f"{path or 'itself'}: {why}" for path, why in left.items())
        raise ValueError(
            f"{type(model).__name__} has no self-attention to replace ({listed or 'none found'}); "
            "torch.nn.MultiheadAttention and timm's Attention can be"
        )
    return paths, left


def _find(model: nn.Module) -> dict[str, nn.Module]:
    return {
        path: module
        for path, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, nn.MultiheadAttention)
        or (type(module).__name__ == "Attention" and not _wraps_torch(module))
    }


def _wraps_torch(module: nn.Module) -> bool:
    """Whether the attention proper is torch's, further inside."""
    return any(isinstance(part, nn.MultiheadAttention) for part in module.modules())


def _why_left(path: str, module: nn.Module, model: nn.Module) -> str:
    """Why an attention cannot be replaced; empty where it can."""
    if not isinstance(module, nn.MultiheadAttention):
        return _why_not_timm(module)
    parent, _, name = path.rpartition(".")
    decoder = isinstance(model.get_submodule(parent), nn.TransformerDecoderLayer)
    if (decoder and name == "multihead_attn") or not module._qkv_same_embed_dim:
        return "cross-attention"
    if type(module) is not nn.MultiheadAttention:
        return f"{type(module).__name__} may do other things than torch.nn.MultiheadAttention"
    if module.bias_k is not None or module.add_zero_attn:
        return "adds keys of its own (add_bias_kv, add_zero_attn)"
    return ""


def _why_not_timm(module: nn.Module) -> str:
    parts = {name: part for name, part in module.named_children()}
    own = [name for name, _ in module.named_parameters(recurse=False)]
    own += [name for name, _ in module.named_buffers(recurse=False)]
    if own or not parts.keys() <= _TIMM_PARTS:
        extra = ", ".join([*own, *sorted(parts.keys() - _TIMM_PARTS)])
        return f"has more than timm's Attention: {extra}"
    qkv, proj = parts.get("qkv"), parts.get("proj")
    if not isinstance(qkv, nn.Linear) or not isinstance(proj, nn.Linear):
        return "has no linear qkv and proj as timm's Attention"
    width = qkv.in_features
    if (qkv.out_features, proj.in_features, proj.out_features) != (3 * width, width, width):
        return "its heads are wider or narrower than its tokens"
    heads = getattr(module, "num_heads", None)
    if not isinstance(heads, int) or width % heads:
        return "has no num_heads as timm's Attention"
    if not isinstance(parts.get("norm", nn.Identity()), nn.Identity):
        return "normalises what it attended to (scale_norm)"
    extra = inspect.signature(module.forward).parameters.keys() - _TIMM_ARGUMENTS
    return f"is called with {', '.join(sorted(extra))}" if extra else ""


def _swap(paths: Sequence[str], original: nn.Module, memory_size: int, norm: str) -> Swap:
    new: DropIn
    if isinstance(original, nn.MultiheadAttention):
        new = ExternalMultiheadAttention(
            original.embed_dim,
            heads=original.num_heads,
            memory_size=memory_size,
            norm=norm,
            batch_first=original.batch_first,
        )
        qkv, bias, output = original.in_proj_weight, original.in_proj_bias, original.out_proj
    else:
        layer, output = original.get_submodule("qkv"), original.get_submodule("proj")
        assert isinstance(layer, nn.Linear)
        assert isinstance(output, nn.Linear)
        qkv, bias = layer.weight, layer.bias
        new = ExternalTokenAttention(
            layer.in_features,
            heads=int(original.num_heads),  # pyright: ignore[reportArgumentType]
            memory_size=memory_size,
            norm=norm,
            dropout=getattr(getattr(original, "proj_drop", None), "p", 0.0),
        )
        new.query_norm = getattr(original, "q_norm", new.query_norm)
    new.to(qkv).train(original.training)
    channels = qkv.shape[1]
    new.input = _linear(qkv[:channels], None if bias is None else bias[:channels], qkv)
    new.output = _linear(output.weight, output.bias, output.weight)
    return Swap(
        tuple(paths),
        type(original).__name__,
        channels,
        new.num_heads,
        memory_size,
        (_size(original), _size(new)),
        original,
        new,
    )


def _linear(weight: Tensor, bias: Tensor | None, like: Tensor) -> nn.Linear:
    """A layer with copies of its own, frozen where ``like`` is."""
    layer = nn.Linear(
        weight.shape[1], weight.shape[0], bias is not None, device=like.device, dtype=like.dtype
    )
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None:
            layer.bias.copy_(bias)
    return layer.requires_grad_(like.requires_grad)


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _sums(pairs: Sequence[tuple[int, int]]) -> tuple[int, int]:
    return sum(before for before, _ in pairs), sum(after for _, after in pairs)


def _change(pair: tuple[int, int]) -> str:
    before, after = pair
    return f"{before:,} -> {after:,}"
