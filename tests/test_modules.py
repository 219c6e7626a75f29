"""What every public module must do; a module of ``ea_pointcloud.nn`` without a case fails.

What each module computes is tested where its subject is, this is about being a module: shapes,
padding, gradients, half precision, copies, files, compilation.
"""

import copy
import inspect
import pickle
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

import ea_pointcloud.nn
from ea_pointcloud.nn import (
    AttentionBlock,
    DropPath,
    EAMLPBlock,
    EdgeConv,
    ExternalAttention,
    ExternalMultiheadAttention,
    ExternalTokenAttention,
    LinearNorm,
    MaxEdgeConv,
    MemoryPooling,
    MultiHeadExternalAttention,
    NeighborEmbedding,
    PatchEmbedding,
    PointBatchNorm,
    PointwiseResidual,
    SelfAttention,
    TransformNet,
    UnitEmbedding,
)
from ea_pointcloud.nn.blocks import ATTENTION
from ea_pointcloud.ops import build_pyramid
from tests.oracles import cloud, randomise, seeded

CHANNELS = 8
XYZ = cloud("surface", 16, batch=2)
LEVEL = build_pyramid(XYZ, [6], 4)[0]
# Ten real points each, so that both clouds weigh the same in batch statistics.
MASK = torch.zeros(2, 16, dtype=torch.bool)
MASK[0, :10] = True
MASK[1, [0, 2, 3, 5, 7, 8, 10, 12, 13, 15]] = True


@dataclass(frozen=True)
class Case:
    """A module and how to call it.

    Args:
        name: of the test.
        build: makes the module, with random weights.
        call: output for (module, features (2, N, in_channels), mask (2, N) or None).
        in_channels: C of the features.
        shape: of the output for N = 16.
        masked: whether it takes a mask.
        half: whether autocast halves the output; a residual or a normalisation at the end of
            the module keeps it in float32.
    """

    name: str
    build: Callable[[], nn.Module]
    call: Callable[[nn.Module, Tensor, Tensor | None], Tensor]
    in_channels: int = CHANNELS
    shape: tuple[int, ...] = (2, 16, CHANNELS)
    masked: bool = True
    half: bool = False


def plain(module: nn.Module, features: Tensor, mask: Tensor | None) -> Tensor:
    return module(features) if mask is None else module(features, mask)


def at_position(module: nn.Module, features: Tensor, mask: Tensor | None) -> Tensor:
    return module(features, 0.1 * features.flip(-1), mask)


def at_level(module: nn.Module, features: Tensor, _: Tensor | None) -> Tensor:
    return module(features, LEVEL)


def in_ring(module: nn.Module, features: Tensor, mask: Tensor | None) -> Tensor:
    """Each real point with itself and the two real points before it."""
    real = torch.ones(features.shape[:2], dtype=torch.bool) if mask is None else mask
    order = real.byte().argsort(dim=1, descending=True, stable=True)
    rank = (real.cumsum(1) - 1).clamp_min(0)[..., None] - torch.arange(3)
    rank = rank % real.sum(1)[:, None, None]
    return module(features, order.gather(1, rank.flatten(1)).view(rank.shape), mask)


def transformed(module: nn.Module, features: Tensor, mask: Tensor | None) -> Tensor:
    return features @ module(features, mask).to(features.dtype)


def as_torch(module: nn.Module, features: Tensor, mask: Tensor | None) -> Tensor:
    return module(features, features, features, None if mask is None else ~mask)[0]


CASES = [
    *(
        Case(
            f"AttentionBlock-{kind}",
            lambda kind=kind: AttentionBlock(CHANNELS, attention=kind, memory_size=5, heads=2),
            at_position,
        )
        for kind in ATTENTION
    ),
    Case("DropPath", lambda: DropPath(0.3).eval(), plain, masked=False),
    Case("EAMLPBlock", lambda: EAMLPBlock(CHANNELS, heads=2, memory_size=5, expansion=2), plain),
    Case(
        "EdgeConv",
        lambda: EdgeConv(CHANNELS, 10, num_neighbors=4),
        plain,
        shape=(2, 16, 10),
        half=True,
    ),
    Case("MaxEdgeConv", lambda: MaxEdgeConv(CHANNELS, 10), in_ring, shape=(2, 16, 10), half=True),
    Case(
        "MemoryPooling",
        lambda: MemoryPooling(CHANNELS, slots=5, slot_channels=3),
        plain,
        shape=(2, 15),
        masked=False,
        half=True,
    ),
    *(
        case
        for norm in ("double", "softmax")
        for case in (
            Case(
                f"ExternalAttention-{norm}",
                lambda norm=norm: ExternalAttention(CHANNELS, memory_size=5, norm=norm),
                plain,
            ),
            Case(
                f"MultiHeadExternalAttention-{norm}",
                lambda norm=norm: MultiHeadExternalAttention(
                    CHANNELS, heads=2, memory_size=5, expansion=2, norm=norm
                ),
                plain,
                half=True,
            ),
            Case(
                f"ExternalMultiheadAttention-{norm}",
                lambda norm=norm: ExternalMultiheadAttention(
                    CHANNELS, heads=2, memory_size=5, norm=norm, batch_first=True
                ),
                as_torch,
                half=True,
            ),
            Case(
                f"ExternalTokenAttention-{norm}",
                lambda norm=norm: ExternalTokenAttention(
                    CHANNELS, heads=2, memory_size=5, norm=norm
                ),
                plain,
                masked=False,
                half=True,
            ),
        )
    ),
    Case("LinearNorm", lambda: LinearNorm(CHANNELS, CHANNELS), plain, half=True),
    Case(
        "NeighborEmbedding",
        lambda: NeighborEmbedding(CHANNELS, 10),
        at_level,
        shape=(2, 6, 10),
        masked=False,
        half=True,
    ),
    Case(
        "PatchEmbedding",
        lambda: PatchEmbedding(1, (8, 8), 10),
        at_level,
        in_channels=4,
        shape=(2, 6, 10),
        masked=False,
        half=True,
    ),
    Case("PointBatchNorm", lambda: PointBatchNorm(CHANNELS), plain),
    Case("PointwiseResidual", lambda: PointwiseResidual(CHANNELS), plain),
    *(
        Case(
            f"SelfAttention-{'offset' if offset else 'plain'}",
            lambda offset=offset: SelfAttention(CHANNELS, offset=offset),
            plain,
        )
        for offset in (False, True)
    ),
    Case(
        "TransformNet",
        lambda: TransformNet(CHANNELS, point_channels=(8, 8), head_channels=(8,)),
        transformed,
        half=True,
    ),
    Case("UnitEmbedding", lambda: UnitEmbedding(CHANNELS, 3), plain, masked=False),
]
every = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
every_masked = pytest.mark.parametrize(
    "case", [case for case in CASES if case.masked], ids=lambda case: case.name
)


def made(case: Case, seed: int = 0) -> nn.Module:
    """The module with a value that shows in every parameter and running statistic."""
    torch.manual_seed(seed)
    return randomise(case.build())


def drawn(case: Case, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(2, 16, case.in_channels, generator=seeded(), dtype=torch.float64).to(dtype)


def test_every_public_module_has_a_case() -> None:
    public = {name: getattr(ea_pointcloud.nn, name) for name in ea_pointcloud.nn.__all__}
    modules = {
        n for n, one in public.items() if inspect.isclass(one) and issubclass(one, nn.Module)
    }
    assert {case.name.split("-")[0] for case in CASES} == modules
    for case in CASES:
        assert type(case.build()).__name__ == case.name.split("-")[0]


@every
def test_shape_and_dtype(case: Case) -> None:
    for dtype in (torch.float32, torch.float64):
        module, features = made(case).to(dtype), drawn(case, dtype)
        for mask in (None, MASK) if case.masked else (None,):
            out = case.call(module, features, mask)
            assert out.shape == case.shape
            assert out.dtype == dtype
            assert out.isfinite().all()


@every_masked
@pytest.mark.parametrize("training", [False, True])
def test_a_masked_batch_is_its_cropped_clouds(case: Case, training: bool) -> None:
    module = made(case).double().train(training)
    other = copy.deepcopy(module)
    features = drawn(case, torch.float64)
    features[~MASK] = 1e3  # padding that would show
    cropped = case.call(module, features[MASK].view(2, 10, -1), None)
    masked = case.call(other, features, MASK)
    torch.testing.assert_close(masked[MASK].view(2, 10, -1), cropped, atol=1e-8, rtol=1e-8)
    # The running statistics are blind to padding too.
    for (name, one), two in zip(module.named_buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(one, two, atol=1e-8, rtol=1e-8, msg=name)


@every
def test_gradients_are_those_of_finite_differences(case: Case) -> None:
    module = made(case).double()
    features = drawn(case, torch.float64).requires_grad_()
    names = [name for name, _ in module.named_parameters()]
    mask = MASK if case.masked else None

    class Called(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, features: Tensor) -> Tensor:
            out = case.call(self.module, features, mask)
            return out if mask is None else out[mask]

    def function(features: Tensor, *parameters: Tensor) -> Tensor:
        given = {f"module.{name}": one for name, one in zip(names, parameters, strict=True)}
        return functional_call(Called(), given, (features,))

    inputs = (features, *(one.detach().requires_grad_() for one in module.parameters()))
    assert torch.autograd.gradcheck(function, inputs, fast_mode=True)


@every
def test_gradients_reach_every_parameter(case: Case) -> None:
    module = made(case).double()
    features = drawn(case, torch.float64).requires_grad_()
    mask = MASK if case.masked else None
    out = case.call(module, features, mask)
    (out.square() * torch.linspace(1, 2, out.shape[-1])).sum().backward()  # also of unit vectors
    for name, parameter in [*module.named_parameters(), ("features", features)]:
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        if parameter.ndim > 1:  # several biases cancel in a softmax or a batch normalisation
            assert parameter.grad.abs().max() > 1e-9, name


@every
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast(case: Case, dtype: torch.dtype) -> None:
    module, features = made(case), drawn(case)
    mask = MASK if case.masked else None
    real = (lambda out: out[mask]) if case.masked else (lambda out: out)
    exact = real(case.call(copy.deepcopy(module), features, mask))
    with torch.autocast("cpu", dtype=dtype):
        out = case.call(module, features, mask)
    assert out.dtype == (dtype if case.half else torch.float32)
    # A module is a chain of a few products, each of which rounds.
    rounding = torch.finfo(dtype).eps
    assert (real(out).float() - exact).norm() < 8 * rounding * exact.norm()
    if parameters := list(module.parameters()):
        real(out).float().square().sum().backward()
        for parameter in parameters:
            assert parameter.grad is not None
            assert parameter.grad.dtype == torch.float32
            assert parameter.grad.isfinite().all()


@every
@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))],
    ids=["deepcopy", "pickle"],
)  # fmt: skip
def test_copies_are_equal_and_independent(
    case: Case, duplicate: Callable[[nn.Module], nn.Module]
) -> None:
    module = made(case).eval()
    expected = case.call(module, drawn(case), None)
    other = duplicate(module)
    assert torch.equal(case.call(other, drawn(case), None), expected)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1.0)
    assert torch.equal(case.call(module, drawn(case), None), expected)


@every
def test_state_dict_round_trip(case: Case) -> None:
    module, other = made(case).eval(), made(case, seed=1).eval()
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    other.load_state_dict(state)
    expected = case.call(module, drawn(case), None)
    assert torch.equal(case.call(other, drawn(case), None), expected)


@every
def test_compiles_without_a_graph_break(case: Case) -> None:
    torch.compiler.reset()  # graphs of the cases before count against a limit
    module, features = made(case), drawn(case)
    other = copy.deepcopy(module)
    compiled = torch.compile(other, fullgraph=True, backend="eager")
    torch.testing.assert_close(
        case.call(compiled, features, None), case.call(module, features, None)
    )
    if case.masked:  # in training the number of real points is read, which breaks the graph
        module.eval()
        other.eval()
        torch.testing.assert_close(
            case.call(compiled, features, MASK), case.call(module, features, MASK)
        )
