"""Random draws and mesh primitives of the procedural shapes."""

import math
from collections.abc import Iterator, Sequence
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
    """Join rings (R, S, 3) of points to a tube; ``closed`` joins the ends, else they get lids.

    Rings turn clockwise seen from the last one, so that the triangles face outwards.
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
        bevel: chamfer of all edges, as a fraction of half the shortest edge, 0 <= bevel < 1.
        top: scale of the upper side along x and z.
        lean: shift of the upper side along z.
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
    radii: "Sequence[float] | NDArray[np.float64]",
    heights: "Sequence[float] | NDArray[np.float64]",
    *,
    center: Point = (0.0, 0.0, 0.0),
    sides: int = 20,
    closed: bool = False,
) -> Part:
    """Rotate a profile around the vertical axis through ``center``.

    Args:
        radii: of the profile; the side to its right, walking along, is the outside.
        heights: of the same points.
        center: (3,) origin of the profile.
        sides: corners of each ring; with 4 the flat sides face x and z.
        closed: join the profile's end to its start, as for a tube or a lamp shade.
    """
    radius, height = np.array((radii, heights))
    turn = _circle(sides)
    rings = np.empty((len(radius), sides, 3))
    rings[..., 0] = center[0] + radius[:, None] * turn[:, 0]
    rings[..., 1] = center[1] + height[:, None]
    rings[..., 2] = center[2] + radius[:, None] * turn[:, 1]
    return loft(rings, closed=closed)


def shell(bottom: float, top: float, height: float, wall: float, *, sides: int = 20) -> Part:
    """Make an open frustum with a wall and no lids, from y = 0 to ``height``."""
    radii = (bottom, top, max(top - wall, 0.0), max(bottom - wall, 0.0))
    return lathe(radii, (0.0, height, height, 0.0), sides=sides, closed=True)


def torus(center: Point, radius: float, thickness: float) -> Part:
    """Make a horizontal ring of ``radius`` with a round section of radius ``thickness``."""
    x, y = (_circle(8) * thickness).T
    return lathe(radius + x, y, center=center, closed=True)


def ellipsoid(center: Point, radii: Point) -> Part:
    """Make an ellipsoid with half axes ``radii`` along x, y and z."""
    angle = np.linspace(-math.pi / 2, math.pi / 2, 9)
    vertices, faces = lathe(np.cos(angle), np.sin(angle), sides=14)
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

    ``thickness`` is the fraction of the chord.
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


def four_legs(
    name: str, x: float, z: float, top: float, radius: float, splay: float, draw: Draw
) -> NamedParts:
    """Four legs from (x, z) at ``top`` to the floor, ``splay`` farther out there."""
    sides, foot = draw.pick(4, 4, 10), radius * draw(0.6, 1.0)
    for right in (-1, 1):
        for front in (-1, 1):
            end = (right * (x + splay), 0, front * (z + splay))
            yield name, rod((right * x, top, front * z), end, radius, foot, sides=sides)
