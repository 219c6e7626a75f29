"""The reference: a page for each public module, from the docstrings of its public names."""

import importlib
import inspect
import pkgutil
from collections.abc import Iterable
from types import ModuleType
from typing import Any

import ea_pointcloud
from _generate.rst import heading

# Run, not imported.
LEFT_OUT = ("benchmark", "cli")
# Beside the packages and modules that name their public names in ``__all__``: modules whose public
# functions and classes are all documented. One that moves has to move here too.
MODULES = (
    "datasets.procedural",
    "datasets.pyg",
    "inference.calibration",
    "inference.ood",
    "metrics",
    "ops.pyg",
    "robustness.evaluation",
    "training.evaluate_run",
    "training.fit",
    "training.recipe",
    "viz.attention",
)


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"ea_pointcloud.{name}")


def public_names(module: ModuleType) -> list[str]:
    """``__all__``, else the public functions and classes that are defined in the module."""
    names = getattr(module, "__all__", None)
    if names is not None or hasattr(module, "__path__"):
        return [name for name in names or () if not inspect.ismodule(getattr(module, name))]
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (inspect.isclass(value) or inspect.isfunction(value))
        and value.__module__ == module.__name__
    ]


def modules() -> list[ModuleType]:
    """All modules with a section, packages before the modules inside them."""
    entries = [each.name for each in pkgutil.iter_modules(ea_pointcloud.__path__)]
    known = {name: _module(name) for name in entries if name[0] != "_" and name not in LEFT_OUT}
    names = {name for name, module in known.items() if hasattr(module, "__all__")}
    packages = {name.split(".")[0] for name in MODULES}
    return [_module(name) for name in sorted(names.union(MODULES, packages))]


def sections() -> dict[str, list[str]]:
    """Module -> the names that are documented there, each object once, where ``__all__`` is."""
    homes: dict[int, str] = {}
    for module in sorted(modules(), key=lambda each: not hasattr(each, "__all__")):
        for name in public_names(module):
            homes.setdefault(id(getattr(module, name)), module.__name__)
    return {
        module.__name__: [
            name
            for name in public_names(module)
            if homes[id(getattr(module, name))] == module.__name__
        ]
        for module in modules()
    }


def pages() -> dict[str, str]:
    """Name of a page -> its text: an index, and a page for each module or package."""
    found: dict[str, list[str]] = {}
    for module, names in sections().items():
        page = found.setdefault(module.split(".")[1], [])
        page.append(heading(module, "-" if page else "="))
        page.append(f".. automodule:: {module}\n   :no-members:\n\n.. currentmodule:: {module}\n")
        if names:
            package = importlib.import_module(module)
            routines = [name for name in names if callable(getattr(package, name))]
            listed = "".join(f"   {name}\n" for name in routines)
            page.append(f".. autosummary::\n   :nosignatures:\n\n{listed}")
            page += [entry(name, getattr(package, name)) for name in names]
    listed = "".join(f"   {name}\n" for name in sorted(found))
    index = [heading("Python reference"), INTRODUCTION, f".. toctree::\n\n{listed}"]
    return {name: "\n".join(page) for name, page in found.items()} | {"index": "\n".join(index)}


def entry(name: str, value: Any) -> str:
    """The directive for a public name; of a constant its value, for it has no docstring."""
    if inspect.isclass(value) or inspect.isroutine(value):
        kind = "class" if inspect.isclass(value) else "function"
        return f".. auto{kind}:: {name}\n"
    shown = ", ".join(f"``{each}``" for each in value) if isinstance(value, Iterable) else ""
    shown = f"``{value}``" if isinstance(value, str) or not shown else shown
    return f".. py:data:: {name}\n\n   {shown}\n"


INTRODUCTION = """\
What users need first is in ``ea_pointcloud`` itself: ``from ea_pointcloud import Predictor,
read_cloud, write_cloud, create_model``. Everything else is imported from the packages below.

Shapes are written as in ``(B, N, 3)``: B clouds in a batch, N points, S sampled centres or queries,
K neighbours, C channels. Coordinates are right-handed with y up unless a page says otherwise, and
features have their channels last.
"""
