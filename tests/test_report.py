"""The page of ``evaluate --report``: what it holds, and that it needs no network."""

import base64
import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ea_pointcloud.datasets.procedural import CATEGORIES
from ea_pointcloud.metrics import ReliabilityBin
from ea_pointcloud.models import DataSpec
from ea_pointcloud.report import (
    ClassPredictions,
    PartPredictions,
    charts,
    predictions_for,
    tables,
    write_report,
)
from ea_pointcloud.report.predictions import (
    PartShape,
    examples,
    first_of_each_class,
    worst_mistakes,
)
from ea_pointcloud.training.data import open_held_out
from ea_pointcloud.training.evaluate_classifier import ClassificationReport
from ea_pointcloud.training.evaluate_run import RunReport, evaluate_run
from ea_pointcloud.training.evaluate_segmenter import SegmentationReport
from ea_pointcloud.training.evaluation import Reliability
from ea_pointcloud.training.fit import train
from ea_pointcloud.training.recipe import load_recipe
from ea_pointcloud.training.run_folder import load_run_recipe
from tests.test_cli import call
from tests.test_training import PARTS, QUICK

CPU = torch.device("cpu")
KINDS = len(CATEGORIES)


def train_two(folder: Path, options: Sequence[str]) -> list[Path]:
    """Two seeds of a recipe, in folders whose names have to be escaped."""
    runs = [folder / f"a&b{seed}" for seed in (0, 1)]
    for seed, run in enumerate(runs):
        train(load_recipe("procedural", [*options, "eval.votes=1", f"trainer.seed={seed}"]), run)
    return runs


@pytest.fixture(scope="module")
def class_runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return train_two(tmp_path_factory.mktemp("classes"), [*QUICK, "trainer.epochs=2"])


@pytest.fixture(scope="module")
def part_runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return train_two(tmp_path_factory.mktemp("parts"), [*PARTS, "trainer.epochs=1"])


def without_script(page: str) -> str:
    """The page without plotly's own code, which is the first script."""
    start, end = page.index("<script>"), page.index("</script>")
    return page[:start] + page[end:]


def spread(a: float, b: float, digits: int) -> str:
    """Of two values, by hand."""
    return f"{(a + b) / 2:.{digits}f} ± {abs(a - b) / 2**0.5:.{digits}f}"


def pictures(page: str) -> list[Image.Image]:
    found = re.findall(r'src="data:image/webp;base64,([^"]+)"', page)
    return [Image.open(BytesIO(base64.b64decode(each))) for each in found]


def test_a_page_of_classes(
    class_runs: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "new" / "report"
    arguments = ("evaluate", *class_runs, "--report", folder, "--json")
    assert call(monkeypatch, *arguments, "--worst", 3) == 0
    printed = capsys.readouterr()
    assert f"wrote {folder / 'index.html'}" in printed.err
    whole = (folder / "index.html").read_text(encoding="utf-8")
    assert len(re.findall(r"\* plotly\.js v", whole)) == 1
    page = without_script(whole)
    assert not re.search(r"""(src|href|action)\s*=\s*["']?(http|//)|url\(|@import""", page)

    a, b = (report["reports"][0] for report in json.loads(printed.out))
    for field in ("overall_accuracy", "mean_class_accuracy", "voted_accuracy"):
        assert spread(a[field], b[field], 4) in page
        assert f'<td class="number">{a[field]:.4f}</td>' in page
    for report in (a, b):
        ece, calibrated = (report["calibration"][name] for name in ("ece", "ece_calibrated"))
        assert f"expected calibration error {ece:.4f}, {calibrated:.4f}" in page
    for name in CATEGORIES:
        assert f"<td>{name}</td>" in page
        assert spread(a["class_accuracy"][name], b["class_accuracy"][name], 3) in page
    assert str(class_runs[0]).replace("&", "&amp;") in page
    assert f"ea-pointcloud evaluate &#39;{class_runs[0]}".replace("a&b", "a&amp;b") in page
    for words in ("seeds</dt><dd>0, 1", f"28 shapes, {KINDS} classes", "Loss", "Learning rate"):
        assert words in page
    drawn = pictures(page)
    assert len(drawn) == 3 + KINDS  # mistakes, and a shape of each class
    assert all(len(np.unique(np.asarray(picture))) > 50 for picture in drawn)

    before = (folder / "index.html").stat().st_mtime_ns
    assert call(monkeypatch, *arguments) == 1
    assert "index.html exists; choose another folder or add --force" in capsys.readouterr().err
    assert (folder / "index.html").stat().st_mtime_ns == before
    assert call(monkeypatch, "evaluate", class_runs[0], "--report", folder, "--force") == 0
    again = without_script((folder / "index.html").read_text(encoding="utf-8"))
    assert "standard deviation" not in again
    assert len(pictures(again)) == min(12, wrong_clouds(a["confusion"])) + KINDS


def wrong_clouds(confusion: list[list[int]]) -> int:
    return int(np.sum(confusion) - np.trace(confusion))


def test_a_page_of_parts(
    part_runs: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert call(monkeypatch, "evaluate", *part_runs, "--report", tmp_path, "--json") == 0
    reports = json.loads(capsys.readouterr().out)
    page = without_script((tmp_path / "index.html").read_text(encoding="utf-8"))
    a, b = (report["reports"][0] for report in reports)
    for field in ("instance_miou", "category_miou", "point_accuracy", "voted_category_miou"):
        assert spread(a[field], b[field], 4) in page
    for name in CATEGORIES:
        assert spread(a["category_iou"][name], b["category_iou"][name], 4) in page
        for picture in ("truth", "prediction", "error"):
            assert f'alt="{picture} of {name} #' in page
    # Of each category the worst and the one in the middle, three times each.
    assert len(pictures(page)) == KINDS * 2 * 3
    assert f"28 shapes, {KINDS} categories" in page


def test_answers_are_those_the_figures_are_made_of(
    class_runs: list[Path], part_runs: list[Path]
) -> None:
    recipe = load_run_recipe(class_runs[0])
    predictions = predictions_for(recipe)
    assert isinstance(predictions, ClassPredictions)
    report = evaluate_run(class_runs[0], "test", CPU, hook=predictions).reports[0]
    assert isinstance(report, ClassificationReport)
    dataset = open_held_out(recipe, "test")
    assert np.array_equal(predictions.clouds, dataset[list(range(28))]["xyz"].numpy())
    confusion = np.zeros((KINDS, KINDS), int)
    np.add.at(confusion, (predictions.label, predictions.probs.argmax(1)), 1)
    assert confusion.tolist() == report.confusion
    # At the temperature: bins made of these probabilities are those after calibration.
    assert sum(predictions.probs.max(1)) == pytest.approx(
        sum(each.count * each.prob for each in report.calibration.bins_calibrated)
    )

    parts = PartPredictions()
    report = evaluate_run(part_runs[0], "test", CPU, hook=parts).reports[0]
    assert isinstance(report, SegmentationReport)
    shapes = [shape for shape in parts.shapes if shape is not None]
    assert mean(shape.iou for shape in shapes) == pytest.approx(report.instance_miou)
    assert np.concatenate([shape.pred == shape.truth for shape in shapes]).mean() == (
        pytest.approx(report.point_accuracy)
    )
    table = tables.part_table([report], [parts])
    for category, (name, count, iou, words) in enumerate(table.rows):
        same = parts.of_category(category)
        assert (name, count) == (CATEGORIES[category], str(len(same)))
        assert iou == f"{mean(mean(shape.part_iou) for shape in same):.4f}"
        shown = [float(word) for word in re.findall(r"\s(\d\.\d+)", words)]
        assert mean(shown) == pytest.approx(float(iou), abs=1e-3)


class Given(ClassPredictions):
    """Predictions that are given."""

    def __init__(self, probs: Sequence[Sequence[float]], label: Sequence[int]) -> None:
        super().__init__()
        self.spec = DataSpec(("cup", "mug", "vase"))
        self.clouds = [np.full((4, 3), row, np.float32) for row in range(len(label))]
        self._probs, self._label = [torch.tensor(probs).double()], [torch.tensor(label)]


def test_a_shape_of_each_class_is_the_first_in_the_split() -> None:
    predictions = Given(
        [[0.9, 0.1, 0], [0.2, 0.7, 0.1], [0.1, 0.2, 0.7], [0.5, 0.4, 0.1]], [1, 1, 0, 1]
    )
    cup, mug = first_of_each_class(predictions)  # no vase in the split
    assert (cup.index, cup.truth, cup.pred, cup.prob) == (2, "cup", "vase", pytest.approx(0.7))
    assert (mug.index, mug.truth, mug.pred, mug.prob) == (0, "mug", "cup", pytest.approx(0.9))
    assert np.array_equal(mug.xyz, predictions.clouds[0])


def test_the_worst_mistakes_are_the_most_confident_ones_of_any_run() -> None:
    first = Given([[0.9, 0.1, 0], [0.2, 0.7, 0.1], [0.1, 0.2, 0.7], [0.5, 0.4, 0.1]], [1, 1, 0, 2])
    second = Given([[0.3, 0.6, 0.1], [0.6, 0.3, 0.1], [0, 0.2, 0.8], [0, 0, 1]], [1, 1, 0, 2])
    found = worst_mistakes([first, second], 3)
    assert [each.index for each in found] == [0, 2, 1]
    assert [(each.run, each.wrong_runs) for each in found] == [(0, 1), (1, 2), (1, 1)]
    assert [each.truth for each in found] == ["mug", "cup", "mug"]
    assert [name for name, _ in found[1].top] == ["vase", "mug", "cup"]
    assert [prob for _, prob in found[2].top] == pytest.approx([0.6, 0.3, 0.1])
    assert [each.index for each in worst_mistakes([first, second], 99)] == [0, 2, 1, 3]
    assert np.array_equal(found[1].xyz, first.clouds[2])


def test_examples_are_the_worst_and_the_middle() -> None:
    def predicted(ious: Sequence[float | None]) -> PartPredictions:
        predictions = PartPredictions()
        none = np.zeros(1, np.int64)
        predictions.shapes = [
            None if iou is None else PartShape(np.zeros((1, 3), np.float32), none, none, 0, (), iou)
            for iou in ious
        ]
        return predictions

    runs = [predicted([0.9, 0.5, 0.2, None, 0.7]), predicted([0.9, 0.1, 0.6, None, 0.7])]
    found = examples(runs, 0, 1)  # means .9, .3, .4, -, .7
    assert [(each.title, each.index) for each in found] == [("worst", 1), ("median", 4)]
    assert [each.iou for each in found] == pytest.approx([0.3, 0.7])
    found = examples(runs, 0, 3)  # the middle is among the worst
    assert [(each.title, each.index) for each in found] == [
        ("worst 1", 1), ("worst 2", 2), ("worst 3", 4),
    ]  # fmt: skip
    assert examples(runs, 1, 1) == []


def classified(names: Sequence[str], confusion: list[list[int]]) -> ClassificationReport:
    recall: list[float | None] = [
        row[place] / sum(row) if sum(row) else None for place, row in enumerate(confusion)
    ]
    return ClassificationReport(
        selection="validation (primary)",
        split="test",
        shapes=int(np.sum(confusion)),
        overall_accuracy=0.5,
        mean_class_accuracy=0.5,
        data_classes=tuple(names),
        restricted_accuracy=None,
        restricted_mean_class_accuracy=None,
        voted_accuracy=None,
        class_accuracy=dict(zip(names, recall, strict=True)),
        confusion=confusion,
        calibration=Reliability(0.1, None, None, (ReliabilityBin(10, 0.6, 0.5),), ()),
        clouds_per_second=1.0,
    )


def test_precision_and_confusion_by_hand() -> None:
    report = classified(("cup", "mug", "vase"), [[3, 1, 0], [2, 2, 0], [0, 0, 0]])
    table = tables.class_table([report])
    assert table.columns == (
        "class", "shapes", "accuracy (recall)", "precision", "confused with",
    )  # fmt: skip
    assert table.rows == [
        ("cup", "4", "0.750", "0.600", "mug 1"),
        ("mug", "4", "0.500", "0.667", "cup 2"),
        ("vase", "0", "-", "-", ""),
    ]
    other = classified(("cup", "mug", "vase"), [[4, 0, 0], [0, 3, 1], [0, 0, 0]])
    both = tables.class_table([report, other]).rows
    assert both[0][2:] == (spread(0.75, 1, 3), spread(0.6, 1, 3), "mug 1")
    assert both[1][4] == "cup 2, vase 1"  # counted over the runs

    (drawn,) = charts.confusion_chart([report, other]).data
    assert np.allclose(drawn.z, [[7 / 8, 1 / 8, 0], [2 / 8, 5 / 8, 1 / 8], [0, 0, 0]])
    assert drawn.customdata[1][0] == "<b>mug</b> predicted as <b>cup</b>: 2 of 8"
    assert drawn.text[1][2] == "1"
    many = [f"class {place}" for place in range(40)]
    layout = charts.confusion_chart([classified(many, np.eye(40, dtype=int).tolist())]).layout
    assert list(layout.xaxis.ticktext) == list(layout.yaxis.ticktext) == many
    assert layout.height > 40 * 17  # a row a line of writing


def test_curves_mark_the_epoch_that_was_selected() -> None:
    rows = [
        {"epoch": str(epoch), "lr": "0.1", "train/loss": "1", "val/loss": "", "val/a_miou": value}
        for epoch, value in enumerate(("0.2", "0.7", "0.7", "0.5"), 1)
    ]
    drawn = charts.curve_charts([rows], [""], "a_miou", selected=True)
    assert list(drawn) == ["Loss", "A mIoU", "Learning rate"]
    assert [trace.name for trace in drawn["Loss"].data] == ["train"]  # nothing of val
    line, star = drawn["A mIoU"].data
    assert (list(line.x), list(line.y)) == ([1, 2, 3, 4], [0.2, 0.7, 0.7, 0.5])
    assert (list(star.x), list(star.y), star.marker.symbol) == ([2], [0.7], "star")
    two = charts.curve_charts([rows, rows[:1]], [", seed 0", ", seed 1"], "a_miou", selected=False)
    assert [trace.name for trace in two["A mIoU"].data] == ["val, seed 0", "val, seed 1"]
    assert [trace.mode for trace in two["A mIoU"].data] == ["lines", "markers"]
    assert charts.curve_charts([[]], [""], "a_miou", selected=True) == {}


def test_reliability_and_categories_are_the_numbers_given() -> None:
    bins = (ReliabilityBin(30, 0.3, 0.1), ReliabilityBin(10, 0.9, 0.8))
    found = [Reliability(0.1, 0.2, 2.0, bins, bins[1:]), Reliability(0.1, None, None, bins, ())]
    diagonal, *lines = charts.reliability_chart(found, [", seed 0", ", seed 1"]).data
    assert [line.name for line in lines] == [
        "uncalibrated, seed 0", "calibrated, seed 0", "uncalibrated, seed 1",
    ]  # fmt: skip
    assert (list(lines[0].x), list(lines[0].y)) == ([0.3, 0.9], [0.1, 0.8])
    assert list(lines[1].customdata) == [10]
    assert list(diagonal.x) == list(diagonal.y) == [0, 1]


def hostile(
    report: RunReport, predictions: ClassPredictions, name: str
) -> tuple[RunReport, ClassPredictions]:
    """The same with the first class called ``name``."""
    first = report.reports[0]
    assert isinstance(first, ClassificationReport)
    names = [name, *list(first.class_accuracy)[1:]]
    renamed = dict(zip(names, first.class_accuracy.values(), strict=True))
    predictions.spec = replace(predictions.spec, class_names=tuple(names))
    return replace(report, reports=(replace(first, class_accuracy=renamed),)), predictions


def test_names_are_text_and_not_html(class_runs: list[Path], tmp_path: Path) -> None:
    predictions = ClassPredictions()
    report = evaluate_run(class_runs[0], "test", CPU, hook=predictions)
    report, predictions = hostile(report, predictions, "<script>alert(1)</script>")
    path = write_report(tmp_path, class_runs[:1], [report], [predictions], command="<i>", worst=28)
    page = without_script(path.read_text(encoding="utf-8"))
    assert "alert(1)" in page
    assert "<script>alert" not in page
    assert "<i>" not in page


def test_what_a_user_can_get_wrong(
    class_runs: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file").write_text("")
    for arguments, message in (
        (("--worst", 3), "--worst chooses pictures of the report; add --report DIR"),
        (("--force",), "--force lets a report replace another; add --report DIR"),
        (("--report", tmp_path / "file"), f"--report {tmp_path / 'file'} is a file; name a folder"),
    ):
        assert call(monkeypatch, "evaluate", class_runs[0], *arguments) == 1
        assert message in capsys.readouterr().err


@pytest.mark.slow
def test_a_browser_draws_the_page(class_runs: list[Path], tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("needs Chromium")
    predictions: list[Any] = [ClassPredictions()]
    report = evaluate_run(class_runs[0], "test", CPU, hook=predictions[0])
    page = write_report(tmp_path, class_runs[:1], [report], predictions, command="evaluate")
    command = [
        browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        "--virtual-time-budget=8000", "--window-size=1400,1500",
    ]  # fmt: skip

    def ask(name: str, *options: str) -> str:
        profile = f"--user-data-dir={tmp_path / name}"
        done = subprocess.run(
            [*command, profile, *options, page.as_uri()],
            capture_output=True,
            text=True,
            timeout=300,
            check=True,
        )
        return done.stdout

    dom = without_script(ask("dom", "--dump-dom"))
    charts_drawn = re.findall(r'<div id="([\w-]+)" class="plotly-graph-div js-plotly-plot"', dom)
    assert charts_drawn == ["confusion", "reliability", "curve-0", "curve-1", "curve-2"]
    for name in CATEGORIES:  # beside the rows and below the columns
        assert len(re.findall(rf"<text [^>]*>{name}</text>", dom)) == 2
    picture = tmp_path / "dark.png"
    ask("picture", "--blink-settings=preferredColorScheme=0", f"--screenshot={picture}")
    with Image.open(picture) as image:
        pixels = np.asarray(image.convert("RGB"))
    assert pixels[5, 5].tolist() == [22, 24, 28]  # the page is dark
    assert (pixels > 200).all(-1).mean() > 0.01  # and its writing bright
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 500
