"""The command ``view``."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ea_pointcloud import viz
from ea_pointcloud.io import Cloud, read_cloud, write_cloud, write_mesh
from tests.test_cli import call


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Two files with labels and confidence."""
    rng = np.random.default_rng(0)
    paths = [tmp_path / "a.ply", tmp_path / "b.npz"]
    for path in paths:
        cloud = Cloud(
            xyz=rng.normal(size=(200, 3)).astype(np.float32),
            center=np.zeros(3),
            labels=rng.integers(0, 3, 200),
            confidence=rng.uniform(size=200).astype(np.float32),
        )
        write_cloud(path, cloud)
    return paths


def test_names_and_the_up_axis_come_from_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    cloud = Cloud(
        rng.normal(size=(90, 3)).astype(np.float32),
        np.zeros(3),
        labels=np.repeat([0, 7, 2**40], 30),
        label_names={0: "Chair/a, b", 7: "Chair/<leg>"},
        up="z",
    )
    write_cloud(tmp_path / "a.npz", cloud)
    page, picture = tmp_path / "a.html", tmp_path / "a.png"
    arguments = ("view", tmp_path / "a.npz", "--html", page, "--render", picture)
    assert call(monkeypatch, *arguments) == 0
    assert "Assuming" not in capsys.readouterr().err
    texts = page.read_text(encoding="utf-8")[-60_000:]
    assert "a, b" in texts
    assert f"label {2**40}" in texts
    assert "<leg>" not in texts
    expected = viz.render(tmp_path / "a.npz", up="z", title="a.npz")
    with Image.open(picture) as image:
        assert np.array_equal(np.asarray(image), expected)


def test_a_picture_a_page_and_a_turn(
    files: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = files[0].parent
    outputs = [folder / "a.png", folder / "a.html", folder / "a.gif"]
    options = ("--names", "seat,back,leg", "--size", 128, "--up", "z", "--background", "dark")
    arguments = [files[0], *options]
    for option, path in zip(("--render", "--html", "--turntable"), outputs, strict=True):
        arguments += [option, path]
    assert call(monkeypatch, "view", *arguments) == 0
    printed = capsys.readouterr()
    assert printed.out == ""
    assert all(f"wrote {path}" in printed.err for path in outputs)
    names = ["seat", "back", "leg"]
    expected = viz.render(files[0], names=names, size=128, up="z", background="dark", title="a.ply")
    with Image.open(outputs[0]) as image:
        assert np.array_equal(np.asarray(image), expected)
    with Image.open(outputs[2]) as image:
        assert getattr(image, "n_frames", 1) == 36
    assert "seat" in outputs[1].read_text(encoding="utf-8")[-60_000:]

    before = [path.read_bytes() for path in outputs]
    for option, path in zip(("--render", "--html", "--turntable"), outputs, strict=True):
        assert call(monkeypatch, "view", files[0], option, path) == 1
        assert f"{path} exists; choose another name or add --force" in capsys.readouterr().err
    assert [path.read_bytes() for path in outputs] == before
    assert call(monkeypatch, "view", files[0], "--render", outputs[0], "--force") == 0
    assert outputs[0].read_bytes() != before[0]


def test_several_files_are_drawn_side_by_side(
    files: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "both.png"
    assert call(monkeypatch, "view", *files, "--render", path, "--color-by", "confidence") == 0
    expected = viz.compare(files, ["a.ply", "b.npz"], color_by="confidence")
    with Image.open(path) as image:
        assert np.array_equal(np.asarray(image), expected)


def test_truth_shows_the_mistakes(
    files: list[Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    found = read_cloud(files[0])
    assert found.labels is not None
    labels = np.where(np.arange(200) < 20, 7, found.labels)
    write_cloud(tmp_path / "t.ply", Cloud(found.xyz, found.center, labels=labels))
    picture = tmp_path / "error.png"
    assert (
        call(monkeypatch, "view", files[0], "--truth", tmp_path / "t.ply", "--render", picture) == 0
    )
    with Image.open(picture) as image:
        assert np.array_equal(np.asarray(image), viz.render(files[0], truth=labels, title="a.ply"))
    write_cloud(tmp_path / "bare.ply", Cloud(found.xyz, found.center))
    write_cloud(tmp_path / "moved.ply", Cloud(found.xyz[::-1], found.center, labels=labels))
    for name, message in (
        ("bare.ply", "has no labels; name a file that has them"),
        ("moved.ply", "must hold the same points in the same order, got 200 for 200, or other"),
    ):
        arguments = (files[0], "--truth", tmp_path / name, "--render", tmp_path / "x.png")
        assert call(monkeypatch, "view", *arguments) == 1
        assert message in capsys.readouterr().err


def test_what_a_user_can_get_wrong(
    files: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    a, b = files
    for arguments, message in (
        ((a,), "no display for a window; write a picture (render, --render)"),
        ((a, "--render", "a.jpg"), "--render must name a .png file, got a.jpg"),
        ((a, "--html", "a.png"), "--html must name a .html file, got a.png"),
        ((a, "--turntable", "a.mp4"), "--turntable must name a .gif or .png file, got a.mp4"),
        ((a, "--render", "none/a.png"), "--render none/a.png: no such folder"),
        ((a, b, "--html", "c.html"), "--html is for one FILE, got 2"),
        ((a, b, "--turntable", "c.gif"), "--turntable is for one FILE, got 2"),
        ((a, b, "--truth", "c.ply"), "--truth is for one FILE, got 2"),
        ((a, "--color-by", "colour"), "--color-by must be one of 'auto', 'labels'"),
        ((a, "--up", "w"), "--up must be one of 'x', 'y', 'z', got 'w'"),
        ((a, "--background", "red"), "--background must be one of 'white', 'dark', got 'red'"),
        ((a, "--elevation", "99", "--render", "c.png"), "elevation must be between -90 and 90"),
        ((a, "--names", "x", "--render", "c.png"), "names must have an entry for each label"),
        (("none.ply", "--render", "c.png"), "none.ply: no such file"),
    ):
        monkeypatch.chdir(a.parent)
        assert call(monkeypatch, "view", *arguments) == 1
        assert message in capsys.readouterr().err
        assert not (a.parent / "c.png").exists()


def test_a_window_is_opened_where_there_is_a_display(
    files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISPLAY", ":0")
    shown = []
    monkeypatch.setattr(viz, "show", lambda cloud, **options: shown.append((cloud, options)))
    assert call(monkeypatch, "view", *files, "--color-by", "height") == 0
    assert [options["title"] for _, options in shown] == ["a.ply", "b.npz"]
    assert all(options["color_by"] == "height" for _, options in shown)


def test_open3d_may_draw_and_meshes_are_closed(
    files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []
    monkeypatch.setattr(viz, "render", lambda cloud, *_, **options: drawn.append((cloud, options)))
    mesh = files[0].parent / "mesh.off"
    write_mesh(mesh, np.eye(4, 3), np.array([[0, 1, 2], [0, 1, 3]]))
    picture = files[0].parent / "p.png"
    assert call(monkeypatch, "view", mesh, "--render", picture, "--backend", "open3d") == 0
    ((cloud, options),) = drawn
    assert options["backend"] == "open3d"
    assert len(cloud) == 40_000
    assert call(monkeypatch, "view", mesh, "--render", picture, "--backend", "gl") == 1
