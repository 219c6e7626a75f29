"""The self-check: each operator of an implementation against plain PyTorch, on one device.

A process of its own runs it, for a kernel that reads out of bounds leaves its process without a
GPU. What it finds is kept on disk for the same GPU, driver, PyTorch, compiler and kernels.
"""

import hashlib
import importlib
import importlib.metadata
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ea_pointcloud.ops import _check_cases, _reference

OPERATORS = tuple(_check_cases.CASES)
SECONDS = 600  # for all operators; compiling the kernels takes most of it
_OPS = Path(__file__).parent
_READY = "ready"
_POISONED = 3  # the exit status of a process that an operator has left without a GPU


class Verdict(NamedTuple):
    """What the self-check found about one operator.

    Attributes:
        operator: its name.
        why: what is wrong with its kernel; empty if nothing is.
        own: whether it has a kernel, or is plain PyTorch in this implementation.
        ms: milliseconds of a call of usual size; None where nothing was measured.
        plain_ms: the same in plain PyTorch.
    """

    operator: str
    why: str
    own: bool = True
    ms: float | None = None
    plain_ms: float | None = None


def failed(error: Exception) -> str:
    """What is wrong with a kernel that raised ``error``, in one line."""
    words = " ".join(str(error).split())
    return f"failed with {type(error).__name__}: {words[:200]}"


# --- in the process that wants to know


def remembered(module: str, device: torch.device) -> list[Verdict]:
    """The verdicts kept on disk, or those of a check now, which are then kept."""
    path = _cache_file(module, device)
    try:
        return [Verdict(**row) for row in json.loads(path.read_text())]
    except (OSError, ValueError, TypeError):
        return verify(module, device)


def verify(module: str, device: torch.device, *, timed: bool = False) -> list[Verdict]:
    """Check the operators of ``module`` in processes of their own; [] where none can be started.

    An operator that takes its process down is named, and the next process goes on behind it.
    """
    verdicts: list[Verdict] = []
    while len(verdicts) < len(OPERATORS):
        left = OPERATORS[len(verdicts) :]
        started, found, end = _run(module, device, left, timed)
        if not started:  # no memory, or a GPU for one process only: says nothing about kernels
            return []
        verdicts += found
        if len(found) < len(left) and end != _POISONED:
            verdicts.append(Verdict(left[len(found)], f"ended its process ({end})"))
    _keep(_cache_file(module, device), verdicts)
    return verdicts


def _run(
    module: str, device: torch.device, operators: tuple[str, ...], timed: bool
) -> tuple[bool, list[Verdict], int | str]:
    """Whether a process could start, its verdicts, and how it ended."""
    command = [sys.executable, "-m", __name__, module, str(device), str(int(timed)), *operators]
    path = os.pathsep.join([str(_OPS.parent.parent), os.environ.get("PYTHONPATH", "")])
    try:
        done = subprocess.run(
            command,
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=SECONDS,
            check=False,
        )
        printed, end = done.stdout, f"exit status {done.returncode}"
        if done.returncode == _POISONED:
            end = _POISONED
    except subprocess.TimeoutExpired as late:
        printed, end = late.stdout or b"", f"not done after {SECONDS} s"
    except OSError:
        printed, end = b"", ""
    lines = printed.decode().splitlines()
    if _READY not in lines:
        return False, [], end
    rows = lines[lines.index(_READY) + 1 :]
    return True, [Verdict(**json.loads(row)) for row in rows if row.startswith("{")], end


def _cache_file(module: str, device: torch.device) -> Path:
    facts: list[object] = [module, sys.version, torch.__version__, torch.version.cuda]
    for package in ("triton", "numba"):
        try:
            facts.append(importlib.metadata.version(package))
        except importlib.metadata.PackageNotFoundError:
            facts.append(None)
    if device.type == "cuda":
        facts += [torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device)]
        driver = Path("/proc/driver/nvidia/version")
        facts.append(driver.read_text() if driver.exists() else None)
    digest = hashlib.sha256(repr(facts).encode())
    for source in sorted(_OPS.rglob("*.py")):
        digest.update(source.read_bytes())
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return folder / "ea_pointcloud" / f"self_check-{digest.hexdigest()[:16]}.json"


def _keep(path: Path, verdicts: list[Verdict]) -> None:
    aside = path.with_suffix(f".{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(json.dumps([verdict._asdict() for verdict in verdicts]))
        aside.replace(path)
    except OSError:  # nowhere to keep it: the next process checks again
        return


# --- in the process that runs the operators


def check(name: str, module: Any, device: torch.device, *, timed: bool = False) -> Verdict:
    """Run the cases of one operator, and measure it."""
    operator, plain = getattr(module, name, None), getattr(_reference, name)
    if operator is None or operator is plain:
        return Verdict(name, "", own=False)
    try:
        for number, case in enumerate(_check_cases.CASES[name](), 1):
            found = operator(*_moved(case.arguments, device))
            if not _equal(found, plain(*case.arguments), case.tolerance):
                return Verdict(name, f"returned a wrong result in case {number} of the self-check")
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if not timed:
            return Verdict(name, "")
        arguments = _moved(_check_cases.usual(name), device)
        times = (_milliseconds(each, arguments, device) for each in (operator, plain))
        return Verdict(name, "", True, *times)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        return Verdict(name, failed(error))


def _moved(arguments: tuple[Any, ...], device: torch.device) -> tuple[Any, ...]:
    return tuple(_check_cases.move(each, device) for each in arguments)


def _equal(found: Any, expected: Any, tolerance: float) -> bool:
    pairs = zip(*(x if isinstance(x, tuple) else (x,) for x in (found, expected)), strict=True)
    return all(_close(one.cpu(), other, tolerance) for one, other in pairs)


def _close(one: Tensor, other: Tensor, tolerance: float) -> bool:
    if one.shape != other.shape:
        return False
    if tolerance == 0 or not other.is_floating_point():
        return one.dtype == other.dtype and torch.allclose(one, other, 0, 0, equal_nan=True)
    scale = float(other.abs().max().clamp_min(1)) if other.numel() else 1.0
    return torch.allclose(one.double(), other.double(), 0, tolerance * scale)


def _milliseconds(
    operator: Callable[..., Any], arguments: tuple[Any, ...], device: torch.device
) -> float:
    """The median of five calls after a first one."""
    times = []
    for _ in range(6):
        begin = time.perf_counter()
        operator(*arguments)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(1000 * (time.perf_counter() - begin))
    return sorted(times[1:])[2]


def _usable(device: torch.device) -> bool:
    try:
        return torch.zeros(1, device=device).item() == 0
    except RuntimeError:
        return False


def _check_all(module: str, device: torch.device, timed: bool, names: list[str]) -> Iterator[str]:
    implementation = importlib.import_module(module)
    if _usable(device):
        yield _READY
    for name in names:
        yield json.dumps(check(name, implementation, device, timed=timed)._asdict())
        if not _usable(device):
            sys.exit(_POISONED)


if __name__ == "__main__":
    _module, _device, _timed, *_names = sys.argv[1:]
    for _line in _check_all(_module, torch.device(_device), _timed == "1", _names):
        sys.stdout.write(f"{_line}\n")
        sys.stdout.flush()
