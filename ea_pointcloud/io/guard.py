"""Readers that run native code, in processes of their own that may hang or die without harm.

A damaged file can crash the HDF5 library or make a decompressor ask for any amount of memory,
which no ``except`` stops. The process is started at the first such file and kept for those that
follow. It is no :mod:`multiprocessing` process, because files are also read in the daemonic workers
of a data loader, which may not have any.
"""

import atexit
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ea_pointcloud.io.common import CloudFileError, Mesh, Options, Points

START_SECONDS = 120  # to import the library, from a cold and busy disk
READ_SECONDS = 3  # for a small file, which takes milliseconds
BYTES_PER_SECOND = 2.5e5  # more time for a large one; LAZ on a busy core is ten times as fast
TOO_LONG = 1  # the exit status of faulthandler's watch
PIPE = 2**20  # bytes on their way at once: a small cloud needs no second turn
MEMORY = 2**30  # bytes for a small file
MEMORY_PER_BYTE = 128  # more for a large one: a point of a LAZ file may take a byte


def read_guarded(library: str, path: Path, options: Options) -> Points | Mesh:
    """Read a file in the process that holds ``library``, one of those in ``worker``.

    Raises:
        CloudFileError: if the file cannot be read, takes too long or too much memory, or takes
            the process down.
    """
    # Of this process alone: after a fork the parent's pipes are not ours to use.
    key = (os.getpid(), library)
    return _processes.setdefault(key, _Process(library)).read(path, options)


def stop() -> None:
    """End the processes that this one started; the next file starts a new one."""
    for (parent, _), process in _processes.items():
        if parent == os.getpid():
            process.stop()


class _Limits(NamedTuple):
    seconds: float
    memory: float  # bytes


class _Process:
    """A child that answers one request after the other."""

    def __init__(self, library: str) -> None:
        self._library = library
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None

    def read(self, path: Path, options: Options) -> Points | Mesh:
        size = path.stat().st_size
        limits = _Limits(READ_SECONDS + size / BYTES_PER_SECOND, MEMORY + size * MEMORY_PER_BYTE)
        request = {"path": str(path.absolute()), "options": options, **limits._asdict()}
        with self._lock:
            if self._child is None or self._child.poll() is not None:
                self._start(path)
            reply, arrays = self._exchange(path, request, limits)
        if reply["error"]:
            raise CloudFileError(f"{path.name}: {reply['error']}")
        return Mesh.from_arrays(arrays) if "faces" in arrays else Points.from_arrays(arrays)

    def stop(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            # What a dead child has not read cannot be flushed.
            with contextlib.suppress(OSError):
                pipe.close()  # pyright: ignore[reportOptionalMemberAccess]

    def _start(self, path: Path) -> None:
        self.stop()
        # The watch ends a process that hangs, in whatever code it does, with status TOO_LONG.
        code = (
            f"import faulthandler; faulthandler.dump_traceback_later({START_SECONDS}, exit=True); "
            f"from ea_pointcloud.io.guard_worker import serve; serve({self._library!r})"
        )
        self._child = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pipesize=PIPE,
            stderr=subprocess.DEVNULL,  # native code reports there what the reply says too
            env={
                **os.environ,
                # What we import is what it imports, and nothing of the current folder.
                "PYTHONPATH": os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path),
                "PYTHONSAFEPATH": "1",
                "OPENBLAS_NUM_THREADS": "1",
            },
        )
        ready, _ = self._exchange(path, None, _Limits(START_SECONDS, MEMORY))
        if ready["error"]:
            self.stop()
            raise CloudFileError(f"{path.name}: {ready['error']}")

    def _exchange(
        self, path: Path, request: dict[str, Any] | None, limits: _Limits
    ) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Send a request, or none to hear that the process is ready; return what comes back."""
        child = self._child
        assert child is not None
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            if request is not None:
                child.stdin.write(json.dumps(request).encode() + b"\n")
                child.stdin.flush()
            reply = json.loads(child.stdout.readline())
            arrays = {}
            for name, (dtype, shape) in reply["arrays"].items():
                arrays[name] = np.empty(shape, np.dtype(dtype))
                content = arrays[name].reshape(-1).view(np.uint8)
                received = child.stdout.readinto(  # pyright: ignore[reportAttributeAccessIssue]
                    content.data
                )
                if received != len(content):
                    raise EOFError
        except (OSError, EOFError, ValueError) as error:
            child.kill()
            fault = _fault(child.wait(), limits)
            self.stop()
            raise CloudFileError(
                f"{path.name}: {fault}; the file is damaged or too large, compare it with the "
                "original or save it as .ply"
            ) from error
        except BaseException:  # an interrupt leaves a reply in the pipe that no one waits for
            self.stop()
            raise
        return reply, arrays


def _fault(status: int, limits: _Limits) -> str:
    if status == TOO_LONG:
        return f"reading it took more than {limits.seconds:.0f} s"
    cause = signal.Signals(-status).name if status < 0 else f"exit status {status}"
    return f"reading it crashed ({cause}) or took more than {limits.memory / 2**30:.1f} GiB"


_processes: dict[tuple[int, str], _Process] = {}
atexit.register(stop)
