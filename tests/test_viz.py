"""Pictures: what is where in them, in which colour, and what is written below."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ea_pointcloud import viz
from ea_pointcloud.io import Cloud, read_cloud, write_cloud
from ea_pointcloud.viz import Camera, _legend, _open3d, part_colors
from ea_pointcloud.viz.coloring import ColoredCloud, LegendEntry, color_cloud
from ea_pointcloud.viz.colors import SCALAR_COLORS
from ea_pointcloud.viz.style import Style

# Faces of a cube that the default camera sees: +x, +y, +z.
SEEN = (1, 3, 5)


def ball(count: int = 3000) -> np.ndarray:
    xyz = np.random.default_rng(0).normal(size=(count, 3))
    return xyz / np.linalg.norm(xyz, axis=1, keepdims=True)


def cube(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Points on the faces -x, +x, -y, +y, -z, +z of a cube, and which face."""
    rng = np.random.default_rng(0)
    xyz = rng.uniform(-1, 1, (count, 3))
    face = np.arange(count) % 6
    xyz[np.arange(count), face // 2] = 2 * (face % 2) - 1
    return xyz, face


def drawn(picture: np.ndarray) -> np.ndarray:
    """Pixels that are not white."""
    return (picture < 240).any(-1)


def middle_of(face: int, edge: int, camera: Camera) -> tuple[int, int]:
    """Row and column of the middle of a face of the cube, by turning it and dividing by depth."""
    point = np.zeros(3)
    point[face // 2] = (2 * (face % 2) - 1) / np.sqrt(3)  # the corners are at distance 1
    a, e = np.radians([camera.azimuth, camera.elevation])
    about_y = np.array([[np.cos(a), 0, -np.sin(a)], [0, 1, 0], [np.sin(a), 0, np.cos(a)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(e), -np.sin(e)], [0, np.sin(e), np.cos(e)]])
    right, up, toward = about_x @ about_y @ point
    # A sphere of radius 1.06 touches the edges of a field of view of 30 degrees.
    scale = edge / 2 / np.tan(np.radians(15)) / (1.06 / np.sin(np.radians(15)) - toward)
    return int(edge / 2 - up * scale), int(edge / 2 + right * scale)


def check_faces(picture: np.ndarray, reach: int) -> None:
    """The hue is the palette's to 3 % of full scale; lighting takes at most half of the light."""
    for face in SEEN:
        row, column = middle_of(face, len(picture), Camera())
        patch = picture[row - reach : row + reach + 1, column - reach : column + reach + 1]
        pixels = patch.reshape(-1, 3).astype(float)
        color = part_colors(np.array([face]))[0].astype(float)
        hue = pixels / np.maximum(pixels.max(1, keepdims=True), 1)
        same = np.abs(hue - color / color.max()).max(1) < 0.03
        light = pixels.max(1) / (255 * color.max())
        same &= (light > 0.5) & (light <= 1.01)
        # Between few points one sees the far side.
        assert same.mean() > (0.6 if reach else 0.99), f"face {face}"


@pytest.mark.parametrize(("count", "reach"), [(2_048, 8), (1_000_000, 0)])
def test_each_face_of_a_cube_has_its_colour(count: int, reach: int) -> None:
    xyz, face = cube(count)
    picture = viz.render(xyz * 30 + [500, 0, 0], labels=face, size=360, legend=False)
    assert picture.shape == (360, 360, 3)
    check_faces(picture, reach)
    assert (
        viz.render(xyz * 30 + [500, 0, 0], labels=face, size=360, legend=False) == picture
    ).all()


def test_a_ball_is_round_centred_closed_and_bright_on_top(tmp_path: Path) -> None:
    picture = viz.render(ball(40_000) * 7 + [100, 0, 0], tmp_path / "a.png", size=128, legend=False)
    rows, columns = np.nonzero(drawn(picture))
    assert abs(rows.mean() - 63.5) < 1
    assert abs(columns.mean() - 63.5) < 1
    assert 115 < np.ptp(rows) < 128
    assert abs(int(np.ptp(rows)) - int(np.ptp(columns))) <= 2
    # No gaps: as many pixels as a disc of that diameter.
    assert len(rows) == pytest.approx(np.pi / 4 * (np.ptp(rows) + 1) ** 2, rel=0.02)
    top = picture[rows.min() + 4 : rows.min() + 12, 54:74].reshape(-1, 3).mean(0)
    bottom = picture[rows.max() - 12 : rows.max() - 4, 54:74].reshape(-1, 3).mean(0)
    assert top.sum() > bottom.sum() + 60  # yellow above, violet below
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), picture)


def test_light_shows_the_shape() -> None:
    grey = np.full((40_000, 3), 0.8)
    picture = viz.render(ball(40_000), color_by=grey, size=128)[..., 0].astype(float)
    rim = picture[64, np.flatnonzero(picture[64] < 240)[:4]]
    assert picture[60:68, 60:68].mean() > rim.mean() + 30


@pytest.mark.parametrize(("up", "axis"), [("x", 0), ("y", 1), ("z", 2)])
def test_up_is_up(up: str, axis: int) -> None:
    stick = np.zeros((400, 3))
    stick[:, axis] = np.linspace(0, 1, 400)
    picture = viz.render(stick, size=96, up=up, legend=False)
    rows, columns = np.nonzero(drawn(picture))
    assert np.ptp(rows) > 4 * np.ptp(columns)
    middle = round(columns.mean())
    head = picture[rows.min() + 6, middle].astype(int)
    foot = picture[rows.max() - 6, middle].astype(int)
    assert head[0] > foot[0] + 60  # yellow above, violet below


def test_camera_by_hand() -> None:
    front = Camera(azimuth=0, elevation=0)
    place, depth = front.project(np.array([[0.0, 0, 0], [0.5, 0, 0], [0, 0.5, 0]]), 200, 100)
    scale = 50 / np.tan(np.radians(15)) / front.distance  # the shorter edge counts
    assert np.allclose(place, [[100, 50], [100 + 0.5 * scale, 50], [100, 50 - 0.5 * scale]])
    assert np.allclose(depth, front.distance)
    _, depth = Camera(90, 0).project(np.eye(3), 100, 100)  # from +x
    assert np.allclose(depth, front.distance - np.array([1, 0, 0]))
    _, depth = Camera(0, 90).project(np.eye(3), 100, 100)  # from above
    assert np.allclose(depth, front.distance - np.array([0, 1, 0]))
    assert np.allclose(Camera(123, -45).axes @ Camera(123, -45).axes.T, np.eye(3))
    near, _ = Camera(0, 0, zoom=2).project(np.array([[0.5, 0, 0]]), 200, 100)
    assert near[0, 0] == pytest.approx(100 + scale)


@pytest.mark.parametrize("size", [(300, 120), (120, 300)])
def test_nothing_is_cut_off_in_a_picture_of_any_form(size: tuple[int, int]) -> None:
    for azimuth in (0, 40, 90, 200):
        picture = viz.render(cube(3000)[0], size=size, camera=Camera(azimuth, 35))
        assert picture.shape == (size[1], size[0], 3)
        ink = drawn(picture)
        assert ink.any()
        ink[1:-1, 1:-1] = False
        assert not ink.any()


def test_one_point_and_points_in_one_place() -> None:
    for xyz in (np.ones((1, 3)), np.ones((5, 3))):
        rows, columns = np.nonzero(drawn(viz.render(xyz, size=64, legend=False)))
        assert abs(rows.mean() - 31.5) < 1
        assert abs(columns.mean() - 31.5) < 1


def test_the_nearest_point_is_seen() -> None:
    camera = Camera(0, 0)
    xyz = np.array([[0, 0, 1.0], [0, 0, -1]])
    paint_of = np.array([[1.0, 0, 0], [0, 0, 1]])
    for order in (slice(None), slice(None, None, -1)):
        picture = viz.render(xyz[order], color_by=paint_of[order], size=64, camera=camera)
        assert (picture[drawn(picture)][:, 2] < 250).all()
        assert picture[32, 32, 0] > 200
        assert picture[32, 32, 2] == 0


def test_what_auto_shows(tmp_path: Path) -> None:
    xyz = ball(500).astype(np.float32)
    labels = np.arange(500) % 3
    red = np.tile(np.float32([1, 0, 0]), (500, 1))
    plain = Cloud(xyz, np.zeros(3))
    colored = Cloud(xyz, np.zeros(3), colors=red)
    labelled = Cloud(xyz, np.zeros(3), colors=red, labels=labels)
    for cloud, truth, same in (
        (plain, None, "height"), (colored, None, "colors"), (labelled, None, "labels"),
        (labelled, labels[::-1], "error"),
    ):  # fmt: skip
        picture = viz.render(cloud, truth=truth, size=96)
        assert (picture == viz.render(cloud, truth=truth, color_by=same, size=96)).all()
    write_cloud(tmp_path / "a.ply", labelled)
    assert (
        viz.render(tmp_path / "a.ply", size=96)
        == viz.render(read_cloud(tmp_path / "a.ply"), size=96)
    ).all()


def colored(cloud: np.ndarray | Cloud, **options: Any) -> ColoredCloud:
    return color_cloud(cloud, Style(**options))


def test_colours_and_their_meaning() -> None:
    xyz = np.array([[0.0, 0, 0], [1, 2, 3], [2, 4, 0], [0, 1, 1]])
    labels, truth = np.array([1, 0, 1, -1]), np.array([1, 1, -1, -1])
    found = SimpleNamespace(
        labels=labels, confidence=np.float32([0.5, 1, 0, 0]), names=("Mug/handle", "Mug/cup")
    )
    seen = colored(xyz, labels=found)
    blue = tuple(np.rint(part_colors(np.array([1]))[0] * 255).astype(int).tolist())
    assert [entry.text for entry in seen.legend] == [
        "no label  25%",
        "handle  25%",
        "cup  50%",
    ]
    assert seen.legend[2].color == blue
    assert seen.group.tolist() == [2, 1, 2, 0]
    assert seen.label_texts.tolist() == ["cup", "handle", "cup", "no label"]

    seen = colored(xyz, labels=labels, truth=truth)
    texts = [entry.text for entry in seen.legend]
    assert texts == ["right  25%", "wrong  25%", "no truth  50%"]
    assert seen.group.tolist() == [0, 1, 2, 2]

    seen = colored(xyz, labels=found, color_by="confidence")
    assert (seen.bar.low, seen.bar.high) == (0, 1)
    assert seen.bar.values.tolist() == [0.5, 1, 0, 0]
    assert np.rint(seen.colors[1] * 255).tolist() == SCALAR_COLORS[-1].tolist()

    seen = colored(xyz + np.array([0, 0, 9]), up="z")  # heights are those of the file
    assert seen.bar.values.tolist() == [9, 12, 9, 10]
    seen = colored(xyz, color_by=np.array([4, 3, 2, 1]), limits=(0, 8))
    assert seen.bar.values.tolist() == [4, 3, 2, 1]
    assert (seen.bar.low, seen.bar.high) == (0, 8)
    bytes_ = np.arange(12, dtype=np.uint8).reshape(4, 3)
    assert (colored(xyz, color_by=bytes_).colors == bytes_ / 255).all()
    assert colored(xyz, labels=labels).label_texts.tolist()[0] == "label 1"


def test_normals_are_coloured_by_where_they_point() -> None:
    pytest.importorskip("open3d")
    xyz, face = cube(6000)
    seen = colored(xyz, color_by="normals")  # estimated
    inner = (np.abs(xyz) < 0.8).sum(1) == 2  # away from the edges
    for side, color in ((1, [1, 0.5, 0.5]), (3, [0.5, 1, 0.5]), (4, [0.5, 0.5, 0])):
        assert np.abs(seen.colors[inner & (face == side)] - color).max() < 0.02
    normals = np.tile(np.float32([0, 0, 1]), (4, 1))  # given; z up becomes y
    cloud = Cloud(np.eye(4, 3, dtype=np.float32), np.zeros(3), normals=normals)
    assert np.allclose(colored(cloud, color_by="normals", up="z").colors, [0.5, 1, 0.5])


def test_a_legend_says_what_colours_mean() -> None:
    xyz, face = cube(1200)
    names = ["left", "right", "bottom", "top", "back", "front"]
    with_it = viz.render(xyz, labels=face, names=names, title="a cube", size=240)
    assert with_it.shape == (240, 240, 3)
    strip = with_it[-60:].reshape(-1, 3).tolist()
    for label in range(6):  # each in its pure colour
        assert np.rint(part_colors(np.array([label]))[0] * 255).tolist() in strip
    bar = viz.render(xyz, size=240)[-12].tolist()
    for color in SCALAR_COLORS[[0, 4, 8]]:
        assert min(np.abs(np.array(bar) - color).max(1)) < 6


@pytest.mark.parametrize("count", [2, 12, 50, 300])
def test_writing_fits(count: int) -> None:
    labels = np.repeat(np.arange(count), 4)
    names = [f"a part with a long name, the {place}th" for place in range(count)]
    title = "one very long title " * 9
    picture = viz.render(ball(4 * count), labels=labels, names=names, title=title, size=320)
    assert picture.shape == (320, 320, 3)
    seen = colored(ball(4 * count), labels=labels, names=names)
    box = _legend.layout(seen, title, (320, 320), legend=True)
    assert box.height <= 0.4 * 320
    below = drawn(picture[320 - box.height :])
    assert below.any()
    assert not below[:, :2].any()
    assert not below[:, -2:].any()
    shown = [entry for row in box.rows for entry in row]
    assert (len(shown) == count) == (count == 2)
    if count > 2:
        assert shown[-1] == LegendEntry(f"and {count - len(shown) + 1} more", (150, 150, 150))


def test_compare(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    clouds = [ball(), ball(5), ball(1)]
    sheet = viz.compare(clouds, ["ball", "five", "one"], tmp_path / "s.png", size=96, columns=2)
    assert sheet.shape == (192, 192, 3)
    for row, column in ((0, 0), (0, 1), (1, 0)):
        tile = sheet[row * 96 : row * 96 + 96, column * 96 : column * 96 + 96]
        assert drawn(tile[:50]).any()
        assert drawn(tile[60:]).any()
    assert not drawn(sheet[96:, 96:]).any()
    assert (np.asarray(Image.open(tmp_path / "s.png")) == sheet).all()
    assert capfd.readouterr().out == ""

    xyz, face = cube(600)
    both = viz.compare(
        [xyz, xyz], ["truth", "found"], labels=[face, 5 - face], truth=[None, face], size=96
    )
    assert (both[:, :96] == viz.compare([xyz], ["truth"], labels=[face], size=96)).all()
    wrong = np.array([213, 94, 0])
    assert (np.abs(both[:, 96:].astype(int) - wrong).max(-1) == 0).any()
    turned = viz.compare([xyz[:, [2, 0, 1]], xyz], ["", ""], up=["z", "y"], size=96, legend=False)
    assert turned.shape == (96, 192, 3)
    values = viz.compare([xyz, xyz], ["", ""], color_by=[face, "height"], size=96)
    assert (values[:, :96] != values[:, 96:]).any()


@pytest.mark.parametrize("suffix", ["gif", "png"])
def test_turntable(tmp_path: Path, suffix: str) -> None:
    xyz, face = cube(500)
    path = tmp_path / f"cube.{suffix}"
    viz.turntable(xyz, path, labels=face, size=96, frames=8, seconds=2, title="cube")
    with Image.open(path) as moving:
        assert getattr(moving, "n_frames", 1) == 8
        assert moving.size == (96, 96)
        assert moving.info["loop"] == 0
        frames = []
        for place in range(8):
            moving.seek(place)
            assert moving.info["duration"] == 250
            frames.append(np.asarray(moving.convert("RGB")).astype(int))
    for place in range(8):
        following = frames[(place + 1) % 8]
        assert (np.abs(frames[place] - following).max(-1) > 60).sum() > 100
    first = viz.render(xyz, labels=face, size=96, title="cube").astype(int)
    # A GIF has 256 colours.
    assert np.abs(frames[0] - first).mean() < (0.001 if suffix == "png" else 6)


def test_dark_background() -> None:
    white, dark = (
        viz.render(ball(40_000), size=64, background=paper, legend=False)
        for paper in ("white", "dark")
    )
    assert white[0, 0].tolist() == [255, 255, 255]
    assert dark[0, 0].tolist() == [24, 26, 30]
    assert (white[24:40, 24:40] == dark[24:40, 24:40]).all()


# --- Open3D


@pytest.fixture
def needs_open3d() -> None:
    pytest.importorskip("open3d")
    problem = _open3d.off_screen_problem()
    if problem is not None:
        pytest.skip(f"Open3D cannot draw here: {problem}")


@pytest.mark.usefixtures("needs_open3d")
@pytest.mark.parametrize(("count", "reach"), [(2_048, 8), (100_000, 0)])
def test_open3d_draws_the_same(count: int, reach: int, capfd: pytest.CaptureFixture[str]) -> None:
    xyz, face = cube(count)
    options = {"labels": face, "size": 240, "legend": False}
    picture = viz.render(xyz, backend="open3d", **options)
    assert picture.shape == (240, 240, 3)
    check_faces(picture, reach)
    again = viz.render(xyz, backend="open3d", **options)
    assert np.abs(picture.astype(int) - again).max() <= 2
    ours = viz.render(xyz, **options)
    # Points are square there and round here: they differ at edges and in gaps.
    different = np.abs(picture.astype(int) - ours).max(-1) > 40
    assert different.mean() < (0.25 if reach else 0.02)
    assert np.median(np.abs(picture.astype(int) - ours)) <= 2
    assert capfd.readouterr().out == ""  # results go to stdout, not the engine's greetings


def test_without_open3d(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open3d", None)
    assert drawn(viz.render(ball(100), size=64)).any()
    with pytest.raises(ImportError, match=r"backend='open3d' needs Open3D .* pip install open3d"):
        viz.render(ball(100), size=64, backend="open3d")
    with pytest.raises(ImportError, match=r"finding the normals .* needs Open3D"):
        viz.render(ball(100), size=64, color_by="normals")
    monkeypatch.setenv("DISPLAY", ":0")
    with pytest.raises(ImportError, match=r"a window needs Open3D .* pip install open3d"):
        viz.show(ball(100))


def test_a_crash_inside_open3d_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("open3d")
    _open3d.off_screen_problem.cache_clear()
    monkeypatch.setattr(
        _open3d,
        "_PROBE",
        "import os, sys; print('no driver', file=sys.stderr, flush=True);os.abort()",
    )
    try:
        with pytest.raises(
            OSError, match=r"cannot draw .* \(exit status -6: no driver\); .* backend='software'"
        ):
            viz.render(ball(100), size=64, backend="open3d")
    finally:
        _open3d.off_screen_problem.cache_clear()


def test_a_window_needs_a_display(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(OSError, match=r"no display for a window; write a picture \(render"):
        viz.show(ball(100))


def test_importing_takes_no_drawing_library() -> None:
    code = "import sys, ea_pointcloud.viz; print({'open3d', 'plotly', 'PIL'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_errors(tmp_path: Path) -> None:
    xyz = np.zeros((5, 3))
    labels = np.zeros(5, np.int64)
    for options, message in (
        ({"cloud": np.zeros((3, 2))}, r"a cloud must have shape \(N, 3\) with N >= 1, got"),
        ({"cloud": np.full((3, 3), np.nan)}, "a cloud must have finite coordinates"),
        ({"labels": labels[:4]}, r"labels must be integers of shape \(5,\), one a point, got"),
        ({"labels": labels * 0.5}, r"labels must be integers of shape \(5,\)"),
        ({"truth": labels[:4]}, r"truth must be integers of shape \(5,\)"),
        ({"color_by": "colour"}, "color_by must be one of 'auto', 'labels', 'error', .* 'colour'"),
        ({"color_by": "labels"}, "no labels to be coloured by; give labels="),
        ({"color_by": "error", "labels": labels}, "no truth to be coloured by; give truth="),
        ({"color_by": "confidence"}, "no confidence to be coloured by; give labels="),
        ({"color_by": "colors"}, "no colors to be coloured by; give color_by='height'"),
        ({"color_by": np.zeros(4)}, r"numbers of shape \(5,\) or \(5, 3\), got float64 .* \(4,\)"),
        ({"color_by": np.full((5, 3), 2.0)}, r"must hold colours in 0..1, or uint8"),
        ({"labels": labels + 2, "names": ["a"]}, "names must have an entry .* got 1 and a label 2"),
        ({"limits": (2, 1)}, r"limits must be \(low, high\) with low <= high, got \(2, 1\)"),
        ({"up": "w"}, "up must be one of 'x', 'y', 'z', got 'w'"),
        ({"size": 2}, "size must be at least 16, got 2"),
        ({"background": "red"}, "background must be one of 'white', 'dark', got 'red'"),
        ({"backend": "gl"}, "backend must be one of 'auto', 'software', 'open3d', got 'gl'"),
        ({"point_size": 0}, "point_size must be positive, got 0"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            viz.render(**({"cloud": xyz} | options))  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="elevation must be between -90 and 90 degrees, got 91"):
        Camera(0, 91)
    with pytest.raises(ValueError, match="zoom must be positive, got 0"):
        Camera(zoom=0)
    with pytest.raises(ValueError, match="one title a cloud and at least one cloud, got 1 clouds"):
        viz.compare([xyz], [])
    for name in ("labels", "truth", "color_by", "up"):
        with pytest.raises(ValueError, match=f"{name} must have an entry a cloud, 2, got 1"):
            viz.compare([xyz, xyz], ["", ""], **{name: [labels]})
    with pytest.raises(ValueError, match=r"must be a .gif or .png file, got a.mp4"):
        viz.turntable(xyz, "a.mp4")
    with pytest.raises(ValueError, match="frames must be at least 2, got 1"):
        viz.turntable(xyz, "a.gif", frames=1)
    with pytest.raises(ValueError, match="frames must be at most 1000, got 2000"):
        viz.turntable(xyz, "a.gif", frames=2000)
    with pytest.raises(FileNotFoundError, match="no such folder; create it first"):
        viz.render(xyz, tmp_path / "none" / "a.png", size=16)
    with pytest.raises(FileNotFoundError, match="no such file"):
        viz.render(tmp_path / "none.ply")
