"""A window to turn a cloud in with the mouse, by Open3D."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np

from ea_pointcloud.viz._open3d import import_open3d
from ea_pointcloud.viz.coloring import CloudLike, color_cloud, find_normals
from ea_pointcloud.viz.style import BACKGROUNDS, Style

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ea_pointcloud.viz.style import StyleOptions

_WIDTH, _HEIGHT = 1024, 768


def has_display() -> bool:
    """Whether there is a screen to open a window on."""
    if not sys.platform.startswith("linux"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def check_display() -> None:
    """Raise an OSError that says what to do instead where no window can be opened."""
    if not has_display():
        raise OSError(
            "there is no display for a window; write a picture (render, --render) or a page for "
            "the browser (to_html, --html) instead, or log in with ssh -X"
        )


def describe_window() -> str:
    """What opens windows here, in words."""
    if find_spec("open3d") is None:
        return "none: Open3D is not installed"
    return "Open3D" if has_display() else "none: no display"


def show(cloud: CloudLike, **style: Unpack[StyleOptions]) -> None:
    """Open a window and return when it is closed; ``H`` prints what the keys do.

    The names of a legend stand in the title of the window.

    Args:
        cloud: see :func:`ea_pointcloud.viz.render`.
        style: the fields of :class:`~ea_pointcloud.viz.Style`.

    Raises:
        ImportError: if Open3D is missing; says what to install.
        OSError: if there is no display, or the window does not open; says what to do instead.
        ValueError: see :func:`ea_pointcloud.viz.render`.
    """
    chosen = Style(**style)
    colored = color_cloud(cloud, chosen)
    check_display()
    open3d = import_open3d("a window")
    xyz = colored.unit_sphere()
    points = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(xyz))
    points.normals = open3d.utility.Vector3dVector(find_normals(colored.cloud, chosen.up))  # lit
    points.colors = open3d.utility.Vector3dVector(colored.colors.astype(np.float64))
    meaning = ", ".join(entry.text for entry in colored.legend) if chosen.legend else ""
    parts = (chosen.title or colored.cloud.name or "cloud", meaning)
    window = open3d.visualization.Visualizer()
    if not window.create_window(": ".join(filter(None, parts)), _WIDTH, _HEIGHT):
        raise OSError(
            "Open3D could not open a window (no OpenGL on this display?); write a picture (render, "
            "--render) or a page for the browser (to_html, --html) instead"
        )
    try:
        window.add_geometry(points)
        options = window.get_render_option()
        options.background_color = np.array(BACKGROUNDS[chosen.background][0]) / 255
        options.light_on = True
        options.point_size = chosen.point_size or float(np.clip(400 / np.sqrt(len(xyz)), 2.0, 9.0))
        view = window.get_view_control()
        view.set_lookat(np.zeros(3))
        view.set_front(chosen.camera.axes[2])
        view.set_up(chosen.camera.axes[1])
        view.set_zoom(0.95 / chosen.camera.zoom)
        window.run()
    finally:
        window.destroy_window()
