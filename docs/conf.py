"""How Sphinx builds the documentation: ``bash scripts/docs.sh``."""

import re
import sys
from pathlib import Path

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS), str(DOCS.parent)]

import _generate  # noqa: E402

from ea_pointcloud import __version__  # noqa: E402

project = "ea_pointcloud"
author = "the authors of ea_pointcloud"
project_copyright = "2026, the authors of ea_pointcloud"
version = release = __version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
exclude_patterns = ["_generate"]

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autosummary_generate = False
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
python_maximum_signature_line_length = 80
python_use_unqualified_type_names = True
add_module_names = False

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # the tests execute them

html_theme = "furo"
html_title = f"ea_pointcloud {release}"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_copy_source = False
html_show_sphinx = False
copybutton_exclude = ".linenos, .gp, .go"


def _is_tuple_field(app, what, name, member, skip, options):
    """Leave out the members of named tuples, which only repeat the arguments of the class."""
    return True if (member.__doc__ or "").startswith("Alias for field number") else skip


def _list_returns(app, what, name, obj, options, lines):
    """Turn a ``Returns`` section with several named values into a list, before napoleon."""
    text = "\n".join(lines) + "\n"
    section = re.search(r"(?m)^Returns:\n((?:    .*\n|\n)+)", text)
    values = re.findall(r"(?m)^    (\w+): (.*\n(?:     .*\n)*)", section[1]) if section else []
    if len(values) > 1:
        listed = "".join(f"    - ``{value}``: {' '.join(rest.split())}\n" for value, rest in values)
        text = text.replace(section[1], f"    A tuple\n\n{listed}\n")
        lines[:] = text.split("\n")


def setup(app):
    """Write the generated pages before Sphinx reads the others."""
    app.connect("builder-inited", lambda _: _generate.write(DOCS))
    app.connect("autodoc-skip-member", _is_tuple_field)
    app.connect("autodoc-process-docstring", _list_returns, priority=400)
