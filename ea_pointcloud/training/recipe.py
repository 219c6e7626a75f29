"""Recipes: everything that fixes a training run, as structured, checked configuration.

A recipe is a YAML file (packaged in ``ea_pointcloud/recipes`` or one's own) over the defaults of
:mod:`~ea_pointcloud.training.recipe_keys`, with single values replaced by ``key=value``.
"""

from dataclasses import asdict, fields
from importlib import resources
from pathlib import Path
from typing import Any, cast

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from ea_pointcloud._checks import check_choice
from ea_pointcloud._files import write_whole
from ea_pointcloud.models.factory import ARCHITECTURES
from ea_pointcloud.models.pretrained import read_description, resolve_weights
from ea_pointcloud.training.recipe_checks import check_recipe
from ea_pointcloud.training.recipe_data import OWN_FILES
from ea_pointcloud.training.recipe_keys import TASKS, Recipe

_LONGEST = 100_000  # characters; the packaged ones have up to 3,000
_DEEPEST = 16
_LONGEST_REASON = 500  # characters


def list_recipes() -> list[str]:
    """Names of the packaged recipes."""
    folder = resources.files("ea_pointcloud") / "recipes"
    return sorted(item.name[:-5] for item in folder.iterdir() if item.name.endswith(".yaml"))


def load_recipe(name_or_path: str | Path, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe, apply ``key=value`` overrides, and check every value.

    Raises:
        FileNotFoundError: if there is no such recipe.
        ValueError: if a key is unknown, a type is wrong or a value impossible; names the key.
    """
    text, source = _recipe_text(name_or_path)
    config = OmegaConf.structured(Recipe)
    try:
        config = OmegaConf.merge(config, _parsed(text, source))
        inits = [each for each in overrides or [] if each.startswith("model.init=")]
        if any(each.partition("=")[2] not in ("", "null", "~") for each in inits):
            # The network of the weights takes the place of the recipe's own.
            config.model.size, config.model.overrides = None, {}
        for override in overrides or []:
            key, separator, value = override.partition("=")
            if not separator or not key:
                raise ValueError(f"override must read key=value, got {override[:100]!r}")
            source = f"override {override[:100]!r}"
            if key.count(".") + key.count("[") > _DEEPEST:
                raise ValueError(f"{source}: is nested more than {_DEEPEST} deep; a recipe needs 4")
            _check_yaml(value, source)
            change = OmegaConf.from_dotlist([override])
            if OmegaConf.select(change, "model.name") not in (None, config.model.name):
                config.model.overrides = {}  # those of another architecture
            config = OmegaConf.merge(config, change)
        if config.model.init is not None and OmegaConf.is_missing(config.model, "size"):
            config.model.size = None
        missing = OmegaConf.missing_keys(config)
        if missing:
            raise ValueError(f"{source}: {', '.join(sorted(missing))} must be set")
    except (OmegaConfBaseException, YAMLError, TypeError) as error:
        raise ValueError(f"{source}: {_explain(error)}") from error
    try:
        recipe = OmegaConf.to_object(cast("DictConfig", config))
        assert isinstance(recipe, Recipe)
        recipe.name = recipe.name or Path(name_or_path).stem
        check_choice("task", recipe.task, TASKS)
        if recipe.model.init is not None and recipe.model.size is None:
            recipe.model.overrides = network_of(recipe.model.init, recipe)
        check_recipe(recipe)
    except (OmegaConfBaseException, TypeError, ValueError) as error:
        raise ValueError(f"recipe {name_or_path}: {error}") from error
    return recipe


def _check_yaml(text: str, source: str) -> None:
    """Raise for what a recipe has no use for, and what could read or exhaust this machine.

    That is text that is replaced (``${oc.env:NAME}`` would store a secret in the run), one node
    used in several places, and lists in lists without end.
    """
    if "${" in text:
        raise ValueError(f"{source}: ${{...}} is not replaced; write the value itself")
    if len(text) > _LONGEST:
        raise ValueError(f"{source}: has {len(text):,} characters, a recipe at most {_LONGEST:,}")
    depth = 0
    for event in yaml.parse(text):  # needs no recursion, unlike what builds values from it
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent):
            raise ValueError(f"{source}: *{event.anchor} repeats another value; write it out")
        if depth > _DEEPEST:
            raise ValueError(f"{source}: is nested more than {_DEEPEST} deep; a recipe needs 4")


def _parsed(text: str, source: str) -> Any:
    """The keys and values of YAML that :func:`_check_yaml` has passed."""
    _check_yaml(text, source)
    if not isinstance(yaml.compose(text), yaml.MappingNode | None):
        raise ValueError(f"{source}: must hold keys and values, as name: value")
    return OmegaConf.create(text)


def recipe_name(name_or_path: str | Path, overrides: list[str] | None = None) -> str:
    """The name of a recipe, whose other values may be missing; raises as load_recipe."""
    for override in reversed(overrides or []):
        if override.startswith("name="):
            return override.removeprefix("name=")
    text, source = _recipe_text(name_or_path)
    try:
        config = _parsed(text, source)
    except (OmegaConfBaseException, YAMLError) as error:
        raise ValueError(f"{source}: {_explain(error)}") from error
    return str(OmegaConf.select(config, "name") or Path(name_or_path).stem)


def own_up(path: Path) -> str | None:
    """The axis that is up in the files of the recipe at ``path``, if these are a user's own."""
    config = _parsed(*_recipe_text(path))
    own = OmegaConf.select(config, "data.dataset") in OWN_FILES
    return OmegaConf.select(config, "data.up") if own else None


def save_recipe(recipe: Recipe, path: Path) -> None:
    """Write every value of ``recipe`` as YAML that :func:`load_recipe` reads back."""
    write_whole(path, OmegaConf.to_yaml(OmegaConf.structured(recipe)))


def run_name(recipe: Recipe, variant: str = "") -> str:
    """What a run folder is called where nobody says; ``variant`` tells runs of a recipe apart."""
    name = recipe.name
    if recipe.data.dataset in OWN_FILES:
        name = Path(recipe.data.root or "").expanduser().resolve().name
    return "-".join(word for word in (name, variant, f"seed{recipe.trainer.seed}") if word)


def recipe_values(recipe: Recipe) -> dict[str, Any]:
    """Every value under its key, ``{"name": ..., "data.root": ..., ...}``."""
    values: dict[str, Any] = {}
    for section, entries in asdict(recipe).items():
        if isinstance(entries, dict):
            values |= {f"{section}.{key}": value for key, value in entries.items()}
        else:
            values[section] = entries
    return values


def network_of(init: str, recipe: Recipe) -> dict[str, Any]:
    """The overrides that make the network of trained weights, and over them the recipe's own.

    Where the recipe's own say everything, as those of a run do, the weights are not looked for.
    """
    segments = recipe.task == "segmentation"
    check_choice("model.name", recipe.model.name, ARCHITECTURES[recipe.task])
    # What the data says.
    given = {"num_parts", "num_categories"} if segments else {"num_classes"}
    given |= {"feature_channels"}
    overrides = recipe.model.overrides
    kind = recipe.architecture().network.config_class
    if {field.name for field in fields(kind)} - given <= set(overrides):
        return overrides
    try:
        description = read_description(resolve_weights(init))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"model.init: {error}") from error
    known = {each.network.__name__: name for name, each in ARCHITECTURES[recipe.task].items()}
    if description["architecture"] not in known:
        raise ValueError(
            f"model.init={init} holds the weights of an {description['architecture']}, "
            f"task={recipe.task} needs those of an {' or '.join(known)}"
        )
    recipe.model.name = known[description["architecture"]]
    config = asdict(recipe.architecture().network.config_class(**description["config"]))
    values = ((name, config[name]) for name in sorted(set(config) - given))
    # As YAML has them, so that a run can compare its recipe with itself.
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in values}
    return {**plain, **overrides}


def _recipe_text(name_or_path: str | Path) -> tuple[str, str]:
    """The YAML of a packaged recipe or a file, and what to call it in an error."""
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise FileNotFoundError(f"no recipe file {path}")
        try:
            return path.read_text(encoding="utf-8"), str(path)
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not UTF-8 text ({error}); save it as UTF-8") from error
    if str(name_or_path) not in list_recipes():
        raise FileNotFoundError(
            f"no recipe {str(name_or_path)!r}; known are {', '.join(list_recipes())}, "
            "or give the path of a .yaml file"
        )
    resource = resources.files("ea_pointcloud") / "recipes" / f"{name_or_path}.yaml"
    return resource.read_text(encoding="utf-8"), f"recipe {name_or_path}"


def _explain(error: Exception) -> str:
    """One line with the full key, and the keys there are where the key is the trouble."""
    reason = " ".join(str(error).splitlines()[:1]) or type(error).__name__
    if isinstance(error, YAMLError):
        reason = "not valid YAML: " + " ".join(str(error).split())
    key = getattr(error, "full_key", None)
    known = getattr(error, "parent_node", None)
    if "not in" in reason and key and known is not None:
        return f"unknown key {key!r:.100}; known there are {', '.join(sorted(map(str, known)))}"
    return (f"{key}: {reason}" if key else reason)[:_LONGEST_REASON]
