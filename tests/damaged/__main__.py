"""Damages what may come from elsewhere, reads it, and prints what became of it as JSON.

    python -m tests.damaged CASES [SEED] [KIND ...]

Kinds are clouds, weights, runs, archives, recipes and descriptions, all if omitted. Each case ends
in a result, or in a ValueError or OSError that names the file; anything else is a fault, as is what
is written outside of the case's folder, what takes over 5 s, and a program that is started. It is a
process of its own, so that a crash is a result and the peak of memory is that of reading.
"""

import base64
import json
import os
import random
import re
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

from ea_pointcloud.io import guard
from tests.damaged.clouds import Clouds
from tests.damaged.folders import Archives, Descriptions, Recipes, Runs, Weights

KINDS = {
    "clouds": Clouds,
    "weights": Weights,
    "runs": Runs,
    "archives": Archives,
    "recipes": Recipes,
    "descriptions": Descriptions,
}
LONGEST = 5.0  # seconds
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = {"os.remove": 1, "os.rename": 2, "os.rmdir": 1, "os.link": 2, "os.symlink": 1,
            "os.mkdir": 1, "os.truncate": 1, "shutil.rmtree": 1}  # of paths  # fmt: skip
_RUNS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "pickle.find_class")


class Watch:
    """Notes what a case writes outside of its folder, and what it runs."""

    def __init__(self) -> None:
        self.folder: str | None = None
        self.found: list[str] = []
        sys.addaudithook(self._seen)

    def _seen(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.folder is None:
            return
        if event == "open":
            path, _, flags = arguments
            if isinstance(path, str | bytes | os.PathLike) and flags & _WRITES:
                self._check(event, path)
        elif event in _CHANGES:
            count = _CHANGES[event]
            for path, base in zip(arguments, arguments[-count:], strict=False):
                self._check(event, path, base)
        elif event in _RUNS and arguments[0] not in (sys.executable, None):
            self.found.append(f"{event} {arguments[:2]}")

    def _check(self, event: str, path: Any, base: Any = None) -> None:
        if isinstance(path, int):
            return
        above = f"/proc/self/fd/{base}" if isinstance(base, int) and base >= 0 else ""
        where = str(Path(above, os.fsdecode(path)).resolve())
        if not where.startswith(self.folder or "") and not where.startswith(("/dev/", "/proc/")):
            self.found.append(f"{event} {where}")


def outcome(call: Any, watch: Watch, folder: Path) -> str:
    """What a case came to: "read", the class of a clean error, or a fault."""
    watch.found, watch.folder = [], str(folder.resolve())
    try:
        call()
        result = "read"
    except (ValueError, OSError) as error:
        result = type(error).__name__
        text = str(error)
        if len(text) > 5_000:
            result = f"fault: a message of {len(text)} characters: {text[:200]}"
        elif not re.search("override|model.init", text) and not any(
            path.name in text for path in (folder, *folder.rglob("*"))
        ):
            result = f"fault: {error!r} names no file"
    except BaseException as error:  # a panic of native code is no Exception
        trace = traceback.extract_tb(error.__traceback__)
        places = " < ".join(f"{Path(each.filename).name}:{each.lineno}" for each in trace[:-5:-1])
        result = f"fault: {error!r:.500} at {places}"
    watch.folder = None
    if watch.found:
        result = f"fault: {watch.found[:5]}"
    return result


def peak() -> int:
    """Bytes that this process, or one of its children that has ended, held at most."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux, whose ru_maxrss begins with that of whoever started the process
        own = int(re.findall(r"VmHWM:\s+(\d+)", status.read_text())[0])
    else:
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return 1024 * max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)


def main(cases: int, seed: int, names: list[str]) -> None:
    """Run the cases, kind after kind."""
    # Beyond what is allowed, and early enough to leave the machine alone.
    resource.setrlimit(resource.RLIMIT_DATA, (3 * 10**9, resource.RLIM_INFINITY))
    draw, watch, start = random.Random(seed), Watch(), time.perf_counter()
    outcomes: dict[str, Counter[str]] = {}
    faults: list[dict[str, str]] = []
    slowest, largest = (0.0, ""), (0, "")
    with tempfile.TemporaryDirectory() as temporary:
        kinds = {}
        for name in names:
            (sound := Path(temporary) / name).mkdir()
            kinds[name] = KINDS[name](sound)
        folder = Path(temporary) / "case"
        for number in range(cases):
            name = names[number % len(names)]
            folder.mkdir()
            label, call = kinds[name].case(number // len(names), draw, folder)
            label = f"{name} {label}"
            content = {path.name: base64.b64encode(path.read_bytes()[:20_000]).decode()
                       for path in folder.iterdir() if path.is_file()}  # fmt: skip
            before, held = time.perf_counter(), peak()
            result = outcome(call, watch, folder)
            seconds = time.perf_counter() - before
            if seconds > LONGEST and "resumed" not in label:
                result = f"fault: {seconds:.1f} s, {result}"
            slowest = max(slowest, (seconds, f"{number} {label}: {result}"))
            if peak() > held:
                largest = (peak(), f"{number} {label}: {result}")
            counts = outcomes.setdefault(label, Counter())
            counts[result[:5] if result.startswith("fault") else result] += 1
            if result.startswith("fault"):
                faults.append({"case": f"{number} {label}", "fault": result, **content})
            shutil.rmtree(folder)
    guard.stop()
    report = {
        "cases": cases,
        "seconds": time.perf_counter() - start,
        "slowest": slowest,
        "peak_bytes": peak(),
        "largest": largest,
        "outcomes": outcomes,
        "faults": faults,
    }
    print(json.dumps(report))  # noqa: T201


if __name__ == "__main__":
    numbers = [int(each) for each in sys.argv[1:] if each.isdigit()]
    wanted = [each for each in sys.argv[1:] if not each.isdigit()]
    main(numbers[0], numbers[1] if len(numbers) > 1 else 0, wanted or list(KINDS))
