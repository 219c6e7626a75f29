"""Download of a public data set, or an archive at hand: checked, unpacked, put in place whole."""

import errno
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ea_pointcloud.datasets._fetch import DownloadError, Progress, fetch
from ea_pointcloud.datasets._files import alone, data_root, replace_folder
from ea_pointcloud.datasets._unpack import unpack
from ea_pointcloud.datasets.catalog import Archive, CatalogEntry
from ea_pointcloud.datasets.layouts import find_root
from ea_pointcloud.datasets.verify import Finding, file_digest, verify_folder

__all__ = ["DownloadError", "Progress", "download", "manual_steps"]

logger = logging.getLogger(__name__)


def silent(what: str, done: int, total: int | None) -> None:
    """A progress that is not shown."""


def download(
    entry: CatalogEntry,
    root: str | Path | None = None,
    *,
    from_file: str | Path | None = None,
    force: bool = False,
    keep_archive: bool = False,
    progress: Progress = silent,
) -> Path:
    """Put a data set in place: ``root/FOLDER`` is there and whole afterwards, or as it was before.

    Several processes may do so at once: one works, the others wait and find it done. TLS is always
    verified. An archive with the published checksum is what it should be, and where its content
    differs from the table that is a warning; of any other the content must be right.

    Args:
        entry: which.
        root: data root; default ``$EA_POINTCLOUD_DATA``, then ``./data``.
        from_file: an archive at hand, to unpack instead of downloading; it stays where it is.
        force: replace the folder if it is there.
        keep_archive: leave the downloaded archive in ``root``.
        progress: called with the bytes.

    Returns:
        The folder.

    Raises:
        FileNotFoundError: if there is no such archive.
        DownloadError: if no mirror has it, its terms must be accepted first, its content is not
            that of the set, or the disk is full.
        ArchiveError: if the archive is damaged or not safe to unpack.
    """
    base = data_root(root)
    base.mkdir(parents=True, exist_ok=True)
    folder = base / entry.folder
    busy = f"another process is at work on {entry.name}"
    with alone(base / f".{entry.name}.lock", busy), _full_disk_said(base):
        if folder.exists() and not force:
            logger.info("%s is there already", folder)
            return folder
        if from_file is None:
            archive, trusted = _fetch_any(entry, root, progress)
        else:
            archive, trusted = _given(entry, Path(from_file).expanduser(), progress)
        _put_in_place(entry, archive, folder, trusted=trusted, progress=progress)
        if from_file is None and not keep_archive:
            archive.unlink()
    return folder


def manual_steps(entry: CatalogEntry, root: str | Path | None = None) -> str:
    """What to do by hand where no mirror answers, or the terms must be accepted first."""
    folder = data_root(root) / entry.folder
    lines = []
    if entry.terms:
        lines.append(f"Accept the terms of use at {entry.terms}.")
    lines.append(f"Get one of these, from there or from whoever has a copy (see {entry.page}):")
    for archive in entry.archives:
        known = [f"{archive.size:,} bytes"] if archive.size else []
        known += [archive.checksum.replace(":", " ")] if archive.checksum else []
        lines.append(f"   {archive.name}" + (f" ({', '.join(known)})" if known else ""))
        lines += [f"      {url}" for url in archive.urls]
    there = "" if root is None else f" --root {root}"
    lines.append(f"Run: ea-pointcloud data download {entry.name} --from-file ARCHIVE{there}")
    lines.append(f"or unpack it yourself, so that its files lie in {folder}, and run:")
    lines.append(f"   ea-pointcloud data verify {entry.name}{there}")
    return "\n".join(lines)


def _fetch_any(
    entry: CatalogEntry, root: str | Path | None, progress: Progress
) -> tuple[Path, bool]:
    """An archive of the set, and whether a published checksum says that it is the right one."""
    if entry.terms:
        raise DownloadError(
            f"the terms of {entry.name} must be accepted first, so it is not downloaded for "
            f"you.\n{manual_steps(entry, root)}"
        )
    reasons = []
    for archive in entry.archives:
        try:
            return fetch(archive, data_root(root), progress), archive.checksum is not None
        except DownloadError as error:
            reasons.append(str(error))
    raise DownloadError("\n".join([*reasons, "By hand:", manual_steps(entry, root)]))


def _given(entry: CatalogEntry, path: Path, progress: Progress) -> tuple[Path, bool]:
    if not path.is_file():
        raise FileNotFoundError(f"no archive {path}; check the path from {Path.cwd()}")
    published = [archive for archive in entry.archives if archive.checksum]
    trusted = any(_has_checksum(path, archive, progress) for archive in published)
    if published and not trusted:
        known = ", ".join(str(archive.checksum) for archive in published)
        logger.warning(
            "%s has not the checksum of %s (%s); its content decides", path, entry.name, known
        )
    return path, trusted


def _has_checksum(path: Path, archive: Archive, progress: Progress) -> bool:
    size = path.stat().st_size
    if archive.checksum is None or archive.size not in (None, size):
        return False
    kind, _, expected = archive.checksum.partition(":")
    return file_digest(path, kind, lambda done: progress("check", done, size)) == expected


def _put_in_place(
    entry: CatalogEntry, archive: Path, folder: Path, *, trusted: bool, progress: Progress
) -> None:
    staged = folder.with_name(f".{entry.folder}.unpacking")
    shutil.rmtree(staged, ignore_errors=True)  # of a process that was killed
    unpack(archive, staged, progress)
    try:
        found = find_root(staged, entry.layout)
        wrong = [finding for finding in verify_folder(entry, found) if not finding.right]
        if wrong and not trusted:
            raise DownloadError(
                f"{archive} is not {entry.name}:\n{_listed(wrong)}\n"
                f"get another copy; nothing was changed in {folder}"
            )
        if wrong:
            logger.warning("%s differs from what was published:\n%s", entry.name, _listed(wrong))
        replace_folder(found, folder)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _listed(findings: list[Finding]) -> str:
    return "\n".join(f"  {each.what}: {each.found}, expected {each.expected}" for each in findings)


@contextmanager
def _full_disk_said(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DownloadError(
            f"the disk of {folder} is full; make room, or choose another folder with --root, and "
            "run again: what was downloaded is kept and continued"
        ) from error
