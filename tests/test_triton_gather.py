"""The Triton kernels that move features, against plain PyTorch, in their tiles and tails.

Runs on a GPU, or without one where TRITON_INTERPRET=1.
"""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="Triton is not installed")

from ea_pointcloud.ops import _reference, _triton
from tests.oracles import RUNS, running, seeded


@pytest.fixture(params=[run for run in RUNS if str(run.id).startswith("triton")])
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    with running(request.param) as device:
        yield device


SHAPES = [(2, 50, 20, 3, 64), (3, 17, 33, 5, 3), (1, 10, 7, 2, 300), (2, 5, 4, 1, 1)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_moving_features_equals_plain_pytorch(
    device: str, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    batch, num_points, num_queries, k, channels = shape
    features = torch.randn(batch, num_points, channels, generator=seeded(1)).to(dtype)
    values = torch.randn(batch, num_queries, channels, generator=seeded(2)).to(dtype)
    idx = torch.randint(num_points, (batch, num_queries, k), generator=seeded(3))
    weight = torch.rand(batch, num_queries, k, generator=seeded(4))
    assert torch.equal(
        _triton.gather(features.to(device), idx.to(device), None).cpu(),
        _reference.gather(features, idx, None),
    )
    # Sums in another order, rounded once. The interpreter cuts bfloat16 off, which a GPU rounds.
    tolerance = {torch.float32: 2e-6, torch.float64: 1e-15, torch.float16: 1e-3}.get(dtype, 8e-3)
    for name, arguments in (
        ("gather", (features, idx, values)),
        ("interpolate", (features, idx, weight)),
        ("scatter", (values, idx, num_points, weight)),
        ("scatter", (values, idx, num_points, None)),
    ):
        moved = [a.to(device) if isinstance(a, Tensor) else a for a in arguments]
        out = getattr(_triton, name)(*moved).cpu()
        expected = getattr(_reference, name)(*arguments)
        assert out.dtype == dtype
        torch.testing.assert_close(out, expected, rtol=tolerance, atol=tolerance)


def test_scatter_leaves_zeros_where_no_index_points(device: str) -> None:
    idx = torch.tensor([[[0], [3], [3]]], device=device)
    values = torch.tensor([[[1.0], [2.0], [4.0]]], device=device)
    out = _triton.scatter(values, idx, 5, None)
    assert out.tolist() == [[[1.0], [0.0], [0.0], [6.0], [0.0]]]


def test_moving_features_reads_any_memory_layout(device: str) -> None:
    features = torch.randn(4, 6, 2, generator=seeded()).permute(2, 1, 0).to(device)  # (2, 6, 4)
    idx = torch.randint(6, (3, 5, 2), generator=seeded()).permute(2, 1, 0).to(device)  # (2, 5, 3)
    weight = torch.rand(3, 5, 2, generator=seeded()).permute(2, 1, 0).to(device)
    for name, arguments in (
        ("gather", (features, idx, features[:, :5])),
        ("interpolate", (features, idx, weight)),
        ("scatter", (features[:, :5], idx, 6, weight)),
    ):
        out = getattr(_triton, name)(*arguments)
        assert out.is_contiguous()
        torch.testing.assert_close(out, getattr(_reference, name)(*arguments))
