"""Which score of a classifier tells objects of unknown kinds from those of the classes it learned.

    python -m scripts.research.unknown_objects RUN --unknown psb_part --without Chair Table
    python -m scripts.research.unknown_objects RUN  # of a run with data.classes: the other classes

Known are the clouds of the run's test split. The scores are fitted on clouds of its training split;
nothing is chosen here. AUROC is the chance that an unknown cloud scores higher than a known one,
FPR95 the fraction of unknown clouds that pass where 95 % of the known ones do.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import torch

from ea_pointcloud._device import resolve_device
from ea_pointcloud.datasets import PartFolderDataset, ShapeNetPart, open_dataset
from ea_pointcloud.inference.calibration import ClassifierOutput, extract_features
from ea_pointcloud.inference.ood import compare_scores
from ea_pointcloud.models import Classifier, load_model
from ea_pointcloud.training.calibrate import TRAIN_CLOUDS
from ea_pointcloud.training.data import Shapes, open_split
from ea_pointcloud.training.labels import match_labels
from ea_pointcloud.training.recipe_data import DataRecipe
from ea_pointcloud.training.run_folder import load_run_recipe


def main() -> None:
    """Print a row a score."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", help="run folder of a classifier")
    parser.add_argument("--unknown", help="data set of unknown objects, by name or folder")
    parser.add_argument("--without", nargs="*", default=[], help="classes of it that are known")
    parser.add_argument("--data-root", help="folder of data sets, if it is no longer the run's")
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()

    recipe = load_run_recipe(arguments.run)
    data = replace(recipe.data, root=arguments.data_root or recipe.data.root)
    folder = "last" if data.train_split == "trainval" else "best"
    model = load_model(str(Path(arguments.run) / folder)).to(resolve_device(arguments.device))
    if not isinstance(model, Classifier):
        parser.error(f"{arguments.run} is no classifier")
    model.eval()
    train = match_labels(open_split(data, "train", all_points=True), model.data_spec)
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
    samples = [train[place] for place in order[:TRAIN_CLOUDS].tolist()]
    label = torch.stack([sample["label"] for sample in samples])
    known = every(model, open_split(data, "test", all_points=True))
    if arguments.unknown:
        unknown = others(model, arguments.unknown, arguments.without, data.root)
    elif data.classes:
        unknown = every(model, held_out(data))
    else:
        parser.error("name a data set by --unknown, or take a run that was given data.classes")
    sys.stdout.write(
        f"{len(known.logits)} known clouds of {', '.join(model.data_spec.class_names)}; "
        f"{len(unknown.logits)} unknown ones\n{'score':26}{'AUROC':>8}{'FPR95':>8}\n"
    )
    for name, found in compare_scores(
        extract_features(model, samples), label, known, unknown
    ).items():
        sys.stdout.write(f"{name:26}{found.auroc:8.3f}{found.fpr95:8.3f}\n")


def every(model: Classifier, dataset: Shapes) -> ClassifierOutput:
    """The answers on all clouds of a set."""
    return extract_features(model, (dataset[place] for place in range(len(dataset))))


def held_out(data: DataRecipe) -> Shapes:
    """The test clouds of the classes that a run did not learn."""
    whole = open_split(replace(data, classes=[]), "test", all_points=True)
    assert not isinstance(whole, ShapeNetPart | PartFolderDataset)
    rest = [name for name in whole.class_names if name not in data.classes]
    return open_split(replace(data, classes=rest), "test", all_points=True)


def others(model: Classifier, name: str, without: list[str], root: str | None) -> ClassifierOutput:
    """The answers on a data set, all of its splits, but for some of its classes."""
    samples = []
    for split in ("trainval", "test"):
        dataset = open_dataset(name, split=split, data_root=root)
        parts = isinstance(dataset, ShapeNetPart | PartFolderDataset)
        names = dataset.category_names if parts else dataset.class_names
        strange = sorted(set(without) - set(names))
        if strange:
            raise SystemExit(f"--without names {strange}, the set has {list(names)}")
        label = dataset.category if parts else dataset.label
        kept = [place for place, index in enumerate(label.tolist()) if names[index] not in without]
        samples += [dataset[place] for place in kept]
    return extract_features(model, samples)


if __name__ == "__main__":
    main()
