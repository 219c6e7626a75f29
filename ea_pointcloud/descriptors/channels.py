"""Names of the features of points beside coordinates, and where their columns are."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ea_pointcloud.descriptors.features import DESCRIPTORS

NONE = "none"  # in a recipe, where a list would be empty
_WIDE = {"normals": 3, "colors": 3}  # channels with more than one column
_NO_FEATURES = ("xyz", "x", "y", "z", "labels", "label", "_", "")
_LONGEST_NAME = 100


def parse_features(name: str, value: str | Sequence[str]) -> tuple[str, ...]:
    """The features that a recipe or the description of weights names.

    Args:
        name: of the argument, for the message.
        value: ``"none"``, one name or a list of names: channels of the files (``"normals"``,
            ``"colors"``, ``"intensity"``, ``"confidence"`` or any that the files name), or one of
            :data:`~ea_pointcloud.descriptors.DESCRIPTORS`, computed from the coordinates.

    Raises:
        ValueError: if a name is none, occurs twice, or a descriptor is not alone.
    """
    names = ([] if value == NONE else [value]) if isinstance(value, str) else list(value)
    for each in names:
        plain = isinstance(each, str) and each.isprintable() and len(each) <= _LONGEST_NAME
        if not plain or each.strip() in (*_NO_FEATURES, NONE):
            raise ValueError(
                f"{name} must name channels of points, such as normals, colors or intensity, or "
                f"one of {', '.join(DESCRIPTORS)}, got {str(each)[:_LONGEST_NAME]!r}"
            )
    if len(set(names)) != len(names):
        raise ValueError(f"{name} must name each channel once, got {names}")
    if len(names) > 1 and set(names) & set(DESCRIPTORS):
        raise ValueError(f"{name} must be one descriptor, or channels of the files, got {names}")
    return tuple(names)


def descriptor_of(features: Sequence[str]) -> str | None:
    """The descriptor among features, which is computed; None for channels that files have."""
    return features[0] if features and features[0] in DESCRIPTORS else None


def file_channels(features: Sequence[str]) -> tuple[str, ...]:
    """Those of the features that come from files."""
    return () if descriptor_of(features) else tuple(features)


def channel_width(name: str) -> int:
    """Columns of one of the features."""
    return DESCRIPTORS[name][1] if name in DESCRIPTORS else _WIDE.get(name, 1)


def feature_channels(features: Sequence[str]) -> int:
    """F, the columns of all features."""
    return sum(map(channel_width, features))


def scalar_columns(features: Sequence[str]) -> list[int]:
    """The columns of channels with a unit of their own, such as intensity."""
    columns = enumerate(name for name in features for _ in range(channel_width(name)))
    return [column for column, name in columns if name not in (*_WIDE, *DESCRIPTORS)]


def normal_columns(features: Sequence[str]) -> slice | None:
    """The columns of the normals, if they are among the features."""
    if "normals" not in features:
        return None
    start = feature_channels(features[: list(features).index("normals")])
    return slice(start, start + _WIDE["normals"])


def rotate_features(
    values: Tensor, features: Sequence[str], rotate: Callable[[Tensor], Tensor]
) -> Tensor:
    """Rotate the normals among features (..., F), by a function of vectors (..., 3)."""
    place = normal_columns(features)
    if place is None:
        return values
    return torch.cat(
        [values[..., : place.start], rotate(values[..., place]), values[..., place.stop :]], dim=-1
    )


def rotate_points(
    points: Tensor, features: Sequence[str], rotate: Callable[[Tensor], Tensor]
) -> Tensor:
    """Rotate coordinates and normals of points (..., 3 + F), by a function of vectors (..., 3)."""
    if points.shape[-1] == 3:
        return rotate(points)
    turned = rotate_features(points[..., 3:], features, rotate)
    return torch.cat([rotate(points[..., :3]), turned], dim=-1)
