"""Things to sit on: bench, chair, sofa, stool."""

import math

from ea_pointcloud.datasets._shapes.primitives import (
    Draw,
    NamedParts,
    Part,
    box,
    ellipsoid,
    four_legs,
    lathe,
    move,
    rod,
    scale,
    torus,
    turn,
)


def bench(draw: Draw) -> NamedParts:
    length, depth, high = draw(1.2, 2.4), draw(0.32, 0.5), draw(0.38, 0.5)
    thick, slats = draw(0.025, 0.07), draw.pick(1, 1, 3, 4, 5)
    pitch = depth / slats
    for index in range(slats):
        at = (0, high - thick / 2, -depth / 2 + pitch * (index + 0.5))
        yield "seat", box(at, (length, thick, pitch if slats == 1 else pitch * 0.75))
    under = high - thick
    if draw.chance(0.65):
        rise, lean = draw(0.3, 0.5), draw(0.0, 0.3)
        pivot = (0, under, -depth / 2)
        boards, bars = draw.pick(1, 2, 3, 0), draw.count(8, 16)
        for index in range(boards):
            step = rise / boards
            y = high + rise - step * (index + 0.5)
            board = box((0, y, -depth / 2), (length, step * (0.7, 0.8)[boards == 1], 0.03))
            yield "back", turn(board, 0, -lean, pivot)
        uprights = draw.count(2, 4) if boards else bars
        if not boards:
            rail = box((0, high + rise, -depth / 2), (length, 0.06, 0.04))
            yield "back", turn(rail, 0, -lean, pivot)
        for index in range(uprights):
            x = (length / 2 - 0.06) * (2 * index / (uprights - 1) - 1)
            bar = box((x, under + (rise + thick) / 2, -depth / 2), (0.035, rise + thick, 0.03))
            yield "back", turn(bar, 0, -lean, pivot)
    stations = (-1, 0, 1) if length > 1.9 and draw.chance(0.5) else (-1, 1)
    style, inset, radius = draw.pick("slab", "post", "frame"), draw(0.7, 0.97), draw(0.02, 0.045)
    sides = draw.pick(4, 10)
    for station in stations:
        x = station * (length / 2 - radius) * inset
        if style == "slab":
            yield "leg", box((x, under / 2, 0), (2 * radius, under, depth * 0.92))
            continue
        z = depth / 2 - radius
        for end in (-1, 1):
            yield "leg", rod((x, under, end * z), (x, 0, end * z), radius, sides=sides)
        if style == "frame":
            yield "leg", rod((x, under * 0.3, -z), (x, under * 0.3, z), radius * 0.7)
    if draw.chance(0.35):
        rise, z = draw(0.16, 0.25), depth / 2
        for side in (-1, 1):
            x = side * (length / 2 - 0.03)
            yield "arm", box((x, high + rise, 0), (0.06, 0.035, depth))
            for end in (-0.85, 0.85):
                yield "arm", rod((x, under, end * z), (x, high + rise, end * z), 0.02)


def chair(draw: Draw) -> NamedParts:
    high, width, depth = draw(0.38, 0.55), draw(0.4, 0.6), draw(0.4, 0.58)
    if draw.chance(0.15):
        high *= 1.5
    thick, rise = draw(0.03, 0.12), draw(0.3, 0.75)
    back_z, lean = -depth / 2 + 0.03, draw(0.0, 0.35)
    middle = (0, high - thick / 2, 0)
    round_seat = draw.chance(0.2)
    if round_seat:
        disc = lathe((1, 1), (-thick / 2, thick / 2))
        yield "seat", move(scale(disc, (width / 2, 1, depth / 2)), middle)
    else:
        yield "seat", box(middle, (width, thick, depth), bevel=draw.pick(0.0, 0.6), top=(1, 1))
    pivot = (0, high - thick / 2, back_z)
    style = draw.pick("panel", "panel", "ladder", "bars", "gap")
    x, top = width / 2 - 0.03, high + rise
    pieces: list[Part] = []
    if style == "panel":
        taper = (draw(0.7, 1.1), 1.0)
        tall = rise + thick / 2
        at = (0, top - tall / 2, back_z)
        pieces.append(box(at, (width, tall, draw(0.03, 0.1)), bevel=draw.pick(0.0, 0.5), top=taper))
    else:
        for side in (-1, 1):
            pieces.append(rod((side * x, pivot[1], back_z), (side * x, top, back_z), 0.02))
        pieces.append(box((0, top - 0.03, back_z), (width, draw(0.06, 0.1), 0.03)))
    if style == "gap":
        tall = rise * draw(0.35, 0.6)
        pieces.append(box((0, top - tall / 2, back_z), (width, tall, 0.04), bevel=0.3))
    for index in range(1, draw.count(2, 4) + 1 if style == "ladder" else 0):
        pieces.append(box((0, high + rise * index / 5, back_z), (2 * x, 0.05, 0.025)))
    for index in range(draw.count(3, 6) if style == "bars" else 0):
        at = x * (index - 2.5) / 3.5
        pieces.append(rod((at, pivot[1], back_z), (at, top, back_z), 0.012))
    for piece in pieces:
        yield "back", turn(piece, 0, -lean, pivot)
    under = high - thick * 0.9
    inset = 0.75 if round_seat else 1.0
    yield from _chair_legs(draw, width * inset, depth * inset, under)
    # A round seat has no edge for the posts to stand on.
    if not round_seat and draw.chance(0.5):
        lift, posts = draw(0.16, 0.26), draw.pick((0.35,), (0.35, -0.35))
        for side in (-1, 1):
            edge = side * (width / 2 + 0.015)
            # Long enough backwards to meet a leaning back.
            reach = depth * 0.9 + lift * math.tan(lean)
            at = (edge, high + lift, depth * 0.4 - reach / 2)
            yield "arm", box(at, (0.055, 0.035, reach))
            for end in posts:
                foot, hand = (edge, high - thick / 2, end * depth), (edge, high + lift, end * depth)
                yield "arm", rod(foot, hand, 0.018)


def _chair_legs(draw: Draw, width: float, depth: float, under: float) -> NamedParts:
    style = draw.pick("four", "four", "four", "star", "sled", "cantilever")
    x, z, radius = width / 2 - 0.04, depth / 2 - 0.04, draw(0.014, 0.032)
    if style == "four":
        splay = draw.pick(0.0, draw(0.0, 0.1))
        yield from four_legs("leg", x, z, under, radius, splay, draw)
        if draw.chance(0.3):
            for side in (-1, 1):
                at, y = side * (x + splay * 0.6), under * 0.4
                yield "leg", rod((at, y, -z), (at, y, z), radius * 0.7)
    elif style == "star":
        yield "leg", rod((0, under, 0), (0, 0.05, 0), 0.03)
        arms, reach, start = draw.count(4, 5), draw(0.24, 0.34), draw(0, math.pi)
        for index in range(arms):
            angle = start + 2 * math.pi * index / arms
            foot = (reach * math.cos(angle), 0.02, reach * math.sin(angle))
            yield "leg", rod((0, 0.08, 0), foot, 0.025, 0.018)
    else:
        for side in (-1, 1):
            at = side * x
            yield "leg", rod((at, 0.015, -z), (at, 0.015, z), radius)
            yield "leg", rod((at, under, z), (at, 0.0, z), radius)
            if style == "sled":
                yield "leg", rod((at, under, -z), (at, 0.0, -z), radius)
        end = z if style == "sled" else -z
        yield "leg", rod((-x, 0.015, end), (x, 0.015, end), radius)


def sofa(draw: Draw) -> NamedParts:
    wide, depth = draw(1.4, 2.6), draw(0.75, 1.05)
    foot, seat = draw.pick(0.0, draw(0.04, 0.16)), draw(0.3, 0.46)
    soft = draw(0.2, 0.7)
    yield "seat", box((0, (foot + seat) / 2, 0), (wide, seat - foot, depth), bevel=0.2)
    arm = draw(0.1, 0.28) if draw.chance(0.85) else 0.0
    inner, thick = wide - 2 * arm, draw(0.1, 0.2)
    back, rise = draw(0.15, 0.28), draw(0.3, 0.55)
    lean = draw(0.0, 0.12)
    tall = seat + rise - foot
    at = (0, foot + tall / 2, (back - depth) / 2)
    yield "back", box(at, (wide, tall, back), bevel=soft, lean=-lean)
    cushions = draw.count(1, 2 if wide < 1.8 else 4)
    pitch = inner / cushions
    pillows = draw.chance(0.5)
    for index in range(cushions):
        x = -inner / 2 + pitch * (index + 0.5)
        room = depth - back
        at = (x, seat + thick / 2 - 0.02, back / 2)
        yield "seat", box(at, (pitch * 0.97, thick, room), bevel=soft)
        if pillows:
            at = (x, seat + thick + rise * 0.35, -depth / 2 + back + 0.04)
            yield "back", box(at, (pitch * 0.9, rise * 0.75, 0.14), bevel=0.8, lean=-0.08)
    lift, rolled = draw(0.14, 0.32), draw.chance(0.3)
    for side in (-1, 1) if arm else ():
        x, top = side * (wide / 2 - arm / 2), seat + thick + lift - 0.1
        yield "arm", box((x, (foot + top) / 2, 0), (arm, top - foot, depth * 0.98), bevel=soft)
        if rolled:
            yield "arm", rod((x, top, -depth * 0.48), (x, top, depth * 0.49), arm * 0.62)
    if draw.chance(0.25):
        reach, side, part = draw(0.4, 0.8), draw.pick(-1, 1), draw(0.55, 0.8)
        x = side * (wide - part) / 2
        z = (depth + reach) / 2
        yield "seat", box((x, (foot + seat) / 2, z), (part, seat - foot, reach), bevel=0.2)
        yield "seat", box((x, seat + thick / 2 - 0.02, z), (part, thick, reach), bevel=soft)
    if foot:
        x, z = wide / 2 - 0.08, depth / 2 - 0.08
        yield from four_legs("leg", x, z, foot + 0.02, draw(0.02, 0.04), 0, draw)


def stool(draw: Draw) -> NamedParts:
    wide = draw(0.28, 0.36)
    # Lower ones would be small tables.
    high = wide * draw(1.35, 2.4)
    thick, radius = draw(0.025, 0.09), draw(0.012, 0.026)
    middle, half = (0, high - thick / 2, 0), wide / 2
    style = draw.pick("round", "round", "square", "cushion")
    if style == "round":
        rim = draw(0.7, 1.0)
        yield "seat", lathe((half * rim, half, half), (-thick / 2, 0, thick / 2), center=middle)
    elif style == "cushion":
        yield "seat", ellipsoid(middle, (half, thick * 0.8, half))
    else:
        size = (wide, thick, wide * draw(0.75, 1.1))
        yield "seat", box(middle, size, bevel=draw.pick(0.0, 0.6))
    under = high - thick * 0.8
    if draw.chance(0.25):
        foot = wide * draw(0.45, 0.65)
        yield "leg", rod((0, under, 0), (0, 0.02, 0), draw(0.02, 0.04))
        yield "leg", lathe((foot, foot, foot * 0.4), (0, 0.02, 0.05))
        if high > 0.55:
            ring, level = foot * 0.9, high * draw(0.3, 0.45)
            yield "rung", torus((0, level, 0), ring, 0.011)
            yield "rung", rod((-ring, level, 0), (ring, level, 0), 0.01)
        return
    legs, splay = draw.pick(3, 4, 4), draw(0.0, 0.12)
    spread, start = half * 0.75 * (1.25 if style == "square" else 1.0), math.pi / 4
    corners = [start + 2 * math.pi * index / legs for index in range(legs)]
    sides = draw.pick(4, 10)

    def on_leg(angle: float, level: float) -> tuple[float, float, float]:
        reach = spread + splay * (1 - level / under)
        return (reach * math.cos(angle), level, reach * math.sin(angle))

    for angle in corners:
        yield "leg", rod(on_leg(angle, under), on_leg(angle, 0), radius, sides=sides)
    rungs = draw.pick("none", "ring", "straight", "straight", "steps")
    level = high * draw(0.25, 0.45)
    if rungs == "ring":
        yield "rung", torus((0, level, 0), math.hypot(*on_leg(0, level)[::2]), radius * 0.7)
    elif rungs != "none":
        for index, angle in enumerate(corners):
            # Steps alternate in height, as on a bar stool.
            y = level + (0.08 * (index % 2) if rungs == "steps" else 0)
            yield "rung", rod(on_leg(angle, y), on_leg(corners[index - 1], y), radius * 0.7)
