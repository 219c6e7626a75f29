"""Networks by name, each name an architecture and a size, and their cost."""

from typing import Any, NamedTuple

import torch

from ea_pointcloud._checks import check_choice
from ea_pointcloud._device import generator_for
from ea_pointcloud.descriptors.channels import feature_channels
from ea_pointcloud.models.base import named_config
from ea_pointcloud.models.base_segmenter import Segmenter
from ea_pointcloud.models.baselines import (
    DGCNN_SIZES,
    POINTNET_SIZES,
    DGCNNClassifier,
    PointNetClassifier,
)
from ea_pointcloud.models.ea import CLASSIFIER_SIZES, EAClassifier
from ea_pointcloud.models.ea_segmenter import SEGMENTER_SIZES, EASegmenter
from ea_pointcloud.models.eagraph import (
    EAGRAPH_CLASSIFIER_SIZES,
    EAGRAPH_SEGMENTER_SIZES,
    EAGraphClassifier,
    EAGraphSegmenter,
)
from ea_pointcloud.models.eamlp import (
    EAMLP_CLASSIFIER_SIZES,
    EAMLP_SEGMENTER_SIZES,
    EAMLPClassifier,
    EAMLPSegmenter,
)
from ea_pointcloud.models.metadata import DataSpec
from ea_pointcloud.models.pretrained import PretrainedModel


class Architecture(NamedTuple):
    """The network of one task, and its named sizes."""

    network: type[PretrainedModel]
    sizes: dict[str, dict[str, Any]]


# Task -> name -> network; a network's full name is NAME_classifier_SIZE or NAME_segmenter_SIZE.
ARCHITECTURES: dict[str, dict[str, Architecture]] = {
    "classification": {
        "ea": Architecture(EAClassifier, CLASSIFIER_SIZES),
        "eamlp": Architecture(EAMLPClassifier, EAMLP_CLASSIFIER_SIZES),
        "eagraph": Architecture(EAGraphClassifier, EAGRAPH_CLASSIFIER_SIZES),
        "pointnet": Architecture(PointNetClassifier, POINTNET_SIZES),
        "dgcnn": Architecture(DGCNNClassifier, DGCNN_SIZES),
    },
    "segmentation": {
        "ea": Architecture(EASegmenter, SEGMENTER_SIZES),
        "eamlp": Architecture(EAMLPSegmenter, EAMLP_SEGMENTER_SIZES),
        "eagraph": Architecture(EAGraphSegmenter, EAGRAPH_SEGMENTER_SIZES),
    },
}
_KINDS = {"classification": "classifier", "segmentation": "segmenter"}


def list_models(task: str | None = None) -> list[str]:
    """The names that :func:`create_model` takes.

    Args:
        task: ``"classification"`` or ``"segmentation"``; both if omitted.
    """
    if task is not None:
        check_choice("task", task, ARCHITECTURES)
    return [
        f"{name}_{_KINDS[kind]}_{size}"
        for kind, known in ARCHITECTURES.items()
        if task in (None, kind)
        for name, architecture in known.items()
        for size in architecture.sizes
    ]


def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    num_parts: int | None = None,
    num_categories: int | None = None,
    data_spec: DataSpec | None = None,
    **overrides: Any,
) -> Any:
    """Build an untrained network of a named size.

    Args:
        name: one of :func:`list_models`, e.g. ``"ea_classifier_base"``.
        num_classes: classes of a classifier; those of ``data_spec`` or 40 if omitted.
        num_parts: parts of a segmenter; those of ``data_spec`` or 50 if omitted.
        num_categories: categories a segmenter is conditioned on; those of ``data_spec`` or 16 if
            omitted, 0 for a category-free one.
        data_spec: names and the form of the input.
        overrides: fields of the network's ``config_class``, e.g.
            :class:`~ea_pointcloud.models.ClassifierConfig`.

    Returns:
        A :class:`~ea_pointcloud.models.Classifier` or :class:`~ea_pointcloud.models.Segmenter`.

    Raises:
        ValueError: if a name is unknown or a value impossible.
    """
    check_choice("name", name, list_models())
    named = None if data_spec is None else len(data_spec.class_names)
    architecture, kind, size = name.split("_", 2)
    if data_spec is not None:
        overrides = {"feature_channels": feature_channels(data_spec.features), **overrides}
    if kind == "classifier":
        if num_parts is not None or num_categories is not None:
            raise ValueError(f"num_parts and num_categories are for a segmenter, {name} is none")
        fixed = {"num_classes": _first(num_classes, named, 40)}
        network, sizes = ARCHITECTURES["classification"][architecture]
    else:
        if num_classes is not None:
            raise ValueError(
                f"num_classes is for a classifier, {name} is a segmenter; give num_parts"
            )
        if num_categories is None:
            num_categories = 16 if data_spec is None else len(data_spec.category_names)
        fixed = {"num_parts": _first(num_parts, named, 50), "num_categories": num_categories}
        network, sizes = ARCHITECTURES["segmentation"][architecture]
    config = named_config(network.config_class, sizes, size, fixed, overrides)
    return network(config, data_spec)  # pyright: ignore[reportCallIssue]


def _first(*counts: int | None) -> int:
    """The first count that was given; 0 is one, which the network refuses."""
    return next(count for count in counts if count is not None)


def count_macs(model: PretrainedModel, num_points: int) -> int:
    """Multiply-accumulates of the matrix products for one cloud of ``num_points`` points."""
    from torch.utils.flop_counter import FlopCounterMode  # imports triton, half a second

    device = next(model.parameters()).device
    generator = generator_for(device, 0)
    cloud = torch.rand(1, num_points, 3, generator=generator, device=device)
    inputs = {}
    if model.config.feature_channels:
        shape = (1, num_points, model.config.feature_channels)
        inputs["features"] = torch.rand(shape, generator=generator, device=device)
    if isinstance(model, Segmenter) and model.config.num_categories:
        inputs["category"] = torch.zeros(1, dtype=torch.long, device=device)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model.eval()(cloud, **inputs)
    return counter.get_total_flops() // 2
