"""The table of ``scripts.research.background``: kinds of attention under added points."""

import json
import runpy
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from ea_pointcloud.robustness import MODELNET40_C
from ea_pointcloud.robustness.evaluation import CorruptionReport
from ea_pointcloud.robustness.options import InferenceOptions
from ea_pointcloud.training import evaluate_corruptions
from ea_pointcloud.training.recipe import load_recipe, save_recipe

MODULE = "scripts.research.background"


def report(background: float, options: InferenceOptions) -> CorruptionReport:
    accuracy = dict.fromkeys(MODELNET40_C, (0.8,) * 5)
    accuracy["background"] = tuple(background + step for step in (-0.2, -0.1, 0.0, 0.1, 0.2))
    return CorruptionReport(
        benchmark="modelnet40-c (generated)",
        reason="",
        shapes=10,
        options=options,
        clean_accuracy=0.9,
        accuracy=accuracy,
        mean_error_rate=0.25,
        reference=None,
        corruption_error={},
        mce=None,
        relative_error={},
        rmce=None,
        seconds=1.0,
    )


def evaluated(background: float, seed: int, *, split: str = "test", **overrides: Any) -> dict:
    recipe = {
        "model": {"name": "ea", "size": "tiny", "overrides": overrides},
        "trainer": {"seed": seed},
    }
    found = asdict(report(background, InferenceOptions()))
    return {"recipe": recipe, "reports": [{"split": split}], "corruptions": [found]}


def run(monkeypatch: pytest.MonkeyPatch, *arguments: Any) -> None:
    monkeypatch.setattr(sys, "argv", [MODULE, *map(str, arguments)])
    runpy.run_module(MODULE, run_name="__main__")


def written(path: Path, *rows: dict) -> Path:
    path.write_text(json.dumps(rows))
    return path


def test_seeds_of_a_kind_share_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one = written(tmp_path / "a.json", evaluated(0.6, 0), evaluated(0.4, 1))
    two = written(tmp_path / "b.json", evaluated(0.5, 0, attention="none", depth=2))
    run(monkeypatch, one, two, "--output", tmp_path / "out")
    text = capsys.readouterr().out
    assert text.startswith("**Error rate in %, 10 shapes of the test split**")
    heading, _, first, second = text.splitlines()[2:6]
    columns = ["attention", "runs", "clean", "background", "impulse", "uniform", "upsampling"]
    assert heading.strip("| ").split(" | ") == [*columns, "mean of modelnet40-c (generated)"]
    values = first.strip("| ").split(" | ")
    assert values[:4] == ["external", "2", "10.0 ± 0.0", "50.0 ± 14.1"]
    assert values[-1] == "25.0 ± 0.0"
    assert second.strip("| ").split(" | ")[:4] == ["none, depth=2", "1", "10.0", "50.0"]
    assert (tmp_path / "out" / "background.md").read_text() == text

    # What it has written it reads, beside further figures.
    run(monkeypatch, tmp_path / "out" / "background.json", one)
    assert "| external | 4 |" in capsys.readouterr().out


def test_a_run_folder_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []

    def measured(*given: Any, say: Any, **options: Any) -> list[CorruptionReport]:
        asked.append((*given[2:4], options["limit"]))
        say("a line")
        return [report(0.5, options["options"])]

    monkeypatch.setattr(evaluate_corruptions, "evaluate_run_corruptions", measured)
    save_recipe(
        load_recipe("procedural", ["model.overrides.attention=self"]), tmp_path / "recipe.yaml"
    )
    (tmp_path / "metrics.csv").write_text("epoch\n0\n")
    options = ("--split", "val", "--limit", 9, "--remove-outliers", "--adapt", 1, "--device", "cpu")
    run(monkeypatch, tmp_path, *options)
    printed = capsys.readouterr()
    assert asked == [("val", "all", 9)]
    words = "self, without statistical outliers, with batch-norm adaptation"
    assert f"| {words} | 1 | 10.0 | 50.0 |" in printed.out
    assert printed.err == f"{tmp_path}: a line\n"


def test_what_cannot_be_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = written(tmp_path / "a.json", evaluated(0.6, 0))
    other = written(tmp_path / "b.json", evaluated(0.6, 0, split="val"))
    with pytest.raises(SystemExit, match=r"same shapes, got 10 shapes of the test split and 10"):
        run(monkeypatch, one, other)
    plain = evaluated(0.6, 0)
    del plain["corruptions"]
    with pytest.raises(SystemExit, match=r"c.json must be what 'evaluate RUN.* lacks 'corruptions"):
        run(monkeypatch, written(tmp_path / "c.json", plain))
