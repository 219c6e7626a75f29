"""LAS and LAZ, the formats of airborne and terrestrial scans, through laspy."""

import io
from pathlib import Path

import numpy as np

from ea_pointcloud.io.common import (
    CloudFileError,
    Columns,
    Points,
    points_from_columns,
    truncated,
)

STEPS = 2**30  # of a coordinate to either side, half of what its 32 bits can count
RGB = ("red", "green", "blue")
PLAIN, COLORED = 6, 7  # point formats of LAS 1.4 with a whole byte for the classification


def read_las(path: Path) -> Points:
    """Read coordinates, colours and classification, and normals and confidence of extra bytes.

    Colours whose values all fit a byte are taken for 0..255, as many exporters write them into
    the 16 bits; colours or classifications that are all 0 were never filled in and are left out.

    For the guarded process alone: decompression is native code.
    """
    import laspy

    try:
        with laspy.open(path) as reader:
            header = reader.header
            held = (path.stat().st_size - header.offset_to_point_data) // header.point_format.size
            if not header.are_points_compressed and held < header.point_count:
                raise truncated(path, "points", header.point_count, max(held, 0))
            las = reader.read()
    except CloudFileError:
        raise
    except (laspy.LaspyException, OSError, RuntimeError, ArithmeticError, ValueError) as error:
        raise _damaged(path, error) from error
    except (KeyError, IndexError, TypeError, AttributeError, AssertionError) as error:
        raise _damaged(path, error) from error
    names = set(las.point_format.dimension_names)
    extra = {name: np.asarray(las[name]) for name in las.point_format.extra_dimension_names}
    columns = {**extra, **dict(zip("xyz", las.xyz.T, strict=True))}
    points = points_from_columns(path, columns)
    if names.issuperset(RGB):
        points = points._replace(
            colors=_colors(np.stack([np.asarray(las[name]) for name in RGB], 1))
        )
    classes = np.asarray(las.classification)
    if points.labels is None and classes.any():
        points = points._replace(labels=classes)
    return points


def _damaged(path: Path, error: Exception) -> CloudFileError:
    return CloudFileError(
        f"{path.name}: damaged or not a LAS file ({error or type(error).__name__}); copy it again"
    )


def _colors(colors: np.ndarray) -> np.ndarray | None:
    if not colors.any():
        return None
    return colors.astype(np.uint8) if colors.max() <= np.iinfo(np.uint8).max else colors


def encode_las(columns: Columns) -> bytes:
    """LAS 1.4: see :func:`_encode`."""
    return _encode(columns, compress=False)


def encode_laz(columns: Columns) -> bytes:
    """LAS 1.4, compressed: see :func:`_encode`."""
    return _encode(columns, compress=True)


def _encode(columns: Columns, *, compress: bool) -> bytes:
    """Coordinates in steps of a power of ten, 16-bit colours, labels as the classification.

    Normals and confidence are extra bytes of type float. A billion steps span the cloud, so they
    are finer than float32.
    """
    import laspy

    xyz = columns["xyz"]
    center = xyz.min(0) / 2 + xyz.max(0) / 2
    reach = max(float(np.abs(xyz - center).max()), 1e-3)
    header = laspy.LasHeader(version="1.4", point_format=COLORED if "colors" in columns else PLAIN)
    header.global_encoding.wkt = True  # as the standard asks of these point formats
    header.offsets = center
    header.scales = np.full(3, 10 ** np.ceil(np.log10(reach / STEPS)))
    extra = {}
    if "normals" in columns:
        extra |= dict(zip(("NormalX", "NormalY", "NormalZ"), columns["normals"].T, strict=True))
    if "confidence" in columns:
        extra["confidence"] = columns["confidence"]
    header.add_extra_dims([laspy.ExtraBytesParams(name, "float32") for name in extra])
    las = laspy.LasData(header)
    las.xyz = xyz
    if "colors" in columns:
        las.red, las.green, las.blue = np.round(columns["colors"] * 65535).astype(np.uint16).T
    if "labels" in columns:
        las.classification = _as_bytes(columns["labels"])
    for name, values in extra.items():
        las[name] = values
    buffer = io.BytesIO()
    las.write(buffer, do_compress=compress)
    return buffer.getvalue()


def _as_bytes(labels: np.ndarray) -> np.ndarray:
    if labels.min() < 0 or labels.max() > 255:
        raise ValueError(
            f"labels must be within 0..255 in .las and .laz, got {labels.min()}..{labels.max()}; "
            "write .npz"
        )
    return labels.astype(np.uint8)
