"""Curves over a growing size, drawn as a picture on two logarithmic axes."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from math import ceil, floor, log10
from pathlib import Path
from typing import Any, NamedTuple

from ea_pointcloud._atomic import write_whole

# Of Okabe and Ito: told apart by everyone, in this order.
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_INK, _GRID = "#222222", "#dddddd"
_WIDTH, _HEIGHT = 560, 440  # of one panel, pixels
_LEFT, _RIGHT, _TOP, _BOTTOM = 84, 40, 48, 58
_FONT = 15
_DOT = 5


class Panel(NamedTuple):
    """One pair of axes.

    Args:
        title: above it: what the vertical axis shows, with its unit.
        x: what the horizontal axis shows, with its unit.
        curves: name -> points (x, y), both > 0.
    """

    title: str
    x: str
    curves: Mapping[str, Sequence[tuple[float, float]]]


def draw_curves(panels: Sequence[Panel], path: str | Path) -> None:
    """Write a PNG with the panels beside each other; a name has one colour in all of them.

    Raises:
        ValueError: if no panel has a point, or a value is not positive.
    """
    from PIL import Image, ImageDraw

    names = list(dict.fromkeys(name for panel in panels for name in panel.curves))
    colors = {name: _COLORS[place % len(_COLORS)] for place, name in enumerate(names)}
    if not any(len(points) for panel in panels for points in panel.curves.values()):
        raise ValueError("panels must hold at least one point to draw, got none")
    image = Image.new("RGB", (_WIDTH * len(panels), _HEIGHT), "white")
    pen = ImageDraw.Draw(image)
    for place, panel in enumerate(panels):
        _draw_panel(pen, panel, colors, place * _WIDTH)
    content = BytesIO()
    image.save(content, format="PNG")
    write_whole(Path(path), content.getvalue())


def _draw_panel(pen: Any, panel: Panel, colors: Mapping[str, str], offset: int) -> None:
    from PIL import ImageFont

    font = ImageFont.load_default(_FONT)
    xs, ys = ([point[axis] for points in panel.curves.values() for point in points]
              for axis in (0, 1))  # fmt: skip
    if min([*xs, *ys], default=1) <= 0:
        raise ValueError(f"values on logarithmic axes must be positive, got {min([*xs, *ys])}")
    left, right = offset + _LEFT, offset + _WIDTH - _RIGHT
    top, bottom = _TOP, _HEIGHT - _BOTTOM
    pen.text(((left + right) / 2, _TOP / 2), panel.title, _INK, font, anchor="mm")
    if not xs:
        pen.text(((left + right) / 2, (top + bottom) / 2), "not measured", _INK, font, anchor="mm")
        return
    (x_low, x_high), (y_low, y_high) = _decades(xs), _decades(ys)

    def across(value: float) -> float:
        return left + (right - left) * (log10(value) - x_low) / (x_high - x_low)

    def up(value: float) -> float:
        return bottom - (bottom - top) * (log10(value) - y_low) / (y_high - y_low)

    for decade in range(x_low, x_high + 1):
        at = across(10**decade)
        pen.line([(at, top), (at, bottom)], _GRID)
        pen.text((at, bottom + 8), _decade(decade), _INK, font, anchor="mt")
    for decade in range(y_low, y_high + 1):
        at = up(10**decade)
        pen.line([(left, at), (right, at)], _GRID)
        pen.text((left - 8, at), _decade(decade), _INK, font, anchor="rm")
    pen.rectangle([left, top, right, bottom], outline=_INK)
    pen.text(((left + right) / 2, _HEIGHT - 16), panel.x, _INK, font, anchor="mm")
    for place, (name, points) in enumerate(panel.curves.items()):
        line = [(across(x), up(y)) for x, y in sorted(points)]
        pen.line(line, colors[name], 3, joint="curve")
        for x, y in line:
            pen.ellipse([x - _DOT, y - _DOT, x + _DOT, y + _DOT], colors[name])
        at = top + 16 + 20 * place
        pen.line([(left + 10, at), (left + 34, at)], colors[name], 3)
        pen.text((left + 42, at), name, _INK, font, anchor="lm")


def _decades(values: Sequence[float]) -> tuple[int, int]:
    """Powers of ten around the values."""
    low, high = floor(log10(min(values))), ceil(log10(max(values)))
    return low, max(high, low + 1)


def _decade(power: int) -> str:
    return f"{10**power:,}" if 0 <= power < 7 else f"{10.0**power:g}"
