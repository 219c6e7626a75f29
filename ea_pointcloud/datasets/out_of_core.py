"""Sets larger than memory, in ModelNet's HDF5 layout: their clouds stay on disk.

Batches of such a set are in ``out_of_core_loader.py``.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ea_pointcloud._checks import check_count
from ea_pointcloud._device import mix_seeds
from ea_pointcloud.datasets._modelnet_files import ModelNetFiles
from ea_pointcloud.datasets._splits import SPLIT_SEED, check_opening
from ea_pointcloud.descriptors.channels import feature_channels
from ea_pointcloud.ops import farthest_point_sample, gather_points

BUFFER_MB = 256
_WINDOWS = 3  # in memory at once: being divided into batches, filled ahead, and about to be freed
_BLOCKS = 64  # of a window: files sorted by class are mixed by them


class Block(NamedTuple):
    """Consecutive clouds of one file, which are read at once.

    Args:
        file: position in the list of files.
        start: its first row in the file.
        stop: behind its last row.
        first: the position in the data set of its first cloud.
        end: behind that of its last; fewer than its rows where some are of another split.
    """

    file: int
    start: int
    stop: int
    first: int
    end: int


class OutOfCoreModelNet(Dataset[dict[str, Tensor]]):
    """A set in the layout of :class:`~ea_pointcloud.datasets.ModelNet`, of any size, left on disk.

    Labels are in memory (8 bytes a cloud), coordinates are read on access. Samples, their order and
    the rule of the val split are those of ``ModelNet``. ``dataset[i]`` opens a file each time;
    training reads through :class:`~ea_pointcloud.datasets.OutOfCoreLoader`.

    Reading takes the least where the files are not compressed and 16-bit floats are enough. A val
    split that is part of train lies scattered in its files, so reading it reads all of train.

    Args:
        root: see ``ModelNet``, as ``name``, ``split``, ``val_fraction`` and ``mirrored``.
        name: of the set.
        split: of the set.
        num_points: points kept of each cloud, 0 for all.
        sampling: which: the ``"first"`` (no others are read), a ``"random"`` set, fixed by the
            cloud's position in the files, or by farthest point sampling (``"fps"``) at each
            reading; a set that was prepared in that order needs only its first.
        val_fraction: fraction of each class of the train split that goes to val.
        buffer_mb: memory in 1e6 bytes that a loader may take for coordinates; decides over how
            many clouds is shuffled at once.
        mirrored: whether the files are mirror images.
        features: channels of the points that the files have.

    Attributes:
        label: (n,) int64.
        class_names: in the order of the labels.
        blocks: what is read at once, in stored order.
        window: clouds that are shuffled together.
        file_points: points of each cloud in the files.
        mirroring: ``"none"``, ``"undone"`` (x negated) or ``"kept"``.

    Raises:
        FileNotFoundError: if the folder or a listed file is missing.
        ValueError: if an argument is impossible or a file does not hold what the layout promises.
    """

    up_axis: ClassVar[str] = "y"

    def __init__(
        self,
        root: str | Path | None = None,
        *,
        name: str = "modelnet40",
        split: str = "train",
        num_points: int = 0,
        sampling: str = "first",
        val_fraction: float = 0.1,
        buffer_mb: int = BUFFER_MB,
        mirrored: bool | str = "auto",
        features: str | Sequence[str] = (),
    ) -> None:
        check_opening(split, num_points, sampling, val_fraction)
        check_count("buffer_mb", buffer_mb)
        self.name = name
        self.split = split
        self.num_points = num_points
        self.sampling = sampling
        stored = self._stored = ModelNetFiles(root, name, split, val_fraction, mirrored, features)
        stored.check_num_points(num_points)
        self.folder, self.mirroring = stored.folder, stored.mirroring
        self.class_names, self.label = stored.class_names, stored.label
        self.file_points = stored.num_points
        # Of a point: float32, whatever the files have.
        self._point_bytes = 4 * (3 + feature_channels(stored.features))
        cloud_bytes = self._point_bytes * self._read_points
        self.window = max(1, int(buffer_mb * 1e6 / _WINDOWS / cloud_bytes))
        self.blocks = self._cut(stored.chunk_rows, stored.file_rows)

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, index: int | list[int] | Tensor) -> dict[str, Tensor]:
        """One sample, or a whole batch where ``index`` is a list or tensor."""
        positions = torch.arange(len(self))[index]
        flat = positions.reshape(-1)
        points = torch.empty(len(flat), self._read_points, self._point_bytes // 4)
        starts, rows = self._stored.file_start, self._stored.row[flat]
        file_of = torch.searchsorted(starts, rows, right=True) - 1
        for file in file_of.unique().tolist():
            chosen = file_of == file
            own, back = (rows[chosen] - starts[file]).unique(return_inverse=True)
            points[chosen] = self._stored.read(file, own.numpy(), self._read_points)[back]
        points = self.choose(points, flat)
        return self.sample(points.view(*positions.shape, *points.shape[1:]), self.label[index])

    def __repr__(self) -> str:
        return (
            f"OutOfCoreModelNet({self.name!r}, split={self.split!r}, shapes={len(self)}, "
            f"points={self.num_points or self.file_points}, classes={len(self.class_names)})"
        )

    @property
    def num_bytes(self) -> int:
        """Of all coordinates of the split, if they were in memory."""
        return self._point_bytes * len(self) * (self.num_points or self.file_points)

    @property
    def file_bytes(self) -> int:
        """Of all coordinates of its files as 32-bit floats, those of another split included."""
        return self._point_bytes * sum(self._stored.file_rows) * self.file_points

    def read_block(self, number: int) -> Tensor:
        """The clouds of a block that belong to the split, in stored order, before any choice.

        Returns:
            (n, N, 3 + F) float32; N is that of the files unless the first points are kept.
        """
        block = self.blocks[number]
        rows = self._stored.row[block.first : block.end] - self._stored.file_start[block.file]
        xyz = self._stored.read(block.file, slice(block.start, block.stop), self._read_points)
        return xyz if len(xyz) == len(rows) else xyz[rows - block.start]

    @staticmethod
    def sample(points: Tensor, label: Tensor) -> dict[str, Tensor]:
        """A sample or batch of points (..., N, 3 + F)."""
        if points.shape[-1] == 3:
            return {"xyz": points, "label": label}
        return {"xyz": points[..., :3], "features": points[..., 3:], "label": label}

    def choose(self, xyz: Tensor, index: Tensor) -> Tensor:
        """The points to keep of clouds (n, N, 3 + F) that were read, at positions ``index``."""
        if xyz.shape[1] == (self.num_points or self.file_points):
            return xyz
        if self.sampling == "fps":
            return gather_points(xyz, farthest_point_sample(xyz[..., :3], self.num_points))
        kept = []
        for row in self._stored.row[index].tolist():
            generator = torch.Generator().manual_seed(mix_seeds(SPLIT_SEED, row))
            kept.append(torch.randperm(xyz.shape[1], generator=generator)[: self.num_points])
        return gather_points(xyz, torch.stack(kept))

    @property
    def _read_points(self) -> int:
        first = self.sampling == "first" and self.num_points
        return self.num_points if first else self.file_points

    def _cut(self, chunk_rows: list[int], lengths: list[int]) -> list[Block]:
        """Blocks of about a 64th of a window, made of whole chunks of the files."""
        blocks = []
        for file, (rows, length) in enumerate(zip(chunk_rows, lengths, strict=True)):
            size = max(1, self.window // _BLOCKS // rows) * rows
            starts = torch.arange(0, length, size)
            edges = torch.cat([starts, torch.tensor([length])]) + self._stored.file_start[file]
            positions = torch.searchsorted(self._stored.row, edges).tolist()
            for start, first, end in zip(starts.tolist(), positions, positions[1:], strict=False):
                if first < end:
                    blocks.append(Block(file, start, min(start + size, length), first, end))
        return blocks
