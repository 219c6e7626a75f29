"""The writing in a picture: titles, legends and colour bars, sized so that all of it fits."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from ea_pointcloud.viz._paint import Entry, Painted, Scale
from ea_pointcloud.viz.colors import SCALAR_COLORS, UNKNOWN

_SMALLEST_LINE, _LARGEST_LINE = 13, 26  # pixels
_TALLEST = 0.4  # share of the picture that a legend may take
_ELLIPSIS = "…"


@dataclass(frozen=True)
class Strip:
    """The lower part of a picture: a title, then the rows of a legend, or a colour bar.

    Args:
        line: height of a row in pixels.
        title: none where it is empty.
        rows: of legend entries.
        scale: of the colour bar.
    """

    line: int
    title: str
    rows: tuple[tuple[Entry, ...], ...]
    scale: Scale | None

    @property
    def height(self) -> int:
        """In pixels."""
        lines = bool(self.title) + len(self.rows) + (self.scale is not None)
        return self.line * lines + (self.line // 2 if lines else 0)


def plan(painted: Painted, title: str, size: tuple[int, int], *, legend: bool) -> Strip:
    """Find the largest writing with which all of it fits; past that, drop the last entries."""
    width, height = size
    entries = painted.legend if legend else ()
    scale = painted.scale if legend else None
    largest = int(np.clip(min(size) // 18, _SMALLEST_LINE, _LARGEST_LINE))
    strip = Strip(largest, title, (), scale)
    for line in range(largest, _SMALLEST_LINE - 1, -1):
        strip = Strip(line, title, _flow(entries, width, line), scale)
        if strip.height <= _TALLEST * height:
            return strip
    fitting = int(_TALLEST * height / strip.line - 0.5) - bool(title) - (scale is not None)
    kept = sum(map(len, strip.rows[:fitting]))
    rows = strip.rows[:fitting]
    while kept > 0:
        more = Entry(f"and {len(entries) - kept} more", UNKNOWN)
        rows = _flow([*entries[:kept], more], width, strip.line)
        if len(rows) <= fitting:
            break
        kept -= 1
    return Strip(strip.line, title, rows, scale)


def draw_strip(pen: Any, strip: Strip, left: int, top: int, width: int, ink: str) -> None:
    """Draw onto a Pillow ``ImageDraw``, each row in the middle of ``width`` pixels."""
    line, font = strip.line, _font(strip.line)
    if strip.title:
        text = _shorten(strip.title, font, width - line)
        pen.text((left + width / 2, top + line / 2), text, ink, font, anchor="mm")
        top += line
    for row in strip.rows:
        place = left + (width - sum(_entry_width(entry, font, line) for entry in row)) / 2
        for entry in row:
            box = (place, top + 0.2 * line, place + 0.6 * line, top + 0.8 * line)
            pen.rectangle(box, fill=entry.color)
            text = _shorten(entry.text, font, width - 2 * line)
            pen.text((place + 0.85 * line, top + line / 2), text, ink, font, anchor="lm")
            place += _entry_width(entry, font, line)
        top += line
    if strip.scale is not None:
        _draw_bar(pen, strip.scale, font, (left, top, width, line), ink)


def _draw_bar(pen: Any, scale: Scale, font: Any, box: tuple[int, int, int, int], ink: str) -> None:
    left, top, width, line = box
    before, after = f"{scale.title}  {scale.low:.3g}", f"{scale.high:.3g}"
    gap = line / 2
    length = max(line, min(width / 2, width - font.getlength(before + after) - 4 * gap))
    start = left + (width - length - font.getlength(before) - font.getlength(after) - 2 * gap) / 2
    pen.text((start, top + line / 2), before, ink, font, anchor="lm")
    start += font.getlength(before) + gap
    steps = np.linspace(0, 1, len(SCALAR_COLORS))
    for column in range(round(length)):
        share = column / max(1, round(length) - 1)
        color = tuple(round(np.interp(share, steps, channel)) for channel in SCALAR_COLORS.T)
        pen.line((start + column, top + 0.25 * line, start + column, top + 0.75 * line), color)
    pen.text((start + length + gap, top + line / 2), after, ink, font, anchor="lm")


@lru_cache(maxsize=64)
def _font(line: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size=0.72 * line)


def _entry_width(entry: Entry, font: Any, line: int) -> float:
    return font.getlength(entry.text) + 1.7 * line


def _flow(entries: Sequence[Entry], width: int, line: int) -> tuple[tuple[Entry, ...], ...]:
    """Break entries into rows of at most ``width`` pixels."""
    font = _font(line)
    rows: list[list[Entry]] = []
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
