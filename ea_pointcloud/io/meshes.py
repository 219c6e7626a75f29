"""OFF and OBJ as text, checks of triangle meshes, and points drawn from their surface.

Open3D 0.20 does not serve for OBJ: it loses vertices written as ``.5``, makes triangles of lines
and points, and rounds to float32.
"""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from ea_pointcloud.io.common import (
    LOOK,
    SOURCE,
    CloudFileError,
    Mesh,
    Options,
    Points,
    decode_text,
    ignored,
    read_bytes,
    read_text_file,
    truncated,
    whole_number,
)
from ea_pointcloud.io.polygons import read_polygons, triangulate
from ea_pointcloud.io.tables import Lines, number_lines, parse_rows
from ea_pointcloud.io.values import unit_colors
from ea_pointcloud.ops import sample_surface

KEYWORD = re.compile(r"(ST)?(C)?(N)?(4)?(n)?OFF")  # texture coordinates, colours, normals; axes


def read_off(path: Path, options: Options) -> Mesh | Points:
    """Read OFF, also where the counts follow ``OFF`` without a space, as in ModelNet.

    A file without faces is a cloud. Colours of faces are left out.
    """
    data = read_bytes(path)
    if b"BINARY" in data[:80].upper():
        raise _not_supported(path, "binary OFF")
    text = decode_text(path, data)
    lines = number_lines(text)
    if "#" in text:
        lines = [(number, line.split("#", 1)[0]) for number, line in lines]
        lines = [(number, line) for number, line in lines if not line.isspace() and line]
    first = lines[0][1].strip() if lines else ""
    match = KEYWORD.match(first)
    if match is None and not re.fullmatch(r"\d+\s+\d+(\s+\d+)?", first):
        raise CloudFileError(f"{path.name}: does not start with OFF; it is not an OFF file")
    if match and (match[4] or match[5]):
        raise _not_supported(path, f"OFF of other than 3 dimensions ({match[0]})")
    rest = first[match.end() :] if match else first
    lines = [(lines[0][0], rest), *lines[1:]] if rest.strip() else lines[1:]
    number, counts = lines[0] if lines else (1, "")
    if len(counts.split()) not in (2, 3):  # the counts are not alone in a line of theirs
        fields = [(place, field) for place, line in lines for field in line.split()]
        counts = " ".join(field for _, field in fields[:3])
        lines = [(number, counts), *fields[3:]]
    num_vertices, num_faces, *_ = [*map(whole_number, counts.split()), None, None]
    if num_vertices is None or num_faces is None:
        raise CloudFileError(
            f"{path.name}: line {number}: {counts.strip()[:40]!r} does not give the numbers of "
            f"vertices and faces; {LOOK}"
        )
    if num_vertices == 0:
        raise CloudFileError(f"{path.name}: has no vertices; {SOURCE}")
    keyword = match[0] if match else "OFF"
    try:
        return _off_content(path, keyword, lines[1:], num_vertices, num_faces)
    except CloudFileError as fault:
        body = _relined(keyword, lines[1:], num_vertices, num_faces)
        if body is None:
            raise fault from None
        return _off_content(path, keyword, body, num_vertices, num_faces)


def _not_supported(path: Path, what: str) -> CloudFileError:
    return CloudFileError(
        f"{path.name}: is {what}, which is not supported; convert it to OFF text or .ply, for "
        "example in MeshLab or with meshio"
    )


def _off_content(
    path: Path, keyword: str, body: Lines, num_vertices: int, num_faces: int
) -> Mesh | Points:
    """What lines of one vertex or face each hold."""
    if len(body) < num_vertices:
        raise truncated(path, "vertices", num_vertices, len(body))
    end = num_vertices + num_faces
    if len(body) < end:
        raise truncated(path, "faces", num_faces, len(body) - num_vertices)
    notes = (ignored(len(body) - end, "lines"),) if len(body) > end else ()
    vertices = parse_rows(path, body[:num_vertices], columns=range(3))
    if num_faces == 0:
        return _off_cloud(path, keyword, body[:num_vertices], vertices)._replace(notes=notes)
    polygons = read_polygons(path, body[num_vertices:end])
    colors = None
    if "C" in keyword:
        colors = _off_cloud(path, keyword, body[:num_vertices], vertices).colors
    return Mesh(vertices, triangulate(vertices, polygons), notes, colors)


def _relined(keyword: str, body: Lines, num_vertices: int, num_faces: int) -> Lines | None:
    """A line for each vertex and face of a file that breaks lines elsewhere, or None.

    Colours of faces have no place in such a file, as their number is not said.
    """
    widths = {"OFF": 3, "NOFF": 6, "COFF": 7, "CNOFF": 10, "STOFF": 5}
    tokens = [(number, field) for number, line in body for field in line.split()]
    width = widths.get(keyword)
    if width is None or len(tokens) < width * num_vertices + num_faces:
        return None
    lines: Lines = []
    at = 0
    for index in range(num_vertices + num_faces):
        if at >= len(tokens):
            return None
        number, length = tokens[at]
        size = width if index < num_vertices else 1 + (whole_number(length) or 0)
        lines.append((number, " ".join(field for _, field in tokens[at : at + size])))
        at += size
    return lines if at == len(tokens) else None


def _off_cloud(path: Path, keyword: str, rows: Lines, vertices: np.ndarray) -> Points:
    """The vertices of an OFF without faces, with normals and colours as its keyword says."""
    table = parse_rows(path, rows, columns=range(min(len(line.split()) for _, line in rows)))
    start = 6 if "N" in keyword else 3
    normals = table[:, 3:6] if "N" in keyword and table.shape[1] >= 6 else None
    colors = table[:, start : start + 3] if "C" in keyword else None
    colors = None if colors is None or colors.shape[1] < 3 else colors
    return Points(vertices, normals=normals, colors=colors)


class _Obj(NamedTuple):
    vertices: Lines
    normals: Lines
    faces: dict[int, list[list[int]]]  # by their number of corners
    points: list[int]  # vertices that ``p`` lists


def read_obj(path: Path, options: Options) -> Mesh | Points:
    """Read the vertices and faces of an OBJ; all its objects and groups are one mesh.

    One without faces is a cloud of the vertices that ``p`` lists, or all, with their colours, and
    normals where there is one for each vertex.
    """
    content = _obj_content(path)
    if not content.vertices:
        raise CloudFileError(f"{path.name}: has no vertices; {SOURCE}")
    vertices = parse_rows(path, content.vertices, columns=range(3))
    try:
        polygons = [np.array(rows, np.int64) for rows in content.faces.values()]
        chosen = np.unique(np.array(content.points, np.int64))
    except OverflowError:
        raise CloudFileError(
            f"{path.name}: names a vertex by a number of more than 64 bits; {SOURCE}"
        ) from None
    normals = colors = None
    if min(len(line.split()) for _, line in content.vertices) >= 6:
        colors = parse_rows(path, content.vertices, columns=range(3, 6))
    if polygons:
        return Mesh(vertices, triangulate(vertices, polygons), colors=colors)
    if len(content.normals) == len(vertices):
        normals = parse_rows(path, content.normals, columns=range(3))
    points = Points(vertices, normals=normals, colors=colors)
    if len(chosen) == 0:
        return points
    if chosen[0] < 0 or chosen[-1] >= len(vertices):
        raise CloudFileError(
            f"{path.name}: a 'p' names a vertex beyond the {len(vertices)} there are; {SOURCE}"
        )
    return points.select(chosen)


def _obj_content(path: Path) -> _Obj:
    text = read_text_file(path)
    if "\\" in text:
        text = re.sub(r"\\\r?\n", "  ", text)
    content = _Obj([], [], {}, [])
    for number, line in number_lines(text):
        keyword, *fields = line.split("#", 1)[0].split() or [""]
        if keyword == "v":
            content.vertices.append((number, " ".join(fields)))
        elif keyword == "f":
            corners = _obj_indices(path, number, keyword, fields, len(content.vertices))
            content.faces.setdefault(len(corners), []).append(corners)
        elif keyword == "vn":
            content.normals.append((number, " ".join(fields)))
        elif keyword == "p":
            content.points.extend(
                _obj_indices(path, number, keyword, fields, len(content.vertices))
            )
    return content


def _obj_indices(
    path: Path, number: int, keyword: str, fields: list[str], num_vertices: int
) -> list[int]:
    """Indices from 0 of ``f 1/2/3 -1 ...``, where -1 is the latest vertex so far."""
    try:
        given = [int(field.split("/")[0]) for field in fields]
    except ValueError:
        raise CloudFileError(
            f"{path.name}: line {number}: '{keyword} {' '.join(fields)[:40]}' does not list "
            f"vertices; {LOOK}"
        ) from None
    return [index + num_vertices if index < 0 else index - 1 for index in given]


def check_mesh(path: Path, mesh: Mesh, *, drop_invalid: bool) -> Mesh:
    """Raise for faces that name no vertex or a vertex that is not finite; or drop the latter."""
    vertices, faces = mesh.vertices, mesh.faces
    if len(faces) == 0:
        raise CloudFileError(f"{path.name}: has no faces of three corners or more; {SOURCE}")
    wrong = ((faces < 0) | (faces >= len(vertices))).any(1)
    if wrong.any():
        first = int(wrong.argmax())
        raise CloudFileError(
            f"{path.name}: triangle {first} has the corners {faces[first].tolist()}, but the "
            f"vertices are 0..{len(vertices) - 1}; {SOURCE}"
        )
    if np.isfinite(vertices).all():
        return mesh
    invalid = ~np.isfinite(vertices[faces]).all((1, 2))
    if invalid.any() and not drop_invalid:
        raise CloudFileError(
            f"{path.name}: {int(invalid.sum())} of {len(faces)} triangles have corners that are "
            f"not finite (first: triangle {int(invalid.argmax())}); "
            "read with --drop-invalid (drop_invalid=True in Python) to leave them out"
        )
    return mesh._replace(faces=faces[~invalid])


def sample_mesh(path: Path, mesh: Mesh, num_points: int, seed: int) -> Points:
    """Draw points uniformly by area, each with the unit normal of its triangle.

    Colours are interpolated between its corners; a label is that of the nearest corner.
    """
    generator = torch.Generator().manual_seed(seed)
    vertices, faces = torch.from_numpy(mesh.vertices), torch.from_numpy(mesh.faces)
    try:
        xyz, face = sample_surface(vertices, faces, num_points, generator=generator)
    except ValueError as error:
        raise CloudFileError(f"{path.name}: {error}; {SOURCE}") from error
    corners = mesh.faces[face.numpy()]
    points = Points(xyz.numpy(), face_normals(mesh.vertices, corners), notes=mesh.notes)
    if mesh.colors is None and mesh.labels is None:
        return points
    weights = _corner_weights(points.xyz, mesh.vertices[corners])
    if mesh.colors is not None:
        try:
            colors = unit_colors(path, mesh.colors)[corners]  # (n, 3 corners, 3)
            mixed = (colors * weights[..., None]).sum(1).clip(0, 1)  # 1 + 1e-7 would mean 0..255
            points = points._replace(colors=mixed)
        except CloudFileError:  # the surface is fine
            points = points._replace(notes=(*points.notes, "colours of vertices are left out"))
    if mesh.labels is not None:
        nearest = corners[np.arange(len(corners)), weights.argmax(1)]
        points = points._replace(labels=mesh.labels[nearest])
    return points


def _corner_weights(xyz: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """(n, 3) barycentric weights of points (n, 3) in triangles (n, 3 corners, 3) with an area."""
    a, b, c = np.moveaxis(corners, 1, 0)
    normal = np.cross(b - a, c - a)
    parts = [np.cross(c - b, xyz - b), np.cross(a - c, xyz - c), np.cross(b - a, xyz - a)]
    areas = np.stack([(part * normal).sum(1) for part in parts], 1).clip(0)
    total = areas.sum(1, keepdims=True)
    return np.divide(areas, total, out=np.full_like(areas, 1 / 3), where=total > 0)


def face_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(F, 3) unit normals by the right-hand rule; zero where a triangle has no area."""
    a, b, c = np.moveaxis(vertices[faces], 1, 0)
    normals = np.cross(b - a, c - a)
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    return np.divide(normals, length, out=np.zeros_like(normals), where=length > 0)
