"""What a training step would wait for on a GPU: nothing. Counted on a device that is pretended."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ea_pointcloud import ops
from ea_pointcloud._device import generator_for
from ea_pointcloud.descriptors.channels import feature_channels
from ea_pointcloud.models import DataSpec, create_model
from ea_pointcloud.nn.norm import PointBatchNorm
from ea_pointcloud.training.batches import BatchIndices
from ea_pointcloud.training.module import RecipeModule
from ea_pointcloud.training.recipe import list_recipes, load_recipe
from ea_pointcloud.training.recipe_keys import Recipe
from ea_pointcloud.training.tasks import task_of
from tests.oracles import cloud, seeded
from tests.pretend_cuda import CUDA, move_module, pretended, to_device


def test_what_waits_is_counted() -> None:
    with pretended() as device:
        there = torch.zeros(3).to("cuda")
        assert there.device == CUDA
        assert there.is_cuda
        assert (there + 1).device == CUDA
        assert torch.ones(2, device="cuda").device == CUDA
        float(there.sum())
        there[there > 0]
        there.tolist()
    assert torch.zeros(1).device.type == "cpu"
    assert [what for what, _ in device.waits] == [
        "copy to the device from pageable memory", "_local_scalar_dense", "index with a mask",
        "tolist()",
    ]  # fmt: skip
    assert list(device.errors) == []


def test_what_a_device_refuses_is_counted() -> None:
    with pretended() as device:
        there = torch.zeros(3, device="cuda")
        there + torch.zeros(3)
        torch.rand(3, device="cuda", generator=torch.Generator())
        torch.rand(3, device="cuda", generator=torch.Generator("cuda"))
    assert [what for what, _ in device.errors] == [
        "add with an operand of shape (3,) on the CPU", "rand() with a generator on cpu",
    ]  # fmt: skip
    assert list(device.waits) == []


def test_the_operators_wait_for_nothing() -> None:
    xyz, features = cloud("surface", 64, batch=2), torch.randn(2, 64, 8, generator=seeded())
    lengths = torch.tensor([64, 40])
    with pretended() as device:
        xyz, features, lengths = to_device((xyz, features, lengths), device)
        features.requires_grad_()
        for points in (xyz, xyz.double() + 4.5e6):
            start = ops.outermost_point(points, lengths)
            picks = ops.farthest_point_sample(points, 16, lengths=lengths, start=start)
            query = ops.gather_points(points, picks)
            _, idx = ops.knn(query, points, 5, lengths=lengths)
            ops.ball_query(query, points, 0.3, 5, lengths=lengths)
        out = ops.interpolate_features(xyz, xyz, features, lengths=lengths)
        pooled = ops.gather_max(features, idx)
        memory = to_device(torch.randn(4, 8, generator=seeded(1)), device)
        attended = ops.external_attention(features, memory, memory)
        (out.sum() + pooled.sum() + attended.sum()).backward()
        assert features.grad.device == CUDA
    assert list(device.waits) == []
    assert list(device.errors) == []


NETWORKS = {
    "ea_classifier_tiny": 3, "eagraph_classifier_tiny": 3, "eamlp_classifier_small": 3,
    "pointnet_classifier_tiny": 3, "dgcnn_classifier_tiny": 3,
}  # fmt: skip


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_training_step_waits_for_nothing(name: str, masked: bool) -> None:
    torch.manual_seed(0)
    network = create_model(name, num_classes=3)
    xyz, label = cloud("surface", 64, batch=4), torch.tensor([0, 1, 2, 0])
    mask = torch.arange(64) < torch.tensor([64, 50, 33, 64])[:, None] if masked else None
    with pretended() as device:
        move_module(network, device)
        xyz, label, mask = to_device((xyz, label, mask), device)
        optimizer = torch.optim.AdamW(network.parameters())
        for _ in range(2):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(network(xyz, mask=mask), label).backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
    assert list(device.waits) == []
    assert list(device.errors) == []


# --- recipes: three steps, and a batch of val


def stored_batches(recipe: Recipe, spec: DataSpec) -> dict[str, Tensor]:
    """Twelve clouds as a data set holds them, the masks of a segmenter's included."""
    stored = {"xyz": cloud("surface", 160, batch=12)}
    if recipe.task == "classification":
        return {**stored, "label": torch.arange(12) % len(spec.class_names)}
    mask = torch.arange(160) < torch.randint(100, 161, (12, 1), generator=seeded())
    category = torch.arange(12) % len(spec.category_names)
    stored |= {"category": category, "mask": mask}
    stored["part_label"] = (torch.arange(160) % 2 + 2 * category[:, None]).masked_fill(~mask, -1)
    if channels := feature_channels(spec.features):
        stored["features"] = torch.randn(12, 160, channels)
    return stored


@pytest.mark.slow
@pytest.mark.parametrize("name", list_recipes())
def test_no_recipe_waits_in_a_step(name: str) -> None:
    needs_root = name in ("folder", "parts")
    overrides = ["data.num_points=128", *(["data.root=somewhere"] if needs_root else [])]
    recipe = load_recipe(name, overrides)
    assert recipe.trainer.device == "auto"
    spec = DataSpec(class_names=tuple("abcd"), num_points=128)
    if recipe.task == "segmentation":
        spec = replace(spec, category_names=("x", "y"), parts=((0, 1), (2, 3)),
                       features=recipe.data.features)  # fmt: skip
    torch.manual_seed(0)
    module = RecipeModule(task_of(recipe).model(spec), recipe, torch.ones(4))
    data = stored_batches(recipe, spec)
    indices = BatchIndices(12, 4, 0, device=CUDA)
    with pretended() as device:
        move_module(module, device)
        data = to_device(data, device)
        optimizer = torch.optim.AdamW(module.parameters())
        with device.silent():  # once an epoch
            order = list(indices)
        for number, chosen in enumerate(order):
            batch = {key: value[chosen] for key, value in data.items()}
            batch = module.task.augment(batch, generator_for(CUDA, 0, number))
            logits = module.task.logits(module.model, batch)
            if module.adjustment is not None:
                logits = logits + module.adjustment
            loss = module.task.loss(logits, batch, recipe.optim.label_smoothing)
            auxiliary = module.model.auxiliary_loss()
            loss = loss if auxiliary is None else loss + auxiliary
            module.train_loss.update(loss, len(logits))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimizer.step()
        assert len(order) == 3
        assert list(device.waits) == []
        module.eval()
        with torch.no_grad():
            batch = {key: value[order[0]] for key, value in data.items()}
            logits = module.task.logits(module.model, batch)
            module.task.update(module.metrics["val"], logits, batch)
        # The confusion matrix of torchmetrics waits once for a batch of validation.
        assert [what for what, _ in device.waits] in ([], ["bincount"])
    assert list(device.errors) == []


# --- masked batch normalisation, which the device runs as sums


@pytest.mark.parametrize("real", [1, 30])
def test_masked_normalisation_by_sums_equals_that_of_the_selected_rows(real: int) -> None:
    mask = torch.zeros(4, 20, dtype=torch.bool)
    mask.view(-1)[torch.randperm(80, generator=seeded())[:real]] = True
    features = torch.randn(4, 20, 6, generator=seeded(1)) * 3 + 5
    weight = torch.randn(4, 20, 6, generator=seeded(2)) * mask[..., None]
    results = []
    for form in ("rows", "sums"):
        norm = PointBatchNorm(6)
        inside = features.masked_fill(~mask[..., None], torch.nan).requires_grad_()
        if form == "rows":
            out = norm(inside, mask)
        else:
            out = norm._by_sums(inside.flatten(0, 1), mask).view(features.shape)
        (out * weight).sum().backward()
        results.append([
            out.detach(), inside.grad, norm.weight.grad, norm.bias.grad, norm.running_mean,
            norm.running_var, norm.num_batches_tracked,
        ])  # fmt: skip
    for one, other in zip(*results, strict=True):
        scale = max(1.0, float(one.float().abs().max()))
        torch.testing.assert_close(one, other, rtol=0, atol=2e-6 * scale)


def test_masked_normalisation_compiles_into_one_graph() -> None:
    norm, mask = PointBatchNorm(3), torch.arange(5) < torch.tensor([5, 2])[:, None]
    features = torch.randn(2, 5, 3, generator=seeded())
    expected = PointBatchNorm(3)(features, mask)
    compiled = torch.compile(norm, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(features, mask), expected, rtol=0, atol=1e-6)
