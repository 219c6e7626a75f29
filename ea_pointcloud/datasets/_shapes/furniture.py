"""Bed, shelf and table."""

import math

import numpy as np

from ea_pointcloud.datasets._shapes.primitives import (
    Draw,
    NamedParts,
    box,
    four_legs,
    lathe,
    move,
    rod,
    scale,
)


def bed(draw: Draw) -> NamedParts:
    width, length = draw(0.8, 2.0), draw(1.8, 2.2)
    base, thick = draw(0.15, 0.45), draw(0.12, 0.35)
    top, frame = base + thick, draw(0.06, 0.15)
    yield "mattress", box((0, base + thick / 2, 0), (width, thick, length), bevel=draw(0.1, 0.6))
    if draw.chance(0.4):
        yield "frame", box((0, base / 2, 0), (width * 0.98, base, length * 0.98))
    else:
        edge = width + draw(0.0, 0.12)
        yield "frame", box((0, base - frame / 2, 0), (edge, frame, length + 0.06))
        yield from four_legs("frame", width * 0.46, length * 0.47, base, draw(0.03, 0.06), 0, draw)
    if draw.chance(0.12):
        mast = draw(1.5, 2.1)
        x, z = width / 2, length / 2
        for side in (-1, 1):
            for end in (-1, 1):
                yield "frame", rod((side * x, 0, end * z), (side * x, mast, end * z), 0.035)
            yield "frame", rod((side * x, mast, -z), (side * x, mast, z), 0.03)
            yield "frame", rod((-x, mast, side * z), (x, mast, side * z), 0.03)

    for name, end, odds, rise in (
        ("headboard", -1, 0.85, draw(0.25, 0.9)),
        ("frame", 1, 0.3, draw(0.05, 0.4)),
    ):
        if not draw.chance(odds):
            continue
        z, high = end * (length / 2 + 0.03), top + rise
        if draw.chance(0.6):
            yield name, box((0, high / 2, z), (width, high, draw(0.04, 0.14)), bevel=0.4)
            continue
        x, bars = width / 2 - 0.03, draw.count(3, 9)
        yield name, rod((-x, high, z), (x, high, z), 0.03)
        yield name, rod((-x, base, z), (x, base, z), 0.03)
        for index in range(bars):
            at = x * (2 * index / (bars - 1) - 1)
            yield name, rod((at, base, z), (at, high, z), 0.015)
        for side in (-1, 1):
            yield name, rod((side * x, 0, z), (side * x, high, z), 0.035)

    pillows = 1 if width < 1.2 else 2
    room = width / pillows
    for index in range(pillows):
        at = (room * (index + 0.5 - pillows / 2), top + 0.05, -length / 2 + 0.28)
        yield "pillow", box(at, (room * draw(0.65, 0.85), draw(0.1, 0.16), 0.38), bevel=0.8)


def shelf(draw: Draw) -> NamedParts:
    wide, high, depth = draw(0.4, 1.8), draw(0.7, 2.2), draw(0.2, 0.45)
    thick, boards = draw(0.015, 0.05), draw.count(3, 7)
    foot = draw(0.0, 0.12)
    style = draw.pick("panel", "panel", "post", "ladder")
    ladder = draw(0.3, 0.7) if style == "ladder" else 1.0
    levels = np.linspace(foot + thick / 2, high - thick / 2, boards)
    for level in levels.tolist():
        shrink = 1 + (ladder - 1) * (level / high)
        at = (0, level, -depth / 2 * (1 - shrink))
        yield "board", box(at, (wide, thick, depth * shrink))
    post = draw(0.012, 0.025)
    for side in (-1, 1):
        x = side * (wide / 2 - thick / 2)
        if style == "panel":
            yield "side", box((x, high / 2, 0), (thick, high, depth))
            continue
        yield "side", rod((x, 0, -depth / 2), (x, high, -depth / 2), post, sides=4)
        yield "side", rod((x, 0, depth / 2), (x, high, depth * (ladder - 0.5)), post, sides=4)
    if style != "ladder" and draw.chance(0.5):
        yield "back", box((0, (high + foot) / 2, -depth / 2), (wide, high - foot, 0.012))
    if wide > 0.9 and draw.chance(0.6):
        for x in np.linspace(-wide / 2, wide / 2, draw.count(1, 2) + 2)[1:-1].tolist():
            yield "side", box((x, (high + foot) / 2, 0), (thick, high - foot, depth * ladder))


def table(draw: Draw) -> NamedParts:
    wide, high = draw(0.8, 1.8), draw(0.4, 0.95)
    depth, thick = wide / draw(1.0, 1.8), draw(0.02, 0.08)
    # Small high tables would be stools.
    high = min(high, 0.75 * wide)
    under, middle = high - thick, (0, high - thick / 2, 0)
    round_top = draw.chance(0.35)
    if round_top:
        disc = lathe((1, 1), (-thick / 2, thick / 2), sides=24)
        yield "top", move(scale(disc, (wide / 2, 1, depth / 2)), middle)
    else:
        yield "top", box(middle, (wide, thick, depth), bevel=draw.pick(0.0, 0.5))
    style = draw.pick("four", "four", "pedestal", "slab", "trestle")
    inset = 0.62 if round_top else draw(0.75, 0.92)
    x, z, radius = wide / 2 * inset, depth / 2 * inset, draw(0.02, 0.055)
    if style == "pedestal":
        column, foot = draw(0.04, 0.1), draw(0.3, 0.6)
        yield "leg", rod((0, under + 0.01, 0), (0, 0.03, 0), column)
        if draw.chance(0.5):
            disc = lathe((1, 1, 0.4), (0, 0.03, 0.06))
            yield "leg", scale(disc, (foot * wide / 2, 1, foot * depth / 2))
        else:
            for corner in range(4):
                angle = math.pi / 4 + corner * math.pi / 2
                end = (0.8 * x * math.cos(angle), 0.025, 0.8 * z * math.sin(angle))
                yield "leg", rod((0, 0.12, 0), end, 0.035, 0.025)
        return
    if style == "four":
        yield from four_legs("leg", x, z, under, radius, draw.pick(0.0, draw(0.0, 0.08)), draw)
    slab = draw(0.03, 0.08)
    for side in (-1, 1) if style != "four" else ():
        if style == "slab":
            yield "leg", box((side * x, under / 2, 0), (slab, under, 2 * z))
        else:
            yield "leg", rod((side * x, under, -0.2 * z), (side * x, 0, z), radius, sides=4)
            yield "leg", rod((side * x, under, 0.2 * z), (side * x, 0, -z), radius, sides=4)
    if style == "trestle":
        yield "leg", rod((-x, under * 0.5, 0), (x, under * 0.5, 0), radius * 0.8, sides=4)
    extra = draw.pick("none", "none", "shelf", "drawer", "apron")
    if extra == "shelf" and style != "trestle":
        level = under * draw(0.2, 0.4)
        yield "shelf", box((0, level, 0), (2 * x, 0.025, 2 * z))
    elif extra == "drawer" and not round_top and style == "four":
        block, side = under * draw(0.3, 0.9), draw.pick(-1, 1)
        size = x * draw(0.5, 0.75)
        at = (side * (x - size / 2), under - block / 2 + 0.01, 0)
        yield "drawer", box(at, (size, block, 2 * z))
    elif extra == "apron" and style == "four":
        for end in (-1, 1):
            yield "top", box((0, under - 0.04, end * z), (2 * x, 0.09, 0.02))
            yield "top", box((end * x, under - 0.04, 0), (0.02, 0.09, 2 * z))
