"""Publish the weights of a finished run: half precision, checked, with figures and a model card.

    python -m scripts.publish runs/modelnet10_eamlp-seed0 eamlp-small-modelnet10
    python -m scripts.publish runs/a ea-base-modelnet40 --output hub --limit-mb 50

The name is NETWORK-SIZE-DATA. The weights are those that were selected on val, or the last of a run
that was trained on val too. `models/pretrained.py` names the default ones. What few-shot
classifiers need is added by `python -m scripts.publish.embedding`.
"""

import argparse
import sys
from pathlib import Path

from ea_pointcloud._device import resolve_device
from ea_pointcloud.models.pretrained import SHIPPED_FOLDER
from scripts.publish.weights import LIMIT, publish_weights


def main() -> None:
    """Write the folder and say what half precision changed."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.publish",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, help="run folder that is complete")
    parser.add_argument("name", help="what the weights will be called")
    parser.add_argument(
        "--figures",
        type=Path,
        help="what 'ea-pointcloud evaluate RUN ... --json' printed; by default measured now",
    )
    parser.add_argument("--output", type=Path, default=SHIPPED_FOLDER, help="folder to put them in")
    parser.add_argument("--data-root", help="folder of data sets, if it is no longer the run's")
    parser.add_argument("--note", default="", help="a sentence on the data for the card")
    parser.add_argument("--limit-mb", type=float, default=LIMIT / 1e6, help="largest size allowed")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--force", action="store_true", help="replace weights of that name")
    arguments = parser.parse_args()
    folder = arguments.output / arguments.name
    try:
        found = publish_weights(
            arguments.run,
            folder,
            resolve_device(arguments.device),
            figures=arguments.figures,
            data_root=arguments.data_root,
            note=arguments.note,
            limit=round(arguments.limit_mb * 1e6),
            force=arguments.force,
        )
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    size = sum(path.stat().st_size for path in folder.iterdir())
    sys.stdout.write(
        f"wrote {folder}, {size / 1e6:.2f} MB; half precision: {found.agreement:.3%} of "
        f"{found.labels:,} labels on val are the same, {found.as_trained:.4f} -> "
        f"{found.as_stored:.4f}\n"
    )


if __name__ == "__main__":
    main()
