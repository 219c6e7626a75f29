"""What the numbers that go into and come out of a network mean."""

from dataclasses import dataclass

from typing_extensions import Self

from ea_pointcloud._checks import check_choice, check_count
from ea_pointcloud.augment.transforms import AXES, MIRRORING, SAMPLINGS
from ea_pointcloud.descriptors import DESCRIPTORS

NORMALIZATIONS = ("unit_sphere",)
# Features beside coordinates -> channels.
FEATURES = {"none": 0, "normals": 3} | {
    name: channels for name, (_, channels) in DESCRIPTORS.items()
}


@dataclass(frozen=True)
class DataSpec:
    """What the numbers going into and coming out of a model mean.

    Args:
        class_names: in the order of the logits; of a segmenter the names of the parts.
        up_axis: ``"x"``, ``"y"`` or ``"z"``, up in the training clouds.
        mirroring: of the training files: ``"none"``, they were right-handed; ``"undone"``, they
            were mirror images and x was negated; ``"kept"``, the network was trained on mirror
            images and sees any other cloud mirrored.
        normalization: ``"unit_sphere"``: mean at the origin, farthest point at distance 1.
        num_points: points a cloud was reduced to in training.
        sampling: how: ``"first"``, ``"random"`` or ``"fps"``.
        category_names: of a segmenter, the categories of shapes it was trained on.
        parts: of a segmenter, the part ids (indices into ``class_names``) of each category.
        features: what points carry beside coordinates: ``"none"``, ``"normals"``, or descriptors
            that are computed from the coordinates, ``"eigen_features"``, ``"surface_features"`` or
            ``"shape_features"``, see :func:`~ea_pointcloud.descriptors.shape_features`.
        min_part_fraction: of a segmenter, the smallest fraction of a shape's points that each part
            which a shape may lack had in training, see
            :func:`~ea_pointcloud.inference.postprocess.min_part_fractions`; () keeps every part.
    """

    class_names: tuple[str, ...]
    up_axis: str = "y"
    mirroring: str = "none"
    normalization: str = "unit_sphere"
    num_points: int = 1024
    sampling: str = "random"
    category_names: tuple[str, ...] = ()
    parts: tuple[tuple[int, ...], ...] = ()
    features: str = "none"
    min_part_fraction: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Check the values; lists (from JSON) become tuples."""
        for name in ("class_names", "category_names"):
            values = tuple(getattr(self, name))
            object.__setattr__(self, name, values)
            if len(set(values)) != len(values):
                raise ValueError(f"{name} must differ from each other, got {values}")
        object.__setattr__(self, "parts", tuple(tuple(ids) for ids in self.parts))
        if len(self.parts) != len(self.category_names):
            raise ValueError(
                f"parts must have an entry for each of the {len(self.category_names)} "
                f"category_names, got {len(self.parts)}"
            )
        for category, ids in zip(self.category_names, self.parts, strict=True):
            if not all(0 <= part < len(self.class_names) for part in ids):
                raise ValueError(
                    f"parts of {category} must be indices into the {len(self.class_names)} "
                    f"class_names, got {ids}"
                )
        object.__setattr__(self, "min_part_fraction", tuple(self.min_part_fraction))
        if self.min_part_fraction and (
            len(self.min_part_fraction) != len(self.class_names)
            or not all(0 <= fraction <= 1 for fraction in self.min_part_fraction)
        ):
            raise ValueError(
                f"min_part_fraction must be a fraction in 0..1 for each of the "
                f"{len(self.class_names)} class_names, or empty, got {self.min_part_fraction}"
            )
        check_choice("up_axis", self.up_axis, AXES)
        check_choice("mirroring", self.mirroring, MIRRORING)
        check_choice("features", self.features, FEATURES)
        check_choice("normalization", self.normalization, NORMALIZATIONS)
        check_choice("sampling", self.sampling, SAMPLINGS)
        check_count("num_points", self.num_points)

    @classmethod
    def unnamed(cls, num_classes: int, num_categories: int = 0) -> Self:
        """Placeholder names ``class_0``, ``category_0``, ...; every category has every part."""
        return cls(
            tuple(f"class_{index}" for index in range(num_classes)),
            category_names=tuple(f"category_{index}" for index in range(num_categories)),
            parts=(tuple(range(num_classes)),) * num_categories,
        )
