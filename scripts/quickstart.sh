#!/usr/bin/env bash
# The whole pipeline on generated shapes: install, train, evaluate, classify files, draw them.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/_setup.sh

out=quickstart
mkdir -p "$out"
run() {
    echo
    echo "\$ ea-pointcloud $*"
    "$python" -m ea_pointcloud "$@"
}

if [ -f "$out/run/recipe.yaml" ]; then # a run that is complete ends at once
    run train procedural --resume "$out/run"
else
    run train procedural --run-dir "$out/run"
fi
run evaluate "$out/run" --split test
"$python" scripts/write_samples.py "$out"
run classify "$out/airplane.ply" "$out/chair.off" "$out/car.npy" --model "$out/run" \
    --render "$out/predictions.png" --force
echo
echo "Done. The picture is $out/predictions.png; try a file of your own:"
echo "    ${python#"$PWD/"} -m ea_pointcloud classify FILE --model $out/run"
echo "Without --model, the weights that come with the package name it, trained on real shapes."
