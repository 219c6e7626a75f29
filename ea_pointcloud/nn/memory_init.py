"""Initialisation of the memories of replaced attention from data, by k-means of the keys."""

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ea_pointcloud._checks import check_count
from ea_pointcloud.nn.drop_in import real_tokens
from ea_pointcloud.nn.replace import DropIn, Replacement, Swap

Batch = Tensor | Sequence[Any] | Mapping[str, Any]
Call = tuple[Tensor, Tensor | None]  # tokens (B, N, C), mask (B, N) with True = real token

# Pull of the values towards the mean values of their clusters, beside the mean square of a slot's
# weights: enough to keep slots apart that nearly coincide.
_RIDGE = 1e-3


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards every module is in the mode it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:  # not train(), which would also set the children
            module.training = training


@torch.no_grad()
def initialise_memories(
    model: nn.Module,
    replacement: Replacement,
    batches: Iterable[Batch],
    *,
    max_tokens: int = 16384,
    generator: torch.Generator | None = None,
) -> None:
    """Initialise the memories of ``model`` from inputs and outputs of its original attention.

    Runs the batches through the model with its originals restored, in evaluation mode. For
    each head, k-means of the keys gives the key memory, scaled as self-attention scales its
    logits; with ``norm="softmax"`` the logarithm of a cluster's share becomes the key bias. The
    value memory is the least-squares fit to the head's outputs, starting from the mean values
    of the clusters. Call it before fine-tuning.

    Args:
        model: what :func:`~ea_pointcloud.nn.replace_attention` changed, or a copy; changed in
            place.
        replacement: what that call returned.
        batches: inputs without labels, in a random order; a tensor is handed to the model as it
            is, a sequence as its arguments, a mapping as its keyword arguments.
        max_tokens: tokens after which an attention records no further batch.
        generator: source of randomness of k-means, on the CPU; seeded with 0 if omitted.

    Raises:
        ValueError: if ``model`` does not hold the replacements, an attention was given fewer real
            tokens than it has slots, or one was used as cross-attention.
    """
    check_count("max_tokens", max_tokens)
    if generator is None:
        generator = torch.Generator().manual_seed(0)
    for swap in replacement.swaps:
        _check_holds(model, swap)
    calls = _record(model, replacement, batches, max_tokens)
    for swap, own in zip(replacement.swaps, calls, strict=True):
        count = sum(tokens[..., 0].numel() if m is None else int(m.sum()) for tokens, m in own)
        if count < swap.memory_size:
            raise ValueError(
                f"batches must hold at least memory_size={swap.memory_size} real tokens for "
                f"{swap.paths[0]}, got {count}; hand in more"
            )
    for swap, own in zip(replacement.swaps, calls, strict=True):
        unit: Any = model.get_submodule(swap.paths[0])
        _cluster_keys(unit, swap, own, generator)
        unit.value_memory.copy_(_fitted_values(unit, swap, own))


def k_means(
    points: Tensor, num_centers: int, generator: torch.Generator, *, steps: int = 25
) -> tuple[Tensor, Tensor]:
    """Lloyd's algorithm from k-means++ starts, for several sets of points at once.

    Args:
        points: (H, n, d) floating point.
        num_centers: M, 1 <= M <= n.
        generator: source of randomness, on the CPU.
        steps: most rounds; it ends where no point changes its centre.

    Returns:
        centers: (H, M, d).
        nearest: (H, n) int64, the centre of each point.

    Reference:
        Arthur and Vassilvitskii, k-means++: The Advantages of Careful Seeding, SODA 2007.
    """
    sets = torch.arange(len(points), device=points.device)
    centers = points.new_empty(len(points), num_centers, points.shape[-1])
    weights = points.new_ones(points.shape[:2])
    for slot in range(num_centers):
        # On the CPU, where the generator is; the smallest weight is for sets of equal points.
        pick = torch.multinomial(weights.cpu().clamp(min=1e-30), 1, generator=generator)[:, 0]
        centers[:, slot] = points[sets, pick.to(points.device)]
        distance = (points - centers[:, slot, None]).square().sum(-1)
        weights = distance if slot == 0 else weights.minimum(distance)
    nearest = torch.cdist(points, centers).argmin(-1)
    for _ in range(steps):
        means, count = _cluster_means(points, nearest, num_centers)
        centers = torch.where(count[..., None] > 0, means, centers)  # one without points stays
        before, nearest = nearest, torch.cdist(points, centers).argmin(-1)
        if torch.equal(before, nearest):
            break
    return centers, nearest


def _cluster_means(values: Tensor, nearest: Tensor, num_centers: int) -> tuple[Tensor, Tensor]:
    """Means (H, M, d) of the values (H, n, d) of each cluster, and how many there are (H, M)."""
    members = F.one_hot(nearest, num_centers).to(values.dtype)  # (H, n, M)
    count = members.sum(1)
    return members.transpose(1, 2) @ values / count.clamp(min=1)[..., None], count


def _record(
    model: nn.Module, replacement: Replacement, batches: Iterable[Batch], max_tokens: int
) -> list[list[Call]]:
    """The calls of each original attention while they all are restored."""
    calls: list[list[Call]] = [[] for _ in replacement.swaps]
    units = {path: model.get_submodule(path) for swap in replacement.swaps for path in swap.paths}
    with evaluating(model), ExitStack() as cleanup:
        for path, unit in units.items():
            cleanup.callback(model.set_submodule, path, unit)
        for swap, own in zip(replacement.swaps, calls, strict=True):
            swap.original.to(units[swap.paths[0]].get_parameter("key_memory"))
            for path in swap.paths:
                model.set_submodule(path, swap.original)

            def record(
                module: nn.Module,
                args: tuple[Any, ...],
                options: dict[str, Any],
                own: list[Call] = own,
            ) -> None:
                if sum(tokens[..., 0].numel() for tokens, _ in own) < max_tokens:
                    own.append(_read_call(module, args, options))

            # A hook also keeps torch's layers off their fused path, which calls no attention.
            hook = swap.original.register_forward_pre_hook(record, with_kwargs=True)
            cleanup.callback(hook.remove)
            cleanup.enter_context(evaluating(swap.original))
        for batch in batches:
            if isinstance(batch, Tensor):
                model(batch)
            elif isinstance(batch, Mapping):
                model(**batch)
            else:
                model(*batch)
    return calls


def _read_call(module: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> Call:
    given = inspect.signature(module.forward).bind(*args, **options).arguments
    if not isinstance(module, nn.MultiheadAttention):
        return given["x"].flatten(1, -2), None
    tokens: Tensor = given["query"]
    if tokens is not given["key"] or tokens is not given["value"]:
        raise ValueError(
            "an attention was called with query, key and value that differ: external attention "
            "cannot replace cross-attention; leave this module as it was with skip= of "
            "replace_attention"
        )
    if tokens.ndim == 2:
        tokens = tokens[None]
    elif not module.batch_first:
        tokens = tokens.transpose(0, 1)
    return tokens, real_tokens(given.get("key_padding_mask"), tokens)


def _cluster_keys(
    unit: DropIn, swap: Swap, calls: Sequence[Call], generator: torch.Generator
) -> None:
    """Set key memory and bias to the clusters of the keys, and the values to their mean values."""
    rows = torch.cat([x.flatten(0, 1) if m is None else x[m] for x, m in calls])
    _, keys, values = (part[0] for part in _project(swap, rows[None]))  # (H, n, d)
    centers, nearest = k_means(keys.float(), swap.memory_size, generator)
    means, count = _cluster_means(values, nearest, swap.memory_size)
    unit.key_memory.copy_(centers * centers.shape[-1] ** -0.5)
    unit.value_memory.copy_(means)
    if unit.key_bias is not None:  # where tokens repeat, a slot may be empty: a small weight
        unit.key_bias.copy_((count.clamp(min=0.5) / len(rows)).log())


def _fitted_values(unit: DropIn, swap: Swap, calls: Sequence[Call]) -> Tensor:
    """(H, M, d) values with which the unit's outputs are closest to those of the original."""
    heads, slots, width = unit.value_memory.shape
    gram = torch.zeros(heads, slots, slots, dtype=torch.float64, device=unit.value_memory.device)
    target = gram.new_zeros(heads, slots, width)
    for tokens, mask in calls:
        query, key, value = _project(swap, tokens)
        seen = None if mask is None else mask[:, None, None]
        answer = F.scaled_dot_product_attention(query, key, value, seen).transpose(1, 2)
        weights = unit.attention_map(tokens, mask)
        real = slice(None) if mask is None else mask
        weights, answer = (x[real].view(-1, heads, x.shape[-1]) for x in (weights, answer))
        weights, answer = (x.transpose(0, 1).double() for x in (weights, answer))  # (H, n, ...)
        gram += weights.transpose(1, 2) @ weights
        target += weights.transpose(1, 2) @ answer
    pull = _RIDGE * gram.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
    ridge = pull * torch.eye(slots, dtype=gram.dtype, device=gram.device)
    return torch.linalg.solve(gram + ridge, target + pull * unit.value_memory)


def _project(swap: Swap, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values (B, H, N, d) of the original for tokens (B, N, C)."""
    original: Any = swap.original
    if isinstance(original, nn.MultiheadAttention):
        projected = F.linear(tokens, original.in_proj_weight, original.in_proj_bias)
    else:
        projected = original.qkv(tokens)
    query, key, value = projected.unflatten(-1, (3, swap.heads, -1)).permute(2, 0, 3, 1, 4)
    norms = dict(original.named_children())
    query, key = (
        norms[name](part) if name in norms else part
        for name, part in (("q_norm", query), ("k_norm", key))
    )
    return query, key, value


def _check_holds(model: nn.Module, swap: Swap) -> None:
    modules = dict(model.named_modules(remove_duplicate=False))
    for path in swap.paths:
        unit = modules.get(path)
        if not isinstance(unit, type(swap.replacement)):
            raise ValueError(
                f"model must hold a {type(swap.replacement).__name__} at {path!r} as it was "
                f"replaced, got {type(unit).__name__}; hand in the model of replace_attention or a "
                "copy of it"
            )
