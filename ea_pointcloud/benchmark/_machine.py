"""What a measurement ran on."""

import os
import platform
import sys
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

_PACKAGES = (
    "ea-pointcloud", "torch", "triton", "numba", "numpy", "torch-geometric", "torch-cluster",
    "torch-quickfps", "torch-quickfps-cu128", "torch-quickfps-cu130", "torch-fps", "small_gicp",
    "pynanoflann", "scipy", "open3d", "open3d-cpu", "cupy-cuda12x", "cupy-cuda13x", "cupy-knn",
)  # fmt: skip


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Device, processor, threads, load, and the versions of everything that may have been timed."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "device": str(device),
        "device_name": device_name(device),
        "cpu": processor(),
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "cores": os.cpu_count(),
        "platform": platform.platform(),
        "cuda": torch.version.cuda,
        "versions": versions,
    }


def disturbance(machine: dict[str, Any]) -> str:
    """What to think of figures taken while others were using the processor, or nothing.

    Threads that wait for each other lose far more than their share when a core is taken away, so
    that even ratios shift.
    """
    load, cores = machine["load_average"], machine["cores"]
    if load is None or cores is None or load < cores / 2:
        return ""
    return f"load {load:.1f} on {cores} cores before the start: not for the record"


def device_name(device: torch.device) -> str:
    """The GPU's name, or the processor's."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else processor()


def processor() -> str:
    """The CPU's name."""
    name = platform.processor() or platform.machine()
    if sys.platform.startswith("linux"):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    return name
