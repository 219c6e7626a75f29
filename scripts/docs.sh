#!/usr/bin/env bash
# Build the documentation into build/docs; a warning is an error. Further arguments go to Sphinx.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/_setup.sh

# Installed here and not by _setup.sh: nothing else needs it.
stamp=$("$python" -c 'import sys; print(sys.prefix)')/.ea-pointcloud-docs-installed
state=$(cat pyproject.toml scripts/constraints.txt | cksum)
if [ "$(cat "$stamp" 2>/dev/null)" != "$state" ]; then
    echo "installing what builds the documentation" >&2
    "$python" -m pip install -q -c scripts/constraints.txt -e '.[docs]' ||
        fail "installation failed; the lines above say why"
    echo "$state" >"$stamp"
fi

"$python" -m sphinx -W --keep-going -b html docs build/docs "$@"
echo "Done: build/docs/index.html"
