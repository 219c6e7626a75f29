"""Networks by name, each name an architecture and a size."""

from typing import Any

from ea_pointcloud._checks import check_choice
from ea_pointcloud.models.classifier import EAClassifier
from ea_pointcloud.models.config import (
    CLASSIFIER_SIZES,
    SEGMENTER_SIZES,
    classifier_config,
    segmenter_config,
)
from ea_pointcloud.models.hub import (
    FEATURES,
    DataSpec,
    PretrainedModel,
    read_description,
    resolve_weights,
)
from ea_pointcloud.models.segmenter import EASegmenter

CLASSIFIER = "ea_classifier"
SEGMENTER = "ea_segmenter"
_ARCHITECTURES: dict[str, type[PretrainedModel]] = {
    "EAClassifier": EAClassifier,
    "EASegmenter": EASegmenter,
}


def list_models() -> list[str]:
    """The names that :func:`create_model` knows."""
    return [
        *(f"{CLASSIFIER}_{size}" for size in CLASSIFIER_SIZES),
        *(f"{SEGMENTER}_{size}" for size in SEGMENTER_SIZES),
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
        num_classes: classes a classifier tells apart; 40 or those of ``data_spec`` without it.
        num_parts: parts a segmenter tells apart; 50 or those of ``data_spec`` without it.
        num_categories: categories a segmenter is told; 16 or those of ``data_spec`` without it,
            0 for a category-free one.
        data_spec: names and the form of the input.
        overrides: fields of :class:`~ea_pointcloud.models.ClassifierConfig` or
            :class:`~ea_pointcloud.models.SegmenterConfig`.

    Returns:
        An :class:`~ea_pointcloud.models.EAClassifier` or
        :class:`~ea_pointcloud.models.EASegmenter`.

    Raises:
        ValueError: if a name is unknown or a value impossible.
    """
    check_choice("name", name, list_models())
    named = None if data_spec is None else len(data_spec.class_names)
    if name.startswith(CLASSIFIER):
        if num_parts is not None or num_categories is not None:
            raise ValueError(f"num_parts and num_categories are for a segmenter, {name} is none")
        size = name.removeprefix(f"{CLASSIFIER}_")
        config = classifier_config(size, num_classes or named or 40, **overrides)
        return EAClassifier(config, data_spec)
    if num_classes is not None:
        raise ValueError(f"num_classes is for a classifier, {name} is a segmenter; give num_parts")
    if num_categories is None:
        num_categories = 16 if data_spec is None else len(data_spec.category_names)
    if data_spec is not None:
        overrides = {"feature_channels": FEATURES[data_spec.features], **overrides}
    size = name.removeprefix(f"{SEGMENTER}_")
    config = segmenter_config(size, num_parts or named or 50, num_categories, **overrides)
    return EASegmenter(config, data_spec)


def load_model(name_or_path: str, *, revision: str | None = None) -> PretrainedModel:
    """Load trained weights of any architecture; see :meth:`PretrainedModel.from_pretrained`."""
    folder = resolve_weights(name_or_path, revision=revision)
    architecture = read_description(folder)["architecture"]
    check_choice(f"architecture in {folder}/config.json", architecture, _ARCHITECTURES)
    return _ARCHITECTURES[architecture].from_pretrained(folder)
