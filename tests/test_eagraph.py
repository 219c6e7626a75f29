"""EAGraph: what its encoder computes, and its segmenter."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ea_pointcloud import Predictor
from ea_pointcloud.explain import attention_maps
from ea_pointcloud.models import (
    DataSpec,
    EAGraphSegmenter,
    EAGraphSegmenterConfig,
    count_macs,
    create_model,
    load_model,
)
from ea_pointcloud.models.eagraph import EAGraphBackbone
from ea_pointcloud.nn import MaxEdgeConv
from ea_pointcloud.training.recipe import load_recipe, recipe_values
from tests.oracles import cloud, randomise, seeded
from tests.test_eamlp import CATEGORY, close, some_mask
from tests.test_knn_graph import EAGRAPH, lively, network


def segmenter(data_spec: DataSpec | None = None, **options: Any) -> EAGraphSegmenter:
    torch.manual_seed(0)
    config = {**EAGRAPH, "num_parts": 6, "num_categories": 3, "head_channels": (12, 8), **options}
    return EAGraphSegmenter(EAGraphSegmenterConfig(**config), data_spec)


def shaken(model: EAGraphSegmenter) -> EAGraphSegmenter:
    randomise(model)
    return model.eval()


# --- the encoder


def test_eagraph_is_its_formula() -> None:
    model, xyz = lively(network("eagraph")), cloud("surface", 60, batch=2)
    encoder: Any = model.encoder
    near = (xyz[:, :, None].double() - xyz[:, None]).square().sum(-1).topk(6, largest=False).indices
    rows = torch.arange(2)[:, None, None]

    def strongest(layer: MaxEdgeConv, hidden: Tensor) -> Tensor:
        own = hidden[:, :, None].expand(-1, -1, 6, -1)
        pairs = layer.pair(torch.cat([hidden[rows, near] - own, own], dim=-1))
        return F.relu(layer.norm(pairs.amax(2)))

    hidden = strongest(encoder.stem, xyz)
    outputs = [hidden]
    for block in encoder.blocks:
        hidden = hidden + strongest(block.local, hidden)
        hidden = hidden + block.attention(block.attention_norm(hidden))
        outputs.append(hidden)
    token = encoder.fuse(torch.cat(outputs, dim=-1))
    close(model(xyz), model.head(torch.cat([token.amax(1), token.mean(1)], dim=-1)), 1e-4)


def test_pooling_by_a_memory_beside_the_maximum_and_the_mean() -> None:
    model = lively(network("eagraph", pooling="max_mean_memory", pool_slots=4, slot_channels=3))
    xyz, mask = cloud("surface", 50, batch=2), some_mask([50, 20], 50)
    token = model.encoder(xyz)
    pooled = [token.amax(1), token.mean(1), model.memory_pooling(token)]
    assert pooled[2].shape == (2, 12)
    close(model(xyz), model.head(torch.cat(pooled, dim=-1)), 1e-4)
    out = model(xyz, mask=mask)
    for one, real, row in zip(xyz, mask, out, strict=True):
        close(row, model(one[None, real])[0], 1e-4)
    F.cross_entropy(model.train()(xyz, mask=mask), torch.tensor([0, 1])).backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_without_attention_no_point_knows_of_those_far_away() -> None:
    far = torch.cat([cloud("surface", 40), cloud("surface", 40) + 100], dim=1)
    moved = far.clone()
    moved[:, 40:] = moved[:, 40:].flip(1) * 1.5
    for attention, alone in (("none", True), ("multihead_external", False)):
        encoder = lively(network("eagraph", attention=attention)).encoder
        one, two = encoder(far)[:, :40], encoder(moved)[:, :40]
        assert torch.allclose(one, two, atol=1e-5) == alone


def test_what_eagraph_attends_to_can_be_shown() -> None:
    model, xyz = lively(network("eagraph")), cloud("surface", 50, batch=2)
    mask = some_mask([50, 20], 50)
    first, second = attention_maps(model, xyz, mask=mask)
    assert first.weights.shape == second.weights.shape == (2, 50, 5)
    assert second.xyz is xyz
    assert second.mask is not None
    assert (second.weights[~mask] == 0).all()
    close(second.weights[mask].sum(-1), torch.ones(70), 1e-4)


# --- the segmenter


def test_a_row_is_what_the_encoder_says_of_the_point() -> None:
    model, xyz = shaken(segmenter()), cloud("surface", 40, batch=2)
    encoding = model.trunk.encode(xyz, xyz, None, model.build_pyramid(xyz))
    rows = model.trunk.decode(encoding, slice(None))
    encoder: Any = model.trunk
    close(rows, encoder.encoder(xyz))
    whole = torch.cat([rows.amax(1), rows.mean(1)], dim=-1)
    told = model.category(F.one_hot(CATEGORY, 3).float())  # pyright: ignore
    cloud_row = torch.cat([whole, told], dim=-1)[:, None].expand(-1, 40, -1)
    hidden = F.relu(model.head_norm(model.head_in(torch.cat([rows, cloud_row], dim=-1))))
    for layer in model.head:
        hidden = layer(hidden)
    close(model(xyz, category=CATEGORY), model.out(hidden), 1e-4)


def test_a_segmenter_learns_everywhere() -> None:
    model, xyz = segmenter(), cloud("surface", 64, batch=2)
    label = torch.randint(6, (2 * 64,), generator=seeded())
    F.cross_entropy(model(xyz, category=CATEGORY).flatten(0, 1), label).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        if parameter.ndim > 1:
            assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("num_points", [1, 2, 5])
def test_few_points(num_points: int) -> None:
    model, xyz = segmenter(num_categories=0), cloud("surface", num_points)
    assert model.eval()(xyz).shape == (1, num_points, 6)
    model.train()(xyz).sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())  # pyright: ignore


def test_work_grows_with_the_points() -> None:
    model = create_model("eagraph_segmenter_tiny")
    assert count_macs(model, 4096) == pytest.approx(2 * count_macs(model, 2048), rel=0.01)


def test_a_segmenter_on_disk(tmp_path: Path) -> None:
    model, xyz = shaken(segmenter()), cloud("surface", 50, batch=2)
    model.save_pretrained(tmp_path / "weights")
    again = load_model(str(tmp_path / "weights"))
    assert type(again) is EAGraphSegmenter
    assert again.config == model.config
    assert torch.equal(again(xyz, category=CATEGORY), model(xyz, category=CATEGORY))


def test_predictor_labels_every_point_of_a_dense_cloud(monkeypatch: pytest.MonkeyPatch) -> None:
    names = tuple(f"{category}/{part}" for category in "abc" for part in "xy")
    parts = ((0, 1), (2, 3), (4, 5))
    spec = DataSpec(names, num_points=64, category_names=tuple("abc"), parts=parts)
    predictor = Predictor(shaken(segmenter(data_spec=spec)), "cpu")
    xyz = cloud("surface", 300)[0].numpy()
    seen: list[int] = []
    encode = EAGraphBackbone.encode

    def watched(trunk: EAGraphBackbone, points: Tensor, *others: Any) -> Any:
        seen.append(points.shape[1])
        return encode(trunk, points, *others)

    monkeypatch.setattr(EAGraphBackbone, "encode", watched)
    answer = predictor.segment(xyz, category="b")
    assert answer.labels.shape == (300,)
    assert set(answer.labels.tolist()) <= {2, 3}
    assert seen == [64]  # its graph is as dense as in training


def test_what_a_segmenter_attends_to_can_be_shown() -> None:
    [last] = attention_maps(shaken(segmenter()), cloud("surface", 80, batch=2), layers=[-1])
    assert last.weights.shape == (2, 80, 5)
    close(last.weights.sum(-1), torch.ones(2, 80), 1e-4)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"num_parts": 1}, "num_parts must be at least 2, got 1"),
        ({"head_channels": ()}, "head_channels must name at least one width, got none"),
        ({"attention": "self"}, "attention must be one of 'multihead_external', 'multihead_dyn"),
    ],
)
def test_wrong_configs_of_a_segmenter(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        segmenter(**wrong)


# --- recipes


def test_parts_are_learned_by_the_recipe_of_the_point_transformer() -> None:
    ours, other = (recipe_values(load_recipe(n)) for n in ("psb_part_eagraph", "psb_part"))
    assert {key for key in ours if ours[key] != other[key]} == {
        "name",
        "data.train_split",
        "data.val_fraction",
        "model.name",
        "model.size",
        "model.overrides",
        "trainer.precision",
    }
