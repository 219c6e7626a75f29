"""Time the operators: ``ea-pointcloud benchmark ops`` where only torch and numpy are installed.

Takes the command's options; see ``python scripts/bench_ops.py --help``.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ea_pointcloud.benchmark.__main__ import main

if __name__ == "__main__":
    main(["ops", *sys.argv[1:]])
