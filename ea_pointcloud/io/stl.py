"""STL, as text and as bytes: three corners for every triangle, nothing shared.

Open3D 0.20 does not serve here: it rounds text to float32 and reads what is left of a truncated
file without a word.
"""

import struct
from pathlib import Path

import numpy as np

from ea_pointcloud.io.common import (
    INCOMPLETE,
    LOOK,
    SOURCE,
    CloudFileError,
    Mesh,
    Options,
    ignored,
    read_bytes,
    truncated,
)
from ea_pointcloud.io.tables import number_lines, parse_rows

HEAD = 84  # bytes of title and count
ROW = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
FACET = ("facet", "outer", "vertex", "vertex", "vertex", "endloop", "endfacet")


def read_stl(path: Path, options: Options) -> Mesh:
    """Read the triangles of an STL file; all its solids are one mesh."""
    data = read_bytes(path)
    promised = struct.unpack_from("<I", data, HEAD - 4)[0] if len(data) >= HEAD else 0
    held = max(len(data) - HEAD, 0) // ROW.itemsize
    # Many exporters start bytes with "solid" too, so the count is asked first.
    if promised != held or held == 0:
        opening = data[:1000].lower()
        if opening.lstrip().startswith(b"solid") and b"facet" in opening:
            return _from_corners(_ascii_corners(path, data))
        if len(data) < HEAD:
            raise CloudFileError(f"{path.name}: is too short for an STL file; {INCOMPLETE}")
        if promised > held or promised == 0:
            raise truncated(path, "triangles", promised, held)
    rows = np.frombuffer(data, ROW, promised, HEAD)
    corners = rows["corners"].reshape(-1, 3).astype(np.float64)
    _check_single_precision(path, corners)
    rest = len(data) - HEAD - rows.nbytes
    return _from_corners(corners, (ignored(rest, "bytes"),) if rest else ())


def _from_corners(corners: np.ndarray, notes: tuple[str, ...] = ()) -> Mesh:
    return Mesh(corners, np.arange(len(corners)).reshape(-1, 3), notes)


def _ascii_corners(path: Path, data: bytes) -> np.ndarray:
    """(3 F, 3) float64."""
    lines = number_lines(data.decode("utf-8", errors="replace").lower())
    rows = [(number, *line.split(None, 1)) for number, line in lines]
    facets = [row for row in rows if row[1] not in ("solid", "endsolid")]
    for place, (number, keyword, *_) in enumerate(facets):
        expected = FACET[place % len(FACET)]
        if keyword != expected:
            raise CloudFileError(
                f"{path.name}: line {number} starts with {keyword[:20]!r} in place of "
                f"{expected!r}; {LOOK}"
            )
    if len(facets) % len(FACET) or rows[-1][1] != "endsolid":
        raise CloudFileError(f"{path.name}: ends before its 'endsolid'; {INCOMPLETE}")
    if not facets:
        raise CloudFileError(f"{path.name}: has no facets; {SOURCE}")
    corners = [(number, "".join(rest)) for number, keyword, *rest in facets if keyword == "vertex"]
    return parse_rows(path, corners, columns=range(3))


def _check_single_precision(path: Path, vertices: np.ndarray) -> None:
    """Raise where steps of float32 would be seen in the shape of a mesh."""
    finite = vertices[np.isfinite(vertices).all(1)]
    if len(finite) == 0:
        return  # which another check reports
    largest = np.abs(finite).max()
    extent = np.ptp(finite, axis=0).max()
    step = float(np.spacing(np.float32(largest)))
    if step > 1e-3 * extent > 0:
        raise CloudFileError(
            f"{path.name}: coordinates near {largest:.0f} come in steps of {step:g} in a binary "
            f"STL, too coarse for a mesh {extent:.3g} wide; move it to the origin or save it as "
            ".ply"
        )
