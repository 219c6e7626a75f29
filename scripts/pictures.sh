#!/usr/bin/env bash
# The pictures of the README: generated shapes, the quickstart's classifier, a segmenter of minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/quickstart.sh
source scripts/_setup.sh

in=quickstart
out=scripts/results/pictures
mkdir -p "$out"
run() {
    echo "\$ ea-pointcloud $*"
    "$python" -m ea_pointcloud "$@"
}
files=("$in/airplane.ply" "$in/chair.off" "$in/car.npy")

if [ ! -f "$in/parts/last/config.json" ]; then
    run train procedural task=segmentation model.size=grouped_tiny data.num_points=1024 \
        'data.shapes=[1120,140,140]' 'augment.scale=[0.8,1.25]' optim.iou_weight=1.0 \
        trainer.epochs=10 --run-dir "$in/parts"
fi
run classify "${files[@]}" --model "$in/run" --render "$out/classify.png" --force
run segment "${files[@]}" --model "$in/parts" --classifier "$in/run" \
    --render "$out/segment.png" --force
run view "$in/chair.off" --model "$in/run" --attention -1 --topk 4 --render "$out/attention.png" --force
run evaluate "$in/run" --split test --report "$in/report" --force

browser=$(command -v chromium || command -v chromium-browser || command -v google-chrome || true)
if [ -z "$browser" ]; then
    echo "note: no Chromium found, $out/report.png is left as it was" >&2
    exit
fi
"$browser" --headless --no-sandbox --disable-gpu --user-data-dir="$(mktemp -d)" --hide-scrollbars \
    --window-size=1200,1300 --screenshot="$out/report.png" "file://$PWD/$in/report/index.html" 2>/dev/null
"$python" - "$out" <<'END'
# Few colours: the pictures are kept with the source.
import sys
from pathlib import Path

from PIL import Image

for path in Path(sys.argv[1]).glob("*.png"):
    with Image.open(path) as picture:
        picture.convert("RGB").quantize(128).save(path, optimize=True)
END
ls -l "$out"
