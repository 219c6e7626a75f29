"""The operators as torch operators ``ea_pointcloud::*``, so that tracing sees one node for each.

``torch.compile`` neither breaks its graph at them nor looks inside; CUDA graphs capture them. A
kernel registered for all devices hands over to the implementation that ``_backend`` chose. No
autocast rule is registered: the public functions widen coordinates to float32 before they call.

``torch.library.define`` costs about 10 us a call, the ``custom_op`` decorator about 40.
"""

from typing import Any

import torch
from torch import Tensor

from ea_pointcloud.ops import _backend

_SCHEMAS = (
    "farthest_point_sample(Tensor xyz, SymInt num_samples, Tensor? lengths, Tensor start)"
    " -> Tensor",
    "knn(Tensor query, Tensor points, SymInt k, Tensor? lengths) -> (Tensor, Tensor)",
    "ball_query(Tensor query, Tensor points, float radius, SymInt k, Tensor? lengths)"
    " -> (Tensor, Tensor)",
    "gather(Tensor features, Tensor idx, Tensor? offset) -> Tensor",
    "interpolate(Tensor features, Tensor idx, Tensor weight) -> Tensor",
    "scatter(Tensor values, Tensor idx, SymInt num_points, Tensor? weight) -> Tensor",
    "max_pool(Tensor features) -> (Tensor, Tensor)",
    "max_unpool(Tensor values, Tensor winner, SymInt num_neighbors) -> Tensor",
    "gather_max(Tensor features, Tensor idx) -> (Tensor, Tensor)",
    "scatter_max(Tensor values, Tensor winner, SymInt num_points) -> Tensor",
    "attend(Tensor features, Tensor key_memory, Tensor value_memory, Tensor? key_bias,"
    " Tensor? mask, Tensor? slot_lse) -> (Tensor, Tensor)",
    "attend_backward(Tensor grad, Tensor features, Tensor key_memory, Tensor value_memory,"
    " Tensor? key_bias, Tensor? mask, Tensor total, bool coupled, bool to_total)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)

# Lives as long as the process: dropping it would unregister the operators.
_LIBRARY = torch.library.Library("ea_pointcloud", "DEF")


def _register(schema: str) -> None:
    name = schema.partition("(")[0]

    def run(*arguments: Any) -> Any:
        chosen = _backend.implementation(arguments[0].device.type)
        return getattr(chosen, name)(*arguments)

    _LIBRARY.define(schema)
    _LIBRARY.impl(name, run, "CompositeExplicitAutograd")


for _schema in _SCHEMAS:
    _register(_schema)


# --- shapes and dtypes, for tracing


@torch.library.register_fake("ea_pointcloud::farthest_point_sample", lib=_LIBRARY)
def _(xyz: Tensor, num_samples: int, lengths: Tensor | None, start: Tensor) -> Tensor:
    return xyz.new_empty(xyz.shape[0], num_samples, dtype=torch.long)


@torch.library.register_fake("ea_pointcloud::knn", lib=_LIBRARY)
def _(query: Tensor, points: Tensor, k: int, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
    shape = (*query.shape[:2], k)
    return query.new_empty(shape), query.new_empty(shape, dtype=torch.long)


@torch.library.register_fake("ea_pointcloud::ball_query", lib=_LIBRARY)
def _(
    query: Tensor, points: Tensor, radius: float, k: int, lengths: Tensor | None
) -> tuple[Tensor, Tensor]:
    idx = query.new_empty((*query.shape[:2], k), dtype=torch.long)
    return idx, query.new_empty(query.shape[:2], dtype=torch.long)


@torch.library.register_fake("ea_pointcloud::gather", lib=_LIBRARY)
def _(features: Tensor, idx: Tensor, offset: Tensor | None) -> Tensor:
    return features.new_empty(*idx.shape, features.shape[-1])


@torch.library.register_fake("ea_pointcloud::interpolate", lib=_LIBRARY)
def _(features: Tensor, idx: Tensor, weight: Tensor) -> Tensor:
    return features.new_empty(*idx.shape[:2], features.shape[-1])


@torch.library.register_fake("ea_pointcloud::scatter", lib=_LIBRARY)
def _(values: Tensor, idx: Tensor, num_points: int, weight: Tensor | None) -> Tensor:
    return values.new_empty(values.shape[0], num_points, values.shape[-1])


@torch.library.register_fake("ea_pointcloud::max_pool", lib=_LIBRARY)
def _(features: Tensor) -> tuple[Tensor, Tensor]:
    shape = (*features.shape[:2], features.shape[-1])
    return features.new_empty(shape), features.new_empty(shape, dtype=torch.int32)


@torch.library.register_fake("ea_pointcloud::max_unpool", lib=_LIBRARY)
def _(values: Tensor, winner: Tensor, num_neighbors: int) -> Tensor:
    return values.new_empty(*values.shape[:2], num_neighbors, values.shape[-1])


@torch.library.register_fake("ea_pointcloud::gather_max", lib=_LIBRARY)
def _(features: Tensor, idx: Tensor) -> tuple[Tensor, Tensor]:
    shape = (*idx.shape[:2], features.shape[-1])
    return features.new_empty(shape), features.new_empty(shape, dtype=torch.int32)


@torch.library.register_fake("ea_pointcloud::scatter_max", lib=_LIBRARY)
def _(values: Tensor, winner: Tensor, num_points: int) -> Tensor:
    return values.new_empty(values.shape[0], num_points, values.shape[-1])


@torch.library.register_fake("ea_pointcloud::attend", lib=_LIBRARY)
def _(
    features: Tensor,
    key_memory: Tensor,
    value_memory: Tensor,
    key_bias: Tensor | None,
    mask: Tensor | None,
    slot_lse: Tensor | None,
) -> tuple[Tensor, Tensor]:
    batch, _, heads, _ = features.shape
    total = features.new_empty((batch, heads, key_memory.shape[0]), dtype=torch.float32)
    return features.new_empty(features.shape), total


@torch.library.register_fake("ea_pointcloud::attend_backward", lib=_LIBRARY)
def _(
    grad: Tensor,
    features: Tensor,
    key_memory: Tensor,
    value_memory: Tensor,
    key_bias: Tensor | None,
    mask: Tensor | None,
    total: Tensor,
    coupled: bool,
    to_total: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return (
        features.new_empty(features.shape),
        key_memory.new_empty(key_memory.shape),
        value_memory.new_empty(value_memory.shape),
        key_memory.new_empty(key_memory.shape[:1]),
        total.new_empty(total.shape),
    )


# --- derivatives: gather and interpolate are linear, and scatter is their transpose


def _gather_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    features, idx, _ = inputs
    ctx.save_for_backward(idx)
    ctx.num_points = features.shape[1]


def _gather_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (idx,) = ctx.saved_tensors  # (B, S, K)
    to_features, _, to_offset = ctx.needs_input_grad
    batch, channels = grad.shape[0], grad.shape[-1]
    features = None
    if to_features:
        rows = grad.reshape(batch, -1, channels)  # (B, S * K, C)
        features = torch.ops.ea_pointcloud.scatter(
            rows, idx.reshape(batch, -1, 1), ctx.num_points, None
        )
    return features, None, grad.sum(2) if to_offset else None


def _interpolate_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    features, idx, weight = inputs
    ctx.save_for_backward(idx, weight)
    ctx.num_points = features.shape[1]


def _interpolate_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    idx, weight = ctx.saved_tensors
    return torch.ops.ea_pointcloud.scatter(grad, idx, ctx.num_points, weight), None, None


def _scatter_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, idx, _, weight = inputs
    ctx.save_for_backward(idx, weight)


def _scatter_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    idx, weight = ctx.saved_tensors
    if weight is None:
        return torch.ops.ea_pointcloud.gather(grad, idx, None).sum(2), None, None, None
    return torch.ops.ea_pointcloud.interpolate(grad, idx, weight), None, None, None


def _max_pool_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(output[1])
    ctx.num_neighbors = inputs[0].shape[2]
    ctx.mark_non_differentiable(output[1])


def _max_pool_backward(ctx: Any, grad: Tensor, _: Tensor) -> Tensor:
    (winner,) = ctx.saved_tensors
    return torch.ops.ea_pointcloud.max_unpool(grad, winner, ctx.num_neighbors)


def _max_unpool_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(inputs[1])


def _max_unpool_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (winner,) = ctx.saved_tensors
    return grad.gather(2, winner.long()[:, :, None])[:, :, 0], None, None


def _gather_max_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(output[1])
    ctx.num_points = inputs[0].shape[1]
    ctx.mark_non_differentiable(output[1])


def _gather_max_backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, None]:
    (winner,) = ctx.saved_tensors
    return torch.ops.ea_pointcloud.scatter_max(grad, winner, ctx.num_points), None


def _scatter_max_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(inputs[1])


def _scatter_max_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (winner,) = ctx.saved_tensors
    return grad.gather(1, winner.long()), None, None


def _attend_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *saved, slot_lse = inputs
    ctx.save_for_backward(*saved, output[1])
    ctx.coupled = slot_lse is None
    ctx.mark_non_differentiable(output[1])


def _attend_backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    _, _, _, to_bias, _, to_total = ctx.needs_input_grad
    gradients = torch.ops.ea_pointcloud.attend_backward(
        grad, *ctx.saved_tensors, ctx.coupled, to_total
    )
    features, key_memory, value_memory, key_bias, total = gradients
    return (
        features,
        key_memory,
        value_memory,
        key_bias if to_bias else None,
        None,
        total if to_total else None,
    )


def _no_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    pass


def _no_second_derivative(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
    raise RuntimeError(
        "external attention's kernels have no second derivative; plain PyTorch has one, which "
        "EA_POINTCLOUD_OPS=reference in the environment asks for"
    )


for _name, _backward, _setup in (
    ("gather", _gather_backward, _gather_setup),
    ("interpolate", _interpolate_backward, _interpolate_setup),
    ("scatter", _scatter_backward, _scatter_setup),
    ("max_pool", _max_pool_backward, _max_pool_setup),
    ("max_unpool", _max_unpool_backward, _max_unpool_setup),
    ("gather_max", _gather_max_backward, _gather_max_setup),
    ("scatter_max", _scatter_max_backward, _scatter_max_setup),
    ("attend", _attend_backward, _attend_setup),
    ("attend_backward", _no_second_derivative, _no_setup),
):
    torch.library.register_autograd(
        f"ea_pointcloud::{_name}", _backward, setup_context=_setup, lib=_LIBRARY
    )
