"""The shared test bodies in processes where Triton's interpreter runs the kernels on the CPU."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

PARTS = (  # files, the longest cut in two, and how many tests at least are run of each
    ("test_ops_sampling.py", "test", 60),
    ("test_ops_neighbors.py", "knn", 40),
    ("test_ops_neighbors.py", "not knn", 70),
    ("test_ops_gather.py", "test", 30),
    ("test_ops_pyg.py", "test", 8),
    ("test_triton_sampling.py", "test", 40),
    ("test_triton_neighbors.py", "test", 15),
    ("test_triton_gather.py", "test", 10),
    ("test_triton_attention.py", "test", 11),
    ("test_triton_layouts.py", "test", 38),
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
    "plain_form_in_large",
)


def why_not() -> str:
    """Why the interpreter cannot be started from this process; empty if it can."""
    if not importlib.util.find_spec("triton"):
        return "Triton is not installed"
    return "this is that process" if os.environ.get("TRITON_INTERPRET") == "1" else ""


def run(file: str, names: str) -> tuple[int, str]:
    """Run one of ``PARTS``; returns the exit status and everything printed.

    The variable must be set before a kernel is defined, so elsewhere.
    """
    chosen = " and ".join([f"({names})", *(f"not ({others})" for others in LEFT_OUT)])
    tests = Path(__file__).parent
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"),
            *("-k", chosen, str(tests / file)),
        ],
        cwd=tests.parent,
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout
