"""A CSV with a row for each file, which a later run continues."""

import csv
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from typing_extensions import Self

from ea_pointcloud.cli._resume import Settings, lock

if TYPE_CHECKING:
    from ea_pointcloud.inference import Found

# File names are bytes: those that are no UTF-8 come back as they were, and a carriage return in one
# does not end a line.
_ENCODING: Any = {"encoding": "utf-8", "errors": "surrogateescape", "newline": "\n"}


class CsvLog:
    """A CSV with a row for each file, written out at once; files whose rows are there are done.

    Inside its ``with`` block no other process writes it, where the system can lock files.

    Args:
        path: of the CSV; its settings are kept beside it, in ``NAME.json``.
        columns: its header; the first is the file, the last is empty unless the file failed.
        made_with: see :func:`~ea_pointcloud.cli._resume.settings`.
        force: replace the rows that are there.

    Raises:
        FileNotFoundError: if the folder does not exist.
    """

    def __init__(
        self, path: Path, columns: Sequence[str], made_with: dict[str, Any], *, force: bool
    ) -> None:
        self.path, self.columns, self._force = path, list(columns), force
        self._settings = Settings(path.with_name(f"{path.name}.json"), made_with)
        self._done: dict[str, bool] = {}  # file -> whether it failed
        if path.is_dir() or not path.parent.is_dir():
            raise FileNotFoundError(f"--csv {path}: no such folder, or a folder itself")

    def __enter__(self) -> Self:
        """Open and lock the file, and read which rows are there.

        Raises:
            FileExistsError: if another process writes it, or it was made with other settings.
        """
        exists = self.path.exists()
        if not exists and not self._force:
            self._settings.check_ours()
        self._file = self.path.open("a+", **_ENCODING)
        try:
            lock(self._file.fileno(), self.path)
            if exists and not self._force:
                self._settings.check(self.path)
                self._take_over()
            else:
                # In this order a run that ends between the two leaves no rows of unknown origin.
                self._file.seek(0)
                self._file.truncate()
                self._settings.write()
            if self._file.tell() == 0:
                self.write(self.columns)
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def begin(self, found: "Iterable[Found]") -> tuple[int, int]:
        """How many of the files have a row, and how many of these have failed."""
        failed = [self._done[each.path] for each in found if each.path in self._done]
        return len(failed), sum(failed)

    def missing(self, found: "Iterable[Found]") -> Iterator[str]:
        """Paths of the files without a row."""
        return (each.path for each in found if each.path not in self._done)

    def write(self, values: Iterable[str]) -> None:
        """Append a row; in the file when this returns."""
        row = [_as_text(value) for value in values]
        # The module quotes a value with a line feed, and one with a carriage return only from 3.13.
        quoting = csv.QUOTE_ALL if any("\r" in value for value in row) else csv.QUOTE_MINIMAL
        csv.writer(self._file, lineterminator="\n", quoting=quoting).writerow(row)
        self._file.flush()

    def _take_over(self) -> None:
        """Read which rows are there, and cut off a last one that was not written whole."""
        self._file.seek(0)
        whole = 0
        for row, end in _whole_rows(self._file):
            if not whole and row != self.columns:
                raise FileExistsError(
                    f"{self.path} has the columns {', '.join(row)}, not "
                    f"{', '.join(self.columns)}; choose another name, or add --force"
                )
            if len(row) != len(self.columns):
                raise FileExistsError(
                    f"{self.path} has {len(row)} values after byte {whole}, expected "
                    f"{len(self.columns)}; correct or remove that row, or add --force"
                )
            if whole:
                self._done[row[0].removeprefix("'")] = bool(row[-1])
            whole = end
        self._file.seek(0)  # what was read ahead is forgotten
        self._file.truncate(whole)
        self._file.seek(whole)


def _as_text(value: str) -> str:
    """``value`` so that no spreadsheet takes it for a formula: behind an apostrophe.

    One that begins with an apostrophe gets another, so that names are read back as they were.
    """
    if not value.startswith(("=", "+", "-", "@", "'")):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


def _whole_rows(file: TextIO) -> Iterator[tuple[list[str], int]]:
    """Each row that was written whole, and the number of bytes up to its end."""
    text, end = "", 0
    for line in file:
        text += line
        if text.endswith("\n") and text.count('"') % 2 == 0:
            end += len(text.encode("utf-8", "surrogateescape"))
            yield next(csv.reader([text])), end
            text = ""
