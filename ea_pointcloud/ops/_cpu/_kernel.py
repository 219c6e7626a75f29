"""Compiling kernels: by numba at their first call, cached on disk, with one notice on stderr.

The parameters of a kernel carry no annotations; numba infers their types, and compiles once more
for other ones.
"""

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from llvmlite import ir
from numba.core import event, types
from numba.extending import intrinsic

# Squared distances are handled as the bit patterns of their float32, read as int32: integers have
# the vector minima and maxima that floats, with their NaN, have not. Patterns of distances are
# ordered as the distances, all up to INFINITY; that to a point of NaN lies between it and ABOVE.
INFINITY = 0x7F800000
ABOVE = 0x7FFFFFFF


def _fingerprint() -> str:
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


_FINGERPRINT = _fingerprint()


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile ``function`` at its first call; it runs without the interpreter lock.

    Kernels that others call become part of them. No option lets a multiplication and an addition
    be fused, which would round once instead of twice.
    """
    # numba looks for a kernel on disk by its name and its own file's time stamp, and would miss a
    # change of the options below or, in another file, of a constant or of a kernel it calls.
    function.__qualname__ += f"_{_FINGERPRINT}"
    options = {"nogil": True, "error_model": "numpy", "forceinline": True}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # no folder to keep it in, not even the user's
        return numba.njit(**options)(function)


class _Notice(event.Listener):
    """One notice a process that kernels are being compiled, when that really happens."""

    said = False

    def on_start(self, event: event.Event) -> None:
        data: Any = event.data
        module: str = data["dispatcher"].py_func.__module__
        if not self.said and module.startswith(f"{__package__}."):
            self.said = True
            sys.stderr.write(
                "ea-pointcloud: compiling the CPU operators, some seconds each at its first call; "
                "'ea-pointcloud info --warm-up' does it ahead\n"
            )

    def on_end(self, event: event.Event) -> None:
        """Nothing is printed."""


event.register("numba:compile", _Notice())


# --- instructions that numba does not have


def _instruction(function: Callable[..., Any]) -> Callable[..., Any]:
    """Within kernels, a call of ``function`` without its first parameter, the compiler's."""
    return intrinsic(function)


@_instruction
def bits(context: Any, value: Any) -> Any:
    """Bit pattern of a float32 as int32."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.int32(types.float32), generate


@_instruction
def unbits(context: Any, value: Any) -> Any:
    """The float32 with an int32 bit pattern, or with its upper half, an int16: of a bfloat16."""
    pattern = types.int16 if value == types.int16 else types.int32

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        whole = arguments[0]
        if pattern == types.int16:
            upper = builder.zext(whole, ir.IntType(32))
            whole = builder.shl(upper, ir.Constant(ir.IntType(32), 16))
        return builder.bitcast(whole, ir.FloatType())

    return types.float32(pattern), generate


@_instruction
def within(context: Any, values: Any, row: Any, limit: Any) -> Any:
    """A uint64 with a bit for each value of a row of values (R, 64) int32, set if <= limit."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        vector = ir.VectorType(ir.IntType(32), 64)
        pointer = builder.gep(builder.bitcast(array.data, vector.as_pointer()), [arguments[1]])
        limits = ir.Constant(vector, ir.Undefined)
        limits = builder.insert_element(limits, arguments[2], ir.Constant(ir.IntType(32), 0))
        limits = builder.shuffle_vector(limits, limits, ir.Constant(vector, [0] * 64))
        met = builder.icmp_signed("<=", builder.load(pointer, align=4), limits)
        return builder.bitcast(met, ir.IntType(64))

    return types.uint64(values, types.int64, types.int32), generate


@_instruction
def lowest_bit(context: Any, mask: Any) -> Any:
    """Number of the lowest bit that is set in a uint64; 64 where none is."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return types.uint64(types.uint64), generate


@_instruction
def num_bits(context: Any, mask: Any) -> Any:
    """How many bits are set in a uint64, as int64."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.int64(types.uint64), generate
