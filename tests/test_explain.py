"""Attention maps, use of slots, saliency and critical points, and that looking leaves no trace."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ea_pointcloud.explain import (
    AttentionMap,
    attention_layers,
    attention_maps,
    critical_points,
    maps,
    most_used,
    saliency,
    slot_usage,
    subject_of,
)
from ea_pointcloud.io import Cloud
from ea_pointcloud.models import (
    ClassifierConfig,
    DataSpec,
    EAClassifier,
    EASegmenter,
    SegmenterConfig,
)
from ea_pointcloud.nn import ExternalAttention
from ea_pointcloud.ops import attention_map, gather_points, interpolate_features
from tests.oracles import cloud

WIDTHS = {"stem_channels": 16, "fuse_channels": 24, "head_channels": (20, 12), "memory_size": 10}
GROUPED = {"num_centers": (32, 16), "num_neighbors": (8, 8), "embed_channels": (16, 24)}


def classifier(**options: object) -> EAClassifier:
    torch.manual_seed(0)
    config = {"num_classes": 3, "depth": 2, **WIDTHS, **GROUPED, **options}
    return lively(EAClassifier(ClassifierConfig(**config)))


def segmenter(**options: object) -> EASegmenter:
    torch.manual_seed(0)
    config = {"num_parts": 6, "num_categories": 3, "depth": 2, **WIDTHS, **options}
    return lively(EASegmenter(SegmenterConfig(**config)))


def lively(model: nn.Module) -> nn.Module:
    """Memories that tell points apart, as those of a trained network do; evaluation mode."""
    with torch.no_grad():
        for layer in attention_layers(model):
            layer.key_memory.mul_(6.0)
    return model.eval()


MODELS = pytest.mark.parametrize(
    "model",
    [
        classifier(),
        classifier(attention="multihead_external", heads=2),
        classifier(attention="dynamic_external"),
        segmenter(),
        segmenter(**GROUPED),
        segmenter(attention="multihead_external", heads=2),
    ],
    ids=[
        "classifier",
        "classifier-heads",
        "classifier-dynamic",
        "pointwise",
        "grouped",
        "pointwise-heads",
    ],
)


def masked(xyz: Tensor) -> tuple[Tensor, Tensor]:
    """The clouds among padding that must not matter, and where the real points are."""
    batch, count = xyz.shape[:2]
    mask = torch.zeros(batch, count + 9, dtype=torch.bool)
    mask[:, 4 : 4 + count] = True
    padded = torch.full((batch, count + 9, 3), 7.0)
    padded[mask] = xyz.flatten(0, 1)
    return padded, mask


@MODELS
def test_rows_sum_to_one_over_slots_and_columns_over_points(model: EAClassifier) -> None:
    xyz = cloud("surface", 60, batch=2)
    for one in attention_maps(model, xyz):
        assert one.weights.shape == (2, one.xyz.shape[1], 10)
        assert one.weights.std() > 0.01  # not the flat map of a network that tells nothing apart
        torch.testing.assert_close(one.weights.sum(-1), torch.ones(one.weights.shape[:2]))
    for one in attention_maps(model, xyz, normalization="points"):
        torch.testing.assert_close(one.weights.sum(1), torch.ones(2, 10))


@pytest.mark.parametrize("model", [classifier(), segmenter()], ids=["centres", "points"])
def test_the_map_is_the_published_formula_of_the_layers_logits(model: EAClassifier) -> None:
    xyz = cloud("surface", 60, batch=2)
    layer, seen = attention_layers(model)[1], []
    handle = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    found = attention_maps(model, xyz, layers=[1])[0].weights
    before = attention_maps(model, xyz, layers=[1], normalization="points")[0].weights
    handle.remove()
    with torch.no_grad():
        logits = (layer.input(seen[0]) @ layer.key_memory.T).double()  # (B, S, M)
    over_points = logits.exp() / logits.exp().sum(1, keepdim=True)
    torch.testing.assert_close(before.double(), over_points, atol=1e-6, rtol=1e-4)
    double = over_points / over_points.sum(2, keepdim=True)
    torch.testing.assert_close(found.double(), double, atol=1e-6, rtol=1e-4)


def test_the_map_is_what_the_layer_mixes_its_values_by() -> None:
    torch.manual_seed(1)
    layer = ExternalAttention(12, memory_size=7).eval()
    features = torch.randn(2, 30, 12)
    mask = torch.arange(30) < torch.tensor([[30], [19]])
    with torch.no_grad():
        mixed = layer.attention_map(features, mask) @ layer.value_memory
        expected = torch.relu(features + layer.norm(layer.output(mixed)))
        torch.testing.assert_close(layer(features, mask), expected)
        assert (layer.attention_map(features, mask)[~mask] == 0).all()


@MODELS
def test_padding_changes_nothing(model: EAClassifier) -> None:
    xyz = cloud("surface", 60, batch=2)
    padded, mask = masked(xyz)
    for normalization in ("double", "points"):
        whole = attention_maps(model, xyz, normalization=normalization)
        parts = attention_maps(model, padded, mask=mask, normalization=normalization)
        for one, other in zip(whole, parts, strict=True):
            torch.testing.assert_close(one.usage(), other.usage())
            torch.testing.assert_close(one.at(xyz), other.at(xyz))
            if other.mask is not None:
                assert (other.weights[~mask] == 0).all()


def test_carried_to_all_points_from_the_centres() -> None:
    model, xyz = classifier(), cloud("surface", 60, batch=2)
    one = attention_maps(model, xyz)[0]
    assert one.weights.shape == (2, 16, 10)
    carried = one.at(xyz)
    assert carried.shape == (2, 60, 10)
    torch.testing.assert_close(carried.sum(-1), torch.ones(2, 60))
    assert torch.equal(carried, interpolate_features(xyz, one.xyz, one.weights))
    first, second = model.build_pyramid(xyz)
    places = first.center.gather(1, second.center)
    assert torch.equal(gather_points(carried, places), one.weights)  # a centre keeps its own
    everywhere = attention_maps(segmenter(), xyz)[0]
    assert everywhere.at(xyz) is everywhere.weights


def test_layers_slots_and_heads_that_were_asked_for() -> None:
    model, xyz = segmenter(attention="multihead_external", heads=2), cloud("surface", 40, batch=1)
    every = attention_maps(model, xyz)
    last, first = attention_maps(model, xyz, layers=[-1, 0], slots=[7, 2])
    assert (last.layer, first.layer, last.slots) == (1, 0, (7, 2))
    assert torch.equal(last.weights, every[1].weights[..., [7, 2]])
    assert torch.equal(first.weights, every[0].weights[..., [7, 2]])
    heads = [attention_maps(model, xyz, head=head)[0].weights for head in range(8)]
    assert not torch.equal(heads[0], heads[1])
    torch.testing.assert_close(torch.stack(heads).mean(0), every[0].weights)


def test_the_most_used_slots() -> None:
    def one(*rows: list[float]) -> AttentionMap:
        return AttentionMap(0, (5, 8, 9), torch.zeros(1, len(rows), 3), torch.tensor([rows]))

    first = one([0.2, 0.5, 0.3], [0.3, 0.4, 0.3])
    assert most_used([first], 2) == (8, 9)
    assert most_used([first], 7) == (8, 9, 5)
    assert most_used([first, one([0.9, 0.0, 0.1])], 2) == (5, 8)  # every cloud counts alike
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        most_used([first], 0)


@pytest.mark.parametrize("attention", ["external", "multihead_external", "dynamic_external"])
@pytest.mark.parametrize("normalization", ["double", "points"])
def test_a_large_cloud_streams(
    attention: str, normalization: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, xyz = segmenter(attention=attention, heads=2), cloud("surface", 50, batch=1)
    whole = attention_maps(model, xyz, normalization=normalization)
    monkeypatch.setattr(maps, "CHUNK", 16)
    parts = attention_maps(model, xyz, normalization=normalization)
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one.weights, other.weights)


def test_a_network_with_softmax_over_the_slots_alone() -> None:
    model, xyz = segmenter(norm="softmax"), cloud("surface", 40, batch=1)
    one = attention_maps(model, xyz)[0]
    torch.testing.assert_close(one.weights.sum(-1), torch.ones(1, 40))
    with pytest.raises(ValueError, match=r"must be 'double', got 'points': .* slots alone"):
        attention_maps(model, xyz, normalization="points")


@pytest.mark.parametrize("train", [True, False])
def test_looking_leaves_no_trace(train: bool) -> None:
    model, xyz = classifier().train(train), cloud("surface", 60, batch=2)
    model.head.eval()  # frozen by hand
    state = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    shown = [attention_maps(model, xyz)[0].weights, saliency(model, xyz)]
    shown.append(critical_points(model, xyz))
    with pytest.raises(ValueError, match="features must have 0 channels"):
        attention_maps(model, xyz, xyz)
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert not any(value.requires_grad or value.grad_fn for value in shown)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not xyz.requires_grad
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_slot_usage_against_cloud_by_cloud(tmp_path: Path) -> None:
    model, clouds = segmenter(), [cloud("surface", count, batch=1)[0] for count in (30, 44, 37, 25)]
    label = torch.tensor([2, 0, 2, 2])
    usage = slot_usage(model, Padded(clouds, label), ("a", "b", "c"), layers=[1], batch_size=3)[0]
    rows = [attention_maps(model, xyz[None], layers=[1])[0].weights[0].double() for xyz in clouds]
    means = torch.stack([row.mean(0) for row in rows])
    assert usage.shapes.tolist() == [1, 0, 3]
    torch.testing.assert_close(usage.usage[2], means[[0, 2, 3]].mean(0), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(usage.usage[0], means[1], atol=1e-6, rtol=1e-5)
    assert usage.usage[1].isnan().all()
    torch.testing.assert_close(usage.overall, means.mean(0), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(
        usage.shared[2], (means[[0, 2, 3]] > 0.1).double().mean(0), atol=0, rtol=0
    )
    assert usage.shared_by_all()["a"] == tuple((means[1] > 0.1).nonzero().flatten().tolist())
    assert usage.shared_by_all()["b"] == ()
    torch.testing.assert_close(usage.peak, torch.cat(rows).amax(0), atol=1e-6, rtol=1e-5)
    points = torch.cat(rows)
    assert usage.point_entropy == pytest.approx(float(-(points * points.log()).sum(1).mean()))
    assert usage.entropy == pytest.approx(float(-(means.mean(0) * means.mean(0).log()).sum()))
    assert 1 <= usage.slots_per_point <= usage.effective_slots <= 10
    found = json.loads(json.dumps(usage.as_dict(), allow_nan=False))
    assert found["classes"]["b"] == {
        "shapes": 0, "usage": None, "shared": None, "shared_by_all": []
    }  # fmt: skip
    assert sum(found["classes"]["c"]["usage"]) == pytest.approx(1)


class Padded:
    """Clouds of different sizes as a data set gives them."""

    def __init__(self, clouds: list[Tensor], category: Tensor) -> None:
        self.xyz = nn.utils.rnn.pad_sequence(clouds, batch_first=True)
        lengths = torch.tensor([len(each) for each in clouds])
        self.mask = torch.arange(self.xyz.shape[1]) < lengths[:, None]
        self.category = category

    def __len__(self) -> int:
        return len(self.category)

    def __getitem__(self, index: list[int]) -> dict[str, Tensor]:
        return {
            "xyz": self.xyz[index], "mask": self.mask[index], "category": self.category[index]
        }  # fmt: skip


def test_a_slot_that_no_point_wants_is_dead() -> None:
    model, probe = segmenter(depth=1), cloud("surface", 40, batch=1)
    data = Padded([probe[0]], torch.tensor([0]))
    peaks = attention_maps(model, probe)[0].weights[0].amax(0)
    between = float(peaks.sort().values[:2].mean())
    usage = slot_usage(model, data, ("a",), dead_below=between * 10)[0]  # in shares of 1 / 10
    assert usage.dead == (int(peaks.argmin()),)
    assert usage.as_dict()["dead"] == list(usage.dead)
    with torch.no_grad():  # every point treats all slots alike: all alive, none preferred
        attention_layers(model)[0].key_memory.zero_()
    even = slot_usage(model, data, ("a",), dead_below=0.999)[0]
    assert even.dead == ()
    assert even.effective_slots == pytest.approx(10)
    assert even.slots_per_point == pytest.approx(10)


@pytest.mark.parametrize("pooling", ["max", "max_mean", "top"])
def test_saliency_is_the_slope_of_the_logit(pooling: str) -> None:
    model, xyz = classifier(pooling=pooling).double(), cloud("surface", 60, batch=2).double()
    found = saliency(model, xyz, target=1)
    product = saliency(model, xyz, target=1, method="input_x_gradient")
    point, step = int(found[0].argmax()), 1e-6
    pyramid = model.build_pyramid(xyz)

    def logit(moved: Tensor) -> float:
        with torch.no_grad():  # the same neighbours, wherever the point goes
            levels, below = [], moved
            for level in pyramid:
                below = gather_points(below, level.center)
                levels.append(level._replace(xyz=below))
            return float(model(moved, pyramid=tuple(levels))[0, 1])

    slope = []
    for axis in range(3):
        ahead, back = xyz.clone(), xyz.clone()
        ahead[0, point, axis] += step
        back[0, point, axis] -= step
        slope.append((logit(ahead) - logit(back)) / (2 * step))
    assert float(found[0, point]) == pytest.approx(math.hypot(*slope), rel=1e-4)
    expected = sum(one * float(value) for one, value in zip(slope, xyz[0, point], strict=True))
    assert float(product[0, point]) == pytest.approx(expected, rel=1e-3, abs=1e-8)


def test_saliency_of_the_predicted_class_and_of_padding() -> None:
    model, xyz = classifier(), cloud("surface", 60, batch=2)
    padded, mask = masked(xyz)
    with torch.no_grad():
        best = model(xyz).argmax(-1).tolist()
    alone = [saliency(model, xyz[[row]], target=best[row])[0] for row in range(2)]
    torch.testing.assert_close(saliency(model, xyz), torch.stack(alone))
    with_padding = saliency(model, padded, mask=mask)
    torch.testing.assert_close(with_padding[mask].view(2, 60), torch.stack(alone))
    assert (with_padding[~mask] == 0).all()


def test_critical_points_alone_give_the_pooled_feature() -> None:
    model, xyz = classifier(), cloud("surface", 60, batch=2)
    counts = critical_points(model, xyz)
    assert counts.sum(1).tolist() == [24, 24]
    with torch.no_grad():
        pyramid = model.build_pyramid(xyz)
        tokens = model.encoder(xyz, pyramid=pyramid)
    places = pyramid[0].center.gather(1, pyramid[1].center)
    for row in range(2):
        winners = [
            center for center in range(16) if counts[row, places[row, center]] > 0
        ]  # fmt: skip
        assert len(winners) < 16
        assert torch.equal(tokens[row, winners].amax(0), tokens[row].amax(0))
        for center in winners:  # and none of them can be left out
            others = [place for place in range(16) if place != center]
            lost = tokens[row, others].amax(0) < tokens[row].amax(0)
            assert int(lost.sum()) == int(counts[row, places[row, center]])
    padded, mask = masked(xyz)
    assert torch.equal(critical_points(model, padded, mask=mask)[mask].view(2, 60), counts)


def test_a_cloud_of_ones_own() -> None:
    spec = DataSpec(("a", "b", "c"), num_points=40)
    model = EAClassifier(classifier().config, spec).eval()
    points = cloud("surface", 70, batch=1)[0].numpy() * 9 + np.array([5.0, 0.0, 0.0])
    subject = subject_of(model, points, up="z")
    assert subject.xyz.shape == (1, 70, 3)
    assert subject.seen.shape == (1, 40, 3)
    assert subject.features is None
    assert float(subject.xyz.norm(dim=-1).max()) == pytest.approx(1)
    highest = int(points[:, 2].argmax())
    assert int(subject.xyz[0, :, 1].argmax()) == highest  # z became y
    assert attention_maps(model, subject.seen)[0].at(subject.xyz).shape == (1, 70, 10)
    everywhere = subject_of(segmenter(), points)
    assert everywhere.seen is everywhere.xyz


@pytest.mark.parametrize(("features", "channels"), [("normals", 3), ("eigen_features", 19)])
def test_a_cloud_of_ones_own_with_features(features: str, channels: int) -> None:
    config = SegmenterConfig(num_parts=3, feature_channels=channels, **WIDTHS)
    model = EASegmenter(config, DataSpec(("a", "b", "c"), features=features)).eval()
    xyz = cloud("surface", 50, batch=1)[0].numpy()
    up = np.tile(np.array([[0, 0, 1]], np.float32), (50, 1))
    subject = subject_of(model, Cloud(xyz, np.zeros(3), normals=up), up="z")
    assert subject.features is not None
    assert subject.features.shape == (1, 50, channels)
    if features == "normals":
        assert (subject.features[0] == torch.tensor([0.0, 1.0, 0.0])).all()
        with pytest.raises(ValueError, match="trained with normals, which this cloud has not"):
            subject_of(model, xyz)
    assert len(attention_maps(model, subject.seen, subject.features)) == 4


def test_errors() -> None:
    model, xyz = classifier(), cloud("surface", 60, batch=2)
    heads = classifier(attention="multihead_external", heads=2)
    offset = ClassifierConfig(num_classes=3, attention="offset", **WIDTHS, **GROUPED)
    with pytest.raises(ValueError, match=r"layers must be between -2 and 1, got 2"):
        attention_maps(model, xyz, layers=[2])
    with pytest.raises(ValueError, match=r"slots must be between 0 and M-1=9, got 10"):
        attention_maps(model, xyz, slots=[3, 10])
    with pytest.raises(ValueError, match=r"head was given \(0\), .* single head"):
        attention_maps(model, xyz, head=0)
    with pytest.raises(ValueError, match=r"head must be between 0 and heads-1=7, got 8"):
        attention_maps(heads, xyz, head=8)
    with pytest.raises(ValueError, match=r"normalization must be one of 'double', 'points'"):
        attention_maps(model, xyz, normalization="rows")
    with pytest.raises(ValueError, match=r"EAClassifier has none .*attention='external'"):
        attention_maps(EAClassifier(offset), xyz)
    with pytest.raises(ValueError, match=r"target must be between 0 and num_classes-1=2, got 3"):
        saliency(model, xyz, target=3)
    with pytest.raises(ValueError, match=r"method must be one of 'gradient', 'input_x_gradient'"):
        saliency(model, xyz, method="lime")
    with pytest.raises(ValueError, match=r"norm must be one of 'double', 'softmax', 'points'"):
        attention_map(torch.zeros(1, 4, 2), torch.zeros(3, 2), norm="rows")
    for look in (saliency, critical_points):
        with pytest.raises(ValueError, match=r"must be a classifier, got EASegmenter"):
            look(segmenter(), xyz)
    with pytest.raises(ValueError, match=r"dataset must have at least one cloud, got none"):
        slot_usage(model, Padded([xyz[0]], torch.tensor([0])[:0]), ("a",))
    with pytest.raises(ValueError, match=r"dead_below must be positive, got 0"):
        slot_usage(model, Padded([xyz[0]], torch.tensor([0])), ("a",), dead_below=0)
