"""Unpacking of archives that are not trusted: names, links and sizes are all checked."""

import errno
import gzip
import lzma
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
MOST_MEMBERS = 10**6  # files and folders; the largest set has a tenth
LONGEST_HEADER = 2**16  # bytes of a tar's long names and attributes, which are read into memory
_LEFTOVERS = {"__MACOSX", ".DS_Store"}
_HEADERS = (  # of the member that follows
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
)
_CHUNK = 2**20
_DAMAGED = (
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, gzip.BadGzipFile),
    *(EOFError, RuntimeError, ValueError, OverflowError, LookupError),
)


class ArchiveError(ValueError):
    """An archive that is damaged, or that does what no data set needs to."""


class _Member(NamedTuple):
    name: str
    size: int  # bytes
    is_folder: bool
    is_file: bool  # neither: a link or device
    open: Callable[[], IO[bytes] | None]


def unpack(archive: Path, folder: Path, progress: Progress) -> None:
    """Unpack a zip or tar archive into ``folder``, which is removed again if that fails.

    Written member by member and not by ``extractall``: the filter of :mod:`tarfile` rewrites or
    skips some of what is refused here, :mod:`zipfile` has none, and neither limits the size.

    Args:
        archive: recognised by its content, whatever its name.
        folder: is created; must not be there yet.
        progress: called with the bytes of the files.

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
            done = 0
            for number, member in enumerate(members):
                if number == MOST_MEMBERS:
                    raise ArchiveError(f"{archive} holds more than {MOST_MEMBERS:,} files")
                _check_size(archive, done + member.size, limit)
                target = _target(archive, member, folder)
                if target is None:
                    done += member.size
                elif member.is_folder:
                    target.mkdir(parents=True, exist_ok=True)
                else:
                    for count in _write(member, target):
                        done += count
                        progress("unpack", done, total)
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        # Where a zip says that a member begins before the file does.
        misplaced = isinstance(error, OSError) and error.errno == errno.EINVAL
        if misplaced or (isinstance(error, _DAMAGED) and not isinstance(error, ArchiveError)):
            raise ArchiveError(f"{archive} is damaged ({error}); download it again") from error
        raise


def _write(member: _Member, target: Path) -> Iterator[int]:
    """Write a file; yields the bytes of each piece."""
    target.parent.mkdir(parents=True, exist_ok=True)
    source = member.open()
    assert source is not None  # only links and folders have no content
    with source, target.open("wb") as file:
        while chunk := source.read(_CHUNK):
            file.write(chunk)
            yield len(chunk)


def _target(archive: Path, member: _Member, folder: Path) -> Path | None:
    """Where a member goes, None for leftovers of packers.

    Raises:
        ArchiveError: if it is a link or device, its name leads out of the folder, or is there.
    """
    path = PurePosixPath(member.name)
    if not (member.is_file or member.is_folder):
        raise ArchiveError(
            f"{archive} holds {member.name!r}, which is a link or device; data sets hold files and "
            "folders only, so this is not the archive it should be"
        )
    drive = path.parts and ":" in path.parts[0]
    if path.is_absolute() or ".." in path.parts or "\\" in member.name or drive:
        raise ArchiveError(
            f"{archive} holds {member.name!r}, which would be written outside of its folder; this "
            "is not the archive it should be"
        )
    if _LEFTOVERS & {*path.parts} or not path.parts:
        return None
    target = folder.joinpath(*path.parts)
    if not member.is_folder and target.exists():
        raise ArchiveError(f"{archive} holds {member.name!r} twice; get another copy")
    return target


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
            members = [_zipped(file, info) for info in file.infolist()]
            yield iter(members), sum(member.size for member in members)
        return
    try:
        file = tarfile.open(archive, tarinfo=_BoundedHeader)  # noqa: SIM115
    except tarfile.ReadError as error:
        raise ArchiveError(
            f"{archive} is neither a zip nor a tar archive; mirrors that are gone often send a "
            "web page in its place"
        ) from error
    with file:
        yield map(partial(_tarred, file), file), None


class _BoundedHeader(tarfile.TarInfo):
    """The header of a member whose size is none that leads back or fills the memory."""

    def _proc_member(self, tarfile_: tarfile.TarFile) -> tarfile.TarInfo:
        """Called for every header, as :mod:`tarfile` documents for subclasses.

        Raises:
            tarfile.ReadError: if the size is negative, or that of a long name is absurd.
        """
        self._check_size(LONGEST_HEADER if self.type in _HEADERS else None)
        member = super()._proc_member(tarfile_)  # pyright: ignore[reportAttributeAccessIssue]
        if member is not self:  # behind headers, which may have changed the size
            member._check_size(None)
        return member

    def _proc_gnusparse_10(self, *_: object) -> None:
        """Refuse a list of holes, which is read into memory and which no data set has."""
        raise tarfile.ReadError("a sparse file")

    def _check_size(self, most: int | None) -> None:
        if self.size < 0 or (most is not None and self.size > most):
            raise tarfile.ReadError(f"a header with {self.size} bytes")


def _zipped(file: zipfile.ZipFile, info: zipfile.ZipInfo) -> _Member:
    plain = stat.S_IFMT(info.external_attr >> 16) in (0, stat.S_IFREG)
    folder = info.is_dir()
    return _Member(info.filename, info.file_size, folder, plain, partial(file.open, info))


def _tarred(file: tarfile.TarFile, info: tarfile.TarInfo) -> _Member:
    content = partial(file.extractfile, info)
    return _Member(info.name, info.size, info.isdir(), info.isfile(), content)
