"""ModelNet in the published HDF5 layout, with any number of classes."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ea_pointcloud.augment.transforms import choose_points
from ea_pointcloud.datasets._modelnet_files import ModelNetFiles
from ea_pointcloud.datasets._splits import SPLIT_SEED, check_opening
from ea_pointcloud.ops import gather_points


class ModelNet(Dataset[dict[str, Tensor]]):
    """ModelNet40, or any set in the layout of ``modelnet40_ply_hdf5_2048``, held in memory.

    The folder holds ``shape_names.txt``, ``train_files.txt``, ``test_files.txt`` and the HDF5 files
    they list, each with ``data`` (n, 2048, 3) and ``label`` (n, 1). The published train split is
    divided once and for all, class by class, into train and val; ``"trainval"`` is all of it.

    Args:
        root: data root or the folder itself; default ``$EA_POINTCLOUD_DATA``, then ``./data``.
        name: the folder is ``<name>_ply_hdf5_2048`` or ``<name>_hdf5_2048``; or
            ``"scanobjectnn"`` (PB_T50_RS), ``"scanobjectnn_obj_bg"`` or ``"scanobjectnn_obj_only"``
            for the published files of ScanObjectNN.
        split: ``"train"``, ``"val"``, ``"test"`` or ``"trainval"``.
        num_points: points kept of each cloud, 0 for all.
        sampling: which: the ``"first"``, a ``"random"`` set (the same at every call), or by
            farthest point sampling (``"fps"``).
        val_fraction: fraction of each class of the published train split that goes to val.
        mirrored: whether the files are mirror images, whose x is negated; ``"auto"`` recognises
            the published files of ModelNet40, see
            :func:`~ea_pointcloud.datasets.axes.find_mirroring`.
        features: channels of the points, data sets of the files: ``"normals"`` (``normal``),
            ``"colors"`` (``color``) or others by their names.

    Attributes:
        xyz: (n, N, 3) float32, y up, right-handed unless ``mirroring`` is ``"kept"``. Clouds that
            are not stored in the unit sphere are brought there, before points are chosen.
        features: (n, N, F) float32, None without any.
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
        features: str | Sequence[str] = (),
    ) -> None:
        check_opening(split, num_points, sampling, val_fraction)
        self.name = name
        self.split = split
        stored = ModelNetFiles(root, name, split, val_fraction, mirrored, features)
        stored.check_num_points(num_points)
        self.folder, self.mirroring = stored.folder, stored.mirroring
        self.class_names, self.label = stored.class_names, stored.label
        every = [stored.read(file, slice(None)) for file in range(len(stored.files))]
        points = torch.cat(every)[stored.row]
        if num_points:
            points = _reduce(points, num_points, sampling)
        self.xyz, self.features = points, None
        if stored.features:
            self.xyz, self.features = points[..., :3].contiguous(), points[..., 3:].contiguous()

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, index: int | list[int] | Tensor) -> dict[str, Tensor]:
        """One sample, or a whole batch where ``index`` is a list or tensor."""
        sample = {"xyz": self.xyz[index], "label": self.label[index]}
        return sample if self.features is None else {**sample, "features": self.features[index]}

    def __repr__(self) -> str:
        return (
            f"ModelNet({self.name!r}, split={self.split!r}, shapes={len(self)}, "
            f"points={self.xyz.shape[1]}, classes={len(self.class_names)})"
        )


def _reduce(points: Tensor, num_points: int, sampling: str) -> Tensor:
    generator = torch.Generator().manual_seed(SPLIT_SEED)
    chunks = [
        gather_points(
            chunk, choose_points(chunk[..., :3], num_points, sampling, generator=generator)
        )
        for chunk in points.split(256)
    ]
    return torch.cat(chunks)
