"""ShapeNetPart in either published layout, or any part-labelled set laid out like it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ea_pointcloud.datasets._padded import PaddedClouds, pad
from ea_pointcloud.datasets._part_files import (
    UNLABELLED,
    LabelledCloud,
    PartFolder,
    PartTable,
    check_distinct,
)
from ea_pointcloud.datasets._splits import check_opening, stratified_mask
from ea_pointcloud.descriptors import DESCRIPTORS
from ea_pointcloud.descriptors.channels import descriptor_of, file_channels, parse_features
from ea_pointcloud.io.pool import progress

_AT_ONCE = 4  # clouds that are described at a time: a second or two
# The numbering of both published layouts; a table beside the files comes before it.
SHAPENETPART_PARTS: dict[str, tuple[int, ...]] = {
    "Airplane": (0, 1, 2, 3),
    "Bag": (4, 5),
    "Cap": (6, 7),
    "Car": (8, 9, 10, 11),
    "Chair": (12, 13, 14, 15),
    "Earphone": (16, 17, 18),
    "Guitar": (19, 20, 21),
    "Knife": (22, 23),
    "Lamp": (24, 25, 26, 27),
    "Laptop": (28, 29),
    "Motorbike": (30, 31, 32, 33, 34, 35),
    "Mug": (36, 37),
    "Pistol": (38, 39, 40),
    "Rocket": (41, 42, 43),
    "Skateboard": (44, 45, 46),
    "Table": (47, 48, 49),
}


class ShapeNetPart(PaddedClouds):
    """ShapeNetPart, or any set in one of its layouts, held in memory.

    The layout is recognised. HDF5 (``shapenet_part_seg_hdf5_data``):
    ``all_object_categories.txt``, ``{train,val,test}_hdf5_file_list.txt`` and the files they list,
    with ``data`` (n, N, 3), ``label`` (n, 1) and ``pid`` (n, N), part ids counted through all
    categories. Text (``shapenetcore_partanno_segmentation_benchmark_v0_normal``):
    ``synsetoffset2category.txt``, ``train_test_split/shuffled_{train,val,test}_file_list.json``
    and ``SYNSET/ID.txt`` with x y z nx ny nz part on each line; or without normals, as
    ``SYNSET/points/ID.pts`` and ``SYNSET/points_label/ID.seg``, labels counted from 1 in each
    category. Where both are there the HDF5 files are read; give the folder itself as ``root`` for
    the other.

    The part ids of each category come from ``seg_classes.json`` or
    ``overallid_to_catid_partid.json`` in the folder, else from :data:`SHAPENETPART_PARTS`; for
    other categories, from the labels that occur in any split. The published val split is used
    where there is one; else the train split is divided once and for all, category by category.
    ``"trainval"`` is both. Clouds are never brought to one size by repeating points: short ones
    are padded.

    Args:
        root: data root or the folder itself; default ``$EA_POINTCLOUD_DATA``, then ``./data``.
        name: ``"shapenetpart"`` for the published folders; any other ``NAME`` is looked for in
            ``NAME_hdf5_data`` and ``NAME_txt_normal``.
        split: ``"train"``, ``"val"``, ``"test"`` or ``"trainval"``.
        num_points: most points kept of each cloud, 0 for all.
        sampling: which: the ``"first"``, a ``"random"`` set (the same at every call), or by
            farthest point sampling (``"fps"``).
        val_fraction: fraction of each category of the train split that goes to val where no val
            split is published.
        features: what samples carry beside coordinates: ``"none"``; channels of the files,
            ``"normals"`` in the text layout, ``"normals"``, ``"colors"`` and others in HDF5 files
            that have such data sets; or what describes the points kept, ``"eigen_features"``,
            ``"surface_features"`` or ``"shape_features"``, see
            :func:`~ea_pointcloud.descriptors.shape_features`.

    Attributes:
        xyz: (n, N, 3) float32, y up, centred, farthest point at distance 1; padding is zero.
        mask: (n, N) bool, True = real point; real points come first.
        part_label: (n, N) int64, positions in ``part_names``; -1 in the padding and for points
            that have no part in the files (-1 there too).
        category: (n,) int64, positions in ``category_names``.
        features: (n, N, F) float32, zero in the padding; None without any.
        parts: the part ids of each category, empty for one without any shape or table.
        part_names: one for each part id, like ``"Chair/leg"``, or ``"Chair/0"`` if they have none.

    Raises:
        FileNotFoundError: if the folder or a listed file is missing.
        ValueError: if an argument is impossible or a file does not hold what the layout promises.

    Reference:
        Yi et al., A scalable active framework for region annotation, SIGGRAPH Asia 2016; layouts
        of Qi et al., PointNet, CVPR 2017, and PointNet++, NeurIPS 2017.
    """

    def __init__(
        self,
        root: str | Path | None = None,
        *,
        name: str = "shapenetpart",
        split: str = "train",
        num_points: int = 0,
        sampling: str = "first",
        val_fraction: float = 0.2,
        features: str | Sequence[str] = "none",
    ) -> None:
        check_opening(split, num_points, sampling, val_fraction)
        names = parse_features("features", features)
        channels, descriptor = file_channels(names), descriptor_of(names)
        self.name = name
        self.split = split
        files = PartFolder.find(root, name, channels)
        self.folder = files.path
        self.category_names = files.names
        self.parts = _part_table(files)
        self.part_names = files.part_names(self.parts)
        clouds = _select(files, self.parts, split, val_fraction)
        if not clouds:
            raise ValueError(
                f"{self.folder} has no shape for split {split!r}; take 'trainval', or add shapes"
            )
        self.category = torch.tensor([cloud.category for cloud in clouds])
        self.part_label = pad([cloud.part for cloud in clouds], -1)
        # Some codes leave the HDF5 coordinates as they are: they are centred and in the unit sphere
        # up to their rounding already (1.0006 has been seen). Here both layouts go through the
        # same step, so that they give the same numbers.
        self._set_clouds([cloud.xyz for cloud in clouds])
        self.fields = ("part_label", "category")
        if channels:
            self._set_features([cloud.features for cloud in clouds], channels, self.up_axis)
        self._keep_points(num_points, sampling)
        if descriptor:
            self.describe(descriptor)

    def describe(self, descriptor: str) -> None:
        """Compute descriptors of the points that are kept, and make them part of the samples."""
        self.features = described(self.xyz, self.mask, descriptor)
        self.fields = (*self.fields, "features")


def described(xyz: Tensor, mask: Tensor, features: str) -> Tensor:
    """(n, N, F) descriptors of the points of clouds (n, N, 3), zero in the padding."""
    describe, _ = DESCRIPTORS[features]
    found = []
    with progress(f"computing {features}", len(xyz)) as advance:
        for clouds, lengths in zip(xyz.split(_AT_ONCE), mask.sum(1).split(_AT_ONCE), strict=True):
            found.append(describe(clouds, lengths=lengths))
            advance(len(clouds))
    return torch.cat(found).masked_fill_(~mask[..., None], 0)


def _part_table(files: PartFolder) -> PartTable:
    parts = files.part_table()
    if parts is None and set(files.names) <= set(SHAPENETPART_PARTS):
        parts = tuple(SHAPENETPART_PARTS[name] for name in files.names)
    if parts is None:
        # All splits: a part may occur in one only, and ids must not depend on the split opened.
        found: list[set[int]] = [set() for _ in files.names]
        for split in filter(files.has_split, ("train", "val", "test")):
            for cloud in files.read(split, None):
                found[cloud.category].update(set(np.unique(cloud.part).tolist()) - {UNLABELLED})
        parts = tuple(tuple(sorted(ids)) for ids in found)
        check_distinct(files.path, parts, files.names)
    return parts


def _select(
    files: PartFolder, parts: PartTable, split: str, val_fraction: float
) -> list[LabelledCloud]:
    if split == "test" or (split != "trainval" and files.has_split("val")):
        return files.read(split, parts)
    train = files.read("train", parts)
    if split == "trainval":
        return train + (files.read("val", parts) if files.has_split("val") else [])
    is_val = stratified_mask(torch.tensor([cloud.category for cloud in train]), val_fraction)
    return [c for c, held in zip(train, is_val.tolist(), strict=True) if held == (split == "val")]
