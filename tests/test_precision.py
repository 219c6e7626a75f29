from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from safetensors.torch import load_file

from ea_pointcloud.models import create_model
from ea_pointcloud.training.ema import average_weights
from ea_pointcloud.training.fit import train
from ea_pointcloud.training.module import RecipeModule
from ea_pointcloud.training.precision import (
    compile_network,
    optimizer_options,
    resolve_precision,
)
from ea_pointcloud.training.recipe import load_recipe
from ea_pointcloud.training.run_folder import load_run_recipe
from tests.test_training import QUICK

CPU = torch.device("cpu")
ONE_EPOCH = [*QUICK, "trainer.epochs=1", "trainer.device=cpu", "optim.ema_decay=0"]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "last" / "model.safetensors")


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({"avx512_bf16": True}, "bf16-mixed"),
        ({"avx512_bf16": False, "amx_bf16": True}, "bf16-mixed"),
        ({"bf16": True}, "bf16-mixed"),
        ({"avx512_bf16": False, "amx_bf16": False}, "32-true"),
        ({}, "32-true"),
    ],
)
def test_bfloat16_is_for_processors_that_have_it(
    monkeypatch: pytest.MonkeyPatch, found: dict[str, bool], expected: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found)
    assert resolve_precision("auto", CPU) == expected
    assert resolve_precision("32-true", CPU) == "32-true"


@pytest.mark.parametrize(("capability", "expected"), [((7, 5), "16-mixed"), ((9, 0), "bf16-mixed")])
def test_bfloat16_is_for_gpus_that_have_it(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    device = torch.device("cuda")
    assert resolve_precision("auto", device) == expected
    if expected == "16-mixed":
        with pytest.raises(ValueError, match="bf16-mixed needs a GPU of compute"):
            resolve_precision("bf16-mixed", device)


def test_a_run_keeps_the_precision_that_was_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    recipe = load_recipe("procedural", [*ONE_EPOCH, "trainer.precision=auto"])
    run = train(recipe, tmp_path / "run")
    assert load_run_recipe(run).trainer.precision == "bf16-mixed"
    assert all(value.dtype != torch.bfloat16 for value in weights(run).values())
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)  # as if moved to another machine
    train(recipe, run, resume=True)
    assert load_run_recipe(run).trainer.precision == "bf16-mixed"


def test_the_optimiser_is_fused_on_gpus() -> None:
    optim = load_recipe("procedural").optim
    cuda = torch.device("cuda")
    assert optimizer_options(optim, "32-true", CPU) == {}
    assert optimizer_options(optim, "bf16-mixed", cuda) == {"fused": True}
    assert optimizer_options(optim, "16-mixed", cuda) == {}  # the scaler would clip scaled ones
    optim.fused = False
    assert optimizer_options(optim, "32-true", cuda) == {"fused": False}
    with pytest.raises(ValueError, match=r"optim.fused must be auto or false with trainer.precisi"):
        load_recipe("procedural", ["optim.fused=true", "trainer.precision=16-mixed",
                                   "trainer.device=cuda"])  # fmt: skip


class KeepOptimizer(Callback):
    """What the optimiser was told."""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.fused = trainer.optimizers[0].defaults["fused"]


@pytest.mark.parametrize(("name", "fused"), [("adamw", True), ("sgd", False)])
def test_the_recipe_decides_whether_it_is(tmp_path: Path, name: str, fused: bool) -> None:
    kept = KeepOptimizer()
    options = [f"optim.fused={fused}", f"optim.name={name}", "data.shapes=[14,14,14]"]
    train(load_recipe("procedural", [*ONE_EPOCH, *options]), tmp_path / "run", callbacks=[kept])
    assert kept.fused is fused


def test_a_compiled_network_trains_as_it_would_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler, asked = torch.compile, []

    def eagerly(function: Any, **options: Any) -> Any:  # generating code takes minutes
        asked.append(options)
        return compiler(function, backend="eager", dynamic=options["dynamic"])

    monkeypatch.setattr(torch, "compile", eagerly)
    quick = [*ONE_EPOCH, "augment.point_dropout=0", "data.shapes=[42,14,14]", "optim.ema_decay=0.5"]
    plain = train(load_recipe("procedural", quick), tmp_path / "plain")
    assert asked == []
    compiled = train(
        load_recipe("procedural", [*quick, "trainer.compile=reduce-overhead"]), tmp_path / "fast"
    )
    assert asked == [{"mode": "reduce-overhead", "dynamic": False}]
    one, two = weights(plain), weights(compiled)
    assert one.keys() == two.keys()
    for key, value in one.items():
        torch.testing.assert_close(value, two[key], rtol=1e-4, atol=1e-5)


def test_nothing_is_compiled_unless_asked() -> None:
    model = create_model("ea_classifier_tiny")
    compile_network(model, "none")
    assert model._compiled_call_impl is None


class KeepWeights(Callback):
    """Copies of all weights and buffers after each step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, torch.Tensor]] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, n: int
    ) -> None:
        state = pl_module.model.state_dict()  # pyright: ignore
        self.steps.append({name: value.clone() for name, value in state.items()})


def test_the_average_is_that_of_the_formula(tmp_path: Path) -> None:
    kept = KeepWeights()
    options = [*ONE_EPOCH, "optim.ema_decay=0.25", "trainer.epochs=2"]
    run = train(load_recipe("procedural", options), tmp_path / "run", callbacks=[kept])
    assert len(kept.steps) == 8
    mean = {name: value.double() for name, value in kept.steps[0].items()}
    for updates, step in enumerate(kept.steps[1:], start=1):
        decay = min(0.25, (1 + updates) / (10 + updates))
        for name, value in step.items():
            mean[name] = decay * mean[name] + (1 - decay) * value.double()
    for name, value in weights(run).items():
        if value.is_floating_point():
            torch.testing.assert_close(value.double(), mean[name], rtol=1e-4, atol=1e-6)
        else:  # a counter
            assert torch.equal(value, kept.steps[-1][name])


def test_averaging_forgets_its_start() -> None:
    mean = [torch.tensor([100.0]), torch.tensor([100.0], dtype=torch.float64), torch.tensor([7])]
    current = [torch.tensor([1.0]), torch.tensor([2.0], dtype=torch.float64), torch.tensor([9])]
    for _ in range(200):
        average_weights(mean, current, 0.9)
    assert float(mean[0]) == pytest.approx(1.0, abs=1e-4)
    assert float(mean[1]) == pytest.approx(2.0, abs=1e-6)
    assert int(mean[2]) == 9


class NoSynchronisation(Callback):
    """Every wait of the host for the GPU within a step is an error, after the first steps."""

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int
    ) -> None:
        if batch_idx >= 2:  # the first compile kernels and allocate
            torch.cuda.set_sync_debug_mode("error")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, n: int
    ) -> None:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_step_does_not_wait_for_the_gpu(tmp_path: Path, precision: str) -> None:
    options = [
        "augment.point_dropout=0",
        "trainer.epochs=2",
        "trainer.device=cuda",
        "optim.ema_decay=0.9",
    ]
    recipe = load_recipe("procedural", [*QUICK, *options, f"trainer.precision={precision}"])
    # Fails where it does; the averaging is the last of the step.
    train(recipe, tmp_path / "run", callbacks=[NoSynchronisation()])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_compiled_steps_equal_eager_ones_on_the_gpu(mode: str) -> None:
    recipe = load_recipe(
        "procedural", [*QUICK, "augment.point_dropout=0", "model.overrides.dropout=0"]
    )
    found = []
    for compiled in ("none", mode):
        torch.manual_seed(0)
        model = create_model("ea_classifier_tiny", num_classes=14, dropout=0.0).cuda().train()
        compile_network(model, compiled)
        module = RecipeModule(model, recipe)
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        generator = torch.Generator("cuda").manual_seed(0)
        xyz = torch.rand(14, 256, 3, generator=generator, device="cuda")
        label = torch.arange(14, device="cuda")
        for _ in range(4):
            optimizer.zero_grad()
            loss = module.task.loss(model(xyz), {"label": label})
            loss.backward()
            optimizer.step()
        found.append(float(loss))
    assert found[1] == pytest.approx(found[0], rel=1e-2)


def test_half_precision_without_a_gpu_is_an_error() -> None:
    with pytest.raises(ValueError, match="16-mixed needs a GPU; take 32-true or bf16-mixed on"):
        resolve_precision("16-mixed", torch.device("cpu"))
