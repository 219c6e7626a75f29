import contextlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from ea_pointcloud import cli
from ea_pointcloud.cli import _common, export, view
from ea_pointcloud.datasets.procedural import CATEGORIES, ProceduralShapes
from ea_pointcloud.datasets.writing import write_modelnet
from ea_pointcloud.export import FORMATS
from ea_pointcloud.io import write_mesh
from ea_pointcloud.ops import _backend
from ea_pointcloud.ops._self_check import Verdict
from ea_pointcloud.ops.frames import AXES
from ea_pointcloud.training.recipe import load_recipe, save_recipe
from ea_pointcloud.training.recipe_keys import Recipe
from ea_pointcloud.viz.style import BACKGROUNDS, COLORINGS
from tests.test_training import PARTS, QUICK

COMMANDS = (
    "info", "data", "train", "evaluate", "classify", "segment", "view", "explain", "export",
)  # fmt: skip


def call(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Run the command in this process; returns the exit status."""
    monkeypatch.setattr(sys, "argv", ["ea-pointcloud", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return int(stop.value.code or 0)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patch:
        assert call(patch, "train", "procedural", *QUICK, "--run-dir", run) == 0
    return run


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """A cloud, a mesh, and three that cannot be read."""
    xyz = np.random.default_rng(0).normal(size=(200, 3))
    np.save(tmp_path / "cloud.npy", xyz)
    tetrahedron = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], float)
    faces = np.array([[0, 1, 2], [0, 1, 3], [0, 2, 3], [1, 2, 3]])
    write_mesh(tmp_path / "mesh.off", tetrahedron, faces)
    (tmp_path / "broken.off").write_text("OFF\n4 4 0\n0 0 0\n")
    (tmp_path / "empty.xyz").write_text("")
    names = ("cloud.npy", "broken.off", "mesh.off", "empty.xyz", "missing.ply")
    return [tmp_path / name for name in names]


def test_help_is_fast_and_ends_with_examples() -> None:
    command = [sys.executable, "-m", "ea_pointcloud", "--help"]
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        seconds.append(time.perf_counter() - start)
    assert all(name in done.stdout for name in COMMANDS)
    assert done.stdout.strip().endswith("ea-pointcloud train procedural")
    assert min(seconds) < 1.0


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_each_command_has_examples(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert call(monkeypatch, name, "--help") == 0
    options, _, examples = capsys.readouterr().out.partition("Examples:")
    assert "--help" in options
    lines = [line.strip() for line in examples.splitlines() if line.strip()]
    assert lines  # each on a line of its own, to be copied
    assert all(line.startswith(f"ea-pointcloud {name}") for line in lines)


def test_info(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(monkeypatch, "info", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["operators on cpu"] == "numba kernels"
    assert "modelnet40" in facts["recipes"]
    assert call(monkeypatch, "info") == 0
    assert "ea_classifier_base" in capsys.readouterr().out


def test_info_compares_the_operators_with_plain_pytorch(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    verdicts = [
        Verdict("knn", "", True, 2.0, 25.0),
        Verdict("gather", "", own=False),
        Verdict("scatter", "failed with RuntimeError: no"),
    ]
    monkeypatch.setattr(_backend, "compare", lambda _: verdicts)
    assert call(monkeypatch, "info", "--check", "--json") == 0
    rows = json.loads(capsys.readouterr().out)["operators"]
    assert [row["operator"] for row in rows] == ["knn", "gather", "scatter"]
    assert call(monkeypatch, "info", "--check") == 0
    printed = capsys.readouterr().out
    assert re.search(r"knn +.*kernel +.*yes +.*2\.00 +.*12\.5", printed)
    assert re.search(r"gather +.*plain PyTorch", printed)
    assert re.search(r"scatter +.*plain PyTorch +.*failed with RuntimeError: no", printed)
    monkeypatch.setattr(_backend, "compare", lambda _: [])
    assert call(monkeypatch, "info", "--check") == 0
    assert "Nothing to compare: the operators on cpu are plain" in capsys.readouterr().out


def test_evaluate(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "evaluate", run_folder, "--json") == 0
    (report,) = json.loads(capsys.readouterr().out)
    assert [part["selection"] for part in report["reports"]] == [
        "validation (primary)",
        "last epoch",
    ]
    assert report["reports"][0]["split"] == "test"
    assert report["legacy_accuracy"] is None
    monkeypatch.setenv("COLUMNS", "140")
    assert call(monkeypatch, "evaluate", run_folder, "--split", "val") == 0
    text = capsys.readouterr().out
    assert "validation (primary)" in text
    assert "clouds/s" not in text  # too few batches to measure
    options = ("--votes", 0, "--batch-size", 4, "--limit", 20, "--num-points", 100)
    assert call(monkeypatch, "evaluate", run_folder, *options) == 0
    text = capsys.readouterr().out
    assert "test split, 20 shapes" in text
    assert re.search(r"a cloud of 100 points;\n\d+ clouds/s on cpu, batch 4;", text)
    assert re.search(r"overall,\s+0 votes", text)


def test_evaluate_and_explain_of_weights_on_any_data(
    run_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    clouds = ProceduralShapes("test", num_shapes=28, num_points=128)
    piece = (clouds.xyz.numpy(), clouds.label.numpy())
    data = tmp_path / "sets" / "mine_hdf5_2048"
    data.parent.mkdir()
    write_modelnet(data, clouds.class_names, train=[piece], test=[piece])
    assert call(monkeypatch, "evaluate", run_folder / "best", "--data-root", data, "--json") == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["report"]["shapes"], found["votes"], found["num_points"]) == (28, 10, 64)
    options = ("--votes", 0, "--limit", 14, "--num-points", 32, "--json")
    named = ("evaluate", run_folder, "--data", "mine", "--data-root", data.parent)
    assert call(monkeypatch, *named, *options) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["report"]["shapes"], found["votes"], found["num_points"]) == (14, 0, 32)
    assert found["report"]["voted_accuracy"] is None
    assert set(found["report"]["data_classes"]) == set(CATEGORIES)
    explained = ("explain", run_folder / "last", "--data-root", data, "--split", "test")
    assert call(monkeypatch, *explained, "--limit", 14) == 0
    assert f"{run_folder / 'last'}: 14 test shapes" in capsys.readouterr().out
    assert call(monkeypatch, "evaluate", run_folder / "best", "--report", tmp_path / "r") == 1
    assert "--report needs a run folder, on its own data" in capsys.readouterr().err


def test_classify_reports_bad_files_and_goes_on(
    run_folder: Path,
    files: list[Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert call(monkeypatch, "classify", *files, "--model", run_folder, "--json", "--topk", 2) == 1
    rows = json.loads(capsys.readouterr().out)
    assert [row["file"] for row in rows] == [str(path) for path in files]
    assert [("error" in row) for row in rows] == [False, True, False, True, True]
    for row in (rows[0], rows[2]):
        assert row["label"] == row["top"][0]["label"]
        assert row["label"] in CATEGORIES
        assert len(row["top"]) == 2
    assert "broken.off" in rows[1]["error"]
    assert "empty (0 bytes)" in rows[3]["error"]
    assert "no such file" in rows[4]["error"]

    good = [files[0], files[2]]
    assert call(monkeypatch, "classify", *good, "--model", run_folder, "--up", "z") == 0
    assert "mesh.off" in capsys.readouterr().out.replace("\n", "")
    assert call(monkeypatch, "classify", files[4], "--model", run_folder) == 1
    assert "error" in capsys.readouterr().out


def test_classify_renders_but_never_overwrites(
    run_folder: Path,
    files: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    picture = tmp_path / "picture.png"
    arguments = ("classify", files[0], "--model", run_folder, "--render", picture)
    assert call(monkeypatch, *arguments) == 0
    assert picture.stat().st_size > 1000
    assert call(monkeypatch, *arguments) == 1
    assert "exists; choose another name or add --force" in capsys.readouterr().err
    assert call(monkeypatch, *arguments, "--force") == 0


def test_mistakes_end_in_one_line(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = {
        ("train", "modelnet4"): "error: no recipe 'modelnet4'; known are folder, modelnet10",
        ("train", "procedural", "optim.lrr=1"): "error: override 'optim.lrr=1': unknown key 'opti",
        (
            "train",
            "procedural",
            "--run-dir",
            "a",
            "--resume",
            "b",
        ): "error: --run-dir names a new run and",
        ("train", "procedural", "--run-dir", run_folder): "error: run folder ",
        (
            "train",
            "procedural",
            "optim.lr=1",
            "--resume",
            run_folder,
        ): "was trained with optim.lr=0.02, got 1.0; leave it out",
        (
            "train",
            "modelnet10",
            "--resume",
            run_folder,
        ): "is a run of the recipe procedural, not",
        (
            "train",
            "folder",
            "--resume",
            run_folder,
        ): "is a run of the recipe procedural, not folder",
        ("train", "--resume", "nowhere"): "error: no run to resume in nowhere; leave out resume",
        ("train",): "error: give a RECIPE to train, such as procedural, or --resume RUN",
        ("evaluate", "nowhere"): "error: no folder nowhere; give a folder of weights, a run folder",
        (
            "evaluate",
            run_folder,
            "--data",
            "modelnet10",
            "--worst",
            3,
        ): "error: --worst chooses pic",
        (
            "evaluate",
            run_folder,
            "--data",
            "modelnet10",
            "--calibrate",
        ): "error: --calibrate needs a run",
        ("evaluate", run_folder, "--split", "all"): "error: --split must be one of 'train', 'val'",
        ("classify", "a.ply", "--model", "nowhere"): "error: no folder nowhere; give a folder of",
        ("classify", "a.ply", "--model", run_folder, "--up", "w"): "error: --up must be one of 'x'",
    }
    for arguments, words in cases.items():
        assert call(monkeypatch, *arguments) == 1
        error = capsys.readouterr().err
        assert words in error
        assert len(error.splitlines()) == 1


def test_a_finished_run_resumes_to_nothing(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (run_folder / "metrics.csv").read_text()
    resume = ("train", "procedural", "trainer.device=auto", "--resume", run_folder)
    assert call(monkeypatch, *resume) == 0
    assert "is complete (3 of 3 epochs)" in capsys.readouterr().err
    assert (run_folder / "metrics.csv").read_text() == before


def test_ctrl_c_says_how_to_continue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ea_pointcloud.training.fit.train", interrupted)
    assert call(monkeypatch, "train", "procedural", "--run-dir", tmp_path / "run") == 130
    error = capsys.readouterr().err
    assert f"ea-pointcloud train --resume {tmp_path / 'run'}" in error


def test_the_assumed_axis_is_that_of_the_format_or_of_the_own_files(
    files: list[Path],
    run_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    good = [files[0], files[2]]
    assert call(monkeypatch, "classify", *good, "--model", run_folder, "--json") == 0
    shown = capsys.readouterr()
    assert "Assuming y up in .npy, z up in .off files. Change with --up." in shown.err
    assert [row["up"] for row in json.loads(shown.out)] == ["y", "z"]
    own = files[0].parent / "own"
    shutil.copytree(run_folder, own)
    recipe = (own / "recipe.yaml").read_text().replace("dataset: procedural", "dataset: folder")
    (own / "recipe.yaml").write_text(recipe.replace("up: 'y'", "up: x").replace("up: y", "up: x"))
    assert call(monkeypatch, "classify", *good, "--model", own, "--json") == 0
    shown = capsys.readouterr()
    assert "Assuming x up, as in training. Change with --up." in shown.err
    assert [row["up"] for row in json.loads(shown.out)] == ["x", "x"]


@pytest.mark.parametrize(
    "again", [[], ["trainer.device=cpu"], ["folder"], ["folder", "data.workers=0"]]
)
def test_a_run_is_resumed_by_its_folder_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: list[str]
) -> None:
    # The recipe "folder" is invalid without data.root, which the run has.
    run, resumed = tmp_path / "my run", []
    run.mkdir()
    recipe = load_recipe("folder", [f"data.root={tmp_path}", "trainer.epochs=7"])
    save_recipe(recipe, run / "recipe.yaml")

    def interrupted(recipe: Recipe, folder: Path, *, resume: bool) -> None:
        resumed.append((recipe.data.root, recipe.trainer.epochs, folder, resume))
        raise KeyboardInterrupt

    monkeypatch.setattr("ea_pointcloud.training.fit.train", interrupted)
    monkeypatch.setattr("sys.stderr", error := io.StringIO())
    assert call(monkeypatch, "train", *again, "--resume", run) == 130
    assert resumed == [(str(tmp_path), 7, run, True)]
    command = error.getvalue().strip().rpartition(": ea-pointcloud ")[2]
    assert call(monkeypatch, *shlex.split(command)) == 130  # the very command that was printed
    assert resumed[0] == resumed[1]


def test_several_seeds_are_summarised(
    tmp_path: Path,
    run_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    second = tmp_path / "second"
    assert (
        call(monkeypatch, "train", "procedural", *QUICK, "trainer.seed=1", "--run-dir", second) == 0
    )
    assert call(monkeypatch, "evaluate", run_folder, second, "--json") == 0
    reports = json.loads(capsys.readouterr().out)
    a, b = (report["reports"][0]["overall_accuracy"] for report in reports)
    assert call(monkeypatch, "evaluate", run_folder, second) == 0
    text = capsys.readouterr().out
    assert "2 seeds: mean and standard deviation" in text
    assert mean_and_std(a, b) in text

    assert call(monkeypatch, "evaluate", run_folder, run_folder) == 1
    assert "the runs must have different seeds, got [0, 0]" in capsys.readouterr().err
    third = tmp_path / "third"
    options = ("trainer.seed=2", "trainer.epochs=1", "--run-dir", third)
    assert call(monkeypatch, "train", "procedural", *QUICK, *options) == 0
    capsys.readouterr()
    assert call(monkeypatch, "evaluate", run_folder, third) == 1
    assert "has trainer.epochs=3, " in capsys.readouterr().err


def test_evaluate_of_part_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [tmp_path / "first", tmp_path / "second"]
    options = ("trainer.epochs=1", "eval.legacy=true")
    for seed, run in enumerate(runs):
        arguments = (*PARTS, *options, f"trainer.seed={seed}", "--run-dir", run)
        assert call(monkeypatch, "train", "procedural", *arguments) == 0
    capsys.readouterr()
    assert call(monkeypatch, "evaluate", *runs, "--json") == 0
    reports = json.loads(capsys.readouterr().out)
    a, b = (report["reports"][0] for report in reports)
    assert a["selection"] == "validation (primary)"
    assert set(a["category_iou"]) == set(CATEGORIES)

    assert call(monkeypatch, "evaluate", *runs) == 0
    text = capsys.readouterr().out
    for heading in (
        "instance mIoU ",
        "category mIoU ",
        "point accuracy",
        "all-parts instance mIoU",
        "instance mIoU, 8 scales",
        "category mIoU, 8 scales",
        "validation (primary), by category",
        "test (legacy, as most papers)",
        "2 seeds: mean and standard deviation",
    ):
        assert heading in " ".join(text.split())
    for field in ("instance_miou", "all_parts_instance_miou", "voted_category_miou"):
        assert f"{a[field]:.4f}" in text
        assert mean_and_std(a[field], b[field]) in text
    assert mean_and_std(a["category_iou"]["mug"], b["category_iou"]["mug"]) in text
    legacy = [report["legacy_accuracy"] for report in reports]
    assert mean_and_std(*legacy) in text

    plain = ("evaluate", runs[0], "--split", "val")
    assert call(monkeypatch, *plain) == 0
    assert "legacy" not in capsys.readouterr().out  # it belongs to the test split


def mean_and_std(a: float, b: float) -> str:
    """Of two values, by hand."""
    return f"{(a + b) / 2:.4f} ± {abs(a - b) / 2**0.5:.4f}"


def test_legacy_figure_is_marked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    options = ("eval.legacy=true", "trainer.epochs=1", "--run-dir", run)
    assert call(monkeypatch, "train", "procedural", *QUICK, *options) == 0
    assert call(monkeypatch, "evaluate", run) == 0
    assert "test (legacy, as most papers)" in capsys.readouterr().out


def test_a_cloud_that_reads_but_fails_does_not_stop_the_others(
    run_folder: Path,
    files: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "[red]same.xyz").write_text("1 1 1\n1 1 1\n")
    (tmp_path / "far.xyz").write_text("1e300 0 0\n0 0 0\n")
    (tmp_path / "nan.xyz").write_text("nan 0 0\n0 0 0\n0 1 0\n1 0 0\n")
    bad = [tmp_path / name for name in ("[red]same.xyz", "far.xyz", "nan.xyz")]
    arguments = ("classify", *bad, files[0], "--model", run_folder)
    assert call(monkeypatch, *arguments, "--json") == 1
    rows = json.loads(capsys.readouterr().out)
    assert "must have an extent, got 2 points in one place" in rows[0]["error"]
    assert "far.xyz: coordinates reach 1e+300, too far for float32" in rows[1]["error"]
    assert "--drop-invalid" in rows[2]["error"]
    assert "label" in rows[3]
    assert call(monkeypatch, *arguments, "--drop-invalid") == 1
    lines = capsys.readouterr().out.splitlines()
    assert sum("error" in line for line in lines) == 2
    assert any("[red]same.xyz" in line for line in lines)  # names are not markup, nor folded


def test_pictures_that_cannot_be_written_are_refused_first(
    run_folder: Path,
    files: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for picture, words in (
        (tmp_path / "a.jpg", "error: --render must name a .png file"),
        (tmp_path / "none" / "a.png", "no such folder, or a folder itself"),
    ):
        arguments = ("classify", files[0], "--model", run_folder, "--render", picture)
        assert call(monkeypatch, *arguments) == 1
        output = capsys.readouterr()
        assert words in output.err
        assert output.out == ""


@pytest.mark.slow
@pytest.mark.data
def test_real_meshes_are_read(data_root: Path, run_folder: Path) -> None:
    meshes = sorted((data_root / "modelnet10_meshes").glob("*/*.off"))
    assert len(meshes) == 20
    command = [sys.executable, "-m", "ea_pointcloud", "classify", *map(str, meshes)]
    command += ["--model", str(run_folder), "--up", "z", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert all("label" in row for row in json.loads(done.stdout))


@pytest.mark.parametrize(
    "arguments",
    [
        ("classify", "a.ply", "--up", "w"),
        ("segment", "a.ply", "--format", "obj"),
        ("view", "a.ply", "--color-by", "colour"),
        ("evaluate", "run", "--adapt", "1"),
        ("export", "run", "--format", "tflite"),
        ("explain", "run", "--split", "validation"),
        ("data", "prepare", "modelnet10", "--mirrored", "maybe"),
        ("train", "procedural", "--run-dir", "a", "--resume", "b"),
    ],
)
def test_options_are_checked_before_anything_heavy_is_imported(arguments: tuple[str, ...]) -> None:
    code = (
        "import sys; from ea_pointcloud.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: assert end.code == 1\n"
        "print({'torch', 'numpy', 'lightning'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr.startswith("error: --")
    assert done.stdout == "set()\n"


def test_choices_are_those_of_the_package() -> None:
    assert (*AXES, "auto") == _common.UPS
    assert view.COLORINGS == COLORINGS
    assert tuple(BACKGROUNDS) == view.BACKGROUNDS
    assert export.SUFFIXES == FORMATS


def test_warnings_stand_below_a_narrow_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    for columns in ("80", "140"):
        monkeypatch.setenv("COLUMNS", columns)
        with _common.TablePages(("file", "class", "warning"), (), contextlib.nullcontext) as pages:
            pages.add(["a.ply", "chair", "out of distribution"])
            pages.add(["b.ply", "table", ""])
        text = capsys.readouterr().out
        assert ("warning" in text) == (columns == "140")
        assert text.strip().endswith("a.ply: out of distribution") == (columns == "80")


def test_what_is_piped_is_narrow_enough_to_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "info") == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 100


def test_shells_complete_commands() -> None:
    environment = {**os.environ, "_EA_POINTCLOUD_COMPLETE": "complete_bash",
                   "COMP_WORDS": "ea-pointcloud cl", "COMP_CWORD": "1"}  # fmt: skip
    code = "import sys; sys.argv = ['ea-pointcloud']; from ea_pointcloud.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.stdout.split() == ["classify"]
