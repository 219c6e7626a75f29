"""The palette for eyes of every kind, and what colours mean."""

import numpy as np
import pytest

from ea_pointcloud.viz import part_colors
from ea_pointcloud.viz.colors import PART_PALETTE, UNKNOWN, error_colors, scalar_colors

# sRGB to linear light to CIE XYZ, and what is left without green, red or blue cones (Machado,
# Oliveira and Fernandes 2009, severity 1, on linear light).
TO_XYZ = np.array(
    [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
)  # fmt: skip
EYES = {
    "all cones": np.eye(3),
    "no green": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
         [-0.011820, 0.042940, 0.968881]]
    ),
    "no red": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
         [-0.003882, -0.048116, 1.051998]]
    ),
    "no blue": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
         [0.004733, 0.691367, 0.303900]]
    ),
}  # fmt: skip


def cielab(rgb: np.ndarray, eyes: str) -> np.ndarray:
    light = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    ratio = np.clip(light @ EYES[eyes].T, 0, 1) @ TO_XYZ.T / [0.9505, 1.0, 1.089]
    x, y, z = np.where(ratio > 0.008856, np.cbrt(ratio), 7.787 * ratio + 16 / 116).T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1)


# A difference of 2.3 is just noticeable.
@pytest.mark.parametrize(
    ("eyes", "any_two", "in_a_row", "past_the_palette"),
    [("all cones", 16, 26, 19), ("no green", 9.7, 16, 7), ("no red", 9.6, 16, 7),
     ("no blue", 9.7, 16, 7)],
)  # fmt: skip
def test_parts_differ_for_all_eyes(
    eyes: str, any_two: float, in_a_row: float, past_the_palette: float
) -> None:
    lab = cielab(part_colors(np.arange(200)).astype(float), eyes)
    apart = np.linalg.norm(lab[:50, None] - lab[None, :50], axis=-1)
    assert apart[np.triu_indices(50, 1)].min() >= any_two
    for step in range(1, 6):  # parts of a category have labels in a row
        row = np.linalg.norm(lab[step:] - lab[:-step], axis=1)
        assert row[: 50 - step].min() >= in_a_row
        assert row.min() >= past_the_palette
    grey = cielab(np.array([UNKNOWN]) / 255, eyes)
    assert np.linalg.norm(lab[:50] - grey, axis=1).min() >= 7


def test_the_palette_shows_on_white_and_on_dark() -> None:
    lightness = cielab(np.array(PART_PALETTE) / 255, "all cones")[:, 0]
    assert len(PART_PALETTE) == 50
    assert 24 < lightness.min() < lightness.max() < 91


def test_colours_are_fixed_and_fit_bytes() -> None:
    colors = part_colors(np.arange(300))
    assert colors.dtype == np.float32
    assert len(np.unique(colors, axis=0)) == 300
    assert (part_colors(np.array([93, 2, 93])) == colors[[93, 2, 93]]).all()
    assert (colors == (np.round(colors * 255) / 255).astype(np.float32)).all()
    assert (colors[0] == np.array([230, 159, 0], np.float32) / 255).all()
    grey = part_colors(np.array([-1, 0]))[0]
    assert grey[0] == grey[1] == grey[2]
    assert part_colors(np.zeros(0, np.int64)).shape == (0, 3)
    with pytest.raises(ValueError, match=r"labels must be integers of shape \(N,\), got float64"):
        part_colors(np.zeros(3))


def test_scalars_run_from_dark_to_bright() -> None:
    violet, teal, yellow = [68, 1, 84], [33, 144, 141], [253, 231, 37]
    assert np.rint(scalar_colors(np.arange(3.0)) * 255).tolist() == [violet, teal, yellow]
    shown = scalar_colors(np.array([-5, 1.0, np.nan, np.inf]), (0, 2))
    assert np.rint(shown * 255).tolist() == [violet, teal, list(UNKNOWN), list(UNKNOWN)]
    assert np.rint(scalar_colors(np.zeros(2)) * 255).tolist() == [violet, violet]
    assert (scalar_colors(np.full(2, np.nan)) == np.array(UNKNOWN) / 255).all()


def test_errors_are_blue_where_right_and_vermilion_where_wrong() -> None:
    colors = error_colors(np.array([1, 2, 3]), np.array([1, 0, -1])) * 255
    assert colors.tolist() == [[86, 180, 233], [213, 94, 0], [150, 150, 150]]
