"""Pictures of clouds without a window: one, several side by side, or turning."""

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ea_pointcloud._checks import check_choice, check_count, check_positive
from ea_pointcloud._files import write_whole
from ea_pointcloud.viz import _open3d, _software
from ea_pointcloud.viz._camera import Camera
from ea_pointcloud.viz._legend import Strip, draw_strip, plan
from ea_pointcloud.viz._paint import CloudLike, Labels, Painted, paint

BACKENDS = ("auto", "software", "open3d")
Backend = Literal["auto", "software", "open3d"]
Background = Literal["white", "dark"]
# Colour of the paper, and of what is written on it.
BACKGROUNDS: dict[str, tuple[tuple[int, int, int], str]] = {
    "white": ((255, 255, 255), "black"),
    "dark": ((24, 26, 30), "white"),
}
_SMALLEST = 16  # pixels
_GRID = 64  # cells along an edge, to see how much of a picture a cloud fills
# Diameter of a point in mean distances of the points in the picture: few gaps are left.
_OVERLAP = 2.0
_MOST_FRAMES = 1000


def render(
    cloud: CloudLike,
    path: str | Path | None = None,
    *,
    labels: Labels | None = None,
    truth: NDArray[np.integer] | None = None,
    color_by: str | ArrayLike = "auto",
    names: Sequence[str] | None = None,
    limits: tuple[float, float] | None = None,
    up: str = "y",
    background: Background = "white",
    point_size: float | None = None,
    size: int | tuple[int, int] = 640,
    camera: Camera | None = None,
    title: str = "",
    legend: bool = True,
    backend: Backend = "auto",
) -> NDArray[np.uint8]:
    """Draw one cloud, lit so that its shape is seen, with the meaning of its colours below.

    Args:
        cloud: (N, 3) points in any unit, a :class:`~ea_pointcloud.Cloud`, or a file.
        path: PNG file to write as well; replaced where it exists.
        labels: (N,) integers, or what :meth:`Predictor.segment` returned; those of the cloud
            without it. Below 0 is no label.
        truth: (N,) true labels; points where it is below 0 are neither right nor wrong.
        color_by: ``"labels"``; ``"error"`` (right or wrong, needs ``truth``); ``"confidence"`` of
            the labels; ``"height"`` in the unit of the cloud; ``"normals"`` (red to the right,
            green up, blue to the front; found from the neighbours where there are none);
            ``"colors"`` of the cloud; (N,) numbers, drawn with a colour bar; (N, 3) red, green,
            blue in 0..1 or uint8; ``"auto"``: the first of error, labels, colors and height that
            there is something for.
        names: of the labels 0, 1, 2, ...
        limits: the numbers of the darkest and the brightest colour; those of the cloud without it,
            0 and 1 for confidence.
        up: the axis that is up: ``"x"``, ``"y"`` or ``"z"``.
        background: ``"white"`` or ``"dark"``.
        point_size: diameter of a point in pixels; chosen to close a surface without it.
        size: of the picture in pixels, an edge or (width, height), >= 16, writing included.
        camera: where from; from the right, above and +z (with y up) without it.
        title: written below the cloud.
        legend: whether the meaning of the colours is written below the cloud.
        backend: ``"software"`` needs no driver or display and gives the same bytes everywhere;
            ``"open3d"`` draws square points by Vulkan; ``"auto"`` is ``"software"``, which
            was also the faster one wherever Open3D had no GPU.

    Returns:
        (height, width, 3) uint8.

    Raises:
        ImportError: if what is asked for needs Open3D and it is missing; says what to install.
        OSError: if a file cannot be read or written, or Open3D cannot draw here.
        ValueError: if a shape or an option is wrong, or the cloud lacks what colours it.
    """
    width, height = _edges(size)
    painted = paint(
        cloud, labels=labels, truth=truth, color_by=color_by, names=names, up=up, limits=limits
    )
    strip = plan(painted, title, (width, height), legend=legend)
    drawer = _Drawer(painted, background, point_size, backend, (width, height - strip.height))
    picture = _with_strip(drawer(camera or Camera()), strip, background)
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
    background: Background = "white",
    point_size: float | None = None,
    size: int | tuple[int, int] = 360,
    camera: Camera | None = None,
    legend: bool = True,
    columns: int = 4,
    backend: Backend = "auto",
) -> NDArray[np.uint8]:
    """Draw several clouds side by side, below each its title and what its colours mean.

    Args:
        clouds: as for :func:`render`.
        titles: one a cloud.
        path: PNG file to write as well; replaced where it exists.
        labels: one entry a cloud.
        truth: one entry a cloud.
        color_by: one word for all, or an entry a cloud.
        names: see :func:`render`; for all clouds.
        limits: see :func:`render`; give them where numbers are to be compared between clouds.
        up: see :func:`render`; one axis for all, or an entry a cloud.
        background: see :func:`render`.
        point_size: see :func:`render`.
        size: of one tile in pixels, its title and legend included.
        camera: see :func:`render`; for all clouds.
        legend: see :func:`render`.
        columns: most tiles in a row.
        backend: see :func:`render`.

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
    colorings = [color_by] * count if isinstance(color_by, str) else list(color_by)
    all_labels, all_truth = list(labels or [None] * count), list(truth or [None] * count)
    ups = [up] * count if isinstance(up, str) else list(up)
    for name, given in (
        ("labels", all_labels),
        ("truth", all_truth),
        ("color_by", colorings),
        ("up", ups),
    ):
        if len(given) != count:
            raise ValueError(f"{name} must have an entry a cloud, {count}, got {len(given)}")
    check_count("columns", columns)
    width, height = _edges(size)
    all_painted = [
        paint(
            clouds[index],
            labels=all_labels[index],
            truth=all_truth[index],
            color_by=colorings[index],
            names=names,
            up=ups[index],
            limits=limits,
        )
        for index in range(count)
    ]
    strips = [
        plan(painted, title, (width, height), legend=legend)
        for painted, title in zip(all_painted, titles, strict=True)
    ]
    above = height - max(strip.height for strip in strips)
    columns = min(columns, count)
    sheet = _paper(columns * width, -(-count // columns) * height, background)
    for index, (painted, strip) in enumerate(zip(all_painted, strips, strict=True)):
        drawer = _Drawer(painted, background, point_size, backend, (width, above))
        top, left = index // columns * height, index % columns * width
        tile = _with_strip(drawer(camera or Camera()), strip, background)
        sheet[top : top + len(tile), left : left + width] = tile
    if path is not None:
        save_picture(Path(path), [sheet])
    return sheet


def turntable(
    cloud: CloudLike,
    path: str | Path,
    *,
    labels: Labels | None = None,
    truth: NDArray[np.integer] | None = None,
    color_by: str | ArrayLike = "auto",
    names: Sequence[str] | None = None,
    limits: tuple[float, float] | None = None,
    up: str = "y",
    background: Background = "white",
    point_size: float | None = None,
    size: int | tuple[int, int] = 360,
    camera: Camera | None = None,
    title: str = "",
    legend: bool = True,
    frames: int = 36,
    seconds: float = 4.0,
    backend: Backend = "auto",
) -> None:
    """Write a moving picture of a cloud that turns once around its up axis, again and again.

    Args:
        cloud: see :func:`render`, also for the arguments that are not named here.
        path: a ``.gif``, or a ``.png`` (animated, all colours, larger); replaced where it exists.
        labels: see :func:`render`.
        truth: see :func:`render`.
        color_by: see :func:`render`.
        names: see :func:`render`.
        limits: see :func:`render`.
        up: see :func:`render`.
        background: see :func:`render`.
        point_size: see :func:`render`.
        size: see :func:`render`.
        camera: of the first frame.
        title: see :func:`render`.
        legend: see :func:`render`.
        frames: pictures in a turn, 2 to 1000.
        seconds: that a turn takes.
        backend: see :func:`render`.

    Raises:
        ImportError: see :func:`render`.
        OSError: see :func:`render`.
        ValueError: see :func:`render`; also if the suffix is another.
    """
    path = Path(path)
    if path.suffix.lower() not in (".gif", ".png"):
        raise ValueError(f"a moving picture must be a .gif or .png file, got {path}")
    check_count("frames", frames, 2)
    if frames > _MOST_FRAMES:
        raise ValueError(f"frames must be at most {_MOST_FRAMES}, got {frames}")
    check_positive("seconds", seconds)
    width, height = _edges(size)
    painted = paint(
        cloud, labels=labels, truth=truth, color_by=color_by, names=names, up=up, limits=limits
    )
    strip = plan(painted, title, (width, height), legend=legend)
    drawer = _Drawer(painted, background, point_size, backend, (width, height - strip.height))
    first = camera or Camera()
    pictures = []
    for frame in range(frames):
        azimuth = first.azimuth + 360 * frame / frames
        turned = Camera(azimuth, first.elevation, first.zoom)
        pictures.append(_with_strip(drawer(turned), strip, background))
    save_picture(path, pictures, 1000 * seconds / frames)


def describe_drawing() -> str:
    """What draws pictures here, in words."""
    open3d = "available" if find_spec("open3d") else "not installed"
    return f"software renderer (the same bytes everywhere); backend='open3d': {open3d}"


class _Drawer:
    """Draws one cloud from any side, with points of one size."""

    def __init__(
        self,
        painted: Painted,
        background: Background,
        point_size: float | None,
        backend: Backend,
        size: tuple[int, int],
    ) -> None:
        check_choice("background", background, BACKGROUNDS)
        check_choice("backend", backend, BACKENDS)
        if point_size is not None:
            check_positive("point_size", point_size)
        self.xyz = painted.unit_sphere()
        self.colors = painted.colors
        self.paper = BACKGROUNDS[background][0]
        self.size = size
        self.point_size = point_size or _closing_size(self.xyz, size)
        self.draw: Callable[..., NDArray[np.uint8]] = (
            _open3d.draw if backend == "open3d" else _software.draw
        )

    def __call__(self, camera: Camera) -> NDArray[np.uint8]:
        return self.draw(self.xyz, self.colors, camera, self.size, self.point_size, self.paper)


def _closing_size(xyz: NDArray[np.float64], size: tuple[int, int]) -> float:
    """Diameter in pixels with which the points close the part of the picture that they fill."""
    edge = min(size)
    place, _ = Camera().project(xyz, _GRID, _GRID)
    column, row = place.astype(np.int64).T
    cells = np.count_nonzero(np.bincount(row * _GRID + column))
    filled = cells * (edge / _GRID) ** 2
    # Half of the points are on the far side.
    return float(np.clip(_OVERLAP * np.sqrt(2 * filled / len(xyz)), 2.0, max(2.0, edge / 32)))


def _edges(size: int | tuple[int, int]) -> tuple[int, int]:
    width, height = (size, size) if isinstance(size, int) else size
    check_count("size", width, _SMALLEST)
    check_count("size", height, _SMALLEST)
    return width, height


def _paper(width: int, height: int, background: Background) -> NDArray[np.uint8]:
    return np.full((height, width, 3), BACKGROUNDS[background][0], np.uint8)


def _with_strip(
    picture: NDArray[np.uint8], strip: Strip, background: Background
) -> NDArray[np.uint8]:
    """The picture with the strip of writing below it."""
    from PIL import Image, ImageDraw

    if not strip.height:
        return picture
    height, width = picture.shape[:2]
    sheet = Image.fromarray(_paper(width, height + strip.height, background))
    sheet.paste(Image.fromarray(picture), (0, 0))
    draw_strip(ImageDraw.Draw(sheet), strip, 0, height, width, BACKGROUNDS[background][1])
    return np.asarray(sheet)


def save_picture(path: Path, pictures: Sequence[NDArray[np.uint8]], duration: float = 0) -> None:
    """Write one picture (H, W, 3), or several as a moving one, each shown ``duration`` ms."""
    from PIL import Image

    images = [Image.fromarray(picture) for picture in pictures]
    content = BytesIO()
    moving: dict[str, Any] = {}
    if len(images) > 1:
        moving = {"save_all": True, "append_images": images[1:], "duration": duration, "loop": 0}
    images[0].save(content, format="GIF" if path.suffix.lower() == ".gif" else "PNG", **moving)
    write_whole(path, content.getvalue())
