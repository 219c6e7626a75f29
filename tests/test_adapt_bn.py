"""Classifiers asked with options: adapted normalisations, outliers left out, rotations averaged."""

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ea_pointcloud import Predictor
from ea_pointcloud.inference.adapt_bn import adapt_batch_norm
from ea_pointcloud.inference.classify import turned_probs
from ea_pointcloud.inference.preprocess import inliers
from ea_pointcloud.models import DataSpec, EAClassifier, create_model
from ea_pointcloud.nn import PointBatchNorm
from ea_pointcloud.ops.frames import normalize_unit_sphere
from ea_pointcloud.report import corruptions as shown
from ea_pointcloud.robustness.corrupted_sets import GeneratedSet
from ea_pointcloud.robustness.evaluation import evaluate_corruptions
from ea_pointcloud.robustness.options import InferenceOptions, predict
from tests.oracles import cloud, seeded
from tests.test_cli import call

SMALL = {
    "num_centers": (16, 8),
    "num_neighbors": (8, 8),
    "depth": 1,
    "num_classes": 3,
}


def small(**overrides: object) -> EAClassifier:
    torch.manual_seed(0)
    spec = DataSpec(("a", "b", "c"), num_points=64)
    return create_model("ea_classifier_tiny", data_spec=spec, **{**SMALL, **overrides})  # pyright: ignore


def clouds(count: int, num_points: int = 64) -> Tensor:
    return normalize_unit_sphere(cloud("surface", num_points, batch=count))


def norms(model: nn.Module) -> list[nn.BatchNorm1d]:
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm1d)]


# --- the statistics


def test_adapted_statistics_are_those_of_the_clouds() -> None:
    # One batch: the first normalisation sees its input as it is, the last ones normalised before.
    model, xyz = small().eval(), clouds(20) * 0.3
    adapted = adapt_batch_norm(model, xyz)
    rows = model.encoder.stem_in.linear(xyz).flatten(0, 1).detach()
    norm = adapted.encoder.stem_in.norm
    torch.testing.assert_close(norm.running_mean, rows.mean(0), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(norm.running_var, rows.var(0), atol=1e-5, rtol=1e-4)
    model.train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    torch.testing.assert_close(adapted(xyz), model(xyz), atol=0.1, rtol=0.1)


def test_adaptation_is_the_mean_over_batches_of_clouds_in_any_order() -> None:
    model, xyz = small().eval(), clouds(70)  # two batches of 35
    order = torch.randperm(70, generator=torch.Generator().manual_seed(0))
    rows = [model.encoder.stem_in.linear(xyz[half]).flatten(0, 1) for half in order.chunk(2)]
    norm = adapt_batch_norm(model, xyz).encoder.stem_in.norm
    expected = torch.stack([half.var(0) for half in rows]).mean(0).detach()
    torch.testing.assert_close(norm.running_var, expected, atol=1e-6, rtol=1e-5)


def test_the_weight_mixes_old_and_new_statistics() -> None:
    model, xyz = small().eval(), clouds(16)
    for norm in norms(model):
        nn.init.uniform_(norm.get_buffer("running_mean"), generator=seeded())
    first = model.encoder.stem_in.norm
    new = adapt_batch_norm(model, xyz).encoder.stem_in.norm
    mixed = adapt_batch_norm(model, xyz, weight=0.25).encoder.stem_in.norm
    for name in ("running_mean", "running_var"):
        expected = 0.75 * first.get_buffer(name) + 0.25 * new.get_buffer(name)
        torch.testing.assert_close(mixed.get_buffer(name), expected)


def test_padding_does_not_enter_the_statistics() -> None:
    model, xyz = small().eval(), clouds(16)
    mask = torch.arange(80) < 64
    padded = torch.cat([xyz, torch.full((16, 16, 3), torch.nan)], dim=1)
    expected = adapt_batch_norm(model, xyz)
    found = adapt_batch_norm(model, padded, mask.expand(16, 80))
    for one, other in zip(norms(found), norms(expected), strict=True):
        torch.testing.assert_close(one.running_mean, other.running_mean, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(one.running_var, other.running_var, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["ea_classifier_tiny", "eamlp_classifier_small"])
def test_the_model_stays_and_the_copy_is_ready(name: str) -> None:
    model = create_model(name, num_classes=3).train()
    before = copy.deepcopy(model.state_dict())
    adapted = adapt_batch_norm(model, clouds(16))
    assert model.training
    assert not any(module.training for module in adapted.modules())
    after = model.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert {norm.momentum for norm in norms(adapted)} == {0.1}
    changed = [not torch.equal(one, other) for one, other in zip(
        adapted.buffers(), model.buffers(), strict=True)]  # fmt: skip
    assert all(changed)
    assert all(
        torch.equal(one, other)
        for one, other in zip(adapted.parameters(), model.parameters(), strict=True)
    )


def test_what_cannot_be_adapted_to() -> None:
    model = small()
    with pytest.raises(ValueError, match=r"at least 16 clouds, got 15; give more, or leave it out"):
        adapt_batch_norm(model, clouds(15))
    for weight in (0.0, 1.1, float("nan")):
        with pytest.raises(ValueError, match=r"weight must be above 0 and at most 1, got"):
            adapt_batch_norm(model, clouds(16), weight=weight)


# --- how a classifier is asked


def test_turns_are_averaged() -> None:
    model, xyz = small().eval(), clouds(3)
    quarter = torch.tensor([[0.0, 0, -1], [0, 1, 0], [1, 0, 0]])
    with torch.no_grad():
        each = [model(xyz @ torch.linalg.matrix_power(quarter, n)).softmax(-1) for n in range(4)]
    expected = torch.stack(each).mean(0)
    torch.testing.assert_close(
        turned_probs(model, xyz, tta_rotations=4), expected, atol=1e-5, rtol=0
    )


def test_the_predictor_averages_in_the_same_way() -> None:
    model, xyz = small(), clouds(1)
    probs = turned_probs(model.eval(), xyz, tta_rotations=3)[0]
    found = Predictor(model, "cpu").classify(xyz[0].numpy(), tta_rotations=3)
    assert found.prob == pytest.approx(float(probs.max()), abs=1e-5)


class Outermost(nn.Module):
    """Class 1 where most points lie in the inner half of the sphere, as an outlier leaves them."""

    calibration = None

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, xyz: Tensor, *, mask: Tensor | None = None) -> Tensor:
        real = torch.ones_like(xyz[..., 0]) if mask is None else mask.to(xyz.dtype)
        inner = ((xyz.norm(dim=-1) < 0.5) * real).sum(1) / real.sum(1)
        return torch.stack([0.5 - inner, inner - 0.5], dim=1) * self.weight


def test_outliers_are_left_out_before_scaling() -> None:
    xyz = clouds(4, 100)
    xyz[:2, 7] = torch.tensor([0.0, 6.0, 0.0])
    mask = torch.ones(4, 100, dtype=torch.bool)
    mask[3, 90:] = False
    before = xyz.clone(), mask.clone()
    batch = [(xyz, mask, torch.zeros(4, dtype=torch.long))]
    model = Outermost()
    (usual,) = predict(model, batch, InferenceOptions())  # pyright: ignore[reportArgumentType]
    (clean,) = predict(model, batch, InferenceOptions(remove_outliers=True))  # pyright: ignore[reportArgumentType]
    assert usual[0].tolist() == [1, 1, 0, 0]
    assert clean[0].tolist() == [0, 0, 0, 0]
    assert not inliers(xyz[0])[7]
    assert torch.equal(xyz, before[0])
    assert torch.equal(mask, before[1])


def test_an_adaptation_is_to_all_clouds_of_a_set() -> None:
    model, xyz = small().eval(), clouds(20) + 0.2
    label = torch.arange(20) % 3
    parts = [(xyz[:12], None, label[:12]), (xyz[12:, :50], None, label[12:])]
    found = torch.cat([pred for pred, _ in predict(model, parts, InferenceOptions(adaptation=1))])
    mask = torch.ones(20, 64, dtype=torch.bool)
    mask[12:, 50:] = False
    posed = normalize_unit_sphere(xyz, mask)
    expected = adapt_batch_norm(model, posed, mask)(posed, mask=mask).argmax(-1)
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (InferenceOptions(), ""),
        (InferenceOptions(remove_outliers=True), "without statistical outliers"),
        (InferenceOptions(adaptation=1.0), "with batch-norm adaptation"),
        (
            InferenceOptions(tta_rotations=4, adaptation=0.5),
            "with batch-norm adaptation of weight 0.5, averaged over 4 rotations",
        ),
    ],
)
def test_options_in_words(options: InferenceOptions, words: str) -> None:
    assert str(options) == words
    source = GeneratedSet("modelnet-c", clouds(2), torch.zeros(2, dtype=torch.long), 32)
    report = evaluate_corruptions(Outermost(), source, "modelnet-c")  # pyright: ignore[reportArgumentType]
    title = shown.corruption_table(replace(report, options=options), "run").title
    assert title.startswith(f"run, {words}: error" if words else "run: error")


def test_wrong_options() -> None:
    with pytest.raises(ValueError, match=r"rotations must be at least 1, got 0"):
        InferenceOptions(tta_rotations=0)
    with pytest.raises(ValueError, match=r"adaptation must be above 0 and at most 1, got 2"):
        InferenceOptions(adaptation=2)


# --- the predictor and the command


def test_a_predictor_adapts_in_a_copy() -> None:
    model = small()
    predictor = Predictor(model, "cpu")
    generator = np.random.default_rng(0)
    scans = [generator.normal(size=(generator.integers(40, 200), 3)) for _ in range(16)]
    before = predictor.classify(scans)
    adapted = predictor.adapt(scans)
    assert predictor.classify(scans) == before
    found = adapted.classify(scans)
    assert [one.prob for one in found] != [one.prob for one in before]
    assert any(isinstance(module, PointBatchNorm) for module in adapted.model.modules())
    assert predictor.adapt(scans).classify(scans) == found
    assert all(one.ood_score is None for one in found)
    with pytest.raises(ValueError, match=r"at least 16 clouds, got 0"):
        predictor.adapt([])
    with pytest.raises(ValueError, match=r"up must be one of 'x', 'y', 'z', got 'auto'"):
        predictor.adapt(scans, up="auto")


@pytest.mark.parametrize(
    "option", [("--adapt", "1"), ("--tta-rotations", "2"), ("--remove-outliers",)]
)
def test_options_belong_to_corruptions(
    option: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert call(monkeypatch, "evaluate", tmp_path, *option) == 1
    assert f"{option[0]} belongs to corruptions; add --corruptions all" in capsys.readouterr().err
