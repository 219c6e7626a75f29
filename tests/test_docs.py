"""The documentation names keys, commands, recipes, pages and functions that exist; no Sphinx."""

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from _generate import FOLDERS, command_line, model_cards, recipe_keys, reference

from ea_pointcloud.training.recipe import list_recipes

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PACKAGE = ROOT / "ea_pointcloud"
PAGES = sorted(
    page
    for page in DOCS.rglob("*.md")
    if page.relative_to(DOCS).parts[0] not in {*FOLDERS, "_generate"}
)
KEYS = recipe_keys.recipe_fields()
COMMANDS = command_line.commands()
# Pages that a build writes.
GENERATED = {
    *(f"weights/{name}" for name in model_cards()),
    *(f"notebooks/{path.stem}" for path in (ROOT / "notebooks").glob("*.ipynb")),
    *(f"reference/{name}" for name in ("command_line", "networks", "recipe_keys", "recipes")),
    "reference/index",
    "reference/ops",
}

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"(?ms)^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"))


def shell_commands(page: Path) -> Iterator[list[str]]:
    """The words of every command of ours in the shell blocks of a page."""
    for block in blocks(page, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if "ea-pointcloud" in words:
                yield words[words.index("ea-pointcloud") + 1 :]
            elif "ea_pointcloud" in words:
                yield words[words.index("ea_pointcloud") + 1 :]


def test_every_key_is_on_the_page_with_a_meaning() -> None:
    assert [key for key, (_, meaning) in KEYS.items() if not meaning] == []
    page = recipe_keys.keys_page()
    assert [key for key in KEYS if f".. confval:: {key}\n" not in page] == []
    assert "``eamlp`` in :ref:`modelnet10_eamlp <recipe-modelnet10_eamlp>`" in page


@pytest.mark.parametrize("prefix", recipe_keys.recipe_sections())
def test_no_meaning_of_a_key_that_is_gone(prefix: str) -> None:
    kind = recipe_keys.recipe_sections()[prefix]
    _, meanings = recipe_keys.documented(kind)
    assert set(meanings) == set(kind.__dataclass_fields__)


def test_every_recipe_has_a_section_with_what_its_comment_says() -> None:
    sections = recipe_keys.recipes_page().split(".. _recipe-")[1:]
    assert [section.partition(":")[0] for section in sections] == list_recipes()
    for name, section in zip(list_recipes(), sections, strict=True):
        assert f"ea-pointcloud train {name}\n" in section
        comment, _, recipe = section.split(".. code-block:: ")
        assert 8 < len(comment.split()) < 150
        keys = [line.strip() for line in recipe.splitlines()[1:] if line.strip()]
        assert keys == [
            line.strip()
            for line in recipe_keys.recipe_text(name).splitlines()
            if line.strip() and line[0] != "#"
        ]


def test_every_setting_of_every_network_has_a_meaning() -> None:
    page = recipe_keys.networks_page()
    empty = re.findall(r"   \* - ``(\w+)``\n     - .*\n     - ?\n", page)
    assert empty == []
    assert "``tiny``" in page


def test_every_command_has_a_section_and_examples() -> None:
    page = command_line.page()
    for path, command in COMMANDS.items():
        section = page.split(f"\n{path}\n---")[1].split("\n---")[0]
        assert hasattr(command, "commands") or "Examples:" in section
        for option in (option for each in command.params for option in each.opts):
            assert option in section or not option.startswith("-")


def test_every_module_with_a_section_is_there() -> None:
    for name in reference.MODULES:
        path = PACKAGE / name.replace(".", "/")
        assert path.with_suffix(".py").is_file() or path.is_dir(), name


@each_page
def test_commands_and_their_options_are_there(page: Path) -> None:
    for words in shell_commands(page):
        size = 2 if words[0] == "data" else 1
        command = COMMANDS.get(" ".join(["ea-pointcloud", *words[:size]]))
        assert command is not None, words
        known = {name for each in command.params for name in (*each.opts, *each.secondary_opts)}
        options = {word for word in words[size:] if re.match(r"--?[a-z]", word)}
        assert options <= known, words
        if words[0] == "train" and not words[1].endswith(".yaml") and words[1] != "--resume":
            assert words[1] in list_recipes(), words


@each_page
def test_keys_are_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    sections = "|".join(name.rstrip(".") for name in recipe_keys.recipe_sections() if name)
    named = set(re.findall(rf"\b((?:{sections})\.[a-z_]+)=", text))
    named |= set(re.findall(r"\{confval\}`([\w.]+)`", text))
    assert {name for name in named if not name.startswith("model.overrides")} <= set(KEYS)


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    pages = [*re.findall(r"\{doc\}`(?:[^`<]*<)?([\w./-]+)>?`", text)]
    for toctree in re.findall(r"(?ms)^```\{toctree\}\n(.*?)^```", text):
        pages += re.findall(r"(?m)^([\w./]+)$", toctree)
    known = {path.relative_to(DOCS).with_suffix("").as_posix() for path in PAGES} | GENERATED
    for target in pages:
        path = (page.parent / target).resolve().relative_to(DOCS).as_posix()
        assert path in known, target
    files = re.findall(r"!?\[[^\]]*\]\((?!https?:)([^)#]+)\)", text)
    files += re.findall(r"```\{include\} (\S+)", text)
    for target in files:
        assert (page.parent / target).exists(), target
    for target in re.findall(r"\bscripts/[\w./-]+\w", text):
        assert (ROOT / target).exists(), target


def test_every_page_is_in_the_contents() -> None:
    listed = re.findall(r"(?m)^([a-z]\w*(?:/\w+)*)$", (DOCS / "index.md").read_text())
    pages = {path.relative_to(DOCS).with_suffix("").as_posix() for path in PAGES} - {"index"}
    assert pages <= set(listed)


@each_page
def test_snippets_import_what_is_there(page: Path) -> None:
    for block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if not isinstance(node, ast.ImportFrom) or node.module is None:
                continue
            if node.module.split(".")[0] != "ea_pointcloud":
                continue
            path = ROOT / node.module.replace(".", "/")
            source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
            for alias in node.names:
                assert re.search(rf"\b{alias.name}\b", source.read_text()), (
                    node.module,
                    alias.name,
                )
