from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from safetensors.torch import load_file

from ea_pointcloud.training.callbacks import read_metrics
from ea_pointcloud.training.fit import train
from ea_pointcloud.training.recipe import load_recipe

# A network and a set small enough for an epoch a second.
QUICK = [
    "data.shapes=[56,28,28]",
    "data.num_points=64",
    "trainer.epochs=3",
    "trainer.batch_size=14",
    "optim.warmup_epochs=1",
    "augment.drop=0.3",
    "model.overrides.num_centers=[16,8]",
    "model.overrides.num_neighbors=[8,8]",
    "model.overrides.embed_channels=[16,16]",
    "model.overrides.stem_channels=8",
    "model.overrides.fuse_channels=32",
    "model.overrides.head_channels=[16]",
]


class Crash(Callback):
    """Fails in the middle of an epoch, as a killed process would."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int
    ) -> None:
        if trainer.current_epoch == self.epoch and batch_idx == 2:
            raise RuntimeError("power cut")


def weights(run: Path, name: str = "last") -> dict[str, torch.Tensor]:
    return load_file(run / name / "model.safetensors")


def assert_same_weights(first: Path, second: Path) -> None:
    one, two = weights(first), weights(second)
    assert one.keys() == two.keys()
    different = [name for name in one if not torch.equal(one[name], two[name])]
    assert different == []


@pytest.mark.parametrize("ema", ["0.0", "0.9"])
def test_resumed_run_equals_uninterrupted_run(tmp_path: Path, ema: str) -> None:
    recipe = load_recipe("procedural", [*QUICK, f"optim.ema_decay={ema}"])
    train(recipe, tmp_path / "whole")
    with pytest.raises(RuntimeError, match="power cut"):
        train(recipe, tmp_path / "stopped", callbacks=[Crash(epoch=2)])
    assert len(read_metrics(tmp_path / "stopped" / "metrics.csv")) == 2
    train(recipe, tmp_path / "stopped", resume=True)
    assert_same_weights(tmp_path / "whole", tmp_path / "stopped")
    rows = [read_metrics(tmp_path / name / "metrics.csv") for name in ("whole", "stopped")]
    for row in rows[0] + rows[1]:
        del row["seconds"]
    assert rows[0] == rows[1]
