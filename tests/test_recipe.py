from pathlib import Path

import pytest

from ea_pointcloud.augment import CutMix
from ea_pointcloud.training.recipe import list_recipes, load_recipe, recipe_values, save_recipe


@pytest.mark.parametrize("name", list_recipes())
def test_packaged_recipes_are_valid(name: str) -> None:
    recipe = load_recipe(name, ["data.root=data"])
    if recipe.task == "segmentation":
        assert recipe.segmenter_config(10, 3).num_parts == 10
    else:
        assert recipe.model_config(10).num_classes == 10


def test_shapenetpart_is_the_published_setting() -> None:
    recipe = load_recipe("shapenetpart")
    config = recipe.segmenter_config(50, 16)
    assert config.num_centers == ()
    assert config.fuse_channels == 1024
    assert recipe.data.num_points == 2048
    assert recipe.optim.name == "sgd"


def test_modelnet40_is_the_published_setting() -> None:
    recipe = load_recipe("modelnet40_ea")
    assert recipe.data.name == "modelnet40"
    assert (recipe.data.num_points, recipe.data.sampling) == (1024, "first")
    assert recipe.model.size == "base"
    assert recipe.trainer.epochs == 250
    assert recipe.trainer.batch_size == 32
    assert recipe.augment.scale == [0.6667, 1.5]
    assert recipe.augment.shift == 0.2


def test_overrides_and_round_trip(tmp_path: Path) -> None:
    recipe = load_recipe("procedural", ["trainer.seed=7", "model.overrides.depth=2", "optim.lr=1"])
    assert recipe.trainer.seed == 7
    assert recipe.optim.lr == 1.0
    assert recipe.model_config(3).depth == 2
    save_recipe(recipe, tmp_path / "recipe.yaml")
    assert recipe_values(load_recipe(tmp_path / "recipe.yaml")) == recipe_values(recipe)


def test_a_recipe_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("data: {dataset: procedural}\nmodel: {size: small}\ntrainer: {epochs: 3}\n")
    assert load_recipe(path).trainer.epochs == 3
    path.write_text("data: {dataset: procedural}\n")
    with pytest.raises(ValueError, match=r"mine.yaml: model.size, trainer.epochs must be set"):
        load_recipe(path)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("optim.lrr=3", r"override 'optim.lrr=3': unknown key 'optim.lrr'; known there are clip_n"),
        ("optimizer.lr=3", "unknown key 'optimizer'; known there are augment, data, eval, model"),
        ("optim.lr=fast", "override 'optim.lr=fast': optim.lr: Value 'fast' of type 'str' could"),
        ("optim.lr", "override must read key=value, got 'optim.lr'"),
        ("optim.lr=0", "optim.lr must be positive, got 0"),
        ("optim.clip_norm=0", "optim.clip_norm must be positive, got 0"),
        ("optim.min_lr=-1", "optim.min_lr must be at least 0, got -1"),
        ("optim.ema_decay=1", "optim.ema_decay must be at least 0 and below 1, got 1"),
        ("optim.label_smoothing=1", "optim.label_smoothing must be at least 0 and below 1"),
        ("task=detection", "task must be one of 'classification', 'segmentation', got 'detection'"),
        ("data.features=label", "data.features must name channels of points, such as normals, "),
        ("data.features=[normals,normals]", "data.features must name each channel once"),
        ("data.features=[normals,eigen_features]", "data.features must be one descriptor, or chan"),
        ("data.features=colour", "data.features must be none with data.dataset=procedural"),
        ("optim.iou_weight=-1", "optim.iou_weight must be at least 0, got -1"),
        ("optim.name=adam", "optim.name must be one of 'adamw', 'sgd', got 'adam'"),
        ("data.dataset=shapenet", "data.dataset for classification must be one of 'modelnet', "),
        ("data.num_points=0", "data.num_points must be at least 1, got 0"),
        ("data.sampling=last", "data.sampling must be one of 'first', 'random', 'fps'"),
        ("data.val_fraction=1", "data.val_fraction must be between 0 and 1, got 1"),
        ("data.shapes=[3,4]", r"data.shapes must be three counts \(train, val, test\), got \[3, 4"),
        ("model.overrides.depth=x", "depth must be an int, got str"),
        ("model.overrides.dropout=a", "dropout must be at least 0 and below 1, got 'a'"),
        ("model.overrides.num_centers=5", "num_centers must be a list of counts, got 5"),
        ("model.overrides.num_centers=[0,5]", "num_centers must be at least 1, got 0"),
        ("optim.lr=inf", "optim.lr must be finite and at least min_lr=1e-05, got inf"),
        ("optim.min_lr=1", "optim.lr must be finite and at least min_lr=1.0, got 0.002"),
        ("optim.lr={", "override 'optim.lr={': not valid YAML"),
        (
            "trainer.device=tpu",
            "trainer.device must be 'auto', 'cpu', 'cuda', 'cuda:N' or 'mps', got 'tpu",
        ),
        ("data.sampling=fps", "data.sampling must be 'first' with the procedural set"),
        ("model.size=huge", "model.size must be one of 'tiny', 'small', 'base', got 'huge'"),
        ("model.overrides.layers=3", "model override must be one of 'attention', 'depth'"),
        ("model.overrides.attention=ea", "attention must be one of 'external', 'dynamic_external'"),
        ("augment.scale=[2,1]", r"augment.scale must be \[low, high\], 0 < low, got \[2.0, 1.0\]"),
        ("augment.shift=-1", "augment.shift must be at least 0, got -1"),
        ("augment.point_dropout=1", "augment.point_dropout must be at least 0 and below 1, got 1"),
        ("augment.crop_ratio=1", "augment.crop_ratio must be at least 0 and below 1, got 1"),
        (
            "augment.outlier_ratio=-0.1",
            "augment.outlier_ratio must be at least 0 and below 1, got -0.1",
        ),
        (
            "augment.corruption_prob=-1",
            "augment.corruption_prob must be at least 0 and at most 1, got -1",
        ),
        (
            "augment.partial_view_prob=2",
            "augment.partial_view_prob must be at least 0 and at most 1, got 2",
        ),
        ("optim.logit_adjustment=-1", "optim.logit_adjustment must be at least 0, got -1"),
        (
            "augment.cutmix_prob=1.5",
            "augment.cutmix_prob must be at least 0 and at most 1, got 1.5",
        ),
        ("augment.cutmix_beta=0", "augment.cutmix_beta must be positive, got 0"),
        ("augment.rotation=all", "rotation must be one of 'none', 'up', 'tilt', 'any', got 'all'"),
        ("trainer.epochs=0", "trainer.epochs must be at least 1, got 0"),
        ("trainer.batch_size=0", "trainer.batch_size must be at least 1, got 0"),
        ("trainer.seed=-1", "trainer.seed must be at least 0, got -1"),
        ("trainer.precision=8", "trainer.precision must be one of '32-true', 'bf16-mixed'"),
        ("trainer.compile=fast", "trainer.compile must be one of 'none', 'default', 'reduce-over"),
        ("optim.fused=maybe", "optim.fused must be one of 'auto', True, False, got 'maybe'"),
        ("eval.batch_size=0", "eval.batch_size must be at least 1, got 0"),
        ("eval.votes=-1", "eval.votes must be at least 0, got -1"),
        ("eval.tta_copies=-1", "eval.tta_copies must be at least 0, got -1"),
        ("augment.offline_copies=-1", "augment.offline_copies must be at least 0, got -1"),
        (
            "augment.offline_copies=2",
            "augment.offline_copies needs data.dataset=shapenetpart and features com",
        ),
    ],
)
def test_a_bad_value_is_named(override: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        load_recipe("procedural", [override])


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            ["task=segmentation", "model.size=grouped_tiny"],
            "augment.cutmix_prob must be 0 with tas",
        ),
        (["trainer.batch_size=1"], "trainer.batch_size must be at least 2, got 1"),
        (
            ["trainer.device=cpu", "trainer.precision=16-mixed"],
            "trainer.precision=16-mixed needs a GPU; take 32-true or bf",
        ),
    ],
)
def test_clouds_that_cannot_be_mixed(overrides: list[str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        load_recipe("procedural", ["augment.cutmix_prob=0.5", *overrides])


def test_what_a_segmenter_does_not_take() -> None:
    overrides = ["task=segmentation", "model.size=grouped_tiny", "augment.elastic=1"]
    assert load_recipe("procedural", overrides).augment.augmentation().elastic == 1
    with pytest.raises(ValueError, match=r"augment.outlier_ratio must be 0 with task=segmentation"):
        load_recipe("procedural", [*overrides, "augment.outlier_ratio=0.1"])
    with pytest.raises(ValueError, match=r"augment.normalize must be false with task=segmentation"):
        load_recipe("procedural", [*overrides, "augment.normalize=true"])
    with pytest.raises(ValueError, match=r"optim.logit_adjustment must be 0 with task=segm"):
        load_recipe("procedural", [*overrides, "optim.logit_adjustment=1"])


def test_a_recipe_that_begins_with_weights_can_begin_with_nothing() -> None:
    recipe = load_recipe("modelnet10_robust")
    assert (recipe.model.init, recipe.model.size) == ("eamlp-small-modelnet10", "small")
    for nothing in ("model.init=null", "model.init=", "model.init=~"):
        model = load_recipe("modelnet10_robust", [nothing]).model
        assert (model.init, model.size) == (None, "small")


def test_cutmix_of_a_recipe() -> None:
    recipe = load_recipe("modelnet40_ea", ["augment.cutmix_prob=0.25", "augment.cutmix_beta=0.5"])
    assert recipe.augment.cutmix() == CutMix(prob=0.25, beta=0.5)
    assert load_recipe("modelnet40_ea").augment.cutmix() is None


def test_what_only_the_network_knows_is_checked_before_the_data_is_made() -> None:
    overrides = ["model.overrides.attention=multihead_external", "model.overrides.heads=7"]
    with pytest.raises(ValueError, match="channels must be a multiple of heads=7, got 128"):
        load_recipe("procedural", overrides)


def test_damaged_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    for text in ("data: {", "- a\n- b\n"):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"mine.yaml: "):
            load_recipe(path)


def test_unknown_recipes(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no recipe 'modelnet'; known are folder, modelne"):
        load_recipe("modelnet")
    with pytest.raises(FileNotFoundError, match=r"no recipe file .*mine.yaml"):
        load_recipe(tmp_path / "mine.yaml")
