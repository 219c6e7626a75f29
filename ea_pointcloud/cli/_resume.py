"""Results that a stopped run left: their settings, and which files are done."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import Self

if TYPE_CHECKING:
    from ea_pointcloud.inference import Found


def settings(command: str, weights: str, options: dict[str, Any]) -> dict[str, Any]:
    """What the results of a command depend on, for ``CsvLog`` and :class:`OutputFolder`."""
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
        except (FileNotFoundError, ValueError, AttributeError, RecursionError) as error:
            raise FileExistsError(
                f"{results} exists, and no {self.path} says what it was made with; {remedy}"
            ) from error
        different = [name for name, value in self.values.items() if found[name] != value]
        if "weights" in different:
            model = str(before.get("model"))[:100]
            raise FileExistsError(
                f"{results} exists and was made with other weights ({model}); {remedy}"
            )
        different = [name for name in different if name != "model"]  # the same, by another path
        if different:
            was = ", ".join(f"{name}={str(found[name])[:100]}" for name in different)
            now = ", ".join(f"{name}={self.values[name]}" for name in different)
            raise FileExistsError(f"{results} exists and was made with {was}, not {now}; {remedy}")

    def check_ours(self) -> None:
        """Raise FileExistsError if a file that no command wrote has the name of the settings."""
        if not self.path.exists():
            return
        try:
            before = json.loads(self.path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError):
            before = None
        if not isinstance(before, dict) or not {"command", "model", "weights"} <= before.keys():
            raise FileExistsError(
                f"{self.path} exists and holds something else than the settings that would be "
                "written there; choose another name, or add --force to replace it"
            )

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
        self._held: int | None = None  # the open folder, whose lock keeps other processes out

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._held is not None:
            os.close(self._held)
            self._held = None

    def begin(self, found: "Iterable[Found]") -> tuple[int, int]:
        """Check what could not be written after the work, and make the folder.

        Args:
            found: the inputs; those of one folder in a row.

        Returns:
            How many inputs are done, and 0.

        Raises:
            NotADirectoryError: if the folder is a file.
            FileExistsError: if outputs exist that were made with other settings, or another
                process writes there.
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
        elif not self._force:
            self._settings.check_ours()
        self.folder.mkdir(parents=True, exist_ok=True)
        if os.name == "posix":
            self._held = os.open(self.folder, os.O_RDONLY)
            lock(self._held, self.folder)
        if existing and not self._force:
            return len(existing), 0
        for output in existing:
            output.unlink()
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


def lock(descriptor: int, path: Path) -> None:
    """Raise FileExistsError if another process has locked an open file or folder, else lock it."""
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise FileExistsError(
            f"{path} is being written by another process; wait for its end, or choose another name"
        ) from error
    except OSError:  # a file system without locks
        return
