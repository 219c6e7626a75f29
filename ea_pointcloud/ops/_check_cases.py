"""The inputs of the self-check: ties, duplicates, NaN, lengths, sizes, layouts, half precision."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

NAN = float("nan")


class Case(NamedTuple):
    """One call.

    Attributes:
        arguments: on the CPU.
        tolerance: of floating point results, relative to the greatest; 0 means bit for bit.
    """

    arguments: tuple[Any, ...]
    tolerance: float = 0.0


def move(value: Any, device: torch.device) -> Any:
    """A tensor on ``device`` in the same memory layout, strides and alignment; others as they are.

    (``Tensor.to`` would straighten both.)
    """
    if not isinstance(value, Tensor) or not value.numel():
        return value
    offset = value.storage_offset()
    span = 1 + sum((n - 1) * s for n, s in zip(value.shape, value.stride(), strict=True))
    memory = torch.zeros(offset + span, dtype=value.dtype, device=device)
    memory[offset:] = value.as_strided((span,), (1,), offset)
    return memory.as_strided(value.shape, value.stride(), offset)


def permuted(value: Tensor) -> Tensor:
    """The same values with the axes of the memory in reverse."""
    axes = tuple(reversed(range(value.ndim)))
    return value.permute(axes).contiguous().permute(axes)


def unaligned(value: Tensor) -> Tensor:
    """The same values one element further in memory than an allocation starts."""
    memory = torch.zeros(value.numel() + 1, dtype=value.dtype)[1:]
    return memory.view(value.shape).copy_(value)


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _integers(high: int, *shape: int, seed: int = 0) -> Tensor:
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(seed))


def _surface(batch: int, num_points: int, seed: int = 0) -> Tensor:
    return torch.nn.functional.normalize(_random(batch, num_points, 3, seed=seed), dim=-1)


def _ties(batch: int, num_points: int, seed: int = 0) -> Tensor:
    return _integers(4, batch, num_points, 3, seed=seed) * 0.25


def _with_nan(xyz: Tensor) -> Tensor:
    xyz = xyz.clone()
    xyz[:, ::7, 1] = NAN
    return xyz


def _sampling() -> Iterator[Case]:
    zero = torch.zeros(1, dtype=torch.long)
    lengths, start = torch.tensor([100, 37]), torch.tensor([3, 90])
    yield Case((_ties(2, 100), 64, lengths, start))
    yield Case((permuted(_with_nan(_surface(2, 1024))), 128, None, start))
    yield Case((_surface(1, 1), 4, None, zero))
    yield Case((_surface(1, 1).expand(1, 50, 3), 60, None, zero))
    yield Case((unaligned(_surface(1, 16_385)), 40, None, zero))
    yield Case((_with_nan(_ties(2, 30_001)), 40, torch.tensor([30_001, 20_000]), start))


def _searches(*between: float) -> Iterator[Case]:
    lengths = torch.tensor([100, 7])
    yield Case((_ties(2, 65, 1), _ties(2, 100), *between, 16, lengths))
    yield Case((permuted(_with_nan(_surface(2, 40, 1))), permuted(_with_nan(_surface(2, 600))),
                *between, 5, None))  # fmt: skip
    yield Case((_surface(1, 3, 1), _surface(1, 1), *between, 1, None))
    yield Case((unaligned(_surface(1, 50, 1)), unaligned(_surface(1, 1000)), *between, 32, None))
    yield Case((_surface(2, 64, 1), _surface(2, 30_001), *between, 20, torch.tensor([30_001, 9])))


def _gathering() -> Iterator[Case]:
    features, idx = _random(2, 50, 64), _integers(50, 2, 20, 3)
    yield Case((permuted(features), permuted(idx), None))
    yield Case((unaligned(features[..., :3]), unaligned(idx), _random(2, 20, 3, seed=1)))
    yield Case((features.half(), idx, features[:, :20].half()))
    yield Case((_random(1, 9, 300), _integers(9, 1, 4, 1), None))


def _interpolation() -> Iterator[Case]:
    features, idx = _random(2, 50, 33), _integers(50, 2, 20, 3)
    weight = _random(2, 20, 3, seed=1).abs()
    yield Case((features, idx, weight), 1e-6)
    yield Case((permuted(features), permuted(idx), permuted(weight)), 1e-6)
    yield Case((features.bfloat16(), idx, unaligned(weight)), 1e-2)


def _scattering() -> Iterator[Case]:
    values, idx, weight = _random(2, 20, 33), _integers(9, 2, 20, 3), _random(2, 20, 3, seed=1)
    yield Case((values, idx, 50, weight), 1e-6)
    yield Case((permuted(values), permuted(idx), 50, permuted(weight)), 1e-6)
    yield Case((unaligned(values).bfloat16(), unaligned(idx[..., :1]), 50, None), 1e-2)


def _max_pooling() -> Iterator[Case]:
    features = (_random(2, 9, 5, 17) * 2).round()
    yield Case((features,))
    yield Case((permuted(features),))
    yield Case((unaligned(features).bfloat16(),))


def _max_unpooling() -> Iterator[Case]:
    values, winner = _random(2, 9, 17), _integers(5, 2, 9, 17).int()
    yield Case((values, winner, 5))
    yield Case((permuted(values).bfloat16(), permuted(winner), 5))


def _gathering_max() -> Iterator[Case]:
    features, idx = (_random(2, 30, 17) * 2).round(), _integers(30, 2, 9, 5)
    yield Case((features, idx, True))
    yield Case((permuted(features), permuted(idx), True))
    yield Case((unaligned(features).bfloat16(), unaligned(idx), True))
    yield Case((permuted(features), permuted(idx), False))


def _scattering_max() -> Iterator[Case]:
    values, winner = _random(2, 40, 17), _integers(9, 2, 40, 17).int()
    yield Case((values, winner, 30), 1e-6)
    yield Case((permuted(values), permuted(winner), 30), 1e-6)
    yield Case((unaligned(values).bfloat16(), unaligned(winner), 30), 1e-2)


def _attention(
    dtype: torch.dtype, channels: int = 24, heads: int = 1, slots: int = 10
) -> tuple[Tensor, ...]:
    """Features, both memories, bias, mask, and logarithms to subtract."""
    memory = _random(slots, channels, seed=1) / channels**0.5
    mask = _integers(3, 2, 150, seed=2) > 0
    mask[1, 40:] = False
    floats = (_random(2, 150, heads, channels), memory, _random(slots, channels, seed=3),
              _random(slots, seed=4))  # fmt: skip
    return *(each.to(dtype) for each in floats), mask, _random(2, heads, slots, seed=5)


def _attending() -> Iterator[Case]:
    features, key, value, bias, mask, lse = _attention(torch.float32)
    yield Case((features, key, value, None, mask, None), 1e-4)
    yield Case(
        (permuted(features), permuted(key), permuted(value), bias, permuted(mask), None), 1e-4
    )
    for dtype, tolerance in ((torch.float16, 4e-3), (torch.bfloat16, 3e-2)):
        features, key, value, bias, mask, lse = _attention(dtype, 64, 2, 64)
        arguments = features, unaligned(key), value, unaligned(bias), None, permuted(lse)
        yield Case(arguments, tolerance)


def _attending_backward() -> Iterator[Case]:
    features, key, value, bias, mask, lse = _attention(torch.float32)
    grad = _random(*features.shape, seed=6)
    yield Case((grad, features, key, value, None, mask, lse, False, True), 1e-4)

    total = (
        (features.transpose(1, 2) @ key.T + bias)
        .masked_fill(~mask[:, None, :, None], -torch.inf)
        .logsumexp(2)
    )  # (B, H, M)
    yield Case((permuted(grad), permuted(features), key, value, bias, mask, permuted(total),
                True, True), 1e-4)  # fmt: skip


CASES: dict[str, Callable[[], Iterator[Case]]] = {
    "farthest_point_sample": _sampling,
    "knn": lambda: _searches(),
    "ball_query": lambda: _searches(0.3),
    "gather": _gathering,
    "interpolate": _interpolation,
    "scatter": _scattering,
    "max_pool": _max_pooling,
    "max_unpool": _max_unpooling,
    "gather_max": _gathering_max,
    "scatter_max": _scattering_max,
    "attend": _attending,
    "attend_backward": _attending_backward,
}


def usual(name: str) -> tuple[Any, ...]:
    """Arguments of the size that a network has, to be timed: 32 clouds of 1,024 points."""
    xyz, idx = _surface(32, 1024), _integers(1024, 32, 512, 32)
    query, features = xyz[:, :512].contiguous(), _random(32, 1024, 64)
    values, weight = features[:, :512].contiguous(), _random(32, 512, 32).abs()
    winner = _integers(1024, 32, 512, 64).int()
    start = torch.zeros(32, dtype=torch.long)
    if name.startswith("attend"):
        inputs = features[:, :, None], *(_random(64, 64, seed=seed) for seed in (1, 2)), None, None
        if name == "attend":
            return *inputs, None
        return inputs[0], *inputs, _random(32, 1, 64), True, False
    return {
        "farthest_point_sample": (xyz, 512, None, start),
        "knn": (query, xyz, 32, None),
        "ball_query": (query, xyz, 0.2, 32, None),
        "gather": (features, idx, None),
        "interpolate": (features, idx[..., :3], weight[..., :3]),
        "scatter": (values, idx[..., :3], 1024, weight[..., :3]),
        "max_pool": (_random(32, 512, 32, 64),),
        "max_unpool": (values, winner % 32, 32),
        "gather_max": (features, idx, True),
        "scatter_max": (values, winner, 1024),
    }[name]
