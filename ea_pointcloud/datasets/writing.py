"""Writing data sets of any size in ModelNet's HDF5 layout, piece by piece."""

import json
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from ea_pointcloud._files import whole_file, write_whole
from ea_pointcloud.datasets._files import MANIFEST, NAMES_FILE
from ea_pointcloud.datasets._modelnet_files import check_content
from ea_pointcloud.datasets.verify import file_digest

Piece = tuple[np.ndarray, np.ndarray] | tuple[np.ndarray, np.ndarray, Mapping[str, np.ndarray]]


def write_modelnet(
    folder: str | Path,
    class_names: Sequence[str],
    *,
    train: Iterable[Piece],
    test: Iterable[Piece] = (),
) -> Path:
    """Write a set in ModelNet's HDF5 layout, each piece a file, not compressed.

    ``ea-pointcloud train modelnet40 data.root=FOLDER`` trains on it. Clouds should be right-handed,
    y up, centred and within the unit sphere
    (:func:`~ea_pointcloud.ops.frames.normalize_unit_sphere`); a manifest beside them says so and
    lets ``ea-pointcloud data verify`` check the files. Files of 100 MB to some GB are a good size;
    16-bit floats halve them.

    Args:
        folder: to make; its name is free.
        class_names: in the order of the labels, without blanks.
        train: pieces of xyz (n, N, 3), 16- or 32-bit floats, and label (n,), val included; perhaps
            channels of the points by name, (n, N, C) or (n, N), such as ``{"normal": ...}``.
        test: the same; N is one in all pieces.

    Returns:
        The folder.

    Raises:
        FileExistsError: if ``folder`` is there and not empty.
        ValueError: if a name has a blank, or a piece another shape or an unknown label.
    """
    import h5py

    folder = Path(folder)
    blank = [name for name in class_names if not name or name.split() != [name]]
    if blank or not class_names:
        raise ValueError(f"class_names must be words without blanks, got {list(class_names)}")
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} exists and is not empty; choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    num_points = None
    files: dict[str, list[str]] = {"train": [], "test": []}
    counts = {split: dict.fromkeys(class_names, 0) for split in files}
    for split, pieces in (("train", train), ("test", test)):
        for number, (xyz, label, *channels) in enumerate(pieces):
            path = folder / f"ply_data_{split}{number}.h5"
            labels = check_content(path, xyz.shape, label, len(class_names))
            num_points = num_points or xyz.shape[1]
            if xyz.shape[1] != num_points or xyz.dtype not in (np.float16, np.float32):
                raise ValueError(
                    f"{split} piece {number} must be float16 or float32 of {num_points} points a "
                    f"cloud, got {xyz.dtype} {xyz.shape}"
                )
            with whole_file(path) as partial, h5py.File(partial, "w") as file:
                file["data"] = xyz
                file["label"] = labels[:, None].numpy()
                for name, values in channels[0].items() if channels else ():
                    file[name] = values
            files[split].append(path.name)
            for index, count in enumerate(labels.bincount(minlength=len(class_names)).tolist()):
                counts[split][class_names[index]] += count
    write_lists(folder, class_names, files, counts)
    return folder


def write_lists(
    folder: Path,
    class_names: Sequence[str],
    files: Mapping[str, Sequence[str]],
    counts: Mapping[str, Mapping[str, int]],
    **more: Any,
) -> dict[str, Any]:
    """Write the lists and the manifest of a set whose HDF5 files are there.

    Args:
        folder: that holds them.
        class_names: in the order of the labels.
        files: names of the HDF5 files of each split.
        counts: shapes of each split and class.
        more: further entries of the manifest.

    Returns:
        The manifest, with the checksums that ``data verify`` compares.
    """
    lists = {NAMES_FILE: class_names}
    lists |= {f"{split}_files.txt": names for split, names in files.items()}
    for name, lines in lists.items():
        write_whole(folder / name, "".join(f"{line}\n" for line in lines))
    every = [*lists, *(name for names in files.values() for name in names)]
    manifest = {
        **more,
        "classes": list(class_names),
        "counts": counts,
        "version": package_version(),
        "sha256": {name: file_digest(folder / name, "sha256") for name in every},
    }
    write_whole(folder / MANIFEST, json.dumps(manifest, indent=2))
    return manifest


def package_version() -> str:
    """Of this package."""
    try:
        return version("ea-pointcloud")
    except PackageNotFoundError:
        return "not installed"
