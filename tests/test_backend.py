"""Which implementation of the operators runs, and what is said about it."""

import sys

import pytest
import torch
from torch import Tensor

from ea_pointcloud.ops import _backend, _reference, _self_check, farthest_point_sample


@pytest.fixture(autouse=True)
def _undecided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_backend, "_choices", {})
    monkeypatch.delenv("EA_POINTCLOUD_OPS", raising=False)


def test_numba_runs_on_the_cpu() -> None:
    from ea_pointcloud.ops import _cpu

    assert _backend.implementation("cpu") is _cpu
    assert _backend.describe("cpu") == "numba kernels"


def test_plain_pytorch_runs_where_numba_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ea_pointcloud.ops._cpu", None)
    with pytest.warns(UserWarning, match="plain PyTorch on cpu, several times slower: numba does"):
        picks = farthest_point_sample(torch.eye(3)[None], 2)
    assert picks.tolist() == [[0, 1]]
    assert _backend.implementation("cpu") is _reference  # and is not said again
    assert _backend.describe("cpu").startswith("plain PyTorch: numba does not run (")
    assert _backend.describe("cpu").endswith("pip install numba")


def test_the_environment_can_ask_for_plain_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EA_POINTCLOUD_OPS", "reference")
    assert _backend.implementation("cpu") is _reference
    assert _backend.describe("cpu") == "plain PyTorch, as EA_POINTCLOUD_OPS says"


def test_the_environment_cannot_ask_for_anything_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EA_POINTCLOUD_OPS", "fast")
    message = "EA_POINTCLOUD_OPS must be one of 'auto', 'reference', 'unchecked', got 'fast'"
    with pytest.raises(ValueError, match=message):
        _backend.implementation("cpu")


def test_other_devices_have_plain_pytorch() -> None:
    assert _backend.implementation("mps") is _reference
    assert _backend.describe("mps") == "plain PyTorch: nothing faster is written for mps"


@pytest.mark.parametrize(
    ("hip", "capability", "words"),
    [
        ("6.4", (9, 0), "the kernels are tested on NVIDIA GPUs only"),
        (None, (7, 0), "Triton needs compute capability 7.5, this GPU has 7.0"),
    ],
)
def test_gpus_that_triton_does_not_serve(
    monkeypatch: pytest.MonkeyPatch, hip: str | None, capability: tuple[int, int], words: str
) -> None:
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    with pytest.warns(UserWarning, match=words):
        assert _backend.implementation("cuda:0") is _reference
    assert _backend.describe("cuda:0") == f"plain PyTorch: {words}"


def test_triton_runs_on_nvidia_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    from ea_pointcloud.ops import _triton

    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    checked = []
    monkeypatch.setattr(_self_check, "remembered", lambda *found: checked.append(found) or [])
    for index in (0, 1):  # each GPU is checked, once
        for _ in range(2):
            assert _backend.implementation(f"cuda:{index}") is _triton
        assert _backend.describe(f"cuda:{index}") == "Triton kernels"
    expected = [("ea_pointcloud.ops._triton", torch.device("cuda", index)) for index in (0, 1)]
    assert checked == expected


def test_the_environment_can_leave_the_check_out(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setenv("EA_POINTCLOUD_OPS", "unchecked")
    monkeypatch.setattr(_self_check, "remembered", None)
    assert _backend.describe("cuda:0") == "Triton kernels"


def test_triton_that_cannot_launch_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    why = "failed with RuntimeError: Failed to find C compiler"
    verdicts = [_self_check.Verdict(name, why) for name in _self_check.OPERATORS]
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(_self_check, "remembered", lambda *_: verdicts)
    with pytest.warns(UserWarning, match="no Triton kernel runs .the first failed .* C compiler"):
        assert _backend.implementation("cuda:0") is _reference


def test_use_implementation_overrides_and_restores() -> None:
    class Recorder:
        called = False

        def farthest_point_sample(self, *arguments: object) -> Tensor:
            self.called = True
            return _reference.farthest_point_sample(*arguments)

    recorder = Recorder()
    before = _backend.implementation("cpu")
    with _backend.use_implementation(recorder):
        farthest_point_sample(torch.zeros(1, 4, 3), 2)
        assert _backend.describe("cpu") == "overridden by use_implementation()"
    assert recorder.called
    assert _backend.implementation("cpu") is before
