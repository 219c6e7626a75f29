"""Tracing: the operators under torch.compile, torch.export and torch.library's own checks."""

import pytest
import torch
from torch import Tensor
from torch.library import opcheck

from ea_pointcloud.models import EAClassifier, create_model
from ea_pointcloud.ops import build_pyramid, farthest_point_sample, gather_points, knn
from tests.oracles import cloud, seeded


def tiny() -> EAClassifier:
    torch.manual_seed(0)
    return create_model(
        "ea_classifier_tiny",
        num_classes=5,
        num_centers=(32, 16),
        num_neighbors=(8, 8),
        dropout=0.0,
    )


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=seeded())


operators = torch.ops.ea_pointcloud
IDX = torch.randint(9, (2, 4, 3), generator=seeded())


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("farthest_point_sample", (draw(2, 9, 3), 4, None, torch.zeros(2).long())),
        ("farthest_point_sample", (draw(2, 9, 3), 4, torch.tensor([9, 3]), torch.zeros(2).long())),
        ("knn", (draw(2, 4, 3), draw(2, 9, 3), 3, None)),
        ("ball_query", (draw(2, 4, 3), draw(2, 9, 3), 0.5, 3, None)),
        ("gather", (draw(2, 9, 5).requires_grad_(), IDX, None)),
        ("gather", (draw(2, 9, 5).requires_grad_(), IDX, draw(2, 4, 5).requires_grad_())),
        ("interpolate", (draw(2, 9, 5).requires_grad_(), IDX, draw(2, 4, 3))),
        ("scatter", (draw(2, 4, 5).requires_grad_(), IDX, 9, draw(2, 4, 3))),
        ("scatter", (draw(2, 4, 5).requires_grad_(), IDX, 9, None)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_registration_passes_the_checks_of_torch(name: str, arguments: tuple[object, ...]) -> None:
    opcheck(getattr(operators, name).default, arguments)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_the_classifier_compiles_without_a_graph_break(backend: str) -> None:
    if backend == "inductor":
        cpp = pytest.importorskip("torch._inductor.cpp_builder")
        try:
            cpp.get_cpp_compiler()
        except Exception as error:
            pytest.skip(f"no C++ compiler for inductor: {error}")
    model, xyz = tiny(), cloud("surface", 128, batch=4)
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    for one in (model, compiled):
        one.zero_grad()
        logits = one(xyz)
        logits.square().sum().backward()
        grads = [parameter.grad.clone() for parameter in model.parameters()]
        if one is model:
            # Undo what the forward did to the running statistics.
            expected, expected_grads = logits.detach(), grads
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
    for grad, other in zip(grads, expected_grads, strict=True):
        # Other kernels sum in another order, and the batch statistics of four clouds amplify it.
        assert (grad - other).norm() <= 1e-2 * other.norm() + 1e-5


def test_the_classifier_compiles_with_a_mask_and_a_pyramid() -> None:
    model, xyz = tiny().eval(), cloud("surface", 128, batch=4)
    mask = torch.arange(128) < torch.tensor([128, 40, 90, 3])[:, None]
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    pyramid = model.build_pyramid(xyz, mask)
    for options in ({"mask": mask}, {"mask": mask, "pyramid": pyramid}):
        torch.testing.assert_close(compiled(xyz, **options), model(xyz, **options))


def test_one_graph_serves_every_size() -> None:
    def neighbors(xyz: Tensor, features: Tensor) -> Tensor:
        center = farthest_point_sample(xyz, 8)
        _, idx = knn(gather_points(xyz, center), xyz, 4)
        return gather_points(features, idx).amax(2)

    compiled = torch.compile(neighbors, fullgraph=True, backend="aot_eager", dynamic=True)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for num_points in (30, 31, 64):
            xyz, features = cloud("surface", num_points, batch=2), draw(2, num_points, 3)
            assert torch.equal(compiled(xyz, features), neighbors(xyz, features))


def test_an_exported_program_needs_no_package() -> None:
    # Ties included: the reference's path without a look at values must give the same integers.
    for kind in ("surface", "lattice"):
        model, xyz = tiny().eval(), cloud(kind, 64, batch=2)
        program = torch.export.export(model, (xyz,))
        targets = {str(node.target) for node in program.graph.nodes}
        assert not [name for name in targets if "ea_pointcloud" in name]
        torch.testing.assert_close(program.module()(xyz), model(xyz))


def test_a_pyramid_is_the_levels_one_by_one() -> None:
    xyz, lengths = cloud("surface", 64, batch=2), torch.tensor([64, 20])
    first, second = build_pyramid(xyz, [32, 16], [8, 50], lengths=lengths)
    start = xyz.square().sum(-1)
    start[1, 20:] = -1
    center = farthest_point_sample(xyz, 32, lengths=lengths, start=start.argmax(1))
    assert torch.equal(first.center, center)
    assert torch.equal(first.xyz, gather_points(xyz, center))
    assert torch.equal(first.neighbor, knn(first.xyz, xyz, 8, lengths=lengths)[1])
    assert second.neighbor.shape == (2, 16, 32)  # the level below has no more
    again = build_pyramid(first.xyz, [16], 32)[0]
    for one, other in zip(again, second, strict=True):
        assert torch.equal(one, other)
    assert first.to("cpu").center is first.center


def test_a_pyramid_with_unequal_lists() -> None:
    with pytest.raises(ValueError, match="entry for each of the 2 levels in num_samples, got 3"):
        build_pyramid(cloud("surface", 9), [4, 2], [1, 2, 3])


def test_a_pyramid_computed_ahead_changes_nothing() -> None:
    model, xyz = tiny().eval(), cloud("surface", 128, batch=3)
    mask = torch.rand(3, 128, generator=seeded()) < 0.5
    for given in (None, mask):
        pyramid = model.build_pyramid(xyz, given)
        assert torch.equal(model(xyz, mask=given, pyramid=pyramid), model(xyz, mask=given))
    with pytest.raises(ValueError, match="pyramid must have 2 levels as the config, got 1; build"):
        model(xyz, pyramid=pyramid[:1])
