"""The process that reads for us may do anything; stand-ins for its libraries do."""

import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

from ea_pointcloud.io import Cloud, CloudFileError, guard, read_cloud, write_cloud
from ea_pointcloud.io.common import Options

# Takes the place of h5py in the process of the reader, and does what the file says.
STAND_IN = """
import os, signal, sys, time

class Empty: pass
Dataset = Empty

class File:
    def __init__(self, path, mode):
        word = open(path).read()
        if word == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        elif word == "leave":
            os._exit(3)
        elif word == "hang":
            time.sleep(60)
        elif word == "memory":
            bytearray(10**12)
        elif word == "panic":
            raise BaseException("a panic in Rust")
        print("a library that talks", flush=True)
        os.write(2, b"and complains")
        raise OSError("nothing in it")
"""


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    guard.stop()
    yield
    guard.stop()


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "libraries").mkdir()
    (tmp_path / "libraries" / "h5py.py").write_text(STAND_IN)
    monkeypatch.syspath_prepend(tmp_path / "libraries")
    monkeypatch.setattr(guard, "READ_SECONDS", 1)
    return tmp_path


@pytest.mark.parametrize(
    ("word", "words"),
    [
        ("crash", r"reading it crashed \(SIGSEGV\) or took more than 1.0 GiB; the file is damaged"),
        ("leave", r"reading it crashed \(exit status 3\) or took more than 1.0 GiB; the file"),
        ("hang", r"reading it took more than 1 s; the file is damaged or too large, compare it"),
        ("memory", r"takes more than 1.0 GiB; damaged or too large, split it"),
        ("panic", r"damaged \(a panic in Rust\); compare it with"),
        ("talk", r"damaged or not an HDF5 file \(nothing in it\); compare it with"),
    ],
)
def test_whatever_happens_is_an_error_of_the_file(
    stand_in: Path, word: str, words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    if word == "crash" and sys.platform == "win32":
        pytest.skip("has no signals")
    path = stand_in / "a.h5"
    path.write_text(word)
    for _ in range(2):  # and the next file is read by whoever is left, or by a new process
        with pytest.raises(CloudFileError, match=f"^a.h5: {words}"):
            read_cloud(path)
    assert capfd.readouterr() == ("", "")


def test_a_library_that_is_not_installed(stand_in: Path) -> None:
    (stand_in / "libraries" / "h5py.py").write_text("raise ImportError('no such wheel')")
    (stand_in / "a.h5").write_text("talk")
    with pytest.raises(CloudFileError, match=r"a.h5: needs h5py \(no such wheel\); install it"):
        read_cloud(stand_in / "a.h5")


@pytest.fixture
def cloud_file(tmp_path: Path) -> Path:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["xyz"] = np.eye(3)
    return tmp_path / "a.h5"


def child_of(process: int) -> set[int]:
    """Identifiers of the readers that this process of ours keeps."""
    return {
        reader._child.pid
        for (parent, _), reader in guard._processes.items()
        if parent == process and reader._child is not None
    }


def test_one_process_reads_all_files(cloud_file: Path) -> None:
    read_cloud(cloud_file)
    first = child_of(os.getpid())
    for _ in range(5):
        assert len(read_cloud(cloud_file)) == 3
    assert child_of(os.getpid()) == first
    assert len(first) == 1


def test_a_process_that_died_between_two_files(cloud_file: Path) -> None:
    read_cloud(cloud_file)
    (child,) = child_of(os.getpid())
    os.kill(child, 9)
    time.sleep(0.1)
    assert len(read_cloud(cloud_file)) == 3


def test_an_interrupt_leaves_no_reply_behind(
    cloud_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_cloud(cloud_file)

    def interrupted(text: bytes) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(guard.json, "loads", interrupted)
        with pytest.raises(KeyboardInterrupt):
            read_cloud(cloud_file)
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["xyz"] = np.eye(3)[:2]
    assert len(read_cloud(tmp_path / "b.h5")) == 2


@pytest.mark.parametrize(
    "method", [name for name in multiprocessing.get_all_start_methods() if name != "forkserver"]
)
def test_daemonic_workers_read_with_a_process_of_their_own(cloud_file: Path, method: str) -> None:
    # After a fork the parent's pipes are open in the worker, too.
    read_cloud(cloud_file)
    before = child_of(os.getpid())
    with multiprocessing.get_context(method).Pool(1) as pool:
        arguments = [("h5py", cloud_file, Options())] * 3
        for points in pool.starmap(guard.read_guarded, arguments):
            assert (points.xyz == np.eye(3)).all()
    assert len(read_cloud(cloud_file)) == 3
    assert child_of(os.getpid()) == before


def test_the_process_ends_with_ours(cloud_file: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from ea_pointcloud.io import guard; "
        "from ea_pointcloud.io.common import Options; "
        "guard.read_guarded('h5py', Path(sys.argv[1]), Options()); "
        "print(*[process._child.pid for process in guard._processes.values()], flush=True); "
        "os._exit(0)"  # no clean-up of ours
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(cloud_file)],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    child = int(done.stdout)
    for _ in range(50):
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    pytest.fail(f"process {child} is still there after five seconds")


def test_reading_needs_no_open3d_and_no_native_parser_here(tmp_path: Path) -> None:
    paths = [str(tmp_path / f"a.{suffix}") for suffix in ("ply", "pcd", "npz", "h5", "laz")]
    for path in paths:
        write_cloud(path, Cloud(np.eye(3, dtype=np.float32), np.zeros(3)))
    code = (
        "import sys; from ea_pointcloud.io import read_cloud\n"
        "for path in sys.argv[1:]: read_cloud(path)\n"
        "print(sorted({'open3d', 'h5py', 'laspy', 'lazrs'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *paths],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    assert done.stdout == "[]\n"
