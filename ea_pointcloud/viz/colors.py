"""Colours that carry a meaning: of heights, and of parts, the same in every picture and file."""

import colorsys

import numpy as np
from numpy.typing import NDArray

# Dark violet over green to yellow (viridis at five places): readable without colour vision.
_HEIGHT_COLORS = np.array(
    [[0.267, 0.005, 0.329], [0.229, 0.322, 0.546], [0.128, 0.567, 0.551],
     [0.369, 0.789, 0.383], [0.993, 0.906, 0.144]]
)  # fmt: skip
# Okabe and Ito 2008, told apart with the common kinds of colour blindness; without their black,
# on which no shading shows.
_PART_COLORS = (
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0),
    (204, 121, 167),
)  # fmt: skip
_UNKNOWN = (150, 150, 150)
# Past these, hues a golden ratio apart. Any six labels in a row, as the parts of a category are,
# differ by 18 in CIELAB, and by 6 for red- and green-blind eyes, best of the lightnesses tried.
_GOLDEN_RATIO = 0.6180339887
_FIRST_HUE = 0.05
_LIGHTNESS = (0.617, 0.25, 0.433, 0.8)
_SATURATION = 0.65


def height_colors(height: NDArray[np.floating]) -> NDArray[np.float64]:
    """(N, 3) colours from dark (lowest) to bright (highest)."""
    span = float(np.ptp(height)) or 1.0
    place = (height - height.min()) / span * (len(_HEIGHT_COLORS) - 1)
    steps = np.arange(len(_HEIGHT_COLORS))
    return np.stack([np.interp(place, steps, channel) for channel in _HEIGHT_COLORS.T], axis=1)


def part_colors(labels: NDArray[np.integer]) -> NDArray[np.float32]:
    """The colours of part labels; a label has the same colour whatever others there are.

    Args:
        labels: (N,) integers of any number of parts; those below 0, points without a part, are
            grey.

    Returns:
        (N, 3) float32 red, green, blue in 0..1, whole 255ths, so that files of bytes hold them.

    Raises:
        ValueError: if ``labels`` are not (N,) integers.
    """
    labels = np.asarray(labels)
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise ValueError(
            f"labels must be integers of shape (N,), got {labels.dtype} of shape {labels.shape}"
        )
    present, place = np.unique(labels, return_inverse=True)
    palette = np.array([_part_color(int(label)) for label in present]).reshape(-1, 3)
    return (palette[place] / 255).astype(np.float32)


def _part_color(label: int) -> tuple[int, ...]:
    if label < 0:
        return _UNKNOWN
    if label < len(_PART_COLORS):
        return _PART_COLORS[label]
    hue = (_FIRST_HUE + label * _GOLDEN_RATIO) % 1.0
    lightness = _LIGHTNESS[(label - len(_PART_COLORS)) % len(_LIGHTNESS)]
    return tuple(round(255 * value) for value in colorsys.hls_to_rgb(hue, lightness, _SATURATION))
