"""Results that a stopped run left: their settings, and which files are done."""

import csv
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from typing_extensions import Self

if TYPE_CHECKING:
    from ea_pointcloud.inference import Found

# File names are bytes: those that are no UTF-8 come back as they were, and a carriage return in one
# does not end a line.
_ENCODING: Any = {"encoding": "utf-8", "errors": "surrogateescape", "newline": "\n"}


def settings(command: str, weights: str, options: dict[str, Any]) -> dict[str, Any]:
    """What the results of a command depend on, for :class:`CsvLog` and :class:`OutputFolder`."""
    return {"command": command, "model": weights, "weights": fingerprint(weights), **options}


def fingerprint(weights: str) -> str:
    """A hash of all files of a weights folder (or run folder, or name on the hub)."""
    from ea_pointcloud.models.pretrained import resolve_weights

    digest = hashlib.sha256()
    for path in sorted(resolve_weights(weights).iterdir()):
        if path.is_file():
            digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


class Settings:
    """What results were made with, kept as JSON beside them."""

    def __init__(self, path: Path, values: dict[str, Any]) -> None:
        self.path, self.values = path, values

    def check(self, results: Path) -> None:
        """Raise FileExistsError unless ``results``, which exist, were made with these settings."""
        remedy = "choose another name, or add --force to replace what is there"
        try:
            before = json.loads(self.path.read_text(encoding="utf-8"))
            found = {name: before.get(name) for name in self.values}
        except (FileNotFoundError, ValueError, AttributeError) as error:
            raise FileExistsError(
                f"{results} exists, and no {self.path} says what it was made with; {remedy}"
            ) from error
        different = [name for name, value in self.values.items() if found[name] != value]
        if "weights" in different:
            raise FileExistsError(
                f"{results} exists and was made with other weights ({before.get('model')}); "
                f"{remedy}"
            )
        different = [name for name in different if name != "model"]  # the same, by another path
        if different:
            was = ", ".join(f"{name}={found[name]}" for name in different)
            now = ", ".join(f"{name}={self.values[name]}" for name in different)
            raise FileExistsError(f"{results} exists and was made with {was}, not {now}; {remedy}")

    def write(self) -> None:
        """Replace what is there."""
        from ea_pointcloud._files import write_whole

        write_whole(self.path, json.dumps(self.values, indent=2) + "\n")


class OutputFolder:
    """A folder with an output for each input; those that are there are done.

    Args:
        folder: made when the work begins; its settings are kept in it.
        suffix: of the outputs, without the dot.
        made_with: see :func:`settings`.
        inputs: paths that the inputs are found below.
        force: remove outputs that are there.
    """

    def __init__(
        self, folder: Path, suffix: str, made_with: dict[str, Any], inputs: Sequence[str], *,
        force: bool,
    ) -> None:  # fmt: skip
        self.folder, self.suffix, self._force = folder, suffix, force
        self._settings = Settings(folder / f"{made_with['command']}.json", made_with)
        whole, roots = folder.resolve(), [Path(path).resolve() for path in inputs]
        # A folder that the outputs' folder is in leaves that out when it is listed.
        self._roots = [root for root in roots if whole == root or root not in whole.parents]
        self._under_way: dict[str, Path] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def begin(self, found: "Iterable[Found]") -> tuple[int, int]:
        """Check what could not be written after the work, and make the folder.

        Args:
            found: the inputs; those of one folder in a row.

        Returns:
            How many inputs are done, and 0.

        Raises:
            NotADirectoryError: if the folder is a file.
            FileExistsError: if outputs exist that were made with other settings.
            ValueError: if two inputs have the same output, or an output replaces an input.
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise NotADirectoryError(f"--output {self.folder} is a file; name a folder")
        existing: list[Path] = []
        taken: dict[Path, str] = {}
        parent = None
        for each in found:
            output = self.of(each)
            if output.parent != parent:
                parent, taken = output.parent, {}
            if output in taken:
                raise ValueError(
                    f"{taken[output]} and {each.path} would both be written to {output}; rename "
                    "one of them, or segment them into different folders"
                )
            taken[output] = each.path
            self._check_apart(output)
            if output.exists():
                existing.append(output)
        if existing and not self._force:
            self._settings.check(existing[0])
            return len(existing), 0
        for output in existing:
            output.unlink()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._settings.write()
        return 0, 0

    def _check_apart(self, output: Path) -> None:
        """Raise for an output that is an input, or would be one of a later run."""
        written = self.folder.resolve() / output.relative_to(self.folder)
        for root in self._roots:
            if written == root or root in written.parents:
                what = "replace the input" if written == root else "be among the inputs in"
                raise ValueError(
                    f"{output} would {what} {root}; choose another folder for --output"
                )

    def of(self, found: "Found") -> Path:
        """The output of an input."""
        place = Path(found.relative)
        return self.folder / place.parent / f"{place.stem}.{self.suffix}"

    def missing(self, found: "Iterable[Found]") -> Iterator[str]:
        """Paths of the inputs that have no output yet."""
        for each in found:
            output = self.of(each)
            if not output.exists():
                self._under_way[each.path] = output
                yield each.path

    def take(self, file: str) -> Path:
        """Where the output of a file that :meth:`missing` has named goes; once for each."""
        return self._under_way.pop(file)


class CsvLog:
    """A CSV with a row for each file, written out at once; files whose rows are there are done.

    Inside its ``with`` block no other process writes it, where the system can lock files.

    Args:
        path: of the CSV; its settings are kept beside it, in ``NAME.json``.
        columns: its header; the first is the file, the last is empty unless the file failed.
        made_with: see :func:`settings`.
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
        self._file = self.path.open("a+", **_ENCODING)
        try:
            _lock(self._file, self.path)
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
        row = list(values)
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
                self._done[row[0]] = bool(row[-1])
            whole = end
        self._file.seek(0)  # what was read ahead is forgotten
        self._file.truncate(whole)
        self._file.seek(whole)


def _lock(file: TextIO, path: Path) -> None:
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise FileExistsError(
            f"{path} is being written by another process; wait for its end, or choose another name"
        ) from error


def _whole_rows(file: TextIO) -> Iterator[tuple[list[str], int]]:
    """Each row that was written whole, and the number of bytes up to its end."""
    text, end = "", 0
    for line in file:
        text += line
        if text.endswith("\n") and text.count('"') % 2 == 0:
            end += len(text.encode("utf-8", "surrogateescape"))
            yield next(csv.reader([text])), end
            text = ""
