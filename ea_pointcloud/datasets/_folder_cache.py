"""Reading the files of a folder once, in worker processes, and keeping the clouds as HDF5."""

import hashlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import DataLoader
from tqdm import tqdm

from ea_pointcloud._files import whole_file
from ea_pointcloud.datasets import _sampling
from ea_pointcloud.datasets._files import alone

CACHE_FOLDER = ".ea_pointcloud"
NO_LABELS = (
    "has no labels; give one for each point in a column called label, or say which column it is "
    "with --columns x,y,z,label (data.columns=, columns= in Python)"
)
_COLUMNS = ("path", "size", "mtime_ns", "length", "points")
_LARGEST_LABEL = 2**24  # that a 32-bit float holds exactly

logger = logging.getLogger(__name__)


class Reading(NamedTuple):
    """How files are read; another one has a cache of its own."""

    num_points: int  # points kept of each cloud, in random order
    drop_invalid: bool | None = None
    features: tuple[str, ...] = ()  # channels, which every file must have
    columns: str | None = None  # of tables, see ``read_cloud``
    labels: bool = False  # of the points, which every file must have


def read_clouds(
    root: Path, paths: Sequence[str], reading: Reading, *, num_workers: int | None = None
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Read files, or take from the cache what has not changed since.

    Args:
        root: the folder.
        paths: files relative to it.
        reading: how.
        num_workers: processes that read, 0 for none but this one; by default as many as there are
            cores where there are many files.

    Returns:
        clouds: path -> (N, 3 + F) float32, coordinates in the axes of the file, about its
            midpoint, and its channels; and where they are read the labels as a last column.
        bad: path -> why it could not be read.
    """
    stamps, bad = _stamps(root, paths)
    cache = _cache_folder(root) / f"clouds-{_digest(repr(reading) + _readers_digest())}.h5"
    clouds = _load(cache, stamps)
    if len(clouds) == len(stamps):
        return clouds, bad
    with alone(cache.with_suffix(".lock"), f"another process is reading {root}"):
        clouds = _load(cache, stamps)  # another process may just have read them
        missing = [path for path in stamps if path not in clouds]
        try:
            for path, content in _read_all(root, missing, reading, num_workers):
                if isinstance(content, str):
                    bad[path] = content
                else:
                    clouds[path] = content
        finally:  # what was read before Ctrl-C need not be read again
            if any(path in clouds for path in missing):
                _store(cache, stamps, clouds)
    return clouds, bad


def _stamps(root: Path, paths: Sequence[str]) -> tuple[dict[str, tuple[int, int]], dict[str, str]]:
    """Size and time of change (ns) of each file; a message for those that are not there."""
    stamps, bad = {}, {}
    for path in paths:
        try:
            status = (root / path).stat()
            stamps[path] = (status.st_size, status.st_mtime_ns)
        except OSError as error:
            link = " (a link that leads nowhere)" if (root / path).is_symlink() else ""
            bad[path] = f"{error.strerror}{link}"
    return stamps, bad


def _read_one(root: Path, reading: Reading, path: Any) -> tuple[str, np.ndarray | str]:
    """The path with its points, or with the reason why there are none.

    Arrays stay arrays: thousands of tensors of another process would each keep a file open.
    """
    seed = _sampling.file_seed(path)
    cloud = _sampling.read_file(
        root, path, reading.num_points, seed, drop_invalid=reading.drop_invalid,
        columns=reading.columns,
    )  # fmt: skip
    if isinstance(cloud, str):
        return path, cloud
    parts = [cloud.xyz]
    try:
        parts.append(cloud.channels(reading.features))
    except ValueError as error:
        return path, str(error).removeprefix(f"{cloud.called} ")
    if reading.labels:
        if cloud.labels is None:
            return path, NO_LABELS
        if cloud.labels.max() > _LARGEST_LABEL or cloud.labels.min() < -1:
            return path, (
                f"has labels from {cloud.labels.min()} to {cloud.labels.max()}; number the parts "
                "from 0, and give -1 to points that belong to none"
            )
        parts.append(cloud.labels[:, None].astype(np.float32))
    order = _sampling.random_order(len(cloud), seed)[: reading.num_points].numpy()
    return path, np.concatenate(parts, axis=1)[order]


def _read_all(
    root: Path, paths: list[str], reading: Reading, num_workers: int | None
) -> Iterator[tuple[str, np.ndarray | str]]:
    workers = _sampling.default_workers(len(paths)) if num_workers is None else num_workers
    loader = DataLoader(
        paths,  # pyright: ignore[reportArgumentType]
        batch_size=None,
        collate_fn=partial(_read_one, root, reading),  # called in the worker process
        num_workers=workers,
    )
    # In a log file a line now and then is enough.
    interval = 0.1 if sys.stderr.isatty() else 5.0
    with warnings.catch_warnings():
        # Python 3.12 and later warn of forking beside threads; the workers start none and wait
        # for none.
        warnings.filterwarnings("ignore", message=".*use of fork.*", category=DeprecationWarning)
        contents = iter(loader)
    try:
        yield from tqdm(
            contents, total=len(paths), desc=f"reading {root}", unit="file", mininterval=interval
        )
    except RuntimeError as error:  # what a DataLoader makes of a process that was killed
        raise ChildProcessError(
            f"{root}: {error}; is memory short? Run again: files already read are kept"
        ) from error


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _readers_digest() -> str:
    """Of the code that reads: another version may read the same file differently."""
    here = Path(__file__)
    readers = sorted((here.parent.parent / "io").glob("*.py"))
    files = [here, here.with_name("_sampling.py"), *readers]
    return _digest("".join(hashlib.sha256(path.read_bytes()).hexdigest() for path in files))


def _cache_folder(root: Path) -> Path:
    """``ROOT/.ea_pointcloud``, or one in the user's cache where the root cannot be written to."""
    own = root / CACHE_FOLDER
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    other = home / "ea_pointcloud" / _digest(str(root.resolve()))
    for folder in (own, other):
        try:
            folder.mkdir(parents=folder is other, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK):
            return folder
    raise OSError(
        f"neither {own} nor {other} can be written to; set XDG_CACHE_HOME to a folder that can"
    )


def _load(cache: Path, stamps: dict[str, tuple[int, int]]) -> dict[str, np.ndarray]:
    """The clouds of files that are as they were; none where there is no cache, or a damaged one."""
    import h5py

    if not cache.is_file():
        return {}
    try:
        with h5py.File(cache, "r") as file:
            columns = {name: np.asarray(file[name]) for name in _COLUMNS}
        ends = columns["length"].cumsum()
        if len(columns["points"]) != ends[-1]:
            raise ValueError("its parts do not belong together")
        paths = map(os.fsdecode, columns["path"].tolist())
        known = zip(columns["size"].tolist(), columns["mtime_ns"].tolist(), strict=True)
        clouds = np.split(columns["points"], ends[:-1])
        rows = zip(paths, known, clouds, strict=True)
        return {path: points for path, stamp, points in rows if stamps.get(path) == stamp}
    except Exception as error:  # a damaged file raises whatever HDF5 comes across
        logger.warning("%s is damaged (%s) and is written again", cache, error)
        return {}


def _store(cache: Path, stamps: dict[str, tuple[int, int]], clouds: dict[str, np.ndarray]) -> None:
    """Replace the cache; a disk that is full costs no more than reading again next time."""
    import h5py

    sizes, times = zip(*(stamps[path] for path in clouds), strict=True)
    try:
        with whole_file(cache) as partial, h5py.File(partial, "w") as file:
            file["path"] = [os.fsencode(path) for path in clouds]
            file["size"] = np.array(sizes, np.int64)
            file["mtime_ns"] = np.array(times, np.int64)
            file["length"] = np.array([len(points) for points in clouds.values()], np.int64)
            points = np.concatenate(list(clouds.values()))
            file.create_dataset("points", data=points, chunks=True, fletcher32=True)
    except OSError as error:
        logger.warning("%s cannot be written (%s); files are read again next time", cache, error)
