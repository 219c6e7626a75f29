"""Gathering features at indices and interpolating them."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from ea_pointcloud import ops
from ea_pointcloud.ops import knn
from tests.oracles import RUNS, cloud, running, seeded


@pytest.fixture(params=RUNS, autouse=True)
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Run what this file calls ``gather_points`` on the device; tests deal in CPU tensors."""
    with running(request.param) as device:
        for function in (ops.gather_points, ops.interpolate_features):
            monkeypatch.setitem(globals(), function.__name__, moved(function, device))
        yield device


def moved(function: Callable[..., Tensor], device: str) -> Callable[..., Tensor]:
    def there(value: Any) -> Any:
        return value.to(device) if isinstance(value, Tensor) else value

    def run(*arguments: Any, **options: Any) -> Tensor:
        options = {name: there(value) for name, value in options.items()}
        return function(*map(there, arguments), **options).cpu()

    return run


gather_points = ops.gather_points
interpolate_features = ops.interpolate_features


def line(*x: float) -> Tensor:
    """(1, N, 3) points on the x axis."""
    return torch.tensor([[[value, 0.0, 0.0] for value in x]])


# --- gather_points


@pytest.mark.parametrize("shape", [(2, 7), (2, 7, 3)])
def test_gather_equals_the_index_equation(shape: tuple[int, ...]) -> None:
    features = torch.randn(2, 5, 4, generator=seeded())
    idx = torch.randint(5, shape, generator=seeded())
    out = gather_points(features, idx)
    assert out.shape == (*shape, 4)
    for position in torch.cartesian_prod(*[torch.arange(size) for size in shape]).tolist():
        cloud_index = position[0]
        assert torch.equal(out[tuple(position)], features[cloud_index, idx[tuple(position)]])


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.int64, torch.bool])
def test_gather_takes_any_dtype(dtype: torch.dtype) -> None:
    features = torch.randint(2, (2, 5, 4), generator=seeded()).to(dtype)
    out = gather_points(features, torch.tensor([[4], [0]]))
    assert out.dtype == dtype
    assert torch.equal(out[:, 0], torch.stack([features[0, 4], features[1, 0]]))


def test_gather_reads_any_memory_layout() -> None:
    features = torch.randn(4, 5, 2, generator=seeded()).permute(2, 1, 0)  # (2, 5, 4)
    idx = torch.randint(5, (3, 2), generator=seeded()).T
    expected = torch.stack([row[i] for row, i in zip(features, idx, strict=True)])
    assert torch.equal(gather_points(features, idx), expected)


@pytest.mark.parametrize("shape", [(2, 7), (2, 3, 2)])
def test_gather_gradient(shape: tuple[int, ...]) -> None:
    features = torch.randn(2, 5, 3, generator=seeded(), dtype=torch.float64, requires_grad=True)
    idx = torch.randint(5, shape, generator=seeded())
    assert torch.autograd.gradcheck(lambda values: gather_points(values, idx), features)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("channels", [1, 3, 64, 130])
def test_gather_adds_the_offset(dtype: torch.dtype, channels: int) -> None:
    features = torch.randn(2, 9, channels, generator=seeded()).to(dtype)
    idx = torch.randint(9, (2, 5, 3), generator=seeded())
    offset = torch.randn(2, 5, channels, generator=seeded(1)).to(dtype)
    expected = gather_points(features, idx) + offset[:, :, None]
    assert torch.equal(gather_points(features, idx, offset=offset), expected)
    at_one = gather_points(features, idx[..., 0], offset=offset)
    assert torch.equal(at_one, expected[:, :, 0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gather_gradient_in_features_and_offset(dtype: torch.dtype) -> None:
    # Against autograd of advanced indexing; the float64 case also by finite differences.
    features = torch.randn(2, 5, 3, generator=seeded(), dtype=dtype, requires_grad=True)
    idx = torch.randint(5, (2, 4, 3), generator=seeded())
    offset = torch.randn(2, 4, 3, generator=seeded(1), dtype=dtype, requires_grad=True)
    weight = torch.randn(2, 4, 3, 3, generator=seeded(2), dtype=dtype)
    plain = features[torch.arange(2)[:, None, None], idx] + offset[:, :, None]
    expected = torch.autograd.grad((plain * weight).sum(), [features, offset])
    out = gather_points(features, idx, offset=offset)
    for one, other in zip(
        torch.autograd.grad((out * weight).sum(), [features, offset]), expected, strict=True
    ):
        torch.testing.assert_close(one, other)
    if dtype == torch.float64:
        assert torch.autograd.gradcheck(
            lambda one, two: gather_points(one, idx, offset=two), (features, offset)
        )


def test_gather_and_interpolation_have_a_second_derivative() -> None:
    features = torch.randn(1, 5, 2, generator=seeded(), dtype=torch.float64, requires_grad=True)
    idx = torch.randint(5, (1, 4, 3), generator=seeded())
    query, points = cloud("surface", 4, seed=1), cloud("surface", 5)
    for function in (
        lambda values: gather_points(values, idx).square(),
        lambda values: interpolate_features(query, points, values).square(),
    ):
        assert torch.autograd.gradgradcheck(function, features)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_gradient_of_gather_repeats_bit_for_bit_and_is_rounded_once(dtype: torch.dtype) -> None:
    features = torch.randn(2, 7, 33, generator=seeded()).to(dtype).requires_grad_()
    idx = torch.randint(7, (2, 40, 8), generator=seeded())
    grad = torch.randn(2, 40, 8, 33, generator=seeded(1)).to(dtype)
    runs = [torch.autograd.grad(gather_points(features, idx), features, grad)[0] for _ in range(3)]
    assert torch.equal(runs[0], runs[1])
    assert torch.equal(runs[0], runs[2])
    exact = torch.zeros(2, 7, 33, dtype=torch.float64)
    rows = torch.arange(2)[:, None, None].expand_as(idx)
    exact.index_put_((rows, idx), grad.double(), accumulate=True)
    # 46 rows a point on average: in float16 a sum rounded at every step would be off by far more.
    precision = torch.finfo(dtype).eps if dtype != torch.float32 else 1e-6
    torch.testing.assert_close(runs[0].double(), exact, rtol=precision, atol=precision)


@pytest.mark.parametrize(
    ("offset", "error", "words"),
    [
        (
            torch.zeros(2, 3, 3),
            ValueError,
            r"offset must have shape \(B, S, C\) = \(2, 1, 3\), g",
        ),
        (
            torch.zeros(2, 1, 3).half(),
            TypeError,
            r"offset must have the dtype of features, torc",
        ),
    ],
)
def test_gather_wrong_offset(offset: Tensor, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        gather_points(torch.zeros(2, 4, 3), torch.zeros(2, 1, 2).long(), offset=offset)


@pytest.mark.parametrize(
    ("idx", "error", "words"),
    [
        (torch.zeros(2).long(), ValueError, r"idx must have shape \(B, S\) or \(B, S, K\) with B"),
        (torch.zeros(2, 1, 1, 1).long(), ValueError, r"with B=2, got \(2, 1, 1, 1\)"),
        (torch.zeros(3, 1).long(), ValueError, r"with B=2, got \(3, 1\)"),
        (torch.zeros(2, 1).int(), TypeError, r"idx must be int64, got torch.int32; convert with"),
    ],
)
def test_gather_wrong_idx(idx: Tensor, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        gather_points(torch.zeros(2, 4, 3), idx)


def test_gather_wrong_features() -> None:
    words = r"features must have shape \(B, N, C\), got \(4, 3\)"
    with pytest.raises(ValueError, match=words):
        gather_points(torch.zeros(4, 3), torch.zeros(1, 1).long())


# --- interpolate_features


def test_interpolation_by_hand() -> None:
    # From 0 to points at 1, 2 and -2: squared distances 1, 4, 4, so weights 4/6, 1/6, 1/6.
    features = torch.tensor([[[6.0, 0.0], [12.0, 0.0], [0.0, 6.0], [999.0, 999.0]]])
    out = interpolate_features(line(0), line(1, 2, -2, 50), features)
    torch.testing.assert_close(out, torch.tensor([[[6.0, 1.0]]]))


def test_interpolation_with_one_neighbor_copies() -> None:
    points, query = cloud("surface", 30, batch=2), cloud("surface", 9, batch=2, seed=1)
    features = torch.randn(2, 30, 4, generator=seeded())
    _, idx = knn(query, points, 1)
    out = interpolate_features(query, points, features, k=1)
    assert torch.equal(out, gather_points(features, idx[..., 0]))


@pytest.mark.parametrize("kind", ["surface", "offset", "tiny", "large"])
def test_interpolation_is_exact_at_the_points(kind: str) -> None:
    points = cloud(kind, 30, batch=2)
    features = torch.randn(2, 30, 4, generator=seeded())
    assert torch.equal(interpolate_features(points, points, features), features)


def test_interpolation_at_doubled_points_takes_their_mean() -> None:
    features = torch.tensor([[[2.0], [4.0], [100.0]]])
    assert interpolate_features(line(1), line(1, 1, 2), features).tolist() == [[[3.0]]]


def test_interpolation_of_a_constant_is_the_constant() -> None:
    query, points = cloud("surface", 40, seed=1), cloud("surface", 20)
    out = interpolate_features(query, points, torch.full((1, 20, 2), 7.0), k=5)
    torch.testing.assert_close(out, torch.full((1, 40, 2), 7.0))


def test_interpolation_against_the_formula() -> None:
    # The published formula in float64.
    query, points = cloud("surface", 40, batch=2, seed=1), cloud("surface", 20, batch=2)
    features = torch.randn(2, 20, 4, generator=seeded())
    difference = query.double()[:, :, None] - points.double()[:, None]
    sq_dist, idx = difference.square().sum(-1).topk(3, largest=False)
    weight = 1 / sq_dist
    weight = weight / weight.sum(-1, keepdim=True)
    expected = (gather_points(features.double(), idx) * weight[..., None]).sum(2)
    out = interpolate_features(query, points, features)
    torch.testing.assert_close(out.double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("unit", [2.0**-30, 2.0**30, 1e-18, 1e18])
def test_interpolation_does_not_depend_on_the_unit(unit: float) -> None:
    features = torch.tensor([[[1.0], [0.0]]])
    out = interpolate_features(line(0), line(unit, 2 * unit), features, k=2)
    torch.testing.assert_close(out, torch.tensor([[[0.8]]]))


def test_interpolation_where_squared_distances_are_denormal() -> None:
    # 1e-20 squared is 1e-40, below float32's normal numbers but still known to four digits.
    features = torch.tensor([[[1.0], [0.0]]])
    out = interpolate_features(line(0), line(1e-20, 2e-20), features, k=2)
    torch.testing.assert_close(out, torch.tensor([[[0.8]]]), atol=1e-3, rtol=0)


def test_interpolation_of_a_ragged_batch_is_that_of_each_cloud() -> None:
    query, points = cloud("surface", 15, batch=3, seed=1), cloud("surface", 20, batch=3)
    features = torch.randn(3, 20, 4, generator=seeded())
    lengths = torch.tensor([3, 11, 20])
    for b, length in enumerate([3, 11, 20]):  # padding that would attract every query
        points[b, length:] = query[b, 0]
        features[b, length:] = 1e6
    out = interpolate_features(query, points, features, lengths=lengths)
    for b, length in enumerate([3, 11, 20]):
        alone = interpolate_features(
            query[b, None], points[b, None, :length], features[b, None, :length]
        )
        assert torch.equal(out[b], alone[0])


def test_interpolation_from_fewer_points_than_neighbors() -> None:
    # Two real points at 1 and 2: weights 4/5 and 1/5, as for that cloud alone with k = 2. The slot
    # that repeats the nearest must not count twice.
    points, features = line(1, 2, 0.1), torch.tensor([[[1.0], [0.0], [1e6]]])
    out = interpolate_features(line(0), points, features, 3, lengths=torch.tensor([2]))
    torch.testing.assert_close(out, torch.tensor([[[0.8]]]))


def test_interpolation_passes_over_points_that_are_not_finite() -> None:
    # As without the third point: weights 1 / 0.25**2 and 1 / 0.75**2 of features 0 and 1.
    points, features = line(0, 1, float("nan")), torch.tensor([[[0.0], [1.0], [1e6]]])
    out = interpolate_features(line(0.25), points, features, 3)
    torch.testing.assert_close(out, torch.tensor([[[0.1]]]))


def test_interpolation_of_integers_is_refused() -> None:
    with pytest.raises(TypeError, match=r"features must be floating point, got torch.int64"):
        interpolate_features(line(0), line(1, 2), torch.ones(1, 2, 1).long(), 2)


def test_indices_on_another_device_are_named() -> None:
    features, idx = torch.zeros(1, 4, 2), torch.zeros(1, 3, dtype=torch.long)
    with pytest.raises(ValueError, match="idx must be on cpu as the points, got meta; use"):
        ops.gather_points(features, idx.to("meta"))
    with pytest.raises(ValueError, match="offset must be on cpu as the points, got meta; use"):
        ops.gather_points(features, idx, offset=torch.zeros(1, 3, 2, device="meta"))


def test_interpolation_gradient_is_in_the_features_only() -> None:
    query, points = cloud("surface", 4, seed=1).double(), cloud("surface", 6).double()
    features = torch.randn(1, 6, 2, generator=seeded(), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda values: interpolate_features(query, points, values), features
    )
    query.requires_grad_()
    points.requires_grad_()
    assert not interpolate_features(query, points, features.detach()).requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_interpolation_keeps_the_dtype_of_the_features(dtype: torch.dtype) -> None:
    out = interpolate_features(line(0), line(1, 2), torch.ones(1, 2, 3, dtype=dtype), k=2)
    assert out.dtype == dtype


@pytest.mark.parametrize("k", [0, 4])
def test_interpolation_wrong_k(k: int) -> None:
    with pytest.raises(ValueError, match=f"k must be between 1 and N=3, got {k}"):
        interpolate_features(line(0), line(1, 2, 3), torch.ones(1, 3, 1), k)


@pytest.mark.parametrize(
    ("features", "words"),
    [
        (torch.ones(3, 1), r"features must have shape \(B, N, C\), got \(3, 1\)"),
        (torch.ones(1, 2, 1), r"features must have B, N = \(1, 3\) as the points, got \(1, 2\)"),
    ],
)
def test_interpolation_wrong_features(features: Tensor, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        interpolate_features(line(0), line(1, 2, 3), features)


def test_interpolation_names_the_wrong_points() -> None:
    # Here the features are right and the points lack their batch axis.
    with pytest.raises(ValueError, match="points must have shape"):
        interpolate_features(line(0), line(1, 2, 3)[0], torch.ones(1, 3, 1))


def test_an_index_outside_the_cloud_is_refused() -> None:
    features = torch.zeros(2, 4, 1)
    for index in (-1, 4):
        with pytest.raises(ValueError, match=r"idx must be between 0 and N-1=3, got "):
            gather_points(features, torch.tensor([[index], [0]]))


def test_features_must_be_a_tensor() -> None:
    with pytest.raises(TypeError, match=r"features must be a torch.Tensor, got list; use torch"):
        gather_points([[1.0]], torch.zeros(1, 1, dtype=torch.long))  # pyright: ignore
