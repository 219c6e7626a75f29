"""Which points of a held-out cloud a classifier is measured on."""

from pathlib import Path

import pytest
import torch

from ea_pointcloud.datasets import ModelNet
from ea_pointcloud.inference.preprocess import network_input
from ea_pointcloud.models import DataSpec, create_model
from ea_pointcloud.ops.frames import normalize_unit_sphere
from ea_pointcloud.training.data import open_held_out
from ea_pointcloud.training.recipe import load_recipe
from ea_pointcloud.training.recipe_keys import Recipe


def recipe_of(folder: Path) -> Recipe:
    return load_recipe("modelnet40_ea", [f"data.root={folder.parent}", "data.num_points=16"])


@pytest.mark.parametrize("farthest_of", [0, 64])
def test_the_farthest_points_are_those_that_classify_chooses(
    modelnet_folder: Path, farthest_of: int
) -> None:
    held_out = open_held_out(recipe_of(modelnet_folder), "test", farthest_of=farthest_of)
    assert isinstance(held_out, ModelNet)
    assert held_out.xyz.shape == (40, 16, 3)
    given = ModelNet(modelnet_folder, split="test", num_points=farthest_of)
    spec = DataSpec(given.class_names, num_points=16)
    model = create_model("ea_classifier_tiny", num_classes=40, data_spec=spec)
    for place in (0, 17, 39):
        seen, _ = network_input(model, normalize_unit_sphere(given.xyz[place : place + 1]))
        assert torch.equal(held_out.xyz[place], seen[0])
        assert held_out.label[place] == given.label[place]


def test_without_it_the_points_are_those_of_the_recipe(modelnet_folder: Path) -> None:
    plain = open_held_out(recipe_of(modelnet_folder), "val")
    assert isinstance(plain, ModelNet)
    assert torch.equal(plain.xyz, ModelNet(modelnet_folder, split="val", num_points=16).xyz)


def test_what_farthest_points_cannot_be_chosen_of(modelnet_folder: Path) -> None:
    recipe = recipe_of(modelnet_folder)
    with pytest.raises(ValueError, match=r"at least the data.num_points=16 of training, got 8"):
        open_held_out(recipe, "test", farthest_of=8)
    with pytest.raises(ValueError, match=r"must be at most the 2048 points stored, got 4096"):
        open_held_out(recipe, "test", farthest_of=4096)
    made = load_recipe("procedural", ["data.shapes=[28,14,14]", "data.num_points=32"])
    with pytest.raises(ValueError, match=r"of clouds in ModelNet's layout, .* got procedural for"):
        open_held_out(made, "test", farthest_of=32)
