"""Where a picture is seen from, and where in it each point falls."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ea_pointcloud._checks import check_positive

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
        """Find where points of the unit sphere, y up, fall in the picture.

        Args:
            xyz: (N, 3) points, the object's middle at the origin.
            width: of the picture in pixels.
            height: of the picture in pixels.

        Returns:
            place: (N, 2) column and row; pixel (i, j) covers i..i+1 and j..j+1.
            depth: (N,) distance along the view, > 0.
        """
        right, up, toward = self.axes @ xyz.T
        depth = self.distance - toward
        scale = self.focal(width, height) / depth
        return np.stack([width / 2 + right * scale, height / 2 - up * scale], axis=1), depth
