"""Choosing a device, seeding, and memory."""

import ctypes
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

Function = TypeVar("Function", bound=Callable[..., object])


def constant_in_graphs(function: Function) -> Function:
    """Let ``torch.compile`` call ``function`` while it traces, and keep the result.

    It is :func:`torch.compiler.assume_constant_result`, which would import the compiler now.
    """
    function._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess]
    return function


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """``"auto"`` is CUDA where there is a usable GPU, else the CPU; others have to be available.

    On ``"mps"`` everything runs in plain PyTorch, so ``"auto"`` never chooses it.

    Raises:
        ValueError: if the device is unknown or not available.
    """
    check_device_name("device", str(device))
    if str(device) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    resolved = torch.device(device)
    if resolved.type == "cuda" and (resolved.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device {str(device)!r} is not available: PyTorch finds {torch.cuda.device_count()} "
            "CUDA GPUs; use 'cpu' or 'auto'"
        )
    if resolved.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError("device 'mps' is not available on this machine; use 'cpu' or 'auto'")
    return resolved


def check_device_name(name: str, device: str) -> None:
    """Raise unless ``device`` is the name of one, available or not."""
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", device):
        raise ValueError(f"{name} must be 'auto', 'cpu', 'cuda', 'cuda:N' or 'mps', got {device!r}")


def generator_for(device: torch.device, *seeds: int) -> torch.Generator:
    """A generator on ``device`` whose stream depends on all of ``seeds``, in order."""
    return torch.Generator(device).manual_seed(mix_seeds(*seeds))


def mix_seeds(*seeds: int) -> int:
    """One 63-bit seed from several; neighbouring inputs give unrelated seeds.

    Reference:
        The finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014), once per input.
    """
    state = 0
    for seed in seeds:
        state = (state + seed + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 31
    return state >> 1


def has_bfloat16(device: torch.device) -> bool:
    """Whether the processor multiplies bfloat16 natively; elsewhere it is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    found = torch.cpu.get_capabilities()
    return any(found.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


@constant_in_graphs
def tf32_allowed() -> bool:
    """Whether the user lets float32 matrix products on a GPU take the tensor cores."""
    settings = torch.backends.cuda.matmul
    # PyTorch that has the newer name raises where it was set and the older one is read.
    if hasattr(settings, "fp32_precision"):
        return settings.fp32_precision == "tf32"
    return bool(settings.allow_tf32)


def keep_freed_memory() -> None:
    """Let a process that trains or measures on the CPU reuse its large buffers.

    glibc hands every buffer above 32 MB back to the system when it is freed and gets zeroed pages
    when it is wanted again, some 40,000 page faults a training step: a quarter of the CPU time of
    the ``tiny`` classifier at batch 32 (0.69 s against 0.50 s a step, same run, one thread), half
    of that of its inference at batch 64 (7.6 ms against 3.6 ms a cloud of 1,024 points). The
    process keeps its peak size until it ends. Does nothing where the C library is another.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        m_trim_threshold, m_mmap_max = -1, -4  # malloc.h
        mallopt(m_mmap_max, 0)
        mallopt(m_trim_threshold, 2**31 - 1)


def available_memory(device: torch.device) -> int | None:
    """Bytes that this process may still allocate; None where the system does not report it.

    On the CPU the least of what the machine has free, what its control group leaves (containers,
    batch systems), and the process's own limits.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    rooms = [*_machine_room(), *_control_group_room(), *_process_room()]
    return max(0, min(rooms)) if rooms else None


def _machine_room() -> list[int]:
    return _kilobytes(Path("/proc/meminfo"), "MemAvailable")


def _control_group_room() -> list[int]:
    groups = Path("/sys/fs/cgroup")
    pairs = [("memory.max", "memory.current"),
             ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes")]  # fmt: skip
    rooms = []
    for limit, usage in pairs:
        try:
            rooms.append(int((groups / limit).read_text()) - int((groups / usage).read_text()))
        except (OSError, ValueError):  # another version of control groups, or no limit: "max"
            continue
    return rooms


def _process_room() -> list[int]:
    try:
        import resource
    except ImportError:  # Windows
        return []
    rooms = []
    for limit, key in ((resource.RLIMIT_AS, "VmSize"), (resource.RLIMIT_DATA, "VmData")):
        most = resource.getrlimit(limit)[0]
        used = _kilobytes(Path("/proc/self/status"), key)
        if most != resource.RLIM_INFINITY and used:
            rooms.append(most - used[0])
    return rooms


def _kilobytes(path: Path, key: str) -> list[int]:
    """Bytes of the line ``KEY:   123 kB`` of a file of the system, none where it has none."""
    try:
        found = re.search(rf"^{key}:\s+(\d+) kB$", path.read_text(), re.MULTILINE)
    except OSError:
        return []
    return [1024 * int(found[1])] if found else []
