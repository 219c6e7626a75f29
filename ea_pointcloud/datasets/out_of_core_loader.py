"""Batches of a set that stays on disk, shuffled in windows and read ahead."""

import warnings
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ea_pointcloud._checks import check_count
from ea_pointcloud._device import mix_seeds
from ea_pointcloud.datasets.out_of_core import OutOfCoreModelNet
from ea_pointcloud.datasets.sharding import WHOLE, Epochs, Shard
from ea_pointcloud.io.pool import usable_cores

_CORES_PER_WORKER = 4
_MAX_WORKERS = 4

Item = TypeVar("Item")


class _Window(NamedTuple):
    """Blocks that are in memory together.

    Args:
        blocks: their numbers, in the order of reading.
        parts: which clouds of each block belong to it.
        place: (n,) where each cloud, as they are read, goes in the order of the epoch.
        index: (n,) positions in the data set, in the order of the epoch.
    """

    blocks: list[int]
    parts: list[slice]
    place: Tensor
    index: Tensor


class OutOfCoreLoader(Epochs):
    """Batches ``{"xyz": (B, N, 3), "label": (B,)}`` of a set on disk; an iterator for each epoch.

    Without a seed the order is the stored one, and a last batch that is not full is kept. With one
    it depends on (seed, epoch), the files, the split and ``buffer_mb`` alone, never on timing or
    the number of workers: the blocks of the set are shuffled; one after another they make windows
    of at least ``dataset.window`` clouds; the clouds of each window are shuffled; batches are taken
    from the windows laid end to end, and a last one that is not full is dropped unless it is the
    only one. Each of several processes has windows and batches of its own part of the shuffled
    blocks, and reads no others. So a batch is given by its number, and :meth:`starting_at`
    continues an epoch at any batch without reading the windows before.

    One thread reads the next window while batches are taken from the present one; with
    ``num_workers`` it gathers what these processes read. At most ``buffer_mb`` of coordinates are
    in memory, and one block more for each worker twice.

    Args:
        dataset: the set.
        batch_size: clouds a batch.
        shuffle_seed: None for the stored order.
        least: batches of a shuffled epoch, which goes through a small set as often as that takes,
            each time in another order.
        num_workers: processes that read; by default one for every four cores, at most four. They
            help where files are compressed.
        shard: samples of this process, where several train together.

    Raises:
        ValueError: if the batch size is below 1, or there are fewer clouds than processes.
    """

    def __init__(
        self,
        dataset: OutOfCoreModelNet,
        batch_size: int,
        *,
        shuffle_seed: int | None = None,
        least: int = 1,
        num_workers: int | None = None,
        shard: Shard = WHOLE,
    ) -> None:
        super().__init__()
        check_count("batch_size", batch_size)
        shard.check(dataset.split, len(dataset))
        if num_workers is None:
            num_workers = min(usable_cores() // _CORES_PER_WORKER, _MAX_WORKERS)
        check_count("num_workers", num_workers, 0)
        self.dataset = dataset
        self.batch_size = batch_size
        self.shuffle_seed = shuffle_seed
        self.least = least
        self.num_workers = num_workers
        self.shard = shard

    # Lightning looks for these two, and for ``set_epoch`` in the first.
    batch_sampler = None

    @property
    def sampler(self) -> "OutOfCoreLoader":
        """What decides the order."""
        return self

    def __len__(self) -> int:
        of_a_pass = len(self._sizes())
        return of_a_pass if self.shuffle_seed is None else max(self.least, of_a_pass)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        return self.starting_at(self.first_batch)

    def starting_at(self, batch: int) -> Iterator[dict[str, Tensor]]:
        """The epoch's batches from number ``batch`` on, exactly as without a beginning."""
        sizes = self._sizes()
        while batch < len(self):
            number, skipped = divmod(batch, len(sizes))
            count = min(len(sizes) - skipped, len(self) - batch)
            with closing(self._pass(number, skipped, sizes)) as batches:
                yield from islice(batches, count)
            batch += count

    def _sizes(self) -> list[int]:
        """Clouds of each batch of one time through the set."""
        count = len(self.dataset)
        if self.shuffle_seed is None:
            return [end - start for start, end in self.shard.batch_ranges(count, self.batch_size)]
        full = count // (self.batch_size * self.shard.world_size)
        first, end = self.shard.range_of(count)
        return [self.batch_size] * full or [end - first]

    def _pass(
        self, number: int, done: int, sizes: list[int]
    ) -> Generator[dict[str, Tensor], None, None]:
        """Batches of one time through the set, without the first that are ``done``."""
        windows = self._windows(number)
        start = sum(sizes[:done])
        while len(windows) > 1 and start >= len(windows[0].index):
            start -= len(windows.pop(0).index)
        with closing(_one_ahead(_gather(self._blocks(windows), windows))) as gathered:
            xyz, index = next(gathered)
            for missing in sizes[done:]:
                pieces = []
                while missing:
                    if start == len(index):
                        (xyz, index), start = next(gathered), 0
                    piece = slice(start, start + missing)
                    pieces.append((xyz[piece], index[piece]))
                    start += len(pieces[-1][1])
                    missing -= len(pieces[-1][1])
                # Copied even where it is one: a view would keep its whole window in memory.
                joined, positions = (torch.cat(each) for each in zip(*pieces, strict=True))
                chosen = self.dataset.choose(joined, positions)
                yield self.dataset.sample(chosen, self.dataset.label[positions])

    def _blocks(self, windows: list[_Window]) -> Iterator[Tensor]:
        """Clouds of each block, in order; called in the main thread: it starts processes."""
        every = [each for window in windows for each in zip(*window[:2], strict=True)]
        with warnings.catch_warnings():
            # Python 3.12 and later warn of forking beside threads; the workers start none and wait
            # for none. How many there are is the caller's choice.
            warnings.filterwarnings(
                "ignore", message=".*use of fork.*", category=DeprecationWarning
            )
            warnings.filterwarnings("ignore", message=".*will create .* worker processes.*")
            loader = DataLoader(
                every,  # pyright: ignore[reportArgumentType]
                batch_size=None,
                collate_fn=self._read_part,  # reads in the worker process
                num_workers=self.num_workers,
                generator=torch.Generator(),  # else it would draw from the global one
            )
            return iter(loader)

    def _read_part(self, chosen: Any) -> Tensor:
        number, part = chosen  # of a block, and which of its clouds
        return self.dataset.read_block(number)[part]

    def _windows(self, number: int) -> list[_Window]:
        """The windows of this process in one time through the set."""
        blocks = self.dataset.blocks
        order, generator = torch.arange(len(blocks)), None
        if self.shuffle_seed is not None:
            seed = mix_seeds(self.shuffle_seed, self.epoch, number)
            generator = torch.Generator().manual_seed(seed)
            order = torch.randperm(len(blocks), generator=generator)
        first, end = self.shard.range_of(len(self.dataset))
        windows, chosen, size, position = [], {}, 0, 0
        for block in order.tolist():
            length = blocks[block].end - blocks[block].first
            part = slice(max(0, first - position), min(length, end - position))
            position += length
            if part.start < part.stop:
                chosen[block] = part
                size += part.stop - part.start
            if chosen and (size >= self.dataset.window or position >= end):
                windows.append(self._window(chosen, generator))
                chosen, size = {}, 0
        return windows

    def _window(self, chosen: dict[int, slice], generator: torch.Generator | None) -> _Window:
        spans = [
            torch.arange(self.dataset.blocks[number].first, self.dataset.blocks[number].end)[part]
            for number, part in chosen.items()
        ]
        stored = torch.cat(spans)
        place = torch.arange(len(stored))
        if generator is not None:
            place = torch.randperm(len(stored), generator=generator)
        index = torch.empty_like(stored)
        index[place] = stored
        return _Window(list(chosen), list(chosen.values()), place, index)


def _gather(
    blocks: Iterator[Tensor], windows: list[_Window]
) -> Generator[tuple[Tensor, Tensor], None, None]:
    """Coordinates (n, N, 3) and positions (n,) of each window, in the order of the epoch."""
    for window in windows:
        whole: Tensor | None = None
        end = 0
        for block in islice(blocks, len(window.blocks)):
            if whole is None:
                whole = torch.empty(len(window.index), *block.shape[1:])
            whole[window.place[end : end + len(block)]] = block
            end += len(block)
        assert whole is not None
        yield whole, window.index


def _one_ahead(items: Generator[Item, None, None]) -> Generator[Item, None, None]:
    """The same items, each computed in a thread while the one before is used."""
    with ThreadPoolExecutor(1) as thread, closing(items):
        coming = thread.submit(next, items, None)
        try:
            while (item := coming.result()) is not None:
                coming = thread.submit(next, items, None)
                yield item
        finally:
            coming.exception()  # an iterator at work cannot be closed
