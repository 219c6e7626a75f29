from pathlib import Path

import pytest
import torch

from ea_pointcloud.models import (
    DataSpec,
    EAClassifier,
    EASegmenter,
    create_model,
    load_matching_weights,
)
from ea_pointcloud.models.pretrained import PretrainedModel
from ea_pointcloud.training.callbacks import read_metrics
from ea_pointcloud.training.fit import train
from ea_pointcloud.training.recipe import load_recipe, recipe_values
from ea_pointcloud.training.run_folder import load_run_recipe
from tests.test_training import PARTS, QUICK

SMALL = {
    "stem_channels": 8,
    "num_centers": (16, 8),
    "num_neighbors": (4, 4),
    "embed_channels": (16, 16),
    "fuse_channels": 32,
    "head_channels": (16,),
}


def classifier(*names: str, **options: object) -> EAClassifier:
    return create_model(
        "ea_classifier_tiny", data_spec=DataSpec(names), **{**SMALL, **options}
    ).eval()


def segmenter(parts: dict[str, tuple[str, ...]], *, told: bool = True) -> EASegmenter:
    names = [f"{category}/{part}" for category, own in parts.items() for part in own]
    places = tuple(
        tuple(names.index(f"{category}/{part}") for part in own) for category, own in parts.items()
    )
    spec = DataSpec(tuple(names), category_names=tuple(parts), parts=places)
    count = len(parts) if told else 0
    return create_model(
        "ea_segmenter_grouped_tiny", data_spec=spec, num_categories=count, **SMALL
    ).eval()


def same(model: PretrainedModel, other: PretrainedModel) -> dict[str, bool]:
    own, theirs = model.state_dict(), other.state_dict()
    return {
        key: own[key].shape == theirs[key].shape and torch.equal(own[key], theirs[key])
        for key in own
    }


def test_other_classes_get_a_new_head() -> None:
    weights, model = classifier("a", "b", "c"), classifier("a", "d")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    said = load_matching_weights(model, weights)
    for key, equal in same(model, weights).items():
        if key.startswith("encoder."):
            assert equal
        else:
            assert torch.equal(model.state_dict()[key], before[key])
    loaded = sum(p.numel() for name, p in model.named_parameters() if name.startswith("encoder."))
    total = sum(p.numel() for p in model.parameters())
    assert said == (
        f"Loaded {loaded:,} of {total:,} parameters; new 2-class head (checkpoint has 3)"
    )


def test_the_same_classes_keep_their_head_in_any_order() -> None:
    weights, model = classifier("a", "b", "c"), classifier("c", "a", "b")
    assert load_matching_weights(model, weights).endswith(" parameters; head kept (same classes)")
    xyz = torch.randn(2, 32, 3, generator=torch.Generator().manual_seed(0))
    expected = weights(xyz)
    torch.testing.assert_close(model(xyz), expected[:, [2, 0, 1]], rtol=0, atol=0)
    load_matching_weights(model, weights)
    torch.testing.assert_close(weights(xyz), expected, rtol=0, atol=0)  # left as they were


def test_parts_and_categories_each_keep_what_is_theirs() -> None:
    cup, box = ("body", "handle"), ("lid", "side")
    weights = segmenter({"cup": cup, "box": box})
    model = segmenter({"cup": cup, "box": box})
    load_matching_weights(model, weights)
    assert all(same(model, weights).values())
    model = segmenter({"cup": cup, "jar": box})
    said = load_matching_weights(model, weights)
    assert "new 4-part output (checkpoint has 4)" in said
    assert "new 2-category embedding (checkpoint has 2)" in said
    equal = same(model, weights)
    assert not equal["out.weight"]
    assert all(value for key, value in equal.items() if key.startswith(("trunk.", "head")))
    free, other = segmenter({"cup": cup}, told=False), segmenter({"box": box}, told=False)
    load_matching_weights(free, other)
    assert same(free, other)["head_in.weight"]


def test_networks_that_do_not_fit_are_told_apart() -> None:
    words = (
        r"fit the network: embed_channels is \(16, 16\) in the checkpoint and \(16, 32\) in t"
        r".*rk; dropout is 0.5 in the checkpoint and 0.1 in the network; leave out t"
    )
    with pytest.raises(ValueError, match=words):
        load_matching_weights(
            classifier("a", "b", embed_channels=(16, 32), dropout=0.1), classifier("a", "b")
        )
    cup = {"cup": ("body", "handle")}
    with pytest.raises(
        ValueError, match="num_categories is 1 in the checkpoint and 0 in the network"
    ):
        load_matching_weights(segmenter(cup, told=False), segmenter(cup))
    with pytest.raises(ValueError, match="is of an EASegmenter, the network is an EAClassifier"):
        load_matching_weights(classifier("a", "b"), segmenter(cup))
    load_matching_weights(
        classifier("a", "b", dropout=0.1), classifier("a", "c")
    )  # shapes alone count


def test_a_run_starts_from_the_network_of_the_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = classifier("a", "b", memory_size=7)
    weights.save_pretrained(tmp_path / "weights")
    quick = [value for value in QUICK if not value.startswith("model.")]
    init = [*quick, f"model.init={tmp_path / 'weights'}", "trainer.epochs=2", "optim.lr=1e-9"]
    recipe = load_recipe("procedural", [*init, "model.overrides.dropout=0.25", "optim.min_lr=0"])
    config = recipe.model_config(14)
    assert (config.memory_size, config.embed_channels, config.dropout) == (7, (16, 16), 0.25)
    run = train(recipe, tmp_path / "run")
    assert " parameters; new 14-class head (checkpoint has 2)" in capsys.readouterr().err
    trained = EAClassifier.from_pretrained(run / "last")
    for name, parameter in trained.named_parameters():
        if name.startswith("encoder."):  # at this learning rate they stay where they were
            torch.testing.assert_close(parameter, weights.state_dict()[name], atol=1e-5, rtol=0)
    # A run knows its network without the weights it began with.
    for file in (tmp_path / "weights").iterdir():
        file.unlink()
    again = load_run_recipe(run)
    assert recipe_values(again) == recipe_values(recipe)
    train(again, run, resume=True)
    assert len(read_metrics(run / "metrics.csv")) == 2


def test_parts_are_learned_from_weights_too(tmp_path: Path) -> None:
    first = load_recipe("procedural", [*PARTS, "trainer.epochs=1", "optim.ema_decay=0"])
    train(first, tmp_path / "first")
    quick = [value for value in PARTS if not value.startswith("model.")]
    options = [*quick, "trainer.epochs=1", f"model.init={tmp_path / 'first'}"]
    second = load_recipe("procedural", options)
    assert second.segmenter_config(44, 14) == first.segmenter_config(44, 14)
    train(second, tmp_path / "second")


def test_what_to_start_from_must_be_there_and_fit(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"model.init: no folder .*none; give a folder of"):
        load_recipe("procedural", [f"model.init={tmp_path / 'none'}"])
    segmenter({"cup": ("body", "handle")}).save_pretrained(tmp_path / "parts")
    with pytest.raises(ValueError, match="holds the weights of an EASegmenter, task=classif"):
        load_recipe("procedural", [f"model.init={tmp_path / 'parts'}"])
    classifier("a", "b").save_pretrained(tmp_path / "weights")
    recipe = load_recipe(
        "procedural", [*QUICK, f"model.init={tmp_path / 'weights'}", "model.size=base"]
    )
    with pytest.raises(ValueError, match=r"model.init=.*weights: the checkpoint does not fit the "):
        train(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match=r"model.size must be one of 'tiny', 'small', 'base', got"):
        load_recipe("procedural", ["model.size=null"])
