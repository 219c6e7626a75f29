"""EAMLP: its blocks, its two networks, and everything else of the package that takes them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ea_pointcloud import Predictor
from ea_pointcloud.explain import attention_maps, critical_points
from ea_pointcloud.models import (
    DataSpec,
    EAMLPClassifier,
    EAMLPClassifierConfig,
    EAMLPSegmenter,
    EAMLPSegmenterConfig,
    count_macs,
    create_model,
    list_models,
    load_matching_weights,
    load_model,
)
from ea_pointcloud.models.pretrained import PretrainedModel
from ea_pointcloud.nn import DropPath, EAMLPBlock, PatchEmbedding
from ea_pointcloud.ops import build_pyramid, gather_points
from ea_pointcloud.training.fit import train
from ea_pointcloud.training.recipe import list_recipes, load_recipe, recipe_values
from ea_pointcloud.training.run_folder import load_run_recipe
from tests.oracles import cloud, seeded

SMALL: dict[str, Any] = {
    "num_centers": 16,
    "num_neighbors": 8,
    "patch_channels": (12, 16),
    "channels": 24,
    "depth": 3,
    "heads": 4,
    "memory_size": 8,
}
CATEGORY = torch.tensor([2, 0])
OVERRIDES = [
    "model.overrides.num_centers=16",
    "model.overrides.num_neighbors=8",
    "model.overrides.channels=24",
    "model.overrides.depth=2",
    "model.overrides.heads=4",
    "model.overrides.memory_size=8",
]


def classifier(num_classes: int = 3, **options: Any) -> EAMLPClassifier:
    torch.manual_seed(0)
    config = {"num_classes": num_classes, **SMALL, **options}
    return EAMLPClassifier(EAMLPClassifierConfig(**config))


def segmenter(**options: Any) -> EAMLPSegmenter:
    torch.manual_seed(0)
    widths = {"point_channels": 8, "fuse_channels": 20, "head_channels": (16, 12), "dropout": 0.0}
    config = {"num_parts": 6, "num_categories": 3, **SMALL, **widths, **options}
    return EAMLPSegmenter(EAMLPSegmenterConfig(**config))


def lively(model: PretrainedModel) -> Any:
    """Evaluation mode, with running statistics and memories that show."""
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.copy_(0.1 * torch.randn(buffer.shape, generator=seeded()))
        elif name.endswith("running_var"):
            buffer.copy_(0.5 + torch.rand(buffer.shape, generator=seeded()))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("memory"):  # so that tokens matter to one another
                parameter.mul_(4)
    return model.eval()


def close(one: Tensor, other: Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(one, other, atol=atol, rtol=atol)


def some_mask(counts: list[int], num_points: int) -> Tensor:
    """That number of real points of each cloud, anywhere."""
    rows = [torch.randperm(num_points, generator=seeded(seed)) for seed in range(len(counts))]
    return torch.stack([row < count for row, count in zip(rows, counts, strict=True)])


# --- blocks


def test_drop_path_leaves_whole_clouds_out_and_keeps_the_expectation() -> None:
    torch.manual_seed(0)
    branch = torch.ones(4000, 2, 3)
    dropped = DropPath(0.25)(branch)
    assert set(dropped.flatten().tolist()) == {0.0, float(torch.tensor(1 / 0.75))}
    assert (dropped == dropped[:, :1, :1]).all()  # of a cloud all or nothing
    assert float(dropped.mean()) == pytest.approx(1.0, abs=0.03)


def test_drop_path_does_nothing_in_evaluation_or_at_rate_zero() -> None:
    branch = torch.randn(5, 2, 3)
    assert DropPath(0.5).eval()(branch) is branch
    assert DropPath(0.0)(branch) is branch


def test_drop_path_keeps_the_dtype() -> None:
    assert DropPath(0.5)(torch.ones(3, 2, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_patches_are_read_relative_to_their_centre() -> None:
    torch.manual_seed(0)
    layer = PatchEmbedding(2, (6, 7), 5).eval()
    for name, buffer in layer.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_()
    points = torch.cat([cloud("surface", 30, batch=2), torch.randn(2, 30, 2)], dim=-1)
    [level] = build_pyramid(points[..., :3], [4], 6)
    tokens = layer(points, level)
    for b in range(2):
        for s in range(4):
            rows = points[b, level.neighbor[b, s]].clone()  # (K, 5)
            rows[:, :3] -= level.xyz[b, s]  # features stay as they are
            hidden = F.relu(layer.last_norm(layer.last(layer.shared(rows))))
            close(tokens[b, s], layer.out(hidden.amax(0)))


def test_a_block_is_two_residual_branches_normalised_before() -> None:
    torch.manual_seed(0)
    block = EAMLPBlock(12, heads=3, memory_size=5, mlp_ratio=3, drop_path=0.5).eval()
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.4)
    tokens = torch.randn(2, 9, 12)
    middle = tokens + block.attention(F.layer_norm(
        tokens, (12,), block.attention_norm.weight, block.attention_norm.bias
    ))  # fmt: skip
    hidden = F.layer_norm(middle, (12,), block.mlp_norm.weight, block.mlp_norm.bias)
    first, _, second = block.mlp
    assert first.weight.shape == (36, 12)
    hidden = F.gelu(hidden @ first.weight.T + first.bias) @ second.weight.T + second.bias
    close(block(tokens), middle + hidden)


def test_a_masked_block_is_that_of_the_real_tokens() -> None:
    torch.manual_seed(0)
    block = EAMLPBlock(12, heads=3, memory_size=5)
    tokens, mask = torch.randn(2, 9, 12), some_mask([4, 4], 9)
    real = tokens[mask].view(2, 4, 12)
    close(block(tokens.masked_fill(~mask[..., None], 1e3), mask)[mask].view(2, 4, 12), block(real))


# --- the classifier


def test_sizes_are_about_1_3_and_10_million() -> None:
    counts = {
        name: sum(parameter.numel() for parameter in create_model(name).parameters())
        for name in list_models()
        if name.startswith("eamlp")
    }
    assert list(counts) == [
        f"eamlp_{kind}_{size}"
        for kind in ("classifier", "segmenter")
        for size in ("small", "base", "large")
    ]
    for (name, count), millions in zip(counts.items(), [1, 3, 10] * 2, strict=True):
        assert 0.8e6 * millions < count < 1.2e6 * millions, name


def test_macs_of_the_blocks() -> None:
    # Of a token and a block: into and out of the heads, 2 x 4 C C; keys and values, 2 x 4 C M;
    # MLP, 2 x 2 C C. One more block costs that for each of the tokens.
    one, two = (
        count_macs(create_model("eamlp_classifier_base", depth=depth), 256) for depth in (1, 2)
    )
    assert two - one == 128 * (12 * 192 * 192 + 8 * 192 * 64)


def test_drop_path_grows_with_depth() -> None:
    blocks = classifier(drop_path=0.3, depth=4).encoder.blocks
    assert [block.drop_path.rate for block in blocks] == pytest.approx([0, 0.1, 0.2, 0.3])
    assert classifier(drop_path=0.3, depth=1).encoder.blocks[0].drop_path.rate == 0


def test_the_encoder_is_patches_positions_blocks_and_a_norm() -> None:
    model, xyz = lively(classifier()), cloud("surface", 60, batch=2)
    encoder, pyramid = model.encoder, model.build_pyramid(xyz)
    token = encoder.patches(xyz, pyramid[0]) + encoder.position(pyramid[0].xyz)
    for block in encoder.blocks:
        token = block(token)
    token = encoder.norm(token)
    close(encoder(xyz, pyramid=pyramid), token)
    close(model(xyz), model.head(torch.cat([token.amax(1), token.mean(1)], dim=-1)))


@pytest.mark.parametrize("pooling", ["mean", "max", "max_mean", "top"])
@pytest.mark.parametrize("norm", ["double", "softmax"])
def test_every_parameter_learns(pooling: str, norm: str) -> None:
    model = classifier(pooling=pooling, norm=norm, feature_channels=2)
    logits = model(cloud("surface", 64, batch=4), torch.randn(4, 64, 2))
    F.cross_entropy(logits, torch.tensor([0, 1, 2, 0])).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("training", [False, True])
def test_logits_do_not_depend_on_the_order_of_the_points(training: bool) -> None:
    model = lively(classifier(feature_channels=2, drop_path=0.0, dropout=0.0)).train(training)
    xyz, features = cloud("surface", 100, batch=2), torch.randn(2, 100, 2)
    order = torch.randperm(100, generator=seeded())
    close(model(xyz[:, order], features[:, order]), model(xyz, features), 1e-4)


def test_a_cloud_alone_is_the_cloud_in_a_batch() -> None:
    model, xyz = lively(classifier()), cloud("surface", 70, batch=3)
    close(torch.cat([model(one[None]) for one in xyz]), model(xyz))


@pytest.mark.parametrize("padding", [0.0, 1e3, float("nan")])
def test_a_masked_batch_is_its_cropped_clouds(padding: float) -> None:
    model = lively(classifier(feature_channels=2))
    mask = some_mask([90, 33, 5, 1], 90)
    xyz = cloud("surface", 90, batch=4).masked_fill(~mask[..., None], padding)
    features = torch.randn(4, 90, 2).masked_fill(~mask[..., None], padding)
    out = model(xyz, features, mask=mask)
    for points, extra, real, row in zip(xyz, features, mask, out, strict=True):
        close(row, model(points[None, real], extra[None, real])[0])


@pytest.mark.parametrize("num_points", [1, 2, 20])
def test_fewer_points_than_tokens_and_neighbours(num_points: int) -> None:
    for model in (classifier().eval(), segmenter(num_categories=0).eval()):
        assert model(cloud("surface", num_points, batch=2)).isfinite().all()


def test_training_on_one_cloud_of_one_point() -> None:
    model = classifier()
    model(cloud("surface", 1)).sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_is_close(dtype: torch.dtype) -> None:
    model, xyz = lively(classifier()), cloud("surface", 64, batch=4)
    with torch.autocast("cpu", dtype=dtype):
        out = model(xyz)
    assert (out.float() - model(xyz)).abs().max() < 0.1


def test_the_network_compiles_without_a_graph_break() -> None:
    model, xyz = lively(classifier(depth=2)), cloud("surface", 64, batch=2)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    close(compiled(xyz), model(xyz))


# --- the segmenter


def test_logits_for_every_point() -> None:
    xyz = cloud("surface", 70, batch=2)
    assert segmenter()(xyz, category=CATEGORY).shape == (2, 70, 6)
    assert segmenter(num_categories=0)(xyz).shape == (2, 70, 6)


def test_rows_are_one_layer_over_carried_tokens_and_the_point() -> None:
    model, xyz = lively(segmenter()), cloud("surface", 40, batch=2)
    trunk, pyramid = model.trunk, model.build_pyramid(xyz)
    tokens = trunk.encoder(xyz, pyramid=pyramid)
    sq_dist = torch.cdist(xyz.double(), pyramid[0].xyz.double()).square()
    nearest, idx = sq_dist.topk(3, largest=False)
    weight = 1 / nearest.clamp_min(1e-12)
    weight = (weight / weight.sum(-1, keepdim=True)).float()
    carried = (gather_points(tokens, idx) * weight[..., None]).sum(2)
    joined = torch.cat([carried, trunk.point_out(trunk.point_in(xyz))], dim=-1)
    matrix = torch.cat([trunk.fuse_token.weight, trunk.fuse_point.weight], dim=1)
    expected = F.relu(trunk.fuse_norm(joined @ matrix.T))
    encoding = trunk.encode(xyz, xyz, None, pyramid)
    close(trunk.decode(encoding, slice(None)), expected, 1e-4)


def test_a_segmenter_learns_everywhere() -> None:
    model, xyz = segmenter(), cloud("surface", 64, batch=2)
    label = torch.randint(6, (2 * 64,), generator=seeded())
    F.cross_entropy(model(xyz, category=CATEGORY).flatten(0, 1), label).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.abs().max() > 0, name


# --- configurations and errors


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"num_classes": 1}, "num_classes must be at least 2, got 1"),
        ({"depth": 0}, "depth must be at least 1, got 0"),
        ({"num_centers": 0}, "num_centers must be at least 1, got 0"),
        ({"channels": 30}, "channels must be a multiple of heads=4, got 30"),
        ({"mlp_ratio": 0}, "mlp_ratio must be at least 1, got 0"),
        ({"patch_channels": ()}, "patch_channels must name at least one width, got none"),
        ({"patch_channels": (8, 0)}, "patch_channels must be at least 1, got 0"),
        ({"norm": "l1"}, "norm must be one of 'double', 'softmax', got 'l1'"),
        ({"pooling": "cls"}, "pooling must be one of 'mean', 'max', 'max_mean', 'top', got 'cls'"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1, got 1.0"),
        ({"drop_path": -0.1}, "drop_path must be at least 0 and below 1, got -0.1"),
        ({"drop_path": "x"}, "drop_path must be at least 0 and below 1, got 'x'"),
    ],
)
def test_wrong_configs(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        classifier(**wrong)


def test_wrong_values_of_a_segmenter_and_of_the_blocks() -> None:
    with pytest.raises(ValueError, match="num_parts must be at least 2, got 1"):
        segmenter(num_parts=1)
    with pytest.raises(ValueError, match="head_channels must name at least one width, got none"):
        segmenter(head_channels=())
    with pytest.raises(TypeError, match="depth must be an int, got float"):
        segmenter(depth=1.5)
    with pytest.raises(ValueError, match="rate must be at least 0 and below 1, got 1"):
        DropPath(1.0)
    with pytest.raises(ValueError, match="hidden must name at least one width, got none"):
        PatchEmbedding(0, (), 5)


def test_lists_become_tuples() -> None:
    listed = EAMLPClassifierConfig(num_classes=3, patch_channels=[64, 128])
    assert listed == EAMLPClassifierConfig(num_classes=3)
    assert hash(listed) == hash(EAMLPClassifierConfig(num_classes=3))


def test_wrong_inputs() -> None:
    xyz = cloud("surface", 9, batch=2)
    with pytest.raises(ValueError, match=r"pyramid must have 1 level, the patches, got 0; build"):
        classifier()(xyz, pyramid=())
    with pytest.raises(ValueError, match=r"features must have 2 channels as in the config"):
        classifier(feature_channels=2)(xyz)
    with pytest.raises(ValueError, match="mask must keep a point of each cloud"):
        classifier()(xyz, mask=torch.zeros(2, 9, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"category must be given: one of 0\.\.2"):
        segmenter()(xyz)
    with pytest.raises(ValueError, match="data_spec must name num_classes=40 classes, got 2"):
        create_model("eamlp_classifier_small", num_classes=40, data_spec=DataSpec(("a", "b")))


# --- the rest of the package


def named(model: PretrainedModel, spec: DataSpec) -> Any:
    return type(model)(model.config, spec).eval()


@pytest.mark.parametrize("build", [classifier, segmenter])
def test_weights_on_disk(build: Any, tmp_path: Path) -> None:
    model, xyz = lively(build()), cloud("surface", 50, batch=2)
    known = {"category": CATEGORY} if build is segmenter else {}
    model.save_pretrained(tmp_path / "weights")
    again = load_model(str(tmp_path / "weights"))
    assert type(again) is type(model)
    assert again.config == model.config
    assert torch.equal(again(xyz, **known), model(xyz, **known))


def test_predictor_names_a_cloud() -> None:
    spec = DataSpec(("chair", "lamp", "table"), num_points=64)
    predictor = Predictor(named(lively(classifier()), spec), "cpu")
    xyz = cloud("surface", 200)[0].numpy() * 5 + 3
    answer = predictor.classify(xyz)
    assert answer.label in spec.class_names
    order = np.random.default_rng(0).permutation(200)
    assert predictor.classify(xyz[order]).prob == pytest.approx(answer.prob, abs=1e-4)
    assert repr(predictor) == "Predictor(EAMLPClassifier, 3 classes, cpu)"
    with pytest.raises(ValueError, match="of EAMLPClassifier, which classifies whole clouds"):
        predictor.segment(xyz)


def test_predictor_labels_every_point(monkeypatch: pytest.MonkeyPatch) -> None:
    names = tuple(f"{category}/{part}" for category in "abc" for part in "xy")
    spec = DataSpec(
        names, num_points=64, category_names=tuple("abc"), parts=((0, 1), (2, 3), (4, 5))
    )
    predictor = Predictor(named(lively(segmenter()), spec), "cpu")
    xyz = cloud("surface", 300)[0].numpy()
    answer = predictor.segment(xyz, category="b")
    assert answer.labels.shape == (300,)
    assert set(answer.labels.tolist()) <= {2, 3}
    # The network sees 64 points; in parts of them the answer is the same.
    monkeypatch.setattr("ea_pointcloud.inference.segment.CHUNK", 20)
    assert (predictor.segment(xyz, category="b").labels == answer.labels).all()


def test_attention_maps_of_the_tokens() -> None:
    model, xyz = lively(classifier()), cloud("surface", 80, batch=2)
    maps = attention_maps(model, xyz)
    assert [one.layer for one in maps] == [0, 1, 2]
    for one in maps:
        assert one.weights.shape == (2, 16, 8)
        close(one.weights.sum(-1), torch.ones(2, 16))
    assert torch.equal(maps[0].xyz, model.build_pyramid(xyz)[0].xyz)
    parts = attention_maps(lively(segmenter()), xyz, layers=[-1], head=3)
    assert parts[0].weights.shape == (2, 16, 8)


def test_critical_points_are_centres() -> None:
    model, xyz = lively(classifier()), cloud("surface", 80, batch=2)
    counts = critical_points(model, xyz)
    assert counts.sum(1).tolist() == [24, 24]
    centers = torch.zeros(2, 80).scatter_(1, model.build_pyramid(xyz)[0].center, 1.0)
    assert (centers[counts > 0] == 1).all()


def test_starting_from_weights() -> None:
    weights = named(classifier(), DataSpec(("a", "b", "c")))
    model = named(classifier(2), DataSpec(("c", "d")))
    assert "new 2-class head" in load_matching_weights(model, weights)
    assert torch.equal(model.encoder.position[0].weight, weights.encoder.position[0].weight)
    with pytest.raises(ValueError, match="channels is 24 in the checkpoint and 32 in the network"):
        load_matching_weights(classifier(channels=32), classifier())
    with pytest.raises(ValueError, match="the checkpoint is of an EAMLPClassifier, the network"):
        load_matching_weights(create_model("ea_classifier_tiny"), classifier())


# --- recipes


@pytest.mark.parametrize("name", [name for name in list_recipes() if name.endswith("_eamlp")])
def test_recipes_train_eamlp(name: str) -> None:
    recipe = load_recipe(name, ["data.root=data"])
    assert recipe.model.name == "eamlp"
    assert (recipe.optim.name, recipe.optim.ema_decay > 0) == ("adamw", True)
    other = load_recipe(name.removesuffix("_eamlp"), ["data.root=data"])
    assert (recipe.task, recipe.data.name) == (other.task, other.data.name)


def test_the_architecture_is_one_key() -> None:
    recipe = load_recipe("procedural", ["model.name=eamlp", "model.size=base"])
    assert isinstance(recipe.network(recipe.model_config(14)), EAMLPClassifier)
    assert recipe.model.overrides == {}  # those of the recipe are of the other network
    same = load_recipe("procedural", ["model.name=ea"])
    assert recipe_values(same) == recipe_values(load_recipe("procedural"))


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (
            "model.name=pct",
            "model.name must be one of 'ea', 'eamlp', 'eagraph', 'pointnet', 'dgcnn', got",
        ),
        ("model.size=tiny", "model.size must be one of 'small', 'base', 'large', got 'tiny'"),
        ("model.overrides.fuse_channels=3", "model override must be one of 'channels', 'depth', "),
        ("model.overrides.heads=5", "channels must be a multiple of heads=5, got 128"),
    ],
)
def test_wrong_recipes(override: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        load_recipe("procedural_eamlp", [override])


def test_a_run_and_another_from_its_weights(tmp_path: Path) -> None:
    small = ["data.num_points=64", "data.shapes=[28,14,14]", "trainer.epochs=1"]
    small.append("trainer.precision=32-true")  # where auto stands, a run keeps what it decided
    recipe = load_recipe("procedural_eamlp", [*small, *OVERRIDES])
    train(recipe, tmp_path / "run")
    assert recipe_values(load_run_recipe(tmp_path / "run")) == recipe_values(recipe)
    again = load_recipe("procedural", [*small, f"model.init={tmp_path / 'run'}"])
    assert again.model.name == "eamlp"  # the network is that of the weights
    assert again.model_config(14) == recipe.model_config(14)


def test_parts_are_learned(tmp_path: Path) -> None:
    small = ["data.num_points=64", "data.shapes=[28,14,14]", "trainer.epochs=1"]
    parts = ["task=segmentation", "model.overrides.fuse_channels=16", "eval.votes=0"]
    recipe = load_recipe("procedural_eamlp", [*small, *parts, *OVERRIDES])
    run = train(recipe, tmp_path / "run")
    trained = EAMLPSegmenter.from_pretrained(run / "last")
    assert trained.config.num_categories == 14
    assert trained.calibration is not None
