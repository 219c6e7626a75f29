"""Time and peak memory of labelling every point of larger and larger clouds on the CPU.

    python scripts/bench_segment.py                    # 1e4, 1e5 and 1e6 points
    python scripts/bench_segment.py --points 10000 --threads 1

Takes untrained networks of the published dimensions that are not told the category, external
attention beside self-attention, each measurement in a process of its own. Self-attention compares
all points with each other: it is not started where these comparisons alone pass the limit.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

AFFINITIES = 3  # (N, N) float32 tables that live at once in self-attention


def measure(attention: str, points: int, threads: int) -> dict[str, float]:
    """Seconds on the clock and of CPU time, and peak GB of this process, for one cloud."""
    import torch

    from ea_pointcloud.models import create_model
    from ea_pointcloud.predictor import Predictor

    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = create_model("ea_segmenter_base", num_categories=0, attention=attention)
    predictor = Predictor(model, "cpu")
    surface = torch.nn.functional.normalize(torch.randn(points, 3, generator=generator), dim=-1)
    cloud = (surface * torch.tensor([1.0, 0.6, 0.3])).numpy()
    predictor.segment(cloud[:1000])  # pays for warming up
    started, worked = time.perf_counter(), time.process_time()
    result = predictor.segment(cloud)
    seconds, cpu = time.perf_counter() - started, time.process_time() - worked
    assert len(result.labels) == points
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB, on macOS bytes
    unit = 1 if sys.platform == "darwin" else 1024
    return {"seconds": seconds, "cpu": cpu, "peak_gb": peak * unit / 1e9}


def cell(attention: str, points: int, threads: int, limit: float) -> tuple[float | None, str]:
    """Seconds, and what the table says."""
    needed = AFFINITIES * points**2 * 4 / 1e9
    if attention == "self" and needed > limit:
        return None, f"not run: needs {needed:,.0f} GB"
    command = [sys.executable, __file__, "--one", attention, "--points", str(points)]
    command += ["--threads", str(threads)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        return None, f"failed: {lines[-1]}"
    found = json.loads(done.stdout)
    shown = "{seconds:.2f} s ({cpu:.2f} s CPU), {peak_gb:.2f} GB".format(**found)
    return found["seconds"], shown


def main() -> None:
    """Print the table, a row for each number of points."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--points", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limit-gb", type=float, default=6.0, help="for self-attention")
    parser.add_argument("--one", choices=("external", "self"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        measured = measure(options.one, options.points[0], options.threads)
        sys.stdout.write(json.dumps(measured))
        return
    sys.stdout.write(f"{'points':>9}  {'external attention':<36}{'growth':<8}self-attention\n")
    before = None
    for points in options.points:
        seconds, external = cell("external", points, options.threads, options.limit_gb)
        growth = f"x {seconds / before:.1f}" if seconds and before else ""
        _, other = cell("self", points, options.threads, options.limit_gb)
        sys.stdout.write(f"{points:>9,}  {external:<36}{growth:<8}{other}\n")
        sys.stdout.flush()
        before = seconds


if __name__ == "__main__":
    main()
