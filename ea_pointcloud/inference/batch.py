"""Many files in two stages: loading, in worker processes, and the network, in batches."""

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from ea_pointcloud.inference.classify import Classification
from ea_pointcloud.inference.predictor import Predictor
from ea_pointcloud.inference.preprocess import ModelInput, preprocess
from ea_pointcloud.inference.segment import Segmentation
from ea_pointcloud.io import READABLE, Cloud, conventional_up, read_cloud
from ea_pointcloud.io.pool import WorkerDied, map_ahead
from ea_pointcloud.models import DataSpec

Loaded = TypeVar("Loaded")
Result = TypeVar("Result")

Sent = tuple[NDArray[np.float32], str, NDArray[np.float32] | None]

# What a worker that loads clouds would import; the second imports numba.
PRELOAD = (__name__, "ea_pointcloud.ops._cpu")
BATCH_SIZE = 32
EXPLAINED = (OSError, ValueError, ImportError, MemoryError, RuntimeError)  # by their messages


@dataclass(frozen=True)
class Found:
    """A file to read.

    Args:
        path: as it was given, or below a folder as that was given.
        relative: its place below the folder given, or its name; below the folder's own name where
            there were several paths.
    """

    path: str
    relative: str


def find_files(
    paths: Sequence[str], *, recursive: bool = False, exclude: Path | None = None
) -> Iterator[Found]:
    """List files one by one: those given as they are, of folders those whose suffix is readable.

    Names in a folder are sorted, so the order is the same every time; only one folder's names are
    held at a time (and those of the folders above it). Hidden names and links to folders are left
    out.

    Args:
        paths: files and folders, in this order.
        recursive: also look into the folders inside.
        exclude: a file or folder that is left out, such as the results of this very run.

    Raises:
        ValueError: if a folder holds no readable file.
        OSError: if a folder cannot be listed.
    """
    for path in paths:
        if not Path(path).is_dir():
            yield Found(path, Path(path).name)
            continue
        below = "" if len(paths) == 1 else Path(path).resolve().name
        empty = True
        for found in _inside(path, below, recursive, exclude):
            empty = False
            yield found
        if empty:
            more = "" if recursive else "; add --recursive for the folders inside"
            raise ValueError(f"{path} holds no file that ends in {' '.join(READABLE)}{more}")


def _inside(folder: str, below: str, recursive: bool, exclude: Path | None) -> Iterator[Found]:
    ahead = _listed(folder, below)  # in reverse order; no recursion, however deep the folders are
    while ahead:
        path, relative, is_folder = ahead.pop()
        name = os.path.basename(path)  # noqa: PTH119
        if exclude and name == exclude.name and Path(path).resolve() == exclude.resolve():
            continue
        if is_folder:
            if recursive:
                ahead += _listed(path, relative)
        elif name.lower().endswith(READABLE) and not Path(path).is_dir():
            yield Found(path, relative)


def _listed(folder: str, below: str) -> list[tuple[str, str, bool]]:
    """Path, place below the given folder, and whether it is a folder, by name from Z to A."""
    with os.scandir(folder) as entries:
        names = sorted(
            (
                (entry.name, entry.is_dir(follow_symlinks=False))
                for entry in entries
                if not entry.name.startswith(".")
            ),
            reverse=True,
        )
    join = os.path.join
    return [(join(folder, name), join(below, name), is_folder) for name, is_folder in names]


@dataclass(frozen=True)
class Failed:
    """Why there is no result for a file."""

    error: str


@dataclass(frozen=True)
class Outcome(Generic[Result]):
    """What became of a file: a result, or else an error."""

    file: str
    result: Result | None = None
    error: str | None = None


Outcomes = Generator[Outcome[Result], None, None]


@dataclass(frozen=True)
class Job(Generic[Loaded, Result]):
    """The two stages.

    Args:
        load: file -> what the network needs of it; can be sent to another process.
        predict: a list of those -> a result for each.
        batch_size: the most that are predicted at once.
        ahead: files loaded ahead for each worker; large things must not pile up.
    """

    load: Callable[[str], Loaded]
    predict: Callable[[list[Loaded]], Sequence[Result]]
    batch_size: int
    ahead: int


def batch_inference(
    job: Job[Loaded, Result], files: Iterable[str], *, workers: int = 0
) -> Outcomes[Result]:
    """Predict file by file, in order; one that fails is an outcome with an error.

    Memory is bounded by the batch and what is loaded ahead, however many files there are. The
    workers are ended when the iterator is closed.

    Args:
        job: see :func:`classification` and :func:`segmentation`.
        files: paths, read from the iterable as needed.
        workers: processes that load, 0 for none.

    Raises:
        ChildProcessError: if workers do not start.
    """
    loaded = map_ahead(
        partial(attempt, job.load),
        files,
        workers=workers,
        # A batch is in the network while the next is being loaded.
        ahead=2 * job.batch_size + job.ahead * workers,
        preload=PRELOAD,
    )
    with closing(loaded):
        while batch := list(islice(loaded, job.batch_size)):
            names = [file for file, _ in batch]
            yield from outcomes(job.predict, names, [_survived(value) for _, value in batch])


def attempt(load: Callable[..., Loaded], value: Any) -> Loaded | Failed:
    """Call ``load`` with a value, or say why that failed."""
    try:
        return load(value)
    except Exception as error:  # whatever a file does is a row of its own
        text, kind = str(error), type(error).__name__
        if isinstance(error, EXPLAINED):
            return Failed(text or kind)
        return Failed(f"{kind}: {text[:200]}")  # that of a KeyError says little alone


def outcomes(
    predict: Callable[[list[Loaded]], Sequence[Result]],
    files: Sequence[str],
    loaded: Sequence[Loaded | Failed],
) -> list[Outcome[Result]]:
    """Predict a batch, some of which could not be loaded; if that fails, one by one."""
    good = [value for value in loaded if not isinstance(value, Failed)]
    results: Any = attempt(predict, good) if good else []
    if isinstance(results, Failed):
        alone = len(good) == 1
        results = [results] if alone else [attempt(lambda x: predict([x])[0], x) for x in good]
    remaining = iter(results)
    found = [value if isinstance(value, Failed) else next(remaining) for value in loaded]
    return [
        Outcome(file, error=value.error) if isinstance(value, Failed) else Outcome(file, value)
        for file, value in zip(files, found, strict=True)
    ]


def _survived(value: Loaded | Failed | WorkerDied) -> Loaded | Failed:
    if isinstance(value, WorkerDied):
        return Failed(
            "the process that read this file died (out of memory, or a crash in a reader); try the "
            "file alone, or with fewer --workers"
        )
    return value


def classification(
    predictor: Predictor,
    *,
    up: str | None = "y",
    topk: int = 3,
    tta_rotations: int = 1,
    remove_outliers: bool = False,
    drop_invalid: bool | None = None,
    columns: str | None = None,
) -> Job[Sent, Classification]:
    """Classify each file; for the options see :meth:`Predictor.classify`.

    Where ``up`` is None, it is what the file says or that of its format, see
    :func:`~ea_pointcloud.io.conventional_up`.

    Raises:
        ValueError: if the weights are a segmenter's.
    """
    predictor.check_classify()
    reading: dict[str, Any] = {"drop_invalid": drop_invalid, "columns": columns}
    job = reading_job(predictor, up=up, remove_outliers=remove_outliers, **reading)
    predict = partial(_classify, predictor, topk, tta_rotations)
    return Job(job.load, predict, BATCH_SIZE, ahead=job.ahead)


def reading_job(
    predictor: Predictor, *, up: str | None, remove_outliers: bool, **reading: Any
) -> Job[Sent, ModelInput]:
    """Preprocess each file; options as of :func:`classification`."""
    load = partial(_load, reading, predictor.model.data_spec, up, remove_outliers)
    return Job(load, _received, BATCH_SIZE, ahead=8)


def _load(
    reading: dict[str, Any], spec: DataSpec, up: str | None, remove_outliers: bool, file: str
) -> Sent:
    """A :class:`ModelInput` in numpy: torch would send each tensor through a file descriptor."""
    cloud = read_cloud(file, **reading)
    up = up or cloud.up or conventional_up(file)
    found = preprocess(cloud, spec, up=up, remove_outliers=remove_outliers)
    return found.xyz.numpy(), found.up, None if found.features is None else found.features.numpy()


def _classify(
    predictor: Predictor, topk: int, tta_rotations: int, sent: list[Sent]
) -> list[Classification]:
    return predictor.classify(_received(sent), topk=topk, tta_rotations=tta_rotations)


def _received(sent: list[Sent]) -> list[ModelInput]:
    return [
        ModelInput(torch.from_numpy(xyz), up, None if given is None else torch.from_numpy(given))
        for xyz, up, given in sent
    ]


class Segmented(NamedTuple):
    """A cloud as it was read, and its parts."""

    cloud: Cloud
    parts: Segmentation


def segmentation(
    predictor: Predictor,
    *,
    up: str | None = "y",
    category: str | None = None,
    classifier: Predictor | None = None,
    min_class_prob: float = 0.0,
    tta_rotations: int = 1,
    remove_outliers: bool = False,
    drop_invalid: bool | None = None,
    columns: str | None = None,
) -> Job[tuple[Cloud, str], Segmented]:
    """Label every point of each file; for the options see :meth:`Predictor.segment`.

    Where ``up`` is None, it is what the file says or that of its format.

    Raises:
        ValueError: if the weights are a classifier's, or the category is unknown or comes from two
            places.
    """
    predictor.check_segment(category=category, classifier=classifier)
    options: dict[str, Any] = {"category": category, "classifier": classifier}
    options["min_class_prob"] = min_class_prob
    options |= {"tta_rotations": tta_rotations, "remove_outliers": remove_outliers}
    # Clouds come at full resolution, perhaps a million points each.
    load = partial(_read, {"drop_invalid": drop_invalid, "columns": columns}, up)
    return Job(load, partial(_segment, predictor, options), batch_size=1, ahead=2)


def _read(reading: dict[str, Any], up: str | None, file: str) -> tuple[Cloud, str]:
    cloud = read_cloud(file, **reading)
    return cloud, up or cloud.up or conventional_up(file)


def _segment(
    predictor: Predictor, options: dict[str, Any], loaded: list[tuple[Cloud, str]]
) -> list[Segmented]:
    return [Segmented(cloud, predictor.segment(cloud, up=up, **options)) for cloud, up in loaded]
