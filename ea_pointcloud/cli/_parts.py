"""Segmentations as rows, files and pictures."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ea_pointcloud.cli._common import readable, say, shown_up

if TYPE_CHECKING:
    import numpy as np

    from ea_pointcloud.cli._resume import OutputFolder
    from ea_pointcloud.inference import Outcome, Segmentation, Segmented

HEADINGS = (
    "file",
    "category",
    "next",
    "from",
    "points",
    "parts",
    "mean confidence",
    "up",
    "warning",
)
RIGHT = ("points", "mean confidence")


@dataclass(frozen=True)
class Part:
    """The points of a cloud that belong to one part."""

    name: str
    label: int
    points: int
    confidence: float  # mean over its points


@dataclass(frozen=True)
class Row:
    """What is printed of a segmentation: its parts, the largest first."""

    result: "Segmentation"
    parts: tuple[Part, ...]
    output: Path | None


def take(outcome: "Outcome[Segmented]", folder: "OutputFolder | None") -> "Outcome[Row]":
    """What is printed of a file, after its points were written to ``folder``, if there is one."""
    from ea_pointcloud.inference import Outcome
    from ea_pointcloud.io import write_cloud
    from ea_pointcloud.viz import part_colors

    output = None if folder is None else folder.take(outcome.file)
    if outcome.result is None:
        return Outcome(outcome.file, error=outcome.error)
    cloud, parts = outcome.result
    if output is not None:
        labels, colors = parts.labels, part_colors(parts.labels)
        labelled = replace(cloud, labels=labels, colors=colors, confidence=parts.confidence,
                           label_names=_names_of(parts), up=parts.up)  # fmt: skip
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
            write_cloud(output, labelled)
        except (OSError, ValueError) as error:
            return Outcome(outcome.file, error=str(error))
    return Outcome(outcome.file, Row(parts, _parts(parts), output))


def _parts(result: "Segmentation") -> tuple[Part, ...]:
    import numpy as np

    labels, counts = np.unique(result.labels, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return tuple(
        Part(
            name=result.names[label],
            label=int(label),
            points=int(count),
            confidence=_mean(result.confidence[result.labels == label]),
        )
        for label, count in zip(labels[order], counts[order], strict=True)
    )


def _names_of(result: "Segmentation") -> dict[int, str]:
    import numpy as np

    return {label: result.names[label] for label in np.unique(result.labels).tolist()}


def _mean(values: "np.ndarray") -> float:
    return float(values.mean(dtype="f8"))


def json_row(weights: str, outcome: "Outcome[Row]") -> dict[str, Any]:
    """An entry of the JSON output, as ``schemas/segment.schema.json`` describes it."""
    row = outcome.result
    if row is None:
        return {"file": outcome.file, "error": outcome.error}
    return {
        "file": outcome.file,
        "category": row.result.category,
        "category_from": row.result.category_from,
        "categories": [
            {"category": each.label, "prob": each.prob} for each in row.result.categories
        ],
        "category_margin": row.result.category_margin,
        "points": len(row.result.labels),
        "parts": [
            {
                "part": part.name,
                "label": part.label,
                "points": part.points,
                "confidence": part.confidence,
            }
            for part in row.parts
        ],
        "up": row.result.up,
        "up_margin": row.result.up_margin,
        "ood_score": row.result.ood_score,
        "warning": row.result.warning,
        "output": None if row.output is None else str(row.output),
        "weights": weights,
    }


def cells(outcome: "Outcome[Row]") -> list[Any]:
    """A row of the table with ``HEADINGS``."""
    from rich.text import Text

    file, row = readable(outcome.file), outcome.result
    if row is None:
        return [file, Text("error", style="red"), "", "", "", outcome.error, "", "", ""]
    result, points = row.result, len(row.result.labels)
    fractions = Text(", ").join(
        Text(f"{_short(part.name, result)} {part.points / points:.1%}", _style(part))
        for part in row.parts
    )
    return [
        file,
        shown_up(result.category or "-", result.category_margin),
        ", ".join(each.label for each in result.categories[1:]),
        result.category_from,
        f"{points:,}",
        fractions,
        f"{_mean(result.confidence):.3f}",
        shown_up(result.up, result.up_margin),
        result.warning or "",
    ]


def _short(name: str, result: "Segmentation") -> str:
    """The name of a part without the category that stands beside it."""
    return name.removeprefix(f"{result.category}/")


def _style(part: Part) -> str:
    import numpy as np

    from ea_pointcloud.viz import part_colors

    red, green, blue = (round(255 * float(each)) for each in part_colors(np.array([part.label]))[0])
    return f"rgb({red},{green},{blue})"


def render_parts(path: Path, pictured: "dict[str, Segmented]", backend: Any) -> None:
    """Write a picture of segmented clouds, whose names are the files'."""
    from ea_pointcloud.viz import compare

    titles, labels = [], []
    for file, (_, parts) in pictured.items():
        name = Path(file).name
        titles.append(f"{name}: {parts.category}" if parts.category else name)
        labels.append(replace(parts, names=tuple(_short(part, parts) for part in parts.names)))
    clouds = [cloud for cloud, _ in pictured.values()]
    up = [parts.up for parts in labels]
    compare(clouds, titles, path, labels=labels, up=up, backend=backend)
    say(f"wrote {path}")
