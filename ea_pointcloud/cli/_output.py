"""Where results are printed."""

import shutil
import sys

from rich.console import Console

_PIPE_WIDTH = 400  # no reader of a pipe wants file names broken over lines


def console() -> Console:
    """Standard output: as wide as the terminal, or unbroken lines where it is a file or pipe."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else _PIPE_WIDTH
    return Console(width=width, markup=False, highlight=False, emoji=False)
