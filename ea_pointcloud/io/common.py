"""What the readers of all formats share: error, results, text, rows of numbers, values."""

import codecs
import gzip
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

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
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def listing(names: Iterable[str], most: int = 12) -> str:
    """The first ``most`` names, each cut to 30 characters, and how many there are beyond them."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return " ".join(name[:30] for name in names[:most]) + more


class Options(NamedTuple):
    """What a caller says about a file."""

    index: int | None = None  # which of several clouds
    columns: Sequence[str] | None = None  # a role each, or NAME=ROLE


class Points(NamedTuple):
    """Points as the file has them: any numeric dtype, colours and labels not yet interpreted."""

    xyz: np.ndarray  # (N, 3)
    normals: np.ndarray | None = None  # (N, 3)
    colors: np.ndarray | None = None  # (N, 3), 0..1 or the range of an integer type
    labels: np.ndarray | None = None  # (N,), whole numbers of any dtype
    confidence: np.ndarray | None = None  # (N,)
    intensity: np.ndarray | None = None  # (N,)
    extras: Mapping[str, np.ndarray] = MappingProxyType({})  # (N,) each
    notes: tuple[str, ...] = ()  # what the user should hear about the file

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
        parts = {name: arrays.get(name) for name in PARTS}
        return cls(arrays["xyz"], **parts, extras=extras, notes=tuple(notes.splitlines()))


PARTS = ("normals", "colors", "labels", "confidence", "intensity")  # of a point, beside xyz
Columns = dict[str, np.ndarray]  # to write: xyz float64, the PARTS and extras there are


class Mesh(NamedTuple):
    """Triangles as the file has them; the indices are not yet checked."""

    vertices: np.ndarray  # (V, 3) float64
    faces: np.ndarray  # (F, 3) int64
    notes: tuple[str, ...] = ()

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Its arrays, for a pipe."""
        return {"vertices": self.vertices, "faces": self.faces}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> "Mesh":
        """Undo :meth:`to_arrays`."""
        return cls(arrays["vertices"], arrays["faces"])


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


Lines = list[tuple[int, str]]  # (line number from 1, text)


def number_lines(text: str, first: int = 1) -> Lines:
    """Number the lines of ``text`` and drop the blank ones."""
    lines = enumerate(text.splitlines(), first)
    return [(number, line) for number, line in lines if line and not line.isspace()]


def parse_rows(
    path: Path,
    lines: Lines,
    *,
    delimiter: str | None = None,
    columns: Sequence[int] | None = None,
    kind: type[float] | type[int] = float,
) -> np.ndarray:
    """Turn lines of numbers into a table.

    Args:
        path: the file, for the message.
        lines: R >= 1 lines.
        delimiter: one character; any white space if omitted.
        columns: those wanted, when lines may have further ones; if omitted, all lines need the
            same number of columns.
        kind: float, or int for whole numbers.

    Returns:
        (R, C) float64 or int64.

    Raises:
        CloudFileError: if a field is not such a number or a line has too few or too many columns.
    """
    try:
        if not lines[0][1].strip():  # of which numpy would only warn
            raise ValueError("a line has no columns")
        table = np.loadtxt(
            [line for _, line in lines],
            dtype=np.float64 if kind is float else np.int64,
            delimiter=delimiter,
            usecols=columns,
            comments=None,
            ndmin=2,
        )
        if len(table) != len(lines):  # numpy passes over a line without fields
            raise ValueError("a line has no columns")
    except ValueError as error:
        # numpy counts rows, people look for lines: find the place again in the file's own terms.
        fault = _first_fault(path, lines, delimiter, columns, kind)
        raise fault or CloudFileError(f"{path.name}: {error}; {LOOK}") from None
    return table


def _first_fault(
    path: Path,
    lines: Lines,
    delimiter: str | None,
    columns: Sequence[int] | None,
    kind: type[float] | type[int],
) -> CloudFileError | None:
    first_number, first_line = lines[0]
    width = max(columns) + 1 if columns else len(first_line.split(delimiter))
    for number, line in lines:
        fields = line.split(delimiter)
        if len(fields) < width or (len(fields) > width and not columns):
            expected = f"needs {width}" if columns else f"line {first_number} has {width}"
            return CloudFileError(
                f"{path.name}: line {number} has {len(fields)} columns, {expected}; {LOOK}"
            )
        for field in fields[:width]:
            try:
                kind(field)
            except ValueError:
                return CloudFileError(
                    f"{path.name}: line {number}: {field.strip()[:20]!r} is not a "
                    f"{'number' if kind is float else 'whole number'}; {LOOK}"
                )
    return None


def truncated(path: Path, what: str, promised: int, held: int) -> CloudFileError:
    """The error of a header that promises more than follows."""
    return CloudFileError(
        f"{path.name}: the header promises {promised} {what}, the file holds {held}; {INCOMPLETE}"
    )


def ignored(count: int, what: str) -> str:
    """The note about what follows the last point or face that the header promises."""
    return f"{count} {what} after what the header promises are left out"
