"""External attention as a function."""

import pytest
import torch
from torch import Tensor

from ea_pointcloud.ops import external_attention, slot_state
from tests.oracles import seeded


def draw(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=seeded(seed), dtype=dtype)


def memories(channels: int, slots: int = 6, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    return [draw(slots, channels, dtype=dtype, seed=seed) for seed in (1, 2)]


def published(features: Tensor, key_memory: Tensor, value_memory: Tensor) -> Tensor:
    """The official code's two steps, without the 1e-9 that only guards a division by zero."""
    logits = torch.einsum("bnc,mc->bnm", features, key_memory)
    attention = torch.softmax(logits, dim=1)  # over the points
    attention = attention / attention.sum(dim=2, keepdim=True)  # over the slots
    return torch.einsum("bnm,mc->bnc", attention, value_memory)


MASK = torch.tensor([[1, 0, 1, 1, 0, 0, 1, 1, 1, 0, 1], [0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1]]).bool()


@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0])
@pytest.mark.parametrize("num_points", [1, 2, 50])
def test_equals_the_published_two_steps(num_points: int, scale: float) -> None:
    features = scale * draw(2, num_points, 8)
    out = external_attention(features, *memories(8))
    expected = published(features, *memories(8))
    torch.testing.assert_close(out, expected, atol=1e-12, rtol=0)


def test_by_hand() -> None:
    # One channel, two points with logits (0, 0) and (ln 3, 0): the softmax over the points gives
    # (1/4, 1/2) and (3/4, 1/2), the rows divided by their sums (1/3, 2/3) and (3/5, 2/5).
    features = torch.tensor([[[0.0], [1.0]]], dtype=torch.float64)
    key = torch.tensor([[3.0], [1.0]], dtype=torch.float64).log()
    value = torch.tensor([[15.0], [0.0]], dtype=torch.float64)
    out = external_attention(features, key, value)
    torch.testing.assert_close(out, torch.tensor([[[5.0], [9.0]]], dtype=torch.float64))


def test_single_softmax_over_the_slots() -> None:
    features, (key, value) = draw(2, 20, 8), memories(8)
    expected = torch.softmax(features @ key.T, dim=-1) @ value
    out = external_attention(features, key, value, norm="softmax")
    torch.testing.assert_close(out, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("norm", ["double", "softmax"])
def test_follows_a_permutation_of_the_points(norm: str) -> None:
    features = draw(2, 30, 8)
    order = torch.randperm(30, generator=seeded())
    out = external_attention(features, *memories(8), norm=norm)
    permuted = external_attention(features[:, order], *memories(8), norm=norm)
    torch.testing.assert_close(permuted, out[:, order], atol=1e-12, rtol=0)


def test_points_depend_on_each_other_under_the_double_norm_only() -> None:
    features = draw(1, 10, 8)
    changed = features.clone()
    changed[0, 9] += 1
    for norm, alike in (("double", False), ("softmax", True)):
        one, other = (external_attention(x, *memories(8), norm=norm) for x in (features, changed))
        assert torch.allclose(one[0, :9], other[0, :9], atol=1e-9, rtol=0) == alike


@pytest.mark.parametrize("chunk", [None, 3, 5])
@pytest.mark.parametrize("norm", ["double", "softmax"])
@pytest.mark.parametrize("padding", [0.0, 100.0, float("nan"), float("inf")])
def test_a_masked_batch_is_its_cropped_clouds(padding: float, norm: str, chunk: int | None) -> None:
    features = draw(2, 11, 8).masked_fill(~MASK[..., None], padding)
    out = external_attention(features, *memories(8), mask=MASK, norm=norm, chunk=chunk)
    for cloud, mask, row in zip(features, MASK, out, strict=True):
        alone = external_attention(cloud[None, mask], *memories(8), norm=norm)
        torch.testing.assert_close(row[mask], alone[0], atol=1e-12, rtol=0)
        assert (row[~mask] == 0).all()


@pytest.mark.parametrize("heads", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("norm", ["double", "softmax"])
@pytest.mark.parametrize("chunk", [1, 2, 4, 10, 11, 1000])
def test_streamed_is_whole(chunk: int, norm: str, masked: bool, heads: bool) -> None:
    features = draw(2, 11, 3, 8) if heads else draw(2, 11, 8)
    mask = MASK if masked else None
    whole = external_attention(features, *memories(8), mask=mask, norm=norm)
    pieces = external_attention(features, *memories(8), mask=mask, norm=norm, chunk=chunk)
    torch.testing.assert_close(pieces, whole, atol=1e-12, rtol=0)


@pytest.mark.parametrize("masked", [False, True])
def test_heads_share_the_memories(masked: bool) -> None:
    features = draw(2, 11, 3, 8)
    mask = MASK if masked else None
    out = external_attention(features, *memories(8), mask=mask)
    for head in range(3):  # each head alone is the form without heads
        alone = external_attention(features[:, :, head], *memories(8), mask=mask)
        torch.testing.assert_close(out[:, :, head], alone, atol=1e-12, rtol=0)


def test_a_key_bias_cancels_in_the_double_norm() -> None:
    # It is the same for all points, and the softmax over the points does not see it.
    features, bias = draw(2, 20, 8), 5 * draw(6, seed=3)
    out = external_attention(features, *memories(8))
    biased = external_attention(features, *memories(8), key_bias=bias)
    torch.testing.assert_close(biased, out, atol=1e-12, rtol=0)


def test_a_key_bias_counts_under_the_single_softmax() -> None:
    features, (key, value), bias = draw(2, 20, 8), memories(8), draw(6, seed=3)
    expected = torch.softmax(features @ key.T + bias, dim=-1) @ value
    out = external_attention(features, key, value, key_bias=bias, norm="softmax")
    torch.testing.assert_close(out, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float16, 1e-3), (torch.bfloat16, 1e-2), (torch.float32, 1e-6)]
)
def test_many_points_in_low_precision(dtype: torch.dtype, tolerance: float) -> None:
    # Against float64. The published softmax over so many points is about 1e-5, which float16 holds
    # with a few bits only.
    features = draw(1, 100_000, 16, dtype=torch.float32).to(dtype)
    memory = [0.3 * one for one in memories(16, slots=64, dtype=torch.float32)]
    memory = [one.to(dtype) for one in memory]
    for chunk in (None, 30_000):
        out = external_attention(features, *memory, chunk=chunk)
        assert out.dtype == dtype
        assert out.isfinite().all()
        expected = published(features.double(), *[one.double() for one in memory])
        torch.testing.assert_close(out.double(), expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize(("dtype", "mean"), [(torch.float16, 5e-4), (torch.bfloat16, 5e-3)])
def test_normalises_in_float32_under_autocast(dtype: torch.dtype, mean: float) -> None:
    # Against float64; normalising in the half precision itself doubles this mean error.
    features, memory = draw(1, 20_000, 16, dtype=torch.float32), memories(16, dtype=torch.float32)
    with torch.autocast("cpu", dtype=dtype):
        out = external_attention(features, *memory)
    expected = published(features.double(), *[one.double() for one in memory])
    assert (out.double() - expected).abs().mean() < mean
    assert out.isfinite().all()


def test_large_logits_do_not_overflow() -> None:
    # exp(1e4) is infinite in float64; in the limit each row picks the slot it stands out in most.
    features = torch.tensor([[[1e4, 0.0], [0.0, 1e4]]], dtype=torch.float64)
    eye = torch.eye(2, dtype=torch.float64)
    out = external_attention(features, eye, eye)
    torch.testing.assert_close(out, eye[None])


@pytest.mark.parametrize("chunk", [None, 2])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("norm", ["double", "softmax"])
def test_gradient(norm: str, masked: bool, chunk: int | None) -> None:
    mask = torch.tensor([[False, False, True, False, True, True]]) if masked else None
    inputs = [draw(1, 6, 3), *memories(3, slots=2)]
    for tensor in inputs:
        tensor.requires_grad_()

    def attend(features: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return external_attention(features, key, value, mask=mask, norm=norm, chunk=chunk)

    assert torch.autograd.gradcheck(attend, inputs)


@pytest.mark.parametrize("chunk", [None, 2])
def test_gradient_of_a_cloud_without_points_is_zero(chunk: int | None) -> None:
    # A wholly padded cloud gives zeros; it must not spoil the gradient of its batch either.
    features, (key, value) = draw(2, 6, 3).requires_grad_(), memories(3)
    key.requires_grad_()
    mask = torch.tensor([[True] * 6, [False] * 6])
    out = external_attention(features, key, value, mask=mask, chunk=chunk)
    assert (out[1] == 0).all()
    out.square().sum().backward()
    assert (features.grad[1] == 0).all()
    assert key.grad.isfinite().all()


def test_alters_nothing() -> None:
    inputs = [draw(2, 11, 8), *memories(8)]
    before = [tensor.clone() for tensor in inputs]
    external_attention(*inputs, mask=MASK, chunk=4)
    assert all(torch.equal(one, other) for one, other in zip(inputs, before, strict=True))


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        (((5, 8), (6, 8), (6, 8)), r"features must have shape \(B, N, C\) or \(B, N, H, C\), got"),
        (((1, 5, 2, 2, 8), (6, 8), (6, 8)), r"or \(B, N, H, C\), got \(1, 5, 2, 2, 8\)"),
        (
            ((1, 5, 8), (6, 7), (6, 8)),
            r"key_memory must have shape \(M, C\) = \(6, 8\), got \(6, 7",
        ),
        (((1, 5, 8), (6,), (6, 8)), r"key_memory must have shape \(M, C\) = \(6, 8\), got \(6,\)"),
        (
            ((1, 5, 8), (6, 8), (7, 8)),
            r"value_memory must have shape \(M, C\) = \(6, 8\), got \(7,",
        ),
    ],
)
def test_wrong_shapes(shapes: tuple[tuple[int, ...], ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        external_attention(*[torch.zeros(shape) for shape in shapes])


def test_wrong_mask() -> None:
    features, memory = draw(2, 11, 8), memories(8)
    words = r"mask must have shape \(B, N\) = \(2, 11\), got \(2, 10\)"
    with pytest.raises(ValueError, match=words):
        external_attention(features, *memory, mask=MASK[:, :10])
    with pytest.raises(TypeError, match=r"mask must be bool with True for a real point, got torch"):
        external_attention(features, *memory, mask=MASK.float())


@pytest.mark.parametrize("shape", [(5,), (1,), (6, 1), (2, 11, 6)])
def test_wrong_key_bias(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"key_bias must have shape \(M,\) = \(6,\), got \("):
        external_attention(draw(2, 11, 8), *memories(8), key_bias=torch.zeros(shape))


def test_wrong_norm() -> None:
    with pytest.raises(ValueError, match="norm must be one of 'double', 'softmax', got 'l2'"):
        external_attention(draw(2, 11, 8), *memories(8), norm="l2")


def test_wrong_chunk() -> None:
    with pytest.raises(ValueError, match="chunk must be at least 1, got 0"):
        external_attention(draw(2, 11, 8), *memories(8), chunk=0)


# --- dynamic: the slots read the cloud


def by_steps(features: Tensor, key_memory: Tensor, value_memory: Tensor) -> Tensor:
    """The definition, one cloud after another."""
    out = []
    for cloud in features:
        logits = cloud @ key_memory.T  # (N, M)
        over_points = logits.softmax(0)
        content = over_points.T @ cloud  # (M, C)
        weights = over_points / over_points.sum(1, keepdim=True)
        out.append(weights @ (value_memory + content))
    return torch.stack(out)


def test_dynamic_is_its_definition() -> None:
    features = draw(3, 20, 8)
    out = external_attention(features, *memories(8), dynamic=True)
    torch.testing.assert_close(out, by_steps(features, *memories(8)), atol=1e-12, rtol=0)


def test_dynamic_heads_share_the_memories_and_read_for_themselves() -> None:
    features = draw(2, 20, 3, 8)
    out = external_attention(features, *memories(8), dynamic=True)
    for head in range(3):
        alone = external_attention(features[:, :, head], *memories(8), dynamic=True)
        torch.testing.assert_close(out[:, :, head], alone, atol=1e-12, rtol=0)


def test_dynamic_by_hand() -> None:
    # The two points of test_by_hand: the slots read 3/4 and 1/2 of the second point's feature, 1.
    features = torch.tensor([[[0.0], [1.0]]], dtype=torch.float64)
    key = torch.tensor([[3.0], [1.0]], dtype=torch.float64).log()
    value = torch.tensor([[15.0], [0.0]], dtype=torch.float64)
    out = external_attention(features, key, value, dynamic=True)
    expected = [[5 + 0.75 / 3 + 0.5 * 2 / 3], [9 + 0.75 * 3 / 5 + 0.5 * 2 / 5]]
    torch.testing.assert_close(out, torch.tensor([expected], dtype=torch.float64))


@pytest.mark.parametrize("chunk", [None, 3, 5])
@pytest.mark.parametrize("heads", [False, True])
@pytest.mark.parametrize("padding", [0.0, 100.0, float("nan"), float("inf")])
def test_a_masked_dynamic_batch_is_its_cropped_clouds(
    padding: float, heads: bool, chunk: int | None
) -> None:
    features = draw(2, 11, 2, 8) if heads else draw(2, 11, 8)
    features[~MASK] = padding
    out = external_attention(features, *memories(8), mask=MASK, dynamic=True, chunk=chunk)
    for cloud, mask, row in zip(features, MASK, out, strict=True):
        alone = external_attention(cloud[None, mask], *memories(8), dynamic=True)[0]
        torch.testing.assert_close(row[mask], alone, atol=1e-12, rtol=0)
        assert (row[~mask] == 0).all()


@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
@pytest.mark.parametrize("heads", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_dynamic_in_chunks_is_whole(chunk: int, heads: bool, masked: bool) -> None:
    features = draw(2, 11, 2, 8) if heads else draw(2, 11, 8)
    mask = MASK if masked else None
    whole = external_attention(features, *memories(8), mask=mask, dynamic=True)
    parts = external_attention(features, *memories(8), mask=mask, dynamic=True, chunk=chunk)
    torch.testing.assert_close(parts, whole, atol=1e-12, rtol=0)


@pytest.mark.parametrize("dynamic", [False, True])
def test_parts_of_a_cloud_with_the_state_of_the_whole(dynamic: bool) -> None:
    features, (key, value) = draw(2, 30, 2, 8), memories(8)
    parts = features.split(11, dim=1)
    state = slot_state(parts[0], key, dynamic=dynamic)
    for part in parts[1:]:
        state = state.merge(slot_state(part, key, dynamic=dynamic))
    whole = slot_state(features, key, dynamic=dynamic)
    torch.testing.assert_close(state.lse, whole.lse, atol=1e-12, rtol=0)
    assert (state.content is not None) == dynamic
    out = [external_attention(part, key, value, dynamic=dynamic, state=state) for part in parts]
    expected = external_attention(features, key, value, dynamic=dynamic)
    torch.testing.assert_close(torch.cat(out, 1), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("chunk", [None, 4])
@pytest.mark.parametrize("masked", [False, True])
def test_gradient_of_dynamic(masked: bool, chunk: int | None) -> None:
    features, (key, value) = draw(2, 11, 3).requires_grad_(), memories(3, slots=4)
    mask = MASK if masked else None
    assert torch.autograd.gradcheck(
        lambda *tensors: external_attention(*tensors, mask=mask, dynamic=True, chunk=chunk),
        (features, key.requires_grad_(), value.requires_grad_()),
    )


def test_dynamic_in_low_precision() -> None:
    features, (key, value) = draw(1, 4000, 32), memories(32, slots=16)
    expected = external_attention(features, key, value, dynamic=True)
    half = (tensor.bfloat16() for tensor in (features, key, value))
    out = external_attention(*half, dynamic=True)
    assert out.dtype == torch.bfloat16
    assert float((out.double() - expected).abs().mean()) < 0.03
    large = 60 * features.bfloat16()  # logits of thousands
    assert (
        external_attention(large, key.bfloat16(), value.bfloat16(), dynamic=True).isfinite().all()
    )


def test_dynamic_needs_the_double_norm_and_a_state_with_content() -> None:
    features, (key, value) = draw(1, 5, 8), memories(8)
    with pytest.raises(ValueError, match="norm must be 'double' with dynamic=True, got 'softmax'"):
        external_attention(features, key, value, norm="softmax", dynamic=True)
    with pytest.raises(ValueError, match="state must have content with dynamic=True"):
        external_attention(features, key, value, dynamic=True, state=slot_state(features, key))
