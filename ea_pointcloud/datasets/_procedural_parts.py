"""What the procedural shapes are made of: draws, mesh primitives, and how each category uses them.

Every category is a function that draws proportions, styles and optional parts and yields named
meshes, in metres or so: y up, floor at y = 0, front towards +z. Tables of names, poses and sampling
are in ``procedural.py``.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

# Vertices (V, 3) and faces (F, 3) of one part, y up, triangles seen counter-clockwise from outside.
Part = tuple[NDArray[np.float64], NDArray[np.int64]]
NamedParts = Iterator[tuple[str, Part]]
Point = Sequence[float]
Option = TypeVar("Option")


class Draw:
    """Random numbers of one object, all from one torch generator on the CPU."""

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator

    def __call__(self, low: float = 0.0, high: float = 1.0) -> float:
        """Return a number uniform in [low, high)."""
        unit = torch.rand((), generator=self._generator, dtype=torch.float64).item()
        return low + (high - low) * unit

    def chance(self, probability: float) -> bool:
        """Return True with ``probability``."""
        return self() < probability

    def count(self, low: int, high: int) -> int:
        """Return an integer uniform in low..high, both included."""
        return low + int(self() * (high - low + 1))

    def pick(self, *options: Option) -> Option:
        """Return one of ``options``, all equally likely; a repeated option is likelier."""
        return options[self.count(0, len(options) - 1)]


def loft(rings: NDArray[np.float64], *, closed: bool = False) -> Part:
    """Join rings of points to a tube.

    Rings turn clockwise seen from the last one, so that the triangles face outwards.

    Args:
        rings: (R, S, 3) points, ring after ring.
        closed: join the last ring to the first; otherwise both ends get a convex lid.

    Returns:
        The part, with the R * S points as vertices.
    """
    count, sides = rings.shape[:2]
    return rings.reshape(-1, 3), _loft_faces(count, sides, closed)


def box(
    center: Point,
    size: Point,
    *,
    bevel: float = 0.0,
    top: tuple[float, float] = (1.0, 1.0),
    lean: float = 0.0,
) -> Part:
    """Make a box along the axes.

    Args:
        center: (3,) middle of the box, before ``lean``.
        size: (3,) edges along x, y and z.
        bevel: chamfer of all edges, as a share of half the shortest edge, 0 <= bevel < 1.
        top: scale of the upper side along x and z.
        lean: shift of the upper side along z.

    Returns:
        The part.
    """
    x, y, z = (edge / 2 for edge in size)
    if bevel:
        cut = bevel * min(x, y, z)
        outer, inner = _octagon(x, z, cut), _octagon(x - cut, z - cut, cut)
        flat = np.stack((inner, outer, outer, inner))
        heights = np.array((-y, cut - y, y - cut, y))
    else:
        flat = np.array(((x, z), (-x, z), (-x, -z), (x, -z)))[None].repeat(2, 0)
        heights = np.array((-y, y))
    rise = (heights / (2 * y) + 0.5)[:, None]
    rings = np.empty((*flat.shape[:2], 3))
    rings[..., 0] = center[0] + flat[..., 0] * (1 + (top[0] - 1) * rise)
    rings[..., 1] = center[1] + heights[:, None]
    rings[..., 2] = center[2] + flat[..., 1] * (1 + (top[1] - 1) * rise) + lean * rise
    return loft(rings)


def lathe(
    profile: Sequence[tuple[float, float]],
    *,
    center: Point = (0.0, 0.0, 0.0),
    sides: int = 20,
    closed: bool = False,
) -> Part:
    """Turn a profile around the vertical axis through ``center``.

    Args:
        profile: (radius, height) pairs; the side to their right, walking along, is the outside.
        center: (3,) origin of the profile.
        sides: corners of each ring; with 4 the flat sides face x and z.
        closed: join the profile's end to its start, as for a tube or a lamp shade.

    Returns:
        The part.
    """
    radius, height = np.array(profile).T
    turn = _circle(sides)
    rings = np.empty((len(profile), sides, 3))
    rings[..., 0] = center[0] + radius[:, None] * turn[:, 0]
    rings[..., 1] = center[1] + height[:, None]
    rings[..., 2] = center[2] + radius[:, None] * turn[:, 1]
    return loft(rings, closed=closed)


def shell(bottom: float, top: float, height: float, wall: float, *, sides: int = 20) -> Part:
    """Make an open frustum with a wall and no lids, from y = 0 to ``height``."""
    inner_bottom, inner_top = max(bottom - wall, 0.0), max(top - wall, 0.0)
    profile = ((bottom, 0.0), (top, height), (inner_top, height), (inner_bottom, 0.0))
    return lathe(profile, sides=sides, closed=True)


def torus(center: Point, radius: float, thickness: float) -> Part:
    """Make a horizontal ring of ``radius`` with a round section of radius ``thickness``."""
    section = _circle(8) * thickness
    profile = [(radius + x, y) for x, y in section.tolist()]
    return lathe(profile, center=center, closed=True)


def ellipsoid(center: Point, radii: Point) -> Part:
    """Make an ellipsoid with half axes ``radii`` along x, y and z."""
    angle = np.linspace(-math.pi / 2, math.pi / 2, 9)
    vertices, faces = lathe(list(zip(np.cos(angle), np.sin(angle), strict=True)), sides=14)
    return vertices * np.asarray(radii) + np.asarray(center), faces


def rod(
    start: Point, end: Point, radius: float, end_radius: float | None = None, *, sides: int = 10
) -> Part:
    """Make a straight rod between two points, tapered to ``end_radius`` where given.

    With four sides the radius is half the edge of the square section.
    """
    tail, head = np.asarray(start, dtype=float), np.asarray(end, dtype=float)
    axis = (head - tail) / np.linalg.norm(head - tail)
    # Any direction off the axis will do; z keeps the sides of square legs parallel to the seat.
    u = np.cross((0.0, 0.0, 1.0) if abs(axis[2]) < 0.9 else (0.0, 1.0, 0.0), axis)
    u /= np.linalg.norm(u)
    section = _circle(sides) @ np.stack((u, np.cross(u, axis)))  # (S, 3)
    end_radius = radius if end_radius is None else end_radius
    return loft(np.stack((tail + radius * section, head + end_radius * section)))


def tube(path: NDArray[np.float64], normal: Point, radius: float) -> Part:
    """Sweep a circle along a path (P, 3) that lies in the plane of the unit ``normal``."""
    tangent = np.gradient(path, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    u = np.asarray(normal, dtype=float)
    turn = _circle(8)[None, :, :, None]  # (1, 8, 2, 1)
    v = np.cross(u, tangent)[:, None]  # (P, 1, 3)
    return loft(path[:, None] + radius * (turn[:, :, 0] * u + turn[:, :, 1] * v))


def wing(root: Point, tip: Point, root_chord: float, tip_chord: float, thickness: float) -> Part:
    """Make a flat blade from ``root`` to ``tip`` (its middles) with its chord along z.

    ``thickness`` is the share of the chord.
    """
    ends = np.array((root, tip), dtype=float)
    span = ends[1] - ends[0]
    normal = np.cross((0.0, 0.0, 1.0), span)
    normal *= thickness / np.linalg.norm(normal)
    section = _circle(8) @ np.stack(((0.0, 0.0, 1.0), normal))  # (8, 3)
    chord = np.array((root_chord, tip_chord))[:, None, None]
    return loft(ends[:, None] + chord / 2 * section)


def turn(part: Part, axis: int, angle: float, pivot: Point = (0.0, 0.0, 0.0)) -> Part:
    """Rotate a part by ``angle`` radians around axis 0, 1 or 2 through ``pivot``."""
    vertices, faces = part
    first, second = (axis + 1) % 3, (axis + 2) % 3
    cos, sin = math.cos(angle), math.sin(angle)
    a, b = vertices[:, first] - pivot[first], vertices[:, second] - pivot[second]
    rotated = vertices.copy()
    rotated[:, first] = cos * a - sin * b + pivot[first]
    rotated[:, second] = sin * a + cos * b + pivot[second]
    return rotated, faces


def scale(part: Part, factors: Point) -> Part:
    """Scale a part along x, y and z."""
    return part[0] * np.asarray(factors), part[1]


def move(part: Part, offset: Point) -> Part:
    """Shift a part."""
    return part[0] + np.asarray(offset), part[1]


@cache
def _circle(sides: int) -> NDArray[np.float64]:
    """(S, 2) corners of a ring; a square is turned to the axes and has half edges of 1."""
    shift, radius = (math.pi / 4, math.sqrt(2)) if sides == 4 else (0.0, 1.0)
    angle = np.arange(sides) * (2 * math.pi / sides) + shift
    return radius * np.stack((np.cos(angle), np.sin(angle)), axis=1)


def _octagon(x: float, z: float, cut: float) -> NDArray[np.float64]:
    """(8, 2) rectangle with its four corners cut."""
    a, b = x - cut, z - cut
    return np.array(((x, b), (a, z), (-a, z), (-x, b), (-x, -b), (-a, -z), (a, -z), (x, -b)))


@cache
def _loft_faces(count: int, sides: int, closed: bool) -> NDArray[np.int64]:
    """(F, 3) triangles of a tube of ``count`` rings, numbered ring after ring."""
    ring = np.arange(count * sides).reshape(count, sides)
    here = ring if closed else ring[:-1]
    above = np.roll(ring, -1, axis=0) if closed else ring[1:]
    here_next, above_next = np.roll(here, -1, axis=1), np.roll(above, -1, axis=1)
    faces = [
        np.stack((here, above, above_next), axis=-1).reshape(-1, 3),
        np.stack((here, above_next, here_next), axis=-1).reshape(-1, 3),
    ]
    if not closed:
        corner = np.arange(1, sides - 1)
        fan = np.stack((np.zeros_like(corner), corner, corner + 1), axis=1)
        faces += [ring[0][fan], ring[-1][fan[:, ::-1]]]
    return np.concatenate(faces).astype(np.int64)


def _airplane(draw: Draw) -> NamedParts:
    radius, tail = draw(0.045, 0.1), draw(0.15, 0.4)
    nose = draw(0.25, 0.47)
    profile = (
        (0.02, -0.5),
        (radius * draw(0.35, 0.6), -0.45),
        (radius, -0.5 + tail),
        (radius, nose - 0.05),
        (radius * draw(0.75, 0.9), nose + (0.5 - nose) * 0.5),
        (radius * draw(0.1, 0.5), 0.5),
    )
    yield "fuselage", scale(turn(lathe(profile), 0, math.pi / 2), (1, draw(0.9, 1.3), 1))
    if draw.chance(0.3):
        yield (
            "fuselage",
            ellipsoid((0, radius * 0.9, nose - 0.1), (radius * 0.6, radius * 0.6, 0.1)),
        )

    span, chord, sweep = draw(0.28, 0.65), draw(0.12, 0.28), draw(-0.03, 0.3)
    level, rise = radius * draw(-0.8, 0.9), draw(-0.03, 0.08)
    taper, at = draw(0.3, 1.0), draw(-0.02, 0.14)
    biplane = draw.chance(0.12)
    for side in (-1, 1):
        tip = (side * span, level + rise, at - sweep)
        yield "wing", wing((0, level, at), tip, chord, chord * taper, 0.1)
        if biplane:
            lift = draw(0.14, 0.2)
            high = (tip[0], tip[1] + lift, tip[2])
            yield "wing", wing((0, level + lift, at), high, chord, chord * taper, 0.1)
            for share in (0.15, 0.75):
                foot = (tip[0] * share, level + rise * share, at - sweep * share)
                yield "wing", rod(foot, (foot[0], foot[1] + lift, foot[2]), 0.008)
        elif draw.chance(0.25):
            yield "wing", wing(tip, (tip[0] * 1.04, tip[1] + 0.07, tip[2] - 0.05), 0.07, 0.04, 0.1)

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

    power = draw.pick("jet", "jet", "rear", "propeller", "none")
    size = draw(0.02, 0.045)
    pod = turn(lathe(((0.6 * size, -2 * size), (size, -size), (size, 2 * size))), 0, math.pi / 2)
    if power == "propeller":
        length = draw(0.09, 0.16)
        yield "engine", turn(lathe(((0.03, 0.49), (0.03, 0.51), (0.0, 0.55))), 0, math.pi / 2)
        blade, angle = box((0, 0, 0.515), (2 * length, 0.025, 0.012)), draw(0, math.pi)
        for quarter in range(draw.count(1, 2)):
            yield "engine", turn(blade, 2, angle + quarter * math.pi / 2)
    elif power == "rear":
        for side in (-1, 1):
            yield "engine", move(pod, (side * (radius * 0.85 + size), radius * 0.4, -0.5 + tail))
    elif power == "jet":
        for share in (0.35, 0.62)[: draw.count(1, 2)]:
            for side in (-1, 1):
                hung = (side * span * share, level + rise * share - size, at - sweep * share + 0.05)
                yield "engine", move(pod, hung)


def _bed(draw: Draw) -> NamedParts:
    width, length = draw(0.8, 2.0), draw(1.8, 2.2)
    base, thick = draw(0.15, 0.45), draw(0.12, 0.35)
    top, frame = base + thick, draw(0.06, 0.15)
    yield "mattress", box((0, base + thick / 2, 0), (width, thick, length), bevel=draw(0.1, 0.6))
    if draw.chance(0.4):
        yield "frame", box((0, base / 2, 0), (width * 0.98, base, length * 0.98))
    else:
        edge = width + draw(0.0, 0.12)
        yield "frame", box((0, base - frame / 2, 0), (edge, frame, length + 0.06))
        yield from _four("frame", width * 0.46, length * 0.47, base, draw(0.03, 0.06), 0, draw)
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


def _bench(draw: Draw) -> NamedParts:
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
            share = rise / boards
            y = high + rise - share * (index + 0.5)
            board = box((0, y, -depth / 2), (length, share * (0.7, 0.8)[boards == 1], 0.03))
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
    for station in stations:
        x = station * (length / 2 - radius) * inset
        if style == "slab":
            yield "leg", box((x, under / 2, 0), (2 * radius, under, depth * 0.92))
            continue
        z = depth / 2 - radius
        for end in (-1, 1):
            yield "leg", rod((x, under, end * z), (x, 0, end * z), radius, sides=draw.pick(4, 10))
        if style == "frame":
            yield "leg", rod((x, under * 0.3, -z), (x, under * 0.3, z), radius * 0.7)
    if draw.chance(0.35):
        rise, z = draw(0.16, 0.25), depth / 2
        for side in (-1, 1):
            x = side * (length / 2 - 0.03)
            yield "arm", box((x, high + rise, 0), (0.06, 0.035, depth))
            for end in (-0.85, 0.85):
                yield "arm", rod((x, under, end * z), (x, high + rise, end * z), 0.02)


def _bottle(draw: Draw) -> NamedParts:
    radius, body = draw(0.14, 0.34), draw(0.4, 0.8)
    neck, length = radius * draw(0.22, 0.5), draw(0.08, 0.4)
    shoulder, waist = draw(0.02, 0.3), draw(0.8, 1.0)
    sides, flat = draw.pick(20, 20, 20, 4, 6), draw.pick(1.0, 1.0, draw(0.4, 0.8))
    foot = radius * draw(0.75, 1.0)
    profile = (
        (foot, 0.0),
        (radius, 0.05),
        (radius * waist, body * 0.45),
        (radius, body * 0.85),
        (radius, body),
        (radius * 0.3 + neck * 0.7, body + shoulder * 0.7),
        (neck, body + shoulder),
    )
    yield "body", scale(lathe(profile, sides=sides), (1, 1, flat))
    top = body + shoulder + length
    squeeze = (1, 1, math.sqrt(flat))
    stem = ((neck, body + shoulder - 0.02), (neck * draw(0.75, 1.0), top))
    yield "neck", scale(lathe(stem), squeeze)
    cap = draw.pick("screw", "screw", "cork", "rim", "pump")
    if cap == "screw":
        wide, tall = neck * draw(1.1, 1.5), draw(0.05, 0.14)
        profile = ((wide, top - tall * 0.4), (wide, top + tall * 0.6))
        yield "cap", scale(lathe(profile), squeeze)
    elif cap == "cork":
        profile = ((neck * 0.6, top - 0.01), (neck * 0.6, top + 0.03), (neck * 0.9, top + 0.08))
        yield "cap", lathe(profile)
    elif cap == "rim":
        yield "neck", torus((0, top, 0), neck, neck * 0.25)
    else:
        high = top + draw(0.06, 0.12)
        reach = draw(0.1, 0.2)
        yield "cap", rod((0, top - 0.02, 0), (0, high, 0), neck * 0.35)
        yield "cap", box((0, high, reach / 3), (neck * 0.9, 0.035, reach * 1.33), bevel=0.4)


def _car(draw: Draw) -> NamedParts:
    kind = draw.pick("sedan", "hatch", "van", "pickup", "truck", "sport")
    length = {"truck": draw(5.5, 7.5), "van": draw(4.2, 5.5)}.get(kind, draw(3.6, 5.2))
    width, wheel = draw(1.6, 2.0), draw(0.28, 0.42)
    low, high = wheel * draw(0.6, 1.0), wheel * draw(2.1, 2.6)
    roof = draw(0.4, 0.7) * (0.7 if kind == "sport" else 1.0)
    deck = high - low
    shape = draw(0.9, 1.0), draw(0.92, 1.0)
    yield (
        "body",
        box((0, low + deck / 2, 0), (width, deck, length), bevel=draw(0.1, 0.5), top=shape),
    )
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
        yield (
            "cabin",
            box((0, high + roof / 2 - 0.05, front), (width * 0.95, roof, size), top=(0.9, 0.7)),
        )
        bed = front - size / 2 + length / 2 - 0.1
        wall = draw(0.9, 1.8) if kind == "truck" else 0.3
        middle = -length / 2 + bed / 2 + 0.02
        if kind == "truck":
            yield "body", box((0, high + wall / 2 - 0.05, middle), (width, wall, bed))
        else:
            for side in (-1, 1):
                x = side * (width / 2 - 0.06)
                yield "body", box((x, high + wall / 2 - 0.05, middle), (0.08, wall, bed))
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
            yield (
                "wheel",
                rod((x - thick / 2, wheel, z), (x + thick / 2, wheel, z), wheel, sides=16),
            )


def _chair(draw: Draw) -> NamedParts:
    high, width, depth = draw(0.38, 0.55), draw(0.4, 0.6), draw(0.4, 0.58)
    if draw.chance(0.15):
        high *= 1.5
    thick, rise = draw(0.03, 0.12), draw(0.3, 0.75)
    back_z, lean = -depth / 2 + 0.03, draw(0.0, 0.35)
    middle = (0, high - thick / 2, 0)
    round_seat = draw.chance(0.2)
    if round_seat:
        disc = lathe(((1, -thick / 2), (1, thick / 2)))
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
        lift, z = draw(0.16, 0.26), depth / 2
        for side in (-1, 1):
            edge = side * (width / 2 + 0.015)
            # Long enough backwards to meet a leaning back.
            reach = depth * 0.9 + lift * math.tan(lean)
            at = (edge, high + lift, depth * 0.4 - reach / 2)
            yield "arm", box(at, (0.055, 0.035, reach))
            for end in draw.pick((0.7,), (0.7, -0.7)):
                yield (
                    "arm",
                    rod((edge, high - thick / 2, end * z), (edge, high + lift, end * z), 0.018),
                )


def _chair_legs(draw: Draw, width: float, depth: float, under: float) -> NamedParts:
    style = draw.pick("four", "four", "four", "star", "sled", "cantilever")
    x, z, radius = width / 2 - 0.04, depth / 2 - 0.04, draw(0.014, 0.032)
    if style == "four":
        splay = draw.pick(0.0, draw(0.0, 0.1))
        yield from _four("leg", x, z, under, radius, splay, draw)
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


def _cup(draw: Draw) -> NamedParts:
    wide, high = draw(0.25, 0.5), draw(0.45, 1.1)
    style = draw.pick("tumbler", "tumbler", "goblet", "bowl")
    sides = draw.pick(20, 20, 20, 4, 8) if style == "tumbler" else 20
    foot, wall, stem = draw(0.03, 0.1), draw(0.02, 0.06), 0.0
    if style == "goblet":
        stem = draw(0.25, 0.7)
        high *= 0.7
        radius, reach = draw(0.03, 0.07), wide * draw(0.6, 0.95)
        profile = (
            (reach, 0.0),
            (reach, 0.03),
            (radius, 0.08),
            (radius, stem),
            (radius * 2, stem + 0.05),
        )
        yield "foot", lathe(profile)
    elif style == "bowl":
        high *= 0.8
        stem = foot
        ring = wide * draw(0.4, 0.6)
        yield "foot", lathe(((ring, 0.0), (ring, foot + 0.03)))
    bottom = wide * (draw(0.6, 1.0) if style == "tumbler" else draw(0.3, 0.6))
    bulge = wide * draw(0.95, 1.1) if style != "tumbler" else (bottom + wide) / 2
    yield (
        "body",
        move(
            lathe(
                (
                    (bottom, 0.0),
                    (bulge, high * 0.45),
                    (wide, high),
                    (wide - wall, high),
                    (bulge - wall, high * 0.45),
                    (bottom - wall, wall),
                ),
                sides=sides,
            ),
            (0, stem, 0),
        ),
    )
    if style != "goblet" and draw.chance(0.3):
        rim = wide * draw(1.3, 1.7)
        profile = ((bottom * 1.1, -0.02), (rim, 0.08), (rim, 0.11), (bottom * 1.1, 0.01))
        yield "saucer", lathe(profile)


def _lamp(draw: Draw) -> NamedParts:
    kind = draw.pick("desk", "pendant", "floor", "floor", "table", "table")
    if kind == "desk":
        yield from _desk_lamp(draw)
        return
    if kind == "pendant":
        drop, foot, radius = draw(0.4, 1.2), draw(0.06, 0.12), draw(0.006, 0.012)
        yield "base", lathe(((foot * 0.7, drop), (foot, drop + 0.05)))
        yield "pole", rod((0, 0, 0), (0, drop + 0.01, 0), radius)
        yield from _shade(draw, -0.1)
        return
    floor = kind == "floor"
    high = draw(1.1, 1.7) if floor else draw(0.35, 0.75)
    foot, radius = draw(0.1, 0.2), draw(0.01, 0.025)
    style = (
        draw.pick("disc", "disc", "tripod") if floor else draw.pick("disc", "vase", "vase", "block")
    )
    if style == "tripod":
        hub = high * draw(0.5, 0.9)
        start = draw(0, 2)
        for index in range(3):
            angle = start + 2 * math.pi * index / 3
            end = (2 * foot * math.cos(angle), 0, 2 * foot * math.sin(angle))
            yield "base", rod((0, hub, 0), end, radius)
    elif style == "vase":
        tall, bulge = high * draw(0.5, 0.95), foot * draw(0.9, 1.3)
        profile = (
            (foot * 0.8, 0.0),
            (foot * 0.6, tall * 0.08),
            (bulge, tall * draw(0.25, 0.6)),
            (bulge * 0.5, tall * 0.85),
            (radius * 1.5, tall),
        )
        yield "base", lathe(profile)
    elif style == "block":
        tall = high * draw(0.3, 0.8)
        yield "base", box((0, tall / 2, 0), (1.3 * foot, tall, 1.3 * foot), bevel=0.2)
    else:
        yield "base", lathe(((foot, 0.0), (foot, 0.02), (foot * 0.3, draw(0.025, 0.08))))
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
        profile = [(wide * math.cos(a), tall * math.sin(a)) for a in np.linspace(0, 1.5, 6)]
        yield "shade", move(lathe(profile), (0, high - 0.05, 0))
        return
    top = wide * (draw(0.3, 0.75) if shade == "cone" else draw(0.85, 1.0))
    hood = shell(wide, top, tall, 0.008, sides=4 if shade == "square" else 20)
    yield "shade", move(hood, (0, high + 0.1 - tall * draw(0.6, 0.95), 0))
    for side in (0, math.pi / 2):
        spoke = rod((-top, high + 0.09, 0), (top, high + 0.09, 0), 0.006)
        yield "shade", turn(spoke, 1, side)


def _desk_lamp(draw: Draw) -> NamedParts:
    foot, radius = draw(0.08, 0.14), draw(0.01, 0.018)
    yield "base", lathe(((foot, 0.0), (foot, 0.02), (foot * 0.5, 0.04)))
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


def _monitor(draw: Draw) -> NamedParts:
    wide = draw(0.45, 0.9)
    tall, thick = wide * draw(0.4, 0.8), draw(0.02, 0.07)
    gap, tilt = draw(0.05, 0.2), draw(-0.05, 0.25)
    middle, depth = gap + tall / 2, draw(0.16, 0.28)
    pivot = (0, middle, 0)
    yield (
        "screen",
        turn(box((0, middle, 0), (wide, tall, thick), bevel=draw.pick(0, 0.6)), 0, -tilt, pivot),
    )
    back = -thick / 2
    if draw.chance(0.25):
        reach = draw(0.15, 0.4)
        tube_box = box((0, 0, 0), (wide * 0.9, reach, tall * 0.9), top=(0.6, 0.6))
        rear = move(turn(tube_box, 0, -math.pi / 2), (0, middle, back - reach / 2 + 0.01))
        yield "screen", turn(rear, 0, -tilt, pivot)
        back -= reach / 2
    style = draw.pick("column", "column", "arm", "feet", "fork")
    if style == "feet":
        for side in (-1, 1):
            x = side * wide * draw(0.25, 0.42)
            yield "stand", rod((x, gap + 0.05, back), (x, 0.01, back), 0.015)
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
        disc = lathe(((1, 0.0), (0.97, 0.02)))
        yield "base", move(scale(disc, (draw(0.12, 0.2), 1, depth / 2)), (0, 0, back))
    else:
        yield "base", box((0, 0.012, back + 0.02), (draw(0.2, 0.4), 0.024, depth), bevel=0.3)


def _mug(draw: Draw) -> NamedParts:
    wide, high, wall = draw(0.3, 0.5), draw(0.55, 1.1), draw(0.02, 0.06)
    bottom, bulge = wide * draw(0.65, 1.1), wide * draw(0.9, 1.15)
    profile = (
        (bottom, 0.0),
        (bulge, high * 0.45),
        (wide, high),
        (wide - wall, high),
        (bulge - wall, high * 0.45),
        (bottom - wall, wall),
    )
    yield "body", lathe(profile, sides=draw.pick(20, 20, 20, 8))
    tall, reach = high * draw(0.25, 0.4), draw(0.18, 0.34)
    # 2 is an ellipse; larger exponents are squarer handles.
    square = 2 / draw.pick(2.0, 2.0, 3.0, 5.0)
    angle = np.linspace(-0.62 * math.pi, 0.62 * math.pi, 14)
    cos, sin = np.cos(angle), np.sin(angle)
    path = np.zeros((14, 3))
    path[:, 0] = np.sign(cos) * np.abs(cos) ** square * reach
    path[:, 1] = np.sign(sin) * np.abs(sin) ** square * tall
    handle = tube(path, (0, 0, 1), draw(0.025, 0.055))
    placed = move(handle, (min(bottom, bulge, wide), high * draw(0.45, 0.55), 0))
    yield "handle", turn(placed, 1, draw.pick(0, 1, 2, 3) * math.pi / 2)


def _shelf(draw: Draw) -> NamedParts:
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
    for side in (-1, 1):
        x = side * (wide / 2 - thick / 2)
        if style == "panel":
            yield "side", box((x, high / 2, 0), (thick, high, depth))
            continue
        post = draw(0.012, 0.025)
        yield "side", rod((x, 0, -depth / 2), (x, high, -depth / 2), post, sides=4)
        yield "side", rod((x, 0, depth / 2), (x, high, depth * (ladder - 0.5)), post, sides=4)
    if style != "ladder" and draw.chance(0.5):
        yield "back", box((0, (high + foot) / 2, -depth / 2), (wide, high - foot, 0.012))
    if wide > 0.9 and draw.chance(0.6):
        for x in np.linspace(-wide / 2, wide / 2, draw.count(1, 2) + 2)[1:-1].tolist():
            yield "side", box((x, (high + foot) / 2, 0), (thick, high - foot, depth * ladder))


def _sofa(draw: Draw) -> NamedParts:
    wide, depth = draw(1.4, 2.6), draw(0.75, 1.05)
    foot, seat = draw.pick(0.0, draw(0.04, 0.16)), draw(0.3, 0.46)
    soft = draw(0.2, 0.7)
    yield "seat", box((0, (foot + seat) / 2, 0), (wide, seat - foot, depth), bevel=0.2)
    arm = draw(0.1, 0.28) if draw.chance(0.85) else 0.0
    inner, thick = wide - 2 * arm, draw(0.1, 0.2)
    back, rise = draw(0.15, 0.28), draw(0.3, 0.55)
    lean = draw(0.0, 0.12)
    tall = seat + rise - foot
    yield (
        "back",
        box(
            (0, foot + tall / 2, -depth / 2 + back / 2), (wide, tall, back), bevel=soft, lean=-lean
        ),
    )
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
    lift = draw(0.14, 0.32)
    for side in (-1, 1) if arm else ():
        x, top = side * (wide / 2 - arm / 2), seat + thick + lift - 0.1
        yield "arm", box((x, (foot + top) / 2, 0), (arm, top - foot, depth * 0.98), bevel=soft)
        if draw.chance(0.3):
            yield "arm", rod((x, top, -depth * 0.48), (x, top, depth * 0.49), arm * 0.62)
    if draw.chance(0.25):
        reach, side, part = draw(0.4, 0.8), draw.pick(-1, 1), draw(0.55, 0.8)
        x = side * (wide - part) / 2
        yield (
            "seat",
            box((x, (foot + seat) / 2, (depth + reach) / 2), (part, seat - foot, reach), bevel=0.2),
        )
        at = (x, seat + thick / 2 - 0.02, (depth + reach) / 2)
        yield "seat", box(at, (part, thick, reach), bevel=soft)
    if foot:
        yield from _four(
            "leg", wide / 2 - 0.08, depth / 2 - 0.08, foot + 0.02, draw(0.02, 0.04), 0, draw
        )


def _stool(draw: Draw) -> NamedParts:
    wide = draw(0.28, 0.36)
    # Lower ones would be small tables.
    high = wide * draw(1.35, 2.4)
    thick, radius = draw(0.025, 0.09), draw(0.012, 0.026)
    middle, half = (0, high - thick / 2, 0), wide / 2
    style = draw.pick("round", "round", "square", "cushion")
    if style == "round":
        rim = draw(0.7, 1.0)
        profile = ((half * rim, -thick / 2), (half, 0.0), (half, thick / 2))
        yield "seat", lathe(profile, center=middle)
    elif style == "cushion":
        yield "seat", ellipsoid(middle, (half, thick * 0.8, half))
    else:
        size = (wide, thick, wide * draw(0.75, 1.1))
        yield "seat", box(middle, size, bevel=draw.pick(0.0, 0.6))
    under = high - thick * 0.8
    if draw.chance(0.25):
        foot = wide * draw(0.45, 0.65)
        yield "leg", rod((0, under, 0), (0, 0.02, 0), draw(0.02, 0.04))
        yield "leg", lathe(((foot, 0.0), (foot, 0.02), (foot * 0.4, 0.05)))
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


def _table(draw: Draw) -> NamedParts:
    wide, high = draw(0.8, 1.8), draw(0.4, 0.95)
    depth, thick = wide / draw(1.0, 1.8), draw(0.02, 0.08)
    # Small high tables would be stools.
    high = min(high, 0.75 * wide)
    under, middle = high - thick, (0, high - thick / 2, 0)
    round_top = draw.chance(0.35)
    if round_top:
        disc = lathe(((1, -thick / 2), (1, thick / 2)), sides=24)
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
            disc = lathe(((1, 0.0), (1, 0.03), (0.4, 0.06)))
            yield "leg", scale(disc, (foot * wide / 2, 1, foot * depth / 2))
        else:
            for corner in range(4):
                angle = math.pi / 4 + corner * math.pi / 2
                end = (0.8 * x * math.cos(angle), 0.025, 0.8 * z * math.sin(angle))
                yield "leg", rod((0, 0.12, 0), end, 0.035, 0.025)
        return
    if style == "four":
        yield from _four("leg", x, z, under, radius, draw.pick(0.0, draw(0.0, 0.08)), draw)
    for side in (-1, 1) if style != "four" else ():
        if style == "slab":
            yield "leg", box((side * x, under / 2, 0), (draw(0.03, 0.08), under, 2 * z))
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


def _four(
    name: str, x: float, z: float, top: float, radius: float, splay: float, draw: Draw
) -> NamedParts:
    """Four legs from (x, z) at ``top`` to the floor, ``splay`` farther out there."""
    sides, foot = draw.pick(4, 4, 10), radius * draw(0.6, 1.0)
    for right in (-1, 1):
        for front in (-1, 1):
            end = (right * (x + splay), 0, front * (z + splay))
            yield name, rod((right * x, top, front * z), end, radius, foot, sides=sides)


BUILDERS: dict[str, Callable[[Draw], NamedParts]] = {
    "airplane": _airplane,
    "bed": _bed,
    "bench": _bench,
    "bottle": _bottle,
    "car": _car,
    "chair": _chair,
    "cup": _cup,
    "lamp": _lamp,
    "monitor": _monitor,
    "mug": _mug,
    "shelf": _shelf,
    "sofa": _sofa,
    "stool": _stool,
    "table": _table,
}
