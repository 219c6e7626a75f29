"""Networks that keep every point, their layers, and everything of the package that takes them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ea_pointcloud import Predictor
from ea_pointcloud.explain import attention_maps, critical_points
from ea_pointcloud.models import (
    Classifier,
    DataSpec,
    DGCNNClassifier,
    DGCNNConfig,
    EAGraphClassifier,
    EAGraphClassifierConfig,
    PointNetClassifier,
    PointNetConfig,
    count_macs,
    create_model,
    load_matching_weights,
    load_model,
)
from ea_pointcloud.models.baselines import deviation_from_orthogonal
from ea_pointcloud.nn import EdgeConv, TransformNet
from ea_pointcloud.ops import feature_neighbors
from ea_pointcloud.training.evaluate_run import evaluate_run
from ea_pointcloud.training.fit import train
from ea_pointcloud.training.module import RecipeModule
from ea_pointcloud.training.recipe import load_recipe
from tests.oracles import cloud, randomise, seeded
from tests.test_eamlp import close, some_mask

POINTNET: dict[str, Any] = {
    "local_channels": (8, 6),
    "global_channels": (10, 20),
    "transform_channels": (8, 12),
    "transform_head_channels": (10,),
    "head_channels": (16,),
}
DGCNN: dict[str, Any] = {
    "num_neighbors": 6,
    "edge_channels": (8, 8, 10),
    "fuse_channels": 20,
    "head_channels": (16,),
}
EAGRAPH: dict[str, Any] = {
    "num_neighbors": 6,
    "channels": 8,
    "depth": 2,
    "heads": 2,
    "memory_size": 5,
    "expansion": 2,
    "drop_path": 0.0,
    "fuse_channels": 20,
    "head_channels": (16,),
}
SIZES = {"pointnet": POINTNET, "dgcnn": DGCNN, "eagraph": EAGRAPH}
NETWORKS: dict[str, Any] = {
    "pointnet": (PointNetClassifier, PointNetConfig),
    "dgcnn": (DGCNNClassifier, DGCNNConfig),
    "eagraph": (EAGraphClassifier, EAGraphClassifierConfig),
}
NAMES = list(NETWORKS)


def network(name: str, num_classes: int = 3, **options: Any) -> Classifier:
    torch.manual_seed(0)
    kind, config = NETWORKS[name]
    return kind(config(num_classes=num_classes, **{**SIZES[name], **options}))


def lively(model: Classifier) -> Classifier:
    """Evaluation mode, with a value that shows in every parameter and running statistic."""
    randomise(model)
    return model.eval()


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed))


# --- graphs of features


@pytest.mark.parametrize("channels", [1, 3, 40])
def test_neighbours_are_those_of_all_distances(channels: int) -> None:
    features = drawn(2, 50, channels) + 100  # far from the origin, where squares cancel
    exact = (features[:, :, None].double() - features[:, None].double()).square().sum(-1)
    sq_dist, expected = exact.topk(7, largest=False)
    found = feature_neighbors(features, 7)
    assert found.dtype == torch.long
    close(exact.gather(2, found).float(), sq_dist.float(), 1e-4)
    if channels > 1:  # on a line some are all but equally far
        assert torch.equal(found, expected)


def test_padded_points_are_nobodys_neighbours() -> None:
    mask = some_mask([30, 9, 3, 1], 40)
    features = drawn(4, 40, 5).masked_fill(~mask[..., None], torch.nan)
    found = feature_neighbors(features, 6, mask=mask)
    assert (found >= 0).all()
    assert (found < 40).all()
    for b, real in enumerate(mask):
        places = real.nonzero()[:, 0]
        alone = places[feature_neighbors(features[b : b + 1, real], min(6, len(places)))[0]]
        rows = found[b, real]
        assert torch.equal(rows[:, : alone.shape[1]], alone)
        assert torch.equal(rows[:, alone.shape[1] :], rows[:, :1].expand(-1, 6 - alone.shape[1]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_neighbours_of_half_precision_are_found_in_float32(dtype: torch.dtype) -> None:
    features = drawn(2, 50, 8).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = feature_neighbors(features, 5)
    assert torch.equal(found, feature_neighbors(features.double(), 5))


def test_wrong_arguments_of_feature_neighbors() -> None:
    with pytest.raises(ValueError, match=r"k must be between 1 and N=4, got 5"):
        feature_neighbors(drawn(1, 4, 2), 5)
    with pytest.raises(ValueError, match=r"features must have shape \(B, N, C\)"):
        feature_neighbors(drawn(4, 2), 1)
    with pytest.raises(ValueError, match=r"mask must have shape \(B, N\) = \(1, 4\), got \(1, 3\)"):
        feature_neighbors(drawn(1, 4, 2), 1, mask=torch.ones(1, 3, dtype=torch.bool))


# --- layers


@pytest.mark.parametrize("training", [False, True])
def test_an_edge_convolution_is_one_layer_over_pairs(training: bool) -> None:
    layer, features = EdgeConv(5, 7, num_neighbors=4), drawn(2, 20, 5)
    randomise(layer)
    layer.train(training)
    neighbor = feature_neighbors(features, 4)
    near = torch.stack([one[idx] for one, idx in zip(features, neighbor, strict=True)])
    own = features[:, :, None].expand_as(near)
    pairs = torch.cat([near - own, own], dim=-1) @ layer.pair.weight.T  # as published
    norm = layer.norm
    expected = F.batch_norm(
        pairs.flatten(0, 2),
        None if training else norm.running_mean,
        None if training else norm.running_var,
        norm.weight,
        norm.bias,
        training=training,
    )
    expected = F.leaky_relu(expected, 0.2).view(2, 20, 4, 7).amax(2)
    close(layer(features), expected)


def test_a_transform_begins_as_the_identity() -> None:
    net = TransformNet(4, point_channels=(8, 8), head_channels=(8,))
    close(net(drawn(3, 20, 4)), torch.eye(4).expand(3, 4, 4))


def test_wrong_layers() -> None:
    with pytest.raises(ValueError, match="point_channels must name at least one width, got none"):
        TransformNet(3, point_channels=())
    with pytest.raises(ValueError, match="num_neighbors must be at least 1, got 0"):
        EdgeConv(3, 4, num_neighbors=0)


# --- networks


@pytest.mark.parametrize(
    ("name", "parameters"),
    # Summed over the layers of the published code; of PointNet without the biases that its batch
    # normalisations take away again.
    [("pointnet_classifier_base", 3_474_225), ("dgcnn_classifier_base", 1_809_576)],
)
def test_the_base_sizes_are_the_published_ones(name: str, parameters: int) -> None:
    model = create_model(name, num_classes=40)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


@pytest.mark.parametrize("name", ["pointnet", "dgcnn"])
def test_tiny_has_the_budget_of_the_point_transformers_tiny(name: str) -> None:
    ours = count_macs(create_model("ea_classifier_tiny"), 512)
    assert count_macs(create_model(f"{name}_classifier_tiny"), 512) == pytest.approx(ours, rel=0.1)


def test_pointnet_is_its_published_formula() -> None:
    model, xyz = lively(network("pointnet")), cloud("surface", 60, batch=2)
    encoder: Any = model.encoder
    turned = xyz @ encoder.turn_points(xyz)
    hidden = encoder.local[1](encoder.local[0](turned))
    hidden = hidden @ encoder.turn_features(hidden)
    hidden = encoder.wide[1](encoder.wide[0](hidden))
    close(model(xyz), model.head(hidden.amax(1)), 1e-4)


def test_dgcnn_is_its_published_formula() -> None:
    model, xyz = lively(network("dgcnn")), cloud("surface", 60, batch=2)
    encoder: Any = model.encoder
    outputs, hidden = [], xyz
    for edge in encoder.edges:
        hidden = edge(hidden, neighbor_idx=feature_neighbors(hidden, 6))
        outputs.append(hidden)
    token = encoder.fuse(torch.cat(outputs, dim=-1))
    close(model(xyz), model.head(torch.cat([token.amax(1), token.mean(1)], dim=-1)), 1e-4)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("pooling", ["max", "max_mean"])
def test_every_parameter_learns(name: str, pooling: str) -> None:
    model = network(name, pooling=pooling, feature_channels=2)
    for parameter in model.parameters():  # transforms that are the identity hold back gradients
        torch.nn.init.normal_(parameter, std=0.3, generator=seeded())
    logits = model(cloud("surface", 64, batch=4), drawn(4, 64, 2))
    F.cross_entropy(logits, torch.tensor([0, 1, 2, 0])).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        if parameter.ndim > 1:
            assert parameter.grad.abs().max() > 0, key


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("pooling", ["max", "max_mean"])
@pytest.mark.parametrize("padding", [0.0, 1e3, float("nan")])
def test_a_masked_batch_is_its_cropped_clouds(name: str, pooling: str, padding: float) -> None:
    model = lively(network(name, pooling=pooling, feature_channels=2))
    mask = some_mask([90, 33, 5, 1], 90)
    xyz = cloud("surface", 90, batch=4).masked_fill(~mask[..., None], padding)
    features = drawn(4, 90, 2).masked_fill(~mask[..., None], padding)
    out = model(xyz, features, mask=mask)
    for points, extra, real, row in zip(xyz, features, mask, out, strict=True):
        close(row, model(points[None, real], extra[None, real])[0], 1e-4)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("padding", [0.0, float("nan")])
def test_training_is_blind_to_padding(name: str, padding: float) -> None:
    mask = some_mask([12, 12, 12], 20)
    xyz = cloud("surface", 20, batch=3)
    cropped = xyz[mask].view(3, 12, 3)
    padded = xyz.masked_fill(~mask[..., None], padding)
    found = []
    for inputs, given in ((cropped, None), (padded, mask)):
        model = network(name, dropout=0.0).double()
        randomise(model)
        model(inputs.double(), mask=given).square().sum().backward()
        gradients = [parameter.grad for parameter in model.parameters()]
        found.append([*gradients, *model.buffers()])
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, atol=1e-8, rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("training", [False, True])
def test_logits_do_not_depend_on_the_order_of_the_points(name: str, training: bool) -> None:
    model = lively(network(name, feature_channels=2, dropout=0.0)).train(training).double()
    xyz, features = cloud("surface", 100, batch=2).double(), drawn(2, 100, 2).double()
    order = torch.randperm(100, generator=seeded())
    close(model(xyz[:, order], features[:, order]), model(xyz, features))


@pytest.mark.parametrize("name", NAMES)
def test_a_cloud_alone_is_the_cloud_in_a_batch(name: str) -> None:
    model, xyz = lively(network(name)), cloud("surface", 70, batch=3)
    close(torch.cat([model(one[None]) for one in xyz]), model(xyz), 1e-4)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("num_points", [1, 2, 5])
def test_few_points(name: str, num_points: int) -> None:
    model, xyz = network(name), cloud("surface", num_points)
    assert model.eval()(xyz).isfinite().all()
    model.train()(xyz).sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())  # pyright: ignore


@pytest.mark.parametrize("name", NAMES)
def test_autocast_is_close(name: str) -> None:
    model, xyz = network(name).eval(), cloud("surface", 64, batch=4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model(xyz)
    assert (out.float() - model(xyz)).abs().max() < 0.1


def test_the_networks_compile_without_a_graph_break() -> None:
    torch.compiler.reset()
    model, xyz = lively(network("dgcnn", edge_channels=(8, 8))), cloud("surface", 64, batch=2)
    close(torch.compile(model, fullgraph=True, backend="eager")(xyz), model(xyz))
    model = network("eagraph", depth=1).train()
    torch.compile(model, fullgraph=True, backend="aot_eager")(xyz).sum().backward()
    model = network("pointnet")  # in training it keeps what its transform adds to the loss
    torch.compile(model, fullgraph=True, backend="eager")(xyz)
    assert model.auxiliary_loss() is not None


def test_pyramids_are_taken() -> None:
    for name in NAMES:
        model, xyz = lively(network(name)), cloud("surface", 64, batch=2)
        mask = some_mask([40, 64], 64)
        pyramid = model.build_pyramid(xyz, mask)
        close(model(xyz, mask=mask, pyramid=pyramid), model(xyz, mask=mask))
    with pytest.raises(ValueError, match=r"pyramid must have 1 level, the first graph, got 0"):
        network("dgcnn")(cloud("surface", 9), pyramid=())


# --- the loss of PointNet's transform


def test_deviation_is_the_squared_norm_averaged_over_the_clouds() -> None:
    turn = torch.linalg.qr(drawn(5, 5)).Q
    assert float(deviation_from_orthogonal(turn[None])) == pytest.approx(0, abs=1e-5)
    # I - (2 I)^2 = -3 I, of squared norm 9 C; beside a turn the mean is half of it.
    both = torch.stack([turn, 2 * torch.eye(5)])
    assert float(deviation_from_orthogonal(both)) == pytest.approx(45 / 2, abs=1e-4)


def test_the_auxiliary_loss_is_given_once_and_in_training_alone() -> None:
    model, xyz = network("pointnet", orthogonality=0.5), cloud("surface", 30, batch=3)
    randomise(model)
    assert model.auxiliary_loss() is None
    model.eval()(xyz)
    assert model.auxiliary_loss() is None
    model.train()(xyz)
    found = model.auxiliary_loss()
    assert found is not None
    encoder: Any = model.encoder
    hidden = xyz @ encoder.turn_points(xyz)
    for layer in encoder.local:
        hidden = layer(hidden)
    expected = 0.5 * deviation_from_orthogonal(encoder.turn_features(hidden))
    torch.testing.assert_close(found, expected)
    assert model.auxiliary_loss() is None
    assert network("dgcnn").auxiliary_loss() is None


def test_a_training_step_adds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe("procedural", ["model.name=pointnet", "model.size=tiny"])
    module = RecipeModule(network("pointnet", 14, dropout=0.0), recipe)
    monkeypatch.setattr(module, "log", lambda *_, **__: None)
    trainer = type("Trainer", (), {"world_size": 1, "current_epoch": 0})()
    monkeypatch.setattr(RecipeModule, "trainer", trainer)
    monkeypatch.setattr(RecipeModule, "global_rank", 0)
    batch = {"xyz": cloud("surface", 40, batch=4), "label": torch.tensor([0, 1, 2, 3])}
    losses = []
    for added in (None, torch.tensor(7.0)):
        monkeypatch.setattr(module.model, "auxiliary_loss", lambda added=added: added)
        losses.append(module.training_step(batch, 0).item())
    assert losses[1] - losses[0] == pytest.approx(7, abs=1e-5)


# --- configurations


@pytest.mark.parametrize(
    ("name", "wrong", "words"),
    [
        ("pointnet", {"num_classes": 1}, "num_classes must be at least 2, got 1"),
        ("pointnet", {"local_channels": ()}, "local_channels must name at least one width, got no"),
        ("pointnet", {"orthogonality": 1.0}, "orthogonality must be at least 0 and below 1, got 1"),
        ("pointnet", {"pooling": "mean"}, "pooling must be one of 'max', 'max_mean', got 'mean'"),
        ("dgcnn", {"num_neighbors": 0}, "num_neighbors must be at least 1, got 0"),
        ("dgcnn", {"edge_channels": ()}, "edge_channels must name at least one width, got none"),
        ("dgcnn", {"dropout": 1.0}, "dropout must be at least 0 and below 1, got 1.0"),
        (
            "eagraph",
            {"attention": "self"},
            "attention must be one of 'multihead_external'",
        ),
        ("eagraph", {"norm": "none"}, "norm must be one of 'double', 'softmax', got 'none'"),
        ("eagraph", {"channels": 9}, "channels must be a multiple of heads=2, got 9"),
        ("eagraph", {"depth": 0}, "depth must be at least 1, got 0"),
    ],
)
def test_wrong_configs(name: str, wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        network(name, **wrong)


def test_lists_become_tuples() -> None:
    listed = DGCNNConfig(num_classes=3, edge_channels=[64, 64, 128, 256])  # pyright: ignore
    assert listed == DGCNNConfig(num_classes=3)


def test_a_baseline_has_no_segmenter() -> None:
    words = r"model.name must be one of 'ea', 'eamlp', 'eagraph', got 'dgcnn'"
    with pytest.raises(ValueError, match=words):
        load_recipe("psb_part", ["data.root=data", "model.name=dgcnn"])


@pytest.mark.parametrize("name", NAMES)
def test_wrong_inputs(name: str) -> None:
    xyz = cloud("surface", 9, batch=2)
    with pytest.raises(ValueError, match=r"features must have 2 channels as in the config"):
        network(name, feature_channels=2)(xyz)
    with pytest.raises(ValueError, match="mask must keep a point of each cloud"):
        network(name)(xyz, mask=torch.zeros(2, 9, dtype=torch.bool))


# --- the rest of the package


@pytest.mark.parametrize("name", NAMES)
def test_weights_on_disk(name: str, tmp_path: Path) -> None:
    model, xyz = lively(network(name)), cloud("surface", 50, batch=2)
    model.save_pretrained(tmp_path / "weights")
    again = load_model(str(tmp_path / "weights"))
    assert type(again) is type(model)
    assert again.config == model.config
    assert torch.equal(again(xyz), model(xyz))
    other = network(name)
    assert "head kept (same classes)" in load_matching_weights(other, again)
    assert torch.equal(other.eval()(xyz), model(xyz))


@pytest.mark.parametrize("name", NAMES)
def test_predictor_names_a_cloud(name: str) -> None:
    spec = DataSpec(("chair", "lamp", "table"), num_points=64)
    model = network(name)
    named = type(model)(model.config, spec).eval()  # pyright: ignore[reportCallIssue]
    predictor = Predictor(named, "cpu")
    xyz = cloud("surface", 200)[0].numpy() * 5 + 3
    answer = predictor.classify(xyz)
    assert answer.label in spec.class_names
    order = np.random.default_rng(0).permutation(200)
    assert predictor.classify(xyz[order]).prob == pytest.approx(answer.prob, abs=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_critical_points(name: str) -> None:
    model, xyz = lively(network(name)), cloud("surface", 80, batch=2)
    mask = some_mask([80, 7], 80)
    counts = critical_points(model, xyz, mask=mask)
    assert counts.sum(1).tolist() == [20, 20]
    assert (counts[~mask] == 0).all()
    # PointNet, section 4.3: the maximum is that of the critical points alone.
    if name == "pointnet":
        encoder: Any = model.encoder
        pooled = encoder(xyz, mask=mask).amax(1)
        tokens = encoder(xyz, mask=mask).masked_fill((counts == 0)[..., None], -torch.inf)
        assert torch.equal(tokens.amax(1), pooled)


def test_there_is_no_attention_to_show() -> None:
    for name in ("pointnet", "dgcnn"):
        with pytest.raises(ValueError, match=f"{type(network(name)).__name__} has none"):
            attention_maps(network(name).eval(), cloud("surface", 40))


@pytest.mark.parametrize("name", NAMES)
def test_a_run(name: str, tmp_path: Path) -> None:
    options = [f"model.overrides.{key}={value}" for key, value in SIZES[name].items()]
    options = [option.replace("(", "[").replace(",)", "]").replace(")", "]") for option in options]
    small = ["data.num_points=48", "data.shapes=[28,14,14]", "trainer.epochs=1", "eval.votes=2"]
    choice = [f"model.name={name}", "model.size=tiny", *options]
    recipe = load_recipe("procedural", [*small, *choice])
    run = train(recipe, tmp_path / "run")
    report = evaluate_run(run, "test", torch.device("cpu"))
    assert [one.selection for one in report.reports] == ["validation (primary)", "last epoch"]
    weights = load_model(str(run / "best"))
    assert isinstance(weights, Classifier)
    assert type(weights) is NETWORKS[name][0]
    assert weights.calibration is not None
    assert weights.calibration.detector is not None
    again = load_recipe("procedural", [*small, f"model.init={run}"])
    assert again.model.name == name
    assert again.model_config(14) == recipe.model_config(14)
