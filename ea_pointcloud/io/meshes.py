"""Triangle meshes: OFF and OBJ as text, checks of faces, and points drawn from their surface.

Open3D 0.20 does not serve for OBJ: it loses vertices written as ``.5``, makes triangles of lines
and points, and rounds to float32.
"""

from pathlib import Path

import numpy as np
import torch

from ea_pointcloud.io.common import (
    CloudFileError,
    Lines,
    Mesh,
    Points,
    number_lines,
    parse_rows,
    truncated,
    whole_number,
)
from ea_pointcloud.ops import sample_surface

OFF_PREFIXES = "STCN4"  # texture coordinates, colours, normals, homogeneous coordinates


def fan(polygons: np.ndarray) -> np.ndarray:
    """Cut polygons with K corners into triangles around the first corner.

    Args:
        polygons: (R, K) int64.

    Returns:
        (R * (K - 2), 3); none where K < 3.
    """
    corners = polygons.shape[1]
    if corners < 3:
        return np.empty((0, 3), np.int64)
    second = np.arange(1, corners - 1)
    order = np.stack([np.zeros_like(second), second, second + 1], 1)  # (K - 2, 3)
    return polygons[:, order].reshape(-1, 3)


def triangulate(polygons: list[np.ndarray]) -> np.ndarray:
    """(F, 3) triangles of polygons that are grouped by their number of corners."""
    return np.concatenate([np.empty((0, 3), np.int64), *map(fan, polygons)])


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
                "of a face; correct or remove that line"
            )
        held = len(first.split()) - 1
        if num_corners > held:  # before a list of so many is made
            raise CloudFileError(
                f"{path.name}: line {number} promises {num_corners} corners of a face and has "
                f"{held}; correct or remove that line"
            )
        if num_corners:
            corners = range(1, num_corners + 1)
            groups.append(parse_rows(path, rows, columns=corners, kind=int))
    return groups


def read_off(path: Path) -> Mesh:
    """Read OFF, also where the counts follow ``OFF`` without a space, as in ModelNet."""
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    lines = [(number, line.split("#", 1)[0].strip()) for number, line in number_lines(text)]
    lines = [(number, line) for number, line in lines if line]
    keyword, _, counts = lines[0][1].partition("OFF") if lines else ("", "", "")
    if not lines or "OFF" not in lines[0][1] or keyword.strip(OFF_PREFIXES) or "4" in keyword:
        raise CloudFileError(f"{path.name}: does not start with OFF; it is not an OFF file")
    lines = [(lines[0][0], counts), *lines[1:]] if counts.strip() else lines[1:]
    number, counts = lines[0] if lines else (1, "")
    num_vertices, num_faces, *_ = [*map(whole_number, counts.split()), None, None]
    if num_vertices is None or num_faces is None:
        raise CloudFileError(
            f"{path.name}: line {number}: {counts.strip()[:40]!r} does not give the numbers of "
            "vertices and faces; export the mesh again as text"
        )
    body = lines[1:]
    if len(body) < num_vertices:
        raise truncated(path, "vertices", num_vertices, len(body))
    if len(body) != num_vertices + num_faces:
        raise truncated(path, "faces", num_faces, len(body) - num_vertices)
    if num_vertices == 0 or num_faces == 0:
        raise _no_faces(path)
    vertices = parse_rows(path, body[:num_vertices], columns=range(3))
    return Mesh(vertices, triangulate(read_polygons(path, body[num_vertices:])))


def read_obj(path: Path) -> Mesh:
    """Read the vertices and faces of an OBJ; all its objects and groups are one mesh."""
    text = path.read_text(encoding="utf-8-sig", errors="replace").replace("\\\n", "  ")
    vertex_lines: Lines = []
    by_length: dict[int, list[list[int]]] = {}
    for number, line in number_lines(text):
        keyword, *fields = line.split("#", 1)[0].split() or [""]
        if keyword == "v":
            vertex_lines.append((number, " ".join(fields)))
        elif keyword == "f":
            corners = _obj_corners(path, number, fields, len(vertex_lines))
            by_length.setdefault(len(corners), []).append(corners)
    if not vertex_lines or not by_length:
        raise _no_faces(path)
    polygons = [np.array(rows, np.int64) for rows in by_length.values()]
    return Mesh(parse_rows(path, vertex_lines, columns=range(3)), triangulate(polygons))


def _obj_corners(path: Path, number: int, fields: list[str], num_vertices: int) -> list[int]:
    """Indices from 0 of ``f 1/2/3 -1 ...``, where -1 is the latest vertex so far."""
    try:
        given = [int(field.split("/")[0]) for field in fields]
    except ValueError:
        raise CloudFileError(
            f"{path.name}: line {number}: 'f {' '.join(fields)[:40]}' does not list vertices; "
            "correct or remove that line"
        ) from None
    return [index + num_vertices if index < 0 else index - 1 for index in given]


def _no_faces(path: Path) -> CloudFileError:
    return CloudFileError(f"{path.name}: has no faces; save bare points as .ply or .xyz")


def check_mesh(path: Path, mesh: Mesh, *, drop_invalid: bool) -> Mesh:
    """Raise for faces that name no vertex or a vertex that is not finite; or drop the latter."""
    vertices, faces = mesh
    if len(faces) == 0:
        raise _no_faces(path)
    wrong = ((faces < 0) | (faces >= len(vertices))).any(1)
    if wrong.any():
        first = int(wrong.argmax())
        raise CloudFileError(
            f"{path.name}: triangle {first} has the corners {faces[first].tolist()}, but the "
            f"vertices are 0..{len(vertices) - 1}; the file is damaged, export it again"
        )
    invalid = ~np.isfinite(vertices[faces]).all((1, 2))
    if invalid.any() and not drop_invalid:
        raise CloudFileError(
            f"{path.name}: {int(invalid.sum())} of {len(faces)} triangles have corners that are "
            f"not finite (first: triangle {int(invalid.argmax())}); "
            "read with drop_invalid=True to leave them out"
        )
    return Mesh(vertices, faces[~invalid])


def sample_mesh(path: Path, mesh: Mesh, num_points: int, seed: int) -> Points:
    """Draw points uniformly by area, each with the unit normal of its triangle."""
    generator = torch.Generator().manual_seed(seed)
    vertices, faces = torch.from_numpy(mesh.vertices), torch.from_numpy(mesh.faces)
    try:
        xyz, face = sample_surface(vertices, faces, num_points, generator=generator)
    except ValueError as error:
        raise CloudFileError(f"{path.name}: {error}; export it again") from error
    return Points(xyz.numpy(), normals=face_normals(mesh.vertices, mesh.faces)[face.numpy()])


def face_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(F, 3) unit normals by the right-hand rule; zero where a triangle has no area."""
    a, b, c = np.moveaxis(vertices[faces], 1, 0)
    normals = np.cross(b - a, c - a)
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    return np.divide(normals, length, out=np.zeros_like(normals), where=length > 0)
