"""Networks by name, each name an architecture and a size."""

from typing import Any

from ea_pointcloud._checks import check_choice
from ea_pointcloud.models.classifier import EAClassifier
from ea_pointcloud.models.config import CLASSIFIER_SIZES, classifier_config
from ea_pointcloud.models.hub import DataSpec, PretrainedModel, read_description, resolve_weights

CLASSIFIER = "ea_classifier"
_ARCHITECTURES: dict[str, type[PretrainedModel]] = {"EAClassifier": EAClassifier}


def list_models() -> list[str]:
    """The names that :func:`create_model` knows."""
    return [f"{CLASSIFIER}_{size}" for size in CLASSIFIER_SIZES]


def create_model(
    name: str, *, num_classes: int = 40, data_spec: DataSpec | None = None, **overrides: Any
) -> EAClassifier:
    """Build an untrained network of a named size.

    Args:
        name: one of :func:`list_models`, e.g. ``"ea_classifier_base"``.
        num_classes: classes told apart; taken from ``data_spec`` where that is given.
        data_spec: class names and the form of the input.
        overrides: fields of :class:`~ea_pointcloud.models.ClassifierConfig`.

    Raises:
        ValueError: if a name is unknown or a value impossible.
    """
    check_choice("name", name, list_models())
    if data_spec is not None:
        num_classes = len(data_spec.class_names)
    config = classifier_config(name.removeprefix(f"{CLASSIFIER}_"), num_classes, **overrides)
    return EAClassifier(config, data_spec)


def load_model(name_or_path: str, *, revision: str | None = None) -> PretrainedModel:
    """Load trained weights of any architecture; see :meth:`PretrainedModel.from_pretrained`."""
    folder = resolve_weights(name_or_path, revision=revision)
    architecture = read_description(folder)["architecture"]
    check_choice(f"architecture in {folder}/config.json", architecture, _ARCHITECTURES)
    return _ARCHITECTURES[architecture].from_pretrained(folder)
