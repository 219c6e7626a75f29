"""Progress that the library reports and commands show."""

import pytest
from rich.console import Console

from ea_pointcloud.cli import _progress
from ea_pointcloud.io.pool import listening, progress, track


def test_a_listener_hears_of_each_item_and_of_the_end() -> None:
    heard: list[tuple[str, int, int]] = []
    with listening(lambda *at: heard.append(at)):
        assert list(track("abc", "letters")) == ["a", "b", "c"]
    assert heard == [("letters", done, 3) for done in range(4)]
    assert list(track(iter("ab"), "letters", 2)) == ["a", "b"]  # no one listens any more
    assert len(heard) == 4
    with pytest.raises(ZeroDivisionError), listening(lambda *at: heard.append(at)):
        list(1 // (1 - each) for each in track(iter(range(9)), "x", 9))
    assert heard[4:] == [("x", 0, 9), ("x", 1, 9), ("x", 9, 9)]  # the bar of a failure ends too


def test_lines_come_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter(range(100))
    monkeypatch.setattr(_progress.time, "monotonic", lambda: next(clock))
    with _progress.show_progress():
        list(track(range(12), "clouds"))
    assert capsys.readouterr().err.splitlines() == ["clouds: 2 of 12", "clouds: 7 of 12"]
    monkeypatch.setenv("LOCAL_RANK", "1")
    with _progress.show_progress():
        list(track(range(12), "clouds"))
    assert capsys.readouterr().err == ""


def test_bars_are_there_while_something_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Console, "is_terminal", True)
    bars = _progress._Bars()
    with listening(bars), progress("outer", 2) as outer:
        assert bars.bars is not None
        for each in track(range(3), "inner"):
            assert {task.description: task.completed for task in bars.bars.tasks} == {
                "outer": 0, "inner": each
            }  # fmt: skip
            assert bars.bars.live.is_started
        outer(1)
        assert [task.completed for task in bars.bars.tasks] == [1]
    assert not bars.bars.live.is_started
