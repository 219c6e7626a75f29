"""The benchmarks of operators and files, their reports, and the check for GPU machines."""

import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ea_pointcloud.ops import _reference
from scripts.benchmarks import __main__ as door
from scripts.benchmarks import ops, peers
from scripts.benchmarks.cases import Case, make_inputs, operator_cases, select
from scripts.benchmarks.files import benchmark_files
from scripts.benchmarks.files import tables as file_tables
from scripts.benchmarks.ops import BANDWIDTH, MILLISECONDS, benchmark_ops, check_goals, tables
from scripts.benchmarks.report import (
    disturbance,
    failures,
    milliseconds,
    not_measured,
    text_table,
    write_report,
)
from scripts.benchmarks.timing import Contestant, in_own_process, race

CPU = torch.device("cpu")
ROOT = Path(__file__).parent.parent
TINY = [
    Case("fps", 2, 64, 16),
    Case("knn", 2, 64, 32, 4),
    Case("ball", 2, 64, 32, 4, radius=0.4),
    Case("gather", 2, 64, 32, 4, channels=3),
    Case("gather", 2, 64, 32, 4, channels=3, backward=True),
    Case("interpolate", 2, 32, 64, 3, channels=5),
]


@pytest.fixture(scope="module")
def report() -> dict:
    lines: list[str] = []
    report = benchmark_ops(CPU, cases=TINY, quick=True, progress=lines.append)
    assert [line.partition(": ")[0] for line in lines] == [
        f"[{number}/{len(TINY)}] {case.name}" for number, case in enumerate(TINY, 1)
    ]
    return report


def row(report: dict, case: Case, name: str) -> dict:
    (found,) = [each for each in report["cases"] if each["name"] == case.name]
    (found,) = [each for each in found["contestants"] if each["name"] == name]
    return found


# --- the operators


def test_every_case_times_ours_and_plain_torch(report: dict) -> None:
    for case, entry in zip(TINY, report["cases"], strict=True):
        assert entry["name"] == case.name
        names = [each["name"] for each in entry["contestants"]]
        assert "ours reference" in names
        assert any(name.startswith("torch ") for name in names)
        assert entry["contestants"][0]["ratio"] == 1.0
        for each in entry["contestants"]:
            assert 0 < each["min_ms"] <= each["median_ms"] <= each["max_ms"]
            assert each["rounds"] >= 1
    assert failures(report) == []


def test_exact_peers_and_ours_agree(report: dict) -> None:
    assert row(report, TINY[0], "torch loop")["same"] == 1.0
    assert row(report, TINY[1], "torch cdist+topk")["same"] == 1.0
    assert row(report, TINY[2], "torch where+topk")["same"] == 1.0
    assert row(report, TINY[3], "torch indexing")["same"] == 1.0
    assert row(report, TINY[4], "torch indexing")["same"] == 1.0
    for case in TINY:
        assert row(report, case, "ours reference")["same"] == 1.0


def test_report_is_json_that_names_machine_and_settings(report: dict, tmp_path: Path) -> None:
    write_report(report, tmp_path / "ops.json")
    read = json.loads((tmp_path / "ops.json").read_text())
    assert read == json.loads(json.dumps(report))
    assert read["kind"] == "ops"
    machine = read["machine"]
    assert machine["versions"]["torch"] == torch.__version__
    assert machine["threads"] == torch.get_num_threads()
    assert machine["device"] == "cpu"
    assert machine["cores"] == os.cpu_count()
    assert read["settings"] == {"only": [], "quick": True, "seed": 0, "rounds": 3}
    assert read["cases"][1]["num_points"] == 64
    assert read["cases"][1]["dtype"] == "float32"
    assert "goals" not in read  # they are for a GPU


def test_the_table_shows_every_contestant_once(report: dict) -> None:
    (text,) = tables(report)
    _, _, *lines = text.splitlines()
    assert len(lines) == sum(len(case["contestants"]) for case in report["cases"])
    first = [line for line in lines if not line.startswith(" ")]
    assert all(line.startswith(case.name) for line, case in zip(first, TINY, strict=True))
    assert "ours reference" in text


@pytest.mark.parametrize(("load", "words"), [(0.9, ""), (5.2, "load 5.2 on 2 cores"), (None, "")])
def test_figures_of_a_busy_machine_say_so(report: dict, load: float | None, words: str) -> None:
    machine = {**report["machine"], "load_average": load, "cores": 2}
    assert disturbance(machine).startswith(words)
    (text,) = tables({**report, "machine": machine})
    assert ("not for the record" in text) == bool(words)


def test_a_missing_peer_is_named_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.spatial", None)
    case = TINY[1]
    contestants, skipped = peers.peer_contestants(case, make_inputs(case, CPU), CPU)
    assert skipped["scipy cKDTree"] == "scipy.spatial is not installed"
    assert "scipy cKDTree" not in [contestant.name for contestant, _ in contestants]


def test_a_peer_that_breaks_on_import_or_in_use_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> dict:
        raise OSError("libGL.so.1: cannot open shared object file\nsecond line")

    def breaks_later(*arguments: object) -> dict:
        return {"": lambda: 1 / 0}

    added = (
        peers.Peer("broken", "fps", broken, peers.PEERS[0].read),
        peers.Peer("breaks later", "fps", breaks_later, peers.PEERS[0].read),
    )
    monkeypatch.setattr(peers, "PEERS", (*peers.PEERS, *added))
    report = benchmark_ops(CPU, cases=TINY[:1], quick=True)
    name = TINY[0].name
    why = "OSError: libGL.so.1: cannot open shared object file"
    assert report["skipped"][f"{name}, broken"] == why
    assert report["skipped"][f"{name}, breaks later"] == "ZeroDivisionError: division by zero"
    assert failures(report) == []  # a peer's failure is the peer's
    (text,) = not_measured(report)
    assert f"skipped: {why}" in text


def test_a_failure_of_ours_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def raises(*arguments: object) -> None:
        raise RuntimeError("no kernel")

    monkeypatch.setattr(_reference, "farthest_point_sample", raises)
    report = benchmark_ops(CPU, cases=TINY[:1], quick=True)
    (line,) = [line for line in failures(report) if "ours reference" in line]
    assert line == f"{TINY[0].name}, ours reference: RuntimeError: no kernel"


def test_jobs_that_would_take_hours_are_left_out() -> None:
    case = Case("fps", 1, 1_000_000, 100_000)
    inputs = make_inputs(case, CPU)
    _, skipped = ops.our_contestants(case, inputs, CPU)
    assert skipped["ours reference"] == "1e+11 distances, more than 5e+08"
    _, skipped = peers.peer_contestants(case, inputs, CPU)
    assert skipped["torch loop"] == "1e+11 distances, more than 5e+08"


def test_ball_rows_of_edges_read_like_ours() -> None:
    case = Case("ball", 2, 3, 2, 2, radius=1.0)
    # Query 0 of cloud 0 hits points 2 and 0, query 1 only point 1; cloud 1: 2, then 0 and 1.
    edges = torch.tensor([[0, 0, 1, 2, 3, 3], [2, 0, 1, 5, 3, 4]])
    idx = peers._read_cluster_radius(edges, case)
    assert idx.tolist() == [[[0, 2], [1, 1]], [[2, 2], [0, 1]]]


def test_cases_have_names_of_their_own_and_are_selected_by_part() -> None:
    for device in (CPU, torch.device("cuda")):
        names = [case.name for case in operator_cases(device)]
        assert len(set(names)) == len(names)
    assert {*MILLISECONDS, *BANDWIDTH} <= set(names)  # the goals' cases exist
    cases = operator_cases(CPU)
    assert [case.op for case in select(cases, ["1000000->"])] == ["fps"]
    assert {case.op for case in select(cases, ["knn", "ball"])} == {"knn", "ball"}
    with pytest.raises(ValueError, match="no case is named like 'sort'; there are 'fps 32x1024"):
        select(cases, ["fps", "sort"])


def test_traffic_by_hand() -> None:
    # Features 2*64*3*4, indices 2*32*4*8, result 2*32*4*3*4 bytes.
    assert TINY[3].traffic() == 1536 + 2048 + 3072
    # Points 2*64*12, indices 2*16*8.
    assert TINY[0].traffic() == 1536 + 256


# --- timing


def test_contestants_take_turns() -> None:
    order: list[str] = []

    def slow(name: str) -> None:
        order.append(name)
        time.sleep(0.06)

    contestants = [Contestant(name, {"": lambda name=name: slow(name)}) for name in "ab"]
    timings, failed = race(contestants, CPU, rounds=3, seconds=9.0)
    assert failed == {}
    assert order == [*"aabb", *"ab" * 3]  # warm-up and estimate, then rounds
    for timing in timings.values():
        assert (timing.rounds, timing.calls) == (3, 1)
        assert 60 <= timing.median_ms < 600


def test_slow_contestants_get_fewer_rounds_and_fast_ones_more_calls() -> None:
    contestants = [
        Contestant("slow", {"": lambda: time.sleep(0.11)}),
        Contestant("fast", {"": lambda: time.sleep(0.001)}),
    ]
    timings, _ = race(contestants, CPU, rounds=5, seconds=0.2)
    assert timings["slow"].rounds == 2
    assert timings["fast"].rounds >= 2
    assert timings["fast"].calls > 1


def test_the_fastest_variant_competes_inside_its_context() -> None:
    entered = []

    @contextmanager
    def inside():
        entered.append(True)
        yield
        entered.pop()

    def call_for(seconds: float):
        def called() -> float:
            assert entered
            time.sleep(seconds)
            return seconds

        return called

    variants = {"slow": call_for(0.1), "fast": call_for(0.01)}
    timings, failed = race([Contestant("a", variants, inside)], CPU, rounds=1, seconds=1.0)
    assert failed == {}
    assert timings["a"].variant == "fast"
    assert timings["a"].result == 0.01


# --- goals


def test_goals_need_a_value_that_is_good_enough() -> None:
    fps, gather = next(iter(MILLISECONDS)), next(iter(BANDWIDTH))

    def entry(name: str, **figures: float) -> dict:
        return {"name": name, "contestants": [{"name": "ours triton", **figures}]}

    cases = [entry(fps, median_ms=0.2), entry(gather, median_ms=1.0, floor_ms=0.79)]
    cases.append({"name": list(MILLISECONDS)[1], "contestants": []})  # did not run
    goals = {goal["case"]: goal for goal in check_goals({"cases": cases})}
    assert set(goals) == {fps, gather}
    assert goals[fps]["met"]
    assert not goals[gather]["met"]
    assert goals[gather]["value"] == pytest.approx(0.79)
    report = {"failed": {}, "goals": list(goals.values())}
    assert failures(report) == [f"{gather}: 0.79 misses >= 80% of the bandwidth"]


# --- files


def test_files_are_counted() -> None:
    lines: list[str] = []
    report = benchmark_files(CPU, quick=True, files=40, progress=lines.append)
    (row,) = report["rows"]
    assert row["model"] == "ea_classifier_tiny"
    assert row["ratio"] == pytest.approx(row["whole_per_second"] / row["alone_per_second"])
    assert row["met"] == (row["ratio"] >= 0.7)
    assert report["failed"] == {}
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert lines[0] == "writing 40 files of 1024 points"
    assert "40 files of 1024 points" in file_tables(report)[0]
    with pytest.raises(ValueError, match="--only must be one of 'ea_classifier"):
        benchmark_files(CPU, only=["nonsense"])


# --- the command


def test_text_is_aligned() -> None:
    rows = [{"case": "a", "who": "longer", "ms": 1.0, "met": True}, {"case": "a", "who": "b"}]
    columns = {"case": ("case", ""), "who": (lambda row: row["who"], ""),
               "ms": ("ms", milliseconds), "met": ("met", "")}  # fmt: skip
    assert text_table("title", rows, columns).splitlines() == [
        "title",
        "case  who       ms  met",
        "a     longer  1.00  yes",
        "      b          -    -",
    ]


@pytest.mark.parametrize(
    ("value", "text"), [(0.0123, "0.0123"), (0.5, "0.500"), (9.876, "9.88"), (1234.5, "1234")]
)
def test_milliseconds_have_three_figures(value: float, text: str) -> None:
    assert milliseconds(value) == text


def test_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ops, "operator_cases", lambda device: TINY)

    def run(*arguments: object) -> int:
        try:
            door.main([str(argument) for argument in arguments])
        except SystemExit as stop:
            sys.stderr.write(str(stop.code))  # as the interpreter does
            return 1
        return 0

    out = tmp_path / "ops.json"
    common = ("ops", "--device", "cpu", "--quick", "--only", "fps", "--output", out)
    assert run(*common) == 0
    assert "ours reference" in capsys.readouterr().out
    (case,) = json.loads(out.read_text())["cases"]
    assert case["name"] == TINY[0].name
    assert run(*common) == 1
    assert "exists; choose another name or add --force" in capsys.readouterr().err
    assert run(*common, "--force", "--json") == 0
    assert json.loads(capsys.readouterr().out) == json.loads(out.read_text())
    assert run("ops", "--only", "sort") == 1
    assert "no case is named like 'sort'" in capsys.readouterr().err
    assert run("ops", "--output", tmp_path) == 1
    assert "no such folder, or a folder itself" in capsys.readouterr().err


def test_most_benchmarks_need_torch_and_numpy_only() -> None:
    code = """
import sys
from scripts.benchmarks import __main__, attention, networks, ops
heavy = {"typer", "rich", "open3d", "lightning", "torch_geometric", "h5py", "omegaconf", "scipy"}
print(sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout.strip() == "[]"


def test_a_call_in_a_process_of_its_own_returns_or_says_why() -> None:
    load = {"load_average": 0, "cores": 1}
    assert in_own_process(disturbance, load) == ("", "")
    assert in_own_process(disturbance, {}) == (None, "KeyError: 'load_average'")


def gpu_check(environment: dict[str, str], *arguments: object) -> SimpleNamespace:
    script = [shutil.which("bash") or "bash", str(ROOT / "scripts" / "gpu_check.sh")]
    return subprocess.run(  # pyright: ignore[reportReturnType]
        [*script, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHON": sys.executable, **environment},
        check=False,
        timeout=300,
    )


def test_gpu_check_without_a_gpu(tmp_path: Path) -> None:
    done = gpu_check({"CUDA_VISIBLE_DEVICES": ""}, tmp_path / "results")
    assert done.returncode == 2
    assert "no NVIDIA GPU that torch can use here" in done.stderr
    assert not (tmp_path / "results").exists()


def test_gpu_check_without_torch(tmp_path: Path) -> None:
    (tmp_path / "python").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "python").chmod(0o755)
    done = gpu_check({"PYTHON": str(tmp_path / "python")})
    assert done.returncode == 2
    assert "cannot import torch; name an interpreter that can in PYTHON" in done.stderr


def test_gpu_check_goes_on_past_a_failure_and_sums_up(tmp_path: Path) -> None:
    interpreter = tmp_path / "python"  # plays a machine with a GPU, a failing test, a hanging step
    interpreter.write_text("""#!/bin/sh
case "$*" in
    *is_available*) echo some-gpu ;;
    -c*) ;;
    *"-m pytest"*) echo "1 failed"; exit 1 ;;
    *"benchmarks ops"*) echo "figures of the operators" ;;
    *"benchmarks attention"*) exec sleep 60 ;;
esac
""")
    interpreter.chmod(0o755)
    folder = tmp_path / "results"
    done = gpu_check({"PYTHON": str(interpreter), "LIMIT": "1"}, folder)
    assert done.returncode == 1
    lines = (folder / "summary.txt").read_text().splitlines()
    assert lines[0].startswith("some-gpu, 20")
    results = [line for line in lines if line.startswith(("pass", "FAIL"))]
    assert results[0] == "FAIL  tests: exit status 1, see tests.log"
    assert results[1].startswith("pass  ops, ")
    assert results[2] == "FAIL  attention: stopped after 1 s (LIMIT)"
    assert [line.split(",")[0] for line in results[3:]] == ["pass  train", "pass  infer"]
    assert (folder / "tests.log").read_text() == "1 failed\n"
    assert (folder / "ops.log").read_text() == "figures of the operators\n"

    done = gpu_check({"PYTHON": str(interpreter)}, folder, "ops")
    assert done.returncode == 0
    assert "attention" not in (folder / "summary.txt").read_text()
    done = gpu_check({"PYTHON": str(interpreter)}, folder, "everything")
    assert done.returncode == 1
    assert "STEP must be tests, ops, attention, train or infer, got 'every" in done.stderr
