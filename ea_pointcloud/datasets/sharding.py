"""The samples of each of several processes, and the position of a training in its epochs."""

from itertools import pairwise
from typing import NamedTuple


class Shard(NamedTuple):
    """The samples of one of several processes that train or evaluate together.

    Args:
        rank: number of the process.
        world_size: number of processes.
    """

    rank: int = 0
    world_size: int = 1

    def range_of(self, count: int) -> tuple[int, int]:
        """First and end of this process's ``count`` samples; sizes differ by one at most.

        The batches of all processes together are cut by it too: a full one into equal parts.
        """
        first, end = self.rank * count, (self.rank + 1) * count
        return first // self.world_size, end // self.world_size

    def batch_ranges(self, count: int, batch_size: int) -> list[tuple[int, int]]:
        """First and end of each batch of this process, in stored order.

        Processes wait for each other at every batch, so all have equally many and none is empty;
        their sizes differ by one. A single process has full batches and a last smaller one.
        """
        if self.world_size == 1:
            return [
                (start, min(start + batch_size, count)) for start in range(0, count, batch_size)
            ]
        largest = -(-count // self.world_size)
        steps = -(-largest // max(2, batch_size))  # k clouds have at most k batches
        first, end = self.range_of(count)
        edges = [first + step * (end - first) // steps for step in range(steps + 1)]
        return list(pairwise(edges))

    def check(self, what: str, count: int) -> None:
        """Raise unless there is a sample for each process.

        Raises:
            ValueError: names ``what`` was too small.
        """
        if count < self.world_size:
            raise ValueError(
                f"{what} has {count} clouds, fewer than the {self.world_size} processes that "
                "share them; start fewer (trainer.devices, trainer.num_nodes)"
            )


WHOLE = Shard()  # of a single process


class Epochs:
    """The epoch that batches are drawn for, and the batch at which a resumed epoch starts."""

    def __init__(self) -> None:
        self.epoch = 0
        self._start = (0, 0)

    def set_epoch(self, epoch: int) -> None:
        """Called by the training loop before each epoch."""
        self.epoch = epoch

    def start_at(self, epoch: int, batch: int) -> None:
        """Start in this epoch, and only in that epoch at this batch."""
        self.epoch = epoch
        self._start = (epoch, batch)

    @property
    def first_batch(self) -> int:
        """The batch at which the current epoch starts."""
        epoch, batch = self._start
        return batch if epoch == self.epoch else 0
