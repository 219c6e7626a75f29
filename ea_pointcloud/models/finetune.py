"""Starting a network from trained weights that may know other names."""

from dataclasses import fields
from typing import NamedTuple

import torch

from ea_pointcloud.models.base import Classifier
from ea_pointcloud.models.base_segmenter import Segmenter
from ea_pointcloud.models.pretrained import PretrainedModel

# Settings that follow from the names.
_COUNTS = ("num_classes", "num_parts", "num_categories")


class _NamedLayers(NamedTuple):
    """Layers that stand for names, and the place of the names in one of them."""

    what: str
    prefix: str
    last: str  # the layer whose outputs are the names, "" where they are inputs
    names: tuple[str, ...]
    known: tuple[str, ...]  # to the weights


def start_from(model: PretrainedModel, weights: PretrainedModel) -> str:
    """Copy into ``model`` all of ``weights`` that means the same there.

    What stands for names (the head of a classifier; of a segmenter the last layer and the one that
    takes the category) is copied where the names are the same, and keeps its random start where
    they are not. Classes or parts in another order are brought into the order of ``model``.

    Args:
        model: the network to train; altered.
        weights: trained; the same architecture with the same sizes, but for the number of names.

    Returns:
        What was taken and what is new, in words.

    Raises:
        ValueError: if the networks do not fit together; names the settings in which they differ.
    """
    _check_same_sizes(model, weights)
    state = weights.state_dict()
    notes = []
    for layers in _named_layers(model, weights):
        what, prefix, last, names, known = layers
        same = set(names) == set(known) if last else names == known
        if not same:
            state = {key: value for key, value in state.items() if not key.startswith(prefix)}
            notes.append(f"new {what} for {len(names)} names (the weights know {len(known)})")
        elif last:
            order = torch.tensor([known.index(name) for name in names])
            state |= {key: state[key][order] for key in (f"{last}.weight", f"{last}.bias")}
            notes.append(f"{what} kept for the same names")
    model.load_state_dict(state, strict=False)
    taken = sum(each.numel() for name, each in model.named_parameters() if name in state)
    total = sum(each.numel() for each in model.parameters())
    return ", ".join([f"{taken:,} of {total:,} parameters taken", *notes])


def _named_layers(model: PretrainedModel, weights: PretrainedModel) -> list[_NamedLayers]:
    names, known = model.data_spec.class_names, weights.data_spec.class_names
    if isinstance(model, Classifier):
        return [_NamedLayers("head", "head.", f"head.{len(model.head) - 1}", names, known)]
    layers = [_NamedLayers("last layer", "out.", "out", names, known)]
    if model.config.num_categories:
        categories = model.data_spec.category_names, weights.data_spec.category_names
        layers.append(_NamedLayers("category layer", "category.", "", *categories))
    return layers


def _check_same_sizes(model: PretrainedModel, weights: PretrainedModel) -> None:
    kind, other = type(model), type(weights)
    if kind is not other or not isinstance(model, Classifier | Segmenter):
        raise ValueError(
            f"the weights are those of an {other.__name__}, the network is an {kind.__name__}"
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
            differences.append(f"{field.name} is {there} in the weights and {here} in the network")
    raise ValueError(
        f"the weights do not fit the network: {'; '.join(differences)}; leave the size and these "
        "settings out to take the network of the weights"
    )
