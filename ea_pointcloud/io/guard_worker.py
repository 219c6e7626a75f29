"""The process behind ``guard``: reads files on request, one after another.

A request is a line of JSON: path, options, and the seconds and bytes of memory that reading may
take. A reply is a line of JSON, followed by the bytes of the arrays that it lists.
"""

import faulthandler
import importlib
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ea_pointcloud.io.common import DAMAGED, CloudFileError, Mesh, Options, Points
from ea_pointcloud.io.gltf import read_gltf
from ea_pointcloud.io.hdf5 import read_hdf5
from ea_pointcloud.io.las import read_las

READERS: dict[str, Callable[[Path, Options], Points | Mesh]] = {
    "h5py": read_hdf5,
    "laspy": read_las,
    "DracoPy": read_gltf,
}


def serve(library: str) -> None:
    """Answer requests until there are no more, with ``library``, one of ``READERS``."""
    # An interrupt goes to every process of the terminal; it is for the one that asks to stop us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # so that no output of a library becomes a reply
    try:
        importlib.import_module(library)
    except ImportError as error:
        _reply(replies, f"needs {library} ({error}); install it with pip", {})
        return
    faulthandler.cancel_dump_traceback_later()
    _reply(replies, None, {})
    for line in sys.stdin.buffer:
        request = json.loads(line)
        _limit_memory(int(request["memory"]))
        faulthandler.dump_traceback_later(request.pop("seconds"), exit=True)
        error, arrays = _read(library, **request)
        faulthandler.cancel_dump_traceback_later()
        _reply(replies, error, arrays)


def _read(
    library: str, path: str, options: list[Any], memory: float
) -> tuple[str | None, dict[str, np.ndarray]]:
    """An error without the file's name, or the parts of its points."""
    file = Path(path)
    try:
        parts = READERS[library](file, Options(*options)).to_arrays()
        return None, {name: np.ascontiguousarray(part) for name, part in parts.items()}
    except CloudFileError as error:
        return str(error).removeprefix(f"{file.name}: "), {}
    except MemoryError:
        return f"takes more than {memory / 2**30:.1f} GiB; damaged or too large, split it", {}
    except BaseException as error:  # a panic in Rust is no Exception
        return f"damaged ({str(error)[:100] or 'its reader failed'}); {DAMAGED}", {}


def _reply(replies: BinaryIO, error: str | None, arrays: dict[str, np.ndarray]) -> None:
    layout = {name: (array.dtype.str, array.shape) for name, array in arrays.items()}
    replies.write(json.dumps({"error": error, "arrays": layout}).encode() + b"\n")
    for array in arrays.values():
        replies.write(array.reshape(-1).view(np.uint8).data)
    replies.flush()


def _limit_memory(size: int) -> None:
    """Let allocations fail beyond ``size`` bytes, where the system can do that."""
    if sys.platform == "win32":
        return
    import resource

    # Not the address space: libraries reserve much of it that they never use.
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard != resource.RLIM_INFINITY:
        size = min(size, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (size, hard))
