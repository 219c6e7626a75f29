"""Slots, saliency and critical points of a trained network, as ``view`` draws them on clouds."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ea_pointcloud.cli._common import say

if TYPE_CHECKING:
    import numpy as np

    from ea_pointcloud.explain import AttentionMap, Subject
    from ea_pointcloud.io import Cloud

TOPK = 6  # slots shown by default
SALIENCY_PERCENTILE = 99.0  # at which the colours end

Attention = Annotated[
    int | None,
    typer.Option(
        metavar="LAYER",
        help="Colour by the weight of memory slots; 0 is the first layer, -1 the last.",
    ),
]
Slots = Annotated[
    str | None,
    typer.Option(metavar="A,B,...", help="Which slots; those used most (--topk) if omitted."),
]
Topk = Annotated[
    int | None, typer.Option(min=1, help=f"How many of the slots used most; {TOPK} if omitted.")
]
Saliency = Annotated[
    bool, typer.Option("--saliency", help="Colour by the gradient of the class at each point.")
]
Critical = Annotated[
    bool,
    typer.Option("--critical", help="Colour by the pooled channels whose maximum is each point."),
]


@dataclass(frozen=True)
class AttentionView:
    """What of a network is drawn."""

    model: str  # its weights
    attention: int | None  # layer, 0 is the first and -1 the last; None for no slots
    slots: tuple[int, ...] | None  # of the memory; None for the most used
    topk: int  # how many of those
    saliency: bool  # the gradient of the most probable class
    critical: bool  # channels of the pooled feature whose maximum is each point


def check_attention(
    model: str | None,
    attention: int | None,
    slots: str | None,
    topk: int | None,
    *,
    saliency: bool,
    critical: bool,
) -> AttentionView | None:
    """The options of ``view`` on a network, if they go together; None without any."""
    if attention is None and (slots is not None or topk is not None):
        raise ValueError("--slots and --topk choose the slots of a layer; add --attention LAYER")
    if attention is None and not saliency and not critical:
        if model is not None:
            raise ValueError("--model needs --attention LAYER, --saliency or --critical beside it")
        return None
    if model is None:
        raise ValueError("--attention, --saliency and --critical need --model WEIGHTS")
    if slots is not None and topk is not None:
        raise ValueError("--slots and --topk both choose the slots; give one of them")
    chosen = None
    if slots is not None:
        try:
            chosen = tuple(int(slot) for slot in slots.split(","))
        except ValueError:
            raise ValueError(f"--slots must be numbers such as 3,17, got {slots}") from None
    return AttentionView(model, attention, chosen, topk or TOPK, saliency, critical)


def draw_attention(
    view: AttentionView,
    clouds: "Sequence[Cloud]",
    titles: Sequence[str],
    axes: Sequence[str],
    html: Path | None,
    render: Path | None,
    drawing: dict[str, Any],
    pixels: dict[str, Any],
) -> None:
    """Write the page and the picture, or show one column after another in windows."""
    from ea_pointcloud.viz import show
    from ea_pointcloud.viz.attention import scalar_grid, scalar_page

    points, values, columns = attention_values(view, clouds, axes)
    options: dict[str, Any] = {
        "quantities": ["attention weight" if each.startswith("slot") else each for each in columns],
        # A few points with a large gradient would leave all others dark.
        "percentile": SALIENCY_PERCENTILE if view.saliency else 100.0,
        **drawing,
    }
    if html is not None:
        scalar_page(points[0], values[0], columns, html, title=titles[0], **options)
        say(f"wrote {html}")
    if render is not None:
        pixels.pop("backend")
        scalar_grid(points, values, columns, titles, render, **(options | pixels))
        say(f"wrote {render}")
    if html is None and render is None:
        for xyz, scalars, title in zip(points, values, titles, strict=True):
            for index, column in enumerate(columns):
                show(xyz, color_by=scalars[:, index], title=f"{title}: {column}", **drawing)


def attention_values(
    view: AttentionView, clouds: "Sequence[Cloud]", axes: Sequence[str]
) -> "tuple[list[np.ndarray], list[np.ndarray], list[str]]":
    """Values of the network at points of clouds.

    Saliency and critical points are of the points that the network sees, and these are drawn then;
    attention alone is interpolated to all points.

    Returns:
        points: (N, 3) of each cloud, y up.
        values: (N, K) of those.
        columns: K headings.
    """
    import torch

    import ea_pointcloud.explain as explain
    from ea_pointcloud._checks import check_range
    from ea_pointcloud._device import resolve_device
    from ea_pointcloud.models import load_model

    model: Any = load_model(view.model).to(resolve_device("auto"))
    if view.attention is not None:
        depth = len(explain.attention_layers(model))
        check_range("--attention", view.attention, -depth, depth - 1)
    subjects = [
        explain.subject_of(model, cloud, up=up) for cloud, up in zip(clouds, axes, strict=True)
    ]
    thinned = view.saliency or view.critical
    points = [subject.seen if thinned else subject.xyz for subject in subjects]
    columns: list[str] = []
    values: list[list[torch.Tensor]] = [[] for _ in clouds]
    if view.attention is not None:
        maps = _maps(model, subjects, view.attention, view.slots)
        if view.slots is None:
            maps = _maps(model, subjects, view.attention, explain.most_used(maps, view.topk))
        columns = [f"slot {slot}" for slot in maps[0].slots]
        for one, xyz, found in zip(maps, points, values, strict=True):
            found.append(one.at(xyz)[0])
    for wanted, heading, measure in (
        (view.saliency, "saliency", explain.saliency),
        (view.critical, "channels won", explain.critical_points),
    ):
        if wanted:
            columns.append(heading)
            for subject, found in zip(subjects, values, strict=True):
                found.append(measure(model, subject.seen, subject.features)[0, :, None].float())
    return (
        [xyz[0].cpu().numpy() for xyz in points],
        [torch.cat(found, dim=1).cpu().numpy() for found in values],
        columns,
    )


def _maps(
    model: Any, subjects: "Sequence[Subject]", layer: int, slots: tuple[int, ...] | None
) -> "list[AttentionMap]":
    from ea_pointcloud.explain import attention_maps

    return [
        attention_maps(model, subject.seen, subject.features, layers=[layer], slots=slots)[0]
        for subject in subjects
    ]
