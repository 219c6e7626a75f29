"""Files to answers in two stages: loading, in worker processes, and the network, in batches."""

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from ea_pointcloud.inference.classify import Classification
from ea_pointcloud.inference.predictor import Predictor
from ea_pointcloud.inference.preprocess import ModelInput, preprocess
from ea_pointcloud.inference.segment import Segmentation
from ea_pointcloud.io import Cloud, read_cloud
from ea_pointcloud.io.pool import WorkerDied, map_ahead
from ea_pointcloud.models import DataSpec

Loaded = TypeVar("Loaded")
Result = TypeVar("Result")

Sent = tuple[NDArray[np.float32], str]

# What a worker that loads clouds would import; the second imports numba.
PRELOAD = (__name__, "ea_pointcloud.ops._cpu")
BATCH_SIZE = 32
# PyTorch runs out of memory with a RuntimeError.
EXPECTED = (OSError, ValueError, ImportError, MemoryError, RuntimeError)


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
        answer: several of those -> a result for each.
        batch_size: how many at most are answered at once.
        ahead: files loaded ahead for each worker; large things must not pile up.
    """

    load: Callable[[str], Loaded]
    answer: Callable[[list[Loaded]], Sequence[Result]]
    batch_size: int
    ahead: int


def batch_inference(
    job: Job[Loaded, Result], files: Iterable[str], *, workers: int = 0
) -> Outcomes[Result]:
    """Answer file by file, in order; one that fails is an outcome with an error.

    Memory is bounded by the batch and what is loaded ahead, however many files there are. The
    workers are ended when the iterator is closed.

    Args:
        job: see :func:`classification` and :func:`segmentation`.
        files: paths, taken from as needed.
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
            yield from outcomes(job.answer, names, [_survived(value) for _, value in batch])


def attempt(load: Callable[[str], Loaded], file: str) -> Loaded | Failed:
    """Load a file, or say why not."""
    try:
        return load(file)
    except EXPECTED as error:
        return Failed(describe(error))


def outcomes(
    answer: Callable[[list[Loaded]], Sequence[Result]],
    files: Sequence[str],
    loaded: Sequence[Loaded | Failed],
) -> list[Outcome[Result]]:
    """Answer a batch, some of which could not be loaded; if that fails, one by one."""
    good = [value for value in loaded if not isinstance(value, Failed)]
    try:
        results: list[Any] = list(answer(good)) if good else []
    except EXPECTED as error:
        if len(good) == 1:
            results = [Failed(describe(error))]
        else:
            results = [_alone(answer, value) for value in good]
    answers = iter(results)
    found = [value if isinstance(value, Failed) else next(answers) for value in loaded]
    return [
        Outcome(file, error=value.error) if isinstance(value, Failed) else Outcome(file, value)
        for file, value in zip(files, found, strict=True)
    ]


def _alone(answer: Callable[[list[Loaded]], Sequence[Result]], value: Loaded) -> Result | Failed:
    try:
        return answer([value])[0]
    except EXPECTED as error:
        return Failed(describe(error))


def _survived(value: Loaded | Failed | WorkerDied) -> Loaded | Failed:
    if isinstance(value, WorkerDied):
        return Failed(
            "the process that read this file died (out of memory, or a crash in a reader); try the "
            "file alone, or with fewer --workers"
        )
    return value


def describe(error: BaseException) -> str:
    """The message, or the kind of error where there is none."""
    return str(error) or type(error).__name__


def classification(
    predictor: Predictor,
    *,
    up: str = "y",
    topk: int = 3,
    tta_rotations: int = 1,
    remove_outliers: bool = False,
    drop_invalid: bool = False,
) -> Job[Sent, Classification]:
    """Name the class of each file; for the options see :meth:`Predictor.classify`.

    Raises:
        ValueError: if the weights are a segmenter's.
    """
    predictor.check_classify()
    load = partial(
        _load_input,
        spec=predictor.model.data_spec,
        up=up,
        remove_outliers=remove_outliers,
        drop_invalid=drop_invalid,
    )
    answer = partial(_classify, predictor, topk=topk, tta_rotations=tta_rotations)
    return Job(load, answer, BATCH_SIZE, ahead=8)


def _load_input(
    file: str, *, spec: DataSpec, up: str, remove_outliers: bool, drop_invalid: bool
) -> Sent:
    """A :class:`ModelInput` in numpy: torch would send each tensor through a file descriptor."""
    prepared = preprocess(
        read_cloud(file, drop_invalid=drop_invalid), spec, up=up, remove_outliers=remove_outliers
    )
    return prepared.xyz.numpy(), prepared.up


def _classify(
    predictor: Predictor, sent: list[Sent], *, topk: int, tta_rotations: int
) -> list[Classification]:
    inputs = [ModelInput(torch.from_numpy(xyz), up) for xyz, up in sent]
    return predictor.classify(inputs, topk=topk, tta_rotations=tta_rotations)


class Segmented(NamedTuple):
    """A cloud as it was read, and its parts."""

    cloud: Cloud
    parts: Segmentation


def segmentation(
    predictor: Predictor,
    *,
    up: str = "y",
    category: str | None = None,
    classifier: Predictor | None = None,
    tta_rotations: int = 1,
    remove_outliers: bool = False,
    drop_invalid: bool = False,
) -> Job[Cloud, Segmented]:
    """Name the part of every point of each file; for the options see :meth:`Predictor.segment`.

    Raises:
        ValueError: if the weights are a classifier's, or the category is unknown or comes from two
            places.
    """
    predictor.check_segment(category=category, classifier=classifier)
    load = partial(read_cloud, drop_invalid=drop_invalid)
    segment = partial(
        predictor.segment,
        up=up,
        category=category,
        classifier=classifier,
        tta_rotations=tta_rotations,
        remove_outliers=remove_outliers,
    )
    # Clouds come at full resolution, perhaps a million points each.
    return Job(load, partial(_segment, segment), batch_size=1, ahead=2)


def _segment(segment: Callable[[Cloud], Segmentation], clouds: list[Cloud]) -> list[Segmented]:
    return [Segmented(cloud, segment(cloud)) for cloud in clouds]
