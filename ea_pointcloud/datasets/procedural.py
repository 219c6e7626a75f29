"""Synthetic objects of 14 categories with labelled parts: a data set that needs no download.

The objects themselves are built in ``_shapes``; here they get their names, their pose
and their clouds, which are sampled with noise, uneven density and partial views.
"""

import hashlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ea_pointcloud._checks import check_at_least, check_choice, check_range
from ea_pointcloud.datasets._shapes import BUILDERS
from ea_pointcloud.datasets._shapes.primitives import Draw, scale, turn
from ea_pointcloud.ops import sample_surface
from ea_pointcloud.ops.frames import normalize_unit_sphere

_PARTS: dict[str, tuple[str, ...]] = {
    "airplane": ("fuselage", "wing", "tail", "engine"),
    "bed": ("mattress", "frame", "headboard", "pillow"),
    "bench": ("seat", "back", "leg", "arm"),
    "bottle": ("body", "neck", "cap"),
    "car": ("body", "cabin", "wheel"),
    "chair": ("seat", "back", "leg", "arm"),
    "cup": ("body", "foot", "saucer"),
    "lamp": ("base", "pole", "shade"),
    "monitor": ("screen", "stand", "base"),
    "mug": ("body", "handle"),
    "shelf": ("board", "side", "back"),
    "sofa": ("seat", "back", "arm", "leg"),
    "stool": ("seat", "leg", "rung"),
    "table": ("top", "leg", "shelf", "drawer"),
}
CATEGORIES: tuple[str, ...] = tuple(_PARTS)
PART_NAMES: tuple[str, ...] = tuple(
    f"{category}/{part}" for category, parts in _PARTS.items() for part in parts
)
CATEGORY_PARTS: dict[str, tuple[int, ...]] = {
    category: tuple(PART_NAMES.index(f"{category}/{part}") for part in parts)
    for category, parts in _PARTS.items()
}

_NUM_SHAPES = {"train": 1680, "val": 280, "test": 420}
_YAW = math.radians(15)
_TILT = math.radians(12)
_STRETCH = 0.18
_NOISE = (0.002, 0.035)  # of the bounding sphere
_MAX_CROP = 0.25
# Fraction of a part's points in view, relative to that of the whole object, below which the object
# is shown whole: a view that hides the handle would turn a mug into a cup.
_MIN_PART_SEEN = 0.35
_DEPTH_CELLS = 20


@dataclass(frozen=True)
class ShapeMesh:
    """A triangle mesh with a part on every face.

    Shape:
        vertices: (V, 3) float32, y roughly up, front roughly towards +z.
        faces: (F, 3) int64, counter-clockwise from outside; a tip may have faces without area.
        face_part: (F,) int64, positions in :data:`PART_NAMES`.
    """

    vertices: Tensor
    faces: Tensor
    face_part: Tensor


def generate_mesh(category: str, generator: torch.Generator) -> ShapeMesh:
    """Draw one object of a category.

    Args:
        category: one of :data:`CATEGORIES`.
        generator: source of randomness, on the CPU.

    Returns:
        The mesh: y up but for a tilt of up to 12 degrees about x and about z, front towards +z but
        for a yaw of up to 15 degrees, in no particular unit.

    Raises:
        ValueError: if the category is unknown.
    """
    check_choice("category", category, CATEGORIES)
    draw = Draw(generator)
    vertices, faces, face_part, offset = [], [], [], 0
    for name, (points, triangles) in BUILDERS[category](draw):
        vertices.append(points)
        faces.append(triangles + offset)
        face_part.append(np.full(len(triangles), PART_NAMES.index(f"{category}/{name}"), np.int64))
        offset += len(points)
    whole = np.concatenate(vertices), np.concatenate(faces)
    whole = scale(whole, [draw(1 - _STRETCH, 1 + _STRETCH) for _ in range(3)])
    whole = turn(whole, 1, draw(-_YAW, _YAW))
    points, triangles = turn(turn(whole, 0, draw(-_TILT, _TILT)), 2, draw(-_TILT, _TILT))
    return ShapeMesh(
        vertices=torch.from_numpy(points).float(),
        faces=torch.from_numpy(triangles),
        face_part=torch.from_numpy(np.concatenate(face_part)),
    )


class ProceduralShapes(Dataset[dict[str, Tensor]]):
    """Noisy, partly seen clouds of synthetic objects of 14 categories, generated in memory.

    Shape ``i`` has the class ``i % 14`` and depends on ``seed``, ``split`` and ``i`` alone: fewer
    shapes are a prefix of more shapes, and ``num_points`` does not change the object.

    Args:
        split: "train", "val" or "test"; the splits share no randomness.
        num_shapes: >= 1; by default 1680, 280 or 420 by split.
        num_points: N >= 1 points of each cloud.
        seed: another seed is another data set.

    Shape:
        xyz: (n, N, 3) float32, mean at the origin, farthest point on the unit sphere, y up.
        label: (n,) int64, positions in ``class_names``.
        part_label: (n, N) int64, positions in ``part_names``.
        category: (n,) int64, the label under the name it has in part segmentation.
        mask: (n, N) bool, all True.

    Raises:
        ValueError: if the split is unknown or a number is below 1.
    """

    class_names: tuple[str, ...] = CATEGORIES
    part_names: tuple[str, ...] = PART_NAMES
    category_parts: dict[str, tuple[int, ...]] = CATEGORY_PARTS
    category_names: tuple[str, ...] = CATEGORIES
    parts: tuple[tuple[int, ...], ...] = tuple(CATEGORY_PARTS.values())
    up_axis = "y"
    mirroring = "none"

    def __init__(
        self,
        split: str = "train",
        *,
        num_shapes: int | None = None,
        num_points: int = 1024,
        seed: int = 0,
    ) -> None:
        check_choice("split", split, _NUM_SHAPES)
        if num_shapes is None:
            num_shapes = _NUM_SHAPES[split]
        check_at_least("num_shapes", num_shapes, 1)
        check_at_least("num_points", num_points, 1)
        self.split = split
        self.seed = seed
        self.label = self.category = torch.arange(num_shapes) % len(CATEGORIES)
        self.xyz = torch.empty(num_shapes, num_points, 3)
        self.part_label = torch.empty(num_shapes, num_points, dtype=torch.long)
        self.mask = torch.ones(num_shapes, num_points, dtype=torch.bool)
        with _one_thread():
            for index in range(num_shapes):
                self.xyz[index], self.part_label[index] = _observe(
                    self.mesh(index), num_points, self._generator("cloud", index)
                )

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, index: int | list[int] | Tensor) -> dict[str, Tensor]:
        """Return one shape, or a batch of shapes, under the names of the attributes."""
        names = ("xyz", "label", "part_label", "category", "mask")
        return {name: getattr(self, name)[index] for name in names}

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.split!r}, num_shapes={len(self)}, "
            f"num_points={self.xyz.shape[1]}, seed={self.seed})"
        )

    def mesh(self, index: int) -> ShapeMesh:
        """Return the clean mesh that a cloud was sampled from, in its own frame and unit.

        Raises:
            ValueError: if ``index`` is outside 0..n-1.
        """
        check_range("index", index, 0, len(self) - 1, "n-1")
        category = CATEGORIES[index % len(CATEGORIES)]
        return generate_mesh(category, self._generator("mesh", index))

    def _generator(self, purpose: str, index: int) -> torch.Generator:
        # Hashing keeps nearby seeds and indices apart, which seed + index would not.
        key = f"{self.seed}/{self.split}/{index}/{purpose}"
        digest = hashlib.blake2b(key.encode(), digest_size=4).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest, "little"))


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep torch to one thread inside the block.

    A cloud is too small for several: on a busy machine the threads of every small operation wait
    for one another, and the whole takes ten times as long.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _observe(mesh: ShapeMesh, num_points: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Sample a mesh as a scanner might, to (num_points, 3) points and their parts."""
    draw = Draw(generator)
    # All draws but the points come first, so that they are the same for any number of points.
    sigma = draw(*_NOISE)
    view, uneven = draw.pick("whole", "crop", "front"), draw.chance(0.5)
    azimuth, height, crop = draw(0, 2 * math.pi), draw(-0.3, 0.8), draw(0.05, _MAX_CROP)
    radius = math.sqrt(1 - height**2)
    viewer = torch.tensor((radius * math.sin(azimuth), height, radius * math.cos(azimuth)))

    spare = {"whole": 1, "crop": 2, "front": 4}[view] * (2 if uneven else 1)
    xyz, face = sample_surface(mesh.vertices, mesh.faces, spare * num_points, generator=generator)
    xyz, part = normalize_unit_sphere(xyz[None])[0], mesh.face_part[face]
    near = xyz @ viewer
    hidden = torch.zeros(len(xyz), dtype=torch.bool)
    if uneven:
        # Density falls in proportion from the nearest point to the farthest.
        hidden |= torch.rand(len(xyz), generator=generator) > (near + 1) / 2
    if view == "crop":
        hidden |= near < near.quantile(crop)
    elif view == "front":
        hidden |= ~_in_front(xyz, viewer)
    total, seen = (p.bincount(minlength=len(PART_NAMES)) for p in (part, part[~hidden]))
    if bool((seen * len(xyz) < _MIN_PART_SEEN * total * seen.sum()).any()):
        hidden[:] = False
    # The points are in random order and the sort is stable: hidden ones only fill what is missing.
    chosen = hidden.byte().argsort(stable=True)[:num_points]
    noise = torch.randn(num_points, 3, generator=generator)
    return normalize_unit_sphere((xyz[chosen] + sigma * noise)[None])[0], part[chosen]


def _in_front(xyz: Tensor, viewer: Tensor) -> Tensor:
    """(N,) True for the points in front in the depth image of a far viewer in direction (3,)."""
    right = torch.linalg.cross(torch.tensor((0.0, 1.0, 0.0)), viewer)
    right /= right.norm()
    up = torch.linalg.cross(viewer, right)
    column, row = (
        ((xyz @ axis + 1) * (_DEPTH_CELLS / 2)).long().clamp_(0, _DEPTH_CELLS - 1)
        for axis in (right, up)
    )
    pixel, near = row * _DEPTH_CELLS + column, xyz @ viewer
    front = torch.full((_DEPTH_CELLS**2,), -1.0).scatter_reduce(0, pixel, near, "amax")
    # A surface seen at a slant spreads over about two pixels in depth, each 2 / cells wide.
    return near > front[pixel] - 4 / _DEPTH_CELLS
