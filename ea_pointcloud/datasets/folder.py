"""Own clouds and meshes in class folders, in any format that can be read."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ea_pointcloud._checks import check_choice, check_count, check_range
from ea_pointcloud.datasets._files import bad_files
from ea_pointcloud.datasets._folder_cache import Reading, read_clouds
from ea_pointcloud.datasets._folder_files import File, FolderListing, divide, list_folder
from ea_pointcloud.datasets._padded import PaddedClouds
from ea_pointcloud.datasets._splits import check_opening
from ea_pointcloud.datasets.axes import find_mirroring
from ea_pointcloud.datasets.layouts import recognize, resampled_files
from ea_pointcloud.descriptors.channels import parse_features
from ea_pointcloud.io import CloudFileError
from ea_pointcloud.ops.frames import AXES

logger = logging.getLogger(__name__)


class FolderClouds(PaddedClouds):
    """Clouds and meshes in a folder of one's own."""

    def _open(
        self,
        root: str | Path,
        split: str,
        num_points: int,
        sampling: str,
        val_fraction: float,
        up: str,
        stored_points: int,
    ) -> None:
        """Check what both kinds of folders take, and say which one this is."""
        check_opening(split, num_points, sampling, val_fraction)
        check_count("stored_points", stored_points)
        check_range("num_points", num_points, 0, stored_points, "stored_points")
        check_choice("up", up, AXES)
        self.folder = Path(root).expanduser()
        self.name = self.folder.resolve().name
        self.split = split


class FolderDataset(FolderClouds):
    """Clouds and meshes in class folders, held in memory.

    The layout is recognised: ``train/CLASS/file`` with ``test/CLASS/file`` and perhaps
    ``val/CLASS/file``; ``CLASS/train/file`` likewise, as ModelNet's meshes come; ``CLASS/file``
    without splits; or ``modelnet40_normal_resampled`` with its own lists. Files may lie deeper
    inside a class. What the folder does not divide is divided
    by the names of the files, always in the same way: a fifth of each class is test, then
    ``val_fraction`` of the rest is val. Several files of one object (scans, copies) belong on the
    same side, so give such a folder its own splits.

    Meshes are sampled by area with a seed of their own; of larger clouds a random subset is kept.
    What was read is kept in ``root/.ea_pointcloud`` (in the user's cache where that cannot be
    written), and only files that are new or changed are read again.

    Args:
        root: the folder.
        split: ``"train"``, ``"val"``, ``"test"`` or ``"trainval"``.
        num_points: points kept of each cloud, 0 for all that are stored. A smaller cloud keeps what
            it has: nothing is repeated, see ``mask``.
        sampling: which: the ``"first"`` (stored points are in random order), a ``"random"``
            set (the same at every call), or by farthest point sampling (``"fps"``).
        val_fraction: fraction of each class that is set apart where the folder has no val split.
        up: the axis that is up in the files, ``"x"``, ``"y"`` or ``"z"``.
        stored_points: points drawn from each file.
        skip_bad: leave out files that cannot be read, with a warning, instead of raising.
        drop_invalid: leave out points that are not finite, instead of rejecting the file; by
            default in ``.pcd`` files only.
        num_workers: processes that read, 0 for none but this one; default by their number.
        mirrored: whether the files are mirror images, whose x (once y is up) is negated;
            ``"auto"`` recognises ``modelnet40_normal_resampled``, see
            :func:`~ea_pointcloud.datasets.axes.find_mirroring`.
        features: channels of the points, which every file must have: ``"normals"``, ``"colors"``,
            ``"intensity"`` and others, see ``Cloud.channels``.
        columns: what the columns of tables are, see :func:`~ea_pointcloud.read_cloud`.

    Attributes:
        xyz: (n, N, 3) float32, y up, centred, farthest stored point at distance 1; padding is zero.
        mask: (n, N) bool, True = real point; real points come first.
        label: (n,) int64, positions in ``class_names``.
        class_names: names of the folders, sorted.
        files: the file of each cloud, relative to ``root``.
        mirroring: ``"none"``, ``"undone"`` (x negated) or ``"kept"``, as of ``ModelNet``.

    Raises:
        FileNotFoundError: if there is no such folder.
        CloudFileError: if files cannot be read and ``skip_bad`` is not set; lists them.
        ValueError: if an argument is impossible or the folder cannot be understood.
    """

    fields = ("label",)

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
        mirrored: bool | str = "auto",
        features: str | Sequence[str] = (),
        columns: str | None = None,
    ) -> None:
        self._open(root, split, num_points, sampling, val_fraction, up, stored_points)
        names = parse_features("features", features)
        listing = _list_files(self.folder, val_fraction)
        self.mirroring = find_mirroring(self.folder, mirrored)
        clouds, bad = read_splits(
            self.folder, listing, Reading(stored_points, drop_invalid, names, columns),
            skip_bad=skip_bad, num_workers=num_workers,
        )  # fmt: skip
        samples = readable_samples(self.folder, listing, bad, split)
        self.class_names = listing.class_names
        self.files = tuple(path for path, _ in samples)
        self.label = torch.tensor([self.class_names.index(name) for _, name in samples])
        self._set_clouds([clouds[path][:, :3] for path in self.files], up)
        if names:
            self._set_features([clouds[path][:, 3:] for path in self.files], names, up)
        self._keep_points(num_points, sampling)


def read_splits(
    folder: Path,
    listing: FolderListing,
    reading: Reading,
    *,
    skip_bad: bool,
    num_workers: int | None,
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """All splits at once: a bad test file shows before the training, not after it.

    Raises:
        CloudFileError: if files cannot be read and ``skip_bad`` is not set; lists them.
    """
    every = [path for files in listing.splits.values() for path, _ in files]
    clouds, bad = read_clouds(folder, every, reading, num_workers=num_workers)
    if bad and not skip_bad:
        raise CloudFileError.of_files(
            f"{bad_files(folder, bad, f'of {len(every)} files cannot be read as clouds')}"
            "\nrepair or remove them, leave them out with data.skip_bad=true (skip_bad=True in "
            "Python), or leave out points that are not finite with data.drop_invalid=true"
        )
    return clouds, bad


def readable_samples(
    folder: Path, listing: FolderListing, bad: dict[str, str], split: str
) -> list[tuple[str, str]]:
    """(path, class name) of the readable files of a split; some of each class must be in train."""
    readable = {
        part: [sample for sample in files if sample[0] not in bad]
        for part, files in listing.splits.items()
    }
    listed = {name for _, name in listing.splits["train"]}
    without = listed - {name for _, name in readable["train"]}
    if without:
        raise ValueError(
            f"{folder} has no readable shape of {', '.join(sorted(without))} to train on; "
            "add some, or remove the class"
        )
    parts = ("train", "val") if split == "trainval" else (split,)
    samples = sorted(sample for part in parts for sample in readable[part])
    if not samples:
        raise ValueError(f"{folder} has no shape for split {split!r}; {_more(parts)}")
    own = {path: bad[path] for part in parts for path, _ in listing.splits[part] if path in bad}
    if own:
        what = f"of {len(samples) + len(own)} {split} files are left out"
        logger.warning("%s", bad_files(folder, own, what))
    return samples


def _list_files(folder: Path, val_fraction: float) -> FolderListing:
    """Classes and splits; ModelNet as text has lists of its own."""
    if recognize(folder) != "modelnet_txt":
        return list_folder(folder, val_fraction)
    names, splits = resampled_files(folder)
    files = [
        File(name, split, path, Path(path).stem)
        for split, listed in splits.items()
        for path, name in listed
    ]
    return replace(divide(files, val_fraction), class_names=tuple(names))


def _more(parts: tuple[str, ...]) -> str:
    if parts == ("test",):
        return "add test/CLASS/file, or measure on --split val"
    return "a class needs at least 2 shapes beside its test shapes, or val/CLASS/file"
