"""Batches of a split: whole batches indexed in memory, or read out of core; resumable, sharded."""

from collections.abc import Iterator
from itertools import islice
from typing import cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from ea_pointcloud._device import mix_seeds
from ea_pointcloud.datasets import ModelNet
from ea_pointcloud.datasets.out_of_core import OutOfCoreModelNet
from ea_pointcloud.datasets.out_of_core_loader import OutOfCoreLoader
from ea_pointcloud.datasets.sharding import WHOLE, Epochs, Shard

Loader = DataLoader[dict[str, Tensor]] | OutOfCoreLoader


def batches(
    dataset: Dataset[dict[str, Tensor]],
    batch_size: int,
    *,
    shuffle_seed: int | None = None,
    beginning: tuple[int, int] = (0, 0),
    least: int = 1,
    num_workers: int | None = None,
    shard: Shard = WHOLE,
) -> Loader:
    """A loader that indexes whole batches; shuffled again each epoch where a seed is given.

    Lightning fetches the first batch of a fit before it tells the sampler which epoch it is, so a
    resumed run has to say in ``beginning`` at which epoch and batch. ``least`` and ``shard`` are
    those of :class:`BatchIndices`. A set on disk is read by ``num_workers`` processes, see
    :class:`OutOfCoreLoader`.

    Raises:
        ValueError: if there are fewer clouds than processes.
    """
    if isinstance(dataset, OutOfCoreModelNet):
        loader = OutOfCoreLoader(
            dataset,
            batch_size,
            shuffle_seed=shuffle_seed,
            least=least,
            num_workers=num_workers,
            shard=shard,
        )
        loader.start_at(*beginning)
        return loader
    count = len(cast("ModelNet", dataset))
    shard.check(getattr(dataset, "split", "the set"), count)
    sampler = BatchIndices(count, batch_size, shuffle_seed, least, shard, _device_of(dataset))
    sampler.start_at(*beginning)
    return DataLoader(dataset, batch_size=None, sampler=sampler)


def _device_of(dataset: object) -> torch.device:
    """Where the tensors of a set in memory are."""
    tensors = (each for each in vars(dataset).values() if isinstance(each, Tensor))
    return next((each.device for each in tensors), torch.device("cpu"))


class BatchIndices(Epochs, Sampler[list[int] | Tensor]):
    """Indices of whole batches. The order depends on (seed, epoch) only, so resuming is exact.

    A last batch that is not full is kept in order, dropped when shuffled (unless it is the only
    one): batch statistics of a few clouds are poor. Several processes cut batches of
    ``batch_size * world_size`` from one order, and each takes its part of every one, so that they
    train on what one process with batches of that size would.

    Args:
        num_samples: samples in the data set.
        batch_size: samples per batch of one process.
        shuffle_seed: None for the stored order.
        least: batches of a shuffled epoch, which goes through a small set as often as that takes,
            each time in another order.
        shard: samples of this process, where several train together.
        device: of the data. On a GPU the indices of an epoch are copied there once; a list would
            be copied, and the GPU waited for, at every batch.
    """

    def __init__(
        self,
        num_samples: int,
        batch_size: int,
        shuffle_seed: int | None,
        least: int = 1,
        shard: Shard = WHOLE,
        device: torch.device | None = None,
    ) -> None:
        super().__init__()
        self.num_samples = num_samples
        self.batch_size = batch_size
        self.shuffle_seed = shuffle_seed
        self.least = least
        self.shard = shard
        self.on_device = device if device is not None and device.type != "cpu" else None

    def __len__(self) -> int:
        if self.shuffle_seed is None:
            return len(self.shard.batch_ranges(self.num_samples, self.batch_size))
        return max(self.least, self._batches_of_a_pass())

    def __iter__(self) -> Iterator[list[int] | Tensor]:
        return islice(self._epoch(), self.first_batch, None)

    def _epoch(self) -> Iterator[list[int] | Tensor]:
        if self.shuffle_seed is None:
            for start, end in self.shard.batch_ranges(self.num_samples, self.batch_size):
                if self.on_device is None:
                    yield list(range(start, end))
                else:
                    yield torch.arange(start, end, device=self.on_device)
            return
        generator = torch.Generator().manual_seed(mix_seeds(self.shuffle_seed, self.epoch))
        left = len(self)
        while left:
            count = min(left, self._batches_of_a_pass())
            yield from self._cut(torch.randperm(self.num_samples, generator=generator), count)
            left -= count

    def _batches_of_a_pass(self) -> int:
        return max(1, self.num_samples // (self.batch_size * self.shard.world_size))

    def _cut(self, order: Tensor, count: int) -> Iterator[list[int] | Tensor]:
        if self.on_device is not None:
            order = order.to(self.on_device)
        size = self.batch_size * self.shard.world_size
        for batch in order.split(size)[:count]:
            start, end = self.shard.range_of(len(batch))
            yield batch[start:end].tolist() if self.on_device is None else batch[start:end]
