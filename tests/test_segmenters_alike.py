"""What must hold of every segmenter with neighbourhoods, whatever its trunk."""

from typing import Any

import pytest
import torch

from tests.oracles import cloud, randomise, seeded
from tests.test_eagraph import segmenter as eagraph
from tests.test_eamlp import CATEGORY, close, some_mask
from tests.test_eamlp import segmenter as eamlp
from tests.test_knn_graph import drawn

of_each = pytest.mark.parametrize("build", [eamlp, eagraph])


def lively(model: Any) -> Any:
    randomise(model)
    return model.eval()


@of_each
@pytest.mark.parametrize("chunk", [1, 7, 70, 1000])
def test_the_streamed_form_is_that_of_the_whole_cloud(build: Any, chunk: int) -> None:
    model = lively(build(feature_channels=2))
    xyz, features = cloud("surface", 70, batch=2), drawn(2, 70, 2)
    mask = some_mask([70, 9], 70)
    whole = model(xyz, features, category=CATEGORY, mask=mask)
    parts = model(xyz, features, category=CATEGORY, mask=mask, chunk=chunk)
    close(parts[mask], whole[mask])


@of_each
@pytest.mark.parametrize("padding", [0.0, 1e3, float("nan")])
def test_padding_changes_nothing(build: Any, padding: float) -> None:
    model, mask = lively(build()), some_mask([60, 7], 70)
    xyz = cloud("surface", 70, batch=2).masked_fill(~mask[..., None], padding)
    out = model(xyz, category=CATEGORY, mask=mask)
    for place, real in enumerate(mask):
        alone = model(xyz[place : place + 1, real], category=CATEGORY[place : place + 1])
        close(out[place, real], alone[0])


@of_each
def test_labels_follow_a_permutation_of_the_points(build: Any) -> None:
    model, xyz = lively(build()), cloud("surface", 70, batch=2)
    order = torch.randperm(70, generator=seeded())
    one, other = model(xyz[:, order], category=CATEGORY), model(xyz, category=CATEGORY)
    close(one, other[:, order], 1e-4)
