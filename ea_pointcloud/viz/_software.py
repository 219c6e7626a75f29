"""Drawing points without a graphics driver: round, overlapping splats and eye-dome lighting."""

import numpy as np
from numpy.typing import NDArray

from ea_pointcloud.viz.style import Camera

# Drawn larger and averaged, which smooths the edges.
OVERSAMPLING = 2
# A point is deepest at its rim by this fraction of its radius: neighbours then meet halfway
# between their centres instead of the nearer one covering the other.
_RIM = 0.5
_DIRECTIONS = ((1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1))
# Slopes above it, the outlines of things in front of others, are shaded alike.
_STEEPEST = 4.0
_DARKENING = 0.45


def draw(
    xyz: NDArray[np.floating],
    colors: NDArray[np.floating],
    camera: Camera,
    size: tuple[int, int],
    point_size: float,
    background: tuple[int, int, int],
) -> NDArray[np.uint8]:
    """Draw points of the unit sphere, y up; the same input gives the same bytes everywhere.

    Args:
        xyz: (N, 3) points, the object's middle at the origin.
        colors: (N, 3) red, green, blue in 0..1.
        camera: viewpoint.
        size: width and height of the picture in pixels.
        point_size: diameter of a point in pixels.
        background: red, green, blue in 0..255.

    Returns:
        (height, width, 3) uint8.
    """
    width, height = (OVERSAMPLING * edge for edge in size)
    centers, depth = camera.project(xyz, width, height)
    radius = OVERSAMPLING * point_size / 2
    pixel = camera.distance / camera.focal(width, height)  # the object's unit that one pixel covers
    index, depth = _splat(centers, depth, width, height, radius, pixel)
    paint = np.concatenate([colors * 255, [background]]).astype(np.float32)[index]
    paint *= eye_dome(depth, pixel, max(1, round(radius)))[..., None]
    return shrink(paint)


def _splat(
    centers: NDArray[np.float64],
    depth: NDArray[np.float64],
    width: int,
    height: int,
    radius: float,
    pixel: float,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The point that is seen in each pixel, -1 for none, and its depth, infinite for none."""
    reach = int(np.ceil(radius - 0.5))
    margin = reach + 1
    column, row = (np.floor(centers) + margin).astype(np.int64).T
    wide, high = width + 2 * margin, height + 2 * margin
    inside = np.flatnonzero(
        (column >= reach) & (column < wide - reach) & (row >= reach) & (row < high - reach)
    )
    base, near = (row * wide + column)[inside], depth[inside].astype(np.float32)
    # Depth above, index below: the minimum is the nearest point, and of equals the first.
    nothing = np.int64(np.float32(np.inf).view(np.int32)) << 32
    buffer = np.full(high * wide, nothing)
    for down in range(-reach, reach + 1):
        for right in range(-reach, reach + 1):
            sq_radius = (down * down + right * right) / (radius * radius)
            if sq_radius > 1 and (down or right):
                continue
            behind = near + np.float32(_RIM * sq_radius * radius * pixel)
            key = behind.view(np.int32).astype(np.int64) << 32
            key |= inside
            np.minimum.at(buffer, base + (down * wide + right), key)
    buffer = buffer.reshape(high, wide)[margin:-margin, margin:-margin]
    seen = (buffer >> 32).astype(np.int32).view(np.float32)
    return np.where(np.isinf(seen), -1, buffer & 0xFFFFFFFF), seen


def eye_dome(depth: NDArray[np.floating], pixel: float, reach: int) -> NDArray[np.float32]:
    """How bright each pixel is, from how far the pixels around it stand out in front of it.

    Hue and saturation of a colour survive, since all its channels are multiplied by one factor.

    Args:
        depth: (H, W) distance along the view, infinite where there is nothing.
        pixel: the length that one pixel covers, in the unit of ``depth``.
        reach: pixels to the neighbours looked at, once near and once twice as far.

    Returns:
        (H, W) float32, 1 for what lies flat before the camera or is background, less for slopes
        and outlines.

    Reference:
        Boucheny, Interactive scientific visualization of large datasets, 2009.
    """
    depth = depth.astype(np.float32)
    height, width = depth.shape
    slope = np.zeros_like(depth)
    # Infinity minus infinity, background beside background, counts as level below.
    with np.errstate(invalid="ignore"):
        for step in (reach, 2 * reach):
            around = np.pad(depth, step, constant_values=np.inf)
            for right, down in _DIRECTIONS:
                top, left = step * (1 + down), step * (1 + right)
                rise = depth - around[top : top + height, left : left + width]
                rise *= np.float32(1 / (step * pixel * np.hypot(right, down)))
                slope += np.fmin(np.fmax(rise, 0), _STEEPEST)
    shade = np.exp(-_DARKENING * slope / (2 * len(_DIRECTIONS)))
    return np.where(np.isinf(depth), np.float32(1), shade)


def shrink(paint: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Average every ``OVERSAMPLING`` x ``OVERSAMPLING`` pixels: (H, W, 3) float to uint8."""
    step = range(OVERSAMPLING)
    total = sum(paint[row::OVERSAMPLING, column::OVERSAMPLING] for row in step for column in step)
    return np.rint(total / OVERSAMPLING**2).astype(np.uint8)
