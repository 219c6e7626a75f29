import errno
import hashlib
import io
import multiprocessing
import shutil
import tarfile
import threading
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ea_pointcloud.datasets import ModelNet, _fetch
from ea_pointcloud.datasets._fetch import DownloadError
from ea_pointcloud.datasets._unpack import ArchiveError, unpack
from ea_pointcloud.datasets.catalog import CATALOG, Archive, CatalogEntry, find_entry
from ea_pointcloud.datasets.download import download, manual_steps, silent
from ea_pointcloud.datasets.verify import verify_folder
from tests.server import Page, Site, make_certificate, serve

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(_fetch, "PAUSE", 0.0)
    monkeypatch.setattr(_fetch, "CHUNK", 1000)
    with serve() as running:
        yield running


def small_set(train: int = 6, test: int = 4) -> bytes:
    """A set of two classes in the HDF5 layout, zipped in a folder of its own with leftovers."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for split, count in (("train", train), ("test", test)):
            content = io.BytesIO()
            xyz = np.random.default_rng(count).normal(size=(count, 32, 3)).astype(np.float32)
            xyz -= xyz.mean(1, keepdims=True)
            xyz /= np.linalg.norm(xyz, axis=2).max(1)[:, None, None]
            with h5py.File(content, "w") as h5:
                h5["data"], h5["label"] = xyz, (np.arange(count) % 2).astype(np.uint8)[:, None]
            file.writestr(f"set/ply_data_{split}0.h5", content.getvalue())
            file.writestr(f"set/{split}_files.txt", f"elsewhere/ply_data_{split}0.h5\n")
        file.writestr("set/shape_names.txt", "cup\nlamp\n")
        file.writestr("__MACOSX/set/._shape_names.txt", "junk")
    return buffer.getvalue()


CONTENT = small_set()


def make_entry(*urls: str, content: bytes = CONTENT, **changes: Any) -> CatalogEntry:
    checksum = f"md5:{hashlib.md5(content, usedforsecurity=False).hexdigest()}"
    archive = Archive("tiny.zip", urls, checksum, len(content))
    entry = CatalogEntry(
        name="tiny",
        title="a set for tests",
        layout="modelnet_h5",
        folder="tiny_ply_hdf5_2048",
        archives=(archive,),
        megabytes=1,
        licence="none",
        citation="nobody",
        page="https://example.org",
        counts={"classes": 2, "train": 6, "test": 4},
    )
    return replace(entry, **changes)


def unsummed(entry: CatalogEntry) -> CatalogEntry:
    """The same without a published checksum or size."""
    archives = tuple(replace(each, checksum=None, size=None) for each in entry.archives)
    return replace(entry, archives=archives)


def in_place(folder: Path) -> bool:
    """Whether the set can be opened, and nothing but it and the lock is left in the data root."""
    assert len(ModelNet(folder, split="trainval")) == 6
    assert len(ModelNet(folder, split="test")) == 4
    return {path.name for path in folder.parent.iterdir()} <= {folder.name, ".tiny.lock"}


def test_downloads_checks_and_unpacks(site: Site, tmp_path: Path) -> None:
    site.pages["/tiny.zip"] = Page(CONTENT)
    seen: list[tuple[str, int, int | None]] = []
    entry = make_entry(site.url("/tiny.zip"))
    folder = download(entry, tmp_path, progress=lambda *step: seen.append(step))
    assert folder == tmp_path / "tiny_ply_hdf5_2048"
    assert in_place(folder)
    assert {path.name for path in folder.iterdir()} == {
        "ply_data_train0.h5", "ply_data_test0.h5", "train_files.txt", "test_files.txt",
        "shape_names.txt",
    }  # fmt: skip
    assert [done for what, done, _ in seen if what == "download"][-1] == len(CONTENT)
    assert [what for what, done, _ in seen if what == "unpack"]
    assert download(entry, tmp_path) == folder  # once is enough
    assert len(site.seen) == 1
    download(entry, tmp_path, force=True, keep_archive=True)
    assert (tmp_path / "tiny.zip").read_bytes() == CONTENT
    download(entry, tmp_path, force=True)
    assert len(site.seen) == 2  # the archive that was kept is whole and taken


def test_continues_what_was_cut(site: Site, tmp_path: Path) -> None:
    page = site.pages["/tiny.zip"] = Page(CONTENT, cuts=[3000, 2000])
    folder = download(make_entry(site.url("/tiny.zip")), tmp_path)
    assert in_place(folder)
    assert [asked for _, asked in site.seen] == [None, "bytes=3000-", "bytes=5000-"]
    assert page.cuts == []


def test_continues_in_another_process_and_at_another_mirror(site: Site, tmp_path: Path) -> None:
    site.pages["/a.zip"] = Page(CONTENT, cuts=[3000, 0])
    site.pages["/b.zip"] = Page(CONTENT, etag='"other"')
    with pytest.raises(DownloadError, match=r"no mirror has tiny.zip:\n  .*/a.zip: "):
        download(make_entry(site.url("/a.zip")), tmp_path)
    assert not (tmp_path / "tiny_ply_hdf5_2048").exists()
    assert in_place(download(make_entry(site.url("/b.zip")), tmp_path))
    assert site.seen[-1] == ("/b.zip", "bytes=3000-")


@pytest.mark.parametrize(
    "changes",
    [{"ranges": False}, {"etag": None}, {"etag": 'W/"1"'}],
    ids=["no ranges", "no tag", "weak tag"],
)
def test_starts_over_where_it_cannot_continue(
    site: Site, tmp_path: Path, changes: dict[str, Any]
) -> None:
    # Without a checksum nothing would tell that two halves do not belong together.
    site.pages["/tiny.zip"] = Page(CONTENT, cuts=[3000], **changes)
    assert in_place(download(unsummed(make_entry(site.url("/tiny.zip"))), tmp_path))
    assert site.seen[-1][1] == (None if changes != {"ranges": False} else "bytes=3000-")


def test_a_file_that_changed_meanwhile_is_not_mixed(site: Site, tmp_path: Path) -> None:
    entry = unsummed(make_entry(site.url("/tiny.zip")))
    site.pages["/tiny.zip"] = Page(b"x" * 9000, etag='"old"', cuts=[3000, 0])
    with pytest.raises(DownloadError):
        download(entry, tmp_path)
    site.pages["/tiny.zip"] = Page(CONTENT, etag='"new"')
    assert in_place(download(entry, tmp_path))


@pytest.mark.parametrize("kept", [1000, len(CONTENT), len(CONTENT) + 5])
def test_a_wrong_beginning_costs_one_more_download(site: Site, tmp_path: Path, kept: int) -> None:
    site.pages["/other.zip"] = Page(b"x" * len(CONTENT), cuts=[1000, 0])
    site.pages["/tiny.zip"] = Page(CONTENT)
    entry = make_entry(site.url("/other.zip"))
    with pytest.raises(DownloadError):
        download(entry, tmp_path)
    (tmp_path / ".tiny.zip.partial").write_bytes(b"x" * kept)
    assert in_place(download(make_entry(site.url("/tiny.zip")), tmp_path))
    assert site.seen[-1] == ("/tiny.zip", None)


def test_the_next_mirror_has_it(
    site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    site.pages["/wrong.zip"] = Page(bytes(reversed(CONTENT)))
    site.pages["/short.zip"] = Page(CONTENT[:-1])
    site.pages["/page.zip"] = Page(b"<html>moved", kind="text/html; charset=utf-8")
    site.pages["/broken.zip"] = Page(status=503)
    site.pages["/tiny.zip"] = Page(CONTENT)
    names = ("gone.zip", "wrong.zip", "short.zip", "page.zip", "broken.zip", "tiny.zip")
    urls = ["http://localhost:1/refused.zip", *(site.url(f"/{name}") for name in names)]
    assert in_place(download(make_entry(*urls), tmp_path))
    for reason in (
        r"refused.zip: ",
        "gone.zip: HTTP status 404 Not Found",
        "wrong.zip: what it sent has not the checksum md5:",
        f"short.zip: has a file of {len(CONTENT) - 1} bytes, the archive has {len(CONTENT)}",
        "page.zip: sent a web page in place of the archive",
        "broken.zip: HTTP status 503",
    ):
        assert reason in caplog.text


def test_no_mirror_has_it(site: Site, tmp_path: Path) -> None:
    entry = make_entry(site.url("/a.zip"), site.url("/b.zip"))
    with pytest.raises(DownloadError) as caught:
        download(entry, tmp_path)
    for line in (
        "/a.zip: HTTP status 404",
        "/b.zip: HTTP status 404",
        f"data download tiny --from-file ARCHIVE --root {tmp_path}",
        f"so that its files lie in {tmp_path / 'tiny_ply_hdf5_2048'}",
    ):
        assert line in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == [".tiny.lock"]


@needs_openssl
@pytest.mark.parametrize("expired", [False, True], ids=["self-signed", "expired"])
def test_a_certificate_is_never_overlooked(
    site: Site,
    tmp_path: Path,
    expired: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    certificate = make_certificate(tmp_path, expired=expired)
    if expired:  # all else about it can be trusted
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    site.pages["/tiny.zip"] = Page(CONTENT)
    with serve(certificate) as secure:
        secure.pages["/tiny.zip"] = Page(CONTENT)
        folder = download(
            make_entry(secure.url("/tiny.zip"), site.url("/tiny.zip")), tmp_path / "data"
        )
        assert secure.seen == []
    assert in_place(folder)
    assert "its certificate cannot be trusted" in caplog.text
    assert ("expired" if expired else "self-signed") in caplog.text


@needs_openssl
def test_encryption_is_not_given_up_on_the_way(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = make_certificate(tmp_path)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    site.pages["/tiny.zip"] = Page(CONTENT)
    with serve(certificate) as secure:
        secure.pages["/away.zip"] = Page(status=302, location=site.url("/tiny.zip"))
        secure.pages["/stays.zip"] = Page(status=302, location=secure.url("/tiny.zip"))
        secure.pages["/tiny.zip"] = Page(CONTENT)
        with pytest.raises(DownloadError, match=r"leads to http:.*which is not encrypted"):
            download(make_entry(secure.url("/away.zip")), tmp_path / "data")
        assert in_place(download(make_entry(secure.url("/stays.zip")), tmp_path / "data"))


def fail_when_written(monkeypatch: pytest.MonkeyPatch, suffix: str, after: int) -> None:
    """Files of that suffix take so many bytes, then the disk is full."""
    plain_open = Path.open

    def open_(self: Path, *args: Any, **kwargs: Any) -> Any:
        file = plain_open(self, *args, **kwargs)
        if self.suffix != suffix or "r" in args[:1]:
            return file
        left, plain_write = after, file.write

        class Full:
            def write(self, content: bytes) -> int:
                nonlocal left
                left -= len(content)
                if left < 0:
                    raise OSError(errno.ENOSPC, "No space left on device")
                return plain_write(content)

            def __enter__(self) -> "Full":
                return self

            def __exit__(self, *error: object) -> None:
                file.close()

        return Full()

    monkeypatch.setattr(Path, "open", open_)


def test_disk_full_while_downloading(site: Site, tmp_path: Path) -> None:
    site.pages["/tiny.zip"] = Page(CONTENT)
    entry = make_entry(site.url("/tiny.zip"), site.url("/tiny.zip"))
    with pytest.MonkeyPatch.context() as patch:
        fail_when_written(patch, ".partial", 2500)
        with pytest.raises(DownloadError, match=r"the disk of .* is full; make room, or"):
            download(entry, tmp_path)
    assert len(site.seen) == 1  # no other mirror would help
    assert not (tmp_path / "tiny.zip").exists()
    assert in_place(download(entry, tmp_path))
    assert site.seen[-1][1] == "bytes=2000-"


def test_disk_full_while_unpacking(site: Site, tmp_path: Path) -> None:
    site.pages["/tiny.zip"] = Page(CONTENT)
    entry = make_entry(site.url("/tiny.zip"))
    with pytest.MonkeyPatch.context() as patch:
        fail_when_written(patch, ".h5", 2500)
        with pytest.raises(DownloadError, match=r"the disk of .* is full"):
            download(entry, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"tiny.zip", ".tiny.lock"}
    assert in_place(download(entry, tmp_path))
    assert len(site.seen) == 1


def test_says_ahead_that_the_disk_is_too_small(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.pages["/tiny.zip"] = Page(CONTENT)
    usage = shutil.disk_usage(tmp_path)._replace(free=2000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(DownloadError, match=r"downloading tiny.zip needs .* GB in .*, 0.00 GB are"):
        download(make_entry(site.url("/tiny.zip")), tmp_path)


def test_two_processes_at_once(
    site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hold = threading.Event()
    site.pages["/tiny.zip"] = Page(CONTENT, hold=hold)
    entry = make_entry(site.url("/tiny.zip"))
    other = multiprocessing.get_context("fork").Process(target=download, args=(entry, tmp_path))
    with warnings.catch_warnings():  # it shares no lock with the threads of the server
        warnings.simplefilter("ignore", DeprecationWarning)
        other.start()
    assert site.asked.wait(60)
    release = threading.Timer(0.3, hold.set)
    release.start()
    folder = download(entry, tmp_path)
    other.join(60)
    assert other.exitcode == 0
    release.join()
    assert "another process is at work on tiny; waiting for it" in caplog.text
    assert len(site.seen) == 1
    assert in_place(folder)


def test_from_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    archive = tmp_path / "copy.bin"  # its name does not matter
    archive.write_bytes(CONTENT)
    entry = make_entry("https://localhost:1/never-asked.zip")
    assert in_place(download(entry, tmp_path / "a", from_file=archive))
    assert archive.read_bytes() == CONTENT
    assert caplog.text == ""

    # Packed anew by somebody, with the same in it: what is in it decides.
    with tarfile.open(archive, "w:gz") as file:
        file.add(tmp_path / "a" / entry.folder, ".")
    assert in_place(download(entry, tmp_path / "b", from_file=archive))
    assert "has not the checksum of tiny" in caplog.text

    archive.write_bytes(small_set(train=5))
    with pytest.raises(DownloadError, match=r"is not tiny:\n  train shapes: 5, expected 6\nget an"):
        download(entry, tmp_path / "c", from_file=archive)
    assert [path.name for path in (tmp_path / "c").iterdir()] == [".tiny.lock"]
    with pytest.raises(FileNotFoundError, match=r"no archive .*missing.zip; check the path from"):
        download(entry, tmp_path / "c", from_file=tmp_path / "missing.zip")


def test_the_published_archive_is_taken_though_our_table_differs(
    site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    site.pages["/tiny.zip"] = Page(CONTENT)
    entry = make_entry(site.url("/tiny.zip"), counts={"classes": 2, "train": 7, "test": 4})
    assert in_place(download(entry, tmp_path))
    assert "tiny differs from what was published:\n  train shapes: 6, expected 7" in caplog.text


def test_terms_are_accepted_by_people(tmp_path: Path) -> None:
    entry = CATALOG["scanobjectnn"]
    with pytest.raises(DownloadError, match=r"terms of scanobjectnn must be accepted first") as no:
        download(entry, tmp_path)
    assert entry.terms is not None
    assert entry.terms in str(no.value)


class Member(tarfile.TarInfo):
    """A member of a tar that holds what is no file."""

    def __init__(self, name: str, kind: bytes, target: str) -> None:
        super().__init__(name)
        self.type, self.linkname = kind, target


def zipped(folder: Path, name: str, content: str = "x", mode: int = 0o100644) -> Path:
    info = zipfile.ZipInfo("set")
    info.filename = name  # past what the class would do to it
    info.external_attr = mode << 16
    with zipfile.ZipFile(folder / "bad.zip", "w") as file:
        file.writestr("set/good.txt", "x")
        file.writestr(info, content)
    return folder / "bad.zip"


def tarred(folder: Path, member: tarfile.TarInfo) -> Path:
    with tarfile.open(folder / "bad.tar.gz", "w:gz") as file:
        file.addfile(tarfile.TarInfo("set/good.txt"), io.BytesIO())
        file.addfile(member, io.BytesIO())
    return folder / "bad.tar.gz"


@pytest.mark.parametrize(
    "name", ["../out.txt", "set/../../out.txt", "/out.txt", "C:/out.txt", "set\\..\\..\\out.txt"]
)
def test_no_path_leaves_the_folder(tmp_path: Path, name: str) -> None:
    for archive in (zipped(tmp_path, name), tarred(tmp_path, tarfile.TarInfo(name))):
        with pytest.raises(ArchiveError, match=r"which would be written outside of its folder"):
            unpack(archive, tmp_path / "in" / "side", silent)
        assert not list(tmp_path.rglob("out.txt"))
        assert not (tmp_path / "in" / "side").exists()


def test_links_and_devices_are_refused(tmp_path: Path) -> None:
    archives = [zipped(tmp_path, "set/link", "/etc/passwd", mode=0o120777)]
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
        path = tarred(tmp_path, Member("set/link", kind, "/etc/passwd"))
        archives.append(path.rename(tmp_path / f"{len(archives)}.tar.gz"))
    for archive in archives:
        with pytest.raises(ArchiveError, match=r"'set/link', which is a link or device"):
            unpack(archive, tmp_path / "inside", silent)
        assert not (tmp_path / "inside").exists()


def test_bombs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ea_pointcloud.datasets._unpack.ALWAYS_ALLOWED", 10_000)
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("zeros", bytes(1_000_000))
    with tarfile.open(tmp_path / "bomb.tar.gz", "w:gz") as file:
        member = tarfile.TarInfo("zeros")
        member.size = 1_000_000
        file.addfile(member, io.BytesIO(bytes(1_000_000)))
    for name in ("bomb.zip", "bomb.tar.gz"):
        with pytest.raises(ArchiveError, match=r"would unpack to more than .* GB, 50 times its"):
            unpack(tmp_path / name, tmp_path / "inside", silent)
        assert not (tmp_path / "inside").exists()


def test_damaged_archives_leave_nothing(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as file:
        member = tarfile.TarInfo("noise")
        member.size = 50_000
        file.addfile(member, io.BytesIO(np.random.default_rng(0).bytes(50_000)))
    whole = (tmp_path / "a.tar.gz").read_bytes()
    flipped = bytearray(CONTENT)
    flipped[CONTENT.index(b"cup\nlamp")] ^= 1
    for content in (whole[:30_000], bytes(flipped)):
        (tmp_path / "damaged").write_bytes(content)
        with pytest.raises(ArchiveError, match=r"damaged is damaged \(.*; download it again"):
            unpack(tmp_path / "damaged", tmp_path / "inside", silent)
        assert not (tmp_path / "inside").exists()
    (tmp_path / "page").write_text("<html>not found</html>")
    with pytest.raises(ArchiveError, match=r"is neither a zip nor a tar archive; mirrors that are"):
        unpack(tmp_path / "page", tmp_path / "inside", silent)


def test_a_second_member_of_one_name_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "twice.zip", "w") as file:
        file.writestr("set/a", "one")
        with pytest.warns(UserWarning, match="Duplicate name"):
            file.writestr("set/a", "two")
    with pytest.raises(ArchiveError, match=r"twice.zip holds 'set/a' twice"):
        unpack(tmp_path / "twice.zip", tmp_path / "inside", silent)


def test_the_old_set_stays_until_the_new_one_is_right(site: Site, tmp_path: Path) -> None:
    site.pages["/tiny.zip"] = Page(CONTENT)
    entry = make_entry(site.url("/tiny.zip"))
    folder = download(entry, tmp_path)
    site.pages["/tiny.zip"] = Page(CONTENT[:4000])
    with pytest.raises(ArchiveError):
        download(unsummed(entry), tmp_path, force=True)
    (tmp_path / "tiny.zip").unlink()
    assert in_place(folder)


def test_every_source_can_be_got() -> None:
    for name, entry in CATALOG.items():
        assert find_entry(name) is entry
        assert find_entry(entry.folder.upper()) is entry
        urls = [url for archive in entry.archives for url in archive.urls]
        assert urls
        assert all(url.startswith("https://") for url in [*urls, entry.page])
        assert entry.licence
        assert entry.citation
        for archive in entry.archives:
            kind, _, digest = (archive.checksum or "md5:" + "0" * 32).partition(":")
            assert len(bytes.fromhex(digest)) == hashlib.new(kind).digest_size
    with pytest.raises(ValueError, match=r"name must be one of 'modelnet10', .* got 'modelnet41'"):
        find_entry("modelnet41")


def test_the_page_for_people_knows_every_source() -> None:
    page = (Path(__file__).parent.parent / "data" / "README.md").read_text()
    for entry in CATALOG.values():
        assert entry.name in page
        assert entry.folder in page
        for archive in entry.archives:
            assert archive.name in page
            assert archive.checksum is None or archive.checksum.partition(":")[2] in page
            assert all(url in page for url in archive.urls)
        assert entry.page in page
        assert entry.licence.split(";")[0].split(" (")[0] in page


def test_manual_steps_name_archive_and_place(tmp_path: Path) -> None:
    steps = manual_steps(CATALOG["modelnet40_c"], tmp_path)
    assert "modelnet40_c.zip (1,970,686,633 bytes, md5 c4a7fffaa52c80b33f7b3a0ac7782d3b)" in steps
    assert f"--from-file ARCHIVE --root {tmp_path}" in steps


def test_verify_finds_what_differs(tmp_path: Path) -> None:
    entry = make_entry("https://localhost:1")
    (tmp_path / "tiny.zip").write_bytes(CONTENT)
    folder = download(entry, tmp_path, from_file=tmp_path / "tiny.zip")
    assert all(finding.right for finding in verify_folder(entry, folder))
    summed = replace(entry, md5={"ply_data_test0.h5": "0" * 32})
    (wrong,) = verify_folder(summed, folder)
    digest = hashlib.md5((folder / "ply_data_test0.h5").read_bytes()).hexdigest()
    assert (wrong.what, wrong.found) == ("md5 of ply_data_test0.h5", digest)
    (folder / "ply_data_test0.h5").unlink()
    wrong = [each for each in verify_folder(entry, folder) if not each.right]
    assert [(each.what, each.found) for each in wrong] == [
        ("test shapes", "0"),
        ("missing files", "1 (ply_data_test0.h5)"),
    ]
    (folder / "shape_names.txt").unlink()
    (wrong,) = verify_folder(entry, folder)
    assert wrong.what == "layout"
