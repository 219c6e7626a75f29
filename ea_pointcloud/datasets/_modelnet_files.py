"""The files of ModelNet's HDF5 layout: which clouds are in them, and reading some of these."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ea_pointcloud.datasets._files import (
    NAMES_FILE,
    counted_from,
    find_layout,
    find_modelnet,
    no_list,
    not_finite,
    open_h5,
    read_h5_channels,
)
from ea_pointcloud.datasets._splits import stratified_mask
from ea_pointcloud.datasets.axes import find_mirroring
from ea_pointcloud.datasets.catalog import CATALOG
from ea_pointcloud.descriptors.channels import parse_features, rotate_points
from ea_pointcloud.ops.frames import negate_x, normalize_unit_sphere

# In the order of the labels, as published with the set.
SCANOBJECTNN_CLASSES = (
    "bag", "bin", "box", "cabinet", "chair", "desk", "display", "door", "shelf", "table", "bed",
    "pillow", "sink", "sofa", "toilet",
)  # fmt: skip
# Name of a variant -> folder and stem of its files: the hardest (PB_T50_RS), objects with the
# background of their scan, objects alone.
SCANOBJECTNN_VARIANTS = {
    "scanobjectnn": ("main_split", "objectdataset_augmentedrot_scale75"),
    "scanobjectnn_obj_bg": ("main_split", "objectdataset"),
    "scanobjectnn_obj_only": ("main_split_nobg", "objectdataset"),
}

_CHECKED = 64  # clouds of each file that show whether it is in the unit sphere
_TOLERANCE = 0.02  # published files and 16-bit floats are rounded

logger = logging.getLogger(__name__)


class _Outline(NamedTuple):
    """What a file holds, without its coordinates."""

    label: Tensor  # (n,) int64
    num_points: int
    chunk_rows: int
    in_unit_sphere: bool


class ModelNetFiles:
    """The clouds of one split, left in their files.

    Args:
        root: see :class:`~ea_pointcloud.datasets.ModelNet`, as the others.
        name: of the set.
        split: ``"train"``, ``"val"``, ``"test"`` or ``"trainval"``.
        val_fraction: fraction of each class of the train split that goes to val.
        mirrored: whether the files are mirror images.
        features: channels of the points that the files have.

    Attributes:
        files: in the order of their list.
        label: (n,) int64, of the clouds of the split, in stored order.
        row: (n,) where each lies, counted through all files.
        file_rows: clouds of each file, of other splits too.
        file_start: (files,) row of the first cloud of each.
        chunk_rows: clouds of each file that are stored, perhaps compressed, together.
        num_points: of every cloud.
        in_unit_sphere: whether clouds are stored centred, the farthest point at distance 1; others
            are brought there as prediction does.
    """

    def __init__(
        self,
        root: str | Path | None,
        name: str,
        split: str,
        val_fraction: float,
        mirrored: bool | str,
        features: str | Sequence[str] = (),
    ) -> None:
        self.features = parse_features("features", features)
        part = "test" if split == "test" else "train"
        if name in SCANOBJECTNN_VARIANTS:
            self.class_names = SCANOBJECTNN_CLASSES
            self.folder, self.files = _find_scans(root, name, part)
        else:
            self.folder = find_modelnet(root, name)
            self.class_names = _read_class_names(self.folder)
            self.files = _listed_files(self.folder, part)
        self.mirroring = find_mirroring(self.folder, mirrored)
        outlines = [_outline(path, len(self.class_names)) for path in self.files]
        self.num_points = _one_size(self.files, [outline.num_points for outline in outlines])
        self.file_rows = [len(outline.label) for outline in outlines]
        self.chunk_rows = [outline.chunk_rows for outline in outlines]
        self.in_unit_sphere = all(outline.in_unit_sphere for outline in outlines)
        if not self.in_unit_sphere:
            logger.info("%s: clouds are centred and scaled to the unit sphere", self.folder)
        lengths = torch.tensor(self.file_rows)
        self.file_start = lengths.cumsum(0) - lengths
        self.label = torch.cat([outline.label for outline in outlines])
        self.row = torch.arange(len(self.label))
        if split in ("train", "val"):
            is_val = stratified_mask(self.label, val_fraction)
            self.row = (is_val if split == "val" else ~is_val).nonzero().flatten()
            self.label = self.label[self.row]

    def read(self, file: int, rows: "slice | np.ndarray", num_points: int | None = None) -> Tensor:
        """Clouds of one file: (n, N, 3 + F) float32, right-handed unless they are kept mirrored.

        Args:
            file: position in :attr:`files`.
            rows: of the file, in increasing order.
            num_points: first points to read, None for all.
        """
        path = self.files[file]
        read_points = num_points if self.in_unit_sphere else None
        with open_h5(path, "data", "label") as (data, _):
            shape = tuple(data.shape)
            xyz = torch.from_numpy(np.asarray(data[rows, :read_points])).float()
        if not bool(xyz.isfinite().all()):
            raise not_finite(path)
        if not self.in_unit_sphere and len(xyz):
            xyz = normalize_unit_sphere(xyz)[:, :num_points]
        if self.features:
            values = read_h5_channels(path, self.features, (rows, slice(num_points)), shape)
            xyz = torch.cat([xyz, torch.from_numpy(values)], dim=-1)
        return rotate_points(xyz, self.features, negate_x) if self.mirroring == "undone" else xyz

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
            f"names {num_classes} classes; {counted_from(labels.numpy(), 'the names', num_classes)}"
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
        raise no_list(listing, part, "the HDF5 files")
    # The published lists name paths on their author's disk; only the file names matter.
    files = [folder / Path(line).name for line in listing.read_text(encoding="utf-8").split()]
    if not files:
        raise ValueError(f"{listing} lists no file; write the name of an HDF5 file on each line")
    return files


def _find_scans(root: str | Path | None, name: str, part: str) -> tuple[Path, list[Path]]:
    """The folder of ScanObjectNN and the file of a variant and split."""
    inside, stem = SCANOBJECTNN_VARIANTS[name]
    file = f"{inside}/{'training' if part == 'train' else 'test'}_{stem}.h5"
    folder, _ = find_layout(root, [(CATALOG["scanobjectnn"].folder, file)])
    return folder, [folder / file]


def _outline(path: Path, num_classes: int) -> _Outline:
    with open_h5(path, "data", "label") as (data, label):
        labels = check_content(path, data.shape, np.asarray(label), num_classes)
        chunk_rows = data.chunks[0] if data.chunks else 1
        sample = np.asarray(data[:: max(1, len(labels) // _CHECKED)])
        return _Outline(labels, data.shape[1], chunk_rows, _is_in_unit_sphere(sample))


def _is_in_unit_sphere(clouds: np.ndarray) -> bool:
    if not clouds.size:
        return True
    xyz = clouds.astype(np.float32)
    offset = np.linalg.norm(xyz.mean(1), axis=1)
    radius = np.linalg.norm(xyz, axis=2).max(1)
    return not ((offset > _TOLERANCE) | (abs(radius - 1) > _TOLERANCE)).any()  # NaN is found later


def _one_size(files: list[Path], sizes: list[int]) -> int:
    for path, size in zip(files, sizes, strict=True):
        if size != sizes[0]:
            raise ValueError(
                f"{path} holds clouds of {size} points, {files[0]} of {sizes[0]}; all files of a "
                "set must have the same"
            )
    return sizes[0]
