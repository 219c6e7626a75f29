"""Training in several processes: who they are, what they share, and that they agree.

Lightning starts them, or torchrun or SLURM's srun has; nothing here is needed by one alone.
"""

import math
import os
import signal
from dataclasses import dataclass
from typing import Any

import torch
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy, Strategy
from torch import distributed as dist

from ea_pointcloud.datasets.sharding import Shard
from ea_pointcloud.training.recipe_keys import OptimRecipe, Recipe, TrainerRecipe


@dataclass(frozen=True)
class Processes:
    """The processes of a training.

    Args:
        devices: processes on each machine.
        num_nodes: machines.
        rank: the number of this process among all of them.
        environment: how they find each other.
    """

    devices: int
    num_nodes: int
    rank: int
    environment: ClusterEnvironment

    @property
    def shard(self) -> Shard:
        """What this process takes of every split."""
        return Shard(self.rank, self.devices * self.num_nodes)

    @property
    def is_rank_zero(self) -> bool:
        """Whether this is the one that writes and prints."""
        return self.rank == 0

    def device(self, chosen: torch.device) -> torch.device:
        """The device of this process: with several on a machine each has a GPU of its own."""
        if chosen.type == "cpu" or self.devices == 1:
            return chosen
        return torch.device("cuda", self.rank % self.devices)


def processes_of(trainer: TrainerRecipe) -> Processes:
    """The processes that a recipe asks for, or that torchrun or srun started.

    Raises:
        ValueError: if the recipe asks for others than were started.
    """
    name, environment, nodes_variable = None, LightningEnvironment(), ""
    if TorchElasticEnvironment.detect():
        name, environment = "torchrun", TorchElasticEnvironment()
        nodes_variable = "GROUP_WORLD_SIZE"
    elif SLURMEnvironment.detect() and os.environ["SLURM_NTASKS"] != "1":
        # With one task srun has started nothing more, and Lightning may.
        name, environment = "srun", SLURMEnvironment(auto_requeue=False)
        nodes_variable = "SLURM_NNODES"
    if name is not None:
        num_nodes = int(os.environ.get(nodes_variable, "1"))
        started = {"devices": environment.world_size() // num_nodes, "num_nodes": num_nodes}
        for key, count in started.items():
            asked = getattr(trainer, key)
            if asked not in ("auto", count):
                raise ValueError(
                    f"trainer.{key}={asked}, but {name} started {count} "
                    f"{'processes on this machine' if key == 'devices' else 'machines'}; leave "
                    "the key out, or start as many"
                )
        return Processes(**started, rank=environment.global_rank(), environment=environment)
    devices = 1 if isinstance(trainer.devices, str) else trainer.devices
    num_nodes = 1 if isinstance(trainer.num_nodes, str) else trainer.num_nodes
    rank = 0
    if devices * num_nodes > 1:
        rank = environment.node_rank() * devices + environment.local_rank()
    return Processes(devices, num_nodes, rank, environment)


def lightning_arguments(
    recipe: Recipe, processes: Processes, device: torch.device
) -> dict[str, Any]:
    """The arguments of Lightning's ``Trainer`` that say where it runs.

    Raises:
        ValueError: if the strategy or the device cannot run in these processes.
    """
    several = processes.shard.world_size > 1
    name = recipe.trainer.strategy
    if name == "fsdp" and device.type == "cpu":
        raise ValueError(
            "trainer.strategy=fsdp needs GPUs; leave it out, which takes ddp for several processes"
        )
    if several and device.index is not None and ":" in recipe.trainer.device:
        raise ValueError(
            f"trainer.device={recipe.trainer.device} names one GPU, but "
            f"{processes.shard.world_size} processes take one each; set trainer.device=cuda"
        )
    strategy: Strategy | str = "auto"
    if name == "fsdp":
        strategy = FSDPStrategy(state_dict_type="full")
    elif several or name == "ddp":
        strategy = DDPStrategy()
    arguments: dict[str, Any] = {
        "accelerator": "gpu" if device.type == "cuda" else "cpu",
        "devices": processes.devices,
        "num_nodes": processes.num_nodes,
        "strategy": strategy,
        "plugins": [processes.environment],
    }
    if device.type == "cuda" and processes.devices == 1:
        arguments["devices"] = [device.index or 0]
    return arguments


def learning_rate_scale(optim: OptimRecipe, world: int) -> float:
    """By how much ``optim.lr`` and ``optim.min_lr``, meant for one process, grow with them."""
    return {"none": 1.0, "linear": float(world), "sqrt": math.sqrt(world)}[optim.scale_lr]


def describe(recipe: Recipe, processes: Processes) -> str:
    """A line for a person: processes, clouds a step, learning rate."""
    world, size = processes.shard.world_size, recipe.trainer.batch_size
    lr = recipe.optim.lr * learning_rate_scale(recipe.optim, world)
    place = f" on {processes.num_nodes} machines" if processes.num_nodes > 1 else ""
    return (
        f"{world} processes{place}: {world} x {size} = {world * size} clouds a step, "
        f"learning rate {lr:.4g} (optim.scale_lr={recipe.optim.scale_lr})"
    )


def end_others(trainer: Trainer) -> None:
    """End the processes that Lightning started, which would wait for a process that failed.

    torchrun and srun do this for theirs.
    """
    if trainer.strategy.launcher is not None:
        trainer.strategy.launcher.kill(getattr(signal, "SIGKILL", signal.SIGTERM))


class SameEverywhere(Callback):
    """Stops a training whose processes do not see the same data or come to different weights.

    Args:
        seen: what must be equal in all of them, under the keys of a recipe.
    """

    def __init__(self, seen: dict[str, object]) -> None:
        self.seen = seen

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare with the first process.

        Raises:
            ValueError: names what differs.
        """
        everyone = _everyone(trainer.world_size, self.seen)
        for rank, seen in enumerate(everyone):
            for key, value in seen.items():
                if value != everyone[0][key]:
                    raise ValueError(
                        f"{key} is {everyone[0][key]} in process 0 and {value} in process {rank}; "
                        "all must have the same data, and data.in_memory true or false instead of "
                        "auto where their memory differs"
                    )

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare the weights, before they are saved.

        Raises:
            RuntimeError: if those of a process are not those of the first.
        """
        if isinstance(trainer.strategy, FSDPStrategy):  # each holds others
            return
        bits = [p.detach().view(torch.int32).sum() for p in pl_module.parameters()]
        everyone = _everyone(trainer.world_size, torch.stack(bits).tolist())
        strange = [rank for rank, sums in enumerate(everyone) if sums != everyone[0]]
        if strange:
            raise RuntimeError(
                f"processes {strange} have other weights than process 0 after epoch "
                f"{trainer.current_epoch + 1}; the checkpoint before is whole, continue with "
                "--resume, and look for a faulty GPU or different versions on the machines"
            )


def _everyone(world: int, value: object) -> list[Any]:
    """What each process gives, in the order of their numbers."""
    everyone: list[Any] = [None] * world
    dist.all_gather_object(everyone, value)
    return everyone
