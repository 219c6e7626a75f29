"""The attention kernels against plain PyTorch in float64, values and gradients.

Runs on a GPU, or without one where TRITON_INTERPRET=1.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.library import opcheck

pytest.importorskip("triton", reason="Triton is not installed")

from ea_pointcloud.ops import SlotState, _backend, external_attention
from ea_pointcloud.ops._triton import attention
from tests.oracles import RUNS, running, seeded


@pytest.fixture(params=[run for run in RUNS if str(run.id).startswith("triton")])
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    # numpy, in the interpreter, warns where a cloud without points has the logarithm of nothing.
    with running(request.param) as device, np.errstate(divide="ignore"):
        if device == "cuda" and torch.cuda.get_device_capability() < (8, 0):
            pytest.skip("the attention kernels need compute capability 8.0")
        yield device


@dataclass(frozen=True)
class Case:
    """Sizes and options; ``norm`` is that of the function, or ``given`` with ``slot_lse``."""

    batch: int
    num_points: int
    heads: int
    channels: int
    slots: int
    norm: str = "double"
    masked: bool = False
    bias: bool = False
    dtype: torch.dtype = torch.float32


CASES = [
    Case(2, 150, 1, 24, 10, masked=True),
    Case(1, 100, 2, 64, 64, bias=True),
    Case(2, 20, 3, 8, 20, norm="softmax", masked=True, bias=True),
    Case(1, 70, 1, 70, 130, norm="given", masked=True, bias=True),
    Case(2, 90, 2, 130, 3, masked=True, dtype=torch.float16),
    Case(1, 1, 1, 1, 1),
]
ON_A_GPU = [
    Case(8, 5000, 1, 128, 64, masked=True),
    Case(1, 300_000, 1, 64, 64),
    Case(1, 30_000, 1, 512, 64, masked=True, dtype=torch.bfloat16),
    Case(4, 3000, 8, 32, 64, norm="softmax", masked=True, bias=True, dtype=torch.bfloat16),
    Case(2, 4000, 4, 100, 256, dtype=torch.float16),
]


@dataclass
class Inputs:
    """Arguments of one call that take part in derivatives, in the order of gradients."""

    features: Tensor
    key_memory: Tensor
    value_memory: Tensor
    key_bias: Tensor | None
    slot_lse: Tensor | None

    def of(self, dtype: torch.dtype | None, device: str) -> "Inputs":
        return Inputs(*[
            None if each is None else each.detach().to(device, dtype).requires_grad_()
            for each in vars(self).values()
        ])  # fmt: skip

    def leaves(self) -> list[Tensor]:
        return [each for each in vars(self).values() if each is not None]


def draw(case: Case) -> tuple[Inputs, Tensor | None, Tensor]:
    """Inputs, mask and the gradient that arrives, on the CPU."""
    generator = seeded()

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    features = normal(case.batch, case.num_points, case.heads, case.channels)
    inputs = Inputs(
        features.to(case.dtype),
        (normal(case.slots, case.channels) / case.channels**0.5).to(case.dtype),
        normal(case.slots, case.channels).to(case.dtype),
        normal(case.slots).to(case.dtype) if case.bias else None,
        normal(case.batch, 1, case.heads, case.slots) if case.norm == "given" else None,
    )
    mask = None
    if case.masked:
        mask = torch.rand(case.batch, case.num_points, generator=generator) < 0.6
        mask[0] &= case.batch == 1  # where there are others, one cloud is padding altogether
    return inputs, mask, normal(*features.shape).to(case.dtype)


def derive(
    inputs: Inputs, mask: Tensor | None, gradient: Tensor, case: Case
) -> tuple[Tensor, list[Tensor]]:
    out = external_attention(
        inputs.features,
        inputs.key_memory,
        inputs.value_memory,
        mask=mask,
        norm="softmax" if case.norm == "softmax" else "double",
        key_bias=inputs.key_bias,
        state=None if inputs.slot_lse is None else SlotState(inputs.slot_lse),
    )
    return out.detach(), list(torch.autograd.grad(out, inputs.leaves(), gradient))


def check(case: Case, device: str) -> None:
    inputs, mask, gradient = draw(case)
    tolerance = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}[case.dtype]
    # The kernels do not serve float64, so this is the plain form.
    expected, expected_gradients = derive(
        inputs.of(torch.float64, device), _to(mask, device), gradient.double().to(device), case
    )
    if mask is not None:  # the kernels must not look at padding, and plain derivatives do
        inputs.features.masked_fill_(~mask[..., None, None], torch.nan)
    there, gradient = inputs.of(None, device), gradient.to(device)
    out, gradients = derive(there, _to(mask, device), gradient, case)
    for found, exact in zip([out, *gradients], [expected, *expected_gradients], strict=True):
        scale = max(1.0, float(exact.abs().max()))
        torch.testing.assert_close(found.double(), exact, rtol=0, atol=tolerance * scale)
    for leaf, found in zip(there.leaves(), gradients, strict=True):
        assert found.dtype == leaf.dtype
    again = derive(there, _to(mask, device), gradient, case)
    for one, other in zip([out, *gradients], [again[0], *again[1]], strict=True):
        assert torch.equal(one, other)


def _to(mask: Tensor | None, device: str) -> Tensor | None:
    return None if mask is None else mask.to(device)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_the_plain_form(device: str, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    # A handful of programs for these few points, so that parts are joined and tiles are shared.
    monkeypatch.setattr(attention, "_PROGRAMS", 4)
    check(case, device)


@pytest.mark.parametrize("case", ON_A_GPU, ids=str)
def test_equals_the_plain_form_in_large(device: str, case: Case) -> None:
    check(case, device)


@pytest.mark.parametrize("norm", ["double", "softmax"])
def test_registration_passes_the_checks_of_torch(device: str, norm: str) -> None:
    inputs, mask, _ = draw(Case(1, 5, 1, 3, 2, masked=True, bias=True))
    there = inputs.of(None, device)
    slot_lse = None if norm == "double" else torch.zeros(1, 1, 2, device=device)
    assert mask is not None
    arguments = (
        there.features, there.key_memory, there.value_memory, there.key_bias, mask.to(device),
        slot_lse,
    )  # fmt: skip
    opcheck(torch.ops.ea_pointcloud.attend.default, arguments)


def test_a_second_derivative_is_refused(device: str) -> None:
    inputs, _, gradient = draw(Case(1, 3, 1, 2, 2))
    there = inputs.of(None, device)
    out = external_attention(there.features, there.key_memory, there.value_memory)
    (first,) = torch.autograd.grad(out, there.features, gradient.to(device), create_graph=True)
    with pytest.raises(RuntimeError, match="have no second derivative; plain PyTorch has one"):
        first.sum().backward()


def test_one_node_under_compile(device: str) -> None:
    inputs, mask, _ = draw(Case(2, 9, 1, 3, 2, masked=True))
    there, mask = inputs.of(None, device), _to(mask, device)
    graphs = []

    def keep(graph: torch.fx.GraphModule, _: list[Tensor]) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    def attend(features: Tensor) -> Tensor:
        return external_attention(features, there.key_memory, there.value_memory, mask=mask)

    compiled = torch.compile(attend, fullgraph=True, backend=keep)
    torch.testing.assert_close(compiled(there.features), attend(there.features))
    (graph,) = graphs
    targets = [str(node.target) for node in graph.graph.nodes if "attend" in str(node.target)]
    assert len(targets) == 1


def test_what_the_kernels_do_not_serve_is_plain(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    called = []

    class Refusing:
        def attend(self, *arguments: object) -> None:
            called.append(arguments)
            raise AssertionError

    monkeypatch.setattr(_backend, "_override", Refusing())
    features = torch.zeros(1, 3, 130, device=device)
    for slots, channels, dtype in ((4, 130, torch.float32), (300, 8, torch.float16),
                                   (256, 129, torch.float16), (4, 8, torch.float64)):  # fmt: skip
        features = torch.zeros(1, 3, channels, device=device, dtype=dtype)
        memory = torch.zeros(slots, channels, device=device, dtype=dtype)
        assert external_attention(features, memory, memory).shape == features.shape
    assert not called
    with pytest.raises(AssertionError):
        external_attention(features.float(), memory.float(), memory.float())
    assert called


def test_autocast_decides_the_products(device: str) -> None:
    inputs, _, gradient = draw(Case(1, 40, 1, 8, 4))
    there = inputs.of(None, device)
    with torch.autocast(device, dtype=torch.float16):
        out = external_attention(there.features, there.key_memory, there.value_memory)
    half = inputs.of(torch.float16, device)
    expected = external_attention(half.features, half.key_memory, half.value_memory)
    assert out.dtype == torch.float32
    assert torch.equal(out, expected.float())
    out.backward(gradient.to(device))
    assert there.key_memory.grad.dtype == torch.float32
