"""Pictures of slots and of their use: the colours are those of the tensors' numbers."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ea_pointcloud.viz import Camera, Style, attention
from ea_pointcloud.viz._legend import layout
from ea_pointcloud.viz.attention import scalar_grid, scalar_page, usage_heatmap
from ea_pointcloud.viz.coloring import color_cloud
from ea_pointcloud.viz.colors import SCALAR_COLORS, UNKNOWN
from tests.test_viz_interactive import stored, unpacked

RNG = np.random.default_rng(0)


def number(color: np.ndarray, limits: tuple[float, float]) -> float:
    """The number that a colour of a picture stands for: where on the colour bar it is nearest."""
    shares = np.linspace(0, 1, 2001)
    steps = np.linspace(0, 1, len(SCALAR_COLORS))
    bar = np.stack([np.interp(shares, steps, channel) for channel in SCALAR_COLORS.T], axis=1)
    # Light and shade scale a colour; they leave its direction.
    unit = bar / np.linalg.norm(bar, axis=1, keepdims=True)
    nearest = (unit @ (color / np.linalg.norm(color))).argmax()
    return float(limits[0] + shares[nearest] * (limits[1] - limits[0]))


def walls(levels: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Three walls of a room's corner, as seen from the camera, with one number each."""
    flat = RNG.uniform(-1, 1, (3, 2000, 2))
    xyz = np.concatenate(
        [np.insert(flat[axis], axis, 1.0, axis=1) for axis in range(3)]
    )  # x, y and z = 1: right, top and front
    return xyz, np.repeat(levels, 2000)[:, None]


def test_the_picture_shows_the_numbers_it_was_given() -> None:
    levels = (0.1, 0.35, 0.8)
    xyz, weights = walls(levels)
    other = walls((0.2, 0.2, 0.2))
    size = 240
    sheet = scalar_grid([xyz, other[0]], [weights, other[1]], ["slot 3"], ["a", "b"], size=size)
    assert sheet.shape == (2 * size, size, 3)
    colored = color_cloud(xyz, Style(color_by=weights[:, 0], limits=(0, 0.8)))
    height = size - layout(colored, "a: slot 3", (size, size), legend=True).height
    radius = np.linalg.norm(xyz - (xyz.min(0) + xyz.max(0)) / 2, axis=1).max()
    middles = np.eye(3) / radius
    place, _ = Camera().project(middles, size, height)
    for (column, row), level in zip(place, levels, strict=True):
        column, row = int(column), int(row)
        for top, expected in ((0, level), (size, 0.2)):  # both shapes on one scale
            patch = sheet[top + row - 4 : top + row + 5, column - 4 : column + 5]
            color = np.median(patch.reshape(-1, 3), axis=0)
            assert number(color, (0, 0.8)) == pytest.approx(expected, abs=0.03)


def test_each_column_has_the_scale_of_all_its_clouds(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []

    def render(xyz: np.ndarray, **options: object) -> np.ndarray:
        drawn.append((options["title"], options["limits"], options["color_by"]))
        return np.zeros((8, 8, 3), np.uint8)

    monkeypatch.setattr(attention, "render", render)
    clouds = [RNG.normal(size=(5, 3)), RNG.normal(size=(7, 3))]
    values = [RNG.uniform(0.1, 1, (5, 2)), RNG.uniform(-2, -1, (7, 2))]
    values[0][0, 0] = np.nan
    assert scalar_grid(clouds, values, ["p", "q"], ["a", ""]).shape == (16, 16, 3)
    assert [title for title, _, _ in drawn] == ["a: p", "a: q", "p", "q"]
    for place in range(2):
        joined = np.concatenate([each[:, place] for each in values])
        for row in range(2):
            _, limits, shown = drawn[2 * row + place]
            assert limits == (np.nanmin(joined), np.nanmax(joined))
            assert np.array_equal(shown, values[row][:, place], equal_nan=True)
    zero = scalar_grid([clouds[0]], [np.full((5, 1), 0.5)], ["p"], ["a"])
    assert zero is not None
    assert drawn[-1][1] == (0, 0.5)


def test_a_percentile_ends_the_scale_before_the_outliers(tmp_path: Path) -> None:
    values = np.concatenate([np.linspace(0, 1, 100), [50.0]])[:, None]
    assert attention.scalar_scales([values]) == [(0, 50)]
    [(low, high)] = attention.scalar_scales([values], 99)
    assert (low, high) == (0, pytest.approx(1))
    xyz = RNG.normal(size=(101, 3))
    page = tmp_path / "a.html"
    scalar_page(xyz, values, ["slot 3"], page, quantities=["attention weight"], percentile=99)
    (layer,) = stored(page)["layers"]
    assert layer["bar"] == {"title": "attention weight", "low": 0, "high": high}
    assert np.array_equal(unpacked(layer["value"], "<f4"), values[:, 0].astype("f4"))


def test_the_page_shows_the_numbers_it_was_given(tmp_path: Path) -> None:
    xyz, weights = RNG.normal(size=(40, 3)), RNG.uniform(size=(40, 3))
    columns = ["slot 3", "slot 17", "slot 8"]
    page = tmp_path / "page.html"
    scalar_page(xyz, weights, columns, page, title="chair")
    data = stored(page)
    for place, layer in enumerate(data["layers"]):
        assert (layer["name"], layer["title"]) == (columns[place], f"chair: {columns[place]}")
        assert (layer["bar"]["low"], layer["bar"]["high"]) == (0, weights[:, place].max())
        assert np.array_equal(unpacked(layer["value"], "<f4"), weights[:, place].astype("f4"))
    scalar_page(xyz, weights, columns, page, max_points=10)
    few = stored(page)
    assert {len(unpacked(layer["value"], "<f4")) for layer in few["layers"]} == {10}
    assert len(unpacked(few["xyz"], "<f4")) == 30


def test_heat_map_of_slot_usage(tmp_path: Path) -> None:
    usage = np.array([[0.1, 0.2, 0.4, 0.3], [0.05, 0.05, 0.6, 0.3], [np.nan] * 4])
    cell = 10
    picture = usage_heatmap(
        usage, ["chair", "table", "sofa"], tmp_path / "heat.png", title="t", cell=cell
    )
    assert np.array_equal(np.asarray(Image.open(tmp_path / "heat.png")), picture)
    grey = (picture == UNKNOWN).all(-1)
    # The row without clouds is the third; letters have a grey pixel here and there.
    [rows] = np.nonzero(grey.sum(1) >= 4 * cell)
    [columns] = np.nonzero(grey.sum(0) >= cell)
    assert (len(rows), len(columns)) == (cell, 4 * cell)
    left, top = columns[0], rows[0] - 2 * cell
    limits = (np.log2(0.2), np.log2(2.4))  # fair shares, least and greatest
    for row in range(2):
        for place, slot in enumerate((2, 3, 1, 0)):  # used most first
            color = picture[top + row * cell + cell // 2, left + place * cell + cell // 2]
            shares = 2 ** number(color.astype(float), limits)
            assert shares == pytest.approx(4 * usage[row, slot], rel=0.02)


def test_errors() -> None:
    xyz = np.zeros((5, 3))
    with pytest.raises(ValueError, match=r"values must have shape \(N, K\) = \(5, 2\) .* \(5, 1\)"):
        scalar_grid([xyz], [np.zeros((5, 1))], ["a", "b"], ["c"])
    with pytest.raises(ValueError, match=r"at least one cloud and column, .* got 0 clouds"):
        scalar_grid([], [], ["a"], [])
    with pytest.raises(ValueError, match=r"got 1 clouds, 1 values, 1 titles and 0 columns"):
        scalar_page(xyz, np.zeros((5, 0)), [], "a.html")
    with pytest.raises(
        ValueError, match=r"usage must have shape \(R, M\) with R=2 names .* \(1, 3\)"
    ):
        usage_heatmap(np.ones((1, 3)), ["a", "b"])
    with pytest.raises(ValueError, match="cell must be at least 4, got 1"):
        usage_heatmap(np.ones((1, 3)), ["a"], cell=1)
