"""A folder of classes of one's own, in any format that can be read."""

import logging
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ea_pointcloud._checks import check_choice, check_count, check_range
from ea_pointcloud.augment.transforms import (
    AXES,
    SAMPLINGS,
    negate_x,
    normalize_unit_sphere,
    to_y_up,
)
from ea_pointcloud.datasets._folder_cache import Reading, read_clouds
from ea_pointcloud.datasets._folder_files import FolderListing, list_folder
from ea_pointcloud.datasets._padding import choose_real_points, in_chunks, length_mask, pad
from ea_pointcloud.datasets._splits import SPLITS, check_val_fraction
from ea_pointcloud.datasets.axes import find_mirroring
from ea_pointcloud.io import CloudFileError
from ea_pointcloud.ops import gather_points

_SHOWN = 5  # files that an error or a warning lists

logger = logging.getLogger(__name__)


class FolderDataset(Dataset[dict[str, Tensor]]):
    """Clouds and meshes in class folders, held in memory.

    The layout is found by itself: ``train/CLASS/file`` with ``test/CLASS/file`` and perhaps
    ``val/CLASS/file``; ``CLASS/train/file`` likewise, as ModelNet's meshes come; or ``CLASS/file``
    without splits. Files may lie deeper inside a class. What the folder does not divide is divided
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
            it has: nothing is repeated, and ``mask`` tells.
        sampling: which: the ``"first"`` (stored points are in random order), a ``"random"``
            set (the same at every call), or by farthest point sampling (``"fps"``).
        val_fraction: fraction of each class that is set apart where the folder has no val split.
        up: the axis that is up in the files, ``"x"``, ``"y"`` or ``"z"``.
        stored_points: points drawn from each file.
        skip_bad: leave out files that cannot be read, with a warning, instead of raising.
        drop_invalid: leave out points that are not finite, instead of rejecting the file; by
            default in ``.pcd`` files only.
        num_workers: processes that read, 0 for none but this one; chosen by itself without it.
        mirrored: whether the files are mirror images, whose x (once y is up) is negated;
            ``"auto"`` takes ``modelnet40_normal_resampled`` for it, see
            :func:`~ea_pointcloud.datasets.axes.find_mirroring`.

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

    up_axis: ClassVar[str] = "y"

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
    ) -> None:
        check_choice("split", split, SPLITS)
        check_count("stored_points", stored_points)
        check_range("num_points", num_points, 0, stored_points, "stored_points")
        check_choice("sampling", sampling, SAMPLINGS)
        check_val_fraction(val_fraction)
        check_choice("up", up, AXES)
        self.folder = Path(root).expanduser()
        self.name = self.folder.resolve().name
        self.split = split
        listing = list_folder(self.folder, val_fraction)
        self.mirroring = find_mirroring(self.folder, mirrored)
        # All splits at once: a bad test file shows before the training, not after it.
        every = [path for files in listing.splits.values() for path, _ in files]
        reading = Reading(stored_points, drop_invalid)
        clouds, bad = read_clouds(self.folder, every, reading, num_workers=num_workers)
        if bad and not skip_bad:
            raise CloudFileError.of_files(_bad_files(self.folder, bad, len(every)))
        samples = self._samples(listing, bad)
        self.class_names = listing.class_names
        self.files = tuple(path for path, _ in samples)
        self.label = torch.tensor([self.class_names.index(name) for _, name in samples])
        arrays = [clouds[path] for path in self.files]
        self.mask = length_mask(arrays)
        xyz = to_y_up(pad(arrays, 0), up)
        if self.mirroring == "undone":
            xyz = negate_x(xyz)
        self.xyz = in_chunks(normalize_unit_sphere, xyz, self.mask)
        if 0 < num_points < self.mask.shape[1]:
            idx = choose_real_points(self.xyz, self.mask, num_points, sampling)
            self.mask = self.mask[:, :num_points]
            self.xyz = gather_points(self.xyz, idx).masked_fill_(~self.mask[..., None], 0)

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, index: int | list[int] | Tensor) -> dict[str, Tensor]:
        """One sample, or a whole batch where ``index`` is a list or tensor.

        Returns:
            ``xyz``, ``mask`` and ``label``; no longer than the longest cloud of the batch.
        """
        mask = self.mask[index]
        longest = int(mask.sum(-1).max())
        return {
            "xyz": self.xyz[index][..., :longest, :],
            "mask": mask[..., :longest],
            "label": self.label[index],
        }

    def __repr__(self) -> str:
        lengths = self.mask.sum(1)
        low, high = int(lengths.min()), int(lengths.max())
        return (
            f"FolderDataset({self.name!r}, split={self.split!r}, shapes={len(self)}, "
            f"points={high if low == high else f'{low}..{high}'}, "
            f"classes={len(self.class_names)})"
        )

    def _samples(self, listing: FolderListing, bad: dict[str, str]) -> list[tuple[str, str]]:
        """(path, class name) of the readable files of this split, one at least of each class."""
        readable = {
            split: [sample for sample in files if sample[0] not in bad]
            for split, files in listing.splits.items()
        }
        without = set(listing.class_names) - {name for _, name in readable["train"]}
        if without:
            raise ValueError(
                f"{self.folder} has no readable shape of {', '.join(sorted(without))} to train on; "
                "add some, or remove the class"
            )
        parts = ("train", "val") if self.split == "trainval" else (self.split,)
        samples = sorted(sample for part in parts for sample in readable[part])
        if not samples:
            raise ValueError(f"{self.folder} has no shape for split {self.split!r}; {_more(parts)}")
        own = {path: bad[path] for part in parts for path, _ in listing.splits[part] if path in bad}
        if own:
            logger.warning("%s", _bad_files(self.folder, own, len(samples) + len(own), self.split))
        return samples


def _more(parts: tuple[str, ...]) -> str:
    if parts == ("test",):
        return "add test/CLASS/file, or measure on --split val"
    return "a class needs at least 2 shapes beside its test shapes, or val/CLASS/file"


def _bad_files(folder: Path, bad: dict[str, str], total: int, skipped_from: str = "") -> str:
    """The message on bad files: an error, or a warning where they are ``skipped_from`` a split."""
    lines = [f"  {path}: {reason}" for path, reason in sorted(bad.items())[:_SHOWN]]
    if len(bad) > _SHOWN:
        lines.append(f"  and {len(bad) - _SHOWN} more")
    listed = "\n".join(lines)
    if skipped_from:
        return f"{folder}: {len(bad)} of {total} {skipped_from} files are left out:\n{listed}"
    return (
        f"{folder}: {len(bad)} of {total} files cannot be read as clouds:\n{listed}\nrepair or "
        "remove them, leave them out with data.skip_bad=true (skip_bad=True in Python), or leave "
        "out points that are not finite with data.drop_invalid=true"
    )
