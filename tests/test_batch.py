"""Many files: which ones, in worker processes that die, into results that a stopped run left."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch

from ea_pointcloud import Cloud, Predictor, create_model, read_cloud, write_cloud
from ea_pointcloud.cli import _batch, _common
from ea_pointcloud.cli._resume import CsvLog
from ea_pointcloud.inference import Job, batch, batch_inference, find_files
from ea_pointcloud.inference.batch import EXPECTED, Outcome, classification, segmentation
from ea_pointcloud.io.pool import WorkerDied, map_ahead, without_interrupts
from ea_pointcloud.models import DataSpec
from tests.test_cli import call
from tests.test_segment import grouped

NAMES = ("bowl", "cone", "vase")
MODULES = ("ea_pointcloud.io.pool", "tests.test_batch")
SCHEMAS = Path(__file__).parent.parent / "ea_pointcloud" / "schemas"


# --- which files


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "scans"
    for name in ("b.ply", "a.off", "sub/deep/c.XYZ", "sub/a.ply", ".hidden.ply", "notes.md"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (root / ".git").mkdir()
    (root / ".git" / "d.ply").touch()
    (root / "loop").symlink_to(root)
    return root


def test_folders_are_listed_in_order(tree: Path) -> None:
    flat = [each.relative for each in find_files([str(tree)])]
    assert flat == ["a.off", "b.ply"]
    found = list(find_files([str(tree)], recursive=True))
    assert [each.relative for each in found] == ["a.off", "b.ply", "sub/a.ply", "sub/deep/c.XYZ"]
    assert [each.path for each in found] == [str(tree / each.relative) for each in found]
    without = find_files([str(tree)], recursive=True, exclude=tree / "sub")
    assert [each.relative for each in without] == ["a.off", "b.ply"]


def test_several_paths_keep_their_order_and_their_names(tree: Path) -> None:
    paths = [str(tree / "sub"), str(tree / "notes.md"), "gone.ply", str(tree / "sub" / "deep")]
    found = [each.relative for each in find_files(paths)]
    assert found == ["sub/a.ply", "notes.md", "gone.ply", "deep/c.XYZ"]


def test_a_folder_without_clouds_is_an_error(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "empty" / "below").mkdir(parents=True)
    (tmp_path / "empty" / "below" / "a.ply").touch()
    with pytest.raises(ValueError, match=r"empty holds no file that ends in .*add --recursive"):
        list(find_files([str(tmp_path / "empty")]))
    (tmp_path / "empty" / "below" / "a.ply").unlink()
    with pytest.raises(ValueError, match=r"holds no file that ends in \.ply"):
        list(find_files([str(tmp_path / "empty")], recursive=True))


# --- worker processes


def squared(item: int) -> int:
    """Dies where a square is asked of a negative number."""
    if item < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return item * item


def refuses(item: int) -> int:
    raise KeyError(item)


def meets_another(folder: Path, _: int) -> tuple[int, int]:
    """Waits for a second process, which a busy machine may start only when all is done."""
    (folder / str(os.getpid())).touch()
    latest = time.monotonic() + 60
    while len(list(folder.iterdir())) < 2 and time.monotonic() < latest:
        time.sleep(0.01)
    return os.getpid(), torch.get_num_threads()


def test_workers_that_die_cost_their_item_only() -> None:
    items = [*range(20), -1, -2, *range(20, 30), -3]
    found = list(map_ahead(squared, items, workers=2, ahead=7, preload=MODULES))
    assert [item for item, _ in found] == items
    for item, result in found:
        assert result == (WorkerDied() if item < 0 else item * item)


def test_items_are_taken_as_needed_and_in_other_processes(tmp_path: Path) -> None:
    taken = []

    def endless() -> Iterator[int]:
        for item in count():
            taken.append(item)
            yield item

    work = partial(meets_another, tmp_path)
    found = map_ahead(work, endless(), workers=2, ahead=6, preload=MODULES)
    results = [next(found)[1] for _ in range(12)]
    found.close()  # pyright: ignore[reportAttributeAccessIssue]
    assert len(taken) == 12 + 5
    pids = {pid for pid, _ in results}  # pyright: ignore[reportGeneralTypeIssues]
    assert len(pids) == 2
    assert os.getpid() not in pids
    assert all(threads == 1 for _, threads in results)  # pyright: ignore[reportGeneralTypeIssues]
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.parametrize("workers", [0, 1])
def test_what_is_raised_in_a_worker_is_raised_here(workers: int) -> None:
    with pytest.raises(KeyError, match="5"):
        list(map_ahead(refuses, [5], workers=workers, ahead=2, preload=MODULES))
    assert list(map_ahead(refuses, [], workers=workers, ahead=2)) == []


def interrupted_inside(reached: list[str]) -> None:
    with without_interrupts():
        os.kill(os.getpid(), signal.SIGINT)
        reached.append("end")


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Python's own answer to Ctrl-C, which a shell turns off for what it runs in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("others", [0, 4])
def test_an_interrupt_waits_for_the_end_of_the_block(others: int) -> None:
    end, reached = threading.Event(), []
    threads = [threading.Thread(target=end.wait) for _ in range(others)]  # may be handed it too
    for thread in threads:
        thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            interrupted_inside(reached)
    finally:
        end.set()
    assert reached == ["end"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


ENDLESS = """
import time
from itertools import repeat
from ea_pointcloud.io.pool import map_ahead
if __name__ == "__main__":
    asked = repeat("__import__('os').getpid()")
    for _, pid in map_ahead(eval, asked, workers=1, ahead=2, preload=["ea_pointcloud.io.pool"]):
        print(pid, flush=True)
        time.sleep(60)
"""


def test_workers_end_with_a_process_that_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "endless.py"
    script.write_text(ENDLESS)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    command = [sys.executable, str(script)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        os.kill(pid, 0)
        process.kill()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    pytest.fail(f"worker {pid} outlived its parent by 20 s")


# --- files to answers


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("weights") / "classes"
    create_model("ea_classifier_tiny", data_spec=DataSpec(NAMES, num_points=64)).save_pretrained(
        folder
    )
    return folder


@pytest.fixture(scope="module")
def predictor(weights: Path) -> Predictor:
    return Predictor.from_pretrained(weights, "cpu")


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Forty clouds of different sizes in two folders, and two files that cannot be read."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "scans"
    (folder / "sub").mkdir(parents=True)
    for index in range(40):
        xyz = (rng.normal(size=(20 + 5 * index, 3)) * [1, 2, 0.5]).astype(np.float32)
        inside, number = (folder, index) if index < 26 else (folder / "sub", index - 26)
        name = f"{number:02d}.ply" if number % 2 else f"{number:02d}.npy"
        write_cloud(inside / name, Cloud(xyz - xyz.mean(0), np.zeros(3)))
    (folder / "05a.ply").write_text("ply\nformat ascii 1.0\n")
    (folder / "sub" / "zero.xyz").touch()
    return folder


def paths_below(folder: Path) -> list[str]:
    return [each.path for each in find_files([str(folder)], recursive=True)]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_gives_what_each_file_gives_alone(
    predictor: Predictor, scans: Path, workers: int
) -> None:
    files = paths_below(scans)
    outcomes = list(batch_inference(classification(predictor, up="z"), files, workers=workers))
    assert [outcome.file for outcome in outcomes] == files
    for outcome in outcomes:
        if outcome.error is not None:
            with pytest.raises(ValueError, match=re.escape(outcome.error)):
                predictor.classify(outcome.file, up="z")
            continue
        expected = predictor.classify(outcome.file, up="z")
        assert outcome.result is not None
        assert outcome.result.label == expected.label
        assert outcome.result.prob == pytest.approx(expected.prob, abs=1e-5)
        assert outcome.result.up == "z"
    assert sum(outcome.error is not None for outcome in outcomes) == 2


def load_or_die(file: str) -> str:
    if "die" in file:
        os._exit(9)
    return file.upper()


def answer_some(loaded: list[str]) -> list[str]:
    """Fails for a batch with a B in it."""
    if "B" in loaded:
        raise RuntimeError("out of memory")
    return loaded


def test_a_batch_that_fails_is_answered_one_by_one() -> None:
    job = Job(load_or_die, answer_some, batch_size=3, ahead=1)
    assert list(batch_inference(job, ["a", "b", "c", "d"])) == [
        Outcome("a", "A"),
        Outcome("b", error="out of memory"),
        Outcome("c", "C"),
        Outcome("d", "D"),
    ]
    assert list(batch_inference(job, ["b"])) == [Outcome("b", error="out of memory")]


def test_the_command_preloads_what_the_batch_does() -> None:
    assert _batch.PRELOAD == batch.PRELOAD


def test_a_worker_that_dies_is_an_error_of_its_file() -> None:
    job = Job(load_or_die, answer_some, batch_size=3, ahead=1)
    outcomes = list(batch_inference(job, ["a", "die", "c"], workers=1))
    assert [outcome.result for outcome in outcomes] == ["A", None, "C"]
    assert "the process that read this file died (out of memory" in str(outcomes[1].error)


def test_memory_errors_are_those_of_a_file() -> None:
    assert issubclass(torch.OutOfMemoryError, EXPECTED)
    assert issubclass(FileNotFoundError, EXPECTED)


def test_segmentation_keeps_the_cloud(scans: Path) -> None:
    predictor = Predictor(grouped(), "cpu")
    files = paths_below(scans)[:3]
    outcomes = list(batch_inference(segmentation(predictor, category="table"), files))
    for file, outcome in zip(files, outcomes, strict=True):
        assert outcome.result is not None
        cloud, parts = outcome.result
        assert (cloud.xyz == read_cloud(file).xyz).all()
        assert (parts.labels == predictor.segment(file, category="table").labels).all()


# --- the command classify


def rows_of(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


@pytest.fixture
def classify(
    weights: Path, scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> partial[int]:
    options = ("--recursive", "--model", weights, "--csv", tmp_path / "out.csv")
    return partial(call, monkeypatch, "classify", scans, *options)


def test_a_csv_holds_a_row_a_file(
    classify: "partial[int]", predictor: Predictor, scans: Path, tmp_path: Path
) -> None:
    assert classify() == 1
    header, *rows = rows_of(tmp_path / "out.csv")
    assert ",".join(header) == (
        "file,label,prob,label_2,prob_2,label_3,prob_3,up,up_margin,ood_score,warning,error"
    )
    assert [row[0] for row in rows] == paths_below(scans)
    for row in rows:
        fields = dict(zip(header, row, strict=True))
        if fields["error"]:
            assert set(row[1:-1]) == {""}
            continue
        expected = predictor.classify(fields["file"])
        assert fields["label"] == expected.label
        assert float(fields["prob"]) == pytest.approx(expected.prob, abs=1e-5)
        assert fields["label_3"] == expected.top[2].label
        assert fields["up"] == "y"
    assert [Path(row[0]).name for row in rows if row[-1]] == ["05a.ply", "zero.xyz"]


@pytest.mark.parametrize("kept", ["half", "torn", "torn in quotes", "header", "nothing", "all"])
def test_a_stopped_run_goes_on_where_it_was(
    kept: str,
    classify: "partial[int]",
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "out.csv"
    assert classify() == 1
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    left, rows = {
        "half": (b"".join(lines[:21]), 20),
        "torn": (b"".join(lines[:21]) + lines[21][:-9], 20),
        "torn in quotes": (b"".join(lines[:4]) + b'"a\nb', 3),
        "header": (lines[0], 0),
        "nothing": (b"", 0),
        "all": (whole, 42),
    }[kept]
    path.write_bytes(left)
    capsys.readouterr()
    assert classify() == 1
    assert path.read_bytes() == whole
    error = capsys.readouterr().err
    assert "40 of 42 files classified, 2 failed" in error
    assert (f", {rows} by an earlier run" in error) == (rows > 0)


def test_results_of_other_settings_are_not_mixed(
    classify: "partial[int]", tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "out.csv"
    assert classify() == 1
    before = path.read_bytes()
    capsys.readouterr()

    def refused(*options: object) -> str:
        assert classify(*options) == 1
        assert path.read_bytes() == before
        return capsys.readouterr().err

    words = "was made with up=format, tta_rotations=1, not up=z, tta_rotations=2; choose another"
    assert words in refused("--up", "z", "--tta-rotations", 2)
    torch.manual_seed(1)
    create_model("ea_classifier_tiny", data_spec=DataSpec(NAMES, num_points=64)).save_pretrained(
        tmp_path / "others"
    )
    assert "was made with other weights (" in refused("--model", tmp_path / "others")
    settings = path.with_name("out.csv.json")
    known = settings.read_text()
    settings.unlink()
    assert "out.csv.json says what it was made with; choose another" in refused()
    settings.write_text(known)
    path.write_bytes(before + b"a,b\n")
    before = path.read_bytes()
    assert "out.csv has 2 values after byte" in refused()
    path.write_bytes(b"x\n" + before)
    before = path.read_bytes()
    assert "has the columns x, not file, label" in refused()
    assert classify("--up", "z", "--force") == 1
    rows = rows_of(path)
    assert len(rows) == 43
    assert {row[7] for row in rows[1:]} == {"z", ""}


def test_a_csv_among_the_clouds_is_not_taken_for_one(
    weights: Path, scans: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in scans.rglob("*.xyz"):
        path.unlink()
    (scans / "05a.ply").unlink()
    options = ("--model", weights, "--csv", scans / "out.csv")
    for _ in range(2):
        assert call(monkeypatch, "classify", scans, *options) == 0
    assert not any(row[0].endswith(".csv") for row in rows_of(scans / "out.csv"))


def test_names_of_any_bytes(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    folder = tmp_path / "odd"
    folder.mkdir()
    odd = (b"a,\"b'.npy", b"line\nbreak.npy", b"carriage\rreturn.npy", b"\xff\xfe.npy")
    for name in (*odd, "größe.npy".encode()):
        np.save(os.fsdecode(os.path.join(os.fsencode(folder), name)), np.eye(3))  # noqa: PTH118
    options = ("--model", weights, "--csv", tmp_path / "out.csv")
    for earlier in ("5 of 5 files classified, 0", "5 of 5 files classified, 5 by an earlier run"):
        assert call(monkeypatch, "classify", folder, *options) == 0
        error = capsys.readouterr().err
        assert earlier.removesuffix(", 0") in error
    assert call(monkeypatch, "classify", folder, "--model", weights) == 0
    assert "größe.npy" in capsys.readouterr().out
    assert call(monkeypatch, "classify", folder, "--model", weights, "--json") == 0
    assert os.fsencode(json.loads(capsys.readouterr().out)[-1]["file"]).endswith(b"\xff\xfe.npy")


def test_another_process_is_kept_from_a_csv(
    classify: "partial[int]", tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("fcntl")
    assert classify() == 1
    before = (tmp_path / "out.csv").read_bytes()
    code = "import fcntl, sys; file = open(sys.argv[1], 'a'); fcntl.flock(file, fcntl.LOCK_EX); "
    code += "print('locked', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, str(tmp_path / "out.csv")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        for options in ((), ("--force",)):
            capsys.readouterr()
            assert classify(*options) == 1
            assert "out.csv is being written by another process; wait" in capsys.readouterr().err
        other.communicate()
    assert (tmp_path / "out.csv").read_bytes() == before
    assert classify() == 1


@pytest.mark.parametrize("end", ["", "\r", "\n", "\r\n"])
def test_rows_come_back_as_they_were_written(tmp_path: Path, end: str) -> None:
    columns, rows = ["file", "warning", "error"], [[f'a"{end}.ply', end, ""], [f"b{end}", "", "x"]]
    made_with = {"command": "classify"}
    with CsvLog(tmp_path / "a.csv", columns, made_with, force=False) as log:
        for row in rows:
            log.write(row)
    assert rows_of(tmp_path / "a.csv") == [columns, *rows]
    with CsvLog(tmp_path / "a.csv", columns, made_with, force=False) as log:
        assert log._done == {rows[0][0]: False, rows[1][0]: True}


def test_ctrl_c_leaves_whole_rows_and_says_how_to_go_on(
    classify: "partial[int]",
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    answered = Predictor.classify
    calls = []

    def interrupted(self: Predictor, *arguments: Any, **options: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return answered(self, *arguments, **options)

    monkeypatch.setattr(Predictor, "classify", interrupted)
    assert classify("--workers", 1) == 130
    error = capsys.readouterr().err
    assert "stopped after 32 of 42 files; run the same command again to go on" in error
    assert len(rows_of(tmp_path / "out.csv")) == 33
    assert classify() == 1
    assert len(rows_of(tmp_path / "out.csv")) == 43


def test_tables_come_in_pages(
    weights: Path,
    scans: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(_common, "PAGE", 15)
    assert call(monkeypatch, "classify", scans, "-r", "--model", weights) == 1
    output = capsys.readouterr()
    assert output.out.count("probability") == 3
    assert all(file in output.out for file in paths_below(scans))
    assert "40 of 42 files classified, 2 failed" in output.err


def test_mistakes_are_told_before_the_work(
    weights: Path, scans: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (tmp_path / "none").mkdir()
    cases: dict[tuple[object, ...], str] = {
        (tmp_path / "none",): "none holds no file that ends in .ply",
        (scans, "--csv", tmp_path / "gone" / "a.csv"): "no such folder, or a folder itself",
        (scans, "--engine", "dask"): "--engine must be one of 'local', 'ray', got 'dask'",
        (scans, "--engine", "ray", "--workers", 2): "--workers is for --engine local; Ray takes",
    }
    for arguments, words in cases.items():
        assert call(monkeypatch, "classify", *arguments, "--model", weights) == 1
        output = capsys.readouterr()
        assert words in output.err
        assert len(output.err.splitlines()) == 1
        assert output.out == ""
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert call(monkeypatch, "classify", scans, "--engine", "ray", "--model", weights) == 1
    assert "needs Ray; pip install 'ea-pointcloud[ray]'" in capsys.readouterr().err


# --- the command segment


def test_outputs_mirror_the_folders_and_are_not_made_twice(
    scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    grouped().save_pretrained(tmp_path / "parts")
    out = scans / "sub" / "out"  # below the inputs, and still not one of them
    options = ("-r", "--model", tmp_path / "parts", "--category", "table", "--output", out)
    assert call(monkeypatch, "segment", scans, *options, "--json") == 1
    output = capsys.readouterr()
    rows = [row for row in json.loads(output.out) if "output" in row]
    assert len(rows) == 40
    for row in rows:
        place = Path(row["file"]).relative_to(scans).with_suffix(".ply")
        assert row["output"] == str(out / place)
        assert len(read_cloud(row["output"])) == row["points"]
    assert "40 of 42 files segmented, 2 failed" in output.err
    written = {path: path.stat().st_mtime_ns for path in out.rglob("*.ply")}
    gone = sorted(written)[5:8]
    for path in gone:
        path.unlink()
    assert call(monkeypatch, "segment", scans, *options, "--json") == 1
    output = capsys.readouterr()
    again = [row for row in json.loads(output.out) if "output" in row]
    assert {row["output"] for row in again} == {str(path) for path in gone}
    assert "40 of 42 files segmented, 2 failed, 37 by an earlier run" in output.err
    same = [path for path in written if path not in gone]
    assert [path.stat().st_mtime_ns for path in same] == [written[path] for path in same]


def test_outputs_never_stand_among_the_inputs(
    scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    grouped().save_pretrained(tmp_path / "parts")
    options = ("--model", tmp_path / "parts", "--category", "table", "--force", "--output")
    before = sorted(scans.rglob("*"))
    (tmp_path / "more" / "sub").mkdir(parents=True)
    cases: dict[tuple[object, ...], str] = {
        (scans, *options, scans): f"would be among the inputs in {scans}; choose another folder",
        (scans, scans / "05.ply", *options, scans): "would be among the inputs in",
        (scans / "05.ply", scans, *options, scans): "would replace the input",
    }
    for arguments, words in cases.items():
        assert call(monkeypatch, "segment", *arguments) == 1
        assert words in capsys.readouterr().err
        assert sorted(scans.rglob("*")) == before


# --- JSON


def schema_of(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> jsonschema.Draft202012Validator:
    assert call(monkeypatch, name, "--json-schema") == 0
    schema = json.loads(capsys.readouterr().out)
    assert schema == json.loads((SCHEMAS / f"{name}.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("name", ["classify", "segment"])
def test_json_follows_its_schema(
    name: str,
    weights: Path,
    scans: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    validator = schema_of(name, monkeypatch, capsys)
    model: tuple[object, ...] = ("--model", weights)
    if name == "segment":
        grouped().save_pretrained(tmp_path / "parts")
        model = ("--model", tmp_path / "parts", "--category", "mug")
    for options in ((), ("--up", "auto"), ("--output", tmp_path / "out")):
        if name == "classify" and "--output" in options:
            continue
        assert call(monkeypatch, name, scans, *model, *options, "--json") == 1
        rows = json.loads(capsys.readouterr().out)
        validator.validate(rows)
        assert {"error" in row for row in rows} == {True, False}
        for row in rows:  # what the schema calls required is
            for key in row:
                less = {other: row[other] for other in row if other != key}
                assert not validator.is_valid([less])
            assert not validator.is_valid([{**row, "more": 1}])


def test_json_of_nothing_is_an_empty_list(
    scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    grouped().save_pretrained(tmp_path / "parts")
    file = scans / "sub" / "00.npy"
    options = ("--model", tmp_path / "parts", "--category", "mug", "--output", tmp_path / "out")
    assert call(monkeypatch, "segment", file, *options, "--json") == 0
    assert len(json.loads(capsys.readouterr().out)) == 1
    assert call(monkeypatch, "segment", file, *options, "--json") == 0
    assert json.loads(capsys.readouterr().out) == []


# --- Ray


@pytest.mark.slow
def test_ray_gives_the_same_rows(
    weights: Path, scans: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ray.data")
    arguments = ("classify", scans, "--recursive", "--model", weights, "--json")
    assert call(monkeypatch, *arguments) == 1
    expected = json.loads(capsys.readouterr().out)
    # Ray leaves sockets open and calls what numpy and pandas have deprecated.
    command = [sys.executable, "-m", "ea_pointcloud", *map(str, arguments), "--engine", "ray"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1, done.stderr
    found = json.loads(done.stdout)
    assert [row["file"] for row in found] == [row["file"] for row in expected]
    for row, other in zip(found, expected, strict=True):
        assert row.get("error") == other.get("error")
        assert row.get("label") == other.get("label")
        assert row.get("prob") == pytest.approx(other.get("prob"), abs=1e-5)
