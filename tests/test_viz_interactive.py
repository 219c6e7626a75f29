"""Pages and notebook figures: what they hold, and that they need no network."""

import base64
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ea_pointcloud import viz
from ea_pointcloud.io import Cloud

pytest.importorskip("plotly")


@pytest.fixture
def cloud() -> Cloud:
    rng = np.random.default_rng(0)
    return Cloud(
        xyz=rng.uniform(-1, 1, (60, 3)).astype(np.float32),
        center=np.array([4e5, 5e6, 100]),
        labels=np.arange(60) % 3,
        confidence=rng.uniform(size=60).astype(np.float32),
        name="scan",
    )


def test_parts_are_traces_that_say_what_they_are(cloud: Cloud) -> None:
    made = viz.figure(cloud, names=["seat", "<back>", "leg"])
    assert [trace.name for trace in made.data] == ["seat  33%", "&lt;back&gt;  33%", "leg  33%"]
    colors = np.rint(viz.part_colors(np.arange(3)) * 255).astype(int)
    for label, trace in enumerate(made.data):
        members = np.flatnonzero(cloud.labels == label)
        assert trace.marker.color == f"rgb({','.join(map(str, colors[label]))})"
        assert np.array_equal(trace.customdata[:, :3], cloud.xyz[members] + cloud.center)
        assert np.array_equal(trace.customdata[:, 3], cloud.confidence[members].astype(float))
        assert list(trace.text) == [("seat", "&lt;back&gt;", "leg")[label]] * 20
        for word in ("%{text}", "x %{customdata[0]", "confidence %{customdata[3]"):
            assert word in trace.hovertemplate
    assert made.layout.title.text == "scan"


def test_scalars_are_the_numbers_given(cloud: Cloud) -> None:
    values = np.linspace(-3, 5, 60)
    (trace,) = viz.figure(cloud, color_by=values, limits=(-4, 6)).data
    assert np.array_equal(trace.marker.color, values)
    assert (trace.marker.cmin, trace.marker.cmax) == (-4, 6)
    assert np.array_equal(trace.customdata[:, 4], values)
    (trace,) = viz.figure(cloud, color_by="confidence").data
    assert np.array_equal(trace.marker.color, cloud.confidence)
    assert (trace.marker.cmin, trace.marker.cmax) == (0, 1)
    assert trace.marker.colorscale[-1] == (1, "rgb(253,231,37)")
    (trace,) = viz.figure(cloud, color_by=np.tile([1.0, 0, 0.2], (60, 1))).data
    assert trace.marker.color[7] == "rgb(255,0,51)"


@pytest.mark.parametrize(("up", "axis"), [("x", 0), ("y", 1), ("z", 2)])
def test_up_is_up_and_the_camera_is_that_of_pictures(up: str, axis: int) -> None:
    xyz = np.zeros((9, 3))
    xyz[:, axis] = np.arange(9)
    made = viz.figure(xyz, up=up, camera=viz.Camera(0, 0))
    assert np.allclose(made.data[0].z, np.linspace(-1, 1, 9))
    assert np.allclose([made.data[0].x, made.data[0].y], 0)
    eye = made.layout.scene.camera.eye
    # From the front, +z before the turn, which is -y for plotly.
    assert np.allclose([eye.x, eye.z], 0)
    assert eye.y < -1
    cube = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
    points = np.stack([getattr(viz.figure(cube).data[0], name) for name in "xyz"])
    assert np.allclose(np.linalg.norm(points, axis=0), 1)  # all of it inside the axes
    assert list(made.layout.scene.xaxis.range) == [-1, 1]


def test_large_clouds_are_thinned_and_say_so() -> None:
    xyz = np.random.default_rng(0).normal(size=(5000, 3))
    labels = (np.arange(5000) < 2500).astype(int)
    made = viz.figure(xyz, labels=labels, max_points=1000)
    assert sum(len(trace.x) for trace in made.data) == 1000
    assert "1,000 of 5,000 points are drawn" in made.layout.title.text
    assert [entry.name for entry in made.data] == ["label 0  50%", "label 1  50%"]  # of all
    again = viz.figure(xyz, labels=labels, max_points=1000)
    assert np.array_equal(made.data[0].customdata, again.data[0].customdata)
    assert "drawn" not in (viz.figure(xyz).layout.title.text or "")


def stored(path: Path) -> dict[str, Any]:
    """What a page holds."""
    page = path.read_text(encoding="utf-8")
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page)
    return json.loads(text)


def unpacked(text: str, kind: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), kind)


def test_a_page_opens_without_a_network_or_library(cloud: Cloud, tmp_path: Path) -> None:
    values = np.linspace(0, 1, 60)
    path = tmp_path / "a.html"
    viz.to_html(cloud, path, color_by=values, title="a < b", background="dark", up="z")
    page = path.read_text(encoding="utf-8")
    assert len(page) < 30_000
    assert not re.findall(r"<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)\s*=", page)
    assert "http" not in page
    assert "<title>a &lt; b</title>" in page
    data = stored(path)
    assert data["paper"] == [24, 26, 30]
    (layer,) = data["layers"]
    assert layer["title"] == "a < b"
    assert np.array_equal(unpacked(layer["value"], "<f4"), values.astype("f4"))
    assert layer["bar"] == {"title": "value", "low": 0, "high": 1}
    assert np.array_equal(unpacked(data["confidence"], "<f4"), cloud.confidence)
    # y is up and the front is the front; the way back gives the coordinates of the file.
    xyz = unpacked(data["xyz"], "<f4").reshape(-1, 3)
    assert np.linalg.norm(xyz, axis=1).max() == pytest.approx(1)
    assert np.argmax(xyz[:, 1]) == np.argmax(cloud.xyz[:, 2])
    back = xyz @ np.array(data["back"]).reshape(3, 3).T + data["middle"]
    assert np.allclose(back, cloud.xyz + cloud.center, atol=1e-6)


def test_a_page_has_the_parts_and_their_names(cloud: Cloud, tmp_path: Path) -> None:
    path = tmp_path / "a.html"
    viz.to_html(cloud, path, names=["seat", "</script>", "leg"], max_points=50)
    data = stored(path)
    (layer,) = data["layers"]
    legend = [entry["text"] for entry in layer["legend"]]
    assert legend == ["seat  33%", "</script>  33%", "leg  33%"]
    assert data["note"] == "50 of 60 points are drawn"
    group = unpacked(layer["group"], "<u2")
    names = np.array(data["texts"])[unpacked(data["text"], "<u2")]
    assert np.array_equal(names, np.array(["seat", "</script>", "leg"])[group])
    colors = unpacked(layer["colors"], "u1").reshape(-1, 3)
    expected = np.rint(viz.part_colors(np.arange(3)) * 255)
    assert np.array_equal(colors, expected[group])
    assert [entry["color"] for entry in layer["legend"]] == expected.tolist()
    viz.to_html(cloud, path, legend=False)
    assert stored(path)["layers"][0]["legend"] == []


def test_a_notebook_shows_the_figure(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    display = pytest.importorskip("IPython.display")
    shown = []
    monkeypatch.setattr(display, "display", shown.append)
    assert viz.show_notebook(cloud, color_by="height") is None
    assert shown == [viz.figure(cloud, color_by="height")]


def test_errors(cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="max_points must be at least 1, got 0"):
        viz.figure(cloud, max_points=0)
    with pytest.raises(ValueError, match="background must be one of 'white', 'dark', got 'blue'"):
        viz.figure(cloud, background="blue")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="point_size must be positive, got -1"):
        viz.to_html(cloud, tmp_path / "a.html", point_size=-1)
    with pytest.raises(FileNotFoundError, match="no such folder; create it first"):
        viz.to_html(cloud, tmp_path / "none" / "a.html")
    monkeypatch.setitem(sys.modules, "IPython.display", None)
    with pytest.raises(ImportError, match=r"show_notebook is for notebooks; pip install ipython"):
        viz.show_notebook(cloud)
    monkeypatch.setitem(sys.modules, "plotly", None)
    with pytest.raises(ImportError, match=r"this needs plotly .* pip install plotly"):
        viz.figure(cloud)


@pytest.mark.slow
def test_a_browser_draws_the_page(tmp_path: Path) -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed")
    xyz = np.random.default_rng(0).normal(size=(3000, 3))
    xyz /= np.linalg.norm(xyz, axis=1, keepdims=True)
    viz.to_html(xyz, tmp_path / "a.html", color_by=np.tile([1.0, 0, 0], (3000, 1)), point_size=6)
    picture = tmp_path / "a.png"
    command = [
        chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        f"--user-data-dir={tmp_path / 'profile'}", "--use-gl=angle", "--use-angle=swiftshader",
        "--enable-unsafe-swiftshader", "--window-size=600,600", "--virtual-time-budget=5000",
        f"--screenshot={picture}", (tmp_path / "a.html").as_uri(),
    ]  # fmt: skip
    subprocess.run(command, capture_output=True, timeout=180, check=True)
    with Image.open(picture) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    red = (pixels[..., 0] > 90) & (pixels[..., 1] < 40)  # darker where it turns away
    rows, columns = np.nonzero(red)
    assert red.mean() > 0.1
    assert np.ptp(rows) == pytest.approx(np.ptp(columns), rel=0.03)  # a ball is round
    middle = pixels[290:310, 290:310, 0]
    rim = pixels[290:310, columns.min() + 6 : columns.min() + 16, 0]
    assert middle.mean() > rim.mean() + 20  # and lit
