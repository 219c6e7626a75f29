#!/usr/bin/env bash
# Everything that needs an NVIDIA GPU: the tests marked gpu; operators, attention and networks timed.
#
#   bash scripts/gpu_check.sh [FOLDER [STEP...]]
#
# FOLDER gets the logs, the reports as JSON and summary.txt; by default scripts/results/DEVICE.
# STEP is tests, ops, attention, train or infer; all without any. The exit status is 0 when
# every step passed and every goal was met, 1 when not, 2 without a GPU.
#
# Needs no installation and no network: python with torch, triton, numpy, h5py, torch-geometric,
# lightning, torchmetrics and safetensors, and this checkout.
#
#   PYTHON   the interpreter (python3)
#   LIMIT    seconds that a step may take (900)
set -uo pipefail
here=$(pwd)
cd "$(dirname "$0")/.." || exit 1
python=${PYTHON:-python3}
limit=${LIMIT:-900}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"

if ! "$python" -c 'import torch' 2>/dev/null; then
    echo "error: $python cannot import torch; name an interpreter that can in PYTHON" >&2
    exit 2
fi
if ! device=$("$python" -c '
import re, sys, torch
torch.cuda.is_available() or sys.exit(1)
print(re.sub("[^a-z0-9]+", "-", torch.cuda.get_device_name().lower()).strip("-"))' 2>/dev/null); then
    echo "error: no NVIDIA GPU that torch can use here; this check needs one" >&2
    echo "       without one, run: bash scripts/test.sh" >&2
    exit 2
fi

folder=${1:-scripts/results/$device}
[[ $# -eq 0 || $folder = /* ]] || folder=$here/$folder
steps=("${@:2}")
[ ${#steps[@]} -gt 0 ] || steps=(tests ops attention train infer)
for step in "${steps[@]}"; do
    if [[ ! $step =~ ^(tests|ops|attention|train|infer)$ ]]; then
        echo "error: STEP must be tests, ops, attention, train or infer, got '$step'" >&2
        exit 1
    fi
done
mkdir -p "$folder" || exit 1
summary=$folder/summary.txt
failed=0
{
    echo "$device, $(date -u +%Y-%m-%dT%H:%MZ)"
    nvidia-smi --query-gpu=name,driver_version,clocks.max.sm,power.limit --format=csv 2>&1
} >"$summary"

# Runs one step under the time limit; its output goes to the terminal and to FOLDER/NAME.log.
run() {
    local name=$1 started=$SECONDS status
    shift
    echo "== $name: $*"
    timeout --kill-after=30 "$limit" "$@" 2>&1 | tee "$folder/$name.log"
    status=${PIPESTATUS[0]}
    case $status in
        0) echo "pass  $name, $((SECONDS - started)) s" >>"$summary" ;;
        124 | 137) echo "FAIL  $name: stopped after $limit s (LIMIT)" >>"$summary" ;;
        *) echo "FAIL  $name: exit status $status, see $name.log" >>"$summary" ;;
    esac
    [ "$status" -eq 0 ] || failed=1
}

run_tests() {
    if ! "$python" -c 'import pytest' 2>/dev/null; then
        echo "FAIL  tests: pytest is not installed; bring the wheels of pytest, pluggy, iniconfig," \
            "packaging and pygments" | tee -a "$summary"
        failed=1
        return
    fi
    # Other files may need libraries that are not here, and hold nothing for a GPU.
    local files
    mapfile -t files < <(grep -lE 'mark\.gpu|\bRUNS\b' tests/test_*.py)
    run tests "$python" -m pytest -m gpu -q -rs "${files[@]}"
}

for step in "${steps[@]}"; do
    case $step in
        tests) run_tests ;;
        *)
            rm -f "$folder/$step.json" # of an earlier check, which must not pass for this one's
            run "$step" "$python" -m scripts.benchmarks "$step" --device cuda \
                --output "$folder/$step.json"
            ;;
    esac
done

echo
cat "$summary"
echo "everything is in $folder"
exit $failed
