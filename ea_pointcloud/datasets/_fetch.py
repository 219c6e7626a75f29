"""Download of one archive from the first mirror that has it, resumed where it was interrupted."""

import json
import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ea_pointcloud._files import write_whole
from ea_pointcloud.datasets.catalog import Archive

if TYPE_CHECKING:
    from requests import Response

# What is done ("download", "unpack"), the bytes done, and the bytes in all where they are known.
Progress = Callable[[str, int, int | None], None]

ATTEMPTS = 10  # at a mirror that delivers, but whose connections break
PAUSE = 2.0  # s between them
TIMEOUT = (15, 60)  # s to connect, and without a byte
CHUNK = 2**18
HEADROOM = 2**26  # bytes of disk left for others

logger = logging.getLogger(__name__)


class DownloadError(OSError):
    """A download that failed; the message says why and what to do."""


class _MirrorError(Exception):
    """A mirror that does not have what it should."""


def check_space(folder: Path, needed: int, what: str) -> None:
    """Raise unless the disk that holds ``folder`` has room for ``needed`` bytes more."""
    free = shutil.disk_usage(folder).free
    if needed + HEADROOM > free:
        raise DownloadError(
            f"{what} needs {needed / 1e9:.2f} GB in {folder}, {free / 1e9:.2f} GB are free; make "
            "room, or choose another folder with --root"
        )


def fetch(archive: Archive, folder: Path, progress: Progress) -> Path:
    """Download an archive to ``folder/NAME``, which appears only when it is whole and checked.

    What an interrupted download left is kept in ``folder/.NAME.partial`` and continued, by the same
    mirror if it still has the same file, by another one where there is a checksum.

    Args:
        archive: what and from where.
        folder: must exist; of this process alone meanwhile.
        progress: called with the bytes.

    Returns:
        The file.

    Raises:
        DownloadError: if no mirror has it, with the reason of each, or the disk is full.
    """
    import pooch
    from requests import RequestException

    pooch.get_logger().setLevel("WARNING")
    reasons = []
    for url in archive.urls:
        logger.info("downloading %s from %s", archive.name, url)
        while True:
            transfer = _Transfer(folder / f".{archive.name}.partial", archive, progress)
            try:
                # It checks the sum and renames; and leaves alone what is there already.
                path = pooch.retrieve(
                    url,
                    archive.checksum,
                    archive.name,
                    folder,
                    downloader=transfer,  # pyright: ignore[reportArgumentType]
                )
                return Path(path)
            except (RequestException, _MirrorError) as error:
                reasons.append(f"{url}: {_in_short(error)}")
            except ValueError:
                reasons.append(f"{url}: what it sent has not the checksum {archive.checksum}")
                if transfer.continued:  # the fault may lie in what was there before
                    continue
            logger.warning("%s", reasons[-1])
            break
    listed = "\n".join(f"  {reason}" for reason in reasons)
    raise DownloadError(f"no mirror has {archive.name}:\n{listed}")


def _in_short(error: Exception) -> str:
    """The cause at the bottom, without the objects that libraries wrap around it."""
    from requests import HTTPError
    from requests.exceptions import ConnectTimeout, ReadTimeout, SSLError

    if isinstance(error, HTTPError) and error.response is not None:
        return f"HTTP status {error.response.status_code} {error.response.reason}"
    if isinstance(error, SSLError):
        return f"its certificate cannot be trusted ({_root_cause(error)})"
    if isinstance(error, ConnectTimeout | ReadTimeout):
        return "no answer in time"
    return str(_root_cause(error))


def _root_cause(error: BaseException) -> BaseException:
    inner = getattr(error, "reason", None) or next(
        (each for each in error.args if isinstance(each, BaseException)), None
    )
    return _root_cause(inner) if isinstance(inner, BaseException) else error


class _Note(NamedTuple):
    """What a part of a file belongs to."""

    url: str
    validator: str | None  # the server's ETag, else its date, of the file
    total: int | None  # bytes of the whole file


class _Transfer:
    """A downloader for :func:`pooch.retrieve` that continues an interrupted download.

    Args:
        partial: where the bytes are kept until there are no more to come.
        archive: what is expected.
        progress: called with the bytes.

    Attributes:
        continued: whether part of the file was there before.
    """

    def __init__(self, partial: Path, archive: Archive, progress: Progress) -> None:
        self.partial, self.archive, self.progress = partial, archive, progress
        self.note_path = partial.with_name(f"{partial.name}.json")
        self.continued = False

    def __call__(self, url: str, output_file: str, pooch: object, check_only: bool = False) -> None:
        """Download ``url`` to ``output_file``; pooch calls it with these names."""
        from requests import ConnectionError as Unreachable
        from requests import Timeout
        from requests.exceptions import ChunkedEncodingError, SSLError

        for attempt in range(1, ATTEMPTS + 1):
            before = self._have()
            try:
                self._receive(url)
                break
            except (ChunkedEncodingError, Unreachable, Timeout) as error:
                # A mirror that delivers is tried again, else the next one.
                if isinstance(error, SSLError) or self._have() <= before or attempt == ATTEMPTS:
                    raise
                logger.warning("%s: interrupted after %d bytes, continuing", url, self._have())
                time.sleep(PAUSE)
        self.partial.replace(output_file)
        self.note_path.unlink(missing_ok=True)

    def _have(self) -> int:
        return self.partial.stat().st_size if self.partial.exists() else 0

    def _receive(self, url: str) -> None:
        """Append to the part, or replace it where it cannot be continued."""
        import requests

        have, note = self._have(), self._note()
        headers = {"Accept-Encoding": "identity"}  # ranges count the bytes of the file itself
        resumed = bool(have) and self._can_continue(url, note)
        if resumed:
            headers["Range"] = f"bytes={have}-"
            if note.validator and note.url == url:
                headers["If-Range"] = note.validator
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
            if not (resumed and response.status_code == 416):  # the file there is shorter
                response.raise_for_status()
                start, total = _extent(response)
                self._check(url, response, total)
                if start and not resumed:
                    raise _MirrorError("sent part of the file when all of it was requested")
                if not start or (start, total) == (have, note.total):
                    self._write(url, response, start, total)
                    return
        # What is there is of another file.
        self.partial.unlink(missing_ok=True)
        self.note_path.unlink(missing_ok=True)
        self._receive(url)

    def _write(self, url: str, response: "Response", start: int, total: int | None) -> None:
        self.continued, done = start > 0, start
        validator = response.headers.get("ETag") or response.headers.get("Last-Modified")
        if validator and validator.startswith("W/"):  # equal in meaning, not in its bytes
            validator = None
        write_whole(self.note_path, json.dumps(_Note(url, validator, total)._asdict()))
        check_space(self.partial.parent, (total or 0) - start, f"downloading {self.archive.name}")
        with self.partial.open("ab" if start else "wb") as file:
            for chunk in response.iter_content(CHUNK):
                file.write(chunk)
                done += len(chunk)
                self.progress("download", done, total)
        if total is not None and done != total:
            raise _MirrorError(f"sent {done} bytes, not the {total} it promised")

    def _check(self, url: str, response: "Response", total: int | None) -> None:
        if url.startswith("https:") and not response.url.startswith("https:"):
            raise _MirrorError(f"leads to {response.url}, which is not encrypted")
        kind = response.headers.get("Content-Type", "")
        if kind.startswith("text/html"):
            raise _MirrorError("sent a web page in place of the archive")
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise _MirrorError("sends the archive packed once more")
        expected = self.archive.size
        if expected is not None and total is not None and total != expected:
            raise _MirrorError(f"has a file of {total} bytes, the archive has {expected}")

    def _can_continue(self, url: str, note: _Note) -> bool:
        if note.url == url and note.validator:
            return True
        return self.archive.checksum is not None and note.total is not None

    def _note(self) -> _Note:
        try:
            values: dict[str, Any] = json.loads(self.note_path.read_text(encoding="utf-8"))
            return _Note(**values)
        except (OSError, ValueError, TypeError):
            return _Note("", None, None)


def _extent(response: "Response") -> tuple[int, int | None]:
    """Where in the file the answer begins, and how many bytes the file has.

    Raises:
        _MirrorError: if a part was sent without saying which.
    """
    length = response.headers.get("Content-Length")
    if response.status_code != 206:
        return 0, int(length) if length else None
    unit, _, given = response.headers.get("Content-Range", "").partition(" ")
    span, _, total = given.partition("/")
    start = span.partition("-")[0]
    if unit != "bytes" or not start.isdigit():
        raise _MirrorError("sent part of a file without saying which")
    return int(start), int(total) if total.isdigit() else None
