"""The model card of a folder of weights, from its JSON files."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from ea_pointcloud.datasets.catalog import CATALOG, entry_of_folder
from ea_pointcloud.models.metadata import EMBEDDING_FILE
from ea_pointcloud.models.pretrained import CONFIG_FILE
from ea_pointcloud.report.tables import mean_and_std

CARD_FILE = "README.md"  # as the Hugging Face hub calls it
FIGURES_FILE = "figures.json"
_TEMPLATE = Path(__file__).with_name("card.md.j2")
_HEADINGS = {
    "classification": {
        "overall accuracy": "overall_accuracy",
        "mean class accuracy": "mean_class_accuracy",
        "overall accuracy, {votes} votes": "voted_accuracy",
    },
    "segmentation": {
        "instance mIoU": "instance_miou",
        "instance mIoU, postprocessed": "postprocessed_instance_miou",
        "category mIoU": "category_miou",
        "point accuracy": "point_accuracy",
        "instance mIoU, 8 scales": "voted_instance_miou",
    },
}
# Of sets that the package does not download: title, licence, citation.
_OTHERS = {
    "modelnet40_rebuilt": (
        "ModelNet40 rebuilt, the official shapes and split with surfaces that were recovered from "
        "occupancy grids of 30 x 30 x 30 cells",
        "academic use only; the models belong to their authors (modelnet.cs.princeton.edu)",
        "Wu et al., 3D ShapeNets: A deep representation for volumetric shapes, CVPR 2015",
    ),
    "psb_part": (
        "the labelled Princeton segmentation benchmark",
        "stated by none of its authors; take it for academic use only",
        "Kalogerakis et al., Learning 3D mesh segmentation and labeling, SIGGRAPH 2010; Chen et "
        "al., A benchmark for 3D mesh segmentation, SIGGRAPH 2009",
    ),
}


def card_text(folder: str | Path) -> str:
    """The card in Markdown, from the JSON files of ``folder`` alone.

    Args:
        folder: with ``config.json`` and ``figures.json``.
    """
    config, figures = (
        json.loads((Path(folder) / name).read_text(encoding="utf-8"))
        for name in (CONFIG_FILE, FIGURES_FILE)
    )
    measured = figures["evaluation"]
    recipe = measured[0]["recipe"]
    template = _TEMPLATE.read_text(encoding="utf-8")
    environment = Environment(
        autoescape=False,  # Markdown, of our own words and figures
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.from_string(template).render(
        figures=figures,
        config=config,
        recipe=recipe,
        first=measured[0],
        report=measured[0]["reports"][0],
        table=_table(measured),
        data=_data(recipe["data"]["name"]),
        embedded=(Path(folder) / EMBEDDING_FILE).is_file(),
        trained_on_val=recipe["data"]["train_split"] == "trainval",
    )


def _table(measured: Sequence[dict[str, Any]]) -> list[list[str]]:
    """The protocol's figures: headings, then a row for each way of choosing and seed."""
    recipe = measured[0]["recipe"]
    headings = _HEADINGS[recipe["task"]]
    votes = recipe["eval"]["votes"]
    rows = [["weights chosen by", "seed", *(head.format(votes=votes) for head in headings)]]
    for index, report in enumerate(measured[0]["reports"]):
        same = [one["reports"][index] for one in measured]
        figures = [[one[field] for one in same] for field in headings.values()]
        for number, one in enumerate(measured):
            values = (mean_and_std([each[number]]) for each in figures)
            rows.append([report["selection"], str(one["recipe"]["trainer"]["seed"]), *values])
        if len(measured) > 1:
            rows.append([report["selection"], "mean ± std", *map(mean_and_std, figures)])
    legacy = measured[0]["legacy_accuracy"]
    if legacy is not None:
        rest = ["-"] * (len(headings) - 1)
        seed = str(recipe["trainer"]["seed"])
        rows.append(["test (legacy, as most papers)", seed, mean_and_std([legacy]), *rest])
    return rows


def _data(name: str) -> dict[str, str]:
    """What is known of a data set."""
    entry = CATALOG.get(name) or entry_of_folder(f"{name}_ply_hdf5_2048")
    if entry is not None:
        return {"title": entry.title.split(",")[0], "licence": entry.licence,
                "citation": entry.citation}  # fmt: skip
    title, licence, citation = _OTHERS.get(name, (name, "ask whoever made the data", ""))
    return {"title": title, "licence": licence, "citation": citation}
