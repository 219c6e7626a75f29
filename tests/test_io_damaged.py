"""No damaged file does harm: random damage, and the failures that it found once."""

import io
import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import laspy
import numpy as np
import pytest

from ea_pointcloud.io import READABLE, CloudFileError, guard, read_cloud

pytest.importorskip("resource", reason="measures memory as POSIX systems do")


OTHERS = ["weights", "runs", "archives", "recipes", "descriptions"]


def report_of(*arguments: str) -> dict[str, Any]:
    """What ``python -m tests.damaged`` reports: nothing that is no clean error."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.damaged", *arguments],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent.parent,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["faults"] == []
    assert report["peak_bytes"] < 1.5e9
    return report


def test_damaged_files_end_in_a_cloud_or_a_clean_error() -> None:
    """EA_POINTCLOUD_DAMAGED=6000 sets the number of files (and 6000,7 the seed)."""
    arguments = os.environ.get("EA_POINTCLOUD_DAMAGED", "360,0").split(",")
    report = report_of(*arguments, "clouds")
    plain = {f"clouds {Path(f'a{suffix}').suffix}" for suffix in READABLE}
    assert set(report["outcomes"]) == plain - {"clouds .hdf5"}  # which is .h5
    total: dict[str, int] = {}
    for outcomes in report["outcomes"].values():
        for outcome, count in outcomes.items():
            total[outcome] = total.get(outcome, 0) + count
    assert sum(total.values()) == int(arguments[0])
    # Both occur, so the damage is neither harmless nor total.
    assert total["read"] > 0.05 * int(arguments[0])
    assert total["CloudFileError"] > 0.5 * int(arguments[0])


@pytest.mark.slow
def test_damaged_folders_end_in_a_clean_error() -> None:
    report = report_of("80", "0", *OTHERS)
    assert {label.split()[0] for label in report["outcomes"]} == set(OTHERS)
    found = [(label.split()[0], each) for label in report["outcomes"]
             for each in report["outcomes"][label]]  # fmt: skip
    assert {name for name, outcome in found if outcome != "read"} == set(OTHERS)
    # Damage is not always total.
    assert len({name for name, outcome in found if outcome == "read"}) > 1


def npy(header: str, magic: bytes = b"\x93NUMPY\x01\0") -> bytes:
    return magic + struct.pack("<H", len(header)) + header.encode()


def npz_of_unknown_member() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, xyz=np.eye(3))
    return buffer.getvalue().replace(b"\x93NUMPY", b"\x93NUMPX")


def npz_with_crc(content: bytes) -> bytes:
    import zipfile

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("xyz.npy", content)
    return buffer.getvalue()


def las(compressed: bool, at: int, code: str, number: int) -> bytes:
    """A LAS file of 40 points with one number of its header replaced."""
    content = laspy.LasData(laspy.LasHeader(version="1.4", point_format=6))
    content.xyz = np.random.default_rng(0).normal(size=(40, 3))
    buffer = io.BytesIO()
    content.write(buffer, do_compress=compressed)
    changed = bytearray(buffer.getvalue())
    struct.pack_into(code, changed, at, number)
    return bytes(changed)


VLRS, POINTS = 100, 247  # where the header of LAS 1.4 counts its records and its points
OFF = "OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n{} 0 1 2\n"
PLY = (
    "ply\nformat ascii 1.0\nelement vertex {}\nproperty float x\nproperty float y\n"
    "property float z\nelement face 1\nproperty list uchar int vertex_indices\nend_header\n"
    "0 0 0\n1 0 0\n0 1 0\n{} 0 1 2\n"
)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        # A list of as many columns was made before one of them was looked at.
        ("a.off", OFF.format(10**12), "line 6 promises 1000000000000 corners of a face and has 3"),
        ("a.ply", PLY.format(3, 10**9), "line 13 promises 1000000000 corners of a face and has 3"),
        # Python refuses to convert so many digits, in words that name no file.
        ("a.off", OFF.format("9" * 5000), "line 6: '99999999999999999999' is not the number of"),
        ("a.off", OFF.replace("3 1", "9" * 5000 + " 1").format(3), "does not give the numbers"),
        ("a.ply", PLY.format("9" * 5000, 3), "line 3: 'element vertex 99.*' is not understood"),
        ("a.pts", "9" * 5000 + "\n1 2 3\n", "line 2 has 3 columns, line 1 has 1"),
        # numpy's reader of its own header ends in errors of Python's tokenizer and of mmap.
        ("a.npy", npy("{'descr': '<f8', 'shape': (3, 3"), "damaged or not a numpy file"),
        ("a.npy", npy("{'descr': '<f8', 'fortran_order': False, 'shape': (-3, 3)}"),
         "damaged or not a numpy file"),
        ("a.npy", npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000, 3)}"),
         "damaged or not a numpy file"),
        ("a.npz", npz_with_crc(npy("{'descr': '<f8', 'fortran_order': False, 'shape': (3, 3")),
         "damaged or not a numpy file"),
        # A member of an archive that numpy does not know comes as bytes.
        ("a.npz", npz_of_unknown_member(), "damaged or not a numpy file"),
        # A cast that numpy only warns of.
        ("a.csv", "x,y,z,label\n1,2,3,1e300\n", r"label of point 0 is 1e\+300; labels must be who"),
        # The reader of LAS takes any number of records from nothing, ...
        ("a.las", las(False, VLRS, "<I", 2**32 - 1), "reading it took more than 1 s"),
        ("a.laz", las(True, VLRS, "<I", 2**32 - 1), "reading it took more than 1 s"),
        # ... and memory for any number of points, or is ended by the system on the way.
        ("a.las", las(False, POINTS, "<Q", 10**12), "promises 1000000000000 points, the file h"),
        ("a.laz", las(True, POINTS, "<Q", 10**12), "takes more than 1.0 GiB; damaged or too larg"),
    ],
)  # fmt: skip
def test_failures_that_were_found(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    content: str | bytes,
    words: str,
) -> None:
    monkeypatch.setattr(guard, "READ_SECONDS", 1)
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(CloudFileError, match=f"^{name}: .*{words}"):
        read_cloud(path)
