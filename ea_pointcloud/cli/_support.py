"""``classify --support``: a classifier of the classes of examples, and the report on them."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ea_pointcloud.cli._common import check_absent

if TYPE_CHECKING:
    from ea_pointcloud.inference.predictor import Predictor

_FEW_FILES = 32  # read in this process; others take longer to start


def check_support(
    support: Path | None, save_model: Path | None, *, force: bool, **copies: int | None
) -> None:
    """Raise before the work for options that do not go together or with what is on disk."""
    if support is None:
        check_absent("belongs to --support; add it", save_model=save_model, **copies)
    elif not support.is_dir():
        raise FileNotFoundError(f"--support {support}: no such folder; give that of CLASS/FILE")
    if save_model is not None and save_model.exists() and not force:
        raise FileExistsError(f"{save_model} exists; choose another name or add --force")


def support_predictor(
    predictor: "Predictor",
    weights: str,
    support: Path,
    reading: dict[str, Any],
    *,
    up: str | None,
    workers: int | None,
    rotations: int | None,
    partial_views: int | None,
    save_model: Path | None,
) -> "tuple[Predictor, str]":
    """The predictor of the classes of examples, and a hash of it; the report is printed.

    Args:
        predictor: of the trained encoder.
        weights: its name.
        support: folder of ``CLASS/FILE``.
        reading: how files are read, for :func:`~ea_pointcloud.inference.read_examples`.
        up: the axis that is up in the files; None for that of each format.
        workers: processes that read.
        rotations: of each example.
        partial_views: of each example.
        save_model: folder to write the weights to.
    """
    from ea_pointcloud.datasets import list_examples
    from ea_pointcloud.inference import read_examples
    from ea_pointcloud.inference.support_report import train_advice
    from ea_pointcloud.io.pool import default_workers

    count = len(list_examples(support))
    if workers is None:
        workers = 0 if count < _FEW_FILES else default_workers(count)
    examples = read_examples(support, predictor.model.data_spec, up=up, workers=workers, **reading)
    fitted = predictor.with_support(
        examples, rotations=rotations or 1, partial_views=partial_views or 0
    )
    report = fitted.support
    assert report is not None
    lines = [*report.lines(), train_advice(report, str(support), weights, up)]
    for line in filter(None, lines):
        typer.echo(f"{support}: {line}", err=True)
    if save_model is not None:
        fitted.model.save_pretrained(save_model)
        typer.echo(f"wrote {save_model}", err=True)
    head = fitted.model.head[-1].weight.detach().cpu().numpy()
    return fitted, hashlib.sha256(head.tobytes()).hexdigest()
