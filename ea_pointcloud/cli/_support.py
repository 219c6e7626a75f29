"""``classify --support``: a classifier of the classes of examples, and the report on them."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ea_pointcloud.cli._common import check_absent, say

if TYPE_CHECKING:
    from ea_pointcloud.inference import Example
    from ea_pointcloud.inference.predictor import Predictor

_LISTED = 10  # files that cannot be read
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
        reading: options of :func:`~ea_pointcloud.inference.batch.classification` on files.
        up: the axis that is up in the files; None for that of each format.
        workers: processes that read.
        rotations: of each example.
        partial_views: of each example.
        save_model: folder to write the weights to.
    """
    from ea_pointcloud.inference.support_report import train_advice

    examples = _read(predictor, support, {"up": up, **reading}, workers)
    fitted = predictor.with_support(
        examples, rotations=rotations or 1, partial_views=partial_views or 0
    )
    report = fitted.support
    assert report is not None
    lines = [*report.lines(), train_advice(report, str(support), weights, up)]
    for line in filter(None, lines):
        say(f"{support}: {line}")
    if save_model is not None:
        fitted.model.save_pretrained(save_model)
        say(f"wrote {save_model}")
    state = fitted.model.state_dict()
    head = state[max(name for name in state if name.endswith("weight") and "head." in name)]
    return fitted, hashlib.sha256(head.cpu().numpy().tobytes()).hexdigest()


def _read(
    predictor: "Predictor", support: Path, options: dict[str, Any], workers: int | None
) -> "list[Example]":
    """The examples, preprocessed; ValueError with a list of those that cannot be read."""
    from ea_pointcloud.datasets import list_examples
    from ea_pointcloud.inference import Example, batch_inference
    from ea_pointcloud.inference.batch import reading_job
    from ea_pointcloud.io.pool import default_workers

    files = list_examples(support)
    if workers is None:
        workers = 0 if len(files) < _FEW_FILES else default_workers(len(files))
    paths = [str(path) for path, _ in files]
    found = list(batch_inference(reading_job(predictor, **options), paths, workers=workers))
    bad = [f"{each.file}: {each.error}" for each in found if each.result is None]
    if bad:
        raise ValueError(
            f"{len(bad)} of {len(files)} examples cannot be read; repair or remove them:\n"
            + "\n".join(bad[:_LISTED])
        )
    return [
        Example(each.file, class_name, each.result)
        for each, (_, class_name) in zip(found, files, strict=True)
        if each.result is not None
    ]
