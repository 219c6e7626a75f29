"""The benchmark of attention, and the growth of a block in chunks."""

import json
from pathlib import Path

import pytest
import torch

from ea_pointcloud.nn import ExternalAttention
from ea_pointcloud.ops import external_attention
from scripts.benchmarks import attention, growth, timing
from scripts.benchmarks.attention import (
    AttentionCase,
    attention_cases,
    benchmark_attention,
    tables,
)
from scripts.benchmarks.report import failures, not_measured, write_report
from tests.oracles import seeded

CPU = torch.device("cpu")
TINY = [AttentionCase(2, 50, 8), AttentionCase(1, 60, 8, backward=True)]


def test_every_case_times_ours_and_others(tmp_path: Path) -> None:
    lines: list[str] = []
    report = benchmark_attention(CPU, quick=True, cases=TINY, sizes=[1_000], progress=lines.append)
    assert [line.partition(": ")[0] for line in lines] == [
        f"[{number}/2] {case.name}" for number, case in enumerate(TINY, 1)
    ]
    for case, entry in zip(TINY, report["cases"], strict=True):
        assert entry["name"] == case.name
        names = [each["name"] for each in entry["contestants"]]
        assert names == ["ours", "published two steps", "self-attention"]
        assert entry["contestants"][0]["ratio"] == 1.0
    rows = report["growth"]["rows"]
    assert [row["attention"] for row in rows] == ["external", "dynamic_external"]
    for row in rows:
        assert row["num_points"] == 1_000
        assert row["ms"] > 0
        assert row["met"]
    assert failures(report) == []
    write_report(report, tmp_path / "attention.json")
    assert json.loads((tmp_path / "attention.json").read_text()) == json.loads(json.dumps(report))
    printed = "\n\n".join([*tables(report), *not_measured(report)])
    assert "2x50 C=8 float32 forward" in printed
    assert "dynamic_external   1,000  " in printed
    assert "skipped: not with --quick" in printed


def test_cases_have_names_of_their_own_and_fit() -> None:
    for device in (CPU, torch.device("cuda")):
        cases = attention_cases(device)
        names = [case.name for case in cases]
        assert len(set(names)) == len(names)
        assert {case.channels for case in cases} == {64, 128, 256, 512}
        assert {case.num_points for case in cases} == {1_000, 10_000, 100_000, 1_000_000}
    with pytest.raises(ValueError, match="no case is named like '7x7'; there are 'growth', '4x1"):
        benchmark_attention(CPU, only=["7x7"])


def test_traffic_by_hand() -> None:
    # 2 * 50 * 8 values of 4 bytes, read twice and written once; backward five times more.
    assert TINY[0].traffic() == 3 * 3200
    assert AttentionCase(2, 50, 8, backward=True).traffic() == 8 * 3200


def test_published_form_computes_the_same() -> None:
    features, key, value = (
        torch.randn(shape, generator=seeded(), dtype=torch.float64)
        for shape in ((2, 30, 8), (64, 8), (64, 8))
    )
    out = attention.published(features, key, value)
    torch.testing.assert_close(out, external_attention(features, key, value), atol=1e-6, rtol=0)


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_block_in_chunks_is_the_whole_block(dynamic: bool) -> None:
    torch.manual_seed(0)
    block = ExternalAttention(8, memory_size=4, dynamic=dynamic).eval()
    features = torch.randn(1, 50, 8, generator=seeded())
    with torch.no_grad():
        whole = block(features)
        growth.chunked_block(block, features, 16)
    torch.testing.assert_close(features, whole)


def test_a_size_that_fails_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interpreter = tmp_path / "python"  # fails at a million points, as for want of memory
    interpreter.write_text("""#!/bin/sh
case "$*" in
    *1000000*) echo "Traceback" >&2; echo "RuntimeError: not enough memory" >&2; exit 1 ;;
    *) echo '{"num_points": 10000, "ms": 2.0, "peak_mb": 3.0}' ;;
esac
""")
    interpreter.chmod(0o755)
    monkeypatch.setattr(timing.sys, "executable", str(interpreter))
    (row,), failed = growth.measure_growth(CPU, [10_000, 1_000_000])
    assert row["met"]
    assert row["time_ratio"] is None
    assert failed == {"growth, 1000000 points": "RuntimeError: not enough memory"}


def test_growth_beyond_the_goal_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interpreter = tmp_path / "python"  # ten times the points take eleven times the memory
    interpreter.write_text("""#!/bin/sh
case "$*" in
    *100000*) echo '{"num_points": 100000, "ms": 20.0, "peak_mb": 33.0}' ;;
    *) echo '{"num_points": 10000, "ms": 2.0, "peak_mb": 3.0}' ;;
esac
""")
    interpreter.chmod(0o755)
    monkeypatch.setattr(timing.sys, "executable", str(interpreter))
    (first, second), _ = growth.measure_growth(CPU, [10_000, 100_000])
    assert first["met"]
    assert (second["time_ratio"], second["memory_ratio"]) == (10.0, 11.0)
    assert not second["met"]
