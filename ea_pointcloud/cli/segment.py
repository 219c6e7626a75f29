"""``ea-pointcloud segment``: the part of every point of files."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ea_pointcloud.cli import _common as opt
from ea_pointcloud.cli._batch import PICTURES, Batch, Show
from ea_pointcloud.cli._common import say
from ea_pointcloud.cli._parts import HEADINGS, RIGHT, Row, cells, json_row, render_parts, take
from ea_pointcloud.cli._resume import OutputFolder, fingerprint, settings

if TYPE_CHECKING:
    from ea_pointcloud.inference import Outcome, Segmented

NAME = "segment"
FORMATS = ("ply", "npz", "csv")
SURE = 0.95  # the probability from which the pretrained classifier finds the category
EXAMPLES = opt.examples(
    "ea-pointcloud segment chair.ply --category Chair --output parts",
    "ea-pointcloud segment *.off --model runs/a --up z --render parts.png",
    "ea-pointcloud segment scan.pcd --model runs/a --classifier runs/b --json",
    "ea-pointcloud segment scans -r --model runs/a --category chair --output parts",
)

Category = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Category of all objects; found by the network if omitted."),
]
Classifier = Annotated[
    str | None,
    typer.Option(
        metavar="WEIGHTS",
        help="A classifier that finds the category of each object, where its class is one; beside "
        "the pretrained weights if omitted the pretrained one where it is sure, 'none' for none.",
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Write DIR/NAME.ply with labels, their names, colours, confidence, in the folders of "
        "the inputs; the same command again skips what is there.",
    ),
]
Format = Annotated[
    str, typer.Option("--format", metavar="ply|npz|csv", help="Of the files in DIR.")
]


def run(
    paths: opt.Paths,
    model: opt.Model = None,
    recursive: opt.Recursive = False,
    category: Category = None,
    classifier: Classifier = None,
    up: opt.Up = None,
    tta_rotations: opt.Rotations = 1,
    remove_outliers: opt.RemoveOutliers = False,
    drop_invalid: opt.DropInvalid = None,
    columns: opt.Columns = None,
    output: Output = None,
    file_format: Format = "ply",
    as_json: opt.AsJson = False,
    render: opt.Render = None,
    backend: opt.Backend = "auto",
    device: opt.Device = "auto",
    workers: opt.Workers = None,
    engine: opt.Engine = "local",
    force: opt.Force = False,
    schema: Annotated[bool, opt.json_schema(NAME)] = False,
) -> None:
    """Label the part of every point of each file; unreadable files are reported and skipped."""
    opt.check_option("--up", up, opt.UPS)
    opt.check_option("--backend", backend, opt.BACKENDS)
    opt.check_option("--format", file_format, FORMATS)
    opt.check_output("--render", render, (".png",), force=force)
    if category is not None and classifier not in (None, "none"):
        raise ValueError("--category and --classifier both name the category; give one of them")
    batch = Batch(paths, recursive, output, engine, workers, device)

    from ea_pointcloud.inference import segmentation
    from ea_pointcloud.models.pretrained import DEFAULT_CLASSIFIER, DEFAULT_SEGMENTER

    weights, predictor = batch.load(model, DEFAULT_SEGMENTER)
    least = 0.0
    if classifier is None and category is None and model is None:
        classifier, least = DEFAULT_CLASSIFIER, SURE
    classifier = None if classifier == "none" else classifier
    namer = None if classifier is None else batch.load(classifier, "")[1]
    predictor.check_segment(category=category, classifier=namer)
    up = batch.up_axis(up, model)
    options: dict[str, Any] = {"up": up, "tta_rotations": tta_rotations}
    options |= {"remove_outliers": remove_outliers, "drop_invalid": drop_invalid}
    options["columns"] = columns
    folder = None
    if output is not None:
        named = {
            "category": None if category is None else category.casefold(),
            "classifier": None if classifier is None else fingerprint(classifier),
        }
        made_with = settings(NAME, weights, named | options | {"up": up or "format"})
        names = predictor.model.data_spec.class_names
        made_with["parts"] = {str(label): name for label, name in enumerate(names)}
        folder = OutputFolder(output, file_format, made_with, paths, force=force)
    pictured: dict[str, Segmented] = {}

    def keep(outcome: "Outcome[Segmented]") -> "Outcome[Row]":
        if render is not None and outcome.result and len(pictured) < PICTURES:
            pictured[outcome.file] = outcome.result
        return take(outcome, folder)

    named = {"category": category, "classifier": namer, "min_class_prob": least}
    job = partial(segmentation, **named, **options)
    show = Show("segmented", keep, partial(json_row, weights), cells, HEADINGS, RIGHT)
    tally = batch.run(job, predictor, show, up=up, store=folder, as_json=as_json)
    if folder is not None and tally.done > tally.errors:
        say(f"wrote {tally.done - tally.errors:,} files into {output}")
    if render is not None and pictured:
        render_parts(render, pictured, backend)
    tally.finish()
