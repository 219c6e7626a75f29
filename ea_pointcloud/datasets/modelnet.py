"""ModelNet in the published HDF5 layout, with any number of classes."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ea_pointcloud._checks import check_at_least, check_choice
from ea_pointcloud.augment.transforms import choose_points, negate_x
from ea_pointcloud.datasets._files import NAMES_FILE, find_modelnet
from ea_pointcloud.datasets._splits import (
    SPLIT_SEED,
    SPLITS,
    check_val_fraction,
    stratified_mask,
)
from ea_pointcloud.datasets.axes import find_mirroring
from ea_pointcloud.ops import gather_points


class ModelNet(Dataset[dict[str, Tensor]]):
    """ModelNet40, or any set in the layout of ``modelnet40_ply_hdf5_2048``, held in memory.

    The folder holds ``shape_names.txt``, ``train_files.txt``, ``test_files.txt`` and the HDF5 files
    they list, each with ``data`` (n, 2048, 3) and ``label`` (n, 1). The published train split is
    divided once and for all, class by class, into train and val; ``"trainval"`` is all of it.

    Args:
        root: data root or the folder itself; ``$EA_POINTCLOUD_DATA``, then ``./data`` without it.
        name: the folder is ``<name>_ply_hdf5_2048`` or ``<name>_hdf5_2048``.
        split: ``"train"``, ``"val"``, ``"test"`` or ``"trainval"``.
        num_points: points kept of each cloud, 0 for all.
        sampling: which: the ``"first"``, a ``"random"`` set (the same at every call), or by
            farthest point sampling (``"fps"``).
        val_fraction: fraction of each class of the published train split that goes to val.
        mirrored: whether the files are mirror images, whose x is negated; ``"auto"`` takes the
            published files of ModelNet40 for it, see
            :func:`~ea_pointcloud.datasets.axes.find_mirroring`.

    Attributes:
        xyz: (n, N, 3) float32, y up, right-handed unless ``mirroring`` is ``"kept"``, in the unit
            sphere.
        label: (n,) int64.
        class_names: in the order of the labels.
        mirroring: ``"none"`` (right-handed files), ``"undone"`` (x negated) or ``"kept"``.

    Raises:
        FileNotFoundError: if the folder or a listed file is missing.
        ValueError: if an argument is impossible or a file does not hold what the layout promises.

    Reference:
        Wu et al., 3D ShapeNets, CVPR 2015; layout of Qi et al., PointNet, CVPR 2017.
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
        mirrored: bool | str = "auto",
    ) -> None:
        check_choice("split", split, SPLITS)
        check_at_least("num_points", num_points, 0)
        check_val_fraction(val_fraction)
        self.name = name
        self.split = split
        self.folder = find_modelnet(root, name)
        self.mirroring = find_mirroring(self.folder, mirrored)
        self.class_names = read_class_names(self.folder)
        self.xyz, self.label = self._read("test" if split == "test" else "train")
        if split in ("train", "val"):
            is_val = stratified_mask(self.label, val_fraction)
            chosen = is_val if split == "val" else ~is_val
            self.xyz, self.label = self.xyz[chosen], self.label[chosen]
        if num_points:
            self.xyz = _reduce(self.xyz, num_points, sampling)

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, index: int | list[int] | Tensor) -> dict[str, Tensor]:
        """One sample, or a whole batch where ``index`` is a list or tensor."""
        return {"xyz": self.xyz[index], "label": self.label[index]}

    def __repr__(self) -> str:
        return (
            f"ModelNet({self.name!r}, split={self.split!r}, shapes={len(self)}, "
            f"points={self.xyz.shape[1]}, classes={len(self.class_names)})"
        )

    def _read(self, part: str) -> tuple[Tensor, Tensor]:
        files = listed_files(self.folder, part)
        negated = self.mirroring == "undone"
        parts = [_read_h5(path, len(self.class_names), negated) for path in files]
        return torch.cat([xyz for xyz, _ in parts]), torch.cat([label for _, label in parts])


def read_class_names(folder: Path) -> tuple[str, ...]:
    """The names in the order of the labels."""
    names = (folder / NAMES_FILE).read_text(encoding="utf-8").split()
    if not names:
        raise ValueError(f"{folder / NAMES_FILE} names no class; download it again")
    return tuple(names)


def listed_files(folder: Path, part: str) -> list[Path]:
    """The HDF5 files of ``"train"`` (val included) or ``"test"``, in the order of their list."""
    listing = folder / f"{part}_files.txt"
    if not listing.is_file():
        raise FileNotFoundError(f"no {listing}; the folder is incomplete, download it again")
    # The published lists name paths on their author's disk; only the file names matter.
    files = [folder / Path(line).name for line in listing.read_text(encoding="utf-8").split()]
    if not files:
        raise ValueError(f"{listing} lists no file; download it again")
    return files


def check_finite(path: Path, xyz: Tensor) -> None:
    """Raise unless all coordinates read from ``path`` are finite."""
    if not bool(xyz.isfinite().all()):
        raise ValueError(f"{path} holds coordinates that are not finite; download it again")


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
            f"names {num_classes} classes; the files do not belong together"
        )
    return labels


def unreadable(path: Path, error: Exception) -> ValueError:
    """The error for a file that is damaged or another kind of file."""
    return ValueError(
        f"{path} cannot be read as HDF5 with 'data' and 'label' ({error}); download it again"
    )


def _reduce(xyz: Tensor, num_points: int, sampling: str) -> Tensor:
    if num_points > xyz.shape[1]:
        raise ValueError(
            f"num_points must be at most the {xyz.shape[1]} points stored, got {num_points}"
        )
    generator = torch.Generator().manual_seed(SPLIT_SEED)
    chunks = [
        gather_points(chunk, choose_points(chunk, num_points, sampling, generator=generator))
        for chunk in xyz.split(256)
    ]
    return torch.cat(chunks)


def _read_h5(path: Path, num_classes: int, negated: bool) -> tuple[Tensor, Tensor]:
    import h5py

    if not path.is_file():
        raise FileNotFoundError(f"no {path}, which its list names; download the data set again")
    try:
        with h5py.File(path, "r") as file:
            data, label = np.asarray(file["data"]), np.asarray(file["label"])
    except (OSError, KeyError) as error:
        raise unreadable(path, error) from error
    xyz = torch.from_numpy(data).float()
    check_finite(path, xyz)
    if negated:
        xyz = negate_x(xyz)
    return xyz, check_content(path, data.shape, label, num_classes)
