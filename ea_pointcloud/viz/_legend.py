"""The text in a picture: titles, legends and colour bars, sized so that all of it fits."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from ea_pointcloud.viz.coloring import ColorBar, ColoredCloud, LegendEntry
from ea_pointcloud.viz.colors import SCALAR_COLORS, UNKNOWN

_SMALLEST_LINE, _LARGEST_LINE = 13, 26  # pixels
_TALLEST = 0.4  # of the picture's height
_ELLIPSIS = "…"


@dataclass(frozen=True)
class LegendBox:
    """The lower part of a picture: a title, then the rows of a legend, or a colour bar.

    Args:
        line: height of a row in pixels.
        title: empty for none.
        rows: of legend entries.
        bar: the colour bar.
    """

    line: int
    title: str
    rows: tuple[tuple[LegendEntry, ...], ...]
    bar: ColorBar | None

    @property
    def height(self) -> int:
        """In pixels."""
        lines = bool(self.title) + len(self.rows) + (self.bar is not None)
        return self.line * lines + (self.line // 2 if lines else 0)


def layout(colored: ColoredCloud, title: str, size: tuple[int, int], *, legend: bool) -> LegendBox:
    """Find the largest text with which all of it fits; past that, drop the last entries."""
    width, height = size
    entries = colored.legend if legend else ()
    bar = colored.bar if legend else None
    largest = int(np.clip(min(size) // 18, _SMALLEST_LINE, _LARGEST_LINE))
    box = LegendBox(largest, title, (), bar)
    for line in range(largest, _SMALLEST_LINE - 1, -1):
        box = LegendBox(line, title, _flow(entries, width, line), bar)
        if box.height <= _TALLEST * height:
            return box
    fitting = int(_TALLEST * height / box.line - 0.5) - bool(title) - (bar is not None)
    kept = sum(map(len, box.rows[:fitting]))
    rows = box.rows[:fitting]
    while kept > 0:
        more = LegendEntry(f"and {len(entries) - kept} more", UNKNOWN)
        rows = _flow([*entries[:kept], more], width, box.line)
        if len(rows) <= fitting:
            break
        kept -= 1
    return LegendBox(box.line, title, rows, bar)


def draw_legend(pen: Any, box: LegendBox, top: int, width: int, ink: str) -> None:
    """Draw onto a Pillow ``ImageDraw``, each row in the middle of ``width`` pixels."""
    line, font = box.line, _font(box.line)
    if box.title:
        text = _shorten(box.title, font, width - line)
        pen.text((width / 2, top + line / 2), text, ink, font, anchor="mm")
        top += line
    for row in box.rows:
        left = (width - sum(_entry_width(entry, font, line) for entry in row)) / 2
        for entry in row:
            swatch = (left, top + 0.2 * line, left + 0.6 * line, top + 0.8 * line)
            pen.rectangle(swatch, fill=entry.color)
            text = _shorten(entry.text, font, width - 2 * line)
            pen.text((left + 0.85 * line, top + line / 2), text, ink, font, anchor="lm")
            left += _entry_width(entry, font, line)
        top += line
    if box.bar is not None:
        _draw_bar(pen, box.bar, top, width, line, ink)


def _draw_bar(pen: Any, bar: ColorBar, top: int, width: int, line: int, ink: str) -> None:
    font, gap = _font(line), line / 2
    before, after = f"{bar.title}  {bar.low:.3g}", f"{bar.high:.3g}"
    length = max(line, min(width / 2, width - font.getlength(before + after) - 4 * gap))
    start = (width - length - font.getlength(before) - font.getlength(after) - 2 * gap) / 2
    pen.text((start, top + line / 2), before, ink, font, anchor="lm")
    start += font.getlength(before) + gap
    steps = np.linspace(0, 1, len(SCALAR_COLORS))
    for column in range(round(length)):
        fraction = column / max(1, round(length) - 1)
        color = tuple(round(np.interp(fraction, steps, channel)) for channel in SCALAR_COLORS.T)
        pen.line((start + column, top + 0.25 * line, start + column, top + 0.75 * line), color)
    pen.text((start + length + gap, top + line / 2), after, ink, font, anchor="lm")


@lru_cache(maxsize=64)
def _font(line: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size=0.72 * line)


def _entry_width(entry: LegendEntry, font: Any, line: int) -> float:
    return font.getlength(entry.text) + 1.7 * line


def _flow(
    entries: Sequence[LegendEntry], width: int, line: int
) -> tuple[tuple[LegendEntry, ...], ...]:
    """Break entries into rows of at most ``width`` pixels."""
    font = _font(line)
    rows: list[list[LegendEntry]] = []
    room = 0.0
    for entry in entries:
        needed = _entry_width(entry, font, line)
        if not rows or needed > room:
            rows.append([])
            room = float(width)
        rows[-1].append(entry)
        room -= needed
    return tuple(map(tuple, rows))


def _shorten(text: str, font: Any, width: float) -> str:
    """Leave out the middle of a text that is too long: the ends of file names differ most."""
    if font.getlength(text) <= width:
        return text
    for keep in range(len(text) - 1, 1, -1):
        short = text[: (keep + 1) // 2] + _ELLIPSIS + text[len(text) - keep // 2 :]
        if font.getlength(short) <= width:
            return short
    return _ELLIPSIS
