"""Which clouds an evaluation sees: those of a run, or of any data set for any weights."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ea_pointcloud._checks import check_at_least
from ea_pointcloud.datasets import ShapeNetPart, open_dataset
from ea_pointcloud.datasets.subset import limit_shapes
from ea_pointcloud.descriptors.channels import descriptor_of, file_channels
from ea_pointcloud.models import Classifier, PretrainedModel, Segmenter
from ea_pointcloud.models.pretrained import CONFIG_FILE, resolve_weights
from ea_pointcloud.training.data import Shapes, open_held_out
from ea_pointcloud.training.recipe_keys import Recipe
from ea_pointcloud.training.run_folder import load_run_recipe

FIGURES_FILE = "figures.json"  # beside the weights that come with the package


@dataclass(frozen=True)
class EvaluationOptions:
    """What may differ from the recipe of a run, or from what is usual for weights; None keeps that.

    Args:
        num_points: points of each cloud, 0 for all that are stored.
        batch_size: clouds at a time.
        votes: passes over randomly scaled clouds, 0 for none.
        limit: number of clouds, spread evenly over the split.
    """

    num_points: int | None = None
    batch_size: int | None = None
    votes: int | None = None
    limit: int | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name, least in (("num_points", 0), ("batch_size", 1), ("votes", 0), ("limit", 1)):
            value = getattr(self, name)
            if value is not None:
                check_at_least(name, value, least)

    def applied_to(self, recipe: Recipe) -> Recipe:
        """``recipe`` with these options in the place of its own."""
        data, measured = recipe.data, recipe.eval
        if self.num_points:
            data = replace(data, num_points=self.num_points)
        if self.batch_size is not None:
            measured = replace(measured, batch_size=self.batch_size)
        if self.votes is not None:
            measured = replace(measured, votes=self.votes)
        return replace(recipe, data=data, eval=measured)


USUAL = EvaluationOptions()


def finished_recipe(run: str | Path, data_root: str | Path | None) -> Recipe:
    """As :func:`moved_recipe`, of a run that has both weights, or FileNotFoundError."""
    recipe = moved_recipe(run, data_root)
    for folder in ("best", "last"):
        if not (Path(run) / folder / CONFIG_FILE).is_file():
            raise FileNotFoundError(
                f"{run} holds no {folder} weights: it stopped before its first epoch was complete; "
                f"continue it with --resume {run}"
            )
    return recipe


def moved_recipe(run: str | Path, data_root: str | Path | None) -> Recipe:
    """The recipe of a run, and the root of its data as it is now.

    Raises:
        FileNotFoundError: if ``run`` is not a run folder, or its data are elsewhere now.
    """
    recipe = load_run_recipe(run)
    root = recipe.data.root
    if data_root is None:
        if root is not None and recipe.data.dataset != "procedural" and not Path(root).exists():
            raise FileNotFoundError(
                f"{run} was trained on data in {root}, where there is nothing any more; say where "
                "it is now with --data-root DIR (data_root= in Python)"
            )
        return recipe
    return replace(recipe, data=replace(recipe.data, root=str(data_root)))


def open_of_run(
    recipe: Recipe, split: str, options: EvaluationOptions, farthest_of: int | None = None
) -> Shapes:
    """A split of a run's own data.

    Args:
        recipe: of the run, with ``options`` applied to it.
        split: ``"train"``, ``"val"`` or ``"test"``.
        options: see :class:`EvaluationOptions`.
        farthest_of: see :func:`~ea_pointcloud.training.data.open_held_out`.
    """
    every = None if options.num_points is None else options.num_points == 0
    features, given = recipe.data.features, recipe
    if descriptor_of(features):  # of the clouds that are measured alone
        given = replace(recipe, data=replace(recipe.data, features=[]))
    dataset = open_held_out(given, split, farthest_of=farthest_of, all_points=every)
    return _limited(dataset, options.limit, features)


def open_for_weights(
    weights: str | Path,
    model: PretrainedModel,
    split: str,
    data: str | Path | None,
    data_root: str | Path | None,
    options: EvaluationOptions = USUAL,
) -> tuple[Shapes, str]:
    """A split of any data set, as ``classify`` or ``segment`` would show its clouds to a network.

    Classifiers see as many points as in training, by farthest point sampling of all that are
    stored; segmenters see every point.

    Args:
        weights: their name or path.
        model: these weights.
        split: ``"train"``, ``"val"`` or ``"test"``.
        data: name or folder of the data set; if omitted ``data_root`` itself, or for weights of
            the package the set they were trained on, below it.
        data_root: where names of data sets are looked for.
        options: see :class:`EvaluationOptions`.

    Returns:
        dataset: the clouds.
        name: of the data set, for a person.

    Raises:
        FileNotFoundError: if there is no such data.
        ValueError: if nothing says which data set.
    """
    spec = model.data_spec
    usual = spec.num_points if isinstance(model, Classifier) else 0
    given: dict[str, Any] = {
        "split": split,
        "num_points": usual if options.num_points is None else options.num_points,
        "sampling": "fps",
    }
    given |= {"features": file_channels(spec.features), "parts": isinstance(model, Segmenter)}
    if data is not None:
        dataset, name = open_dataset(data, data_root=data_root, **given), data
    else:
        dataset, name = _own_data(weights, data_root, given)
    return _limited(dataset, options.limit, spec.features), str(name)


def _limited(dataset: Shapes, limit: int | None, features: Sequence[str]) -> Shapes:
    """At most ``limit`` clouds, of which alone descriptors are computed."""
    dataset = limit_shapes(dataset, limit)
    descriptor = descriptor_of(features)
    if descriptor is not None:
        if not isinstance(dataset, ShapeNetPart):
            raise ValueError(
                f"{descriptor} are computed for sets in ShapeNetPart's layouts, got "
                f"{type(dataset).__name__}; evaluate on such a set"
            )
        dataset.describe(descriptor)
    return dataset


def _own_data(
    weights: str | Path, data_root: str | Path | None, given: dict[str, Any]
) -> tuple[Shapes, str | Path]:
    """The set that ``weights`` were trained on, where it is known, else the folder given."""
    figures = resolve_weights(weights) / FIGURES_FILE
    if figures.is_file():
        trained = json.loads(figures.read_text(encoding="utf-8"))
        name = trained["evaluation"][0]["recipe"]["data"]["name"]
        try:
            return open_dataset(name, data_root=data_root, **given), name
        except FileNotFoundError:
            if data_root is None:
                raise
    if data_root is None:
        raise ValueError(
            f"{weights} is not a run folder, which would name its data; give the data set to "
            "evaluate on, with --data SET or --data-root DIR (data= or data_root= in Python)"
        )
    return open_dataset(data_root, **given), data_root
