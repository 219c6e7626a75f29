"""Drawing by Open3D: off-screen, with the camera, colours and lighting of our own renderer."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ea_pointcloud.viz._software import OVERSAMPLING, eye_dome, shrink
from ea_pointcloud.viz.style import Camera

_PROBE = """
import open3d
renderer = open3d.visualization.rendering.OffscreenRenderer(16, 16)
assert renderer.render_to_image() is not None
"""
_PROBE_SECONDS = 120
_PACKAGES = "apt-get install libusb-1.0-0 libvulkan1 mesa-vulkan-drivers"


def import_open3d(what: str) -> ModuleType:
    """Open3D, or an ImportError that says what needs it and what to install."""
    try:
        import open3d
    except (ImportError, OSError) as error:
        raise ImportError(
            f"{what} needs Open3D ({error}); pip install open3d, and on Debian or Ubuntu "
            f"{_PACKAGES}"
        ) from error
    return open3d


@lru_cache(maxsize=1)
def off_screen_problem() -> str | None:
    """Why Open3D cannot draw off-screen here, or None; found once, in a process of its own.

    Open3D does not raise where it finds no graphics driver: it ends the process.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROBE], capture_output=True, text=True, timeout=_PROBE_SECONDS
        )
    except subprocess.TimeoutExpired:
        return f"no answer in {_PROBE_SECONDS} s"
    if done.returncode == 0:
        return None
    lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    return f"exit status {done.returncode}: {lines[-1] if lines else 'no message'}"


def draw(
    xyz: NDArray[np.floating],
    colors: NDArray[np.floating],
    camera: Camera,
    size: tuple[int, int],
    point_size: float,
    background: tuple[int, int, int],
) -> NDArray[np.uint8]:
    """Draw as :func:`ea_pointcloud.viz._software.draw` does, but for square points.

    Raises:
        ImportError: if Open3D is missing.
        OSError: if it cannot draw here; says what to install.
    """
    open3d = import_open3d("backend='open3d'")
    problem = off_screen_problem()
    if problem is not None:
        raise OSError(
            f"Open3D cannot draw off-screen here ({problem}); on Debian or Ubuntu {_PACKAGES}, or "
            "use backend='software'"
        )
    width, height = (OVERSAMPLING * edge for edge in size)
    with _renderer(open3d, width, height) as renderer:
        scene = renderer.scene
        scene.set_background([*(np.array(background) / 255), 1.0])
        # Tone mapping would change the colours, which carry the meaning.
        scene.view.set_post_processing(False)
        cloud = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(xyz.astype(np.float64)))
        cloud.colors = open3d.utility.Vector3dVector(colors.astype(np.float64))
        material = open3d.visualization.rendering.MaterialRecord()
        material.shader = "defaultUnlit"
        material.point_size = OVERSAMPLING * point_size
        scene.add_geometry("cloud", cloud, material)
        _, up, toward = camera.axes
        angle = np.degrees(camera.vertical_angle(width, height))
        renderer.setup_camera(angle, np.zeros(3), toward * camera.distance, up)
        paint = np.asarray(renderer.render_to_image()).astype(np.float32)
        depth = np.asarray(renderer.render_to_depth_image(z_in_view_space=True))
    pixel = camera.distance / camera.focal(width, height)
    paint *= eye_dome(depth, pixel, max(1, round(OVERSAMPLING * point_size / 2)))[..., None]
    return shrink(paint)


@contextmanager
def _renderer(open3d: ModuleType, width: int, height: int) -> Iterator[Any]:
    """An off-screen renderer; its memory goes with it."""
    quiet = open3d.utility.VerbosityContextManager(open3d.utility.VerbosityLevel.Error)
    with quiet, _quiet_stdout():
        yield open3d.visualization.rendering.OffscreenRenderer(width, height)


@contextmanager
def _quiet_stdout() -> Iterator[None]:
    """Keep the lines that the drawing engine's C++ prints on its start out of our results."""
    sys.stdout.flush()
    saved, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)
        os.close(nowhere)
