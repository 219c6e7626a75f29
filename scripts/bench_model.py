"""Time training and inference in depth, and draw how each kind of attention grows with the points.

    python scripts/bench_model.py FOLDER [--device cpu] [--only tiny] [--quick] [--force]

Writes FOLDER/train.json and FOLDER/infer.json, and FOLDER/growth.png of the latter's curves.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ea_pointcloud.benchmark.__main__ import main
from ea_pointcloud.viz.curves import Panel, draw_curves

SHOWN = ("external", "self", "offset")


def panels(report: dict) -> list[Panel]:
    """Time and memory of one cloud over its points."""
    drawn = []
    for title, key in (("time of one cloud, ms", "ms"), ("memory, MB", "peak_mb")):
        curves = {
            kind: [
                (row["num_points"], row[key])
                for row in report["growth"]
                if row["attention"] == kind and row[key]
            ]
            for kind in SHOWN
        }
        drawn.append(Panel(title, "points", curves))
    return drawn


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for what in ("train", "infer"):
        main([what, "--out", str(folder / f"{what}.json"), *sys.argv[2:]])
    found = json.loads((folder / "infer.json").read_text())
    if found["growth"]:
        draw_curves(panels(found), folder / "growth.png")
