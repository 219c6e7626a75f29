"""Mirrors that never end, lie or lead astray, and archives made to fill memory or disk."""

import gzip
import io
import os
import tarfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ea_pointcloud.datasets import _fetch, _unpack
from ea_pointcloud.datasets._fetch import DownloadError, _check_redirect, _MirrorError, fetch
from ea_pointcloud.datasets._unpack import ArchiveError, unpack
from ea_pointcloud.datasets.catalog import Archive
from ea_pointcloud.datasets.download import silent
from tests.server import Page, Site, serve

CONTENT = os.urandom(5000)
SUM = "md5:00000000000000000000000000000000"


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(_fetch, "PAUSE", 0.0)
    monkeypatch.setattr(_fetch, "CHUNK", 1000)
    with serve() as running:
        yield running


def test_wrong_bytes_are_fetched_twice_at_most(site: Site, tmp_path: Path) -> None:
    # Each answer but every second one is cut, so that every transfer is a continued one.
    site.pages["/a.zip"] = Page(CONTENT, cuts=[3000, 5000, 3000, 5000, 3000, 5000, 3000, 5000])
    archive = Archive("a.zip", (site.url("/a.zip"),), SUM, len(CONTENT))
    with pytest.raises(DownloadError, match="has not the checksum"):
        fetch(archive, tmp_path, silent)
    assert len(site.seen) == 4


@pytest.mark.parametrize("size", [3500, None])
def test_a_body_without_end_stops(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int | None
) -> None:
    monkeypatch.setattr(_fetch, "LARGEST", 8000)
    site.pages["/a.zip"] = Page(CONTENT, endless=True)
    archive = Archive("a.zip", (site.url("/a.zip"),), None, size)
    most = size or 8000
    with pytest.raises(DownloadError, match=f"sends more than the {most:,} bytes"):
        fetch(archive, tmp_path, silent)
    assert (tmp_path / ".a.zip.partial").stat().st_size <= most + 1000


def test_a_mirror_that_drips_is_left(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_fetch, "SLOW_SECONDS", 0.3)
    site.pages["/slow.zip"] = Page(CONTENT, drip=0.05)
    site.pages["/a.zip"] = Page(CONTENT)
    archive = Archive("a.zip", (site.url("/slow.zip"), site.url("/a.zip")), None, len(CONTENT))
    begin = time.monotonic()
    assert fetch(archive, tmp_path, silent).read_bytes() == CONTENT
    assert time.monotonic() - begin < 20


def test_a_part_is_not_written_through_a_link(site: Site, tmp_path: Path) -> None:
    folder, precious = tmp_path / "data", tmp_path / "precious"
    folder.mkdir()
    precious.write_text("kept")
    (folder / ".a.zip.partial").symlink_to(precious)
    (folder / ".a.zip.partial.json").symlink_to(precious)
    site.pages["/a.zip"] = Page(CONTENT)
    archive = Archive("a.zip", (site.url("/a.zip"),), None, None)
    assert fetch(archive, folder, silent).read_bytes() == CONTENT
    assert precious.read_text() == "kept"


def test_what_a_server_says_is_escaped(site: Site, tmp_path: Path) -> None:
    site.pages["/a.zip"] = Page(status=500, reason="\x1b[2J\x07gone")
    with pytest.raises(DownloadError, match=r"\\x1b\[2J\\x07gone"):
        fetch(Archive("a.zip", (site.url("/a.zip"),), None, None), tmp_path, silent)


@pytest.mark.parametrize(
    ("location", "right"),
    [
        ("http://elsewhere/a.zip", False),
        ("//elsewhere/a.zip", True),
        ("/a.zip", True),
        ("ftp://elsewhere/a.zip", False),
        ("https://elsewhere/a.zip", True),
    ],
)
def test_no_hop_leaves_encryption(location: str, right: bool) -> None:
    from requests import Response

    response = Response()
    response.status_code, response.url = 302, "https://mirror/a.zip"
    response.headers["Location"] = location
    if right:
        _check_redirect(response)
    else:
        with pytest.raises(_MirrorError, match="which is not encrypted"):
            _check_redirect(response)


def header(**changes: object) -> tarfile.TarInfo:
    member = tarfile.TarInfo("member")
    for name, value in changes.items():
        setattr(member, name, value)
    return member


def tar_of(*parts: bytes) -> bytes:
    return b"".join(parts) + bytes(1024)


def negative(size: int) -> bytes:
    """A header whose size is negative, as base-256 has it."""
    raw = bytearray(header().tobuf(tarfile.GNU_FORMAT))
    raw[124:136] = b"\xff" * 4 + size.to_bytes(8, "big", signed=True)
    total = sum(raw[:148]) + 8 * 32 + sum(raw[156:])
    raw[148:156] = f"{total:06o}\0 ".encode()
    return bytes(raw)


def pax(content: bytes) -> bytes:
    member = header(name="pax", type=tarfile.XHDTYPE, size=len(content))
    return member.tobuf() + content + bytes(-len(content) % 512)


def sized(record: str) -> bytes:
    """A pax record, which begins with its own length."""
    return f"{len(record) + 4} {record}\n".encode()


@pytest.mark.parametrize("size", [-512, -(2**40)])
def test_a_size_that_leads_back(tmp_path: Path, size: int) -> None:
    for number, content in enumerate(
        (negative(size), pax(sized(f"size={size}")) + header().tobuf())
    ):
        path = tmp_path / f"{number}.tar"
        path.write_bytes(tar_of(content, content))
        with pytest.raises(ArchiveError, match=r"tar (is damaged|is neither)"):
            unpack(path, tmp_path / "inside", silent)
        assert not (tmp_path / "inside").exists()


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_headers_that_fill_the_memory(tmp_path: Path, kind: bytes) -> None:
    path = tmp_path / "bomb.tar.gz"
    first = header(size=3).tobuf() + b"abc" + bytes(509)
    for before in (b"", first):
        with gzip.open(path, "wb", 1) as file:
            file.write(before)
            file.write(header(type=kind, size=10**9).tobuf())
            file.write(bytes(10**6))  # it would be a gigabyte
        with pytest.raises(ArchiveError, match="bomb"):
            unpack(path, tmp_path / "inside", silent)


def test_a_list_of_holes(tmp_path: Path) -> None:
    records = ("GNU.sparse.major=1", "GNU.sparse.minor=0", "GNU.sparse.realsize=99")
    content = pax(b"".join(map(sized, records)))
    path = tmp_path / "holes.tar"
    path.write_bytes(tar_of(content, header(size=512).tobuf(), b"1\n0\n9\n".ljust(512, b"\0")))
    with pytest.raises(ArchiveError, match="holes"):
        unpack(path, tmp_path / "inside", silent)


def test_a_million_empty_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_unpack, "MOST_MEMBERS", 10)
    with zipfile.ZipFile(tmp_path / "many.zip", "w") as file:
        for number in range(11):
            file.writestr(f"{number}", b"")
    with pytest.raises(ArchiveError, match="more than 10 files"):
        unpack(tmp_path / "many.zip", tmp_path / "inside", silent)


def test_sound_archives_are_unpacked(tmp_path: Path) -> None:
    name = "folder/" + "long" * 60
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        path = tmp_path / f"{form}.tar"
        with tarfile.open(path, "w", format=form) as file:
            file.addfile(header(size=3, name=name), io.BytesIO(b"abc"))
        unpack(path, tmp_path / f"{form}", silent)
        assert (tmp_path / f"{form}" / name).read_bytes() == b"abc"
