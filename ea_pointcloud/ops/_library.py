"""The operators as torch operators ``ea_pointcloud::*``, so that tracing sees one node for each.

``torch.compile`` neither breaks its graph at them nor looks inside; CUDA graphs capture them. No
autocast rule is registered: the public functions widen coordinates to float32 before they call.

``torch.library.define`` costs about 10 us a call, the ``custom_op`` decorator about 40.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ea_pointcloud.ops import _backend

Gradients = tuple[Tensor | None, ...]


class _Operator(NamedTuple):
    """What is registered of an operator; its meaning is documented in ``_reference``.

    Attributes:
        schema: its arguments without their parentheses, and its results.
        fake: arguments -> empty results, for their shapes and dtypes while tracing.
        saved: (inputs, output) -> what ``backward`` reads: tensors, and one plain value.
        backward: context and the gradient of the first result -> those of the arguments. Second
            results carry none.
    """

    arguments: str
    results: str
    fake: Callable[..., Any]
    saved: Callable[[Any, Any], tuple[tuple[Tensor | None, ...], Any]] | None = None
    backward: Callable[[Any, Tensor], Gradients] | None = None


def _gather_backward(ctx: Any, grad: Tensor) -> Gradients:
    (idx,) = ctx.saved_tensors  # (B, S, K)
    to_features, _, to_offset = ctx.needs_input_grad
    batch, channels = grad.shape[0], grad.shape[-1]
    features = None
    if to_features:
        rows = grad.reshape(batch, -1, channels)  # (B, S * K, C)
        idx = idx.reshape(batch, -1, 1)
        features = torch.ops.ea_pointcloud.scatter(rows, idx, ctx.value, None)
    return features, None, grad.sum(2) if to_offset else None


def _interpolate_backward(ctx: Any, grad: Tensor) -> Gradients:
    idx, weight = ctx.saved_tensors
    return torch.ops.ea_pointcloud.scatter(grad, idx, ctx.value, weight), None, None


def _scatter_backward(ctx: Any, grad: Tensor) -> Gradients:
    idx, weight = ctx.saved_tensors
    if weight is None:
        return torch.ops.ea_pointcloud.gather(grad, idx, None).sum(2), None, None, None
    return torch.ops.ea_pointcloud.interpolate(grad, idx, weight), None, None, None


def _max_pool_backward(ctx: Any, grad: Tensor) -> Gradients:
    return (torch.ops.ea_pointcloud.max_unpool(grad, *ctx.saved_tensors, ctx.value),)


def _max_unpool_backward(ctx: Any, grad: Tensor) -> Gradients:
    (winner,) = ctx.saved_tensors
    return grad.gather(2, winner.long()[:, :, None])[:, :, 0], None, None


def _gather_max_backward(ctx: Any, grad: Tensor) -> Gradients:
    return torch.ops.ea_pointcloud.scatter_max(grad, *ctx.saved_tensors, ctx.value), None, None


def _scatter_max_backward(ctx: Any, grad: Tensor) -> Gradients:
    (winner,) = ctx.saved_tensors
    return grad.gather(1, winner.long()), None, None


def _attend_backward(ctx: Any, grad: Tensor) -> Gradients:
    _, _, _, to_bias, _, to_lse = ctx.needs_input_grad
    features, key_memory, value_memory, key_bias, slot_lse = (
        torch.ops.ea_pointcloud.attend_backward(grad, *ctx.saved_tensors, ctx.value, to_lse)
    )
    key_bias, slot_lse = key_bias if to_bias else None, slot_lse if to_lse else None
    return features, key_memory, value_memory, key_bias, None, slot_lse


def _no_second_derivative(ctx: Any, grad: Tensor) -> Gradients:
    raise RuntimeError(
        "external attention's kernels have no second derivative; plain PyTorch has one: set "
        "EA_POINTCLOUD_OPS=reference in the environment"
    )


def _fake_knn(query: Tensor, points: Tensor, k: int, lengths: Tensor | None) -> Any:
    shape = (*query.shape[:2], k)
    return query.new_empty(shape), query.new_empty(shape, dtype=torch.long)


def _fake_ball(query: Tensor, points: Tensor, radius: float, k: int, lengths: Tensor | None) -> Any:
    shape = query.shape[:2]
    return (
        query.new_empty((*shape, k), dtype=torch.long), query.new_empty(shape, dtype=torch.long)
    )  # fmt: skip


def _fake_max(centers: Tensor, features: Tensor) -> Any:
    shape = (*centers.shape[:2], features.shape[-1])
    return features.new_empty(shape), features.new_empty(shape, dtype=torch.int32)


def _fake_gather_max(features: Tensor, idx: Tensor, winners: bool) -> Any:
    values, winner = _fake_max(idx, features)
    return values, winner if winners else winner.new_empty(0)


def _fake_attend(features: Tensor, key_memory: Tensor, *others: Any) -> Any:
    batch, _, heads, _ = features.shape
    total = features.new_empty((batch, heads, key_memory.shape[0]), dtype=torch.float32)
    return features.new_empty(features.shape), total


def _fake_attend_backward(
    grad: Tensor, features: Tensor, key: Tensor, value: Tensor, key_bias: Any, mask: Any,
    total: Tensor, coupled: bool, to_total: bool,
) -> Any:  # fmt: skip
    return (
        *(each.new_empty(each.shape) for each in (features, key, value)),
        key.new_empty(key.shape[:1]),
        total.new_empty(total.shape),
    )


_OPERATORS = {
    "farthest_point_sample": _Operator(
        "Tensor xyz, SymInt num_samples, Tensor? lengths, Tensor start",
        "Tensor",
        lambda xyz, size, lengths, start: xyz.new_empty(xyz.shape[0], size, dtype=torch.long),
    ),
    "knn": _Operator(
        "Tensor query, Tensor points, SymInt k, Tensor? lengths", "(Tensor, Tensor)", _fake_knn
    ),
    "ball_query": _Operator(
        "Tensor query, Tensor points, float radius, SymInt k, Tensor? lengths",
        "(Tensor, Tensor)",
        _fake_ball,
    ),
    "gather": _Operator(
        "Tensor features, Tensor idx, Tensor? offset",
        "Tensor",
        lambda features, idx, offset: features.new_empty(*idx.shape, features.shape[-1]),
        lambda inputs, _: ((inputs[1],), inputs[0].shape[1]),
        _gather_backward,
    ),
    "interpolate": _Operator(
        "Tensor features, Tensor idx, Tensor weight",
        "Tensor",
        lambda features, idx, weight: features.new_empty(*idx.shape[:2], features.shape[-1]),
        lambda inputs, _: (inputs[1:], inputs[0].shape[1]),
        _interpolate_backward,
    ),
    "scatter": _Operator(
        "Tensor values, Tensor idx, SymInt num_points, Tensor? weight",
        "Tensor",
        lambda values, idx, size, weight: values.new_empty(values.shape[0], size, values.shape[-1]),
        lambda inputs, _: ((inputs[1], inputs[3]), None),
        _scatter_backward,
    ),
    "max_pool": _Operator(
        "Tensor features",
        "(Tensor, Tensor)",
        lambda features: _fake_max(features, features),
        lambda inputs, output: ((output[1],), inputs[0].shape[2]),
        _max_pool_backward,
    ),
    "max_unpool": _Operator(
        "Tensor values, Tensor winner, SymInt num_neighbors",
        "Tensor",
        lambda values, _, size: values.new_empty(*values.shape[:2], size, values.shape[-1]),
        lambda inputs, _: ((inputs[1],), None),
        _max_unpool_backward,
    ),
    "gather_max": _Operator(
        "Tensor features, Tensor idx, bool winners",
        "(Tensor, Tensor)",
        _fake_gather_max,
        lambda inputs, output: ((output[1],), inputs[0].shape[1]),
        _gather_max_backward,
    ),
    "scatter_max": _Operator(
        "Tensor values, Tensor winner, SymInt num_points",
        "Tensor",
        lambda values, _, size: values.new_empty(values.shape[0], size, values.shape[-1]),
        lambda inputs, _: ((inputs[1],), None),
        _scatter_max_backward,
    ),
    "attend": _Operator(
        "Tensor features, Tensor key_memory, Tensor value_memory, Tensor? key_bias, Tensor? mask,"
        " Tensor? slot_lse",
        "(Tensor, Tensor)",
        _fake_attend,
        lambda inputs, output: ((*inputs[:-1], output[1]), inputs[-1] is None),
        _attend_backward,
    ),
    "attend_backward": _Operator(
        "Tensor grad, Tensor features, Tensor key_memory, Tensor value_memory, Tensor? key_bias,"
        " Tensor? mask, Tensor total, bool coupled, bool to_total",
        "(Tensor, Tensor, Tensor, Tensor, Tensor)",
        _fake_attend_backward,
        lambda inputs, output: ((), None),
        _no_second_derivative,
    ),
}

# Lives as long as the process: dropping it would unregister the operators.
_LIBRARY = torch.library.Library("ea_pointcloud", "DEF")


def _register(name: str, operator: _Operator) -> None:
    def run(*arguments: Any) -> Any:
        return _backend.call(name, arguments)

    def setup(ctx: Any, inputs: Any, output: Any) -> None:
        assert operator.saved is not None
        tensors, ctx.value = operator.saved(inputs, output)
        ctx.save_for_backward(*tensors)
        if operator.results == "(Tensor, Tensor)":
            ctx.mark_non_differentiable(output[1])

    def backward(ctx: Any, grad: Tensor, *_: Tensor | None) -> Gradients:
        assert operator.backward is not None
        return operator.backward(ctx, grad)

    full_name = f"ea_pointcloud::{name}"
    _LIBRARY.define(f"{name}({operator.arguments}) -> {operator.results}")
    _LIBRARY.impl(name, run, "CompositeExplicitAutograd")
    torch.library.register_fake(full_name, operator.fake, lib=_LIBRARY)
    if operator.backward is not None:
        torch.library.register_autograd(full_name, backward, setup_context=setup, lib=_LIBRARY)


for _name, _operator in _OPERATORS.items():
    _register(_name, _operator)
