"""The shared test bodies in a process where Triton's interpreter runs the kernels on the CPU.

They take minutes on one core, so the process starts with the session, beside all other tests.
"""

import importlib.util
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

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


@dataclass
class Interpreted:
    """A process under way and what it has printed."""

    process: subprocess.Popen[str]
    output: IO[str]

    def result(self) -> tuple[int, str]:
        """Wait; returns the exit status and everything printed."""
        status = self.process.wait()
        self.output.seek(0)
        return status, self.output.read()

    def stop(self) -> None:
        """End the process if it has not."""
        self.process.kill()
        self.process.wait()
        self.output.close()


def why_not() -> str:
    """Why the interpreter cannot be started from this process; empty if it can."""
    if not importlib.util.find_spec("triton"):
        return "Triton is not installed"
    return "this is that process" if os.environ.get("TRITON_INTERPRET") == "1" else ""


def start() -> Interpreted:
    """Start the tests; the variable must be set before a kernel is defined, so elsewhere."""
    chosen = " and ".join(f"not ({names})" for names in LEFT_OUT)
    tests = Path(__file__).parent
    output = TemporaryFile("w+")  # noqa: SIM115 (closed by stop)
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", chosen]
        + [str(tests / file) for file in FILES],
        cwd=tests.parent,
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        stdout=output,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return Interpreted(process, output)
