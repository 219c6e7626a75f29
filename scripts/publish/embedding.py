"""Add the embedding in which few-shot classifiers compare clouds to a folder of weights.

    python -m scripts.publish.embedding eagraph-tiny-modelnet40 --data modelnet40_rebuilt \
        --data-root DATA

Means, deviations and the covariance within the classes come from 60 training clouds of each class,
see ``ea_pointcloud.nn.UnitEmbedding``. The card is written again.
"""

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ea_pointcloud.datasets import ModelNet, open_dataset
from ea_pointcloud.inference.few_shot import RANK
from ea_pointcloud.inference.preprocess import preprocess
from ea_pointcloud.models import Classifier, load_model
from ea_pointcloud.models.head import embedding_inputs
from ea_pointcloud.models.metadata import EMBEDDING_FILE
from ea_pointcloud.models.pretrained import resolve_weights
from ea_pointcloud.nn import UnitEmbedding
from scripts.publish.card import CARD_FILE, FIGURES_FILE, card_text

CLOUDS = 60  # of each class
_BATCH = 32


@torch.inference_mode()
def fit_embedding(
    model: Classifier, dataset: Dataset[dict[str, Tensor]], label: Tensor
) -> UnitEmbedding:
    """Fit to clouds of a data set.

    Args:
        model: in evaluation mode.
        dataset: samples with ``xyz`` (N, 3) and perhaps ``mask`` (N,).
        label: (n,) int64, their classes; negative ones are left out.
    """
    order = torch.randperm(len(label), generator=torch.Generator().manual_seed(0))
    chosen = torch.cat(
        [order[label[order] == each][:CLOUDS] for each in label.unique() if each >= 0]
    )
    clouds = []
    for index in chosen.tolist():
        sample = dataset[index]
        xyz = sample["xyz"][sample["mask"]] if "mask" in sample else sample["xyz"]
        clouds.append(preprocess(xyz.numpy(), model.data_spec).xyz)
    rows = [embedding_inputs(model, model.pooled(batch))
            for batch in torch.stack(clouds).split(_BATCH)]  # fmt: skip
    return UnitEmbedding.fit(torch.cat(rows).float(), label[chosen], RANK)


def main() -> None:
    """Write the folder again with the embedding."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("weights", help="name or folder")
    parser.add_argument("--data", required=True, help="that they were trained on")
    parser.add_argument("--data-root", help="folder of data sets")
    arguments = parser.parse_args()
    folder = resolve_weights(arguments.weights)
    model = load_model(str(folder))
    dataset = open_dataset(arguments.data, split="train", data_root=arguments.data_root)
    if not isinstance(model, Classifier) or not isinstance(dataset, ModelNet):
        parser.error("the weights must be those of a classifier, and the data a ModelNet set")
    embedding = fit_embedding(model, dataset, dataset.label)
    add_embedding(folder, model, embedding)
    sys.stdout.write(f"wrote the embedding of {folder}\n")


def add_embedding(folder: Path, model: Classifier, embedding: UnitEmbedding) -> None:
    """Write the embedding of ``model`` beside its weights in ``folder``, and its card again."""
    model.embedding = embedding.state_dict()
    model.save_embedding(folder)
    (folder / EMBEDDING_FILE).chmod(0o644)  # safetensors lets nobody but the owner read
    if (folder / FIGURES_FILE).is_file():
        (folder / CARD_FILE).write_text(card_text(folder), encoding="utf-8")


if __name__ == "__main__":
    main()
