"""Measure operators, attention, networks or files on this machine, beside what else is installed.

    python -m scripts.benchmarks ops
    python -m scripts.benchmarks ops --quick --only knn --only "fps 32x1024"
    python -m scripts.benchmarks attention --only growth
    python -m scripts.benchmarks train --device cuda --output train.json
    python -m scripts.benchmarks infer --only ea_classifier_base --quick
    python -m scripts.benchmarks files
    python -m scripts.benchmarks segment

ops, attention, train and infer need no more than torch, numpy and safetensors.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from ea_pointcloud._device import resolve_device
from scripts.benchmarks.report import check_target, failures, not_measured, write_report

# What can be measured -> its module and function.
BENCHMARKS = {
    "ops": ("ops", "benchmark_ops"),
    "attention": ("attention", "benchmark_attention"),
    "train": ("networks", "benchmark_train"),
    "infer": ("networks", "benchmark_infer"),
    "files": ("files", "benchmark_files"),
    "segment": ("segment", "benchmark_segment"),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print tables; the exit status is 1 where ours failed or missed a goal."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", choices=tuple(BENCHMARKS))
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="NAME",
        help="part of the name of a case; of networks and files a model; repeatable",
    )
    parser.add_argument("--quick", action="store_true", help="small cases, few rounds: a look")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the JSON to a file")
    parser.add_argument("--force", action="store_true", help="let --output replace a file")
    options = parser.parse_args(arguments)
    module, name = BENCHMARKS[options.what]
    try:
        check_target(options.output, force=options.force)
        chosen = import_module(f"scripts.benchmarks.{module}")
        report = getattr(chosen, name)(
            resolve_device(options.device),
            only=options.only,
            quick=options.quick,
            progress=lambda line: _say(sys.stderr, line),
        )
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    if options.output is not None:
        write_report(report, options.output)
    texts = [*chosen.tables(report), *not_measured(report)]
    _say(sys.stdout, json.dumps(report, indent=2) if options.json else "\n\n".join(texts))
    if failures(report):
        sys.exit("error: " + "; ".join(failures(report)))


def _say(stream, line: str) -> None:
    stream.write(f"{line}\n")
    stream.flush()


if __name__ == "__main__":
    main()
