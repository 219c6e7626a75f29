"""Text files of numbers in rows, of any separator; and such rows inside other formats."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ea_pointcloud.io.columns import (
    SINGLES,
    TRIPLES,
    assign_roles,
    points_from_columns,
)
from ea_pointcloud.io.common import (
    LOOK,
    SOURCE,
    CloudFileError,
    Options,
    Points,
    ignored,
    is_compressed,
    plain_name,
    read_text_file,
    truncated,
    whole_number,
)
from ea_pointcloud.io.layouts import points_from_table

Lines = list[tuple[int, str]]  # (line number from 1, text)
COMMENTS = ("#", "//", ";", "%", "!")
STREAMED = 2**24  # bytes of a file from which on it is not held as text
LONGEST_LINE = 10_000  # characters of the header that are looked at
DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+([eE][+-]?\d+)?")
QUOTED = re.compile(r'"([^"\n]*)"')
NEEDED = {  # columns that must hold numbers
    *(name for triples in TRIPLES.values() for names in triples for name in names),
    *(name for names in SINGLES.values() for name in names),
}


def read_text(path: Path, options: Options) -> Points:
    """Read a table of numbers; separator, header, count of points and comments are recognised.

    Lines that start with ``#``, ``//``, ``;``, ``%`` or ``!`` are comments, except a first one
    that names x, y and z. A number alone is the count of the points that follow it. A decimal comma
    is understood where semicolons or white space separate. A cell may be empty, and a column text,
    where the column is not needed.
    """
    names, table, notes, words = _stream(path) or _read_lines(path, options)
    if names is None:
        points = points_from_table(path, table, options.columns)
    else:
        named = dict(zip(names, table.T, strict=True))
        points = points_from_columns(path, named, options.columns)
    if words and points.labels is not None:
        points = points._replace(label_names=dict(zip(points.labels.tolist(), words, strict=True)))
    return points._replace(notes=points.notes + notes)


class _Table(NamedTuple):
    """A file's content."""

    names: list[str] | None  # of the columns, where it has some
    table: np.ndarray  # (N, C)
    notes: tuple[str, ...] = ()
    words: Sequence[str] = ()  # the name of each point's label


def _stream(path: Path) -> _Table | None:
    """Read a large file that is rows of numbers below at most one header, else None.

    Its text is never held: as lines it takes eight times the memory of the numbers.
    """
    if path.stat().st_size < STREAMED or is_compressed(path):
        return None
    try:
        with path.open(encoding="utf-8-sig") as file:
            first = file.readline(LONGEST_LINE)
            names = _header(first)
            if names is None:
                file.seek(0)
            start, line = file.tell(), file.readline(LONGEST_LINE)
            file.seek(start)
            table = np.loadtxt(file, delimiter=_delimiter(line), comments=None, ndmin=2)
    except (ValueError, OSError):  # comments, counts, text: read by line, which explains what fails
        return None
    return _Table(names, table) if names is None or len(names) == table.shape[1] else None


def _read_lines(path: Path, options: Options) -> _Table:
    text = read_text_file(path)
    if '"' in text:
        text = QUOTED.sub(lambda match: match[1].replace(",", "."), text)
    lines = number_lines(text)
    if not lines:
        raise _no_points(path)
    if lines[0][1].lower().startswith("sep="):  # Excel's word about the separator
        lines = lines[1:] or [(1, "")]
    names = _header(lines[0][1])
    is_comment = lines[0][1].lstrip().startswith(COMMENTS)
    if names and not is_comment:
        lines = lines[1:]
    lines = [(number, line) for number, line in lines if not line.lstrip().startswith(COMMENTS)]
    lines, notes = _without_counts(path, lines)
    if lines and not names and (names := _header(lines[0][1])):
        lines, is_comment = lines[1:], False
    if not lines:
        raise _no_points(path)

    delimiter = _delimiter(lines[0][1])
    if "," in text and (delimiter == ";" or (delimiter is None and _has_decimal_commas(lines))):
        lines = [(number, line.replace(",", ".")) for number, line in lines]
    lines = _without_last_delimiter(lines, delimiter)
    words: list[str] = []
    if names and options.columns is None:
        lines, names, words = _without_part_names(lines, delimiter, names)
    try:
        table = parse_rows(path, lines, delimiter=delimiter)
    except CloudFileError as fault:
        table, names, dropped = _parse_cells(path, lines, delimiter, names, options.columns, fault)
        notes += dropped
    if names is not None and len(names) != table.shape[1]:
        if not is_comment:
            raise CloudFileError(
                f"{path.name}: the header names {len(names)} columns ({' '.join(names)[:99]}), "
                f"line {lines[0][0]} has {table.shape[1]}; make them agree"
            )
        names = None  # a comment such as "x y z in metres" is no header
    return _Table(names, table, notes, words)


def _without_part_names(
    lines: Lines, delimiter: str | None, names: list[str]
) -> tuple[Lines, list[str], list[str]]:
    """Take off the last column where it has the names of the labels, as in our own files."""
    plain = [plain_name(name) for name in names]
    cut = [line.rsplit(delimiter, 1) for _, line in lines]
    if plain[-1] != "part" or "label" not in plain or {len(cells) for cells in cut} != {2}:
        return lines, names, []
    if _is_number(cut[0][1]):
        return lines, names, []
    kept = [(number, cells[0]) for (number, _), cells in zip(lines, cut, strict=True)]
    return kept, names[:-1], [cells[1].strip() for cells in cut]


def _no_points(path: Path) -> CloudFileError:
    return CloudFileError(f"{path.name}: holds no points; {SOURCE}")


def _without_counts(path: Path, lines: Lines) -> tuple[Lines, tuple[str, ...]]:
    """Drop counts of points and what follows the last counted one; a file may join several."""
    kept: Lines = []
    while lines and (promised := whole_number(lines[0][1].strip())) is not None:
        lines = lines[1:]
        if lines and _header(lines[0][1]):
            return lines, ()
        if promised > len(lines):
            raise truncated(path, "points", promised, len(lines))
        kept += lines[:promised]
        lines = lines[promised:]
    if not kept:
        return lines, ()
    return kept, (ignored(len(lines), "lines"),) if lines else ()


def _delimiter(line: str) -> str | None:
    if sign := next((sign for sign in ";|" if sign in line), None):
        return sign
    return "," if "," in line and not _has_decimal_commas([(1, line)]) else None


def _has_decimal_commas(lines: Lines) -> bool:
    """Whether the first line with a comma has it inside numbers that white space separates."""
    line = next((line for _, line in lines if "," in line), "")
    fields = line.split()
    found = [DECIMAL_COMMA.fullmatch(field) for field in fields]
    whole = [not match and "," not in field for match, field in zip(found, fields, strict=True)]
    return len(fields) >= 3 and any(found) and all(map(any, zip(found, whole, strict=True)))


def _without_last_delimiter(lines: Lines, delimiter: str | None) -> Lines:
    """Drop the separator that some exporters put at the end of each line."""
    if delimiter is None or not all(line.rstrip().endswith(delimiter) for _, line in lines):
        return lines
    return [(number, line.rstrip().removesuffix(delimiter)) for number, line in lines]


def _header(line: str) -> list[str] | None:
    """The names of a header; None where it holds a number, or is a comment without x, y and z."""
    bare = line.strip().lstrip("#/%!; ")
    delimiter = next((sign for sign in ";|,\t" if sign in bare), None)
    if delimiter is None:
        bare = re.sub(r"\s*[\[(][^\])]*[\])]", "", bare)  # units: they may stand apart
    cells = bare.rstrip(delimiter).split(delimiter)
    names = [cell.strip() or f"column_{at}" for at, cell in enumerate(cells, 1)]
    if {"x", "y", "z"} <= set(map(plain_name, names)):
        return names
    if bare != line.strip() and line.strip().startswith(COMMENTS):
        return None
    return names if len(names) >= 3 and not any(map(_is_number, names)) else None


def _is_number(text: str) -> bool:
    try:
        float(text.replace(",", "."))
    except ValueError:
        return False
    return True


def _parse_cells(
    path: Path,
    lines: Lines,
    delimiter: str | None,
    names: list[str] | None,
    roles: Sequence[str] | None,
    fault: CloudFileError,
) -> tuple[np.ndarray, list[str] | None, tuple[str, ...]]:
    """Read a table with empty cells or columns of text where no numbers are needed.

    Raises:
        CloudFileError: ``fault``, where they are needed.
    """
    rows = [line.split(delimiter) for _, line in lines]
    width = len(rows[0])
    if any(len(row) != width for row in rows) or (names and len(names) != width):
        raise fault
    titles = names or ["x", "y", "z", *(f"column_{number}" for number in range(4, width + 1))]
    used = titles[:width] if roles is None else assign_roles(path, titles[:width], roles)
    kept: list[np.ndarray] = []
    dropped: dict[str, bool] = {}  # whether there was text
    for name, role, cells in zip(titles, used, zip(*rows, strict=True), strict=False):
        needed = plain_name(role) in NEEDED
        numeric = needed or (names is None and roles is None)
        try:
            kept.append(np.array([cell.strip() or "nan" for cell in cells], float))
        except ValueError:
            filled = [cell for cell in cells if cell.strip()]
            numeric |= 2 * sum(map(_is_number, filled)) > len(filled)  # a damaged number
            kept.append(np.full(len(cells), np.nan))
            dropped[name] = True
        if not needed and not any(map(str.strip, cells)):  # nothing in it
            dropped[name] = False
        if numeric:
            for (number, _), cell in zip(lines, cells, strict=True):
                if not _is_number(cell) and (cell.strip() or needed):
                    raise CloudFileError(
                        f"{path.name}: line {number}: {cell.strip()[:20]!r} is not a number; {LOOK}"
                    )
    texts = " ".join(name for name, is_text in dropped.items() if is_text)
    notes = (f"columns of text are left out: {texts[:99]}",) if texts else ()
    table = np.stack(kept, 1)
    if roles is None:
        keep = [at for at, name in enumerate(titles[:width]) if name not in dropped]
        table, names = table[:, keep], names and [names[at] for at in keep]
    return table, names, notes


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
