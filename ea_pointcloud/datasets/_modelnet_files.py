"""The files of ModelNet's HDF5 layout: which clouds are in them, and reading some of these."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ea_pointcloud.augment.transforms import negate_x
from ea_pointcloud.datasets._files import NAMES_FILE, REMEDY, find_modelnet, open_h5
from ea_pointcloud.datasets._splits import stratified_mask
from ea_pointcloud.datasets.axes import find_mirroring


class _Outline(NamedTuple):
    """What a file holds, without its coordinates."""

    label: Tensor  # (n,) int64
    num_points: int
    chunk_rows: int


class ModelNetFiles:
    """The clouds of one split, left in their files.

    Args:
        root: see :class:`~ea_pointcloud.datasets.ModelNet`, as the others.
        name: of the set.
        split: ``"train"``, ``"val"``, ``"test"`` or ``"trainval"``.
        val_fraction: fraction of each class of the train split that goes to val.
        mirrored: whether the files are mirror images.

    Attributes:
        files: in the order of their list.
        label: (n,) int64, of the clouds of the split, in stored order.
        row: (n,) where each lies, counted through all files.
        file_rows: clouds of each file, of other splits too.
        file_start: (files,) row of the first cloud of each.
        chunk_rows: clouds of each file that are stored, perhaps compressed, together.
        num_points: of every cloud.
    """

    def __init__(
        self,
        root: str | Path | None,
        name: str,
        split: str,
        val_fraction: float,
        mirrored: bool | str,
    ) -> None:
        self.folder = find_modelnet(root, name)
        self.mirroring = find_mirroring(self.folder, mirrored)
        self.class_names = _read_class_names(self.folder)
        self.files = _listed_files(self.folder, "test" if split == "test" else "train")
        outlines = [_outline(path, len(self.class_names)) for path in self.files]
        self.num_points = _one_size(self.files, [outline.num_points for outline in outlines])
        self.file_rows = [len(outline.label) for outline in outlines]
        self.chunk_rows = [outline.chunk_rows for outline in outlines]
        lengths = torch.tensor(self.file_rows)
        self.file_start = lengths.cumsum(0) - lengths
        self.label = torch.cat([outline.label for outline in outlines])
        self.row = torch.arange(len(self.label))
        if split in ("train", "val"):
            is_val = stratified_mask(self.label, val_fraction)
            self.row = (is_val if split == "val" else ~is_val).nonzero().flatten()
            self.label = self.label[self.row]

    def read(self, file: int, rows: "slice | np.ndarray", num_points: int | None = None) -> Tensor:
        """Clouds of one file: (n, N, 3) float32, right-handed unless they are kept mirrored.

        Args:
            file: position in :attr:`files`.
            rows: of the file, in increasing order.
            num_points: first points to read, None for all.
        """
        path = self.files[file]
        with open_h5(path, "data", "label") as (data, _):
            xyz = torch.from_numpy(np.asarray(data[rows, :num_points])).float()
        if not bool(xyz.isfinite().all()):
            raise ValueError(f"{path} holds coordinates that are not finite; {REMEDY}")
        return negate_x(xyz) if self.mirroring == "undone" else xyz

    def check_num_points(self, num_points: int) -> None:
        """Raise where more points are wanted than are stored."""
        if num_points > self.num_points:
            raise ValueError(
                f"num_points must be at most the {self.num_points} points stored, got {num_points}"
            )


def check_content(path: Path, shape: Sequence[int], label: np.ndarray, num_classes: int) -> Tensor:
    """The labels (n,) of a file whose ``data`` has ``shape``.

    Raises:
        ValueError: unless ``shape`` is (n, N, 3) and all labels are of known classes.
    """
    labels = torch.from_numpy(label.astype("int64")).flatten()
    if len(shape) != 3 or shape[-1] != 3 or shape[0] != len(labels):
        raise ValueError(
            f"{path} must hold data (n, N, 3) and label (n, 1), "
            f"got {tuple(shape)} and {tuple(label.shape)}"
        )
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise ValueError(
            f"{path} has labels from {int(labels.min())} to {int(labels.max())}, but {NAMES_FILE} "
            f"names {num_classes} classes; labels count the names from 0"
        )
    return labels


def _read_class_names(folder: Path) -> tuple[str, ...]:
    names = (folder / NAMES_FILE).read_text(encoding="utf-8").split()
    if not names:
        raise ValueError(f"{folder / NAMES_FILE} names no class; write one name on each line")
    return tuple(names)


def _listed_files(folder: Path, part: str) -> list[Path]:
    """The HDF5 files of ``"train"`` (val included) or ``"test"``, in the order of their list."""
    listing = folder / f"{part}_files.txt"
    if not listing.is_file():
        raise FileNotFoundError(f"no {listing}; add the list, or download a published set again")
    # The published lists name paths on their author's disk; only the file names matter.
    files = [folder / Path(line).name for line in listing.read_text(encoding="utf-8").split()]
    if not files:
        raise ValueError(f"{listing} lists no file; write the name of an HDF5 file on each line")
    return files


def _outline(path: Path, num_classes: int) -> _Outline:
    with open_h5(path, "data", "label") as (data, label):
        labels = check_content(path, data.shape, np.asarray(label), num_classes)
        return _Outline(labels, data.shape[1], data.chunks[0] if data.chunks else 1)


def _one_size(files: list[Path], sizes: list[int]) -> int:
    for path, size in zip(files, sizes, strict=True):
        if size != sizes[0]:
            raise ValueError(
                f"{path} holds clouds of {size} points, {files[0]} of {sizes[0]}; all files of a "
                "set must have the same"
            )
    return sizes[0]
