"""A user's cloud as input of a network: posed, sampled, with its features."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ea_pointcloud.descriptors.channels import rotate_features
from ea_pointcloud.inference.preprocess import (
    CloudLike,
    as_cloud,
    channels,
    coordinates,
    network_input,
)
from ea_pointcloud.models import Classifier, Segmenter
from ea_pointcloud.ops.frames import normalize_unit_sphere, to_y_up


@dataclass(frozen=True, eq=False)
class Subject:
    """A cloud, and the part of it that a network sees.

    Args:
        xyz: (1, N, 3) float32 all points, y up, in the unit sphere, on the network's device.
        seen: (1, n, 3) those the network sees; ``xyz`` itself where it sees all.
        features: (1, n, F) of those; None where the network takes coordinates only.
    """

    xyz: Tensor
    seen: Tensor
    features: Tensor | None


@torch.no_grad()
def subject_of(model: Classifier | Segmenter, cloud: CloudLike, *, up: str = "y") -> Subject:
    """Bring a cloud into the form that :func:`attention_maps` and the others take.

    Args:
        model: its ``data_spec`` describes the form.
        cloud: see :func:`~ea_pointcloud.inference.preprocess.as_cloud`.
        up: the axis that is up in it: ``"x"``, ``"y"`` or ``"z"``.

    Raises:
        FileNotFoundError: if the file is missing.
        ValueError: if the file or array holds no usable points, or the network was trained with
            channels and there are none.
    """
    cloud = as_cloud(cloud, model.data_spec)
    device = next(model.parameters()).device

    def posed(values: Tensor) -> Tensor:
        return to_y_up(values[None].to(device), up)

    xyz = normalize_unit_sphere(posed(torch.from_numpy(coordinates(cloud)))).float()
    features = channels(cloud, model.data_spec)
    if features is not None:
        names = model.data_spec.features
        features = rotate_features(features[None].to(device), names, lambda each: to_y_up(each, up))
    return Subject(xyz, *network_input(model, xyz, features))
