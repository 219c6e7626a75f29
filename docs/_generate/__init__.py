"""Pages that are made at every build: recipe keys, commands, reference, and copies of files.

Nothing here needs Sphinx, so that the tests can check the pages.
"""

import re
import shutil
from pathlib import Path

from _generate import command_line, recipe_keys, reference

ROOT = Path(__file__).resolve().parent.parent.parent
# Written again at every build, and ignored by git.
FOLDERS = ("notebooks", "reference", "weights")


def write(docs: Path) -> None:
    """Write all generated pages into the folder ``docs``."""
    pages = {f"reference/{name}.rst": text for name, text in reference.pages().items()}
    pages["reference/command_line.rst"] = command_line.page()
    pages["reference/recipe_keys.rst"] = recipe_keys.keys_page()
    pages["reference/recipes.rst"] = recipe_keys.recipes_page()
    pages["reference/networks.rst"] = recipe_keys.networks_page()
    pages |= {f"weights/{name}.md": text for name, text in model_cards().items()}
    for folder in FOLDERS:
        shutil.rmtree(docs / folder, ignore_errors=True)
        (docs / folder).mkdir()
    for name, text in pages.items():
        (docs / name).write_text(text, encoding="utf-8")
    for notebook in (ROOT / "notebooks").glob("*.ipynb"):
        shutil.copyfile(notebook, docs / "notebooks" / notebook.name)


def model_cards() -> dict[str, str]:
    """Name -> card of all weights in the package, without the front matter for the hub."""
    cards = sorted((ROOT / "ea_pointcloud" / "weights").glob("*/README.md"))
    front = re.compile(r"\A---\n.*?\n---\n", re.S)
    return {card.parent.name: front.sub("", card.read_text(encoding="utf-8")) for card in cards}
