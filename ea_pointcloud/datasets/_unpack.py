"""Unpacking archives of which nothing is believed: names, links and sizes are all checked."""

import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from ea_pointcloud.datasets._fetch import Progress, check_space

# Coordinates as text pack to a quarter, meshes to a fifth; a bomb packs to a thousandth.
MOST_TIMES_LARGER = 50
ALWAYS_ALLOWED = 2**26  # bytes
_LEFTOVERS = {"__MACOSX", ".DS_Store"}
_CHUNK = 2**20
_DAMAGED = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, RuntimeError)


class ArchiveError(ValueError):
    """An archive that is damaged, or that does what no data set needs to."""


class _Member(NamedTuple):
    name: str
    size: int  # bytes
    kind: str  # "file", "folder", or what it is instead
    open: Callable[[], IO[bytes] | None]


def unpack(archive: Path, folder: Path, progress: Progress) -> None:
    """Unpack a zip or tar archive into ``folder``, which is removed again if that fails.

    Args:
        archive: known by its content, whatever its name.
        folder: is created; must not be there yet.
        progress: is told the bytes of the files.

    Raises:
        ArchiveError: if the archive is damaged, a name leaves the folder, a member is no plain file
            or folder, or there is far more in it than an archive of its size can hold.
        OSError: if the disk is full.
    """
    limit = max(archive.stat().st_size * MOST_TIMES_LARGER, ALWAYS_ALLOWED)
    folder.mkdir(parents=True)
    try:
        with _opened(archive) as (members, total):
            if total is not None:
                _check_size(archive, total, limit)
                check_space(folder, total, f"unpacking {archive.name}")
            _write_all(archive, members, folder, limit, partial(_tell, progress, total))
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, _DAMAGED):
            raise ArchiveError(f"{archive} is damaged ({error}); download it again") from error
        raise


def _tell(progress: Progress, total: int | None, done: int) -> None:
    progress("unpack", done, total)


def _write_all(
    archive: Path,
    members: Iterator[_Member],
    folder: Path,
    limit: int,
    progress: Callable[[int], None],
) -> None:
    done = 0
    for member in members:
        parts = _safe_parts(archive, member)
        if _LEFTOVERS & {*parts} or not parts:
            done += member.size
            continue
        target = folder.joinpath(*parts)
        if member.kind == "folder":
            target.mkdir(parents=True, exist_ok=True)
            continue
        _check_size(archive, done + member.size, limit)
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            raise ArchiveError(f"{archive} holds {member.name!r} twice; get another copy")
        source = member.open()
        assert source is not None  # only links and folders have no content
        with source, target.open("wb") as file:
            while chunk := source.read(_CHUNK):
                file.write(chunk)
                done += len(chunk)
                progress(done)


def _safe_parts(archive: Path, member: _Member) -> tuple[str, ...]:
    """The parts of a member's name, ``.`` left out.

    Raises:
        ArchiveError: if it is a link or device, or its name leads out of the folder.
    """
    path = PurePosixPath(member.name)
    if member.kind not in ("file", "folder"):
        raise ArchiveError(
            f"{archive} holds {member.name!r}, which is {member.kind}; data sets hold files and "
            "folders only, so this is not the archive it should be"
        )
    drive = path.parts and ":" in path.parts[0]
    if path.is_absolute() or ".." in path.parts or "\\" in member.name or drive:
        raise ArchiveError(
            f"{archive} holds {member.name!r}, which would be written outside of its folder; this "
            "is not the archive it should be"
        )
    return path.parts


def _check_size(archive: Path, total: int, limit: int) -> None:
    if total > limit:
        raise ArchiveError(
            f"{archive} would unpack to more than {limit / 1e9:.1f} GB, {MOST_TIMES_LARGER} times "
            "its size; this is not the archive it should be"
        )


@contextmanager
def _opened(archive: Path) -> Iterator[tuple[Iterator[_Member], int | None]]:
    """The members, and how many bytes they have where the archive says so ahead."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as file:
            yield _zip_members(file), sum(info.file_size for info in file.infolist())
    elif tarfile.is_tarfile(archive):
        with tarfile.open(archive) as file:
            yield _tar_members(file), None
    else:
        raise ArchiveError(
            f"{archive} is neither a zip nor a tar archive; mirrors that are gone often send a "
            "web page in its place"
        )


def _zip_members(file: zipfile.ZipFile) -> Iterator[_Member]:
    for info in file.infolist():
        mode = stat.S_IFMT(info.external_attr >> 16)
        kind = "file" if mode in (0, stat.S_IFREG) else "a link or device"
        if info.is_dir():
            kind = "folder"
        yield _Member(info.filename, info.file_size, kind, partial(file.open, info))


def _tar_members(file: tarfile.TarFile) -> Iterator[_Member]:
    for info in file:
        kind = "file" if info.isfile() else "folder" if info.isdir() else "a link or device"
        yield _Member(info.name, info.size, kind, partial(file.extractfile, info))
