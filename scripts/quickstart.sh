#!/usr/bin/env bash
# The whole pipeline on generated shapes: install, train, evaluate, classify files, draw them.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/_setup.sh

out=quickstart
rm -rf "$out"
mkdir "$out"
run() {
    echo
    echo "\$ ea-pointcloud $*"
    "$python" -m ea_pointcloud "$@"
}

run train procedural --run "$out/run"
run evaluate "$out/run" --split test
"$python" scripts/write_samples.py "$out"
run classify "$out/airplane.ply" "$out/chair.off" "$out/mug.npy" --model "$out/run" \
    --render "$out/predictions.png"
echo
echo "Done. The picture is $out/predictions.png; try a file of your own:"
echo "    ${python#"$PWD/"} -m ea_pointcloud classify FILE --model $out/run"
