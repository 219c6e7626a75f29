"""A folder of meshes or clouds into the HDF5 layout that :class:`ModelNet` opens at once."""

import hashlib
import json
import logging
import os
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock

from ea_pointcloud._files import whole_file, write_whole
from ea_pointcloud.datasets._files import MANIFEST, NAMES_FILE, replace_folder
from ea_pointcloud.datasets._folder_files import list_folder
from ea_pointcloud.datasets._sampling import Job, Preparation, Sample, sample_file
from ea_pointcloud.datasets.axes import find_mirroring
from ea_pointcloud.datasets.layouts import recognize, resampled_files
from ea_pointcloud.datasets.verify import describe_written, package_version
from ea_pointcloud.io import CloudFileError
from ea_pointcloud.io.pool import WorkerDied, map_ahead, usable_cores

SHAPES_PER_FILE = 512  # what an interruption costs at most
_FILES_PER_WORKER = 32  # fewer are read sooner than a process starts
_MAX_WORKERS = 8
_SHOWN = 5  # files that an error or a warning lists
_VAL_FRACTION = 0.1  # immaterial: what it sets apart is put back

logger = logging.getLogger(__name__)


class _Shard(NamedTuple):
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
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Sample every shape of a folder into ``target``, in the layout of ModelNet's HDF5 files.

    ``target`` appears when all of it is there. What an interrupted call has done is kept beside it
    and continued by the next with the same settings and files. The outcome depends on files and
    settings alone, not on the number of workers or interruptions. Of mirrored files, such as those
    of ``modelnet40_normal_resampled``, x is negated, also of normals.

    Args:
        folder: class folders in any arrangement of :class:`FolderDataset`, or ModelNet as text,
            whose own lists are followed.
        target: the folder to make, in a folder that exists.
        preparation: how.
        source: name of the data set, for the manifest.
        skip_bad: leave out files that cannot be read, with a warning, instead of raising.
        force: replace ``target`` if it is there.
        workers: processes, 0 for none but this one; chosen by the number of files without it.
        progress: is told the files done and the files in all.

    Returns:
        The manifest, as written to ``target/manifest.json``. Its ``ids`` are the names of the
        shapes, those of ModelNet (``airplane_0004``), in the order of each file's rows.

    Raises:
        FileExistsError: if ``target`` is there and ``force`` is not set.
        CloudFileError: if files cannot be read and ``skip_bad`` is not set; lists them.
        ValueError: if the folder cannot be understood.
    """
    names, splits = _list_files(folder)
    blank = [name for name in names if name.split() != [name]]
    if blank:
        raise ValueError(
            f"{folder} has class folders whose names have blanks, {blank}, which the lists of this "
            "layout cannot hold; rename them"
        )
    work = _Work(
        folder=folder,
        place=target.with_name(f".{target.name}.preparing"),
        names=names,
        shards=_divide(splits),
        preparation=preparation,
        mirroring=find_mirroring(folder, preparation.mirrored),
        skip_bad=skip_bad,
    )
    with FileLock(target.with_name(f".{target.name}.lock")):
        if target.exists() and not force:
            raise FileExistsError(
                f"{target}: exists; replace it with --force, or choose another --output"
            )
        work.place.mkdir(exist_ok=True)
        bad = work.sample(workers, progress)
        if bad and not skip_bad:
            raise CloudFileError.of_files(_bad_files(folder, bad))
        manifest = work.finish(source or folder.resolve().name)
        replace_folder(work.place, target)
    return manifest


@dataclass(frozen=True)
class _Work:
    """A preparation under way, in a folder beside its target."""

    folder: Path
    place: Path
    names: list[str]
    shards: list[_Shard]
    preparation: Preparation
    mirroring: str
    skip_bad: bool

    def sample(self, workers: int | None, progress: Callable[[int, int], None]) -> dict[str, str]:
        """Make the files that are not there yet; returns what could not be read, and why."""
        missing = [shard for shard in self.shards if not self._is_done(shard)]
        jobs = [
            Job(str(self.folder), path, self.preparation, self.mirroring == "undone")
            for shard in missing
            for path, _ in shard.files
        ]
        total = sum(len(shard.files) for shard in self.shards)
        done = total - len(jobs)
        if workers is None:
            workers = min(usable_cores(), _MAX_WORKERS, len(jobs) // _FILES_PER_WORKER)
            workers = 0 if workers == 1 else workers
        results = map_ahead(
            sample_file, jobs, workers=workers, ahead=4 * max(1, workers), preload=(__name__,)
        )
        bad: dict[str, str] = {}
        with closing(results):
            for shard in missing:
                good: dict[str, Sample] = {}
                for job, result in islice(results, len(shard.files)):
                    if isinstance(result, Sample):
                        good[job.path] = result
                    else:
                        died = "the process that read it ended; too large, or damaged"
                        bad[job.path] = died if isinstance(result, WorkerDied) else result
                    done += 1
                    progress(done, total)
                # A file that is repaired later must find its place free.
                if len(good) == len(shard.files) or self.skip_bad:
                    self._write(shard, good)
        if bad and self.skip_bad:
            logger.warning("%s", _bad_files(self.folder, bad))
        return bad

    def finish(self, source: str) -> dict[str, Any]:
        """Write the lists and the manifest; returns the latter."""
        import h5py

        counts = {split: dict.fromkeys(self.names, 0) for split in ("train", "test")}
        kept: set[str] = set()
        ids = {}
        for shard in self.shards:
            with h5py.File(self.place / shard.name, "r") as file:
                paths = [os.fsdecode(path) for path in np.asarray(file["file"]).tolist()]
            kept.update(paths)
            ids[shard.name] = [Path(path).stem for path in paths]
            for path, name in shard.files:
                counts[shard.split][name] += path in kept
        for split in counts:
            listed = [shard.name for shard in self.shards if shard.split == split]
            write_whole(self.place / f"{split}_files.txt", "".join(f"{n}\n" for n in listed))
        write_whole(self.place / NAMES_FILE, "".join(f"{name}\n" for name in self.names))
        files = [NAMES_FILE, "train_files.txt", "test_files.txt", *(s.name for s in self.shards)]
        every = [path for shard in self.shards for path, _ in shard.files]
        manifest = {
            "source": source,
            **asdict(self.preparation),
            "mirroring": self.mirroring,
            "left_out": [path for path in every if path not in kept],
            **describe_written(self.place, self.names, counts, files),
            "ids": ids,
        }
        write_whole(self.place / MANIFEST, json.dumps(manifest, indent=2))
        for path in self.place.glob("*.h5"):  # of an earlier call for more files
            if path.name not in manifest["sha256"]:
                path.unlink()
        return manifest

    def _is_done(self, shard: _Shard) -> bool:
        """Whether an earlier call made the file, of the same files in the same way."""
        import h5py

        path = self.place / shard.name
        if not path.is_file():
            return False
        with h5py.File(path, "r") as file:
            whole = len(file["file"]) == len(shard.files)  # pyright: ignore[reportArgumentType]
            return file.attrs["recipe"] == self._recipe(shard) and (whole or self.skip_bad)

    def _recipe(self, shard: _Shard) -> str:
        """A hash of all that the file depends on."""
        files = [(path, name, *_stamp(self.folder / path)) for path, name in shard.files]
        values = {
            **asdict(self.preparation),
            "mirroring": self.mirroring,
            "version": package_version(),
            "names": self.names,
        }
        text = json.dumps([values, str(self.folder.resolve()), files])
        return hashlib.sha256(text.encode()).hexdigest()

    def _write(self, shard: _Shard, good: dict[str, Sample]) -> None:
        import h5py

        label = [self.names.index(name) for path, name in shard.files if path in good]
        samples = [good[path] for path, _ in shard.files if path in good]
        shape = (len(samples), self.preparation.points, 3)
        columns = {"data": np.array([sample.xyz for sample in samples]).reshape(shape)}
        if self.preparation.normals:
            columns["normal"] = np.array([sample.normal for sample in samples]).reshape(shape)
        dtype = np.uint8 if len(self.names) <= 256 else np.int64
        with whole_file(self.place / shard.name) as partial, h5py.File(partial, "w") as file:
            # Random points do not pack, and files that are not packed can be mapped into memory.
            for key, values in columns.items():
                file[key] = values.astype(np.float32)
            file["label"] = np.array(label, dtype).reshape(-1, 1)
            file.attrs["recipe"] = self._recipe(shard)
            file["file"] = [os.fsencode(path) for path, _ in shard.files if path in good]


def _list_files(folder: Path) -> tuple[list[str], dict[str, list[tuple[str, str]]]]:
    """Class names, and (path, class name) of the files of the published splits."""
    if folder.is_dir() and recognize(folder) == "modelnet_txt":
        return resampled_files(folder)
    listing = list_folder(folder, _VAL_FRACTION)
    # ModelNet's layout has no val split: it is set apart from train when it is opened.
    train = sorted([*listing.splits["train"], *listing.splits["val"]])
    return list(listing.class_names), {"train": train, "test": listing.splits["test"]}


def _divide(splits: dict[str, list[tuple[str, str]]]) -> list[_Shard]:
    return [
        _Shard(f"ply_data_{split}{number}.h5", split, files[start : start + SHAPES_PER_FILE])
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


def _bad_files(folder: Path, bad: dict[str, str]) -> str:
    lines = [f"  {path}: {reason}" for path, reason in sorted(bad.items())[:_SHOWN]]
    if len(bad) > _SHOWN:
        lines.append(f"  and {len(bad) - _SHOWN} more")
    listed = "\n".join(lines)
    return (
        f"{folder}: {len(bad)} files cannot be prepared:\n{listed}\nrepair or remove "
        "them, or leave them out with --skip-bad; most others need not be read again"
    )
