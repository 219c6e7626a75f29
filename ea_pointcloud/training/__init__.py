"""Training: recipes, the Lightning module, run folders, evaluation.

Names are imported on first use: reading a recipe needs no Lightning.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ea_pointcloud.training.api import evaluate as evaluate
    from ea_pointcloud.training.api import train as train
    from ea_pointcloud.training.recipe import list_recipes as list_recipes
    from ea_pointcloud.training.recipe import load_recipe as load_recipe

_HOME = {"evaluate": "api", "list_recipes": "recipe", "load_recipe": "recipe", "train": "api"}

__all__ = ["evaluate", "list_recipes", "load_recipe", "train"]


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562)."""
    if name in _HOME:
        return getattr(import_module(f"ea_pointcloud.training.{_HOME[name]}"), name)
    raise AttributeError(f"module 'ea_pointcloud.training' has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names."""
    return list(__all__)
