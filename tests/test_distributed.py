"""Several processes train as one: shares, statistics, and the command that starts them."""

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from ea_pointcloud.datasets.sharding import Shard
from ea_pointcloud.nn import PointBatchNorm
from ea_pointcloud.nn.norm import synchronize_norms
from ea_pointcloud.training import distributed
from ea_pointcloud.training.batches import BatchIndices
from ea_pointcloud.training.callbacks import read_metrics
from ea_pointcloud.training.distributed import (
    SameEverywhere,
    lightning_arguments,
    processes_of,
)
from ea_pointcloud.training.fit import train
from ea_pointcloud.training.recipe import load_recipe
from ea_pointcloud.training.recipe_keys import TrainerRecipe
from ea_pointcloud.training.run_folder import load_run_recipe
from tests.test_training import QUICK

# Nothing random in a step, so that one process with the same global batch does the same.
PLAIN = [
    *QUICK,
    "data.shapes=[56,29,28]",
    "trainer.epochs=2",
    "augment.point_dropout=0",
    "augment.shift=0",
    "augment.scale=[1,1]",
    "model.overrides.dropout=0",
    "optim.name=sgd",
    "optim.ema_decay=0.5",
]


def lists(count: int, size: int, world: int, seed: int | None, least: int = 1) -> list[list]:
    return [
        list(BatchIndices(count, size, seed, least, Shard(rank, world))) for rank in range(world)
    ]


# --- shares


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 200), st.integers(1, 40), st.integers(1, 7))
def test_evaluation_has_every_sample_once_in_equally_many_batches(
    count: int, size: int, world: int
) -> None:
    if count < world:
        with pytest.raises(ValueError, match=rf"val has {count} clouds, fewer than the {world} pr"):
            Shard(0, world).check("val", count)
        return
    parts = lists(count, size, world, None)
    assert list(chain(*chain(*parts))) == list(range(count))
    assert len({len(part) for part in parts}) == 1
    assert all(0 < len(batch) <= max(size, 2) for part in parts for batch in part)
    assert [len(BatchIndices(count, size, None, 1, Shard(r, world))) for r in range(world)] == (
        [len(part) for part in parts]
    )


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 200), st.integers(1, 20), st.integers(1, 5), st.integers(1, 4))
def test_processes_train_on_what_one_would(count: int, size: int, world: int, least: int) -> None:
    parts = lists(count, size, world, 3, least)
    one = list(BatchIndices(count, size * world, 3, least))
    assert [list(chain(*batches)) for batches in zip(*parts, strict=True)] == one


# --- statistics over processes


class Together:
    """Two threads in place of two processes: each waits for the other's tensor."""

    def __init__(self) -> None:
        self.barrier = threading.Barrier(2)
        self.given: dict[int, torch.Tensor] = {}

    def all_reduce(self, tensor: torch.Tensor) -> None:
        self.given[threading.get_ident()] = tensor.clone()
        self.barrier.wait(30)
        total = sum(self.given.values())
        self.barrier.wait(30)
        tensor.copy_(total)

    def run(self, jobs: list[Callable[[], None]]) -> None:
        threads = [threading.Thread(target=job) for job in jobs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)


@pytest.mark.parametrize("masked", [False, True])
def test_statistics_over_processes_are_those_of_one_batch(
    masked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(5, 7, 3, generator=generator) * 3 + 50  # squares alone would cancel
    upstream = torch.randn(5, 7, 3, generator=generator)
    mask = torch.rand(5, 7, generator=generator) < 0.6 if masked else None
    if mask is not None:
        upstream = upstream * mask[..., None]

    def step(norm: PointBatchNorm, part: slice) -> tuple[torch.Tensor, ...]:
        given = features[part].clone().requires_grad_()
        out = norm(given, None if mask is None else mask[part])
        (out * upstream[part]).sum().backward()
        assert given.grad is not None
        return out.detach(), given.grad

    one = PointBatchNorm(3)
    whole = step(one, slice(None))
    norms = [PointBatchNorm(3), PointBatchNorm(3)]
    together = Together()
    monkeypatch.setattr("ea_pointcloud.nn.norm.dist.all_reduce", together.all_reduce)
    assert [synchronize_norms(norm) for norm in norms] == [1, 1]
    parts: dict[int, tuple[torch.Tensor, ...]] = {}

    def job(rank: int, part: slice) -> Callable[[], None]:
        return lambda: parts.update({rank: step(norms[rank], part)})

    together.run([job(0, slice(0, 2)), job(1, slice(2, 5))])  # of different sizes
    for each, ranks in zip(whole, zip(parts[0], parts[1], strict=True), strict=True):
        torch.testing.assert_close(torch.cat(ranks), each, rtol=1e-4, atol=1e-4)
    for norm in norms:
        for name, buffer in one.named_buffers():
            torch.testing.assert_close(norm.get_buffer(name), buffer)
    for name, parameter in one.named_parameters():
        total = sum(norm.get_parameter(name).grad for norm in norms)  # pyright: ignore
        torch.testing.assert_close(total, parameter.grad, rtol=1e-4, atol=1e-4)
    norms[0].eval()(features)  # alone: it would wait in vain


# --- who is there


def test_launchers_say_how_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOCAL_RANK", "NODE_RANK", "SLURM_NTASKS", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    alone = processes_of(TrainerRecipe(epochs=1))
    assert (alone.devices, alone.num_nodes, alone.rank, alone.shard.world_size) == (1, 1, 0, 1)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("NODE_RANK", "2")
    own = processes_of(TrainerRecipe(epochs=1, devices=4, num_nodes=3))
    assert own.shard == Shard(9, 12)
    assert not own.is_rank_zero

    for name, value in {
        "SLURM_NTASKS": 8, "SLURM_NTASKS_PER_NODE": 4, "SLURM_NNODES": 2, "SLURM_PROCID": 5,
        "SLURM_LOCALID": 1, "SLURM_NODEID": 1, "SLURM_JOB_NAME": "train",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, str(value))
    slurm = processes_of(TrainerRecipe(epochs=1))
    assert (slurm.devices, slurm.num_nodes, slurm.rank) == (4, 2, 5)
    gpu = torch.device("cuda")
    assert slurm.device(gpu) == torch.device("cuda:1")
    with pytest.raises(ValueError, match=r"trainer.num_nodes=3, but srun started 2 machines; leav"):
        processes_of(TrainerRecipe(epochs=1, num_nodes=3))

    for name, value in {
        "TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": 2, "GROUP_WORLD_SIZE": 1, "RANK": 1,
    }.items():  # fmt: skip
        monkeypatch.setenv(name, str(value))
    elastic = processes_of(TrainerRecipe(epochs=1))
    assert (elastic.devices, elastic.num_nodes, elastic.rank) == (2, 1, 1)
    with pytest.raises(ValueError, match=r"trainer.devices=4, but torchrun started 2 processes on"):
        processes_of(TrainerRecipe(epochs=1, devices=4))


def test_what_cannot_run_in_processes_says_why() -> None:
    one = processes_of(TrainerRecipe(epochs=1))
    two = processes_of(TrainerRecipe(epochs=1, devices=2))
    fsdp = load_recipe("procedural", ["trainer.strategy=fsdp", "optim.ema_decay=0"])
    with pytest.raises(ValueError, match=r"trainer.strategy=fsdp needs GPUs; leave it out"):
        lightning_arguments(fsdp, one, torch.device("cpu"))
    with pytest.raises(ValueError, match=r"optim.ema_decay must be 0 with trainer.strategy=fsdp"):
        load_recipe("procedural", ["trainer.strategy=fsdp", "optim.ema_decay=0.9"])
    named = load_recipe("procedural", ["trainer.device=cuda:1"])
    with pytest.raises(ValueError, match=r"names one GPU, but 2 processes take one each; set trai"):
        lightning_arguments(named, two, torch.device("cuda:1"))
    with pytest.raises(ValueError, match=r"trainer.devices must be one of 'auto', 'a number', got"):
        load_recipe("procedural", ["trainer.devices=many"])
    with pytest.raises(ValueError, match=r"optim.scale_lr must be one of 'none', 'linear', 'sqrt'"):
        load_recipe("procedural", ["optim.scale_lr=squared"])


@pytest.mark.parametrize(("rule", "rate"), [("none", 0.1), ("linear", 0.4), ("sqrt", 0.2)])
def test_the_learning_rate_scales_as_told(rule: str, rate: float) -> None:
    recipe = load_recipe("procedural", ["optim.lr=0.1", f"optim.scale_lr={rule}"])
    processes = processes_of(TrainerRecipe(epochs=1, devices=2, num_nodes=2))
    line = distributed.describe(recipe, processes)
    assert line == (
        "4 processes on 2 machines: 4 x 32 = 128 clouds a step, "
        f"learning rate {rate:.4g} (optim.scale_lr={rule})"
    )


def test_processes_that_differ_are_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    def other(change: Callable) -> Callable:
        def gather(everyone: list, value: object) -> None:
            everyone[:] = [value, change(value)]

        return gather

    trainer = SimpleNamespace(world_size=2, strategy=None, current_epoch=4)
    module = torch.nn.Linear(2, 2)
    callback = SameEverywhere({"data.in_memory": True, "the size of train": 5})
    gather = "ea_pointcloud.training.distributed.dist.all_gather_object"
    monkeypatch.setattr(gather, other(lambda seen: {**seen, "data.in_memory": False}))
    with pytest.raises(
        ValueError, match=r"data.in_memory is True in process 0 and False in process "
    ):
        callback.on_fit_start(trainer, module)  # pyright: ignore
    monkeypatch.setattr(gather, other(lambda sums: [*sums[:-1], sums[-1] + 1]))
    with pytest.raises(
        RuntimeError, match=r"processes \[1\] have other weights than process 0 aft"
    ):
        callback.on_train_epoch_end(trainer, module)  # pyright: ignore
    monkeypatch.setattr(gather, other(lambda value: value))
    callback.on_fit_start(trainer, module)  # pyright: ignore
    callback.on_train_epoch_end(trainer, module)  # pyright: ignore


# --- the command of the README


def torchrun(*arguments: str) -> subprocess.CompletedProcess[str]:
    launcher = shutil.which("torchrun", path=str(Path(sys.executable).parent))
    assert launcher is not None
    return subprocess.run(
        [launcher, "--nproc-per-node", "2", "-m", "ea_pointcloud", "train", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path: Path) -> None:
    options = [*PLAIN, "trainer.sync_batchnorm=true", "trainer.batch_size=7", "eval.batch_size=8"]
    two = tmp_path / "two"
    done = torchrun("procedural", *options, "--run-dir", str(two))
    assert done.returncode == 0, done.stderr
    assert "2 processes: 2 x 7 = 14 clouds a step, learning rate 0.02" in done.stderr
    # One process writes and prints; that both have the same weights is checked every epoch.
    assert done.stderr.count("epoch 1/2") == done.stderr.count("calibrating on val") == 1
    assert load_run_recipe(two).trainer.devices == 2

    one = train(load_recipe("procedural", [*PLAIN, "trainer.batch_size=14"]), tmp_path / "one")
    for first, second in zip(
        *(read_metrics(run / "metrics.csv") for run in (one, two)), strict=True
    ):
        for name in set(first) - {"seconds"}:
            assert float(first[name]) == pytest.approx(float(second[name]), abs=3e-6), name
    for which in ("best", "last"):
        weights = [load_file(run / which / "model.safetensors") for run in (one, two)]
        for name, tensor in weights[0].items():
            torch.testing.assert_close(weights[1][name], tensor, rtol=1e-4, atol=1e-5)
