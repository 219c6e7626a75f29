#!/usr/bin/env bash
# Set up, then lint, type check and test. Further arguments go to pytest: scripts/test.sh -k knn
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/_setup.sh

"$python" -m ruff check .
"$python" -m ruff format --check .
"$python" -m pyright --pythonpath "$python"
# A worker takes up to 2 GB; threads of their own would only get into each other's way.
workers=$("$python" -c 'from ea_pointcloud.io.pool import usable_cores; print(min(8, usable_cores()))')
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
"$python" -m pytest -n "$workers" --dist worksteal "$@"
