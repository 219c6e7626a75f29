"""What ``view`` shows of a trained network: slots, saliency and critical points on clouds."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from ea_pointcloud.explain import AttentionMap, Subject
    from ea_pointcloud.io import Cloud

TOP = 6  # slots shown where none are named


@dataclass(frozen=True)
class Look:
    """What was asked for.

    Args:
        model: where the weights are.
        attention: layer, 0 is the first and -1 the last; None for no slots.
        slots: memory slots; None for the most used.
        top: how many of those.
        saliency: the gradient of the most probable class.
        critical: channels of the pooled feature that each point wins.
    """

    model: str
    attention: int | None
    slots: tuple[int, ...] | None
    top: int
    saliency: bool
    critical: bool


def check_look(
    *,
    model: str | None,
    attention: int | None,
    slots: str | None,
    top: int | None,
    saliency: bool,
    critical: bool,
) -> Look | None:
    """The options of ``view`` on a network; None without any.

    Raises:
        ValueError: if they do not go together.
    """
    if attention is None and (slots is not None or top is not None):
        raise ValueError("--slots and --top choose the slots of a layer; add --attention LAYER")
    if attention is None and not saliency and not critical:
        if model is not None:
            raise ValueError("--model needs --attention LAYER, --saliency or --critical beside it")
        return None
    if model is None:
        raise ValueError("--attention, --saliency and --critical need --model WEIGHTS")
    if slots is not None and top is not None:
        raise ValueError("--slots and --top both choose the slots; give one of them")
    chosen = None
    if slots is not None:
        try:
            chosen = tuple(int(slot) for slot in slots.split(","))
        except ValueError:
            raise ValueError(f"--slots must be numbers such as 3,17, got {slots}") from None
    return Look(model, attention, chosen, top or TOP, saliency, critical)


def draw_look(
    look: Look,
    clouds: "Sequence[Cloud]",
    titles: Sequence[str],
    up: str,
    html: Path | None,
    render: Path | None,
    drawing: dict[str, Any],
    pixels: dict[str, int],
) -> None:
    """Write the page and the picture, or show one column after another in windows."""
    import typer

    from ea_pointcloud.viz import show
    from ea_pointcloud.viz.attention import scalar_figure, scalar_grid
    from ea_pointcloud.viz.interactive import write_page

    points, values, columns = look_at(look, clouds, up)
    if html is not None:
        made = scalar_figure(points[0], values[0], columns, title=titles[0], **drawing)
        write_page(made, html)
        typer.echo(f"wrote {html}", err=True)
    if render is not None:
        scalar_grid(points, values, columns, titles, render, **{**drawing, **pixels})
        typer.echo(f"wrote {render}", err=True)
    if html is None and render is None:
        for xyz, scalars, title in zip(points, values, titles, strict=True):
            for place, column in enumerate(columns):
                show(xyz, color_by=scalars[:, place], title=f"{title}: {column}", **drawing)


def look_at(
    look: Look, clouds: "Sequence[Cloud]", up: str
) -> "tuple[list[np.ndarray], list[np.ndarray], list[str]]":
    """Ask the network.

    Saliency and critical points are of the points that the network sees, and these are drawn then;
    attention alone is carried to all points.

    Args:
        look: what was asked for.
        clouds: what is looked at.
        up: the axis that is up in them.

    Returns:
        points: (N, 3) of each cloud, y up.
        values: (N, K) of those.
        columns: K headings.

    Raises:
        ValueError: if the network has no such layer or slot, or is no classifier where one is
            needed.
    """
    import torch

    from ea_pointcloud._checks import check_range
    from ea_pointcloud._device import resolve_device
    from ea_pointcloud.explain import (
        attention_layers,
        critical_points,
        most_used,
        saliency,
        subject_of,
    )
    from ea_pointcloud.models import load_model

    model: Any = load_model(look.model).to(resolve_device("auto"))
    if look.attention is not None:
        depth = len(attention_layers(model))
        check_range("--attention", look.attention, -depth, depth - 1)
    subjects = [subject_of(model, cloud, up=up) for cloud in clouds]
    thinned = look.saliency or look.critical
    points = [subject.seen if thinned else subject.xyz for subject in subjects]
    columns: list[str] = []
    values: list[list[torch.Tensor]] = [[] for _ in clouds]
    if look.attention is not None:
        maps = _maps(model, subjects, look.attention, look.slots)
        if look.slots is None:
            maps = _maps(model, subjects, look.attention, most_used(maps, look.top))
        columns = [f"slot {slot}" for slot in maps[0].slots]
        for one, xyz, found in zip(maps, points, values, strict=True):
            found.append(one.at(xyz)[0])
    for wanted, heading, measure in (
        (look.saliency, "saliency", saliency),
        (look.critical, "channels won", critical_points),
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
