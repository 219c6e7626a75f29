#!/usr/bin/env bash
# Set up, then lint, type check and test. Further arguments go to pytest: scripts/test.sh -k knn
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/_setup.sh

"$python" -m ruff check .
"$python" -m ruff format --check .
"$python" -m pyright --pythonpath "$python"
"$python" -m pytest "$@"
