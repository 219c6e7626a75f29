"""Polygons and strips to triangles."""

from pathlib import Path

import numpy as np

from ea_pointcloud.io.common import LOOK, CloudFileError, whole_number
from ea_pointcloud.io.tables import Lines, parse_rows

CORNERS_AT_ONCE = 2**18  # bounds memory, and keeps what is worked on in the cache


def triangulate(vertices: np.ndarray, polygons: list[np.ndarray]) -> np.ndarray:
    """Cut polygons into triangles that cover them, turned as they are.

    Convex ones become fans, others are cut by ``mapbox_earcut`` in the plane that is normal to
    their area vector (Newell's rule). What names a missing or infinite vertex becomes a fan too.

    Args:
        vertices: (V, 3) float64.
        polygons: (R, K) int64 each, one entry for every K.

    Returns:
        (F, 3) int64; none for K < 3.
    """
    pieces = [np.empty((0, 3), np.int64)]
    for group in polygons:
        corners = group.shape[1]
        if corners == 3:
            pieces.append(group)
        if corners <= 3:
            continue
        step = max(CORNERS_AT_ONCE // corners, 1)
        for start in range(0, len(group), step):
            pieces.append(_cut(vertices, group[start : start + step]))
    return np.concatenate(pieces)


def _cut(vertices: np.ndarray, polygons: np.ndarray) -> np.ndarray:
    corners = polygons.shape[1]
    known = np.all((polygons >= 0) & (polygons < len(vertices)), axis=1)
    points = vertices[np.where(known[:, None], polygons, 0)]  # (R, K, 3)
    points = points - points[:, :1]
    known &= np.isfinite(points).all((1, 2))
    points[~known] = 0
    if corners == 4:
        return _fan(np.where(_wrong_diagonal(points)[:, None], np.roll(polygons, -1, 1), polygons))
    following = np.roll(points, -1, 1)
    normals = np.cross(points, following).sum(1)  # twice the area vector, (R, 3)
    edges = following - points
    turns = np.einsum("rkc,rc->rk", np.cross(np.roll(edges, 1, 1), edges), normals)
    concave = _is_negative(turns).any(1)
    pieces = [_fan(polygons[~concave])]
    for polygon, flat, normal in zip(
        polygons[concave], points[concave], normals[concave], strict=True
    ):
        pieces.append(_earcut(polygon, flat, normal))
    return np.concatenate(pieces)


def _wrong_diagonal(points: np.ndarray) -> np.ndarray:
    """(R,) whether the diagonal from the first corner, at 0, lies outside: points are (R, 4, 3)."""
    _, b, c, d = np.moveaxis(points, 1, 0)
    normals = np.cross(c, d - b)
    halves = [np.einsum("rc,rc->r", np.cross(*pair), normals) for pair in ((b, c), (c, d))]
    return np.any(_is_negative(np.stack(halves, 1)), axis=1)


def _is_negative(turns: np.ndarray) -> np.ndarray:
    """Whether turns go against the area; 1e-9 is the rounding of a straight corner."""
    return np.less(turns, -1e-9 * np.abs(turns).max(1, keepdims=True))


def _fan(polygons: np.ndarray) -> np.ndarray:
    """(R * (K - 2), 3) triangles around the first corner."""
    second = np.arange(1, polygons.shape[1] - 1)
    order = np.stack([np.zeros_like(second), second, second + 1], 1)  # (K - 2, 3)
    return polygons[:, order].reshape(-1, 3)


def _earcut(polygon: np.ndarray, points: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """Triangles of one polygon: (K,) indices, (K, 3) corners, (3,) area vector."""
    import mapbox_earcut

    axis = int(np.abs(normal).argmax())
    others = [(axis + 1) % 3, (axis + 2) % 3]
    flat = points[:, others if normal[axis] > 0 else others[::-1]]  # counterclockwise
    ends = np.array([len(flat)], np.uint32)
    order = mapbox_earcut.triangulate_float64(np.ascontiguousarray(flat), ends).reshape(-1, 3)
    if len(order) == 0:  # without area
        return _fan(polygon[None])
    a, b, c = np.moveaxis(flat[order], 1, 0)
    area = (b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]
    order = np.where(area[:, None] < 0, order[:, ::-1], order)
    return polygon[order]


def strip(corners: np.ndarray) -> np.ndarray:
    """(F, 3) triangles of a strip of corners, or of several with -1 between them."""
    faces = np.stack([corners[:-2], corners[1:-1], corners[2:]], 1)
    starts = np.flatnonzero(np.concatenate([[True], corners[:-1] == -1]))
    place = np.arange(len(corners)) - np.repeat(starts, np.diff(starts, append=len(corners)))
    odd = place[: len(faces)] % 2 == 1  # every other triangle of a strip runs the other way
    faces[odd] = faces[odd][:, [0, 2, 1]]
    return faces[(faces != -1).all(1)]


def read_polygons(path: Path, lines: Lines) -> list[np.ndarray]:
    """Read lines of a number K and K vertex indices; what follows on a line is left out.

    Returns:
        (R, K) int64 for each K that occurs.
    """
    by_length: dict[str, Lines] = {}
    for number, line in lines:
        by_length.setdefault(line.split(None, 1)[0], []).append((number, line))
    groups = []
    for length, rows in by_length.items():
        number, first = rows[0]
        num_corners = whole_number(length)
        if num_corners is None:
            raise CloudFileError(
                f"{path.name}: line {number}: {length[:20]!r} is not the number of corners "
                f"of a face; {LOOK}"
            )
        held = len(first.split()) - 1
        if num_corners > held:  # before a list of that length is made
            raise CloudFileError(
                f"{path.name}: line {number} promises {num_corners} corners of a face and has "
                f"{held}; {LOOK}"
            )
        if num_corners:
            corners = range(1, num_corners + 1)
            groups.append(parse_rows(path, rows, columns=corners, kind=int))
    return groups
