"""Colours that carry a meaning: of parts, of scalars and of errors, the same in every output."""

import colorsys

import numpy as np
from numpy.typing import NDArray

# Dark violet over green to yellow (viridis at nine values): readable without colour vision.
SCALAR_COLORS = np.array(
    [[68, 1, 84], [71, 44, 122], [59, 81, 139], [44, 113, 142], [33, 144, 141], [39, 173, 129],
     [92, 200, 99], [170, 220, 50], [253, 231, 37]]
)  # fmt: skip
# The first seven are those of Okabe and Ito 2008, without their black, on which no shading shows.
# The others are the colours farthest from all before them and from grey, of a lightness that shows
# on white and on dark. Any two differ by 16 in CIELAB, and by 9.6 for eyes without red, green or
# blue cones; of six labels in a row, as the parts of a category are, by 26 and 16.
PART_PALETTE = (
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0),
    (204, 121, 167), (135, 0, 120), (75, 0, 210), (255, 150, 255), (0, 135, 255), (135, 240, 180),
    (195, 165, 75), (165, 75, 60), (60, 75, 135), (135, 180, 150), (165, 105, 210), (0, 15, 255),
    (165, 15, 210), (135, 75, 0), (165, 0, 75), (195, 195, 150), (255, 105, 210), (150, 240, 105),
    (105, 15, 150), (15, 90, 255), (75, 150, 0), (255, 0, 105), (195, 75, 150), (240, 195, 240),
    (105, 75, 30), (180, 75, 225), (15, 210, 30), (180, 225, 135), (15, 75, 60), (255, 180, 195),
    (195, 105, 60), (150, 150, 255), (135, 75, 120), (165, 0, 255), (195, 0, 165), (90, 0, 180),
    (135, 15, 0), (150, 180, 105), (240, 195, 75), (150, 105, 90), (0, 225, 195), (90, 60, 180),
    (135, 0, 90), (120, 150, 195),
)  # fmt: skip
UNKNOWN = (150, 150, 150)
RIGHT, WRONG = (86, 180, 233), (213, 94, 0)
# Past the palette, hues a golden ratio apart: labels in a row still differ, distant ones may not.
_GOLDEN_RATIO = 0.6180339887
_FIRST_HUE = 0.79
_LIGHTNESS = (0.617, 0.25, 0.433, 0.8)
_SATURATION = 0.75


def scalar_colors(
    values: NDArray[np.floating], limits: tuple[float, float] | None = None
) -> NDArray[np.float64]:
    """Colour numbers from dark (lowest) to bright (highest).

    Args:
        values: (N,) numbers; those that are not finite become grey.
        limits: the numbers of the darkest and the brightest colour; by default the least and the
            greatest of ``values``.

    Returns:
        (N, 3) red, green, blue in 0..1.
    """
    finite = np.isfinite(values)
    low, high = limits or scalar_limits(values)
    fraction = np.where(finite, (values - low) / ((high - low) or 1.0), 0.0)
    steps = np.linspace(0, 1, len(SCALAR_COLORS))
    colors = np.stack([np.interp(fraction, steps, channel) for channel in SCALAR_COLORS.T], axis=1)
    return np.where(finite[:, None], colors, UNKNOWN) / 255


def scalar_limits(values: NDArray[np.floating]) -> tuple[float, float]:
    """The least and the greatest finite number; 0 and 1 where there is none."""
    finite = values[np.isfinite(values)]
    return (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)


def part_colors(labels: NDArray[np.integer]) -> NDArray[np.float32]:
    """The colours of part labels; a label has the same colour whatever others there are.

    Args:
        labels: (N,) integers of any number of parts; those below 0, points without a part, are
            grey. The first 50 can be distinguished with any kind of colour blindness.

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
    present, index = np.unique(labels, return_inverse=True)
    palette = np.array([_part_color(int(label)) for label in present]).reshape(-1, 3)
    return (palette[index] / 255).astype(np.float32)


def error_colors(labels: NDArray[np.integer], truth: NDArray[np.integer]) -> NDArray[np.float64]:
    """(N, 3) blue where labels and truth agree, vermilion where not, grey where truth is below 0.

    Both must be (N,).
    """
    colors = np.where((labels == truth)[:, None], RIGHT, WRONG)
    return np.where((truth < 0)[:, None], UNKNOWN, colors) / 255


def _part_color(label: int) -> tuple[int, ...]:
    if label < 0:
        return UNKNOWN
    if label < len(PART_PALETTE):
        return PART_PALETTE[label]
    hue = (_FIRST_HUE + label * _GOLDEN_RATIO) % 1.0
    lightness = _LIGHTNESS[label % len(_LIGHTNESS)]
    return tuple(round(255 * value) for value in colorsys.hls_to_rgb(hue, lightness, _SATURATION))
