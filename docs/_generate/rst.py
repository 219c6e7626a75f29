"""Pieces of reStructuredText."""

import re
from collections.abc import Iterable
from textwrap import indent


def heading(text: str, underline: str = "=") -> str:
    """A heading with its line."""
    return f"{text}\n{underline * len(text)}\n"


def escaped(text: str) -> str:
    """Plain text in which nothing is markup."""
    return re.sub(r"([*`|_\\])", r"\\\1", text)


def literal(text: str) -> str:
    """Text as code; an empty one is left empty."""
    return f"``{text}``" if text else ""


def table(head: Iterable[str], rows: Iterable[Iterable[str]], widths: str = "auto") -> str:
    """A table; cells hold markup, of one or more lines."""
    lines = [".. list-table::", "   :header-rows: 1", f"   :widths: {widths}", ""]
    for row in [head, *rows]:
        for place, cell in enumerate(row):
            mark = "   * - " if place == 0 else "     - "
            lines.append(mark + indent(cell, " " * 7).lstrip())
    return "\n".join(lines) + "\n"
