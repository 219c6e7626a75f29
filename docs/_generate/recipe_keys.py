"""Pages on recipes: every key, every packaged recipe, and the settings of every network."""

import inspect
import json
import re
from dataclasses import MISSING, Field, fields, is_dataclass
from importlib import resources
from typing import Any

import omegaconf
from omegaconf import OmegaConf

from _generate.rst import escaped, heading, literal, table
from ea_pointcloud.models.factory import ARCHITECTURES
from ea_pointcloud.training.recipe import list_recipes
from ea_pointcloud.training.recipe_keys import Recipe


def documented(kind: type) -> tuple[str, dict[str, str]]:
    """What a class docstring says before ``Args:``, and the meaning of each of these."""
    meanings: dict[str, str] = {}
    for each in reversed([base for base in kind.__mro__ if base.__dict__.get("__doc__")]):
        before, _, after = inspect.cleandoc(each.__doc__ or "").partition("\nArgs:\n")
        block = re.split(r"\n(?=\S)", after)[0]
        for entry in re.split(r"\n(?=    \w)", "\n" + block)[1:]:
            name, _, meaning = entry.strip().partition(":")
            meanings[name] = " ".join(meaning.split())
    return before.strip(), meanings


def recipe_sections() -> dict[str, type]:
    """Prefix of the keys, with its dot -> dataclass; the recipe's own keys have none."""
    inner = {each.name: each.default_factory for each in fields(Recipe)}
    kinds = {f"{name}.": kind for name, kind in inner.items() if is_dataclass(kind)}
    return {"": Recipe} | kinds  # pyright: ignore


def recipe_fields() -> dict[str, tuple[Field[Any], str]]:
    """Key -> its field and its meaning, of all keys of a recipe."""
    sections = recipe_sections()
    return {
        prefix + each.name: (each, documented(kind)[1].get(each.name, ""))
        for prefix, kind in sections.items()
        for each in fields(kind)
        if f"{each.name}." not in sections
    }


def recipe_text(name: str) -> str:
    """The YAML of a packaged recipe."""
    path = resources.files("ea_pointcloud") / "recipes" / f"{name}.yaml"
    return path.read_text(encoding="utf-8")


def default_of(field: Field[Any]) -> str:
    """The default of a field as YAML has it."""
    factory = field.default_factory
    value = factory() if factory is not MISSING else field.default
    if value is MISSING or value == omegaconf.MISSING:
        return "none, must be given"
    return value if isinstance(value, str) and value else json.dumps(value)


def set_by() -> dict[str, dict[str, list[str]]]:
    """Key -> value -> the packaged recipes that set it so."""
    found: dict[str, dict[str, list[str]]] = {}
    for name in list_recipes():
        recipe = OmegaConf.create(recipe_text(name))
        for key in recipe_fields():
            value = OmegaConf.select(recipe, key)
            if value is not None:
                plain = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
                shown = plain if isinstance(plain, str) else json.dumps(plain)
                found.setdefault(key, {}).setdefault(shown, []).append(name)
    return found


def keys_page() -> str:
    """Every key of a recipe: type, default, meaning, and the packaged recipes that set it."""
    known, setting = recipe_fields(), set_by()
    parts = [heading("Recipe keys"), KEYS_INTRODUCTION]
    for prefix, kind in recipe_sections().items():
        parts.append(heading(f"{prefix}\\*" if prefix else "The recipe itself", "-"))
        parts.append(documented(kind)[0] + "\n")
        for key, (field, meaning) in known.items():
            if key.rpartition(".")[0] != prefix.rstrip("."):
                continue
            kind_name = inspect.formatannotation(field.type).replace("typing.", "")
            parts.append(f".. confval:: {key}\n   :type: {literal(kind_name)}")
            parts.append(f"   :default: {literal(default_of(field))}\n")
            parts.append(f"   {meaning[:1].upper()}{meaning[1:]}\n")
            values = [
                f"``{value}`` in " + ", ".join(f":ref:`{name} <recipe-{name}>`" for name in names)
                for value, names in setting.get(key, {}).items()
            ]
            if values:
                parts.append(f"   Set to {'; '.join(values)}.\n")
    return "\n".join(parts)


def recipes_page() -> str:
    """Every packaged recipe: what its first comment says, its command, its YAML."""
    parts = [heading("Recipes"), RECIPES_INTRODUCTION]
    for name in list_recipes():
        comment, rest = re.match(r"((?:#[^\n]*\n)*)(.*)", recipe_text(name), re.S).groups()  # pyright: ignore
        parts += [f".. _recipe-{name}:\n", heading(name, "-")]
        parts.append(escaped(" ".join(re.sub(r"(?m)^#", "", comment).split())) + "\n")
        for language, text in (("bash", f"ea-pointcloud train {name}\n"), ("yaml", rest)):
            body = "".join(f"   {line}\n" for line in text.splitlines())
            parts.append(f".. code-block:: {language}\n\n{body}")
    return "\n".join(parts)


def networks_page() -> str:
    """Every network that a recipe can name: its settings with defaults, and its named sizes."""
    parts = [heading("Network settings"), NETWORKS_INTRODUCTION]
    for task, architectures in ARCHITECTURES.items():
        for name, (network, sizes) in architectures.items():
            title = f"{name}, {task}"
            introduction, meanings = documented(network.config_class)
            parts += [f".. _network-{name}-{task}:\n", heading(title, "-"), introduction + "\n"]
            rows = [
                (literal(each.name), literal(default_of(each)), meanings.get(each.name, ""))
                for each in fields(network.config_class)
            ]
            parts.append(table(("setting", "default", "meaning"), rows, "25 20 55"))
            parts.append("Sizes, and what they set:\n")
            for size, values in sizes.items():
                text = ", ".join(f"{key}={json.dumps(value)}" for key, value in values.items())
                parts.append(f"- ``{size}``: {literal(text) or 'the defaults'}")
            parts.append("")
    return "\n".join(parts)


KEYS_INTRODUCTION = """\
All keys of a recipe. A key is replaced on the command line with ``key=value``, or in a YAML file of
your own:

.. code-block:: bash

   ea-pointcloud train modelnet10 data.root=DATA optim.lr=1e-3 trainer.epochs=10

A value is YAML: ``null``, ``true``, ``[0.8, 1.25]``. An unknown key or an impossible value is an
error before anything slow starts. ``recipe.yaml`` in a run folder holds all of them as they were
used. What the networks' own settings (``model.overrides``) mean is in :doc:`networks`.
"""
RECIPES_INTRODUCTION = """\
The recipes that come with the package. Keys that a recipe does not set have the defaults of
:doc:`recipe_keys`. To write your own, start from one of these:
``ea-pointcloud train path/to/mine.yaml``.
"""
NETWORKS_INTRODUCTION = """\
``model.name`` chooses a network, ``model.size`` one of its named sizes, and ``model.overrides``
replaces single settings, e.g. ``model.overrides.attention=self``. In Python the same is
:func:`~ea_pointcloud.models.create_model`. The numbers of classes, parts and categories, and the
channels of the features, follow from the data when a recipe is trained.
"""
