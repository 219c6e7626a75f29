"""Own clouds and meshes whose points are labelled, in any format that holds labels."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ea_pointcloud.datasets._files import read_json
from ea_pointcloud.datasets._folder_cache import Reading
from ea_pointcloud.datasets._folder_files import list_labelled_folder
from ea_pointcloud.datasets._padded import pad
from ea_pointcloud.datasets._part_files import UNLABELLED
from ea_pointcloud.datasets.folder import FolderClouds, read_splits, readable_samples
from ea_pointcloud.descriptors.channels import parse_features

NAMES_FILE = "part_names.json"


class PartFolderDataset(FolderClouds):
    """Clouds with a label for each point, with or without category folders, held in memory.

    The layout is recognised: ``train/file`` with ``test/file`` and perhaps ``val/file``, or
    ``train/CATEGORY/file`` and so on, or the same without splits; what is not divided is divided
    as by :class:`~ea_pointcloud.datasets.FolderDataset`. The files hold whole numbers as labels; a
    mesh has those of its vertices. Points labelled -1 belong to no part and are not counted.

    A part is a label that occurs in a category, and is named ``CATEGORY/LABEL``, or ``LABEL``
    without categories. ``part_names.json`` in the folder gives names in the place of labels:
    ``{"CATEGORY": {"LABEL": "leg", ...}, ...}``, or ``{"LABEL": "leg", ...}``.

    Args:
        root: the folder.
        split: see :class:`~ea_pointcloud.datasets.FolderDataset`, as the others.
        num_points: points kept of each cloud, 0 for all that are stored.
        sampling: which: ``"first"``, ``"random"`` or ``"fps"``.
        val_fraction: fraction of each category that is set apart where there is no val split.
        up: the axis that is up in the files.
        stored_points: points drawn from each file.
        skip_bad: leave out files that cannot be read, with a warning, instead of raising.
        drop_invalid: leave out points that are not finite.
        num_workers: processes that read.
        features: channels of the points, which every file must have.
        columns: what the columns of tables are, as ``"x,y,z,label"``.

    Attributes:
        xyz: (n, N, 3) float32, y up, centred, farthest stored point at distance 1; padding is zero.
        mask: (n, N) bool, True = real point; real points come first.
        part_label: (n, N) int64, positions in ``part_names``; -1 in the padding and without a part.
        category: (n,) int64, positions in ``category_names``: those of the folders, or "object".
        parts: the part ids of each category.
        files: the file of each cloud, relative to ``root``.

    Raises:
        FileNotFoundError: if there is no such folder.
        CloudFileError: if files cannot be read or have no labels, and ``skip_bad`` is not set.
        ValueError: if an argument is impossible or the folder cannot be understood.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        split: str = "train",
        num_points: int = 0,
        sampling: str = "first",
        val_fraction: float = 0.2,
        up: str = "y",
        stored_points: int = 2048,
        skip_bad: bool = False,
        drop_invalid: bool | None = None,
        num_workers: int | None = None,
        features: str | Sequence[str] = (),
        columns: str | None = None,
    ) -> None:
        self._open(root, split, num_points, sampling, val_fraction, up, stored_points)
        names = parse_features("features", features)
        listing, has_categories = list_labelled_folder(self.folder, val_fraction)
        reading = Reading(stored_points, drop_invalid, names, columns, labels=True)
        clouds, bad = read_splits(
            self.folder, listing, reading, skip_bad=skip_bad, num_workers=num_workers
        )
        self.category_names = listing.class_names
        every = {path: name for files in listing.splits.values() for path, name in files}
        found: dict[str, set[int]] = {name: set() for name in self.category_names}
        for path, points in clouds.items():
            found[every[path]].update(np.unique(points[:, -1]).astype(int).tolist())
        # All splits: a part may occur in one only, and ids must not depend on the split opened.
        labels = [sorted(found[name] - {UNLABELLED}) for name in self.category_names]
        ends = np.cumsum([0, *map(len, labels)]).tolist()
        if ends[-1] < 2:
            raise ValueError(
                f"{self.folder} has {ends[-1]} different labels; a segmenter needs at least 2 parts"
            )
        self.parts = tuple(tuple(range(*ids)) for ids in pairwise(ends))
        self.part_names = self._names(labels, has_categories)
        samples = readable_samples(self.folder, listing, bad, split)
        self.files = tuple(path for path, _ in samples)
        self.category = torch.tensor([self.category_names.index(name) for _, name in samples])
        self._set_clouds([clouds[path][:, :3] for path in self.files], up)
        ids = [
            _positions(clouds[path][:, -1].astype(np.int64), labels[category], ends[category])
            for path, category in zip(self.files, self.category.tolist(), strict=True)
        ]
        self.part_label = pad(ids, UNLABELLED)
        self.fields = ("part_label", "category")
        if names:
            self._set_features([clouds[path][:, 3:-1] for path in self.files], names, up)
        self._keep_points(num_points, sampling)

    def _names(self, labels: list[list[int]], has_categories: bool) -> tuple[str, ...]:
        path = self.folder / NAMES_FILE
        given: Any = read_json(path) if path.is_file() else {}
        result = []
        for category, own in zip(self.category_names, labels, strict=True):
            names = given.get(category, {}) if has_categories else given
            prefix = f"{category}/" if has_categories else ""
            result += [f"{prefix}{names.get(str(label), label)}" for label in own]
        if len(set(result)) < len(result):
            raise ValueError(f"{path} must give different labels different names, got {result}")
        return tuple(result)


def _positions(values: np.ndarray, labels: list[int], first: int) -> np.ndarray:
    """(N,) part ids of the labels in a file: ``first`` for the first of ``labels``."""
    return np.where(values == UNLABELLED, UNLABELLED, first + np.searchsorted(labels, values))
