"""What the commands on clouds share: which files, how they are worked through, pictures."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer

if TYPE_CHECKING:
    from ea_pointcloud.inference import Job, Outcomes
    from ea_pointcloud.inference.predictor import Predictor

Result = TypeVar("Result")
# Those of ``inference.batch``, which takes seconds to import.
PRELOAD = ("ea_pointcloud.inference.batch", "ea_pointcloud.ops._cpu")
ENGINES = ("local", "ray")
_LISTED = 12  # classes of the default weights that are named
PICTURES = 100  # clouds in a picture; more would be too small to see and too many to hold


def answers(
    make_job: "Callable[[Predictor], Job[Any, Result]]",
    predictor: "Predictor",
    files: Iterable[str],
    *,
    engine: str,
    workers: int | None,
    device: str,
    total: int,
) -> "Outcomes[Result]":
    """Outcome after outcome, in the order of the files.

    Args:
        make_job: the work for a predictor.
        predictor: with the network loaded; for Ray on the CPU.
        files: paths.
        engine: one of ``ENGINES``.
        workers: processes of the local engine; None chooses by the cores and ``total``.
        device: that was asked for.
        total: how many files there are.
    """
    if engine == "ray":
        from ea_pointcloud.inference.ray import batch_inference_ray

        return batch_inference_ray(make_job, predictor, files, device=device)
    from ea_pointcloud.inference import batch_inference
    from ea_pointcloud.io.pool import default_workers

    if workers is None:
        workers = default_workers(total)
    return batch_inference(make_job(predictor), files, workers=workers)


def load_predictor(
    model: str | None, default: str, device: str, *, engine: str
) -> "tuple[str, Predictor]":
    """The network that ``--model`` names, or the one that comes with the package, and its name.

    Args:
        model: what the user said.
        default: taken if omitted, and then said on standard error with its classes.
        device: that was asked for; Ray's workers choose their own.
        engine: one of ``ENGINES``.
    """
    from ea_pointcloud.inference.predictor import Predictor

    predictor = Predictor.from_pretrained(
        default if model is None else model, "cpu" if engine == "ray" else device
    )
    if model is not None:
        return model, predictor
    spec = predictor.model.data_spec
    names, kind = spec.category_names or spec.class_names, "classes"
    if spec.category_names:
        kind = "categories"
    listed = ", ".join(names[:_LISTED]) + (", ..." if len(names) > _LISTED else "")
    typer.echo(
        f"Using pretrained {default} ({len(names)} {kind}: {listed}). Change with --model.",
        err=True,
    )
    return default, predictor


def start_early(paths: Sequence[str], *, recursive: bool, engine: str, workers: int | None) -> None:
    """Begin to start workers before this process spends seconds on its own imports, if any."""
    from ea_pointcloud.io.pool import FEW, default_workers, import_ahead

    def names() -> Iterator[str]:
        for path in paths:
            if not Path(path).is_dir():
                yield path
                continue
            for _, _, inside in os.walk(path):
                yield from inside
                if not recursive:
                    break

    if workers is None and engine == "local":
        workers = default_workers(len(list(islice(names(), FEW))))
    if workers:
        import_ahead(PRELOAD)


def check_engine(engine: str, workers: int | None) -> None:
    """Raise for options of the two engines that do not go together, or Ray where it is missing."""
    from importlib.util import find_spec

    from ea_pointcloud._checks import check_choice

    check_choice("--engine", engine, ENGINES)
    if engine == "ray":
        if workers is not None:
            raise ValueError("--workers is for --engine local; Ray takes the cores it is given")
        if find_spec("ray") is None:
            raise ImportError(
                "--engine ray needs Ray; pip install 'ea-pointcloud[ray]', or leave it out"
            )


def check_picture(path: Path | None, *, force: bool) -> None:
    """Raise before the work for a picture (``--render``) that could not be written after it."""
    check_output("--render", path, (".png",), force=force)


def check_output(option: str, path: Path | None, suffixes: Sequence[str], *, force: bool) -> None:
    """Raise before the work for a file that could not be written after it."""
    if path is None:
        return
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"{option} must name a {' or '.join(suffixes)} file, got {path}")
    if path.is_dir() or not path.parent.is_dir():
        raise FileNotFoundError(f"{option} {path}: no such folder, or a folder itself")
    if path.exists() and not force:
        raise FileExistsError(f"{path} exists; choose another name or add --force")
