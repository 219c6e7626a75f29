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


for _name, _backward, _setup in (
    ("gather", _gather_backward, _gather_setup),
    ("interpolate", _interpolate_backward, _interpolate_setup),
    ("scatter", _scatter_backward, _scatter_setup),
):
    torch.library.register_autograd(
        f"ea_pointcloud::{_name}", _backward, setup_context=_setup, lib=_LIBRARY
    )
