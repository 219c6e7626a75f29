"""A run between two runs: the weights of the first and of its fine-tuning, interpolated (WiSE-FT).

    python -m scripts.research.interpolate RUN FINE_TUNED --alpha 0.5 --output BETWEEN

Both weights of the new run folder, best and last, are ``(1 - alpha) * RUN + alpha * FINE_TUNED``,
batch statistics included, which is sound only where the second run started from the first. Choose
``alpha`` on val: ``ea-pointcloud evaluate BETWEEN --split val --corruptions all``.

Reference:
    Wortsman et al., Robust fine-tuning of zero-shot models, CVPR 2022.
"""

import argparse
import shutil
from pathlib import Path

import torch

from ea_pointcloud.models import load_model
from ea_pointcloud.models.pretrained import PretrainedModel


def interpolate(first: PretrainedModel, second: PretrainedModel, alpha: float) -> PretrainedModel:
    """Set the weights of ``second`` between those of both networks and return it."""
    if first.config != second.config or first.data_spec != second.data_spec:
        raise ValueError("the two runs have different networks or data; interpolate a fine-tuning")
    start = first.state_dict()
    second.load_state_dict(
        {
            name: torch.lerp(start[name], value, alpha) if value.is_floating_point() else value
            for name, value in second.state_dict().items()
        }
    )
    return second


def main(arguments: list[str] | None = None) -> None:
    """Write the run folder between two runs."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else "")
    parser.add_argument("run", type=Path, help="the run that the other started from")
    parser.add_argument("fine_tuned", type=Path, help="the run that went on from it")
    parser.add_argument("--alpha", type=float, required=True, help="0 is the first, 1 the second")
    parser.add_argument("--output", type=Path, required=True, help="new run folder")
    chosen = parser.parse_args(arguments)
    if chosen.output.exists():
        parser.error(f"{chosen.output} exists; choose another folder")
    start = load_model(chosen.run / "last")
    models = {
        which: interpolate(start, load_model(chosen.fine_tuned / which), chosen.alpha)
        for which in ("best", "last")
    }
    shutil.copytree(
        chosen.fine_tuned,
        chosen.output,
        ignore=shutil.ignore_patterns("best", "last", "checkpoints", ".lock"),
    )
    for which, model in models.items():
        model.save_pretrained(chosen.output / which)


if __name__ == "__main__":
    main()
