"""Bent copies of shapes that keep their labels and are described again."""

from pathlib import Path

import pytest
import torch

from ea_pointcloud.datasets import ShapeNetPart
from ea_pointcloud.datasets.offline_augmentation import augment_offline
from ea_pointcloud.descriptors import eigen_features
from ea_pointcloud.training.data import data_spec, open_training
from ea_pointcloud.training.recipe import load_recipe
from tests.test_datasets_shapenetpart import TXT, make_shapes, write_txt

OPTIONS = {"elastic": 0.3, "scale": (0.8, 1.25)}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    lengths = [40, 25, 33]
    splits = {name: make_shapes(i, 6, lengths) for i, name in enumerate(("train", "val", "test"))}
    write_txt(tmp_path / TXT, splits)
    return tmp_path


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_variants_follow_the_shapes_they_were_made_of(root: Path) -> None:
    dataset = ShapeNetPart(root, features="eigen_features")
    before = dataset.xyz.clone()
    larger = augment_offline(dataset, 2, features="eigen_features", generator=seeded(), **OPTIONS)
    n = len(dataset)
    assert len(larger) == 3 * n
    assert torch.equal(dataset.xyz, before)
    assert torch.equal(larger.xyz[:n], dataset.xyz)
    assert larger.features is not None
    assert dataset.features is not None
    assert torch.equal(larger.features[:n], dataset.features)
    for first in (n, 2 * n):
        part = slice(first, first + n)
        assert torch.equal(larger.part_label[part], dataset.part_label)
        assert torch.equal(larger.mask[part], dataset.mask)
        assert torch.equal(larger.category[part], dataset.category)
        assert ((larger.xyz[part] - dataset.xyz).abs().amax((1, 2)) > 0.01).all()
        radius = larger.xyz[part].norm(dim=-1).amax(1)
        torch.testing.assert_close(radius, torch.ones(n))
        assert (larger.xyz[part][~dataset.mask] == 0).all()
        assert (larger.features[part][~dataset.mask] == 0).all()
    # The features are those of the bent points, not of the original ones.
    described = eigen_features(larger.xyz[n : n + 1], lengths=larger.mask[n : n + 1].sum(1))
    real = larger.mask[n]
    torch.testing.assert_close(larger.features[n][real], described[0][real])


def test_variants_repeat_with_the_generator(root: Path) -> None:
    dataset = ShapeNetPart(root)
    one, same, other = (
        augment_offline(dataset, 1, features="none", generator=seeded(seed), **OPTIONS)
        for seed in (0, 0, 1)
    )
    assert torch.equal(one.xyz, same.xyz)
    assert not torch.equal(one.xyz, other.xyz)
    assert one.features is None


def test_errors_of_variants(root: Path) -> None:
    dataset = ShapeNetPart(root)
    with pytest.raises(ValueError, match="count must be at least 0, got -1"):
        augment_offline(dataset, -1, features="none", generator=seeded(), **OPTIONS)
    with pytest.raises(ValueError, match="features must be none or one of eigen_features, surf"):
        augment_offline(dataset, 1, features="normals", generator=seeded(), **OPTIONS)


def test_a_recipe_trains_on_variants_of_its_seed(root: Path) -> None:
    options = [
        f"data.root={root}",
        "data.num_points=20",
        "augment.offline_copies=2",
        "augment.elastic=0.2",
    ]
    recipe = load_recipe("shapenetpart", options)
    assert recipe.augment.augmentation().elastic == 0  # not once more in every batch
    one, again = open_training(recipe), open_training(recipe)
    other = open_training(load_recipe("shapenetpart", [*options, "trainer.seed=1"]))
    assert len(one) == 3 * 6
    assert torch.equal(one.xyz, again.xyz)
    assert not torch.equal(one.xyz, other.xyz)
    plain = open_training(load_recipe("shapenetpart", [*options[:2], "augment.offline_copies=0"]))
    assert len(plain) == 6
    assert data_spec(recipe, one).min_part_fraction == data_spec(recipe, plain).min_part_fraction
