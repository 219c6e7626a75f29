"""The protocol's table: rows as they are asked for, runs that go on, figures over the seeds."""

import json
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest
import torch

from ea_pointcloud.report.tables import LEGACY, Table
from ea_pointcloud.training.callbacks import read_metrics
from ea_pointcloud.training.evaluate_classifier import ClassificationReport
from ea_pointcloud.training.evaluate_run import evaluate_run
from ea_pointcloud.training.fault_tolerance import TrainingTerminatedError
from ea_pointcloud.training.fit import train
from scripts.research import plan as planning
from scripts.research import table as measuring
from scripts.research.plan import Variant, parse_variants, plan
from scripts.research.reproduce import main
from scripts.research.table import RunFigures, markdown, protocol_table
from tests.test_training import PARTS, QUICK, Crash

SMALL = ["data.shapes=[28,14,14]", "data.num_points=32", "trainer.epochs=1", "eval.votes=2"]
ROWS = ["procedural:model.overrides.num_centers=[16,8]", "procedural:model.name=pointnet"]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two rows of two seeds."""
    folder = tmp_path_factory.mktemp("made")
    assert main(call(folder, *ROWS, *SMALL, "eval.legacy=true", seeds=2)) == 0
    return folder


def call(folder: Path, *words: str, seeds: int = 1) -> list[str]:
    where = ["--runs", str(folder / "runs"), "--output", str(folder / "out"), "--device", "cpu"]
    return [*words, "--seeds", str(seeds), *where]


def table_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "out" / "table.json").read_text())


# --- what is asked for


def test_rows_and_values_for_all_of_them() -> None:
    one, two = parse_variants(["modelnet10", "a=1", "mine.yaml:b=2:c=[3,4]", "d=x:y"])
    assert one == Variant("modelnet10", (), ("a=1", "d=x:y"))
    assert two == Variant("mine.yaml", ("b=2", "c=[3,4]"), ("a=1", "d=x:y"))
    assert two.name == "mine.yaml:b=2:c=[3,4]"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a=1"], r"name at least one recipe: modelnet10, or"),
        (
            ["procedural:a=1", "procedural:a=1"],
            r"procedural:a=1 is there twice; name each row",
        ),
        (["procedural:trainer.seed=3"], r"number of seeds decides about 'trainer.seed=3'; leave"),
        (["procedural", "trainer.seed=3"], r"number of seeds decides about 'trainer.seed=3'; leav"),
    ],
)
def test_wrong_words(words: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_variants(words)


def folders(*words: str) -> list[str]:
    return [one.run.name for one in plan(parse_variants(words), 1, "runs")]


def test_run_folders_say_what_was_replaced() -> None:
    assert folders("procedural") == ["procedural-seed0"]  # that of the command train
    assert folders("procedural", "trainer.device=cpu", "eval.batch_size=3") == ["procedural-seed0"]
    assert folders("procedural:model.overrides.attention=self", "optim.lr=1e-3") == [
        "procedural-lr=1e-3-attention=self-seed0"
    ]
    [one], [two] = (folders("procedural", f"data.name={'x' * count}") for count in (200, 201))
    assert len(one) < 160
    assert one != two


def test_the_first_seed_of_all_rows_comes_first(tmp_path: Path) -> None:
    planned = plan(parse_variants(["procedural", "procedural_eamlp"]), 2, tmp_path)
    names = ["procedural-seed0", "procedural_eamlp-seed0", "procedural-seed1"]
    assert [one.run.name for one in planned][:3] == names
    assert [one.recipe.trainer.seed for one in planned] == [0, 0, 1, 1]
    assert planned[2].command == (
        f"ea-pointcloud train procedural trainer.seed=1 --run-dir {tmp_path}/procedural-seed1"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["procedural", "psb_part"],
            r"the same task: procedural has classification, psb_part has segmentation; make a tab",
        ),
        (
            ["procedural", "procedural:eval.votes=7"],
            r"the same eval.votes: procedural has 3, procedural:eval.votes=7 has 7; make a table",
        ),
        (
            ["procedural:model.name=ea", "procedural:data.name=ea"],
            r"would share the run folder runs/procedural-name=ea-seed0; make a table of each",
        ),
        (
            ["procedural", "trainer.devices=2"],
            r"several processes, which a table does not start; train it with 'ea-pointcloud train ",
        ),
        (
            ["procedural:model.name=pct"],
            r"model.name must be one of 'ea', 'eamlp', 'eagraph', 'pointnet', 'd",
        ),
    ],
)
def test_wrong_plans(words: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan(parse_variants(words), 1, "runs")


def test_wrong_numbers_of_seeds() -> None:
    with pytest.raises(ValueError, match=r"seeds must be at least 1, got 0"):
        plan(parse_variants(["procedural"]), 0, "runs")


def test_weights_to_start_from_are_named_as_the_run_names_them(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = next(path for path in (made / "runs").iterdir() if "pointnet" in path.name)
    monkeypatch.chdir(run.parent)
    [planned] = plan(parse_variants([f"procedural:model.init={run.name}", *SMALL]), 1, "new")
    assert planned.recipe.model.init == str(run)
    assert planned.recipe.model.name == "pointnet"


def test_every_seed_goes_on_from_weights_of_its_own(made: Path) -> None:
    first = next(path for path in (made / "runs").iterdir() if path.name.endswith("seed0"))
    init = f"model.init={str(first)[:-1]}{{seed}}"
    variants = parse_variants([f"procedural:{init}", *SMALL])
    one, two = plan(variants, 2, "new")
    assert one.variant == two.variant  # one row
    assert one.recipe.model.init == str(first)
    assert two.recipe.model.init == f"{str(first)[:-1]}1"
    assert one.run != two.run
    assert f"{init[:-6]}1" in two.command


# --- going on


def test_a_finished_table_is_read_back(
    made: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = table_of(made)
    monkeypatch.setattr(planning, "train", None)
    monkeypatch.setattr(measuring, "evaluate_run", None)
    assert main(call(made, *ROWS, *SMALL, "eval.legacy=true", seeds=2)) == 0
    assert table_of(made)["rows"] == before["rows"]
    shown = capsys.readouterr()
    assert shown.out == (made / "out" / "table.md").read_text()
    assert "training" not in shown.err


def test_what_was_measured_of_other_weights_is_measured_again(made: Path, tmp_path: Path) -> None:
    [planned] = plan(parse_variants([ROWS[1], *SMALL, "eval.legacy=true"]), 1, made / "runs")
    kept = made / "out" / "runs" / f"{planned.run.name}.json"
    stale = json.loads(kept.read_text()) | {"weights": "others", "shapes": 1}
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / kept.name).write_text(json.dumps(stale))
    assert measuring.measure(planned, tmp_path, CPU).shapes == 14
    assert json.loads((tmp_path / "runs" / kept.name).read_text())["shapes"] == 14


def test_a_run_that_stopped_goes_on(tmp_path: Path) -> None:
    [planned] = plan(parse_variants(["procedural", *QUICK, "trainer.epochs=2"]), 1, tmp_path)
    with pytest.raises(RuntimeError, match="power cut"):
        train(planned.recipe, planned.run, callbacks=[Crash(epoch=1)])
    first = read_metrics(planned.run / "metrics.csv")
    assert len(first) == 1
    assert not planned.is_complete
    planned.complete()
    assert planned.is_complete
    rows = read_metrics(planned.run / "metrics.csv")
    assert rows[0] == first[0]
    assert len(rows) == 2


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), TrainingTerminatedError(15)])
def test_a_stop_says_how_to_go_on(
    stop: BaseException,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise stop

    monkeypatch.setattr(planning, "train", stopped)
    status = 130 if isinstance(stop, KeyboardInterrupt) else 143
    assert main(call(tmp_path, "procedural")) == status
    assert capsys.readouterr().err.endswith("stopped; the same command goes on from there\n")


def test_evaluating_alone(
    made: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(planning, "train", None)
    options = call(made, ROWS[1], *SMALL, "eval.legacy=true", seeds=3)
    options[options.index("--output") + 1] = str(tmp_path / "out")
    assert main([*options, "--evaluate-only"]) == 0
    shown = capsys.readouterr()
    assert "-seed2: not trained to its end, left out" in shown.err
    assert "| 2 of 3 |" in shown.out
    assert main([*call(tmp_path, "procedural"), "--evaluate-only"]) == 1
    assert "no complete run in" in capsys.readouterr().err


def test_a_folder_of_another_recipe(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [planned] = plan(parse_variants([ROWS[1], *SMALL, "eval.legacy=true"]), 1, made / "runs")
    stranger = made / "strangers" / "procedural-seed0"
    stranger.mkdir(parents=True)
    (stranger / "recipe.yaml").write_text((planned.run / "recipe.yaml").read_text())
    assert main(["procedural", "--seeds", "1", "--runs", str(stranger.parent)]) == 1
    error = capsys.readouterr().err
    assert "error: procedural: " in error
    assert "was trained with" in error
    assert "or name another folder of runs" in error


# --- figures


def test_means_and_deviations_are_those_of_the_runs(made: Path) -> None:
    table = table_of(made)
    assert [row["name"] for row in table["rows"]] == ROWS
    assert table["command"].startswith("python -m scripts.research.reproduce 'procedural:")
    assert table["versions"]["torch"] == torch.__version__
    for row in table["rows"]:
        reports = [evaluate_run(run["run"], "test", CPU) for run in row["runs"]]
        assert [report.recipe.trainer.seed for report in reports] == [0, 1]
        for place, selection in enumerate(("validation (primary)", "last epoch")):
            for field in ("overall_accuracy", "mean_class_accuracy", "voted_accuracy"):
                values = [getattr(report.reports[place], field) for report in reports]
                found = row["summary"][selection][field]
                assert found == {"mean": mean(values), "std": stdev(values), "runs": 2}
        legacy = [float(report.legacy_accuracy or 0) for report in reports]
        assert row["summary"][LEGACY]["overall_accuracy"]["mean"] == mean(legacy)
        for run, report in zip(row["runs"], reports, strict=True):
            assert (run["parameters"], run["macs"]) == (report.parameters, report.macs)
            assert run["clouds_per_second"] is None  # of fewer than four batches
            rows = read_metrics(Path(run["run"]) / "metrics.csv")
            assert run["train_seconds"] == round(sum(float(one["seconds"]) for one in rows), 1)


def test_the_markdown_has_a_line_for_each_way_of_choosing(made: Path) -> None:
    lines = (made / "out" / "table.md").read_text().splitlines()
    assert lines[0] == "**procedural, 14 test shapes, 32 points**"
    cells = [line.strip("|").split("|") for line in lines if line.startswith("|")]
    assert {len(row) for row in cells} == {11}
    ways = [row[1].strip() for row in cells[2:]]
    assert ways == ["validation (primary)", "last epoch", LEGACY] * 2
    for row, name in zip(cells[2::3], ROWS, strict=True):
        assert row[0].strip() == name
        assert " ± " in row[2]
        assert row[5].strip() == "2 of 2"
    assert "with batch 64" in lines[-3]
    assert "torch " in lines[-1]


def test_one_run_has_no_deviation() -> None:
    run = RunFigures(
        name="a|b", seed=0, run="r", command="c", weights="w", task="classification", data="d",
        shapes=9, num_points=8, votes=0, tta_copies=0, epochs=3, train_seconds=90.0,
        trained_on="cpu",
        versions={}, parameters=1234, macs=2_600_000, measured_on="cpu", threads=1, batch_size=2,
        clouds_per_second=7.4,
        figures={"last epoch": {"overall_accuracy": 0.5, "mean_class_accuracy": 0.25}},
    )  # fmt: skip
    table = protocol_table([[run]], 3)
    assert table.rows == [
        ("a|b", "last epoch", "0.5000", "0.2500", "-", "1 of 3", "1,234", "3 M", "7", "3",
         "1.5 min on cpu"),
    ]  # fmt: skip
    assert markdown(table).splitlines()[-1].startswith("| a\\|b | last epoch | 0.5000 |")
    assert markdown(Table("t", ("x", "y"), [("1", "2")])) == (
        "**t**\n\n| x | y |\n| --- | ---: |\n| 1 | 2 |\n"
    )


def test_a_table_of_parts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*PARTS, "trainer.epochs=1", "eval.votes=0", "data.shapes=[28,14,14]"]
    assert main(call(tmp_path, "procedural", *words)) == 0
    shown = capsys.readouterr().out
    assert "| instance mIoU | category mIoU |" in shown
    [row] = table_of(tmp_path)["rows"]
    report = evaluate_run(row["runs"][0]["run"], "test", CPU).reports[0]
    assert not isinstance(report, ClassificationReport)
    found = row["summary"]["validation (primary)"]["instance_miou"]
    assert found == {"mean": report.instance_miou, "std": None, "runs": 1}
