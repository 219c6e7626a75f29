"""Results that an interrupted run left behind: what they were made with, and which are whole."""

import csv
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from typing_extensions import Self

if TYPE_CHECKING:
    from ea_pointcloud.inference import Found

# File names are bytes; those that are no UTF-8 come back as they were.
_ENCODING: Any = {"encoding": "utf-8", "errors": "surrogateescape", "newline": ""}


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
    """What results were made with, kept as JSON beside them.

    Args:
        path: of the JSON.
        values: what another run must have in common to go on; ``model`` is for the reader only.
    """

    def __init__(self, path: Path, values: dict[str, Any]) -> None:
        self.path, self.values = path, values

    def check(self, results: Path) -> None:
        """Raise unless ``results``, which exist, were made with these settings.

        Raises:
            FileExistsError: if they were made with others, or nobody knows with which.
        """
        remedy = "choose another name, or add --force to replace what is there"
        try:
            before = json.loads(self.path.read_text(encoding="utf-8"))
            different = [
                name
                for name, value in self.values.items()
                if name != "model" and before.get(name) != value
            ]
        except (FileNotFoundError, ValueError, AttributeError) as error:
            raise FileExistsError(
                f"{results} exists, and no {self.path} says what it was made with; {remedy}"
            ) from error
        if "weights" in different:
            raise FileExistsError(
                f"{results} exists and was made with other weights ({before.get('model')}); "
                f"{remedy}"
            )
        if different:
            was = ", ".join(f"{name}={before.get(name)}" for name in different)
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
        settings: see :class:`Settings`.
    """

    def __init__(self, folder: Path, suffix: str, settings: dict[str, Any]) -> None:
        self.folder, self.suffix = folder, suffix
        self._settings = Settings(folder / f"{settings['command']}.json", settings)
        self._under_way: dict[str, Path] = {}

    def begin(self, found: "Iterable[Found]", paths: Sequence[str], *, force: bool) -> int:
        """Check what could not be written after the work, and make the folder.

        Args:
            found: the inputs; those of one folder in a row.
            paths: what they were found below.
            force: remove outputs that are there.

        Returns:
            How many inputs are done.

        Raises:
            NotADirectoryError: if the folder is a file.
            FileExistsError: if outputs exist that were made with other settings.
            ValueError: if two inputs have the same output, or an output replaces an input.
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise NotADirectoryError(f"--output {self.folder} is a file; name a folder")
        whole = self.folder.resolve()
        roots = [Path(path).resolve() for path in paths]
        # A folder that the outputs' folder is in leaves that out when it is listed.
        roots = [root for root in roots if whole == root or root not in whole.parents]
        existing: list[Path] = []
        taken: dict[Path, str] = {}
        parent = None
        for each in found:
            output = self.of(each)
            if output.parent != parent:
                parent = output.parent
                taken = {}
            if output in taken:
                raise ValueError(
                    f"{taken[output]} and {each.path} would both be written to {output}; rename "
                    "one of them, or segment them into different folders"
                )
            taken[output] = each.path
            written = whole / output.relative_to(self.folder)
            for root in roots:
                if written == root or root in written.parents:
                    what = "replace the input" if written == root else "be among the inputs in"
                    raise ValueError(
                        f"{output} would {what} {root}; choose another folder for --output"
                    )
            if output.exists():
                existing.append(output)
        if existing and not force:
            self._settings.check(existing[0])
            return len(existing)
        for output in existing:
            output.unlink()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._settings.write()
        return 0

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
        """Where the output of a file that :meth:`missing` has named goes, asked once."""
        return self._under_way.pop(file)


class CsvLog:
    """A CSV that rows are appended to, each written out at once, and that a later run goes on with.

    Args:
        path: of the CSV; its settings are kept beside it, in ``NAME.json``.
        columns: its header; the first tells rows apart, the last is empty unless the file failed.
        settings: see :class:`Settings`.
        force: begin anew.

    Raises:
        FileNotFoundError: if the folder does not exist.
        FileExistsError: if the CSV exists and was made with other settings.
    """

    def __init__(
        self, path: Path, columns: Sequence[str], settings: dict[str, Any], *, force: bool
    ) -> None:
        self.path, self.columns = path, list(columns)
        self.done: dict[str, bool] = {}  # file -> whether it failed
        known = Settings(path.with_name(f"{path.name}.json"), settings)
        if path.is_dir() or not path.parent.is_dir():
            raise FileNotFoundError(f"--csv {path}: no such folder, or a folder itself")
        if path.exists() and not force:
            known.check(path)
            self._take_over()
        else:
            # In this order a run that ends between the two leaves no rows of unknown origin.
            path.unlink(missing_ok=True)
            known.write()
        self._file: TextIO | None = None

    def __enter__(self) -> Self:
        self._file = self.path.open("a", **_ENCODING)
        if self._file.tell() == 0:
            self.write(self.columns)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._file is not None
        self._file.close()

    def count(self, files: Iterable[str]) -> tuple[int, int]:
        """How many of the files an earlier run did, and with how many of them it failed."""
        failed = [self.done[file] for file in files if file in self.done]
        return len(failed), sum(failed)

    def write(self, values: Iterable[object]) -> None:
        """Append a row; in the file when this returns."""
        assert self._file is not None, "used outside its with block"
        csv.writer(self._file, lineterminator="\n").writerow(values)
        self._file.flush()

    def _take_over(self) -> None:
        """Learn which rows are there and cut off a last one that was not written whole."""
        whole = 0
        with self.path.open(**_ENCODING) as file:
            rows = _rows(file)
            for row, end in rows:
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
                    self.done[row[0]] = bool(row[-1])
                whole = end
        with self.path.open("rb+") as file:
            file.truncate(whole)


def _rows(file: TextIO) -> Iterator[tuple[list[str], int]]:
    """Each row that was written whole, and the number of bytes up to its end."""
    read = 0

    def lines() -> Iterator[str]:
        nonlocal read
        for line in file:
            if not line.endswith("\n"):
                return  # torn
            read += len(line.encode("utf-8", "surrogateescape"))
            yield line

    reader = csv.reader(lines(), strict=True)
    while True:
        try:
            row = next(reader)
        except (StopIteration, csv.Error):  # the latter inside a quoted value with a line break
            return
        yield row, read
