"""Airplane and car."""

import math

from ea_pointcloud.datasets._shapes.primitives import (
    Draw,
    NamedParts,
    box,
    ellipsoid,
    lathe,
    move,
    rod,
    scale,
    turn,
    wing,
)


def airplane(draw: Draw) -> NamedParts:
    radius, tail = draw(0.045, 0.1), draw(0.15, 0.4)
    nose = draw(0.25, 0.47)
    radii = (0.02, radius * draw(0.35, 0.6), radius, radius)
    radii += (radius * draw(0.75, 0.9), radius * draw(0.1, 0.5))
    heights = (-0.5, -0.45, -0.5 + tail, nose - 0.05, nose + (0.5 - nose) * 0.5, 0.5)
    hull = turn(lathe(radii, heights), 0, math.pi / 2)
    yield "fuselage", scale(hull, (1, draw(0.9, 1.3), 1))
    if draw.chance(0.3):
        half = radius * 0.6
        yield "fuselage", ellipsoid((0, radius * 0.9, nose - 0.1), (half, half, 0.1))

    span, chord, sweep = draw(0.28, 0.65), draw(0.12, 0.28), draw(-0.03, 0.3)
    level, rise = radius * draw(-0.8, 0.9), draw(-0.03, 0.08)
    taper, at = draw(0.3, 1.0), draw(-0.02, 0.14)
    biplane, lift, winglets = draw.chance(0.12), draw(0.14, 0.2), draw.chance(0.25)
    for side in (-1, 1):
        tip = (side * span, level + rise, at - sweep)
        yield "wing", wing((0, level, at), tip, chord, chord * taper, 0.1)
        if biplane:
            high = (tip[0], tip[1] + lift, tip[2])
            yield "wing", wing((0, level + lift, at), high, chord, chord * taper, 0.1)
            for part in (0.15, 0.75):
                foot = (tip[0] * part, level + rise * part, at - sweep * part)
                yield "wing", rod(foot, (foot[0], foot[1] + lift, foot[2]), 0.008)
        elif winglets:
            yield "wing", wing(tip, (tip[0] * 1.04, tip[1] + 0.07, tip[2] - 0.05), 0.07, 0.04, 0.1)
    yield from _tail(draw)

    power = draw.pick("jet", "jet", "rear", "propeller", "none")
    size = draw(0.02, 0.045)
    pod = lathe((0.6 * size, size, size), (-2 * size, -size, 2 * size))
    pod = turn(pod, 0, math.pi / 2)
    if power == "propeller":
        length = draw(0.09, 0.16)
        yield "engine", turn(lathe((0.03, 0.03, 0), (0.49, 0.51, 0.55)), 0, math.pi / 2)
        blade, angle = box((0, 0, 0.515), (2 * length, 0.025, 0.012)), draw(0, math.pi)
        for quarter in range(draw.count(1, 2)):
            yield "engine", turn(blade, 2, angle + quarter * math.pi / 2)
    elif power == "rear":
        for side in (-1, 1):
            yield "engine", move(pod, (side * (radius * 0.85 + size), radius * 0.4, -0.5 + tail))
    elif power == "jet":
        for part in (0.35, 0.62)[: draw.count(1, 2)]:
            for side in (-1, 1):
                hung = (side * span * part, level + rise * part - size, at - sweep * part + 0.05)
                yield "engine", move(pod, hung)


def _tail(draw: Draw) -> NamedParts:
    fin, fin_chord = draw(0.11, 0.24), draw(0.08, 0.16)
    back, slant = -0.5 + fin_chord / 2, draw(0.0, 0.1)
    stabilizer = draw(0.12, 0.24)
    style = draw.pick("low", "low", "t", "twin")
    if style == "twin":
        for side in (-1, 1):
            foot = (side * stabilizer * 0.7, 0, back)
            yield "tail", wing(foot, (foot[0], fin, back - slant), fin_chord, fin_chord * 0.6, 0.1)
    else:
        yield "tail", wing((0, 0, back), (0, fin, back - slant), fin_chord, fin_chord * 0.7, 0.1)
    root = (0, fin - 0.01, back - slant) if style == "t" else (0, 0.0, back)
    for side in (-1, 1):
        tip = (side * stabilizer, root[1], root[2] - slant * 0.7)
        yield "tail", wing(root, tip, fin_chord * 0.9, fin_chord * 0.6, 0.1)


def car(draw: Draw) -> NamedParts:
    kind = draw.pick("sedan", "hatch", "van", "pickup", "truck", "sport")
    length = {"truck": draw(5.5, 7.5), "van": draw(4.2, 5.5)}.get(kind, draw(3.6, 5.2))
    width, wheel = draw(1.6, 2.0), draw(0.28, 0.42)
    low, high = wheel * draw(0.6, 1.0), wheel * draw(2.1, 2.6)
    roof = draw(0.4, 0.7) * (0.7 if kind == "sport" else 1.0)
    deck = high - low
    shape = draw(0.9, 1.0), draw(0.92, 1.0)
    bevel, middle = draw(0.1, 0.5), (0, low + deck / 2, 0)
    yield "body", box(middle, (width, deck, length), bevel=bevel, top=shape)
    if kind == "van":
        size = length * draw(0.75, 0.95)
        roof += draw(0.3, 0.9)
        slope = draw(0.85, 0.97)
        at = (0, high + roof / 2 - 0.05, (size - length) / 2 + 0.05)
        yield "cabin", box(at, (width * 0.97, roof, size), top=(0.9, slope), lean=-0.04 * size)
    elif kind in ("pickup", "truck"):
        size = length * draw(0.2, 0.35)
        roof += 0.5 if kind == "truck" else 0.0
        front = length / 2 - size / 2 - (draw(0.0, 0.2) if kind == "truck" else draw(0.7, 1.2))
        at = (0, high + roof / 2 - 0.05, front)
        yield "cabin", box(at, (width * 0.95, roof, size), top=(0.9, 0.7))
        bed = front - size / 2 + length / 2 - 0.1
        wall = draw(0.9, 1.8) if kind == "truck" else 0.3
        center = -length / 2 + bed / 2 + 0.02
        if kind == "truck":
            yield "body", box((0, high + wall / 2 - 0.05, center), (width, wall, bed))
        else:
            for side in (-1, 1):
                x = side * (width / 2 - 0.06)
                yield "body", box((x, high + wall / 2 - 0.05, center), (0.08, wall, bed))
            back = 0.06 - length / 2
            yield "body", box((0, high + wall / 2 - 0.05, back), (width * 0.97, wall, 0.08))
    else:
        size = length * (draw(0.6, 0.75) if kind == "hatch" else draw(0.4, 0.55))
        shift = (size - length) / 2 + 0.1 if kind == "hatch" else -length * draw(0.02, 0.1)
        at, lean = (0, high + roof / 2 - 0.03, shift), -size * draw(0.0, 0.12)
        yield "cabin", box(at, (width * 0.94, roof, size), top=(0.82, draw(0.5, 0.75)), lean=lean)
        if kind == "sport" and draw.chance(0.6):
            z = 0.1 - length / 2
            yield "body", box((0, high + 0.22, z), (width * 0.95, 0.05, 0.3))
            for side in (-1, 1):
                yield "body", box((side * width * 0.35, high + 0.1, z), (0.06, 0.26, 0.2))
    thick, base = draw(0.18, 0.28), length * draw(0.27, 0.35)
    for side in (-1, 1):
        for z in (base, -base, 2.3 * wheel - base) if kind == "truck" else (base, -base):
            x = side * (width / 2 - 0.05)
            left, right = (x - thick / 2, wheel, z), (x + thick / 2, wheel, z)
            yield "wheel", rod(left, right, wheel, sides=16)
