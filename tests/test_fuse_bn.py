import pytest
import torch
from torch import nn

from ea_pointcloud.models import create_model, list_models
from ea_pointcloud.nn import PointBatchNorm
from ea_pointcloud.nn.blocks import ATTENTION
from ea_pointcloud.nn.fuse_bn import FusedNorm, fuse_batch_norm


def trained(name: str, **overrides: object) -> nn.Module:
    """A network whose normalisations have statistics and weights as after a training."""
    torch.manual_seed(0)
    model = create_model(name, **overrides)  # pyright: ignore[reportArgumentType]
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            nn.init.uniform_(module.running_mean, -0.3, 0.3)  # pyright: ignore
            nn.init.uniform_(module.running_var, 0.3, 2.0)  # pyright: ignore
            nn.init.uniform_(module.weight, -1.0, 1.5)  # signs turn a maximum into a minimum
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return model.eval()


def inputs(name: str, num_points: int) -> dict[str, torch.Tensor]:
    given = {"xyz": torch.randn(3, num_points, 3)}
    if "segmenter" in name:
        given["category"] = torch.tensor([0, 5, 15])
    return given


@pytest.mark.parametrize(
    ("name", "attention"),
    [("ea_classifier_tiny", kind) for kind in ATTENTION]
    + [(name, "") for name in list_models() if name.endswith("tiny") and "ea_c" not in name],
)
@pytest.mark.parametrize("masked", [False, True])
def test_a_folded_network_computes_the_same(name: str, attention: str, masked: bool) -> None:
    model = trained(name, **({"attention": attention} if attention else {}))
    given = inputs(name, num_points=300)
    mask = torch.arange(300) < torch.tensor([300, 211, 90])[:, None]
    options = {"mask": mask} if masked else {}
    with torch.inference_mode():
        expected = model(**given, **options)
        found = fuse_batch_norm(model)(**given, **options)
    if masked and found.ndim == 3:  # rows of padding mean nothing
        expected, found = expected[mask], found[mask]
    # float32 rounding through a score of layers
    torch.testing.assert_close(found, expected, rtol=2e-4, atol=2e-4 * float(expected.abs().max()))


def test_folding_removes_every_normalisation_behind_a_linear_layer_and_leaves_the_model() -> None:
    model = trained("ea_classifier_tiny", attention="multihead_external")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fused = fuse_batch_norm(model.train())
    assert not any(isinstance(module, PointBatchNorm) for module in fused.modules())
    assert any(isinstance(module, FusedNorm) for module in fused.modules())
    assert not fused.training
    assert not any(parameter.requires_grad for parameter in fused.parameters())
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_many_clouds_are_handled_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    model = trained("ea_classifier_tiny")
    xyz = torch.randn(3, 400, 3)
    with torch.inference_mode():
        whole = fuse_batch_norm(model)(xyz)
        monkeypatch.setattr("ea_pointcloud.nn.fuse_bn._PAIR_VALUES", 1)
        torch.testing.assert_close(fuse_batch_norm(model)(xyz), whole)


def test_a_folded_network_compiles_in_one_graph() -> None:
    fused = fuse_batch_norm(trained("ea_classifier_tiny"))
    xyz = torch.randn(2, 300, 3)
    run = torch.compile(fused, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        torch.testing.assert_close(run(xyz), fused(xyz), rtol=1e-4, atol=1e-4)


def test_a_folded_network_is_not_saved(tmp_path: object) -> None:
    fused = fuse_batch_norm(trained("ea_classifier_tiny"))
    with pytest.raises(RuntimeError, match=r"cannot be saved; save the one that it was made from"):
        fused.save_pretrained(tmp_path)  # pyright: ignore[reportCallIssue]
