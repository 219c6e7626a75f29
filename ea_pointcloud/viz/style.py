"""How a cloud is drawn: the camera, and the options that pictures, pages and windows share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypedDict, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ea_pointcloud._checks import check_choice, check_positive
from ea_pointcloud.ops.frames import AXES

COLORINGS = ("auto", "labels", "error", "confidence", "height", "normals", "colors")
Background = Literal["white", "dark"]
# Colour of the background, and of the text on it.
BACKGROUNDS: dict[str, tuple[tuple[int, int, int], str]] = {
    "white": ((255, 255, 255), "black"),
    "dark": ((24, 26, 30), "white"),
}
FIELD_OF_VIEW = np.radians(30.0)  # over the shorter edge of the picture
_MARGIN = 1.06


@dataclass(frozen=True)
class Camera:
    """A camera that looks at the middle of an object whose up axis points up in the picture.

    The whole object is in the picture from wherever it is seen, as long as ``zoom`` is at most 1.

    Args:
        azimuth: degrees around the up axis: 0 is seen from +z, 90 from +x, of the object turned to
            y up.
        elevation: degrees above the ground, -90 to 90.
        zoom: > 0; 2 shows everything twice as large.

    Raises:
        ValueError: if ``elevation`` or ``zoom`` is out of range.
    """

    azimuth: float = 37.0
    elevation: float = 24.0
    zoom: float = 1.0

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not -90 <= self.elevation <= 90:
            raise ValueError(f"elevation must be between -90 and 90 degrees, got {self.elevation}")
        check_positive("zoom", self.zoom)

    @property
    def axes(self) -> NDArray[np.float64]:
        """(3, 3): to the right in the picture, up in the picture, towards the camera; y up."""
        azimuth, elevation = np.radians([self.azimuth, self.elevation])
        right = [np.cos(azimuth), 0.0, -np.sin(azimuth)]
        up = [
            -np.sin(elevation) * np.sin(azimuth),
            np.cos(elevation),
            -np.sin(elevation) * np.cos(azimuth),
        ]
        return np.stack([right, up, np.cross(right, up)])

    @property
    def distance(self) -> float:
        """From the middle, in radii of the object."""
        return float(_MARGIN / np.sin(FIELD_OF_VIEW / 2))

    def vertical_angle(self, width: int, height: int) -> float:
        """Field of view from the lower to the upper edge of the picture, in radians."""
        return float(2 * np.arctan(height / 2 / self.focal(width, height)))

    def focal(self, width: int, height: int) -> float:
        """Pixels that one unit covers at a distance of one unit."""
        return float(self.zoom * min(width, height) / 2 / np.tan(FIELD_OF_VIEW / 2))

    def project(
        self, xyz: NDArray[np.floating], width: int, height: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Project points of the unit sphere, y up, into a picture of ``width`` x ``height`` pixels.

        Returns:
            pixel: (N, 2) column and row; pixel (i, j) covers i..i+1 and j..j+1.
            depth: (N,) distance along the view, > 0.
        """
        right, up, toward = self.axes @ xyz.T
        depth = self.distance - toward
        scale = self.focal(width, height) / depth
        return np.stack([width / 2 + right * scale, height / 2 - up * scale], axis=1), depth


@runtime_checkable
class Labelled(Protocol):
    """Labels with names, such as :class:`ea_pointcloud.inference.Segmentation`."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """(N,) indices into ``names``."""
        ...

    @property
    def confidence(self) -> NDArray[np.float32]:
        """(N,) probability of the labels."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the labels."""
        ...


Labels = NDArray[np.integer] | Labelled


@dataclass(frozen=True, eq=False)
class Style:
    """What is shown of a cloud, and from where; each field is a keyword of ``render`` and others.

    Args:
        labels: (N,) integers, or the result of :meth:`Predictor.segment`; by default those of the
            cloud. Below 0 is no label.
        truth: (N,) true labels; points where it is below 0 are neither right nor wrong.
        color_by: ``"labels"``; ``"error"`` (right or wrong, needs ``truth``); ``"confidence"`` of
            the labels; ``"height"`` in the unit of the cloud; ``"normals"`` (red to the right,
            green up, blue to the front; estimated from the neighbours where there are none);
            ``"colors"`` of the cloud; (N,) numbers, drawn with a colour bar; (N, 3) red, green,
            blue in 0..1 or uint8; ``"auto"``: the first of error, labels, colors and height that
            the cloud has.
        quantity: name of the numbers of ``color_by`` beside the colour bar.
        names: of the labels 0, 1, 2, ...
        limits: the numbers of the darkest and the brightest colour; by default those of the cloud,
            0 and 1 for confidence.
        up: the axis that is up: ``"x"``, ``"y"`` or ``"z"``.
        background: ``"white"`` or ``"dark"``.
        point_size: diameter of a point in pixels; by default large enough to close a surface.
        camera: viewpoint, of the first frame of a turntable; by default from the right, above and
            +z (with y up).
        title: below a picture, above a page, of a window; by default the cloud's name, in pictures
            none.
        legend: whether the meaning of the colours is shown.

    Raises:
        ValueError: if an option is none of those.
    """

    labels: Labels | None = None
    truth: NDArray[np.integer] | None = None
    color_by: str | ArrayLike = "auto"
    quantity: str = "value"
    names: Sequence[str] | None = None
    limits: tuple[float, float] | None = None
    up: str = "y"
    background: Background = "white"
    point_size: float | None = None
    camera: Camera = field(default_factory=Camera)
    title: str = ""
    legend: bool = True

    def __post_init__(self) -> None:
        """Check the options that do not depend on a cloud."""
        check_choice("up", self.up, AXES)
        check_choice("background", self.background, BACKGROUNDS)
        if isinstance(self.color_by, str):
            check_choice("color_by", self.color_by, COLORINGS)
        if self.point_size is not None:
            check_positive("point_size", self.point_size)


class ViewOptions(TypedDict, total=False):
    """The fields of :class:`Style` that do not depend on the cloud, as keyword arguments."""

    background: Background
    point_size: float | None
    camera: Camera
    legend: bool


class StyleOptions(ViewOptions, total=False):
    """The fields of :class:`Style` as keyword arguments."""

    labels: Labels | None
    truth: NDArray[np.integer] | None
    color_by: str | ArrayLike
    quantity: str
    names: Sequence[str] | None
    limits: tuple[float, float] | None
    up: str
    title: str
