"""The Triton kernels, run on the CPU by Triton's interpreter through the shared test bodies."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

FILES = (
    "test_ops_sampling.py",
    "test_ops_neighbors.py",
    "test_ops_gather.py",
    "test_ops_pyg.py",
    "test_triton_sampling.py",
    "test_triton_neighbors.py",
    "test_triton_gather.py",
)
LEFT_OUT = (
    # The interpreter takes milliseconds an instruction. Two kinds of clouds of the largest size are
    # enough of it; the others run in all smaller sizes, of up to two turns of a lane.
    "257 and (tenths or equal or line or offset or tiny or denormal or large or overflow)",
    "exact_arithmetic",
    # Derivatives are the same code for all implementations, and numerical ones take many calls.
    "second_derivative or gradient_in_features_and_offset",
    # The flat functions call those of the files above; one ragged batch full of ties is enough.
    "test_ops_pyg and not (by_hand or ragged and lattice)",
    # It cuts bfloat16 off where a GPU rounds.
    "adds_the_offset and dtype2",
)
LEAST_TESTS = 300


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("triton"), reason="Triton is not installed")
@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="this is that process")
def test_kernels_in_the_interpreter() -> None:
    # In a process of its own: the variable must be set before a kernel is defined.
    chosen = " and ".join(f"not ({names})" for names in LEFT_OUT)
    tests = Path(__file__).parent
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", chosen]
        + [str(tests / file) for file in FILES],
        cwd=tests.parent,
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-1000:]
    passed = re.search(r"(\d+) passed", run.stdout)
    assert passed
    assert int(passed[1]) >= LEAST_TESTS
