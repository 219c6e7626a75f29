"""Fine-tuning: loading trained weights into a network with other classes, parts or categories."""

from dataclasses import fields
from typing import NamedTuple

import torch

from ea_pointcloud.models.base import Classifier
from ea_pointcloud.models.base_segmenter import Segmenter
from ea_pointcloud.models.pretrained import PretrainedModel

# Settings that follow from the names.
_COUNTS = ("num_classes", "num_parts", "num_categories")


class _NamedLayers(NamedTuple):
    """Layers whose size depends on the number of classes, parts or categories."""

    layer: str
    plural: str  # of what the names are
    prefix: str
    last: str  # the layer whose outputs are the names, "" where they are inputs
    names: tuple[str, ...]
    trained: tuple[str, ...]  # names in the checkpoint


def load_matching_weights(model: PretrainedModel, weights: PretrainedModel) -> str:
    """Load the parameters of ``weights`` into ``model``, except layers of other names.

    The layers that depend on names (a classifier's head; a segmenter's output layer and the
    embedding of the category) are loaded where the names are the same, else they keep their random
    initialisation. Classes or parts in another order are permuted to the order of ``model``.

    Args:
        model: the network to train; altered.
        weights: trained; the same architecture with the same sizes, but for the number of names.

    Returns:
        A line such as ``Loaded 586,848 of 883,043 parameters; new 3-class head (checkpoint has
        10)``.

    Raises:
        ValueError: if the networks do not fit together; names the settings in which they differ.
    """
    _check_same_sizes(model, weights)
    state = weights.state_dict()
    notes = []
    for layers in _named_layers(model, weights):
        layer, plural, prefix, last, names, trained = layers
        same = set(names) == set(trained) if last else names == trained
        if not same:
            state = {key: value for key, value in state.items() if not key.startswith(prefix)}
            notes.append(f"new {len(names)}-{layer} (checkpoint has {len(trained)})")
        elif last:
            order = torch.tensor([trained.index(name) for name in names])
            state |= {key: state[key][order] for key in (f"{last}.weight", f"{last}.bias")}
            notes.append(f"{layer.split()[-1]} kept (same {plural})")
    model.load_state_dict(state, strict=False)
    loaded = sum(each.numel() for name, each in model.named_parameters() if name in state)
    total = sum(each.numel() for each in model.parameters())
    return "; ".join([f"Loaded {loaded:,} of {total:,} parameters", *notes])


def _named_layers(model: PretrainedModel, weights: PretrainedModel) -> list[_NamedLayers]:
    own, other = model.data_spec, weights.data_spec
    names = own.class_names, other.class_names
    if isinstance(model, Classifier):
        last = f"head.{len(model.head) - 1}"
        return [_NamedLayers("class head", "classes", "head.", last, *names)]
    layers = [_NamedLayers("part output", "parts", "out.", "out", *names)]
    if model.config.num_categories:
        categories = own.category_names, other.category_names
        layers.append(
            _NamedLayers("category embedding", "categories", "category.", "", *categories)
        )
    return layers


def _check_same_sizes(model: PretrainedModel, weights: PretrainedModel) -> None:
    kind, other = type(model), type(weights)
    if kind is not other or not isinstance(model, Classifier | Segmenter):
        raise ValueError(
            f"the checkpoint is of an {other.__name__}, the network is an {kind.__name__}"
        )
    own, theirs = ({n: v.shape for n, v in each.state_dict().items()} for each in (model, weights))
    prefixes = tuple(layers.prefix for layers in _named_layers(model, weights))
    misfits = [
        name
        for name in own.keys() | theirs.keys()
        if not name.startswith(prefixes) and own.get(name) != theirs.get(name)
    ]
    if not misfits:
        return
    differences = []
    for field in fields(model.config):
        here, there = getattr(model.config, field.name), getattr(weights.config, field.name)
        if here != there and (field.name not in _COUNTS or not (here and there)):
            differences.append(
                f"{field.name} is {there} in the checkpoint and {here} in the network"
            )
    raise ValueError(
        f"the checkpoint does not fit the network: {'; '.join(differences)}; leave out the size "
        "and these settings to use the network of the checkpoint"
    )
