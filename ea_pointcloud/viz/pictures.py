"""Pictures of clouds without a window: one, several side by side, or a turntable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ea_pointcloud._checks import check_choice, check_count, check_positive
from ea_pointcloud._files import write_whole
from ea_pointcloud.viz import _open3d, _software
from ea_pointcloud.viz._legend import LegendBox, draw_legend, layout
from ea_pointcloud.viz.coloring import CloudLike, ColoredCloud, color_cloud
from ea_pointcloud.viz.style import BACKGROUNDS, Camera, Labels, Style

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ea_pointcloud.viz.style import StyleOptions, ViewOptions

BACKENDS = ("auto", "software", "open3d")
Backend = Literal["auto", "software", "open3d"]
_SMALLEST = 16  # pixels
_GRID = 64  # cells along an edge, to see how much of a picture a cloud fills
# Diameter of a point in mean distances of the points in the picture: few gaps are left.
_OVERLAP = 2.0
_MOST_FRAMES = 1000


def render(
    cloud: CloudLike,
    path: str | Path | None = None,
    *,
    size: int | tuple[int, int] = 640,
    backend: Backend = "auto",
    **style: Unpack[StyleOptions],
) -> NDArray[np.uint8]:
    """Draw one cloud, lit so that its shape is seen, with the meaning of its colours below.

    Args:
        cloud: (N, 3) points in any unit, a :class:`~ea_pointcloud.Cloud`, or a file.
        path: PNG file to write as well; replaced where it exists.
        size: of the picture in pixels, an edge or (width, height), >= 16, text included.
        backend: ``"software"`` needs no driver or display and gives the same bytes everywhere;
            ``"open3d"`` draws square points by Vulkan; ``"auto"`` is ``"software"``, which
            was also the faster one wherever Open3D had no GPU.
        style: labels, colours, camera and so on: the fields of :class:`Style`.

    Returns:
        (height, width, 3) uint8.

    Raises:
        ImportError: if Open3D is needed and missing; says what to install.
        OSError: if a file cannot be read or written, or Open3D cannot draw here.
        ValueError: if a shape or an option is wrong, or the cloud lacks what colours it.
    """
    chosen = Style(**style)
    picture = _Drawing.of(cloud, chosen, size, backend)(chosen.camera)
    if path is not None:
        save_picture(Path(path), [picture])
    return picture


def compare(
    clouds: Sequence[CloudLike],
    titles: Sequence[str],
    path: str | Path | None = None,
    *,
    labels: Sequence[Labels | None] | None = None,
    truth: Sequence[NDArray[np.integer] | None] | None = None,
    color_by: str | Sequence[str | NDArray] = "auto",
    names: Sequence[str] | None = None,
    limits: tuple[float, float] | None = None,
    up: str | Sequence[str] = "y",
    size: int | tuple[int, int] = 360,
    columns: int = 4,
    backend: Backend = "auto",
    **view: Unpack[ViewOptions],
) -> NDArray[np.uint8]:
    """Draw several clouds side by side, below each its title and what its colours mean.

    Args:
        clouds: as for :func:`render`.
        titles: one a cloud.
        path: PNG file to write as well; replaced where it exists.
        labels: one entry a cloud.
        truth: one entry a cloud.
        color_by: one word for all, or an entry a cloud.
        names: of the labels of all clouds.
        limits: of the colours of all clouds; give them where numbers are to be compared.
        up: one axis for all, or an entry a cloud.
        size: of one tile in pixels, its title and legend included.
        columns: most tiles in a row.
        backend: see :func:`render`.
        view: the other fields of :class:`Style`, for all clouds.

    Returns:
        (H, W, 3) uint8.

    Raises:
        ImportError: see :func:`render`.
        OSError: see :func:`render`.
        ValueError: see :func:`render`; also if there is no cloud, or not one title (labels, truth,
            colouring) for each.
    """
    count = len(clouds)
    if not count or count != len(titles):
        raise ValueError(
            f"there must be one title a cloud and at least one cloud, got {count} clouds and "
            f"{len(titles)} titles"
        )
    entries = _entries(count, labels=labels, truth=truth, color_by=color_by, up=up, title=titles)
    check_count("columns", columns)
    width, height = _edges(size)
    drawings = []
    for cloud, *own in zip(clouds, *entries.values(), strict=True):
        options: dict[str, Any] = dict(zip(entries, own, strict=True))
        style = Style(**options, names=names, limits=limits, **view)
        drawings.append(_Drawing.of(cloud, style, size, backend))
    sheet = _sheet(drawings, min(columns, count), width, height)
    if path is not None:
        save_picture(Path(path), [sheet])
    return sheet


def _entries(count: int, **given: Any) -> dict[str, list[Any]]:
    """A list with an entry a cloud for each argument; one word, or None, is that of all."""
    entries = {
        name: [value] * count if value is None or isinstance(value, str) else list(value)
        for name, value in given.items()
    }
    for name, values in entries.items():
        if len(values) != count:
            raise ValueError(f"{name} must have an entry a cloud, {count}, got {len(values)}")
    return entries


def _sheet(
    drawings: Sequence[_Drawing], columns: int, width: int, height: int
) -> NDArray[np.uint8]:
    """Drawings in tiles of one size, in rows of ``columns``."""
    above = min(drawing.height for drawing in drawings)
    sheet = _blank(columns * width, -(-len(drawings) // columns) * height, drawings[0].style)
    for index, drawing in enumerate(drawings):
        top, left = index // columns * height, index % columns * width
        tile = replace(drawing, height=above)(drawing.style.camera)
        sheet[top : top + len(tile), left : left + width] = tile
    return sheet


def turntable(
    cloud: CloudLike,
    path: str | Path,
    *,
    size: int | tuple[int, int] = 360,
    frames: int = 36,
    seconds: float = 4.0,
    backend: Backend = "auto",
    **style: Unpack[StyleOptions],
) -> None:
    """Write an animation of a cloud that turns once around its up axis, in a loop.

    Args:
        cloud: see :func:`render`.
        path: a ``.gif``, or a ``.png`` (animated, all colours, larger); replaced where it exists.
        size: see :func:`render`.
        frames: pictures in a turn, 2 to 1000.
        seconds: that a turn takes.
        backend: see :func:`render`.
        style: the fields of :class:`Style`.

    Raises:
        ImportError: see :func:`render`.
        OSError: see :func:`render`.
        ValueError: see :func:`render`; also if the suffix is another.
    """
    path = Path(path)
    if path.suffix.lower() not in (".gif", ".png"):
        raise ValueError(f"an animation must be a .gif or .png file, got {path}")
    check_count("frames", frames, 2)
    if frames > _MOST_FRAMES:
        raise ValueError(f"frames must be at most {_MOST_FRAMES}, got {frames}")
    check_positive("seconds", seconds)
    chosen = Style(**style)
    drawing, first = _Drawing.of(cloud, chosen, size, backend), chosen.camera
    pictures = [
        drawing(Camera(first.azimuth + 360 * frame / frames, first.elevation, first.zoom))
        for frame in range(frames)
    ]
    save_picture(path, pictures, 1000 * seconds / frames)


def save_picture(path: Path, pictures: Sequence[NDArray[np.uint8]], duration: float = 0) -> None:
    """Write one picture (H, W, 3), or several as an animation, each shown ``duration`` ms."""
    from PIL import Image

    images = [Image.fromarray(picture) for picture in pictures]
    content = BytesIO()
    moving: dict[str, Any] = {}
    if len(images) > 1:
        moving = {"save_all": True, "append_images": images[1:], "duration": duration, "loop": 0}
    images[0].save(content, format="GIF" if path.suffix.lower() == ".gif" else "PNG", **moving)
    write_whole(path, content.getvalue())


def describe_drawing() -> str:
    """What draws pictures here, in words."""
    open3d = "available" if find_spec("open3d") else "not installed"
    return f"software renderer (the same bytes everywhere); backend='open3d': {open3d}"


@dataclass(frozen=True, eq=False)
class _Drawing:
    """A cloud of ``width`` x ``height`` pixels above its legend, to be drawn from any side."""

    colored: ColoredCloud
    style: Style
    legend: LegendBox
    width: int
    height: int
    backend: Backend

    @classmethod
    def of(
        cls, cloud: CloudLike, style: Style, size: int | tuple[int, int], backend: Backend
    ) -> _Drawing:
        """A drawing that fills ``size``, legend included."""
        check_choice("backend", backend, BACKENDS)
        width, height = _edges(size)
        colored = color_cloud(cloud, style)
        legend = layout(colored, style.title, (width, height), legend=style.legend)
        return cls(colored, style, legend, width, height - legend.height, backend)

    @cached_property
    def xyz(self) -> NDArray[np.float64]:
        return self.colored.unit_sphere()

    @cached_property
    def point_size(self) -> float:
        return self.style.point_size or closing_size(self.xyz, (self.width, self.height))

    def __call__(self, camera: Camera) -> NDArray[np.uint8]:
        draw = _open3d.draw if self.backend == "open3d" else _software.draw
        paper, ink = BACKGROUNDS[self.style.background]
        size = (self.width, self.height)
        picture = draw(self.xyz, self.colored.colors, camera, size, self.point_size, paper)
        if not self.legend.height:
            return picture
        from PIL import Image, ImageDraw

        sheet = Image.fromarray(_blank(self.width, self.height + self.legend.height, self.style))
        sheet.paste(Image.fromarray(picture), (0, 0))
        draw_legend(ImageDraw.Draw(sheet), self.legend, self.height, self.width, ink)
        return np.asarray(sheet)


def closing_size(xyz: NDArray[np.float64], size: tuple[int, int]) -> float:
    """Diameter in pixels with which the points close the part of the picture that they fill."""
    edge = min(size)
    pixel, _ = Camera().project(xyz, _GRID, _GRID)
    column, row = pixel.astype(np.int64).T
    cells = np.count_nonzero(np.bincount(row * _GRID + column))
    filled = cells * (edge / _GRID) ** 2
    # Half of the points are on the far side.
    return float(np.clip(_OVERLAP * np.sqrt(2 * filled / len(xyz)), 2.0, max(2.0, edge / 32)))


def _edges(size: int | tuple[int, int]) -> tuple[int, int]:
    width, height = (size, size) if isinstance(size, int) else size
    check_count("size", width, _SMALLEST)
    check_count("size", height, _SMALLEST)
    return width, height


def _blank(width: int, height: int, style: Style) -> NDArray[np.uint8]:
    return np.full((height, width, 3), BACKGROUNDS[style.background][0], np.uint8)
