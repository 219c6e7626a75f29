"""Which implementation of the operators runs, and what is said about it."""

import sys

import pytest
import torch
from torch import Tensor

from ea_pointcloud.ops import _backend, _reference, farthest_point_sample


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
    with pytest.raises(ValueError, match="EA_POINTCLOUD_OPS must be one of 'auto', 'reference', g"):
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
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    with pytest.warns(UserWarning, match=words):
        assert _backend.implementation("cuda") is _reference
    assert _backend.describe("cuda") == f"plain PyTorch: {words}"


def test_triton_runs_on_nvidia_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    from ea_pointcloud.ops import _triton

    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    launched = []
    monkeypatch.setattr(_backend, "_launch", launched.append)
    assert _backend.implementation("cuda") is _triton
    assert launched == [_triton]
    assert _backend.describe("cuda") == "Triton kernels"


def test_triton_that_cannot_launch_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")

    def fail(module: object) -> None:
        raise RuntimeError("Failed to find C compiler")

    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(_backend, "_launch", fail)
    with pytest.warns(UserWarning, match=r"Triton does not run \(Failed to find C compiler\)"):
        assert _backend.implementation("cuda") is _reference


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
