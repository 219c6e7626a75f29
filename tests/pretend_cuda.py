"""A pretended CUDA device: tensors in CPU memory that report ``cuda:0``, to count what would wait.

A GPU works through its queue while Python runs ahead; reading a value, a copy to or from pageable
memory, or a result whose size depends on values makes Python wait for it. Within :func:`pretended`
such calls are counted, and so is what a real device would refuse: operands on two devices, and
generators of another one. Operators run in plain PyTorch and count as one call.
"""

import contextlib
import traceback
from collections import Counter
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.nn.utils import clip_grad
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_flatten, tree_map

from ea_pointcloud.ops import _backend, _reference, _self_check

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")
_real_device = torch._C.TensorBase.device.__get__
# Calls whose result, or its size, the host has to read.
WAITS = {
    "_local_scalar_dense", "nonzero", "masked_select", "bincount", "_unique2", "unique_dim",
    "unique_consecutive", "equal", "is_nonzero", "_linalg_eigh", "linalg_eigh", "_linalg_svd",
    "linalg_inv_ex", "_linalg_solve_ex", "multinomial", "repeat_interleave", "histc",
}  # fmt: skip
# Calls that take operands of both devices.
MIXED = {"copy_", "_to_copy", "set_", "detach"}
INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_"}


class Device:
    """The memory of the pretended device, and what happened to it.

    Attributes:
        waits: (what, where in our code) -> how often Python would have waited.
        errors: the same of calls that a real device would refuse.
    """

    def __init__(self) -> None:
        self.waits: Counter[tuple[str, str]] = Counter()
        self.errors: Counter[tuple[str, str]] = Counter()
        self.on = True
        self.quiet = 0
        self.creating = [False]  # whether a call without tensors makes its result on the device
        self._storages: dict[int, torch.UntypedStorage] = {}

    def holds(self, tensor: Tensor) -> bool:
        return self.on and tensor.untyped_storage()._cdata in self._storages

    def mark(self, value: Any) -> Any:
        """Put the tensors in ``value`` on the device."""
        for tensor in tree_flatten(value)[0]:
            if isinstance(tensor, Tensor) and _real_device(tensor).type == "cpu":
                storage = tensor.untyped_storage()
                self._storages[storage._cdata] = storage
        return value

    def device_of(self, tensor: Tensor) -> torch.device:
        device = _real_device(tensor)
        return CUDA if device.type == "cpu" and self.holds(tensor) else device

    @contextlib.contextmanager
    def off(self) -> Iterator[None]:
        """Inside the block all tensors are plain, and nothing is counted."""
        was, self.on = self.on, False
        try:
            with _disable_current_modes():
                yield
        finally:
            self.on = was

    @contextlib.contextmanager
    def silent(self) -> Iterator[None]:
        self.quiet += 1
        try:
            yield
        finally:
            self.quiet -= 1

    @contextlib.contextmanager
    def creates(self, there: bool) -> Iterator[None]:
        self.creating.append(there)
        try:
            yield
        finally:
            self.creating.pop()

    def wait(self, what: str) -> None:
        if not self.quiet:
            self.waits[what, _where()] += 1

    def error(self, what: str) -> None:
        if not self.quiet:
            self.errors[what, _where()] += 1


def _where() -> str:
    """The lines of the package, and of libraries that call for it, innermost first."""
    frames = traceback.extract_stack()[::-1]
    ours = [f"{f.filename.split('ea_pointcloud/')[-1]}:{f.lineno}" for f in frames
            if "/ea_pointcloud/" in f.filename]  # fmt: skip
    others = [f"via {f.filename.split('site-packages/')[-1]}:{f.lineno}" for f in frames
              if "site-packages/" in f.filename and "/torch/_" not in f.filename
              and "/torch/overrides" not in f.filename and "/torch/utils/_" not in f.filename
              ]  # fmt: skip
    return " < ".join([*ours[:3], *others[:2]])


def _on_device(device: object) -> bool:
    return device is not None and torch.device(device).type == "cuda"  # pyright: ignore


_GROUPS = "_group_tensors_by_device_and_dtype"
_group = getattr(clip_grad, _GROUPS)


def _grouped(lists: list[list[Tensor]], *others: Any) -> dict[Any, Any]:
    """PyTorch groups in C++, where the memory is that of the CPU."""
    found = _group(lists, *others)
    return {(group[0][0].device, dtype): (group, at) for (_, dtype), (group, at) in found.items()}


class _Generator(torch.Generator):
    """A generator on the CPU that reports the device that it was made for."""

    def __new__(cls, device: object = "cpu") -> "_Generator":
        made = super().__new__(cls, "cpu")
        made.reported = CUDA if _on_device(device) else CPU
        return made

    def __init__(self, device: object = "cpu") -> None:
        pass

    @property
    def device(self) -> torch.device:
        return self.reported


class _Functions(TorchFunctionMode):
    """Transfers, factories and generators, which name devices."""

    def __init__(self, device: Device) -> None:
        super().__init__()
        self.state = device

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        state, kwargs = self.state, dict(kwargs or {})
        if not state.on:
            return func(*args, **kwargs)
        name = getattr(func, "__name__", str(func))
        operands = args[:1] if name == "__deepcopy__" else tree_flatten((args, kwargs))[0]
        there = any(isinstance(each, Tensor) and state.holds(each) for each in operands)
        if name in ("to", "cuda", "cpu") and isinstance(args[0], Tensor):
            return self._transfer(name, func, args, kwargs)
        asked = kwargs.get("device")
        self._check_generator(name, kwargs.get("generator"), _on_device(asked) if asked else there)
        if _on_device(asked):
            kwargs["device"] = CPU
            if name in ("tensor", "as_tensor", "new_tensor") and not there:
                state.wait(f"{name}() of values of the host, from pageable memory")
        if name in ("numpy", "__array__") and there:
            state.error("numpy() of a tensor on the device")
        if name == "pin_memory":
            return args[0]
        # PyTorch checks the classes of one_hot on the CPU only.
        quiet = there and name in ("tolist", "one_hot")
        silent = state.silent() if quiet else contextlib.nullcontext()
        if name == "tolist" and there:
            state.wait("tolist()")
        with silent, state.creates(_on_device(asked) if asked else there):
            out = func(*args, **kwargs)
        if _on_device(asked) or (asked is None and name.startswith("new_") and there):
            state.mark(out)
        return out

    def _check_generator(self, name: str, generator: object, there: bool) -> None:
        if isinstance(generator, _Generator) and (generator.device == CUDA) != there:
            self.state.error(f"{name}() with a generator on {generator.device}")

    def _transfer(self, name: str, func: Any, args: Any, kwargs: Any) -> Tensor:
        state, source = self.state, args[0]
        target, rest = {"cuda": CUDA, "cpu": CPU}.get(name), []
        for each in args[1:]:
            if isinstance(each, Tensor):
                target = each.device
                rest.append(each.dtype)
            elif isinstance(each, (str, torch.device)):
                target = torch.device(each)
            elif each is not None and not isinstance(each, bool):
                rest.append(each)
        named = kwargs.pop("device", None)
        target = torch.device(named) if named is not None else target
        if target is not None and target.type == "meta":
            return func(*args, device=target, **kwargs)
        out, to_device = source, target is not None and target.type == "cuda"
        if target is not None and to_device != state.holds(source):
            if not to_device:
                state.wait("copy from the device")
            elif not kwargs.get("non_blocking"):
                state.wait("copy to the device from pageable memory")
            with state.off():
                out = source.detach().clone().requires_grad_(source.requires_grad)
                if isinstance(source, torch.nn.Parameter):
                    out = out.detach()
            if to_device:
                state.mark(out)
        kwargs = {key: value for key, value in kwargs.items() if key in ("dtype", "copy")}
        if rest or kwargs:
            there = state.holds(out)
            with state.silent(), state.creates(there):
                out = torch.Tensor.to(out, *rest, **kwargs)
            if there:
                state.mark(out)
        return out


class _Calls(TorchDispatchMode):
    """Every call that reaches a device: where its results lie, and whether it waits."""

    def __init__(self, device: Device) -> None:
        super().__init__()
        self.state = device

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        state, kwargs = self.state, kwargs or {}
        if not state.on:
            return func(*args, **kwargs)
        tensors = [each for each in tree_flatten((args, kwargs))[0] if isinstance(each, Tensor)]
        there = [state.holds(each) for each in tensors]
        if any(there):
            self._judge(func.overloadpacket.__name__, args, tensors, there)
        out = func(*args, **kwargs)
        if any(there) or (not tensors and state.creating[-1]):
            state.mark(out)
        return out

    def _judge(self, name: str, args: Any, tensors: list[Tensor], there: list[bool]) -> None:
        state = self.state
        if name in WAITS:
            state.wait(name)
        if name == "copy_" and there[0] != there[1]:
            state.wait("copy_ between devices")
        if name in INDEXED:
            indices = [each for each in args[1] if isinstance(each, Tensor)]
            if any(each.dtype == torch.bool for each in indices):
                state.wait(f"{name} with a mask")
            if not all(state.holds(each) for each in indices):
                state.wait(f"{name} with indices of the host")
        elif name not in MIXED:
            for tensor, held in zip(tensors, there, strict=True):
                if not held and tensor.dim() > 0:
                    state.error(f"{name} with an operand of shape {tuple(tensor.shape)} on the CPU")


@contextlib.contextmanager
def pretended(capability: tuple[int, int] = (9, 0)) -> Iterator[Device]:
    """Inside the block there is a device ``cuda:0`` of this compute capability."""
    state = Device()

    def plain(name: str) -> Any:
        def run(*arguments: Any) -> Any:
            with state.off():
                return getattr(_reference, name)(*arguments)

        return run

    operators = SimpleNamespace(**{name: plain(name) for name in _self_check.OPERATORS})
    choice = _backend._Choice(operators, "pretended")
    replaced = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "get_device_capability": lambda *_: capability,
        "get_device_name": lambda *_: "Pretended",
        "mem_get_info": lambda *_: (16 << 30, 24 << 30),
        "synchronize": lambda *_: state.wait("torch.cuda.synchronize()"),
        "is_bf16_supported": lambda *_, **__: capability >= (8, 0),
        "manual_seed_all": lambda *_: None,
    }
    properties = {
        "device": property(state.device_of),
        "is_cuda": property(lambda tensor: state.device_of(tensor).type == "cuda"),
    }
    with contextlib.ExitStack() as stack:
        for name, value in replaced.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, value))
        for name, value in properties.items():
            stack.enter_context(mock.patch.object(torch.Tensor, name, value, create=True))
        stack.enter_context(mock.patch.object(torch, "Generator", _Generator))
        stack.enter_context(mock.patch.object(clip_grad, _GROUPS, _grouped))
        stack.enter_context(mock.patch.dict(_backend._choices, {CUDA: choice}))
        stack.enter_context(_Functions(state))
        stack.enter_context(_Calls(state))
        yield state


def to_device(value: Any, device: Device) -> Any:
    """A copy of the tensors in ``value`` on the device, which counts as nothing."""

    def copy(each: Any) -> Any:
        if not isinstance(each, Tensor):
            return each
        with device.off():
            made = each.clone()
        return device.mark(made)

    return tree_map(copy, value)


def move_module(module: torch.nn.Module, device: Device) -> torch.nn.Module:
    """The module with its parameters, buffers, and the states of metrics on the device."""
    device.mark([*module.parameters(), *module.buffers()])
    for each in module.modules():
        device.mark(list(vars(each).values()))
    return module
