import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ea_pointcloud import viz
from ea_pointcloud.viz import offscreen
from ea_pointcloud.viz.colors import height_colors

pytest.importorskip("open3d")


def ball(count: int = 3000) -> np.ndarray:
    xyz = np.random.default_rng(0).normal(size=(count, 3))
    return xyz / np.linalg.norm(xyz, axis=1, keepdims=True)


def drawn(picture: np.ndarray) -> np.ndarray:
    """Pixels that are not background."""
    return (picture < 240).any(-1)


def test_a_ball_is_round_centred_and_bright_on_top(tmp_path: Path) -> None:
    picture = viz.render(ball() * 7 + [100, 0, 0], tmp_path / "ball.png", size=128)
    assert picture.shape == (128, 128, 3)
    rows, columns = np.nonzero(drawn(picture))
    assert abs(rows.mean() - 63.5) < 4
    assert abs(columns.mean() - 63.5) < 4
    height, width = np.ptp(rows), np.ptp(columns)
    assert 80 < height < 128  # fills the frame and stays inside
    assert abs(int(height) - int(width)) <= 6
    top = picture[rows.min() + 4 : rows.min() + 12, 54:74].reshape(-1, 3).mean(0)
    bottom = picture[rows.max() - 12 : rows.max() - 4, 54:74].reshape(-1, 3).mean(0)
    assert top.sum() > bottom.sum() + 60  # yellow above, violet below
    assert np.array_equal(np.asarray(Image.open(tmp_path / "ball.png")), picture)


def test_up_axis_and_colors() -> None:
    stick = np.zeros((400, 3))
    stick[:, 2] = np.linspace(0, 1, 400)
    rows, columns = np.nonzero(drawn(viz.render(stick, size=96, up="z")))
    assert np.ptp(rows) > 4 * np.ptp(columns)  # z up: an upright stick
    red = viz.render(ball(500), size=64, colors=np.tile([1.0, 0.0, 0.0], (500, 1)))
    color = red[drawn(red)].mean(0)
    assert color[0] > 1.5 * color[1]  # edges blend with the white background


def test_contact_sheet(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    clouds = [ball(), ball(5), ball(1)]
    sheet = viz.contact_sheet(
        clouds, ["ball", "five", "one"], tmp_path / "s.png", size=96, columns=2
    )
    assert sheet.shape == (2 * (96 + 24), 2 * 96, 3)
    for row, column in ((0, 0), (0, 1), (1, 0)):
        tile = sheet[row * 120 : row * 120 + 96, column * 96 : column * 96 + 96]
        caption = sheet[row * 120 + 96 : (row + 1) * 120, column * 96 : column * 96 + 96]
        assert drawn(tile).any()
        assert drawn(caption).any()
    assert not drawn(sheet[120:, 96:]).any()
    assert capfd.readouterr().out == ""  # results go to stdout, not the engine's greetings


def test_height_colors_run_from_dark_to_bright() -> None:
    colors = height_colors(np.array([0.0, 1.0, 2.0]))
    assert colors[0].tolist() == [0.267, 0.005, 0.329]
    assert colors[1].tolist() == [0.128, 0.567, 0.551]
    assert colors[2].tolist() == [0.993, 0.906, 0.144]
    assert height_colors(np.zeros(3)).shape == (3, 3)


def test_errors(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"xyz must have shape \(N, 3\) with N >= 1, got \(3, 2\)"):
        viz.render(np.zeros((3, 2)))
    with pytest.raises(ValueError, match=r"colors must have shape \(5, 3\) as xyz, got \(4, 3\)"):
        viz.render(np.zeros((5, 3)), colors=np.zeros((4, 3)))
    with pytest.raises(ValueError, match="up must be one of 'x', 'y', 'z', got 'w'"):
        viz.render(np.zeros((5, 3)), up="w")
    with pytest.raises(ValueError, match="size must be at least 16, got 2"):
        viz.render(np.zeros((5, 3)), size=2)
    with pytest.raises(
        ValueError, match="one title a cloud and at least one cloud, got 1 clouds a"
    ):
        viz.contact_sheet([ball()], [])
    with pytest.raises(FileNotFoundError, match="no such folder; create it first"):
        viz.render(ball(20), tmp_path / "none" / "a.png", size=16)
    monkeypatch.setattr(offscreen, "_DRIVER_FOLDERS", ())
    monkeypatch.delenv("VK_DRIVER_FILES", raising=False)
    monkeypatch.delenv("VK_ICD_FILENAMES", raising=False)
    with pytest.raises(OSError, match="needs a Vulkan driver and none is installed"):
        viz.render(ball())
    monkeypatch.setitem(sys.modules, "open3d", None)
    with pytest.raises(ImportError, match=r"drawing needs Open3D .* pip install open3d"):
        viz.render(ball())
