"""The most memory that a stretch of a process takes, on a GPU or of the system."""

from pathlib import Path

import torch


def reset_peak(device: torch.device) -> int | None:
    """Bytes in use now, from where the peak counts; None where the system does not tell."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    try:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak becomes what is in use
    except OSError:
        return None
    return peak_bytes(device)


def peak_bytes(device: torch.device) -> int | None:
    """The most bytes in use at a time since :func:`reset_peak`."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM")), None)
