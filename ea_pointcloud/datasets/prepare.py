"""Preparation: a folder of meshes or clouds sampled into the HDF5 layout of ModelNet."""

import hashlib
import json
import logging
import os
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock

from ea_pointcloud._files import whole_file
from ea_pointcloud.datasets._files import bad_files, replace_folder
from ea_pointcloud.datasets._folder_files import list_folder
from ea_pointcloud.datasets._sampling import (
    Job,
    Preparation,
    Sample,
    default_workers,
    sample_file,
)
from ea_pointcloud.datasets.axes import find_mirroring
from ea_pointcloud.datasets.layouts import recognize, resampled_files
from ea_pointcloud.datasets.writing import package_version, write_lists
from ea_pointcloud.descriptors.channels import channel_width
from ea_pointcloud.io import CloudFileError
from ea_pointcloud.io.pool import WorkerDied, map_ahead, progress

SHAPES_PER_FILE = 512  # what an interruption costs at most
_VAL_FRACTION = 0.1  # immaterial: what it sets apart is put back
_BAD = "files cannot be prepared"

logger = logging.getLogger(__name__)


class _Part(NamedTuple):
    """One HDF5 file of the outcome."""

    name: str
    split: str
    files: list[tuple[str, str]]  # (path, class name)


def prepare_folder(
    folder: Path,
    target: Path,
    preparation: Preparation,
    *,
    source: str = "",
    skip_bad: bool = False,
    force: bool = False,
    workers: int | None = None,
) -> dict[str, Any]:
    """Sample every shape of a folder into ``target``, in the layout of ModelNet's HDF5 files.

    ``target`` appears when all of it is there. What an interrupted call has done is kept beside it
    and continued by the next with the same settings and files, on which alone the outcome depends.
    Of mirrored files, such as ``modelnet40_normal_resampled``, x is negated, also of normals.

    Args:
        folder: class folders in any arrangement of :class:`FolderDataset`, or ModelNet as text,
            whose own lists are followed.
        target: the folder to make, in a folder that exists.
        preparation: how.
        source: name of the data set, for the manifest.
        skip_bad: leave out files that cannot be read, with a warning, instead of raising.
        force: replace ``target`` if it is there.
        workers: processes, 0 for none but this one; by default chosen by the number of files.

    Returns:
        The manifest, as written to ``target/manifest.json``. Its ``ids`` are the names of the
        shapes, those of ModelNet (``airplane_0004``), in the order of each file's rows.

    Raises:
        FileExistsError: if ``target`` is there and ``force`` is not set.
        CloudFileError: if files cannot be read and ``skip_bad`` is not set; lists them.
        ValueError: if the folder cannot be understood.
    """
    names, splits = _list_files(folder)
    work = _Work(
        folder=folder,
        place=target.with_name(f".{target.name}.preparing"),
        names=names,
        parts=_divide(splits),
        preparation=preparation,
        mirroring=find_mirroring(folder, preparation.mirrored),
        skip_bad=skip_bad,
    )
    with FileLock(target.with_name(f".{target.name}.lock")):
        if target.exists() and not force:
            raise FileExistsError(f"{target}: exists; replace it with --force, or choose --output")
        work.place.mkdir(exist_ok=True)
        bad = work.sample(workers)
        if bad and not skip_bad:
            raise CloudFileError.of_files(
                f"{bad_files(folder, bad, _BAD)}\nrepair or remove them, or leave them out with "
                "--skip-bad; most others need not be read again"
            )
        manifest = work.finish(source or folder.resolve().name)
        replace_folder(work.place, target)
    return manifest


@dataclass(frozen=True)
class _Work:
    """A preparation under way, in a folder beside its target."""

    folder: Path
    place: Path
    names: list[str]
    parts: list[_Part]
    preparation: Preparation
    mirroring: str
    skip_bad: bool

    def sample(self, workers: int | None) -> dict[str, str]:
        """Make the files that are not there yet; returns what could not be read, and why."""
        missing = [part for part in self.parts if not self._is_done(part)]
        jobs = [
            Job(str(self.folder), path, self.preparation, self.mirroring == "undone")
            for part in missing
            for path, _ in part.files
        ]
        workers = default_workers(len(jobs)) if workers is None else workers
        results = map_ahead(
            sample_file, jobs, workers=workers, ahead=4 * max(1, workers), preload=(__name__,)
        )
        bad: dict[str, str] = {}
        total = sum(len(part.files) for part in self.parts)
        what = f"sampling {self.folder.name}"
        with closing(results), progress(what, total) as advance:
            advance(total - len(jobs))
            for part in missing:
                good: dict[str, Sample] = {}
                for job, result in islice(results, len(part.files)):
                    if isinstance(result, Sample):
                        good[job.path] = result
                    elif isinstance(result, WorkerDied):
                        bad[job.path] = "the process that read it ended; too large, or damaged"
                    else:
                        bad[job.path] = result
                    advance(1)
                # A file that is repaired later must find its place free.
                if len(good) == len(part.files) or self.skip_bad:
                    self._write(part, good)
        if bad and self.skip_bad:
            logger.warning("%s", bad_files(self.folder, bad, f"{_BAD} and are left out"))
        return bad

    def finish(self, source: str) -> dict[str, Any]:
        """Write the lists and the manifest; returns the latter."""
        import h5py

        splits = ("train", "test")
        counts = {split: dict.fromkeys(self.names, 0) for split in splits}
        kept: set[str] = set()
        ids = {}
        for part in self.parts:
            with h5py.File(self.place / part.name, "r") as file:
                paths = [os.fsdecode(path) for path in np.asarray(file["file"]).tolist()]
            kept.update(paths)
            ids[part.name] = [Path(path).stem for path in paths]
            for path, name in part.files:
                counts[part.split][name] += path in kept
        for path in self.place.glob("*.h5"):  # of an earlier call for more files
            if path.name not in ids:
                path.unlink()
        every = [path for part in self.parts for path, _ in part.files]
        return write_lists(
            self.place,
            self.names,
            {split: [p.name for p in self.parts if p.split == split] for split in splits},
            counts,
            source=source,
            **asdict(self.preparation) | {"features": list(self.preparation.features)},
            mirroring=self.mirroring,
            left_out=[path for path in every if path not in kept],
            ids=ids,
        )

    def _is_done(self, part: _Part) -> bool:
        """Whether an earlier call made the file, of the same files in the same way."""
        import h5py

        path = self.place / part.name
        if not path.is_file():
            return False
        with h5py.File(path, "r") as file:
            whole = len(file["file"]) == len(part.files)  # pyright: ignore[reportArgumentType]
            return file.attrs["recipe"] == self._recipe(part) and (whole or self.skip_bad)

    def _recipe(self, part: _Part) -> str:
        """A hash of all that the file depends on."""
        files = [(path, name, *_stamp(self.folder / path)) for path, name in part.files]
        values = {
            **asdict(self.preparation),
            "mirroring": self.mirroring,
            "version": package_version(),
            "names": self.names,
        }
        text = json.dumps([values, str(self.folder.resolve()), files])
        return hashlib.sha256(text.encode()).hexdigest()

    def _write(self, part: _Part, good: dict[str, Sample]) -> None:
        import h5py

        rows = [(path, name) for path, name in part.files if path in good]
        shape = (len(rows), self.preparation.points)
        columns = {"data": [good[path].xyz for path, _ in rows]}
        if self.preparation.normals:
            columns["normal"] = [good[path].normal for path, _ in rows]  # pyright: ignore[reportArgumentType]
        for name in self.preparation.features:
            columns[name] = [good[path].channels[name] for path, _ in rows]
        label = [self.names.index(name) for _, name in rows]
        dtype = np.uint8 if len(self.names) <= 256 else np.int64
        with whole_file(self.place / part.name) as partial, h5py.File(partial, "w") as file:
            # Random points do not pack, and files that are not packed can be mapped into memory.
            for key, values in columns.items():
                width = 3 if key in ("data", "normal") else channel_width(key)
                file[key] = np.array(values, np.float32).reshape(*shape, width)
            file["label"] = np.array(label, dtype).reshape(-1, 1)
            file.attrs["recipe"] = self._recipe(part)
            file["file"] = [os.fsencode(path) for path, _ in rows]


def _list_files(folder: Path) -> tuple[list[str], dict[str, list[tuple[str, str]]]]:
    """Class names, and (path, class name) of the files of the published splits."""
    if folder.is_dir() and recognize(folder) == "modelnet_txt":
        return resampled_files(folder)
    listing = list_folder(folder, _VAL_FRACTION)
    blank = [name for name in listing.class_names if name.split() != [name]]
    if blank:
        raise ValueError(
            f"{folder} has class folders whose names have blanks, {blank}, which the lists of this "
            "layout cannot hold; rename them"
        )
    # ModelNet's layout has no val split: it is set apart from train when it is opened.
    train = sorted([*listing.splits["train"], *listing.splits["val"]])
    return list(listing.class_names), {"train": train, "test": listing.splits["test"]}


def _divide(splits: dict[str, list[tuple[str, str]]]) -> list[_Part]:
    return [
        _Part(f"ply_data_{split}{number}.h5", split, files[start : start + SHAPES_PER_FILE])
        for split, files in splits.items()
        for number, start in enumerate(range(0, len(files), SHAPES_PER_FILE))
    ]


def _stamp(path: Path) -> tuple[int, int]:
    """Size and time of change (ns); zeros where there is no such file, which is reported later."""
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns
