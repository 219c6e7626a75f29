"""Pictures of clouds without a window, by Open3D's off-screen renderer."""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
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
from ea_pointcloud.viz.colors import height_colors

_FIELD_OF_VIEW = 30.0  # degrees, vertical
_EYE = (0.75, 0.55, 1.0)  # direction from the object to the camera: right, above, in front
_MAX_POINTS = 50_000  # more only cost time at the size of a tile
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
    colors: Sequence[NDArray[np.floating]] | None = None,
    legends: Sequence[Mapping[str, NDArray[np.floating]]] | None = None,
    up: str = "y",
    size: int = 360,
    columns: int = 4,
) -> NDArray[np.uint8]:
    """Draw several clouds side by side, below each a title and what its colours mean.

    Args:
        clouds: (N_i, 3) each.
        titles: one a cloud.
        path: PNG file to write as well; replaced where it exists.
        colors: (N_i, 3) each, red, green, blue in 0..1; by height without it.
        legends: of each cloud, name -> (3,) colour, listed below its title; none without it.
        up: the axis that is up in all of them.
        size: edge of one tile in pixels.
        columns: most tiles in a row.

    Returns:
        (H, W, 3) uint8.

    Raises:
        ImportError: see :func:`render`.
        OSError: see :func:`render`.
        ValueError: if there is no cloud, or not one title (and colours, legend) for each.
    """
    from PIL import Image, ImageDraw, ImageFont

    if not clouds or len(clouds) != len(titles):
        raise ValueError(
            f"there must be one title a cloud and at least one cloud, "
            f"got {len(clouds)} clouds and {len(titles)} titles"
        )
    for name, given in (("colors", colors), ("legends", legends)):
        if given is not None and len(given) != len(clouds):
            raise ValueError(f"{name} must have an entry a cloud, {len(clouds)}, got {len(given)}")
    check_count("columns", columns)
    columns = min(columns, len(clouds))
    rows = -(-len(clouds) // columns)
    caption = max(24, size // 12)
    line = caption * 2 // 3
    below = caption + line * max(map(len, legends or [()]))
    sheet = Image.new("RGB", (columns * size, rows * (size + below)), "white")
    pen = ImageDraw.Draw(sheet)
    font, small = (ImageFont.load_default(size=caption * share) for share in (0.55, 0.45))
    with _renderer(size) as renderer:
        for index, (xyz, title) in enumerate(zip(clouds, titles, strict=True)):
            left, above = index % columns * size, index // columns * (size + below)
            paint = None if colors is None else colors[index]
            sheet.paste(Image.fromarray(_draw(renderer, xyz, paint, up, size)), (left, above))
            place = (left + size / 2, above + size + caption / 2)
            pen.text(place, title, fill="black", font=font, anchor="mm")
            entries = {} if legends is None else legends[index]
            for row, (name, color) in enumerate(entries.items()):
                top, start = above + size + caption + row * line, left + size // 4
                square = (start, top + line // 8, start + line * 3 // 4, top + line * 7 // 8)
                pen.rectangle(square, fill=tuple(round(255 * float(value)) for value in color))
                pen.text((start + line, top + line / 2), name, "black", small, anchor="lm")
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


def _save(picture: NDArray[np.uint8], path: Path) -> None:
    from PIL import Image

    content = BytesIO()
    Image.fromarray(picture).save(content, format="PNG")
    write_whole(path, content.getvalue())
