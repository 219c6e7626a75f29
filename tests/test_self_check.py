"""The self-check of the operators, and how one that fails falls back to plain PyTorch alone."""

import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from ea_pointcloud.models import create_model
from ea_pointcloud.ops import _backend, _check_cases, _cpu, _reference, _self_check
from ea_pointcloud.ops._self_check import OPERATORS, Verdict

CPU = torch.device("cpu")
MODULE = "ea_pointcloud.ops._cpu"


class OutOfResources(Exception):
    """As Triton raises it."""


def raises(*arguments: object) -> None:
    raise RuntimeError("device-side\n assert")


def exceeds(*arguments: object) -> None:
    raise OutOfResources("shared memory, Required: 200000, Hardware limit: 101376")


def wrong(name: str) -> Callable[..., Any]:
    def run(*arguments: Any) -> Any:
        result = getattr(_reference, name)(*arguments)
        first = result[0] if isinstance(result, tuple) else result
        if first.numel():
            first.view(-1)[-1] += 1
        return result

    return run


def module(**replaced: Callable[..., Any]) -> SimpleNamespace:
    """An implementation of functions of its own, some of them replaced."""
    own = {name: lambda *a, n=name: getattr(_reference, n)(*a) for name in OPERATORS}
    return SimpleNamespace(**{**own, **replaced})


@pytest.fixture
def choice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> _backend._Choice:
    """What runs on the CPU in the test; nothing is kept on disk outside of it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    chosen = _backend._Choice(module(), "kernels")
    monkeypatch.setattr(_backend, "_choices", {CPU: chosen})
    return chosen


def arguments_of(name: str) -> tuple[Any, ...]:
    return next(_check_cases.CASES[name]()).arguments


def same(one: Any, other: Any) -> bool:
    pairs = zip(*(x if isinstance(x, tuple) else (x,) for x in (one, other)), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("name", OPERATORS)
def test_the_cpu_kernels_pass(name: str) -> None:
    own = name not in ("gather", "interpolate", "attend", "attend_backward")
    assert _self_check.check(name, _cpu, CPU) == Verdict(name, "", own)


@pytest.mark.parametrize("name", OPERATORS)
def test_what_is_wrong_with_a_kernel_is_found(name: str) -> None:
    found = _self_check.check(name, module(**{name: wrong(name)}), CPU)
    assert found.why == "returned a wrong result in case 1 of the self-check"
    found = _self_check.check(name, module(**{name: raises}), CPU)
    assert found.why == "failed with RuntimeError: device-side assert"
    assert _self_check.check(name, module(), CPU).why == ""


def test_a_result_of_another_shape_or_type_is_wrong() -> None:
    for changed in (lambda t: t[:, :-1], lambda t: t.int()):
        found = module(farthest_point_sample=lambda *a, f=changed: f(
            _reference.farthest_point_sample(*a)))  # fmt: skip
        assert _self_check.check("farthest_point_sample", found, CPU).why


def test_cases_keep_their_memory_layout_on_the_way() -> None:
    value = torch.arange(24.0).view(2, 3, 4)
    for made in (_check_cases.permuted(value), _check_cases.unaligned(value)):
        moved = _check_cases.move(made, CPU)
        assert torch.equal(moved, value)
        assert moved.stride() == made.stride()
        assert moved.storage_offset() == made.storage_offset()
    assert _check_cases.unaligned(value).data_ptr() % 16 == 4
    expanded = torch.ones(1, 1, 3).expand(1, 5, 3)
    assert torch.equal(_check_cases.move(expanded, CPU), expanded)


@pytest.mark.parametrize("failure", [raises, exceeds])
@pytest.mark.parametrize("name", OPERATORS)
def test_a_kernel_that_fails_falls_back_alone(
    name: str, failure: Callable[..., Any], choice: _backend._Choice
) -> None:
    choice.module = module(**{name: failure})
    arguments = arguments_of(name)
    with pytest.warns(UserWarning, match=f"the operator {name} runs in plain PyTorch") as said:
        assert same(_backend.call(name, arguments), getattr(_reference, name)(*arguments))
    assert len(said) == 1
    assert "\n" not in str(said[0].message)
    assert list(choice.replaced) == [name]
    assert f"; {name} in plain PyTorch, failed with" in _backend.describe("cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it is said once
        for each in OPERATORS:
            _backend.call(each, arguments_of(each))


def test_errors_of_the_arguments_are_not_those_of_a_kernel(choice: _backend._Choice) -> None:
    choice.module = module(gather=raises)
    with pytest.raises(RuntimeError, match="device-side"):
        _backend.call("gather", (torch.zeros(1, 2, 3), torch.tensor([[[9]]]), None))
    assert not choice.replaced


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("Triton Error [CUDA]: out of memory"),
    ],
)
def test_out_of_memory_stays_that(error: Exception, choice: _backend._Choice) -> None:
    def fail(*arguments: object) -> None:
        raise error

    choice.module = module(knn=fail)
    with pytest.raises((torch.OutOfMemoryError, MemoryError)):
        _backend.call("knn", arguments_of("knn"))
    assert not choice.replaced


def test_training_goes_on_when_every_kernel_fails(choice: _backend._Choice) -> None:
    def step() -> tuple[Tensor, Tensor]:
        torch.manual_seed(0)
        network = create_model("ea_classifier_tiny", num_classes=3)
        loss = network(torch.randn(4, 64, 3)).square().mean()
        loss.backward()
        return loss.detach(), next(network.parameters()).grad

    expected = step()
    choice.module = SimpleNamespace(**dict.fromkeys(OPERATORS, raises))
    with pytest.warns(UserWarning, match="runs in plain PyTorch from here on"):
        found = step()
    assert same(found, expected)
    assert len(choice.replaced) >= 4


# --- the check at the first use of a GPU


def chosen_with(
    verdicts: list[Verdict], monkeypatch: pytest.MonkeyPatch
) -> tuple[_backend._Choice, str]:
    monkeypatch.setattr(_self_check, "remembered", lambda *_: verdicts)
    choice = _backend._Choice(_cpu, "Triton kernels")
    return choice, _backend._replace_failing(choice, _backend._FAST["cuda"], CPU)


def test_a_healthy_gpu_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    choice, obstacle = chosen_with([Verdict(name, "") for name in OPERATORS], monkeypatch)
    assert obstacle == ""
    assert not choice.replaced
    assert chosen_with([], monkeypatch)[1] == ""  # nothing could be checked


def test_operators_that_fail_the_check_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    verdicts = [Verdict(name, "is off" if name == "knn" else "") for name in OPERATORS]
    with pytest.warns(UserWarning, match="the operator knn runs in plain .*: its kernel is off$"):
        choice, obstacle = chosen_with(verdicts, monkeypatch)
    assert obstacle == ""
    assert choice.replaced == {"knn": "is off"}


def test_where_no_kernel_runs_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    why = "failed with RuntimeError: Failed to find C compiler"
    _, obstacle = chosen_with([Verdict(name, why) for name in OPERATORS], monkeypatch)
    assert obstacle.startswith(f"no Triton kernel runs (the first {why})")
    assert "C compiler links its driver" in obstacle or "on Linux only" in obstacle


# --- processes


@pytest.fixture
def three(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(_self_check, "OPERATORS", ("gather_max", "scatter_max", "max_pool"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


@pytest.mark.slow
def test_the_check_runs_in_a_process_and_is_kept(
    three: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [Verdict(name, "") for name in _self_check.OPERATORS]
    assert _self_check.remembered(MODULE, CPU) == expected
    (kept,) = (three / "ea_pointcloud").iterdir()
    assert kept.name.startswith("self_check-")
    monkeypatch.setattr(_self_check, "verify", raises)
    assert _self_check.remembered(MODULE, CPU) == expected


@pytest.mark.slow
def test_an_operator_that_ends_its_process_is_named(
    three: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (three / "deadly.py").write_text(
        "import os\n"
        "from ea_pointcloud.ops._cpu import *\n"
        "def scatter_max(*arguments):\n    os._exit(9)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(three))
    verdicts = _self_check.verify("deadly", CPU)
    assert [each.why for each in verdicts] == ["", "ended its process (exit status 9)", ""]


def test_a_process_that_cannot_start_says_nothing(three: Path) -> None:
    assert _self_check.verify("no_such_module", CPU) == []
    assert not (three / "ea_pointcloud").exists()


def test_an_operator_that_spoils_the_gpu_counts_once(
    three: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = [
        (
            True,
            [Verdict("gather_max", ""), Verdict("scatter_max", "failed")],
            _self_check._POISONED,
        ),
        (True, [Verdict("max_pool", "")], "exit status 0"),
    ]
    monkeypatch.setattr(_self_check, "_run", lambda *_: rounds.pop(0))
    assert [each.why for each in _self_check.verify(MODULE, CPU)] == ["", "failed", ""]


def test_the_table_has_times(choice: _backend._Choice, monkeypatch: pytest.MonkeyPatch) -> None:
    small = tuple(each[:2] if isinstance(each, Tensor) else each for each in arguments_of("knn"))
    monkeypatch.setattr(_check_cases, "usual", lambda name: small)
    found = _self_check.check("knn", _cpu, CPU, timed=True)
    assert found.ms is not None
    assert found.plain_ms is not None
    assert found.ms > 0 < found.plain_ms
