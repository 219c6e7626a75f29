"""Which implementation of each operator runs; callers never branch on the device.

An implementation is a module with the functions of ``_reference``, the plain PyTorch one, which
runs everywhere and is the oracle that any other must equal, integer for integer. The first call on
a device chooses for the process: Triton on CUDA, numba on the CPU, plain PyTorch elsewhere, while
exporting, and where the faster one cannot be imported. On a GPU every operator is then compared
with the oracle (``_self_check``). An operator that differs, or fails then or later, falls back to
plain PyTorch alone.
"""

import importlib
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from ea_pointcloud._checks import check_choice
from ea_pointcloud._device import constant_in_graphs
from ea_pointcloud.ops import _reference, _self_check

# reference: without the fast implementations; unchecked: without comparing them first.
VARIABLE = "EA_POINTCLOUD_OPS"
_NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


class _Fast(NamedTuple):
    module: str
    name: str
    remedy: str
    attends: bool = False


_TRITON = (
    "the system's C compiler links its driver: on Debian or Ubuntu, apt install gcc"
    if sys.platform == "linux"
    else "PyTorch comes with it on Linux only, which includes WSL"
)
_FAST = {
    "cpu": _Fast("ea_pointcloud.ops._cpu", "numba", "pip install numba"),
    "cuda": _Fast("ea_pointcloud.ops._triton", "Triton", _TRITON, attends=True),
}


@dataclass
class _Choice:
    """What runs on a device.

    Attributes:
        module: the implementation.
        reason: for ``ea-pointcloud info``.
        replaced: the operators that run in plain PyTorch nevertheless, and why.
    """

    module: Any
    reason: str
    replaced: dict[str, str] = field(default_factory=dict)

    def replace(self, name: str, why: str) -> None:
        self.replaced[name] = why
        warnings.warn(
            f"the operator {name} runs in plain PyTorch from here on, several times slower: "
            f"its kernel {why}",
            stacklevel=2,
        )


_choices: dict[torch.device, _Choice] = {}
_override: Any = None
_kept = False


def operators() -> Any:
    """Where to call the operators: ``torch.ops.ea_pointcloud``, or plain PyTorch for an export.

    An exported program must run where this package is not installed, unless :func:`keep_operators`
    says that they will be translated.
    """
    if torch.compiler.is_exporting() and not _kept:
        return _reference
    return torch.ops.ea_pointcloud


def call(name: str, arguments: tuple[Any, ...]) -> Any:
    """Run one operator on the implementation for the device of its first argument."""
    if _override is not None:
        return getattr(_override, name)(*arguments)
    choice = _choice(arguments[0].device)
    if name in choice.replaced:
        return getattr(_reference, name)(*arguments)
    try:
        return getattr(choice.module, name)(*arguments)
    except Exception as error:
        if choice.module is _reference:
            raise
        return _in_plain_pytorch(choice, name, arguments, error)


def implementation(device: str | torch.device) -> Any:
    """The implementation for tensors on ``device``."""
    return _override if _override is not None else _choice(device).module


@constant_in_graphs
def has_attention(device: str | torch.device) -> bool:
    """Whether external attention has kernels there; elsewhere autograd derives plain PyTorch."""
    if _override is not None:
        return _override is not _reference and hasattr(_override, "attend")
    device = torch.device(device)
    fast = _FAST.get(device.type)
    if fast is None or not fast.attends:  # nothing is loaded to find that out
        return False
    if torch.cuda.get_device_capability(device) < (8, 0):
        return False  # no bfloat16 and no TF32, and half the shared memory
    choice = _choice(device)
    return choice.module is not _reference and "attend" not in choice.replaced


def describe(device: str | torch.device) -> str:
    """One line for ``ea-pointcloud info``: what runs on ``device``, and why."""
    if _override is not None:
        return "overridden by use_implementation()"
    choice = _choice(device)
    replaced = "".join(f"; {name} in plain PyTorch, {why}" for name, why in choice.replaced.items())
    return choice.reason + replaced


def compare(device: str | torch.device) -> list[_self_check.Verdict]:
    """Compare every operator on ``device`` with plain PyTorch, now, and measure both."""
    device = _indexed(device)
    fast = _FAST.get(device.type)
    if fast is None or _choice(device).module is _reference:
        return []
    return _self_check.verify(fast.module, device, timed=True)


def warm_up(device: str | torch.device) -> None:
    """Compile ahead what the implementation for ``device`` would compile at its first calls."""
    ahead = getattr(implementation(device), "warm_up", None)
    if ahead is not None:
        ahead()


@contextmanager
def use_implementation(chosen: Any) -> Iterator[None]:
    """Run every operator inside the block on ``chosen``, whatever the device (for tests)."""
    global _override
    before, _override = _override, chosen
    try:
        yield
    finally:
        _override = before


@contextmanager
def keep_operators() -> Iterator[None]:
    """Inside the block an export keeps each operator as one node, for a format with its own."""
    global _kept
    before, _kept = _kept, True
    try:
        yield
    finally:
        _kept = before


def _in_plain_pytorch(
    choice: _Choice, name: str, arguments: tuple[Any, ...], error: Exception
) -> Any:
    """The result of plain PyTorch after a kernel has failed, and so from there on.

    Where plain PyTorch fails too, the arguments or the device are at fault and not the kernel.
    """
    message = str(error)
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        raise error
    if any(words in message.lower() for words in _NO_MEMORY):
        raise torch.OutOfMemoryError(message) from error
    try:
        result = getattr(_reference, name)(*arguments)
    except Exception:
        raise error from None
    choice.replace(name, _self_check.failed(error))
    return result


def _indexed(device: str | torch.device) -> torch.device:
    """The device with its number, so that each GPU has a choice of its own."""
    device = torch.device(device)
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device


def _choice(device: str | torch.device) -> _Choice:
    found = _choices.get(device)  # pyright: ignore[reportArgumentType, reportCallIssue]
    if found is None:
        device = _indexed(device)
        if device not in _choices:
            _choices[device] = _choose(device)
        found = _choices[device]
    return found


def _choose(device: torch.device) -> _Choice:
    wanted = os.environ.get(VARIABLE, "auto")
    check_choice(VARIABLE, wanted, ("auto", "reference", "unchecked"))
    if wanted == "reference":
        return _Choice(_reference, f"plain PyTorch, as {VARIABLE} says")
    fast = _FAST.get(device.type)
    if fast is None:
        return _Choice(_reference, f"plain PyTorch: nothing faster is written for {device.type}")
    obstacle = _unsuitable_gpu(device) if device.type == "cuda" else ""
    if not obstacle:
        try:
            choice = _Choice(importlib.import_module(fast.module), f"{fast.name} kernels")
            if device.type == "cuda" and wanted == "auto":
                obstacle = _replace_failing(choice, fast, device)
        except Exception as error:  # a broken installation raises anything; the fallback works
            obstacle = f"{fast.name} does not run ({error}); {fast.remedy}"
        if not obstacle:
            return choice
    warnings.warn(
        f"the operators run in plain PyTorch on {device.type}, several times slower: {obstacle}",
        stacklevel=2,
    )
    return _Choice(_reference, f"plain PyTorch: {obstacle}")


def _replace_failing(choice: _Choice, fast: _Fast, device: torch.device) -> str:
    """Replace the operators that fail the self-check; if all do, why none of them can run."""
    verdicts = _self_check.remembered(fast.module, device)
    failures = {each.operator: each.why for each in verdicts if each.why}
    if failures and len(failures) == len(verdicts):
        return f"no {fast.name} kernel runs (the first {next(iter(failures.values()))}); " + (
            fast.remedy
        )
    for name, why in failures.items():
        choice.replace(name, why)
    return ""


def _unsuitable_gpu(device: torch.device) -> str:
    """Why the Triton kernels cannot run on this GPU, or nothing."""
    if torch.version.hip is not None:
        return "the kernels are tested on NVIDIA GPUs only"
    capability = torch.cuda.get_device_capability(device)
    if capability < (7, 5):
        return f"Triton needs compute capability 7.5, this GPU has {capability[0]}.{capability[1]}"
    return ""
