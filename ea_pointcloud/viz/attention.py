"""Pictures of attention: memory slots and saliency on shapes, and the use of slots by class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ea_pointcloud._checks import check_count
from ea_pointcloud.viz.coloring import color_cloud
from ea_pointcloud.viz.colors import scalar_colors
from ea_pointcloud.viz.interactive import MAX_POINTS
from ea_pointcloud.viz.page import write_page
from ea_pointcloud.viz.pictures import render, save_picture
from ea_pointcloud.viz.style import Style

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ea_pointcloud.viz.style import ViewOptions
_BAR = 10  # lines that the scale of the colours is long


def scalar_grid(
    clouds: Sequence[NDArray[np.floating]],
    values: Sequence[NDArray[np.floating]],
    columns: Sequence[str],
    titles: Sequence[str],
    path: str | Path | None = None,
    *,
    quantities: Sequence[str] | None = None,
    percentile: float = 100.0,
    up: str = "y",
    size: int = 260,
    **view: Unpack[ViewOptions],
) -> NDArray[np.uint8]:
    """Draw a row of pictures for each cloud, one for each of its scalars: slots, or saliency.

    All pictures of a column share one scale from 0 to the largest value of all clouds (from the
    smallest where that is negative): a row shows the slots of a shape, a column one slot across
    shapes.

    Args:
        clouds: (N_i, 3) points in any unit.
        values: (N_i, K) scalars of the points of each cloud.
        columns: names of the scalars.
        titles: one a cloud.
        path: PNG file to write as well; replaced where it exists.
        quantities: of the columns, beside their colour bars.
        percentile: of the values at which a scale ends, so that few outliers do not darken the
            rest; 100 for the largest value.
        up: the axis that is up in all of them.
        size: edge of one picture in pixels, title and colour bar included.
        view: background, point size and camera, see :class:`~ea_pointcloud.viz.Style`.

    Returns:
        (H, W, 3) uint8.

    Raises:
        ValueError: if there is no cloud or column, or the shapes do not agree.
    """
    _check_scalars(clouds, values, columns, titles)
    limits = scalar_scales(values, percentile)
    rows = []
    for xyz, scalars, title in zip(clouds, values, titles, strict=True):
        pictures = [
            render(
                xyz,
                color_by=scalars[:, index],
                limits=limits[index],
                quantity=quantities[index] if quantities else "value",
                title=f"{title}: {column}" if title else column,
                up=up,
                size=size,
                **view,
            )
            for index, column in enumerate(columns)
        ]
        rows.append(np.concatenate(pictures, axis=1))
    picture = np.concatenate(rows)
    if path is not None:
        save_picture(Path(path), [picture])
    return picture


def scalar_page(
    cloud: NDArray[np.floating],
    values: NDArray[np.floating],
    columns: Sequence[str],
    path: str | Path,
    *,
    quantities: Sequence[str] | None = None,
    percentile: float = 100.0,
    up: str = "y",
    title: str = "",
    max_points: int = MAX_POINTS,
    **view: Unpack[ViewOptions],
) -> None:
    """Write a page of a cloud with a menu of the scalars to colour it by.

    Args:
        cloud: (N, 3) points in any unit.
        values: (N, K) scalars of the points.
        columns: names of the scalars.
        path: of the page; replaced where it exists.
        quantities: see :func:`scalar_grid`.
        percentile: see :func:`scalar_grid`.
        up: the axis that is up.
        title: above the cloud.
        max_points: see :func:`ea_pointcloud.viz.to_html`.
        view: background, point size and camera, see :class:`~ea_pointcloud.viz.Style`.

    Raises:
        ValueError: if there is no column or the shapes do not agree.
    """
    _check_scalars([cloud], [values], columns, [title])
    limits = scalar_scales([values], percentile)
    layers = [
        color_cloud(
            cloud,
            Style(
                color_by=values[:, index],
                limits=limits[index],
                quantity=quantities[index] if quantities else "value",
                up=up,
                **view,
            ),
        )
        for index in range(len(columns))
    ]
    titles = [f"{title}: {column}" if title else column for column in columns]
    write_page(layers, columns, titles, path, Style(**view), max_points)


def scalar_scales(
    values: Sequence[NDArray[np.floating]], percentile: float = 100.0
) -> list[tuple[float, float]]:
    """Limits for each of K columns of (N_i, K) arrays: percentiles of the finite values, and 0."""
    joined = np.concatenate([np.asarray(each, np.float64) for each in values])
    finite = np.where(np.isfinite(joined), joined, 0.0)
    low, high = np.percentile(finite, [100 - percentile, percentile], axis=0)
    return list(zip(low.clip(max=0).tolist(), high.clip(min=0).tolist(), strict=True))


def usage_heatmap(
    usage: NDArray[np.floating],
    rows: Sequence[str],
    path: str | Path | None = None,
    *,
    title: str = "",
    cell: int = 14,
) -> NDArray[np.uint8]:
    """Draw how classes use memory slots: a row a class, a column a slot, the slots used most first.

    Colours are in fair shares, by their logarithm: 1 is a slot that gets 1 / M of the weight.

    Args:
        usage: (R, M) mean weight of each slot, > 0; rows sum to 1, a row of NaN is grey.
        rows: R names.
        path: PNG file to write as well; replaced where it exists.
        title: above the picture.
        cell: edge of one entry in pixels, >= 4.

    Returns:
        (H, W, 3) uint8.

    Raises:
        ValueError: if there is no row, or not one name for each.
    """
    from PIL import Image, ImageFont

    check_count("cell", cell, 4)
    usage = np.asarray(usage, dtype=np.float64)
    if usage.ndim != 2 or 0 in usage.shape or len(rows) != len(usage):
        raise ValueError(
            f"usage must have shape (R, M) with R={len(rows)} names and R, M >= 1, "
            f"got {usage.shape}"
        )
    shares = np.log2(usage * usage.shape[1])
    order = np.argsort(-np.nan_to_num(usage).mean(0), kind="stable")
    finite = shares[np.isfinite(shares)]
    limits = min(-1.0, float(finite.min(initial=-1))), max(1.0, float(finite.max(initial=1)))
    colors = scalar_colors(shares[:, order].ravel(), limits).reshape(*shares.shape, 3)
    block = _bytes(colors).repeat(cell, axis=0).repeat(cell, axis=1)

    line = max(18, cell + 4)
    font = ImageFont.load_default(size=0.6 * line)
    left = round(max(font.getlength(name) for name in (*rows, "fair shares"))) + line
    # The digits of a slot's number stand one under another, to be as narrow as an entry.
    digits = len(str(usage.shape[1] - 1)) * line * 2 // 3
    width = left + max(block.shape[1], _BAR * line, round(font.getlength(title)) - left) + 2 * line
    sheet = Image.new("RGB", (width, line + len(block) + digits + 3 * line), "white")
    _text(sheet, width / 2, line / 2, title, line)
    sheet.paste(Image.fromarray(block), (left, line))
    for row, name in enumerate(rows):
        _text(sheet, left - line / 3, line + (row + 0.5) * cell, name, line, anchor="rm")
    for column, slot in enumerate(order.tolist()):
        for digit, character in enumerate(str(slot)):
            middle = line + len(block) + (digit + 0.5) * line * 2 / 3
            _text(sheet, left + (column + 0.5) * cell, middle, character, line * 5 // 6)

    _scale_of_shares(sheet, limits, left, line + len(block) + digits + line // 2, line)
    picture = np.asarray(sheet)
    if path is not None:
        save_picture(Path(path), [picture])
    return picture


def _check_scalars(
    clouds: Sequence[NDArray[np.floating]],
    values: Sequence[NDArray[np.floating]],
    columns: Sequence[str],
    titles: Sequence[str],
) -> None:
    if not clouds or not columns or not len(clouds) == len(values) == len(titles):
        raise ValueError(
            "there must be at least one cloud and column, and values and a title for each cloud, "
            f"got {len(clouds)} clouds, {len(values)} values, {len(titles)} titles and "
            f"{len(columns)} columns"
        )
    for xyz, scalars in zip(clouds, values, strict=True):
        if scalars.shape != (len(xyz), len(columns)):
            raise ValueError(
                f"values must have shape (N, K) = ({len(xyz)}, {len(columns)}) as the points and "
                f"columns, got {scalars.shape}"
            )


def _bytes(colors: NDArray[np.floating]) -> NDArray[np.uint8]:
    return np.rint(colors * 255).astype(np.uint8)


def _text(sheet: Any, x: float, y: float, text: str, line: float, *, anchor: str = "mm") -> None:
    from PIL import ImageDraw, ImageFont

    font = ImageFont.load_default(size=0.6 * line)
    ImageDraw.Draw(sheet).text((x, y), text, fill="black", font=font, anchor=anchor)


def _scale_of_shares(
    sheet: Any, limits: tuple[float, float], left: int, below: int, line: int
) -> None:
    """Draw what the colours of :func:`usage_heatmap` mean, ``below`` the top of a picture."""
    from PIL import Image

    bar = _BAR * line
    _text(sheet, left - line / 3, below + line / 2, "fair shares", line, anchor="rm")
    steps = Image.fromarray(_bytes(scalar_colors(np.linspace(*limits, bar), limits))[None])
    sheet.paste(steps.resize((bar, line // 2)), (left, below + line // 4))
    for mark in (limits[0], 0.0, limits[1]):
        middle = left + bar * (mark - limits[0]) / (limits[1] - limits[0])
        _text(sheet, middle, below + 1.3 * line, f"{2**mark:.2g}", line)
