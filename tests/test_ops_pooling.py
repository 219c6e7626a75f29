"""The maximum over neighbours, its gradient, and its two implementations."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from ea_pointcloud.ops import gather_max, gather_points, max_over_neighbors
from tests.oracles import RUNS, running, seeded


@pytest.fixture(params=RUNS, autouse=True)
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    """Where the features of a test lie, and by what they are read there."""
    with running(request.param) as device:
        yield device


def features_of(
    *shape: int, device: str, dtype: torch.dtype = torch.float32, levels: int = 0
) -> Tensor:
    """(B, S, K, C) with a gradient; of few ``levels``, so that neighbours tie."""
    drawn = torch.randn(*shape, generator=seeded())
    if levels:
        drawn = (drawn * levels).round() / levels
    return drawn.to(device, dtype).requires_grad_()


def by_hand(features: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Maxima, and the gradient of their weighted sum, value by value."""
    batch, centers, _, channels = features.shape
    values = torch.empty(batch, centers, channels, dtype=features.dtype)
    gradient = torch.zeros(features.shape, dtype=features.dtype)
    for b, s, c in torch.cartesian_prod(
        torch.arange(batch), torch.arange(centers), torch.arange(channels)
    ).tolist():
        row = features[b, s, :, c].tolist()
        values[b, s, c] = max(row)
        gradient[b, s, row.index(max(row)), c] = weight[b, s, c]
    return values, gradient


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (1, 7, 1, 3), (3, 2, 33, 1), (2, 5, 300, 2)])
def test_the_first_of_the_greatest_gets_the_gradient(
    shape: tuple[int, ...], dtype: torch.dtype, device: str
) -> None:
    features = features_of(*shape, device=device, dtype=dtype, levels=2)
    weight = torch.randn(*shape[:2], shape[3], generator=seeded(1)).to(device, dtype)
    out = max_over_neighbors(features)
    (gradient,) = torch.autograd.grad((out * weight).sum(), features)
    values, expected = by_hand(features.detach().cpu(), weight.cpu())
    assert out.dtype == gradient.dtype == dtype
    assert torch.equal(out.detach().cpu(), values)
    assert torch.equal(gradient.cpu(), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bad", [float("nan"), -float("nan")])
@pytest.mark.parametrize("place", [0, 1, 3])
def test_nan_is_passed_on(bad: float, place: int, dtype: torch.dtype, device: str) -> None:
    # The guard of a training looks at the loss, so nothing on the way may hide it. Of both signs:
    # processors make the negative one.
    features = torch.randn(2, 3, 4, 5, generator=seeded()).to(device, dtype)
    features[1, 2, place, 3] = bad
    for out in (max_over_neighbors(features), max_over_neighbors(features.requires_grad_())):
        assert out.isnan().nonzero().tolist() == [[1, 2, 3]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_infinities_and_zeros_are_numbers(dtype: torch.dtype, device: str) -> None:
    infinity = float("inf")
    rows = [[-infinity, -1.0], [-infinity, -infinity], [infinity, 0.0], [-0.0, -1.0]]
    features = torch.tensor(rows, device=device, dtype=dtype)[None, :, :, None].requires_grad_()
    out = max_over_neighbors(features)
    assert out.flatten().tolist() == [-1.0, -infinity, infinity, 0.0]
    (gradient,) = torch.autograd.grad(out, features, torch.ones_like(out))
    assert gradient[0, :, :, 0].tolist() == [[0, 1], [1, 0], [1, 0], [1, 0]]


def test_any_memory_layout(device: str) -> None:
    whole = torch.randn(5, 4, 3, 2, generator=seeded()).to(device)
    features = whole.permute(3, 2, 1, 0).requires_grad_()
    out = max_over_neighbors(features)
    weight = torch.randn(3, 5, 2, generator=seeded(1)).to(device).permute(2, 0, 1)
    (gradient,) = torch.autograd.grad(out, features, weight)
    expected = features.detach().clone(memory_format=torch.contiguous_format).requires_grad_()
    plain = expected.max(2).values
    assert torch.equal(out, plain)
    assert torch.equal(gradient, torch.autograd.grad(plain, expected, weight)[0])


def test_large_features_over_threads(device: str) -> None:
    features = features_of(4, 128, 16, 64, device=device)
    out = max_over_neighbors(features)
    plain = features.max(2).values
    weight = torch.randn(plain.shape, generator=seeded(1)).to(device)
    assert torch.equal(out, plain)
    for one, other in zip(
        torch.autograd.grad(out, features, weight),
        torch.autograd.grad(plain, features, weight),
        strict=True,
    ):
        assert torch.equal(one, other)


def test_derivatives(device: str) -> None:
    features = features_of(1, 3, 4, 2, device=device, dtype=torch.float64)
    assert torch.autograd.gradcheck(max_over_neighbors, features)
    assert torch.autograd.gradgradcheck(lambda x: max_over_neighbors(x).square(), features)


@pytest.mark.parametrize("shape", [(0, 3, 4, 5), (2, 0, 4, 5), (2, 3, 4, 0)])
def test_nothing_in_nothing_out(shape: tuple[int, ...], device: str) -> None:
    features = torch.zeros(shape, device=device, requires_grad=True)
    out = max_over_neighbors(features)
    assert out.shape == (*shape[:2], shape[3])
    assert torch.autograd.grad(out.sum(), features)[0].shape == shape


def test_compiled_it_is_one_graph(device: str) -> None:
    features = features_of(2, 3, 4, 5, device=device)
    compiled = torch.compile(max_over_neighbors, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(features), max_over_neighbors(features))


def test_wrong_input_is_named(device: str) -> None:
    with pytest.raises(ValueError, match=r"\(B, S, K, C\) with K >= 1, got \(2, 3, 4\)"):
        max_over_neighbors(torch.zeros(2, 3, 4, device=device))
    with pytest.raises(ValueError, match=r"got \(2, 3, 0, 4\)"):
        max_over_neighbors(torch.zeros(2, 3, 0, 4, device=device))
    with pytest.raises(TypeError, match=r"floating point, got torch.int64"):
        max_over_neighbors(torch.zeros(2, 3, 4, 5, device=device, dtype=torch.long))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_of_points_is_the_maximum_of_what_is_gathered(dtype: torch.dtype, device: str) -> None:
    features = torch.randn(2, 9, 5, generator=seeded()).to(device, dtype).requires_grad_()
    idx = torch.randint(9, (2, 7, 4), generator=seeded(1)).to(device)
    weight = torch.randn(2, 7, 5, generator=seeded(2)).to(device, dtype)
    plain = max_over_neighbors(gather_points(features, idx))
    out = gather_max(features, idx)
    assert out.dtype == dtype
    assert torch.equal(out, plain)
    assert torch.equal(gather_max(features.detach(), idx), plain)
    (gradient,) = torch.autograd.grad(out, features, weight)
    (expected,) = torch.autograd.grad(plain.double(), features, weight.double())
    torch.testing.assert_close(gradient, expected)
    compiled = torch.compile(gather_max, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(features, idx), plain)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_of_one_point_are_summed_in_float32(dtype: torch.dtype, device: str) -> None:
    # 600 additions of 1 end at 256 where each is rounded to bfloat16; in any order 600 is exact.
    features = torch.zeros(2, 3, 4, device=device, dtype=dtype)
    features[:, 1] = 1
    features.requires_grad_()
    idx = torch.arange(3, device=device).expand(2, 600, 3)
    (gradient,) = torch.autograd.grad(gather_max(features, idx).sum(), features)
    assert (gradient[:, 1] == 600).all()
    assert (gradient[:, [0, 2]] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("place", [0, 1, 3])
def test_of_points_nan_is_passed_on(place: int, dtype: torch.dtype, device: str) -> None:
    features = torch.randn(2, 9, 5, generator=seeded()).to(device, dtype)
    features[1, place, 3] = float("nan")
    idx = torch.arange(4, device=device).expand(2, 3, 4)
    out = gather_max(features, idx)
    assert out.isnan().nonzero().tolist() == [[1, s, 3] for s in range(3)]


def test_of_points_keeps_no_pairs(device: str) -> None:
    features = torch.randn(1, 50, 4, generator=seeded()).to(device).requires_grad_()
    kept: list[int] = []

    def count(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.numel())
        return tensor

    idx = torch.randint(50, (1, 50, 20), generator=seeded(1)).to(device)
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        gather_max(features, idx)
    assert sum(kept) <= 2 * 50 * 4  # who won, and the features; of the pairs there are 50 * 20 * 4


def test_of_points_derivatives(device: str) -> None:
    features = torch.randn(1, 6, 2, generator=seeded(), dtype=torch.float64).to(device)
    idx = torch.randint(6, (1, 5, 3), generator=seeded(1)).to(device)
    assert torch.autograd.gradcheck(lambda x: gather_max(x, idx), features.requires_grad_())


def test_of_points_names_wrong_input(device: str) -> None:
    features = torch.zeros(2, 3, 4, device=device, requires_grad=True)
    with pytest.raises(ValueError, match=r"with K >= 1, got \(2, 5\)"):
        gather_max(features, torch.zeros(2, 5, dtype=torch.long, device=device))
    with pytest.raises(ValueError, match="idx must be between 0 and N-1=2, got 3"):
        gather_max(features, torch.full((2, 5, 1), 3, device=device))
    with pytest.raises(TypeError, match=r"floating point, got torch.int64"):
        gather_max(features.long(), torch.zeros(2, 5, 1, dtype=torch.long, device=device))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("neighbors", [1, 2, 3, 4, 5, 9])
def test_of_points_any_number_of_special_values(
    neighbors: int, dtype: torch.dtype, device: str
) -> None:
    choices = torch.tensor([0.0, -0.0, 1.0, -1.0, float("inf"), -float("inf"), 1e-40, -1e-40, 3e38])
    drawn = torch.randint(len(choices), (2, 20, 7), generator=seeded())
    features = choices[drawn].to(device, dtype).requires_grad_()
    idx = torch.randint(20, (2, 11, neighbors), generator=seeded(1)).to(device)
    plain = gather_points(features, idx).amax(2)
    out = gather_max(features, idx)
    assert torch.equal(out, plain)
    assert torch.equal(gather_max(features.detach(), idx), plain)
    # The whole gradient goes to the first of equals.
    (gradient,) = torch.autograd.grad(out.sum(), features)
    won = gather_points(features, idx).max(2).indices
    expected = torch.zeros_like(features).scatter_add_(1, idx.gather(2, won), torch.ones_like(out))
    assert torch.equal(gradient, expected)


def test_of_points_negative_nan_is_passed_on(device: str) -> None:
    features = torch.zeros(1, 2, 1).to(device)
    features[0, 1] = -torch.tensor(float("nan"))
    idx = torch.tensor([[[0, 1]]]).to(device)
    assert gather_max(features, idx).isnan().all()
    assert gather_max(features.requires_grad_(), idx).isnan().all()
