"""What the readers of all formats share: the error, what they return, and text."""

import codecs
import gzip
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ea_pointcloud._files import printable

LONGEST_MESSAGE = 300
LOOK = "look at it in a text editor"
INCOMPLETE = "it is incomplete: compare its size with the original's"
DAMAGED = "compare it with the original or export it again"
SOURCE = "export it again from its source"
UNZIPPED = 2**25  # bytes that a compressed text may hold, and ...
UNZIPPED_PER_BYTE = 20  # ... more for a large one


class CloudFileError(ValueError):
    """A file that cannot be read as a cloud; the message names file, place and remedy.

    It has at most ``LONGEST_MESSAGE`` characters, those from the file escaped for a terminal.
    """

    def __init__(self, message: str) -> None:
        super().__init__(_shortened(escaped(message)))

    @classmethod
    def of_files(cls, message: str) -> "CloudFileError":
        """The error of several files, with a line each."""
        error = cls("")
        error.args = ("\n".join(_shortened(escaped(line)) for line in message.split("\n")),)
        return error


def _shortened(message: str) -> str:
    if len(message) <= LONGEST_MESSAGE:
        return message
    return f"{message[:180]} ... {message[185 - LONGEST_MESSAGE :]}"  # name in front, remedy last


def escaped(text: str) -> str:
    """``text`` without line breaks and whatever else a terminal might obey."""
    return printable(text, keep="")


def listing(names: Iterable[str], most: int = 12) -> str:
    """The first ``most`` names, each cut to 30 characters, and how many there are beyond them."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return " ".join(name[:30] for name in names[:most]) + more


class Options(NamedTuple):
    """What a caller says about a file."""

    index: int | None = None  # which of several clouds
    columns: Sequence[str] | None = None  # a role each, or NAME=ROLE


_NOTHING: Mapping[Any, Any] = {}  # never changed; a MappingProxyType cannot be pickled


class Points(NamedTuple):
    """Points as the file has them: any numeric dtype, colours and labels not yet interpreted."""

    xyz: np.ndarray  # (N, 3)
    normals: np.ndarray | None = None  # (N, 3)
    colors: np.ndarray | None = None  # (N, 3), 0..1 or the range of an integer type
    labels: np.ndarray | None = None  # (N,), whole numbers of any dtype
    confidence: np.ndarray | None = None  # (N,)
    intensity: np.ndarray | None = None  # (N,)
    extras: Mapping[str, np.ndarray] = _NOTHING  # (N,) each
    notes: tuple[str, ...] = ()  # what the user should hear about the file
    label_names: Mapping[int, str] = _NOTHING
    up: str | None = None

    def select(self, which: np.ndarray) -> "Points":
        """Those that an (N,) mask names."""
        parts = {part: getattr(self, part) for part in ("xyz", *PARTS)}
        chosen = {name: None if part is None else part[which] for name, part in parts.items()}
        extras = {name: values[which] for name, values in self.extras.items()}
        return self._replace(**chosen, extras=extras)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """All of it as named arrays, for a pipe."""
        arrays = {name: getattr(self, name) for name in ("xyz", *PARTS)}
        arrays |= {f"extras/{name}": values for name, values in self.extras.items()}
        if self.notes:
            arrays["notes"] = np.frombuffer("\n".join(self.notes).encode(), np.uint8)
        return {name: array for name, array in arrays.items() if array is not None}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> "Points":
        """Undo :meth:`to_arrays`."""
        notes = arrays.pop("notes", np.empty(0, np.uint8)).tobytes().decode()
        extras = {
            name.removeprefix("extras/"): arrays.pop(name)
            for name in list(arrays)
            if name.startswith("extras/")
        }
        parts: dict[str, Any] = {name: arrays.get(name) for name in PARTS}
        return cls(arrays["xyz"], **parts, extras=extras, notes=tuple(notes.splitlines()))


class Meaning(NamedTuple):
    """What labels and axes mean, beside the numbers."""

    label_names: Mapping[int, str]
    up: str | None


PARTS = ("normals", "colors", "labels", "confidence", "intensity")  # of a point, beside xyz
Columns = dict[str, np.ndarray]  # to write: xyz float64, the PARTS and extras there are


class Mesh(NamedTuple):
    """Triangles as the file has them; the indices are not yet checked."""

    vertices: np.ndarray  # (V, 3) float64
    faces: np.ndarray  # (F, 3) int64
    notes: tuple[str, ...] = ()
    colors: np.ndarray | None = None  # (V, 3) as in Points
    labels: np.ndarray | None = None  # (V,)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Its arrays, for a pipe."""
        arrays = {name: getattr(self, name) for name in ("vertices", "faces", "colors", "labels")}
        return {name: array for name, array in arrays.items() if array is not None}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> "Mesh":
        """Undo :meth:`to_arrays`."""
        return cls(**arrays)  # pyright: ignore[reportArgumentType]


def is_compressed(path: Path) -> bool:
    """Whether the name ends in ``.gz``."""
    return path.suffix.lower() == ".gz"


def suffix_of(path: Path) -> str:
    """``.xyz`` of ``a.xyz`` and ``a.XYZ.gz``."""
    return (Path(path.stem) if is_compressed(path) else path).suffix.lower()


def read_bytes(path: Path) -> bytes:
    """The content, decompressed if the name ends in ``.gz``; UTF-16 and UTF-8 marks as UTF-8."""
    if is_compressed(path):
        most = UNZIPPED + UNZIPPED_PER_BYTE * path.stat().st_size
        try:
            with gzip.open(path) as file:
                data = file.read(most + 1)
        except (OSError, EOFError, zlib.error) as error:
            raise CloudFileError(
                f"{path.name}: damaged or not a gzip file ({error}); {DAMAGED}"
            ) from error
        if len(data) > most:
            raise CloudFileError(f"{path.name}: holds over {most:,} bytes; decompress it first")
    else:
        data = path.read_bytes()
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", errors="replace").encode()
    return data.removeprefix(codecs.BOM_UTF8)


def read_text_file(path: Path) -> str:
    """The content as text, see :func:`decode_text`."""
    return decode_text(path, read_bytes(path))


def decode_text(path: Path, data: bytes) -> str:
    """UTF-8 bytes as text.

    Raises:
        CloudFileError: if it looks like UTF-16 without a byte-order mark, or like no text.
    """
    start = data[:1000]
    if b"\0" in start:
        half = start.count(b"\0") > len(start) / 3
        what = "UTF-16 text without a byte-order mark" if half else "not text but bytes"
        raise CloudFileError(f"{path.name}: is {what}; save it as UTF-8 text")
    return data.decode("utf-8", errors="replace")


def whole_number(text: str) -> int | None:
    """The count that ``text`` is; None where it is not, or has more digits than any file needs."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 19 else None


def truncated(path: Path, what: str, promised: int, held: int) -> CloudFileError:
    """The error of a header that promises more than follows."""
    return CloudFileError(
        f"{path.name}: the header promises {promised} {what}, the file holds {held}; {INCOMPLETE}"
    )


def ignored(count: int, what: str) -> str:
    """The note about what follows the last point or face that the header promises."""
    return f"{count} {what} after what the header promises are left out"


@lru_cache(1000)
def plain_name(name: str) -> str:
    """Lower case, without a unit in brackets or CloudCompare's ``scalar_``."""
    name = re.sub(r"\s*[\[(][^\])]*[\])]$", "", name.strip().strip("\"'"))
    return name.strip().lower().removeprefix("scalar_")
