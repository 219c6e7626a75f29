"""Which samples each of several processes takes, and where in the epochs a training is."""

from itertools import pairwise
from typing import NamedTuple


class Share(NamedTuple):
    """The part of one process in what all processes of a training do together.

    Args:
        rank: its number.
        world: how many there are.
    """

    rank: int = 0
    world: int = 1

    def of(self, count: int) -> tuple[int, int]:
        """First and end of this process's part of ``count`` samples; parts differ by one at most.

        A batch of all processes is cut by it too: a full one falls into equal parts.
        """
        return self.rank * count // self.world, (self.rank + 1) * count // self.world

    def in_order(self, count: int, batch_size: int) -> list[tuple[int, int]]:
        """First and end of each batch of this process's part, in stored order.

        Processes wait for each other at every batch, so all have equally many and none is empty;
        their sizes differ by one. One process alone has full batches and a last smaller one.
        """
        if self.world == 1:
            return [
                (start, min(start + batch_size, count)) for start in range(0, count, batch_size)
            ]
        largest_part = -(-count // self.world)
        steps = -(-largest_part // max(2, batch_size))  # a part of k clouds has at most k batches
        first, end = self.of(count)
        edges = [first + step * (end - first) // steps for step in range(steps + 1)]
        return list(pairwise(edges))

    def check(self, what: str, count: int) -> None:
        """Raise unless there is a sample for each process.

        Raises:
            ValueError: names ``what`` was too small.
        """
        if count < self.world:
            raise ValueError(
                f"{what} has {count} clouds, fewer than the {self.world} processes that share "
                "them; start fewer (trainer.devices, trainer.num_nodes)"
            )


ALONE = Share()


class Epochs:
    """The epoch that batches are drawn for, and the batch that a resumed one starts at."""

    def __init__(self) -> None:
        self.epoch = 0
        self._beginning = (0, 0)

    def set_epoch(self, epoch: int) -> None:
        """Called by the training loop before each epoch."""
        self.epoch = epoch

    def begin_at(self, epoch: int, batch: int) -> None:
        """Start in this epoch, and that epoch alone at this batch."""
        self.epoch = epoch
        self._beginning = (epoch, batch)

    @property
    def first_batch(self) -> int:
        """Of the epoch that is set."""
        epoch, batch = self._beginning
        return batch if epoch == self.epoch else 0
