"""The same two stages as a Ray Data pipeline, on one machine or a cluster."""

# Where Ray is not installed, pyright takes this file for it.
# pyright: reportAttributeAccessIssue=false

import logging
import os
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar
from warnings import catch_warnings, simplefilter

from ea_pointcloud._device import resolve_device
from ea_pointcloud.inference.batch import Job, Outcome, Outcomes, attempt, batch_inference, outcomes
from ea_pointcloud.inference.predictor import Predictor
from ea_pointcloud.io.pool import usable_cores

Result = TypeVar("Result")
MakeJob = Callable[[Predictor], Job[Any, Result]]

_BLOCK = 16  # files a task loads


def batch_inference_ray(
    make_job: MakeJob[Result], predictor: Predictor, files: Iterable[str], *, device: str = "auto"
) -> Outcomes[Result]:
    """Answer file by file, in order, as :func:`batch_inference` does, with the processes of Ray.

    Tasks load the files and send on what the network needs of them; actors hold the network, one
    on each GPU, or on up to half of the cores where there is none. Connects to the cluster that the
    environment variable ``RAY_ADDRESS`` names, else starts Ray on this machine and ends it after.
    Files whose task Ray gave up are done here, one process at a time, so that only those at fault
    fail.

    Args:
        make_job: the stages for a predictor, :func:`~ea_pointcloud.inference.batch.classification`
            with its options bound; sent to the tasks and actors.
        predictor: on the CPU; sent to the actors once.
        files: paths that every machine of the cluster can read.
        device: of the actors, ``"auto"`` for GPUs where the cluster has some.

    Raises:
        ImportError: if Ray is not installed.
    """
    try:
        import ray  # pyright: ignore[reportMissingImports]
        import ray.data  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(
            "--engine ray needs Ray; pip install 'ea-pointcloud[ray]', or leave it out"
        ) from error
    names = list(files)
    own = not ray.is_initialized()
    if own:
        _start(ray)
    try:
        rows = _rows(ray, make_job, predictor, names, device)
        expected = 0
        job = make_job(predictor)
        for index, outcome in rows:
            yield from _lost(job, names[expected:index])
            yield outcome
            expected = index + 1
        yield from _lost(job, names[expected:])
    finally:
        if own:
            ray.shutdown()


def _start(ray: Any) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if os.environ.get("RAY_ADDRESS"):
        ray.init(**quiet)
    else:
        # An actor holds one core for good and the tasks need another to move at all.
        ray.init(num_cpus=max(2, usable_cores()), include_dashboard=False, **quiet)


def _rows(
    ray: Any, make_job: MakeJob[Result], predictor: Predictor, names: Sequence[str], device: str
) -> Iterator[tuple[int, Outcome[Result]]]:
    """Place among ``names`` and outcome, in order; places may be missing."""
    if not names:
        return
    job = make_job(predictor)
    resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0)) if device != "cpu" else 0
    if gpus:
        actors: dict[str, Any] = {"num_gpus": 1, "concurrency": (1, gpus)}
    else:
        actors = {"num_cpus": 1, "concurrency": (1, max(1, int(resources.get("CPU", 2)) // 2))}
    items = [{"index": index, "file": file} for index, file in enumerate(names)]
    data = ray.data.from_items(items, override_num_blocks=-(-len(items) // _BLOCK))
    context = data.context
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    context.max_errored_blocks = -1  # a task that died is no end of the run
    with suppress(AttributeError):
        context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    # Ray would try again for ever a file that takes every process down with it. The argument that
    # stops it goes in Ray 2.64, which has no other one yet.
    with catch_warnings():
        simplefilter("ignore", DeprecationWarning)
        once_more = partial(dict, max_retries=1)
        loaded = data.map(_Load(job.load), num_cpus=1, ray_remote_args_fn=once_more)
    answered = loaded.map_batches(
        _Answer,
        fn_constructor_args=(make_job, predictor, "cuda" if gpus else "cpu"),
        batch_size=job.batch_size,
        **actors,
    )
    for row in answered.iter_rows():
        yield int(row["index"]), pickle.loads(row["outcome"])


class _Load:
    """What a task does with a row: Arrow knows bytes, not our types."""

    def __init__(self, load: Callable[[str], Any]) -> None:
        self._load = load

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return {**row, "loaded": pickle.dumps(attempt(self._load, row["file"]), protocol=5)}


class _Answer:
    """The actor that holds the network."""

    def __init__(self, make_job: MakeJob[Any], predictor: Predictor, device: str) -> None:
        self._job = make_job(
            Predictor(predictor.model, resolve_device(device), precision=predictor.precision)
        )

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        loaded = [pickle.loads(value) for value in batch["loaded"]]
        found = outcomes(self._job.predict, list(batch["file"]), loaded)
        return {
            "index": batch["index"],
            "outcome": [pickle.dumps(outcome, protocol=5) for outcome in found],
        }


def _lost(job: Job[Any, Result], files: Sequence[str]) -> Iterator[Outcome[Result]]:
    if files:
        yield from batch_inference(job, files, workers=1)
