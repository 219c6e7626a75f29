r"""Train recipes over several seeds, evaluate them by the protocol, and print one table.

    python -m scripts.research.reproduce procedural --seeds 2
    python -m scripts.research.reproduce modelnet10 modelnet10:model.overrides.attention=self \
        modelnet10:model.name=dgcnn data.root=DATA --output results
    python -m scripts.research.reproduce modelnet10 data.root=DATA --evaluate-only
    python -m scripts.research.reproduce \
        'modelnet10_robust:model.init=runs/modelnet10_eamlp-seed{seed}'

A row is a RECIPE or RECIPE:key=value:key=value; key=value alone is for all rows, and {seed} in a
value stands for the seed. What is there is not trained or measured again, so the same command goes
on where it was stopped.
"""

import argparse
import logging
import shlex
import sys
from pathlib import Path

from ea_pointcloud._device import resolve_device
from ea_pointcloud.training.fault_tolerance import TrainingTerminatedError
from ea_pointcloud.training.run_folder import versions
from scripts.benchmarks.report import describe_machine
from scripts.research.plan import parse_variants, plan
from scripts.research.table import RunFigures, measure, write_protocol


def say(line: str) -> None:
    """Write a line about the progress at once."""
    sys.stderr.write(f"{line}\n")


def reproduce(arguments: list[str] | None = None) -> None:
    """Train, measure, print; the table is written again after every run."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.research.reproduce",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "words", nargs="+", metavar="RECIPE[:key=value]", help="rows, and key=value"
    )
    parser.add_argument("--seeds", type=int, default=3, help="of each row: 0, 1, ... (3)")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="run folders (runs)")
    parser.add_argument("--output", type=Path, default=Path("runs/reproduce"),
                        help="table.json and table.md (runs/reproduce)")  # fmt: skip
    parser.add_argument("--device", default="auto", help="of the evaluation (auto)")
    parser.add_argument("--evaluate-only", action="store_true", help="train nothing")
    words = sys.argv[1:] if arguments is None else arguments
    options = parser.parse_args(words)
    for part in ("pytorch", "fabric"):
        logging.getLogger(f"lightning.{part}").setLevel(logging.WARNING)
    device = resolve_device(options.device)
    planned = plan(parse_variants(options.words), options.seeds, options.runs)
    machine = describe_machine(device)
    made_by = {
        "command": shlex.join(["python", "-m", "scripts.research.reproduce", *words]),
        "date": machine["date"],
        "machine": machine["device_name"],
        "versions": versions(),
    }
    rows: dict[str, list[RunFigures]] = {one.variant.name: [] for one in planned}
    text = ""
    for number, one in enumerate(planned):
        progress = f"{number + 1} of {len(planned)}, {one.run}"
        if options.evaluate_only and not one.is_complete:
            say(f"{progress}: not trained to its end, left out")
            continue
        if not one.is_complete:
            say(f"{progress}: training")
            one.complete()
        say(f"{progress}: evaluating")
        rows[one.variant.name].append(measure(one, options.output, device))
        text = write_protocol(
            options.output, [runs for runs in rows.values() if runs], options.seeds, made_by
        )
    if not text:
        raise FileNotFoundError(f"no complete run in {options.runs}; leave out --evaluate-only")
    sys.stdout.write(text)


def main(arguments: list[str] | None = None) -> int:
    """The exit status; what a user can get wrong, and a stop, end in one line."""
    try:
        reproduce(arguments)
    except KeyboardInterrupt:
        status = 130
    except TrainingTerminatedError as error:
        status = 128 + error.signum
    except (ValueError, OSError, ImportError, MemoryError, FloatingPointError) as error:
        say(f"error: {error}")
        return 1
    else:
        return 0
    say("stopped; the same command goes on from there")
    return status


if __name__ == "__main__":
    sys.exit(main())
