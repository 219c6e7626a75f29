"""Writing clouds of one's own as a data set, piece by piece, so that it may exceed the memory."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from ea_pointcloud._files import whole_file, write_whole
from ea_pointcloud.datasets._files import MANIFEST, NAMES_FILE
from ea_pointcloud.datasets.modelnet import check_content
from ea_pointcloud.datasets.verify import describe_written

Piece = tuple[np.ndarray, np.ndarray]


def write_modelnet(
    folder: str | Path,
    class_names: Sequence[str],
    *,
    train: Iterable[Piece],
    test: Iterable[Piece] = (),
) -> Path:
    """Write a set in ModelNet's HDF5 layout, each piece a file, not compressed.

    ``ea-pointcloud train modelnet40 data.root=FOLDER`` learns it. Clouds should be right-handed, y
    up, centred and within the unit sphere
    (:func:`~ea_pointcloud.augment.normalize_unit_sphere`); a manifest beside them says so and
    lets ``ea-pointcloud data verify`` check the files. Files of 100 MB to some GB are a good size;
    16-bit floats halve them.

    Args:
        folder: to make; its name is free.
        class_names: in the order of the labels, without blanks.
        train: pieces of xyz (n, N, 3), 16- or 32-bit floats, and label (n,), val included.
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
    num_points, files = None, [NAMES_FILE]
    counts: dict[str, dict[str, int]] = {}
    for split, pieces in (("train", train), ("test", test)):
        names = []
        counts[split] = dict.fromkeys(class_names, 0)
        for number, (xyz, label) in enumerate(pieces):
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
            names.append(path.name)
            for place, count in enumerate(labels.bincount(minlength=len(class_names)).tolist()):
                counts[split][class_names[place]] += count
        write_whole(folder / f"{split}_files.txt", "".join(f"{name}\n" for name in names))
        files += [f"{split}_files.txt", *names]
    write_whole(folder / NAMES_FILE, "".join(f"{name}\n" for name in class_names))
    manifest = describe_written(folder, class_names, counts, files)
    write_whole(folder / MANIFEST, json.dumps(manifest, indent=2))
    return folder
