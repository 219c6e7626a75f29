"""The runs of a table of results, and training of those that are missing."""

import hashlib
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ea_pointcloud._checks import check_at_least
from ea_pointcloud.training.distributed import processes_of
from ea_pointcloud.training.fit import train
from ea_pointcloud.training.recipe import load_recipe, recipe_values, run_name
from ea_pointcloud.training.recipe_keys import Recipe
from ea_pointcloud.training.run_folder import (
    COMPLETE_FILE,
    MAY_CHANGE,
    RECIPE_FILE,
    check_run,
)

_LONGEST = 120  # letters of a folder's name that say what was replaced


@dataclass(frozen=True)
class Variant:
    """A recipe with values replaced: one row of a table, whatever the seed.

    ``{seed}`` in a value stands for the seed: with ``model.init=runs/a-seed{seed}`` every training
    begins with weights of its own.

    Args:
        recipe: name of a packaged recipe, or path of a YAML file.
        own: ``key=value`` of this row.
        shared: ``key=value`` of all rows, replaced first.
    """

    recipe: str
    own: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The recipe and its own overrides."""
        return ":".join([self.recipe, *self.own])

    def load(self, seed: int) -> Recipe:
        """The checked recipe with this seed; raises as ``load_recipe`` does."""
        recipe = load_recipe(self.recipe, [*self.overrides(seed), f"trainer.seed={seed}"])
        if recipe.model.init is None or not Path(recipe.model.init).exists():
            return recipe
        source = str(Path(recipe.model.init).resolve())  # as the run itself writes it down
        return replace(recipe, model=replace(recipe.model, init=source))

    def overrides(self, seed: int) -> list[str]:
        """Every ``key=value``, those of all rows first."""
        return [each.replace("{seed}", str(seed)) for each in (*self.shared, *self.own)]

    def folder(self, recipe: Recipe) -> str:
        """The name of the run folder of a recipe from :meth:`load`.

        Without replaced values it is that of ``ea-pointcloud train``; where the data lies and other
        values that may change within a run are left out.
        """
        replaced = []
        for override in self.overrides(recipe.trainer.seed):
            key, _, value = override.partition("=")
            if key not in MAY_CHANGE:
                replaced.append(re.sub(r"[^\w.,=+-]+", "", f"{key.rpartition('.')[2]}={value}"))
        words = "-".join(replaced)
        if len(words) > _LONGEST:
            words = f"{words[:_LONGEST]}-{hashlib.sha256(words.encode()).hexdigest()[:8]}"
        return run_name(recipe, words)


@dataclass(frozen=True)
class PlannedRun:
    """One training that a table needs.

    Args:
        variant: the row it belongs to.
        recipe: checked, with its seed.
        run: the run folder, which may be there or not.
    """

    variant: Variant
    recipe: Recipe
    run: Path

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left to train."""
        return (self.run / COMPLETE_FILE).is_file()

    @property
    def command(self) -> str:
        """The command that trains it alone."""
        seed = self.recipe.trainer.seed
        words = ["ea-pointcloud", "train", self.variant.recipe, *self.variant.overrides(seed)]
        return shlex.join([*words, f"trainer.seed={seed}", "--run-dir", str(self.run)])

    def complete(self) -> None:
        """Train it from the start, from where it stopped, or not at all; see :func:`train`."""
        if not self.is_complete:
            train(self.recipe, self.run, resume=_has_begun(self.run))


def parse_variants(words: Sequence[str]) -> list[Variant]:
    """Parse the rows of a table.

    Args:
        words: ``RECIPE`` or ``RECIPE:key=value:key=value`` for a row, and ``key=value`` for all of
            them.

    Raises:
        ValueError: if there is no row, a row is there twice, or a seed is among the values.
    """
    rows = [word.split(":") for word in words if "=" not in word.split(":")[0]]
    shared = tuple(word for word in words if "=" in word.split(":")[0])
    if not rows:
        raise ValueError("name at least one recipe: modelnet10, or modelnet10:model.name=dgcnn")
    variants = [Variant(recipe, tuple(own), shared) for recipe, *own in rows]
    for variant in variants:
        if variants.count(variant) > 1:
            raise ValueError(f"{variant.name} is there twice; name each row once")
        for override in (*variant.own, *shared):
            if override.startswith("trainer.seed="):
                raise ValueError(f"the number of seeds decides about {override!r}; leave it out")
    return variants


def plan(variants: Sequence[Variant], seeds: int, runs: str | Path) -> list[PlannedRun]:
    """The trainings of a table, all checked before the first begins; the first seed of all first.

    Args:
        variants: the rows.
        seeds: how many of each: 0, 1, ...
        runs: the folder of run folders.

    Raises:
        FileNotFoundError: if there is no such recipe.
        ValueError: if a recipe is impossible, figures of the rows could not stand in one column, a
            run folder holds another recipe, or a recipe needs several processes.
        FileExistsError: if a run folder is something else.
    """
    check_at_least("seeds", seeds, 1)
    planned = []
    for seed in range(seeds):
        for variant in variants:
            recipe = variant.load(seed)
            planned.append(PlannedRun(variant, recipe, Path(runs) / variant.folder(recipe)))
    first = planned[0]
    for one in planned:
        for key in ("task", "eval.votes", "eval.tta_copies"):
            value, other = (recipe_values(each.recipe)[key] for each in (first, one))
            if value != other:
                raise ValueError(
                    f"all rows must have the same {key}: {first.variant.name} has {value}, "
                    f"{one.variant.name} has {other}; make a table of each, or replace the value"
                )
        if processes_of(one.recipe.trainer).shard.world_size > 1:
            raise ValueError(
                f"{one.variant.name} is to be trained by several processes, which a table does not "
                f"start; train it with '{one.command}', then only evaluate"
            )
        same = [other for other in planned if other.run == one.run]
        if len(same) > 1:
            raise ValueError(
                f"{same[0].variant.name} and {same[1].variant.name} would share the run folder "
                f"{one.run}; make a table of each in folders of their own"
            )
        try:
            check_run(one.recipe, one.run, resume=_has_begun(one.run))
        except (ValueError, FileExistsError) as error:
            remedy = "or name another folder of runs"
            raise type(error)(f"{one.variant.name}: {error}; {remedy}") from None
    return planned


def _has_begun(run: Path) -> bool:
    return (run / RECIPE_FILE).is_file()
