"""LAS and LAZ, the formats of airborne and terrestrial scans, through laspy."""

import io
from pathlib import Path
from typing import Any

import numpy as np

from ea_pointcloud.io.columns import points_from_columns
from ea_pointcloud.io.common import (
    DAMAGED,
    CloudFileError,
    Columns,
    Options,
    Points,
    truncated,
)

STEPS = 2**30  # of a coordinate to either side, half of what its 32 bits can count
RGB = ("red", "green", "blue")
PLAIN, COLORED = 6, 7  # point formats of LAS 1.4 with a whole byte for the classification
OWN = {  # dimensions of both that extras are likely to come from, and what they hold
    **{"intensity": (0, 65535), "point_source_id": (0, 65535), "user_data": (0, 255)},
    **{"return_number": (0, 15), "number_of_returns": (0, 15), "scanner_channel": (0, 3)},
    **{"synthetic": (0, 1), "key_point": (0, 1), "withheld": (0, 1), "overlap": (0, 1)},
    **{"scan_direction_flag": (0, 1), "edge_of_flight_line": (0, 1)},
    **{"scan_angle": (-30_000, 30_000), "gps_time": (-np.inf, np.inf)},
}
NOT_CHANNELS = {"X", "Y", "Z", *RGB, "classification"}
LASZIP = 22204  # the record of a LAZ file that says how it is compressed
CHUNKED = (2, 3)  # compressors that keep chunks of points, or of layers
NEWEST_ITEM = 3  # version of the fields' compression


def read_las(path: Path, options: Options) -> Points:
    """Read coordinates, colours, classification, intensity, and all other dimensions as extras.

    Colours whose values all fit a byte are taken as 0..255, as many exporters write them into
    the 16 bits; dimensions that are all 0 were never filled in and are left out.

    For the guarded process alone: decompression is native code.
    """
    import laspy

    try:
        with laspy.open(path) as reader:
            header = reader.header
            held = (path.stat().st_size - header.offset_to_point_data) // header.point_format.size
            if not header.are_points_compressed and held < header.point_count:
                raise truncated(path, "points", header.point_count, max(held, 0))
            if header.are_points_compressed:
                _check_compression(path, header)
            las = reader.read()
    except CloudFileError:
        raise
    except (laspy.LaspyException, OSError, RuntimeError, ArithmeticError, ValueError) as error:
        raise _damaged(path, error) from error
    except (KeyError, IndexError, TypeError, AttributeError, AssertionError) as error:
        raise _damaged(path, error) from error
    columns = dict(zip("xyz", las.xyz.T, strict=True))
    for name in las.point_format.extra_dimension_names:
        columns[name] = np.asarray(las[name])
    for name in las.point_format.standard_dimension_names:
        if name not in NOT_CHANNELS and (values := np.asarray(las[name])).any():
            columns.setdefault(name, values)
    columns = {name: values for name, values in columns.items() if values.ndim == 1}
    points = points_from_columns(path, columns, options.columns)
    if points.colors is None and set(las.point_format.dimension_names).issuperset(RGB):
        colors = np.stack([np.asarray(las[name]) for name in RGB], 1)
        points = points._replace(colors=colors if colors.any() else None)
    classes = np.asarray(las.classification)
    if points.labels is None and classes.any():
        points = points._replace(labels=classes)
    return points


def _check_compression(path: Path, header: Any) -> None:
    """Raise for a LAZ file that lazrs does not decompress, by name."""
    record = next((vlr for vlr in header.vlrs if vlr.record_id == LASZIP), None)
    if record is None:
        return
    content = record.record_data_bytes()
    compressor = int.from_bytes(content[:2], "little")
    starts = range(34, len(content), 6)  # of a type, a size and a version each
    newest = max((int.from_bytes(content[at + 4 : at + 6], "little") for at in starts), default=0)
    if compressor not in CHUNKED or newest > NEWEST_ITEM:
        what = "point by point" if compressor == 1 else f"in version {newest}"
        raise CloudFileError(
            f"{path.name}: is LAZ compressed {what}, which is not supported; convert it to .las, "
            "for example with laszip"
        )


def _damaged(path: Path, error: Exception) -> CloudFileError:
    return CloudFileError(
        f"{path.name}: damaged or not a LAS file ({str(error)[:100] or 'ends early'}); {DAMAGED}"
    )


def encode_las(columns: Columns) -> bytes:
    """LAS 1.4: see :func:`_encode`."""
    return _encode(columns, compress=False)


def encode_laz(columns: Columns) -> bytes:
    """LAS 1.4, compressed: see :func:`_encode`."""
    return _encode(columns, compress=True)


def _encode(columns: Columns, *, compress: bool) -> bytes:
    """Coordinates in steps of a power of ten, 16-bit colours, labels as the classification.

    Everything else is in the dimension of its name where its values fit, or else in extra bytes.
    A billion steps span the cloud, so they are finer than float32.
    """
    import laspy

    xyz = columns["xyz"]
    center = xyz.min(0) / 2 + xyz.max(0) / 2
    reach = max(float(np.abs(xyz - center).max()), 1e-3)
    header = laspy.LasHeader(version="1.4", point_format=COLORED if "colors" in columns else PLAIN)
    header.global_encoding.wkt = True  # as the standard asks of these point formats
    header.offsets = center
    header.scales = np.full(3, 10 ** np.ceil(np.log10(reach / STEPS)))
    own: dict[str, np.ndarray] = {}  # dimensions that the format has
    extra: dict[str, np.ndarray] = {}
    for name, values in columns.items():
        if name == "normals":
            extra |= dict(zip(("NormalX", "NormalY", "NormalZ"), values.T, strict=True))
        elif name not in ("xyz", "colors", "labels"):
            fits = name in OWN and _fits(values, *OWN[name])
            (own if fits else extra)[name if fits or name not in OWN else f"scalar_{name}"] = values
    header.add_extra_dims(
        [laspy.ExtraBytesParams(name[:32], values.dtype) for name, values in extra.items()]
    )
    las = laspy.LasData(header)
    las.xyz = xyz
    extra = {name[:32]: values for name, values in extra.items()}
    if "colors" in columns:
        las.red, las.green, las.blue = np.round(columns["colors"] * 65535).astype(np.uint16).T
    if "labels" in columns:
        las.classification = _as_bytes(columns["labels"])
    for name, values in (own | extra).items():
        las[name] = values
    buffer = io.BytesIO()
    las.write(buffer, do_compress=compress)
    return buffer.getvalue()


def _fits(values: np.ndarray, low: float, high: float) -> bool:
    if low == -np.inf:
        return True
    whole = values.dtype.kind in "biu" or bool((values == np.round(values)).all())
    return whole and bool(values.min() >= low and values.max() <= high) and bool(values.any())


def _as_bytes(labels: np.ndarray) -> np.ndarray:
    if labels.min() < 0 or labels.max() > 255:
        raise ValueError(
            f"labels must be within 0..255 in .las and .laz, got {labels.min()}..{labels.max()}; "
            "write .npz"
        )
    return labels.astype(np.uint8)
