"""Checks of what a weights folder declares, before a network of that size is built or read."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as registration
from torch.overrides import TorchFunctionMode

LARGEST_SETTING = 2**16  # of a configuration: widths, depths, centres, classes
MOST_POINTS = 10**6  # of the clouds that a network was trained on
_MOST_ENTRIES = 2**16  # of a list, such as the names of the classes
_PER_TENSOR = 20  # layers, parameters and buffers that a network registers for a stored tensor
_ALWAYS = 1000
_FLOATING = ("F16", "BF16", "F32", "F64")
_WHOLE = {torch.int64: "I64", torch.int32: "I32", torch.bool: "BOOL"}


def check_settings(settings: dict[str, Any]) -> None:
    """Raise ValueError for a number or list in a configuration that no network has."""
    for name, value in settings.items():
        most = MOST_POINTS if name == "num_points" else LARGEST_SETTING
        entries = value if isinstance(value, list) else [value]
        if len(entries) > _MOST_ENTRIES:
            raise ValueError(f"{name} has {len(entries):,} entries, at most {_MOST_ENTRIES:,}")
        for entry in entries:
            if isinstance(entry, int) and abs(entry) > most:
                raise ValueError(f"{name} must be at most {most:,}, got {str(entry)[:30]}")


def check_stored(path: Path, build: Callable[[], nn.Module]) -> None:
    """Compare the header of a safetensors file with a network, neither of which takes memory.

    Args:
        path: of the weights.
        build: makes the network; called on the meta device.

    Raises:
        ValueError: for the first tensor that is missing, unknown, or of another shape or kind.
    """
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        stored = {name: (each.get_dtype(), each.get_shape()) for name, each in slices.items()}
    with torch.device("meta"), _Uninitialised(), at_most(_ALWAYS + _PER_TENSOR * len(stored)):
        expected = build().state_dict()
    for what, names in (("lacks", set(expected) - set(stored)), ("has an unknown",
                        set(stored) - set(expected))):  # fmt: skip
        if names:
            raise ValueError(f"it {what} {min(names)[:100]!r}, {len(names)} tensors in all")
    for name, value in expected.items():
        kind, shape = stored[name]
        if list(value.shape) != list(shape):
            raise ValueError(f"{name} must have shape {list(value.shape)}, got {shape}")
        if kind not in (_FLOATING if value.is_floating_point() else _WHOLE.get(value.dtype, "")):
            raise ValueError(f"{name} must hold {value.dtype} or a narrower form, got {kind}")


def check_values(state: dict[str, Tensor]) -> None:
    """Raise ValueError for the first tensor with a value that no training leaves."""
    for name, value in state.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise ValueError(f"{name} has values that are NaN or infinite")
        if name.endswith("running_var") and bool((value < 0).any()):
            raise ValueError(f"{name} has a negative variance")


class _Uninitialised(TorchFunctionMode):
    """Leaves ``torch.nn.init`` out: on the meta device it imports compilers for over a second."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


@contextmanager
def at_most(count: int) -> Iterator[None]:
    """Stop a network that registers more than ``count`` layers and tensors while it is built."""
    left, thread = [count], threading.get_ident()

    def registered(*_: object) -> None:
        if threading.get_ident() != thread:  # the hooks are those of the whole process
            return
        left[0] -= 1
        if left[0] < 0:
            raise ValueError("its configuration is that of a far larger network")

    handles = [
        registration.register_module_parameter_registration_hook(registered),
        registration.register_module_buffer_registration_hook(registered),
        registration.register_module_module_registration_hook(registered),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
