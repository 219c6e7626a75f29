"""Writing files whole: beside the target, then renamed, so that no reader ever sees half of one."""

import os
from pathlib import Path


def write_whole(path: Path, content: bytes | str) -> None:
    """Replace ``path`` by ``content`` (text as UTF-8), or leave everything as it was.

    Raises:
        FileNotFoundError: if the folder does not exist.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent}: no such folder; create it first")
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
