"""PCD and STL: what Open3D's readers do not check. Open3D itself is called in ``io``."""

import struct
from pathlib import Path

import numpy as np

from ea_pointcloud._formats.common import (
    NORMAL_NAMES,
    CloudFileError,
    number_lines,
    parse_rows,
    truncated,
)

STL_HEAD = 84  # bytes of title and count
STL_ROW = 50  # bytes of a triangle


def check_pcd(path: Path) -> None:
    """Raise where the rows of a PCD file are not what its header promises.

    Open3D fills what is missing with uninitialised memory and reads a word as 0.
    """
    data = path.read_bytes()
    end = data.find(b"\nDATA ") + 1
    start = data.find(b"\n", end) + 1
    if end == 0 or start == 0:
        raise CloudFileError(
            f"{path.name}: has no PCD header down to its DATA line; "
            "it is not a PCD file or truncated, copy it again"
        )
    header = {
        line.split()[0]: line.split()[1:]
        for _, line in number_lines(data[:start].decode("ascii", errors="replace"))
    }
    try:
        names, sizes, kinds = header["FIELDS"], header["SIZE"], header["TYPE"]
        counts = [int(count) for count in header.get("COUNT", ["1"] * len(names))]
        layout = {
            name: (kind, int(size)) for name, kind, size in zip(names, kinds, sizes, strict=True)
        }
        row = sum(int(size) * count for size, count in zip(sizes, counts, strict=True))
        (width,), (height,), (points,) = (header[key] for key in ("WIDTH", "HEIGHT", "POINTS"))
        num_points, grid = int(points), (int(width), int(height))
    except (KeyError, ValueError) as error:
        raise CloudFileError(
            f"{path.name}: the PCD header is incomplete or contradicts itself ({error}); "
            "export it again"
        ) from error
    _check_layout(path, layout)
    if grid[0] * grid[1] != num_points or num_points == 0:
        raise CloudFileError(
            f"{path.name}: the header promises {num_points} points in a grid of "
            f"{grid[0]} x {grid[1]}; correct the counts or export it again"
        )

    storage = " ".join(header["DATA"])
    if storage == "ascii":
        text = data[start:].decode("ascii", errors="replace")
        lines = number_lines(text, first=data[:start].count(b"\n") + 1)
        if len(lines) != num_points:
            raise truncated(path, "points", num_points, len(lines))
        if parse_rows(path, lines).shape[1] != sum(counts):
            raise CloudFileError(
                f"{path.name}: line {lines[0][0]} has not the {sum(counts)} columns that the "
                "header promises; export it again"
            )
    elif storage == "binary":
        held, rest = divmod(len(data) - start, row)
        if held != num_points or rest > 2:  # a line break at the end does no harm
            raise truncated(path, "points", num_points, held)
    elif storage == "binary_compressed":
        packed, unpacked = struct.unpack_from("<II", data.ljust(start + 8, b"\0"), start)
        if unpacked != num_points * row or packed > len(data) - start - 8:
            raise truncated(path, "compressed bytes", packed, max(len(data) - start - 8, 0))
    else:
        raise CloudFileError(
            f"{path.name}: DATA is {storage!r}; it must be ascii, binary or binary_compressed"
        )


def _check_layout(path: Path, layout: dict[str, tuple[str, int]]) -> None:
    """Raise for coordinates that are missing and for normals that Open3D misreads."""
    missing = [axis for axis in "xyz" if axis not in layout]
    if missing:
        raise CloudFileError(
            f"{path.name}: has no field {' '.join(missing)}, only {' '.join(layout)}; "
            "name the coordinates x y z"
        )
    normals = [name for name in NORMAL_NAMES[1] if name in layout]
    if len({layout[name] for name in [*"xyz", *normals]}) > 1 or len(normals) in (1, 2):
        raise CloudFileError(
            f"{path.name}: its coordinates and normals are incomplete or of several types, which "
            "Open3D misreads; save all of them as float or all as double, or as .ply"
        )


def check_stl(path: Path) -> None:
    """Raise where a binary STL is shorter or longer than its count of triangles says."""
    data = path.read_bytes()
    if data.lstrip().startswith(b"solid") and b"facet" in data[:1000]:
        return  # text, which Open3D checks
    if len(data) < STL_HEAD:
        raise CloudFileError(f"{path.name}: is too short for an STL file; copy it again")
    (promised,) = struct.unpack_from("<I", data, STL_HEAD - 4)
    held = (len(data) - STL_HEAD) // STL_ROW
    if held != promised:
        raise truncated(path, "triangles", promised, held)


def check_single_precision(path: Path, vertices: np.ndarray) -> None:
    """Raise where steps of float32 would be seen in the shape of a mesh."""
    largest = np.abs(vertices).max()
    extent = np.ptp(vertices, axis=0).max()
    step = float(np.spacing(np.float32(largest)))
    if step > 1e-3 * extent > 0:
        raise CloudFileError(
            f"{path.name}: coordinates near {largest:.0f} come in steps of {step:g} in STL, too "
            f"coarse for a mesh {extent:.3g} wide; move it to the origin or save it as .ply"
        )
