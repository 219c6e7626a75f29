"""What the operators are meant to reach on an H100, and whether a report does.

``python -m ea_pointcloud.benchmark.goals FILE`` prints a line a goal; the exit status is 1 where
one is not met.
"""

import json
import sys
from pathlib import Path
from typing import Any

# Case -> the most milliseconds a call may take, everything on the host included.
MILLISECONDS = {
    "fps 32x1024->512": 0.20,
    "fps 1x100000->10000": 20.0,
    "knn 32x(512 of 1024) k=32": 0.10,
    "knn 32x(1024 of 512) k=3": 0.06,
    "ball 32x(512 of 1024) k=32 r=0.1": 0.06,
    "ball 32x(512 of 1024) k=32 r=0.2": 0.06,
}
# Case -> the least share of a plain copy's bandwidth.
BANDWIDTH = {
    "gather 32x(512 of 1024) k=32 C=64 float32": 0.8,
    "gather 32x(512 of 1024) k=32 C=64 bfloat16": 0.8,
}


def check_goals(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Hold a report of :func:`benchmark_ops` against the goals.

    Args:
        report: as returned, or read back from JSON.

    Returns:
        One entry a goal: ``case``, ``goal`` in words, ``value`` (None where the case did not run),
        ``graph_ms`` (the same call replayed, where it could be), ``met``.
    """
    ours = {
        case["name"]: case["contestants"][0]
        for case in report["cases"]
        if case["contestants"] and case["contestants"][0]["name"].startswith("ours")
    }
    goals = []
    for name, limit in MILLISECONDS.items():
        row = ours.get(name, {})
        value = row.get("median_ms")
        met = value is not None and value <= limit
        goals.append(_goal(name, f"<= {limit:g} ms", value, row, met=met))
    for name, limit in BANDWIDTH.items():
        row = ours.get(name, {})
        value = row["floor_ms"] / row["median_ms"] if row.get("floor_ms") else None
        met = value is not None and value >= limit
        goals.append(_goal(name, f">= {limit:.0%} of the copy bandwidth", value, row, met=met))
    return goals


def _goal(
    case: str, goal: str, value: float | None, row: dict[str, Any], *, met: bool
) -> dict[str, Any]:
    return {"case": case, "goal": goal, "value": value, "graph_ms": row.get("graph_ms"), "met": met}


def main(path: Path) -> None:
    """Print how the report in ``path`` stands to the goals."""
    if not path.is_file():
        sys.exit(f"error: {path}: no such report")
    goals = check_goals(json.loads(path.read_text()))
    for goal in goals:
        value = "did not run" if goal["value"] is None else f"{goal['value']:.3g}"
        replayed = "" if goal["graph_ms"] is None else f", replayed {goal['graph_ms']:.3g} ms"
        verdict = "met " if goal["met"] else "MISS"
        sys.stdout.write(f"{verdict}  {goal['case']} {goal['goal']}: {value}{replayed}\n")
    if not all(goal["met"] for goal in goals):
        sys.exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
