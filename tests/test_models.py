"""The classifier, its configurations, and its weights on disk."""

import copy
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import safetensors.torch
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from ea_pointcloud.models import (
    ClassifierConfig,
    DataSpec,
    EAClassifier,
    PointEncoder,
    create_model,
    list_models,
    load_model,
)
from ea_pointcloud.models.base import named_config
from ea_pointcloud.models.ea import CLASSIFIER_SIZES
from ea_pointcloud.nn.blocks import ATTENTION
from tests.oracles import cloud, seeded

SMALL: dict[str, Any] = {
    "stem_channels": 16,
    "num_centers": (32, 16),
    "num_neighbors": (8, 8),
    "embed_channels": (24, 32),
    "input_layers": 1,
    "depth": 2,
    "heads": 4,
    "memory_size": 8,
    "fuse_channels": 48,
    "head_channels": (32,),
}
SPEC = DataSpec(("chair", "café", "table"), up_axis="z", num_points=64, sampling="fps")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def small(num_classes: int = 3, **overrides: Any) -> EAClassifier:
    return EAClassifier(ClassifierConfig(num_classes=num_classes, **{**SMALL, **overrides}))


def lively(model: EAClassifier) -> EAClassifier:
    """In evaluation mode, with running statistics of real clouds instead of 0 and 1."""
    features = model.config.feature_channels
    for seed in range(3):
        extra = torch.randn(4, 80, features, generator=seeded(seed)) if features else None
        model.train()(cloud("surface", 80, batch=4, seed=seed), extra)
    return model.eval()


def close(one: Tensor, other: Tensor, atol: float) -> None:
    torch.testing.assert_close(one, other, atol=atol, rtol=atol)


# --- size and cost


def test_base_has_the_published_number_of_parameters() -> None:
    # 2.94 M for PCT with the official external attention unit in all four layers.
    model = create_model("ea_classifier_base", num_classes=40)
    assert sum(parameter.numel() for parameter in model.parameters()) == 2_941_416


def test_base_costs_less_than_the_published_form() -> None:
    # 2.15 GMAC with grouping before the first linear layer; ours goes before the gather.
    model = create_model("ea_classifier_base", num_classes=40).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(cloud("surface", 1024))
    assert 0.5e9 < counter.get_total_flops() / 2 < 2.15e9


def test_sizes_are_ordered() -> None:
    counts = [
        sum(parameter.numel() for parameter in create_model(f"ea_classifier_{size}").parameters())
        for size in ("tiny", "small", "base")
    ]
    assert counts == sorted(counts)
    assert list_models()[:3] == ["ea_classifier_tiny", "ea_classifier_small", "ea_classifier_base"]
    for name in list_models():
        assert create_model(name) is not None


# --- properties of the function


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("pooling", ["max", "max_mean", "top"])
def test_every_attention_runs_and_learns(attention: str, pooling: str) -> None:
    model = small(attention=attention, pooling=pooling)
    logits = model(cloud("surface", 64, batch=4))
    assert logits.shape == (4, 3)
    F.cross_entropy(logits, torch.tensor([0, 1, 2, 0])).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert any(parameter.grad.abs().max() > 0 for parameter in model.encoder.stem_in.parameters())


@pytest.mark.parametrize("attention", ATTENTION)
def test_logits_do_not_depend_on_the_order_of_the_points(attention: str) -> None:
    model = lively(small(attention=attention, feature_channels=2))
    xyz, features = cloud("surface", 100, batch=2), torch.randn(2, 100, 2, generator=seeded())
    order = torch.randperm(100, generator=seeded())
    close(model(xyz[:, order], features[:, order]), model(xyz, features), 1e-4)


def test_logits_of_a_named_size_do_not_depend_on_the_order_of_the_points() -> None:
    model = create_model("ea_classifier_tiny").eval()
    xyz = cloud("surface", 300)
    order = torch.randperm(300, generator=seeded())
    close(model(xyz[:, order]), model(xyz), 1e-4)


@pytest.mark.parametrize("attention", ATTENTION)
def test_a_cloud_alone_is_the_cloud_in_a_batch(attention: str) -> None:
    model = lively(small(attention=attention))
    xyz = cloud("surface", 70, batch=3)
    close(torch.cat([model(one[None]) for one in xyz]), model(xyz), 1e-5)


def masked(prefix: bool, counts: list[int], num_points: int) -> Tensor:
    mask = torch.arange(num_points) < torch.tensor(counts)[:, None]
    if not prefix:
        order = [torch.randperm(num_points, generator=seeded(seed)) for seed in range(len(counts))]
        mask = torch.stack([row[i] for row, i in zip(mask, order, strict=True)])
    return mask


@pytest.mark.parametrize("padding", [0.0, 1.0, 1e3, float("nan")])
@pytest.mark.parametrize("prefix", [True, False])
@pytest.mark.parametrize("attention", ATTENTION)
def test_a_masked_batch_is_its_cropped_clouds(attention: str, prefix: bool, padding: float) -> None:
    model = lively(small(attention=attention, feature_channels=2))
    counts = [90, 33, 5, 1]
    mask = masked(prefix, counts, 90)
    xyz = cloud("surface", 90, batch=4).masked_fill(~mask[..., None], padding)
    features = torch.randn(4, 90, 2, generator=seeded()).masked_fill(~mask[..., None], padding)
    out = model(xyz, features, mask=mask)
    for points, extra, real, row in zip(xyz, features, mask, out, strict=True):
        close(row, model(points[None, real], extra[None, real])[0], 1e-5)


@pytest.mark.parametrize("attention", ATTENTION)
def test_batch_statistics_do_not_see_padding(attention: str) -> None:
    mask = masked(False, [90, 33, 20, 9], 90)
    outputs = []
    for padding in (0.0, 1e3):
        torch.manual_seed(0)
        model = small(attention=attention, dropout=0.0)
        xyz = cloud("surface", 90, batch=4).masked_fill(~mask[..., None], padding)
        outputs.append([model(xyz, mask=mask), model.encoder.stem_out.norm.running_var.clone()])
    close(outputs[0][0], outputs[1][0], 1e-5)
    close(outputs[0][1], outputs[1][1], 1e-6)


def test_masks_do_not_alter_the_input() -> None:
    xyz, mask = cloud("surface", 90, batch=2), masked(False, [40, 12], 90)
    before = xyz.clone(), mask.clone()
    lively(small())(xyz, mask=mask)
    assert torch.equal(xyz, before[0])
    assert torch.equal(mask, before[1])


@pytest.mark.parametrize("attention", ATTENTION)
def test_training_with_a_mask_gives_finite_gradients(attention: str) -> None:
    model = small(attention=attention)
    mask = masked(False, [90, 33, 5, 1], 90)
    xyz = cloud("surface", 90, batch=4) * mask[..., None]
    F.cross_entropy(model(xyz, mask=mask), torch.tensor([0, 1, 2, 0])).backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("num_points", [1, 2, 5, 20])
def test_fewer_points_than_centers_and_neighbors(num_points: int) -> None:
    for model in (lively(small()), create_model("ea_classifier_base", num_classes=3).eval()):
        logits = model(cloud("surface", num_points, batch=2))
        assert logits.shape == (2, 3)
        assert logits.isfinite().all()


def test_training_on_a_batch_of_one_cloud() -> None:
    # After pooling there is one row, of which batch statistics cannot be taken.
    model = small()
    model(cloud("surface", 64)).sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_training_on_one_cloud_with_one_real_point() -> None:
    mask = torch.zeros(1, 8, dtype=torch.bool)
    mask[0, 3] = True
    assert small()(cloud("surface", 8), mask=mask).isfinite().all()


def test_features_count() -> None:
    model = lively(small(feature_channels=3))
    assert model.encoder.stem_in.linear.in_features == 6
    xyz, features = cloud("surface", 64, batch=2), torch.randn(2, 64, 3, generator=seeded())
    assert not torch.allclose(model(xyz, features), model(xyz, -features))


@pytest.mark.parametrize(("centers", "kept"), [(8, 2), (5, 2), (4, 1), (1, 1)])
def test_top_pooling_is_the_mean_of_the_largest_quarter(centers: int, kept: int) -> None:
    token = torch.randn(2, centers, 6, generator=seeded())
    expected = token.sort(1, descending=True).values[:, :kept].mean(1)
    assert torch.equal(small(pooling="top").pool(token, None), expected)


def test_encoder_returns_tokens() -> None:
    tokens = PointEncoder(ClassifierConfig(num_classes=3, **SMALL))(cloud("surface", 64, batch=2))
    assert tokens.shape == (2, 16, 48)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("attention", ATTENTION)
def test_autocast_is_close(attention: str, dtype: torch.dtype) -> None:
    model = lively(small(attention=attention))
    xyz, mask = cloud("surface", 64, batch=4), masked(True, [64, 50, 40, 3], 64)
    exact = model(xyz, mask=mask)
    with torch.autocast("cpu", dtype=dtype):
        out = model(xyz, mask=mask)
    assert (out.float() - exact).abs().max() < 0.15


def test_overfits_eight_clouds() -> None:
    # A network that learns at all can name eight random clouds apart.
    model = small(8, dropout=0.0)
    xyz, label = torch.randn(8, 64, 3, generator=seeded()), torch.arange(8)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(xyz), label)
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.1
    assert (model(xyz).argmax(1) == label).all()


# --- errors of the inputs


@pytest.mark.parametrize(
    ("features", "words"),
    [
        (None, r"features must have 2 channels as in the config \(feature_channels\), got 0"),
        (torch.zeros(2, 9, 3), r"features must have 2 channels as in the config .*, got 3"),
        (torch.zeros(2, 8, 2), r"features must have B, N = \(2, 9\) as the points, got \(2, 8\)"),
        (torch.zeros(9, 2), r"features must have shape \(B, N, C\), got \(9, 2\)"),
    ],
)
def test_wrong_features(features: Tensor | None, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        small(feature_channels=2)(cloud("surface", 9, batch=2), features)


@pytest.mark.parametrize("num_points", [8, 10])
def test_wrong_features_beside_a_mask(num_points: int) -> None:
    mask = torch.ones(2, 9, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"features must have B, N = \(2, 9\) as the points"):
        small(feature_channels=2)(
            cloud("surface", 9, batch=2), torch.zeros(2, num_points, 2), mask=mask
        )


def test_wrong_coordinates() -> None:
    model = small()
    with pytest.raises(
        ValueError, match=r"xyz must have shape \(B, N, 3\), got \(9, 3\); add a bat"
    ):
        model(torch.zeros(9, 3))
    with pytest.raises(ValueError, match="xyz has no points"):
        model(torch.zeros(1, 0, 3))
    with pytest.raises(TypeError, match="xyz must be floating point"):
        model(torch.zeros(1, 9, 3).long())


def test_wrong_mask() -> None:
    model, xyz = small(), cloud("surface", 9, batch=2)
    with pytest.raises(ValueError, match=r"mask must have shape \(B, N\) = \(2, 9\), got \(2, 8\)"):
        model(xyz, mask=torch.ones(2, 8).bool())
    with pytest.raises(TypeError, match="mask must be bool with True for a real point"):
        model(xyz, mask=torch.ones(2, 9))


def test_a_mask_without_real_points_is_named() -> None:
    # The caller gave a mask, so that is the argument to name.
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[1] = False
    with pytest.raises(ValueError, match="mask"):
        small()(cloud("surface", 9, batch=2), mask=mask)


# --- configurations and names


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"num_classes": 1}, "num_classes must be at least 2, got 1"),
        ({"feature_channels": -1}, "feature_channels must be at least 0, got -1"),
        ({"depth": 0}, "depth must be at least 1, got 0"),
        ({"attention": "ea"}, "attention must be one of 'external', .*'none', got 'ea'"),
        ({"norm": "l1"}, "norm must be one of 'double', 'softmax', got 'l1'"),
        ({"pooling": "mean"}, "pooling must be one of 'max', 'max_mean', 'top', got 'mean'"),
        ({"num_centers": (64,)}, r"one entry per neighbour embedding, got \(64,\), \(32, 32\)"),
        (
            {"num_centers": (), "num_neighbors": (), "embed_channels": ()},
            "num_centers, num_neighbors and embed_channels must have one entry",
        ),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1, got 1.0"),
        ({"dropout": -0.1}, "dropout must be at least 0 and below 1, got -0.1"),
    ],
)
def test_wrong_configs(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ClassifierConfig(**{"num_classes": 3, **wrong})


def test_variants_of_dynamic_attention_are_overrides() -> None:
    xyz = cloud("surface", 64, batch=2)
    options = {"attention": "dynamic_external", "dynamic_form": "skip+norm", "memory_std": 0.5}
    model = small(**options)
    assert model(xyz).isfinite().all()
    assert model.encoder.blocks[0].attention.form.skip
    with pytest.raises(ValueError, match="dynamic_form must be 'plain' without dynamic attention"):
        small(dynamic_form="gate")
    with pytest.raises(ValueError, match="memory_std must be positive, got 0"):
        small(memory_std=0)


def test_lists_become_tuples() -> None:
    listed = ClassifierConfig(num_classes=3, num_centers=[512, 256], head_channels=[512, 256])
    assert listed == ClassifierConfig(num_classes=3)
    assert hash(listed) == hash(ClassifierConfig(num_classes=3))


def test_a_named_size_with_overrides() -> None:
    options = {"num_classes": 5, "depth": 2, "attention": "self"}
    config = create_model("ea_classifier_tiny", **options).config
    assert (config.num_classes, config.depth, config.attention) == (5, 2, "self")
    assert config.fuse_channels == create_model("ea_classifier_tiny").config.fuse_channels
    assert create_model("ea_classifier_base").config == ClassifierConfig(num_classes=40)


def test_wrong_names_list_the_known_ones() -> None:
    words = "name must be one of 'ea_classifier_tiny', .*'eagraph_segmenter_base', got 'pointnet'"
    with pytest.raises(ValueError, match=words):
        create_model("pointnet")
    with pytest.raises(ValueError, match="size must be one of 'tiny', 'small', 'base', got 'huge'"):
        named_config(ClassifierConfig, CLASSIFIER_SIZES, "huge", {"num_classes": 3}, {})
    with pytest.raises(
        ValueError, match=r"model override must be one of 'attention', .*got 'width'"
    ):
        create_model("ea_classifier_tiny", width=3)


def test_create_model_takes_the_classes_from_the_data() -> None:
    model = create_model("ea_classifier_tiny", data_spec=SPEC)
    assert model.config.num_classes == 3
    assert model.data_spec is SPEC
    assert create_model("ea_classifier_tiny").config.num_classes == 40


def test_unnamed_classes() -> None:
    assert small(2).data_spec.class_names == ("class_0", "class_1")


def test_class_names_must_fit() -> None:
    with pytest.raises(ValueError, match="data_spec must name num_classes=4 classes, got 3"):
        EAClassifier(ClassifierConfig(num_classes=4, **SMALL), SPEC)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (
            {"class_names": ("a", "b", "a")},
            r"class_names must differ from each other, got \('a', '",
        ),
        ({"up_axis": "w"}, "up_axis must be one of 'x', 'y', 'z', got 'w'"),
        ({"normalization": "box"}, "normalization must be one of 'unit_sphere', got 'box'"),
        (
            {"sampling": "all"},
            "sampling must be one of 'first', 'random', 'fps', got 'all'",
        ),
        ({"num_points": 0}, "num_points must be at least 1, got 0"),
    ],
)
def test_wrong_data_specs(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        DataSpec(**{"class_names": ("a", "b"), **wrong})


# --- weights on disk


@pytest.fixture
def model() -> EAClassifier:
    model = small()
    model.data_spec = SPEC
    return lively(model)


@pytest.fixture
def saved(model: EAClassifier, tmp_path: Path) -> Path:
    model.save_pretrained(tmp_path / "weights")
    return tmp_path / "weights"


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    description = json.loads((folder / "config.json").read_text())
    change(description)
    (folder / "config.json").write_text(json.dumps(description))


@pytest.mark.parametrize("attention", ATTENTION)
def test_saved_and_loaded_is_the_same(attention: str, tmp_path: Path) -> None:
    norm = "double" if "dynamic" in attention else "softmax"
    model = lively(small(attention=attention, norm=norm, feature_channels=1))
    model.data_spec = SPEC
    model.save_pretrained(tmp_path / "new" / "weights")
    assert sorted(contents(tmp_path)) == [
        "new/weights/config.json",
        "new/weights/model.safetensors",
    ]
    xyz, features = cloud("surface", 64, batch=2), torch.ones(2, 64, 1)
    for load in (EAClassifier.from_pretrained, load_model):
        loaded = load(str(tmp_path / "new" / "weights"))
        assert isinstance(loaded, EAClassifier)
        assert not loaded.training
        assert loaded.config == model.config
        assert loaded.data_spec == SPEC
        assert torch.equal(loaded(xyz, features), model(xyz, features))


def test_the_description_on_disk(saved: Path) -> None:
    description = json.loads((saved / "config.json").read_text())
    assert description["format_version"] == 1
    assert description["architecture"] == "EAClassifier"
    assert description["config"]["num_centers"] == [32, 16]
    assert description["data"]["class_names"] == ["chair", "café", "table"]
    assert description["data"]["up_axis"] == "z"


def test_a_run_folder_gives_its_best_weights(model: EAClassifier, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "run" / "best")
    loaded = EAClassifier.from_pretrained(tmp_path / "run")
    assert torch.equal(loaded.head[-1].weight, model.head[-1].weight)


def test_saving_does_not_change_the_model(model: EAClassifier, tmp_path: Path) -> None:
    model.train().save_pretrained(tmp_path / "weights")
    assert model.training


def test_saving_again_replaces(model: EAClassifier, saved: Path) -> None:
    with torch.no_grad():
        model.head[-1].bias.add_(1.0)
    model.save_pretrained(saved)
    loaded = EAClassifier.from_pretrained(saved)
    assert torch.equal(loaded.head[-1].bias, model.head[-1].bias)
    assert [path.name for path in saved.parent.iterdir()] == ["weights"]  # nothing left behind


def test_a_failing_save_leaves_the_old_weights(
    model: EAClassifier, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(saved)

    def disk_full(tensors: dict[str, Tensor], path: Path) -> None:
        Path(path).write_bytes(b"half of it")
        raise OSError("no space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", disk_full)
    with pytest.raises(OSError, match="no space left"):
        model.save_pretrained(saved)
    with pytest.raises(OSError, match="no space left"):
        model.save_pretrained(saved.parent / "other")
    assert contents(saved) == before
    assert [path.name for path in saved.parent.iterdir()] == ["weights"]


def test_a_failing_replacement_leaves_the_old_weights(
    model: EAClassifier, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # "All of it or nothing": the old weights may only go once the new ones are in their place.
    before, replace, refused = contents(saved), os.replace, []

    def refuse_once(source: Path, target: Path) -> None:
        if Path(target) == saved and not refused:
            refused.append(source)
            raise PermissionError("the folder is locked")
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse_once)
    monkeypatch.setattr(Path, "replace", refuse_once)  # Python 3.10 keeps its own os.replace
    with pytest.raises(PermissionError, match="the folder is locked"):
        model.save_pretrained(saved)
    assert contents(saved) == before
    assert [path.name for path in saved.parent.iterdir()] == ["weights"]


def test_saving_into_an_empty_folder(model: EAClassifier, tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    model.save_pretrained(tmp_path / "weights")
    EAClassifier.from_pretrained(tmp_path / "weights")


def test_a_foreign_folder_is_not_replaced(model: EAClassifier, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("three years")
    words = r"exists and is not a folder of weights; choose another one for them"
    with pytest.raises(FileExistsError, match=words):
        model.save_pretrained(tmp_path)
    assert contents(tmp_path) == {"thesis.tex": b"three years"}


@pytest.mark.parametrize("config", ['{"port": 80}', "[]", "not JSON"])
def test_a_foreign_folder_with_a_config_is_not_replaced(
    model: EAClassifier, tmp_path: Path, config: str
) -> None:
    # Many tools name their settings config.json; only a folder of weights may be replaced.
    (tmp_path / "config.json").write_text(config)
    (tmp_path / "thesis.tex").write_text("three years")
    with pytest.raises(FileExistsError, match="choose another one for them"):
        model.save_pretrained(tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "three years"


def test_saving_over_a_file(model: EAClassifier, tmp_path: Path) -> None:
    (tmp_path / "weights").write_text("a file")
    with pytest.raises(FileExistsError, match="choose another one for them"):
        model.save_pretrained(tmp_path / "weights")
    assert (tmp_path / "weights").read_text() == "a file"


# --- errors of loading


LOADERS = pytest.mark.parametrize("load", [EAClassifier.from_pretrained, load_model])


@LOADERS
@pytest.mark.parametrize("name", ["nowhere", "./no/where", "/no/where/at/all", "~/weights"])
def test_a_missing_folder(load: Callable[..., Any], name: str) -> None:
    words = "no folder .*; give a folder of weights, a run folder, or USER/NAME on the hub"
    with pytest.raises(FileNotFoundError, match=words):
        load(name)


@LOADERS
def test_a_folder_without_weights(load: Callable[..., Any], tmp_path: Path) -> None:
    words = "holds no trained weights .*give a folder written by save_pretrained or a run folder"
    with pytest.raises(FileNotFoundError, match=words):
        load(tmp_path)


def test_a_wrong_architecture(saved: Path) -> None:
    edit(saved, lambda description: description.update(architecture="EASegmenter"))
    words = r"config.json describes EASegmenter, not EAClassifier; load it with EASegmenter.from_pr"
    with pytest.raises(ValueError, match=words):
        EAClassifier.from_pretrained(saved)


def test_an_unknown_architecture(saved: Path) -> None:
    edit(saved, lambda description: description.update(architecture="Foreign"))
    words = (
        "architecture in .*config.json must be one of .*'EAClassifier', .*Segmenter', got 'Foreign'"
    )
    with pytest.raises(ValueError, match=words):
        load_model(saved)


@LOADERS
@pytest.mark.parametrize("part", ["config", "data"])
def test_unknown_settings(load: Callable[..., Any], part: str, saved: Path) -> None:
    edit(saved, lambda description: description[part].update(colour=3))
    words = r"config.json has unknown settings \['colour'\]; it was written by a newer version"
    with pytest.raises(ValueError, match=words):
        load(saved)


@LOADERS
def test_a_newer_format(load: Callable[..., Any], saved: Path) -> None:
    edit(saved, lambda description: description.update(format_version=2))
    words = "has format 2, this version reads up to 1; upgrade ea-pointcloud"
    with pytest.raises(ValueError, match=words):
        load(saved)


@LOADERS
@pytest.mark.parametrize("part", ["format_version", "architecture", "config", "data"])
def test_an_incomplete_description(load: Callable[..., Any], part: str, saved: Path) -> None:
    edit(saved, lambda description: description.pop(part))
    words = rf"config.json lacks \['{part}'\]; it was not written by ea-pointcloud"
    with pytest.raises(ValueError, match=words):
        load(saved)


@LOADERS
def test_a_description_that_is_not_json(load: Callable[..., Any], saved: Path) -> None:
    (saved / "config.json").write_text('{"format_version": 1,')
    with pytest.raises(
        ValueError, match=r"config.json is not valid JSON .*; copy the folder again"
    ):
        load(saved)


@LOADERS
def test_damaged_weights(load: Callable[..., Any], saved: Path) -> None:
    weights = saved / "model.safetensors"
    words = r"model.safetensors does not fit its config.json .*; copy the folder again"
    for damaged in (weights.read_bytes()[:-100], b"", b"garbage" * 100):
        weights.write_bytes(damaged)
        with pytest.raises(ValueError, match=words):
            load(saved)


@LOADERS
def test_weights_of_another_size(load: Callable[..., Any], saved: Path) -> None:
    edit(saved, lambda description: description["config"].update(fuse_channels=40))
    words = r"(?s)model.safetensors does not fit its config.json .*; copy the folder again"
    with pytest.raises(ValueError, match=words):
        load(saved)


@LOADERS
def test_missing_weights_beside_a_description(load: Callable[..., Any], saved: Path) -> None:
    # As the docstring of from_pretrained says.
    (saved / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"model.safetensors"):
        load(saved)


# --- the hub, without the network


def test_loading_from_the_hub(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def download(name: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((name, revision, sorted(allow_patterns)))
        return str(saved)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert EAClassifier.from_pretrained("user/name", revision="v1").data_spec == SPEC
    files = [
        "calibration.safetensors", "config.json", "embedding.safetensors", "model.safetensors"
    ]  # fmt: skip
    assert asked == [("user/name", "v1", files)]


def test_a_download_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*_: object, **__: object) -> str:
        raise OSError("the cable is out")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    words = (
        r"no folder user/name, and user/name could not be downloaded from the hub \(the cable is"
    )
    with pytest.raises(FileNotFoundError, match=words):
        EAClassifier.from_pretrained("user/name")


def test_a_name_that_no_hub_can_have() -> None:
    # Refused by huggingface_hub before any network; a folder with a typing mistake looks like this.
    with pytest.raises(FileNotFoundError, match="no folder my runs/best one"):
        EAClassifier.from_pretrained("my runs/best one")


def test_pushing_to_the_hub(model: EAClassifier, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: dict[str, Any] = {}

    class Api:
        def __init__(self, token: str | None) -> None:
            calls["token"] = token

        def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> str:
            calls["repo"] = (repo_id, private, exist_ok)
            return f"hub://{repo_id}"

        def upload_folder(self, *, repo_id: str, folder_path: Path) -> None:
            calls["upload"] = (repo_id, sorted(contents(folder_path)))

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    assert model.push_to_hub("user/name", private=True, token="t") == "hub://user/name"
    assert calls == {
        "token": "t",
        "repo": ("user/name", True, True),
        "upload": ("user/name", ["config.json", "model.safetensors"]),
    }


def test_a_mistyped_path_is_not_looked_for_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: pytest.fail("asked"))
    with pytest.raises(
        FileNotFoundError, match="no folder runs/modelnet10; give a folder of weigh"
    ):
        load_model("runs/modelnet10")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"config": []}, r"config must be dict, got \[\]; copy the folder again"),
        ({"format_version": "1"}, "format_version must be int, got '1'"),
        ({"config": {"num_classes": 3, "depth": "x"}}, "depth must be an int, got str"),
        ({"config": {}}, "num_classes"),
    ],
)
def test_damaged_descriptions_are_named(
    tmp_path: Path, change: dict[str, object], words: str
) -> None:
    create_model("ea_classifier_tiny", num_classes=3).save_pretrained(tmp_path / "w")
    path = tmp_path / "w" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=words):
        load_model(str(tmp_path / "w"))


def test_float64_coordinates_are_taken_as_they_come() -> None:
    model = create_model("ea_classifier_tiny", num_classes=3).eval()
    xyz = torch.rand(1, 50, 3)
    torch.testing.assert_close(model(xyz.double()), model(xyz))


def test_a_count_of_zero_is_no_default() -> None:
    with pytest.raises(ValueError, match="num_classes must be at least 2, got 0"):
        create_model("ea_classifier_tiny", num_classes=0)
    with pytest.raises(ValueError, match="num_parts must be at least 2, got 0"):
        create_model("ea_segmenter_tiny", num_parts=0)


def test_a_pointnet_is_copied_after_a_step() -> None:
    model = create_model("pointnet_classifier_tiny", num_classes=2).train()
    model(torch.randn(2, 16, 3)).sum().backward()
    copied = copy.deepcopy(model)
    assert copied.auxiliary_loss() is None
    assert model.auxiliary_loss() is not None


@pytest.mark.parametrize(
    "name",
    [name for name in list_models() if name.endswith("_tiny") or re.match("eamlp.*_small", name)],
)
@pytest.mark.filterwarnings("ignore:.*quantiz.*")
def test_dynamic_quantization_leaves_nearly_the_same_network(name: str) -> None:
    torch.manual_seed(0)
    model, xyz = create_model(name).eval(), torch.rand(2, 160, 3)
    options = {"category": torch.tensor([0, 1])} if "segmenter" in name else {}
    quantized = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, torch.qint8)
    with torch.no_grad():
        exact, found = model(xyz, **options), quantized(xyz, **options)
    assert not torch.equal(exact, found)
    assert float((exact - found).norm() / exact.norm()) < 0.1
