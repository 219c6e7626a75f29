"""The layouts of part-labelled sets on disk, read shape by shape and checked, nothing changed."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ea_pointcloud.datasets._files import (
    counted_from,
    find_layout,
    last_column,
    no_list,
    not_finite,
    plain_name,
    read_h5,
    read_h5_channels,
    read_json,
    read_lines,
    read_rows,
    remedy,
)

H5_MARKER = "all_object_categories.txt"
TXT_MARKER = "synsetoffset2category.txt"
PUBLISHED_NAME = "shapenetpart"
PUBLISHED_TABLE_FILE = "overallid_to_catid_partid.json"
# The published archive of the HDF5 files unpacks to ``hdf5_data``; most codes rename it.
PUBLISHED_LAYOUTS = (
    ("shapenet_part_seg_hdf5_data", H5_MARKER),
    ("hdf5_data", H5_MARKER),
    ("shapenetcore_partanno_segmentation_benchmark_v0_normal", TXT_MARKER),
    ("shapenetcore_partanno_segmentation_benchmark_v0", TXT_MARKER),
)

UNLABELLED = -1  # of points that no loss and no metric counts
PartTable = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class LabelledCloud:
    """One shape as its file has it.

    Shape:
        xyz: (N, 3) float32, N >= 1.
        part: (N,) int64, part ids.
        features: (N, F) float32, the channels that were asked for.
    """

    source: str
    category: int
    xyz: np.ndarray
    part: np.ndarray
    features: np.ndarray


@dataclass(frozen=True)
class PartFolder:
    """A part-labelled set in one of the two layouts.

    Args:
        path: the folder.
        marker: the file that lists the categories, which identifies the layout.
        names: of the categories, in the order of the labels.
        synsets: the folder or id of each category.
        features: channels of the points to read.
    """

    path: Path
    marker: str
    names: tuple[str, ...]
    synsets: tuple[str, ...]
    features: tuple[str, ...] = ()

    @classmethod
    def find(
        cls, root: str | Path | None, name: str, features: tuple[str, ...] = ()
    ) -> "PartFolder":
        """The set called ``name``: HDF5 where it is there, else txt; txt first for normals."""
        own = ((f"{name}_hdf5_data", H5_MARKER), (f"{name}_txt_normal", TXT_MARKER))
        layouts = PUBLISHED_LAYOUTS if name == PUBLISHED_NAME else own
        if features == ("normals",):
            layouts = sorted(layouts, key=lambda layout: layout[1] != TXT_MARKER)
        path, marker = find_layout(root, layouts)
        rows = [line.rsplit(None, 1) for line in read_lines(path / marker)]  # names may have blanks
        if not rows or any(len(row) != 2 for row in rows):
            raise ValueError(
                f"{path / marker} must hold a name and an id on each line, one category a line, "
                f"got {len(rows)} lines"
            )
        synsets = tuple(plain_name(row[1], path / marker) for row in rows)
        return cls(path, marker, tuple(row[0].strip() for row in rows), synsets, features)

    def has_split(self, split: str) -> bool:
        """Whether the folder lists the shapes of ``split``."""
        return self._list_file(split).is_file()

    def part_table(self) -> PartTable | None:
        """The part ids of each category as the folder's own files say, None where none does.

        Raises:
            ValueError: if a file does not fit the categories, or two categories share an id.
        """
        own, published = self.path / "seg_classes.json", self.path / PUBLISHED_TABLE_FILE
        if own.is_file():
            table = read_json(own)
            self._check_keys(own, table)
            parts = tuple(tuple(int(part) for part in table[name]) for name in self.names)
            check_distinct(own, parts, self.names)
            return parts
        if published.is_file():
            rows = read_json(published)  # [synset, number in the category] of each part id
            parts = tuple(
                tuple(part for part, row in enumerate(rows) if row[0] == synset)
                for synset in self.synsets
            )
            if sum(map(len, parts)) != len(rows) or not all(parts):
                raise ValueError(
                    f"{published} must give parts to the ids in {self.marker} and to no other; "
                    "the files do not belong together"
                )
            return parts
        return None

    def part_names(self, parts: PartTable) -> tuple[str, ...]:
        """A name for every part id: "Chair/leg" by ``part_names.json``, else "Chair/0"."""
        path = self.path / "part_names.json"
        given: dict[str, list[str]] = {}
        if path.is_file():
            given = read_json(path)
            self._check_keys(path, given)
        result = [f"unused/{part}" for part in range(1 + max(max(p, default=0) for p in parts))]
        for name, ids in zip(self.names, parts, strict=True):
            own = given.get(name, [str(number) for number in range(len(ids))])
            if len(own) != len(ids):
                raise ValueError(
                    f"{path} names {len(own)} parts of {name!r}, which has the {len(ids)} parts "
                    f"{list(ids)}; the files do not belong together"
                )
            for part, part_name in zip(ids, own, strict=True):
                result[part] = f"{name}/{part_name}"
        return tuple(result)

    def read(self, split: str, parts: PartTable | None) -> list[LabelledCloud]:
        """The shapes of one listed split, in the order of the list.

        Args:
            split: ``"train"``, ``"val"`` or ``"test"``.
            parts: part ids of each category, to check the labels by; None if not yet known.

        Raises:
            FileNotFoundError: if the list or a file it names is missing.
            ValueError: if a file does not hold what the layout promises.
        """
        listing = self._list_file(split)
        if not listing.is_file():
            raise no_list(listing, split, "the files")
        names = read_lines(listing) if self.marker == H5_MARKER else read_json(listing)
        if not names:
            raise ValueError(f"{listing} lists no shape; name the files of the split in it")
        if self.marker == H5_MARKER:
            # Lists may name paths on their author's disk; only the file names matter.
            files = [self.path / Path(name).name for name in names]
            clouds = [cloud for file in files for cloud in self._read_h5(file)]
        else:
            clouds = [self._read_shape(listing, entry, parts) for entry in names]
        if parts is not None:
            for cloud in clouds:
                _check_parts(cloud, parts, self.names)
        return clouds

    def _list_file(self, split: str) -> Path:
        if self.marker == H5_MARKER:
            return self.path / f"{split}_hdf5_file_list.txt"
        return self.path / "train_test_split" / f"shuffled_{split}_file_list.json"

    def _check_keys(self, path: Path, table: Any) -> None:
        missing = [name for name in self.names if name not in table]
        if missing:
            raise ValueError(
                f"{path} has no entry for {missing}, which {self.marker} lists; "
                "the files do not belong together"
            )

    def _read_shape(self, listing: Path, entry: str, parts: PartTable | None) -> LabelledCloud:
        """A shape of the txt layout: ``SYNSET/ID.txt``, or points and labels in two folders."""
        _, synset, shape = ("", *entry.split("/"))[-3:]
        if synset not in self.synsets:
            raise ValueError(
                f"{listing} names {entry!r}, whose category is not in {self.marker}; "
                "the files do not belong together"
            )
        category = self.synsets.index(synset)
        folder = self.path / synset
        points = folder / "points" / f"{shape}.pts"
        if points.is_file():
            return self._read_pair(
                points, folder / "points_label" / f"{shape}.seg", category, parts
            )
        path = folder / f"{shape}.txt"
        rows = read_rows(path, (4, 7))
        if self.features and (self.features != ("normals",) or rows.shape[1] != 7):
            raise self._lacks(path)
        features = rows[:, 3 : 3 + 3 * len(self.features)]
        return LabelledCloud(str(path), category, rows[:, :3], last_column(path, rows), features)

    def _lacks(self, path: Path) -> ValueError:
        return ValueError(
            f"{path} has no {', '.join(self.features)}; leave features='none', or take the layout "
            "with x y z nx ny nz part on each line, or HDF5 with a data set for each channel"
        )

    def _read_pair(
        self, points: Path, labels: Path, category: int, parts: PartTable | None
    ) -> LabelledCloud:
        if parts is None:
            raise ValueError(
                f"{points} has labels counted from 1 in each category, which say nothing "
                f"without a table; add {self.path / 'seg_classes.json'}"
            )
        xyz, number = read_rows(points, (3,)), last_column(labels, read_rows(labels, (1,)))
        own = parts[category]
        if len(xyz) != len(number):
            raise ValueError(
                f"{points} has {len(xyz)} points, but {labels} has {len(number)} labels; they must "
                f"have as many; {remedy(labels)}"
            )
        known = number[number != UNLABELLED]
        if len(known) and (known.min() < 1 or known.max() > len(own)):
            raise ValueError(
                f"{labels} has labels from {known.min()} to {known.max()}, but "
                f"{self.names[category]!r} has the parts 1 to {len(own)}; "
                "the files do not belong together"
            )
        if self.features:
            raise self._lacks(points)
        part = np.array([*own, UNLABELLED])[np.where(number == UNLABELLED, len(own), number - 1)]
        return LabelledCloud(str(labels), category, xyz, part, xyz[:, :0])

    def _read_h5(self, path: Path) -> list[LabelledCloud]:
        data, label, part = read_h5(path, "data", "label", "pid")
        shapes_fit = data.ndim == 3 and data.shape[2] == 3 and data.shape[1] > 0
        if not shapes_fit or label.size != len(data) or part.shape != data.shape[:2]:
            raise ValueError(
                f"{path} must hold data (n, N, 3), label (n, 1) and pid (n, N), "
                f"got {data.shape}, {label.shape} and {part.shape}"
            )
        if not np.isfinite(data).all():
            raise not_finite(path)
        category = label.ravel().astype(np.int64)
        if len(category) and not 0 <= category.min() <= category.max() < len(self.names):
            raise ValueError(
                f"{path} has labels from {category.min()} to {category.max()}, but {H5_MARKER} "
                f"lists {len(self.names)} categories; "
                f"{counted_from(category, 'the categories', len(self.names))}"
            )
        xyz, parts = data.astype(np.float32), part.astype(np.int64)
        features = np.empty((*data.shape[:2], 0), np.float32)
        if self.features:
            features = read_h5_channels(path, self.features, slice(None), data.shape)
        return [
            LabelledCloud(
                f"{path}, shape {row},", int(category[row]), xyz[row], parts[row], features[row]
            )
            for row in range(len(xyz))
        ]


def check_distinct(source: Path, parts: PartTable, names: Sequence[str]) -> None:
    """Raise unless every part id belongs to one category only and none is negative."""
    owner: dict[int, str] = {}
    for name, ids in zip(names, parts, strict=True):
        for part in ids:
            if part < 0 or part in owner:
                raise ValueError(
                    f"{source} gives part {part} to {name!r}, but part ids must be at least 0 and "
                    f"belong to one category; already in use: {owner}; number the parts through in "
                    "seg_classes.json"
                )
            owner[part] = name


def _check_parts(cloud: LabelledCloud, parts: PartTable, names: Sequence[str]) -> None:
    known = {*parts[cloud.category], UNLABELLED}
    unknown = sorted(set(np.unique(cloud.part).tolist()) - known)
    if unknown:
        own = parts[cloud.category]
        from_one = {part - 1 for part in np.unique(cloud.part).tolist()} <= set(own)
        hint = ", which look counted from 1: subtract 1 from each" if from_one else ""
        raise ValueError(
            f"{cloud.source} has part ids {unknown}, but {names[cloud.category]!r} has the parts "
            f"{list(own)}; correct its labels{hint}, or the table of parts; points without a part "
            f"have {UNLABELLED}"
        )
