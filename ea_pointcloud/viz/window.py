"""A window to turn a cloud in with the mouse, by Open3D."""

import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ea_pointcloud._checks import check_choice, check_positive
from ea_pointcloud.viz._camera import Camera
from ea_pointcloud.viz._open3d import import_open3d
from ea_pointcloud.viz._paint import CloudLike, Labels, paint
from ea_pointcloud.viz.pictures import BACKGROUNDS, Background

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


def show(
    cloud: CloudLike,
    *,
    labels: Labels | None = None,
    truth: NDArray[np.integer] | None = None,
    color_by: str | ArrayLike = "auto",
    names: Sequence[str] | None = None,
    limits: tuple[float, float] | None = None,
    up: str = "y",
    background: Background = "white",
    point_size: float | None = None,
    camera: Camera | None = None,
    title: str = "",
) -> None:
    """Open a window and return when it is closed; ``H`` prints what the keys do.

    The names of a legend stand in the title of the window.

    Args:
        cloud: see :func:`ea_pointcloud.viz.render`, also for the arguments that follow.
        labels: see there.
        truth: see there.
        color_by: see there.
        names: see there.
        limits: see there.
        up: see there.
        background: see there.
        point_size: see there.
        camera: where from at first.
        title: of the window; the name of the cloud without it.

    Raises:
        ImportError: if Open3D is missing; says what to install.
        OSError: if there is no display, or the window does not open; says what to do instead.
        ValueError: see :func:`ea_pointcloud.viz.render`.
    """
    check_choice("background", background, BACKGROUNDS)
    if point_size is not None:
        check_positive("point_size", point_size)
    painted = paint(
        cloud, labels=labels, truth=truth, color_by=color_by, names=names, up=up, limits=limits
    )
    check_display()
    open3d = import_open3d("a window")
    xyz = painted.unit_sphere()
    points = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(xyz))
    points.colors = open3d.utility.Vector3dVector(painted.colors.astype(np.float64))
    meaning = ", ".join(entry.text for entry in painted.legend)
    parts = (title or painted.cloud.name or "cloud", meaning)
    window = open3d.visualization.Visualizer()
    if not window.create_window(": ".join(filter(None, parts)), _WIDTH, _HEIGHT):
        raise OSError(
            "Open3D could not open a window (no OpenGL on this display?); write a picture (render, "
            "--render) or a page for the browser (to_html, --html) instead"
        )
    try:
        window.add_geometry(points)
        options = window.get_render_option()
        options.background_color = np.array(BACKGROUNDS[background][0]) / 255
        options.point_size = point_size or float(np.clip(400 / np.sqrt(len(xyz)), 2.0, 9.0))
        seen = camera or Camera()
        view = window.get_view_control()
        view.set_lookat(np.zeros(3))
        view.set_front(seen.axes[2])
        view.set_up(seen.axes[1])
        view.set_zoom(0.95 / seen.zoom)
        window.run()
    finally:
        window.destroy_window()
