"""Pictures of clouds without a window, by Open3D's off-screen renderer."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ea_pointcloud._atomic import write_whole
from ea_pointcloud._checks import check_choice, check_count
from ea_pointcloud.transforms import AXES, to_y_up

_FIELD_OF_VIEW = 30.0  # degrees, vertical
_EYE = (0.75, 0.55, 1.0)  # direction from the object to the camera: right, above, in front
_MAX_POINTS = 50_000  # more only cost time at the size of a tile
# Dark violet over green to yellow (viridis at five places): readable without colour vision.
_HEIGHT_COLORS = np.array(
    [[0.267, 0.005, 0.329], [0.229, 0.322, 0.546], [0.128, 0.567, 0.551],
     [0.369, 0.789, 0.383], [0.993, 0.906, 0.144]]
)  # fmt: skip
_DRIVER_FOLDERS = ("/usr/share/vulkan/icd.d", "/etc/vulkan/icd.d", "/usr/local/share/vulkan/icd.d")


def render(
    xyz: NDArray[np.floating],
    path: str | Path | None = None,
    *,
    colors: NDArray[np.floating] | None = None,
    up: str = "y",
    size: int = 480,
) -> NDArray[np.uint8]:
    """Draw one cloud on white, lit, seen from the front, the right and above.

    Args:
        xyz: (N, 3) points in any unit.
        path: PNG file to write as well; replaced where it exists.
        colors: (N, 3) red, green, blue in 0..1; by height without it.
        up: the axis that is up: ``"x"``, ``"y"`` or ``"z"``.
        size: edge of the square picture in pixels, >= 16.

    Returns:
        (size, size, 3) uint8.

    Raises:
        ImportError: if Open3D is missing or lacks a system library; says what to install.
        OSError: if there is no Vulkan driver to draw with; says what to install.
        ValueError: if a shape is wrong.
    """
    with _renderer(size) as renderer:
        picture = _draw(renderer, xyz, colors, up, size)
    if path is not None:
        _save(picture, Path(path))
    return picture


def contact_sheet(
    clouds: Sequence[NDArray[np.floating]],
    titles: Sequence[str],
    path: str | Path | None = None,
    *,
    up: str = "y",
    size: int = 360,
    columns: int = 4,
) -> NDArray[np.uint8]:
    """Draw several clouds side by side, a title below each.

    Args:
        clouds: (N_i, 3) each.
        titles: one a cloud.
        path: PNG file to write as well; replaced where it exists.
        up: the axis that is up in all of them.
        size: edge of one tile in pixels.
        columns: most tiles in a row.

    Returns:
        (H, W, 3) uint8.

    Raises:
        ImportError: see :func:`render`.
        OSError: see :func:`render`.
        ValueError: if there is no cloud, or not one title for each.
    """
    from PIL import Image, ImageDraw, ImageFont

    if not clouds or len(clouds) != len(titles):
        raise ValueError(
            f"there must be one title a cloud and at least one cloud, "
            f"got {len(clouds)} clouds and {len(titles)} titles"
        )
    check_count("columns", columns)
    columns = min(columns, len(clouds))
    rows = -(-len(clouds) // columns)
    caption = max(24, size // 12)
    sheet = Image.new("RGB", (columns * size, rows * (size + caption)), "white")
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=caption * 0.55)
    with _renderer(size) as renderer:
        for index, (xyz, title) in enumerate(zip(clouds, titles, strict=True)):
            left, above = index % columns * size, index // columns * (size + caption)
            sheet.paste(Image.fromarray(_draw(renderer, xyz, None, up, size)), (left, above))
            place = (left + size / 2, above + size + caption / 2)
            pen.text(place, title, fill="black", font=font, anchor="mm")
    picture = np.asarray(sheet)
    if path is not None:
        _save(picture, Path(path))
    return picture


@contextmanager
def _renderer(size: int) -> Iterator[Any]:
    """An off-screen renderer of ``size`` x ``size`` pixels; its GPU memory goes with it."""
    check_count("size", size, 16)
    try:
        import open3d
    except (ImportError, OSError) as error:
        raise ImportError(
            f"drawing needs Open3D ({error}); pip install open3d, and on Debian or Ubuntu "
            "apt-get install libusb-1.0-0 libvulkan1 mesa-vulkan-drivers"
        ) from error
    _check_driver()
    quiet = open3d.utility.VerbosityContextManager(open3d.utility.VerbosityLevel.Error)
    with quiet, _quiet_stdout():
        renderer = open3d.visualization.rendering.OffscreenRenderer(size, size)
    renderer.scene.set_background([1.0, 1.0, 1.0, 1.0])
    # Tone mapping would turn white grey.
    renderer.scene.view.set_post_processing(False)
    yield renderer


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


def _check_driver() -> None:
    """Open3D aborts the whole process where Vulkan finds no driver, so look for one first."""
    if not sys.platform.startswith("linux"):
        return
    if os.environ.get("VK_DRIVER_FILES") or os.environ.get("VK_ICD_FILENAMES"):
        return
    if not any(any(Path(folder).glob("*.json")) for folder in _DRIVER_FOLDERS):
        raise OSError(
            "drawing needs a Vulkan driver and none is installed; on Debian or Ubuntu: "
            "apt-get install libvulkan1 mesa-vulkan-drivers (draws without a GPU too)"
        )


def _draw(
    renderer: Any,
    xyz: NDArray[np.floating],
    colors: NDArray[np.floating] | None,
    up: str,
    size: int,
) -> NDArray[np.uint8]:
    import open3d

    if xyz.ndim != 2 or xyz.shape[1] != 3 or len(xyz) == 0:
        raise ValueError(f"xyz must have shape (N, 3) with N >= 1, got {xyz.shape}")
    if colors is not None and colors.shape != xyz.shape:
        raise ValueError(f"colors must have shape {xyz.shape} as xyz, got {colors.shape}")
    check_choice("up", up, AXES)
    keep = np.linspace(0, len(xyz) - 1, min(len(xyz), _MAX_POINTS)).astype(int)
    points = to_y_up(torch.from_numpy(xyz[keep].astype(np.float64)), up).numpy()
    points = points - (points.min(0) + points.max(0)) / 2
    radius = float(np.linalg.norm(points, axis=1).max()) or 1.0
    points = points / radius

    cloud = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(points))
    paint = height_colors(points[:, 1]) if colors is None else colors[keep]
    cloud.colors = open3d.utility.Vector3dVector(np.clip(paint, 0, 1).astype(np.float64))
    eye = np.array(_EYE) / np.linalg.norm(_EYE)
    if len(points) >= 8:
        cloud.estimate_normals(open3d.geometry.KDTreeSearchParamKNN(knn=16))
        cloud.orient_normals_towards_camera_location(eye * 10)
    material = open3d.visualization.rendering.MaterialRecord()
    material.shader = "defaultLit" if cloud.has_normals() else "defaultUnlit"
    # Matt: highlights would bleach the colours, which carry the meaning.
    material.base_roughness, material.base_reflectance = 1.0, 0.0
    # Few points are drawn large, so that a surface shows; many are drawn small.
    material.point_size = float(np.clip(1.1 * size / np.sqrt(len(points)), 2.0, size / 40))

    scene = renderer.scene
    scene.clear_geometry()
    scene.add_geometry("cloud", cloud, material)
    scene.scene.set_sun_light(-eye - [0.3, 0.6, 0.0], [1.0, 1.0, 1.0], 60_000)
    scene.scene.enable_sun_light(True)
    distance = 1.05 / np.sin(np.radians(_FIELD_OF_VIEW / 2))
    renderer.setup_camera(_FIELD_OF_VIEW, np.zeros(3), eye * distance, np.array([0.0, 1.0, 0.0]))
    return np.asarray(renderer.render_to_image()).copy()


def height_colors(height: NDArray[np.floating]) -> NDArray[np.float64]:
    """(N, 3) colours from dark (lowest) to bright (highest)."""
    span = float(np.ptp(height)) or 1.0
    place = (height - height.min()) / span * (len(_HEIGHT_COLORS) - 1)
    steps = np.arange(len(_HEIGHT_COLORS))
    return np.stack([np.interp(place, steps, channel) for channel in _HEIGHT_COLORS.T], axis=1)


def _save(picture: NDArray[np.uint8], path: Path) -> None:
    from PIL import Image

    content = BytesIO()
    Image.fromarray(picture).save(content, format="PNG")
    write_whole(path, content.getvalue())
