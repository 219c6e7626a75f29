"""Bottle, cup, lamp, monitor and mug."""

import math

import numpy as np

from ea_pointcloud.datasets._shapes.primitives import (
    Draw,
    NamedParts,
    Part,
    box,
    ellipsoid,
    lathe,
    move,
    rod,
    scale,
    shell,
    torus,
    tube,
    turn,
)


def bottle(draw: Draw) -> NamedParts:
    radius, body = draw(0.14, 0.34), draw(0.4, 0.8)
    neck, length = radius * draw(0.22, 0.5), draw(0.08, 0.4)
    shoulder, waist = draw(0.02, 0.3), draw(0.8, 1.0)
    sides, flat = draw.pick(20, 20, 20, 4, 6), draw.pick(1.0, 1.0, draw(0.4, 0.8))
    foot = radius * draw(0.75, 1.0)
    radii = (foot, radius, radius * waist, radius, radius, radius * 0.3 + neck * 0.7, neck)
    heights = (0, 0.05, body * 0.45, body * 0.85, body, body + shoulder * 0.7, body + shoulder)
    yield "body", scale(lathe(radii, heights, sides=sides), (1, 1, flat))
    top = body + shoulder + length
    squeeze = (1, 1, math.sqrt(flat))
    stem = lathe((neck, neck * draw(0.75, 1.0)), (body + shoulder - 0.02, top))
    yield "neck", scale(stem, squeeze)
    cap = draw.pick("screw", "screw", "cork", "rim", "pump")
    if cap == "screw":
        wide, tall = neck * draw(1.1, 1.5), draw(0.05, 0.14)
        yield "cap", scale(lathe((wide, wide), (top - tall * 0.4, top + tall * 0.6)), squeeze)
    elif cap == "cork":
        radii = (neck * 0.6, neck * 0.6, neck * 0.9)
        yield "cap", lathe(radii, (top - 0.01, top + 0.03, top + 0.08))
    elif cap == "rim":
        yield "neck", torus((0, top, 0), neck, neck * 0.25)
    else:
        high = top + draw(0.06, 0.12)
        reach = draw(0.1, 0.2)
        yield "cap", rod((0, top - 0.02, 0), (0, high, 0), neck * 0.35)
        yield "cap", box((0, high, reach / 3), (neck * 0.9, 0.035, reach * 1.33), bevel=0.4)


def cup(draw: Draw) -> NamedParts:
    wide, high = draw(0.25, 0.5), draw(0.45, 1.1)
    style = draw.pick("tumbler", "tumbler", "goblet", "bowl")
    sides = draw.pick(20, 20, 20, 4, 8) if style == "tumbler" else 20
    foot, wall, stem = draw(0.03, 0.1), draw(0.02, 0.06), 0.0
    if style == "goblet":
        stem = draw(0.25, 0.7)
        high *= 0.7
        radius, reach = draw(0.03, 0.07), wide * draw(0.6, 0.95)
        radii = (reach, reach, radius, radius, radius * 2)
        yield "foot", lathe(radii, (0, 0.03, 0.08, stem, stem + 0.05))
    elif style == "bowl":
        high *= 0.8
        stem = foot
        ring = wide * draw(0.4, 0.6)
        yield "foot", lathe((ring, ring), (0, foot + 0.03))
    bottom = wide * (draw(0.6, 1.0) if style == "tumbler" else draw(0.3, 0.6))
    bulge = wide * draw(0.95, 1.1) if style != "tumbler" else (bottom + wide) / 2
    vessel = _vessel((bottom, bulge, wide), high, wall, sides)
    yield "body", move(vessel, (0, stem, 0))
    if style != "goblet" and draw.chance(0.3):
        rim = wide * draw(1.3, 1.7)
        yield "saucer", lathe((bottom * 1.1, rim, rim, bottom * 1.1), (-0.02, 0.08, 0.11, 0.01))


def _vessel(radii: tuple[float, float, float], high: float, wall: float, sides: int) -> Part:
    """Open vessel with the outer ``radii`` at the bottom, at 45 % of the height and at the rim."""
    bottom, bulge, rim = radii
    profile = (bottom, bulge, rim, rim - wall, bulge - wall, bottom - wall)
    return lathe(profile, (0, high * 0.45, high, high, high * 0.45, wall), sides=sides)


def lamp(draw: Draw) -> NamedParts:
    kind = draw.pick("desk", "pendant", "floor", "floor", "table", "table")
    if kind == "desk":
        yield from _desk_lamp(draw)
        return
    if kind == "pendant":
        drop, foot, radius = draw(0.4, 1.2), draw(0.06, 0.12), draw(0.006, 0.012)
        yield "base", lathe((foot * 0.7, foot), (drop, drop + 0.05))
        yield "pole", rod((0, 0, 0), (0, drop + 0.01, 0), radius)
        yield from _shade(draw, -0.1)
        return
    floor = kind == "floor"
    high = draw(1.1, 1.7) if floor else draw(0.35, 0.75)
    foot, radius = draw(0.1, 0.2), draw(0.01, 0.025)
    styles = ("disc", "disc", "tripod") if floor else ("disc", "vase", "vase", "block")
    style = draw.pick(*styles)
    if style == "tripod":
        hub = high * draw(0.5, 0.9)
        start = draw(0, 2)
        for index in range(3):
            angle = start + 2 * math.pi * index / 3
            end = (2 * foot * math.cos(angle), 0, 2 * foot * math.sin(angle))
            yield "base", rod((0, hub, 0), end, radius)
    elif style == "vase":
        tall, bulge = high * draw(0.5, 0.95), foot * draw(0.9, 1.3)
        radii = (foot * 0.8, foot * 0.6, bulge, bulge * 0.5, radius * 1.5)
        yield "base", lathe(radii, (0, tall * 0.08, tall * draw(0.25, 0.6), tall * 0.85, tall))
    elif style == "block":
        tall = high * draw(0.3, 0.8)
        yield "base", box((0, tall / 2, 0), (1.3 * foot, tall, 1.3 * foot), bevel=0.2)
    else:
        yield "base", lathe((foot, foot, foot * 0.3), (0, 0.02, draw(0.025, 0.08)))
    yield "pole", rod((0, 0.01 if style == "disc" else 0.1, 0), (0, high + 0.1, 0), radius)
    yield from _shade(draw, high)


def _shade(draw: Draw, high: float) -> NamedParts:
    wide, tall = draw(0.14, 0.32), draw(0.15, 0.4)
    shade = draw.pick("cone", "cone", "drum", "square", "ball", "dome")
    if shade == "ball":
        globe = wide * 0.8
        yield "shade", ellipsoid((0, high + globe, 0), (globe, globe * draw(0.7, 1.2), globe))
        return
    if shade == "dome":
        angles = np.linspace(0, 1.5, 6).tolist()
        dome = lathe([wide * math.cos(a) for a in angles], [tall * math.sin(a) for a in angles])
        yield "shade", move(dome, (0, high - 0.05, 0))
        return
    top = wide * (draw(0.3, 0.75) if shade == "cone" else draw(0.85, 1.0))
    hood = shell(wide, top, tall, 0.008, sides=4 if shade == "square" else 20)
    yield "shade", move(hood, (0, high + 0.1 - tall * draw(0.6, 0.95), 0))
    for side in (0, math.pi / 2):
        spoke = rod((-top, high + 0.09, 0), (top, high + 0.09, 0), 0.006)
        yield "shade", turn(spoke, 1, side)


def _desk_lamp(draw: Draw) -> NamedParts:
    foot, radius = draw(0.08, 0.14), draw(0.01, 0.018)
    yield "base", lathe((foot, foot, foot * 0.5), (0, 0.02, 0.04))
    first, second = draw(0.25, 0.5), draw(0.2, 0.45)
    back, front = draw(-0.4, 0.5), draw(0.7, 1.7)
    elbow = (0.0, 0.02 + first * math.cos(back), -first * math.sin(back))
    head = (0.0, elbow[1] + second * math.cos(front), elbow[2] + second * math.sin(front))
    yield "pole", rod((0, 0.02, 0), elbow, radius)
    yield "pole", rod(elbow, head, radius)
    yield "pole", ellipsoid(elbow, (radius * 2, radius * 2, radius * 2))
    wide, tall = draw(0.08, 0.14), draw(0.1, 0.2)
    hood = move(shell(wide, wide * draw(0.25, 0.5), tall, 0.008), (0, -tall, 0))
    yield "shade", move(turn(hood, 0, -draw(0.0, 0.8)), head)


def monitor(draw: Draw) -> NamedParts:
    wide = draw(0.45, 0.9)
    tall, thick = wide * draw(0.4, 0.8), draw(0.02, 0.07)
    gap, tilt = draw(0.05, 0.2), draw(-0.05, 0.25)
    middle, depth = gap + tall / 2, draw(0.16, 0.28)
    pivot = (0, middle, 0)
    panel = box(pivot, (wide, tall, thick), bevel=draw.pick(0.0, 0.6))
    yield "screen", turn(panel, 0, -tilt, pivot)
    back = -thick / 2
    if draw.chance(0.25):
        reach = draw(0.15, 0.4)
        tube_box = box((0, 0, 0), (wide * 0.9, reach, tall * 0.9), top=(0.6, 0.6))
        rear = move(turn(tube_box, 0, -math.pi / 2), (0, middle, back - reach / 2 + 0.01))
        yield "screen", turn(rear, 0, -tilt, pivot)
        back -= reach / 2
    style = draw.pick("column", "column", "arm", "feet", "fork")
    if style == "feet":
        spread = wide * draw(0.25, 0.42)
        for x in (-spread, spread):
            # Up to the axis of the tilt, where the screen stays in place.
            yield "stand", rod((x, middle, back), (x, 0.01, back), 0.015)
            yield "base", box((x, 0.01, back), (0.035, 0.02, depth), bevel=0.3)
        return
    if style == "fork":
        for side in (-1, 1):
            yield "stand", rod((0, middle, back), (side * wide * 0.15, 0.0, back - 0.02), 0.018)
    elif style == "arm":
        elbow = (0, middle * 0.7, back - draw(0.08, 0.16))
        yield "stand", rod((0, middle, back), elbow, 0.025)
        yield "stand", rod(elbow, (0, 0, back), 0.025)
    else:
        post = draw(0.05, 0.16)
        yield "stand", box((0, middle / 2, back - 0.015), (post, middle, 0.035))
    if draw.chance(0.4):
        disc = lathe((1, 0.97), (0, 0.02))
        yield "base", move(scale(disc, (draw(0.12, 0.2), 1, depth / 2)), (0, 0, back))
    else:
        yield "base", box((0, 0.012, back + 0.02), (draw(0.2, 0.4), 0.024, depth), bevel=0.3)


def mug(draw: Draw) -> NamedParts:
    wide, high, wall = draw(0.3, 0.5), draw(0.55, 1.1), draw(0.02, 0.06)
    bottom, bulge = wide * draw(0.65, 1.1), wide * draw(0.9, 1.15)
    sides = draw.pick(20, 20, 20, 8)
    yield "body", _vessel((bottom, bulge, wide), high, wall, sides)
    tall, reach = high * draw(0.25, 0.4), draw(0.2, 0.34)
    # 2 is an ellipse; larger exponents are squarer handles.
    square = 2 / draw.pick(2.0, 2.0, 3.0, 5.0)
    angle = np.linspace(-0.62 * math.pi, 0.62 * math.pi, 14)
    cos, sin = np.cos(angle), np.sin(angle)
    path = np.zeros((14, 3))
    path[:, 0] = np.sign(cos) * np.abs(cos) ** square * reach
    path[:, 1] = np.sign(sin) * np.abs(sin) ** square * tall
    handle = tube(path, (0, 0, 1), draw(0.03, 0.055))
    placed = move(handle, (min(bottom, bulge, wide), high * draw(0.45, 0.55), 0))
    yield "handle", turn(placed, 1, draw.pick(0, 1, 2, 3) * math.pi / 2)
