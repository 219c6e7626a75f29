"""Normals, colours and labels as files have them, to those of a ``Cloud``."""

from pathlib import Path

import numpy as np

from ea_pointcloud.io.common import CloudFileError

UNIT_TOLERANCE = 0.01  # how far from 1 a normal's length may be and still mark normals


def unit_normals(normals: np.ndarray) -> tuple[np.ndarray, str]:
    """Bring normals to unit length; a missing one becomes zero.

    Missing are those that are not finite, and the rows 1,1,1 of files of ModelNet40 where most
    others have unit length.

    Returns:
        (N, 3) float32, and a note about the missing ones, or "".
    """
    normals = normals.astype(np.float64)
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    missing = ~np.isfinite(length)
    ones = (normals == 1).all(1)
    if ones.any() and not ones.all() and (np.abs(length[~ones] - 1) < UNIT_TOLERANCE).mean() > 0.5:
        missing[ones] = True
    length[missing] = 0
    unit = np.divide(normals, length, out=np.zeros_like(normals), where=length > 0)
    count = int(missing.sum())
    note = f"{count} normals are missing (not finite or 1,1,1) and are set to zero" if count else ""
    return unit.astype("f4"), note


def unit_colors(path: Path, colors: np.ndarray) -> np.ndarray:
    """Scale colours to 0..1: bytes by their type, others by their largest value."""
    if colors.dtype == np.uint8:
        return (colors / 255).astype(np.float32)
    if not ((colors >= 0) & (colors <= 65535)).all():
        raise CloudFileError(
            f"{path.name}: colours must be within 0..1, 0..255 or 0..65535, got "
            f"{colors.min():g}..{colors.max():g}; skip these columns with _ in --columns"
        )
    scale = max(color_scale(colors), 255 if colors.dtype == np.uint16 else 1)
    return (colors / scale).astype(np.float32)


def color_scale(colors: np.ndarray) -> int:
    """1, 255 or 65535: the value of full colour that the largest one suggests."""
    largest = colors.max()
    return 1 if largest <= 1 else 255 if largest <= 255 else 65535


def whole_labels(path: Path, labels: np.ndarray) -> np.ndarray:
    """(N,) int64, or an error for a label that is not a whole number."""
    whole = np.isfinite(labels) & (labels == np.round(labels))
    whole &= np.abs(labels.astype(np.float64)) < 2.0**63
    if not whole.all():
        raise CloudFileError(
            f"{path.name}: the label of point {int(whole.argmin())} is "
            f"{labels[whole.argmin()]:g}; labels must be whole numbers of 64 bits, "
            "rename the column if it means something else"
        )
    return labels.astype(np.int64)
