"""Sets larger than memory, in ModelNet's HDF5 layout: their clouds stay on disk.

How batches are cut from one, shuffled and read ahead is in ``out_of_core_loader.py``.
"""

from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ea_pointcloud._checks import check_at_least, check_choice, check_count
from ea_pointcloud._device import mix_seeds
from ea_pointcloud.augment.transforms import SAMPLINGS, negate_x
from ea_pointcloud.datasets._files import find_modelnet
from ea_pointcloud.datasets._splits import (
    SPLIT_SEED,
    SPLITS,
    check_val_fraction,
    stratified_mask,
)
from ea_pointcloud.datasets.axes import find_mirroring
from ea_pointcloud.datasets.modelnet import (
    check_content,
    check_finite,
    listed_files,
    read_class_names,
    unreadable,
)
from ea_pointcloud.ops import farthest_point_sample, gather_points

BUFFER_MB = 256
_WINDOWS = 3  # in memory at once: being cut into batches, filled ahead, and about to be freed
_BLOCKS = 64  # of a window: files sorted by class are mixed by them


class Block(NamedTuple):
    """Consecutive clouds of one file, which are read at once.

    Args:
        file: position in ``files``.
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

    Labels are in memory (8 bytes a cloud), coordinates are read when they are asked for. Samples,
    their order and the rule of the val split are those of ``ModelNet``. ``dataset[i]`` opens a file
    each time; training reads through
    :class:`~ea_pointcloud.datasets.out_of_core_loader.OutOfCoreLoader`.

    Reading takes the least where the files are not compressed and 16-bit floats are enough. A val
    split that is cut from train lies scattered in its files, so reading it reads all of train.

    Args:
        root: data root or the folder itself; ``$EA_POINTCLOUD_DATA``, then ``./data`` without it.
        name: the folder is ``<name>_ply_hdf5_2048`` or ``<name>_hdf5_2048``.
        split: ``"train"``, ``"val"``, ``"test"`` or ``"trainval"``.
        num_points: points kept of each cloud, 0 for all.
        sampling: which: the ``"first"`` (no others are read), a ``"random"`` set, fixed by the
            cloud's position in the files, or by farthest point sampling (``"fps"``), at each
            reading anew; a set that was prepared in that order needs only its first.
        val_fraction: fraction of each class of the train split that goes to val.
        buffer_mb: memory in 1e6 bytes that streaming may take for coordinates; decides over how
            many clouds is shuffled at once.
        mirrored: whether the files are mirror images, whose x is negated; ``"auto"`` as for
            ``ModelNet``.

    Attributes:
        label: (n,) int64.
        class_names: in the order of the labels.
        blocks: what is read at once, in stored order.
        window: clouds that are shuffled together.
        file_points: points of each cloud in the files.
        mirroring: ``"none"``, ``"undone"`` (x negated) or ``"kept"``, as of ``ModelNet``.

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
    ) -> None:
        check_choice("split", split, SPLITS)
        check_at_least("num_points", num_points, 0)
        check_choice("sampling", sampling, SAMPLINGS)
        check_val_fraction(val_fraction)
        check_count("buffer_mb", buffer_mb)
        self.name = name
        self.split = split
        self.num_points = num_points
        self.sampling = sampling
        self.folder = find_modelnet(root, name)
        self.mirroring = find_mirroring(self.folder, mirrored)
        self.class_names = read_class_names(self.folder)
        self.files = listed_files(self.folder, "test" if split == "test" else "train")
        outlines = [_outline(path, len(self.class_names)) for path in self.files]
        self.file_points = _one_size(self.files, [outline.num_points for outline in outlines])
        if num_points > self.file_points:
            raise ValueError(
                f"num_points must be at most the {self.file_points} points stored, got {num_points}"
            )
        self.label = torch.cat([outline.label for outline in outlines])
        self._file_rows = len(self.label)
        self._row = torch.arange(self._file_rows)  # of each cloud, counted through all files
        if split in ("train", "val"):
            is_val = stratified_mask(self.label, val_fraction)
            self._row = (is_val if split == "val" else ~is_val).nonzero().flatten()
            self.label = self.label[self._row]
        lengths = torch.tensor([len(outline.label) for outline in outlines])
        self._file_start = lengths.cumsum(0) - lengths  # row of each file's first cloud
        cloud_bytes = 12 * self._read_points  # float32, whatever the files have
        self.window = max(1, int(buffer_mb * 1e6 / _WINDOWS / cloud_bytes))
        self.blocks = self._cut([outline.chunk_rows for outline in outlines], lengths.tolist())

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, index: int | list[int] | Tensor) -> dict[str, Tensor]:
        """One sample, or a whole batch where ``index`` is a list or tensor."""
        places = torch.arange(len(self))[index]
        flat = places.reshape(-1)
        xyz = torch.empty(len(flat), self._read_points, 3)
        rows = self._row[flat]
        file_of = torch.searchsorted(self._file_start, rows, right=True) - 1
        for file in file_of.unique().tolist():
            chosen = file_of == file
            own, back = (rows[chosen] - self._file_start[file]).unique(return_inverse=True)
            xyz[chosen] = self._read(file, own.numpy())[back]
        xyz = self.choose(xyz, flat)
        return {"xyz": xyz.view(*places.shape, *xyz.shape[1:]), "label": self.label[index]}

    def __repr__(self) -> str:
        return (
            f"OutOfCoreModelNet({self.name!r}, split={self.split!r}, shapes={len(self)}, "
            f"points={self.num_points or self.file_points}, classes={len(self.class_names)})"
        )

    @property
    def num_bytes(self) -> int:
        """Of all coordinates of the split, if they were in memory."""
        return 12 * len(self) * (self.num_points or self.file_points)

    @property
    def file_bytes(self) -> int:
        """Of all coordinates of its files as 32-bit floats, those of another split included."""
        return 12 * self._file_rows * self.file_points

    def read_block(self, number: int) -> Tensor:
        """The clouds of a block that belong to the split, in stored order, before any choice.

        Returns:
            (n, N, 3) float32; N is that of the files unless the first points are kept.
        """
        block = self.blocks[number]
        rows = self._row[block.first : block.end] - self._file_start[block.file]
        xyz = self._read(block.file, slice(block.start, block.stop))
        return xyz if len(xyz) == len(rows) else xyz[rows - block.start]

    def choose(self, xyz: Tensor, index: Tensor) -> Tensor:
        """The points to keep of clouds that were read.

        Args:
            xyz: (n, N, 3) as read.
            index: (n,) positions in the data set.
        """
        if xyz.shape[1] == (self.num_points or self.file_points):
            return xyz
        if self.sampling == "fps":
            return gather_points(xyz, farthest_point_sample(xyz, self.num_points))
        kept = []
        for row in self._row[index].tolist():
            generator = torch.Generator().manual_seed(mix_seeds(SPLIT_SEED, row))
            kept.append(torch.randperm(xyz.shape[1], generator=generator)[: self.num_points])
        return gather_points(xyz, torch.stack(kept))

    @property
    def _read_points(self) -> int:
        if self.sampling == "first" and self.num_points:
            return self.num_points
        return self.file_points

    def _read(self, file: int, rows: "slice | np.ndarray") -> Tensor:
        import h5py

        path = self.files[file]
        try:
            with h5py.File(path, "r") as opened:
                data = np.asarray(opened["data"][rows, : self._read_points])  # pyright: ignore[reportIndexIssue]
        except (OSError, KeyError) as error:
            raise unreadable(path, error) from error
        xyz = torch.from_numpy(data).float()
        check_finite(path, xyz)
        return negate_x(xyz) if self.mirroring == "undone" else xyz

    def _cut(self, chunk_rows: list[int], lengths: list[int]) -> list[Block]:
        """Blocks of about a 64th of a window, made of whole chunks of the files."""
        blocks = []
        for file, (rows, length) in enumerate(zip(chunk_rows, lengths, strict=True)):
            size = max(1, self.window // _BLOCKS // rows) * rows
            starts = torch.arange(0, length, size)
            edges = torch.cat([starts, torch.tensor([length])])
            places = torch.searchsorted(self._row, edges + self._file_start[file]).tolist()
            for start, first, end in zip(starts.tolist(), places, places[1:], strict=False):
                if first < end:
                    blocks.append(Block(file, start, min(start + size, length), first, end))
        return blocks


class _Outline(NamedTuple):
    """What a file holds, without its coordinates."""

    label: Tensor  # (n,) int64
    num_points: int
    chunk_rows: int


def _outline(path: Path, num_classes: int) -> _Outline:
    import h5py

    if not path.is_file():
        raise FileNotFoundError(f"no {path}, which its list names; download the data set again")
    try:
        with h5py.File(path, "r") as file:
            data = file["data"]
            assert isinstance(data, h5py.Dataset)
            label, shape = np.asarray(file["label"]), data.shape
            chunk_rows = data.chunks[0] if data.chunks else 1
    except (OSError, KeyError) as error:
        raise unreadable(path, error) from error
    labels = check_content(path, shape, label, num_classes)
    return _Outline(labels, shape[1], chunk_rows)


def _one_size(files: list[Path], sizes: list[int]) -> int:
    for path, size in zip(files, sizes, strict=True):
        if size != sizes[0]:
            raise ValueError(
                f"{path} holds clouds of {size} points, {files[0]} of {sizes[0]}; all files of a "
                "set must have the same"
            )
    return sizes[0]
