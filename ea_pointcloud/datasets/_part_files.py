"""The layouts of part-labelled sets on disk, read shape by shape and checked, nothing changed."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ea_pointcloud.datasets._files import (
    check_listed,
    counted_from,
    find_layout,
    no_list,
    not_finite,
    plain_name,
    read_h5,
    read_json,
    read_lines,
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

PartTable = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class LabelledCloud:
    """One shape as its file has it.

    Shape:
        xyz: (N, 3) float32, N >= 1.
        part: (N,) int64, part ids.
        normals: (N, 3) float32, None where the file has none.
    """

    source: str
    category: int
    xyz: np.ndarray
    part: np.ndarray
    normals: np.ndarray | None


@dataclass(frozen=True)
class PartFolder:
    """A part-labelled set in one of the two layouts.

    Args:
        path: the folder.
        marker: the file that lists the categories, which identifies the layout.
        names: of the categories, in the order of the labels.
        synsets: the folder or id of each category.
    """

    path: Path
    marker: str
    names: tuple[str, ...]
    synsets: tuple[str, ...]

    @classmethod
    def find(cls, root: str | Path | None, name: str, *, normals: bool) -> "PartFolder":
        """The set called ``name``: HDF5 where it is there, else txt, which alone has normals."""
        own = ((f"{name}_hdf5_data", H5_MARKER), (f"{name}_txt_normal", TXT_MARKER))
        layouts = PUBLISHED_LAYOUTS if name == PUBLISHED_NAME else own
        if normals:
            layouts = [layout for layout in layouts if layout[1] == TXT_MARKER]
        path, marker = find_layout(root, layouts)
        rows = [line.split() for line in read_lines(path / marker)]
        if not rows or any(len(row) != 2 for row in rows):
            raise ValueError(
                f"{path / marker} must hold a name and an id on each line, one category a line, "
                f"got {len(rows)} lines; names have no blanks"
            )
        synsets = tuple(plain_name(row[1], path / marker) for row in rows)
        return cls(path, marker, tuple(row[0] for row in rows), synsets)

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
            clouds = [cloud for file in files for cloud in _read_h5_clouds(file, len(self.names))]
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
        rows = _read_rows(path, (4, 7))
        normals = rows[:, 3:6] if rows.shape[1] == 7 else None
        return LabelledCloud(str(path), category, rows[:, :3], _integers(path, rows), normals)

    def _read_pair(
        self, points: Path, labels: Path, category: int, parts: PartTable | None
    ) -> LabelledCloud:
        if parts is None:
            raise ValueError(
                f"{points} has labels counted from 1 in each category, which say nothing "
                f"without a table; add {self.path / 'seg_classes.json'}"
            )
        xyz, number = _read_rows(points, (3,)), _integers(labels, _read_rows(labels, (1,)))
        own = parts[category]
        if len(xyz) != len(number):
            raise ValueError(
                f"{points} has {len(xyz)} points, but {labels} has {len(number)} labels; they must "
                f"have as many; {remedy(labels)}"
            )
        if number.min() < 1 or number.max() > len(own):
            raise ValueError(
                f"{labels} has labels from {number.min()} to {number.max()}, but "
                f"{self.names[category]!r} has the parts 1 to {len(own)}; "
                "the files do not belong together"
            )
        return LabelledCloud(str(labels), category, xyz, np.array(own)[number - 1], None)


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
    unknown = sorted(set(np.unique(cloud.part).tolist()) - set(parts[cloud.category]))
    if unknown:
        own = parts[cloud.category]
        from_one = {part - 1 for part in np.unique(cloud.part).tolist()} <= set(own)
        hint = ", which look counted from 1: subtract 1 from each" if from_one else ""
        raise ValueError(
            f"{cloud.source} has part ids {unknown}, but {names[cloud.category]!r} has the parts "
            f"{list(own)}; correct its labels{hint}, or the table of parts"
        )


def _read_rows(path: Path, widths: tuple[int, ...]) -> np.ndarray:
    """(N, width) float32, as many columns as the first row has."""
    check_listed(path)
    try:
        text = path.read_text(encoding="ascii")
        values = np.array(text.split(), dtype=np.float32)
    except ValueError as error:
        raise ValueError(f"{path} must hold numbers ({error}); {remedy(path)}") from error
    width = len(text.partition("\n")[0].split())
    if width not in widths or values.size % width:
        raise ValueError(
            f"{path} must hold rows of {' or '.join(map(str, widths))} numbers, got {width} in the "
            f"first row and {values.size} in all; {remedy(path)}"
        )
    if not np.isfinite(values).all():
        raise not_finite(path, "numbers")
    return values.reshape(-1, width)


def _integers(path: Path, rows: np.ndarray) -> np.ndarray:
    """(N,) int64, the last column."""
    column = rows[:, -1]
    whole = column.astype(np.int64)
    if (whole != column).any():
        raise ValueError(
            f"{path} must have whole numbers as part labels in its last column, "
            f"got {column[whole != column][0]}; {remedy(path)}"
        )
    return whole


def _read_h5_clouds(path: Path, num_categories: int) -> list[LabelledCloud]:
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
    if len(category) and not 0 <= category.min() <= category.max() < num_categories:
        raise ValueError(
            f"{path} has labels from {category.min()} to {category.max()}, but {H5_MARKER} lists "
            f"{num_categories} categories; "
            f"{counted_from(category, 'the categories', num_categories)}"
        )
    xyz, parts = data.astype(np.float32), part.astype(np.int64)
    return [
        LabelledCloud(f"{path}, shape {row},", int(category[row]), xyz[row], parts[row], None)
        for row in range(len(xyz))
    ]
