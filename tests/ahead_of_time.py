"""Compiling the Triton kernels for GPUs that are not there, and reading what came out.

Launches are recorded from the operators themselves, called on meta tensors, so that exactly the
constants, warps and options are compiled that would run.
"""

import re
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime import JITFunction

ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)

_TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
_POINTEES = {
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.int64: "*i64",
    torch.int32: "*i32",
    torch.int16: "*i16",
    torch.uint8: "*u8",
    torch.bool: "*i1",
}


@dataclass(frozen=True)
class Launch:
    """A kernel with the arguments of one launch, by name, and its options (warps, stages, ...)."""

    kernel: Any
    arguments: dict[str, Any]
    options: dict[str, Any]

    def __str__(self) -> str:
        sizes = [str(v) for p, v in self.arguments.items() if p.isupper()]
        return "-".join([self.kernel.fn.__name__, *sizes, f"{self.options['num_warps']}warps"])


@dataclass(frozen=True)
class Compiled:
    """What one kernel takes on one GPU.

    Attributes:
        registers: of a thread.
        spilled: bytes a thread keeps in memory because it has no registers left for them.
        shared: bytes of shared memory of a program.
        code: the machine code in words.
    """

    registers: int
    spilled: int
    shared: int
    code: str

    def count(self, *opcodes: str) -> int:
        """Instructions of the opcodes, each a regular expression such as ``FADD.*FTZ``."""
        return len(re.findall(rf"\s(?:{'|'.join(opcodes)})(?![A-Z0-9_])", self.code))


def record_launches(call: Callable[[], object]) -> list[Launch]:
    """Run ``call``, on meta tensors, and return the kernels it would have launched."""
    launches: list[Launch] = []

    def run(kernel: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        del grid, warmup
        arguments = dict(zip(kernel.arg_names, args, strict=False))
        arguments |= {name: kwargs.pop(name) for name in kernel.arg_names if name in kwargs}
        launches.append(Launch(kernel, arguments, kwargs))

    with mock.patch.object(JITFunction, "run", run):
        call()
    return launches


def compile_launch(launch: Launch, architecture: int) -> Compiled:
    """Compile for compute capability ``architecture`` (90: Hopper) with Triton's own tools."""
    signature, constants, aligned = {}, {}, {}
    for place, (name, value) in enumerate(launch.arguments.items()):
        if name.isupper() or value is None:
            signature[name], constants[name] = "constexpr", value
        elif isinstance(value, Tensor):
            signature[name] = _POINTEES[value.dtype]
            aligned[(place,)] = [["tt.divisibility", 16]]
        elif isinstance(value, float):
            signature[name] = "fp32"
        else:
            signature[name] = "i32" if abs(value) < 2**31 else "i64"
    source = ASTSource(launch.kernel, signature, constants, aligned)
    target = GPUTarget("cuda", architecture, 32)
    compiled: Any = triton.compile(source, target=target, options=launch.options)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(compiled.asm["cubin"])
        usage = _read("cuobjdump", "-res-usage", path)
        code = _read("nvdisasm", "-c", path)
    found = {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
    spilled = found["STACK"] + found["LOCAL"]
    return Compiled(found["REG"], spilled, compiled.metadata.shared, code)


def _read(tool: str, option: str, path: Path) -> str:
    command = [_TOOLS / tool, option, path]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
