"""Files written whole, beside the target and renamed; JSON and texts of unknown origin."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

LARGEST_JSON = 2**24  # bytes


def write_whole(path: Path, content: bytes | str) -> None:
    """Replace ``path`` by ``content`` (text as UTF-8), or leave everything as it was.

    Raises:
        FileNotFoundError: if the folder does not exist.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent}: no such folder; create it first")
    with whole_file(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """The path of a file to write, which replaces ``path`` when the block ends without an error."""
    name = os.fsencode(path.name)
    # A name has 255 bytes at most; the hash stands for one that leaves no room for more.
    short = path.name if len(name) < 200 else hashlib.sha256(name).hexdigest()
    partial = path.with_name(f".{short}.{os.getpid()}.partial")
    partial.unlink(missing_ok=True)  # a link with this name must not be written through
    try:
        yield partial
        partial.replace(path)
    except OSError as error:
        if error.errno is not None and error.filename in (None, str(partial), partial):
            error.filename = str(path)  # a full disk is reported without one
        raise
    finally:
        partial.unlink(missing_ok=True)


def read_json_object(path: Path, remedy: str) -> dict[str, Any]:
    """The names and values in a JSON file.

    Raises:
        ValueError: if it is not JSON, something else than an object, or absurdly large or deep;
            the message ends with ``remedy``.
    """
    if path.stat().st_size > LARGEST_JSON:
        raise ValueError(f"{path} has over {LARGEST_JSON:,} bytes; {remedy}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON ({str(error)[:100]}); {remedy}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(content).__name__}; {remedy}")
    return content


def printable(text: str, *, keep: str = "\n") -> str:
    """``text`` with whatever a terminal might obey escaped, but for the characters in ``keep``."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else ascii(c)[1:-1] for c in text)
