"""``python -m ea_pointcloud.benchmark``: the benchmark where only torch and numpy are installed.

``ea-pointcloud benchmark`` does the same with the command line's libraries.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from ea_pointcloud._device import resolve_device
from ea_pointcloud.benchmark import BENCHMARKS
from ea_pointcloud.benchmark.report import check_target, failures, tables, write_report


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print tables as plain text; the exit status is 1 where one of ours failed."""
    parser = argparse.ArgumentParser(prog="python -m ea_pointcloud.benchmark", description=__doc__)
    parser.add_argument("what", choices=tuple(BENCHMARKS))
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="repeatable")
    parser.add_argument("--quick", action="store_true", help="small jobs, few rounds")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the JSON to a file")
    parser.add_argument("--force", action="store_true", help="let --out replace a file")
    chosen = parser.parse_args(arguments)
    try:
        check_target(chosen.out, force=chosen.force)
        report = BENCHMARKS[chosen.what](
            resolve_device(chosen.device),
            only=chosen.only,
            quick=chosen.quick,
            progress=lambda line: _say(sys.stderr, line),
        )
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    if chosen.out is not None:
        write_report(report, chosen.out)
    text = json.dumps(report, indent=2) if chosen.json else "\n\n".join(map(str, tables(report)))
    _say(sys.stdout, text)
    if failures(report):
        sys.exit("error: " + "; ".join(failures(report)))


def _say(stream, line: str) -> None:
    stream.write(f"{line}\n")
    stream.flush()


if __name__ == "__main__":
    main()
