"""Few-shot classification of classes that an encoder has not seen, beside baselines.

    python -m scripts.research.few_shot RUN --data-root DATA --output scripts/results/FEW_SHOT.md

RUN was trained with `data.classes`, on some of the classes of ModelNet40 rebuilt: the others are
the first set. The second is PSB's categories, the third the procedural ones, both with pretrained
weights. Of each class at most 60 shapes count. Every draw takes k examples of each class (and the
classes, where not all); up to 30 others of each class are classified. Figures are mean class
accuracies, the mean and standard deviation of the draws.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

import ea_pointcloud
from ea_pointcloud.augment.corruption import random_partial_view
from ea_pointcloud.datasets import ModelNet, open_dataset
from ea_pointcloud.inference.classify import embed_clouds
from ea_pointcloud.inference.few_shot import few_shot_network, fit_head, stored_embedding
from ea_pointcloud.inference.preprocess import preprocess, turns_about_y
from ea_pointcloud.models import Classifier, load_model
from ea_pointcloud.nn import UnitEmbedding
from ea_pointcloud.nn.fuse_bn import fuse_batch_norm
from ea_pointcloud.ops.frames import normalize_unit_sphere
from scripts.publish.embedding import fit_embedding

PRETRAINED, EARLIER = "eagraph-tiny-modelnet40", "eagraph-tiny-modelnet10"
SHOTS = (1, 5, 10)
DRAWS, FEW_DRAWS = 5, 2  # of everything, and of fine-tuning
MOST, QUERIES = 60, 30  # shapes of a class
EPOCHS = 40  # of fine-tuning
_PAIRS, _BINS = 20_000, 64  # of a D2 histogram


class Shapes(NamedTuple):
    """Clouds of 512 points, their labels, and what a table calls them."""

    title: str
    clouds: list[Tensor]
    label: Tensor


class Draw(NamedTuple):
    """Indices of examples and queries, and their classes 0..K-1."""

    support: Tensor
    label: Tensor
    queries: Tensor
    truth: Tensor


@dataclass(frozen=True, eq=False)
class Encoder:
    """A trained network, and its embedding fitted to its training classes."""

    model: Classifier
    embedding: UnitEmbedding

    def embed(self, clouds: list[Tensor]) -> Tensor:
        """(n, C) vectors in which few-shot classifiers compare."""
        network = few_shot_network(self.model, self.embedding, ("a", "b"))
        return embed_clouds(fuse_batch_norm(network), clouds)[0]

    def standardised(self, clouds: list[Tensor]) -> Tensor:
        """(n, C) inputs of the last layer, standardised."""
        features, _ = embed_clouds(fuse_batch_norm(self.model), clouds)
        count = features.shape[1]
        return (features - self.embedding.mean[:count]) * self.embedding.scale[:count]


def draws(label: Tensor, ways: int, shots: int, count: int = DRAWS) -> Iterator[Draw]:
    """``ways`` classes (0 for all) and ``shots`` examples of each, with fixed seeds."""
    for seed in range(count):
        generator = torch.Generator().manual_seed(seed)
        classes = label.unique()
        if ways:
            classes = classes[torch.randperm(len(classes), generator=generator)[:ways]]
        rows = []
        for own in classes:
            members = (label == own).nonzero()[:, 0]
            rows.append(members[torch.randperm(len(members), generator=generator)])
        support, queries = [r[:shots] for r in rows], [r[shots : shots + QUERIES] for r in rows]
        truths = (torch.cat([torch.full((len(r),), k) for k, r in enumerate(each)])
                  for each in (support, queries))  # fmt: skip
        yield Draw(torch.cat(support), next(truths), torch.cat(queries), next(truths))


def accuracy(predicted: Tensor, truth: Tensor) -> float:
    """Mean class accuracy."""
    hits = (predicted == truth).double()
    return float(torch.stack([hits[truth == each].mean() for each in truth.unique()]).mean())


def few_shot(examples: Tensor, label: Tensor, queries: Tensor) -> Tensor:
    """Classes that the few-shot head finds."""
    return (queries @ fit_head(examples, label).weight.T).argmax(1)


def nearest_mean(examples: Tensor, label: Tensor, queries: Tensor) -> Tensor:
    """Classes of the nearest class means."""
    means = torch.stack([examples[label == each].mean(0) for each in label.unique()])
    return torch.cdist(queries, means).argmin(1)


def nearest_neighbor(examples: Tensor, label: Tensor, queries: Tensor) -> Tensor:
    """Classes of the nearest examples."""
    return label[torch.cdist(queries, examples, p=1).argmin(1)]


def d2_histogram(cloud: Tensor) -> Tensor:
    """(bins,) distances of random pairs of points (Osada et al., Shape distributions, 2002)."""
    pairs = torch.randint(len(cloud), (2, _PAIRS), generator=torch.Generator().manual_seed(0))
    distance = (cloud[pairs[0]] - cloud[pairs[1]]).norm(dim=1)
    return torch.histc(distance, _BINS, 0, 2) / _PAIRS


def cell(values: list[float]) -> str:
    """Mean and standard deviation."""
    return f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}"


def compare(
    shapes: Shapes, encoder: Encoder, earlier: Encoder, ways: tuple[int, ...]
) -> Iterator[list[str]]:
    """A row a method, a column for each number of classes and of examples."""
    methods: dict[str, tuple[Tensor, Callable[..., Tensor]]] = {
        "few-shot classifier": (encoder.embed(shapes.clouds), few_shot),
        "same encoder, nearest mean of standardised features": (
            encoder.standardised(shapes.clouds), nearest_mean),
        f"few-shot classifier on {EARLIER}": (earlier.embed(shapes.clouds), few_shot),
        f"{EARLIER}, nearest mean of standardised features": (
            earlier.standardised(shapes.clouds), nearest_mean),
        "D2 histograms, nearest neighbour": (
            torch.stack([d2_histogram(cloud) for cloud in shapes.clouds]), nearest_neighbor),
    }  # fmt: skip
    settings = [(way, shots) for way in ways for shots in SHOTS]
    yield [shapes.title, *(f"{way or 'all'}-way, {shots}" for way, shots in settings)]
    for name, (rows, method) in methods.items():
        cells = []
        for way, shots in settings:
            each = [accuracy(method(rows[draw.support], draw.label, rows[draw.queries]), draw.truth)
                    for draw in draws(shapes.label, way, shots)]  # fmt: skip
            cells.append(cell(each))
        yield [name, *cells]


def poses(shapes: Shapes, encoder: Encoder) -> Iterator[list[str]]:
    """Turned and one-sided queries, by what was done to five examples of each class."""
    generator = torch.Generator().manual_seed(0)

    def seen(cloud: Tensor) -> Tensor:
        visible = random_partial_view(cloud[None], 1.0, generator=generator)[0]
        return normalize_unit_sphere(cloud[visible][None].double()).float()[0]

    def turned(cloud: Tensor) -> Tensor:
        angle = int(torch.randint(360, (), generator=generator))
        return cloud @ turns_about_y(360)[angle]

    clouds = shapes.clouds
    queries = {
        "as the examples": encoder.embed(clouds),
        "turned about the up axis": encoder.embed([turned(cloud) for cloud in clouds]),
        "from one side": encoder.embed([seen(cloud) for cloud in clouds]),
    }
    turns = [encoder.embed([cloud @ turn for cloud in clouds]) for turn in turns_about_y(8)]
    views = [encoder.embed([seen(cloud) for cloud in clouds]) for _ in range(4)]
    options = {
        "none": turns[:1],
        "--support-rotations 4": turns[::2],
        "--support-rotations 8": turns,
        "--support-views 2": [turns[0], *views[:2]],
        "--support-views 4": [turns[0], *views],
    }
    yield [f"{shapes.title}, all-way, 5", *queries]
    for name, copies in options.items():
        cells = []
        for asked in queries.values():
            each = []
            for draw in draws(shapes.label, 0, 5):
                examples = torch.cat([rows[draw.support] for rows in copies])
                group = torch.arange(len(draw.support)).repeat(len(copies))
                head = fit_head(examples, draw.label.repeat(len(copies)), group)
                found = (asked[draw.queries] @ head.weight.T).argmax(1)
                each.append(accuracy(found, draw.truth))
            cells.append(cell(each))
        yield [name, *cells]


def fine_tuned(shapes: Shapes, weights: str) -> list[float]:
    """Accuracies after training on the same examples, 10 classes and 5 examples of each."""
    found = []
    for draw in draws(shapes.label, 10, 5, FEW_DRAWS):
        with tempfile.TemporaryDirectory() as folder:
            for split, rows, label in (("train", draw.support, draw.label),
                                       ("val", draw.support, draw.label),
                                       ("test", draw.queries, draw.truth)):  # fmt: skip
                for index, own in zip(rows.tolist(), label.tolist(), strict=True):
                    place = Path(folder, "data", split, f"class{own}")
                    place.mkdir(parents=True, exist_ok=True)
                    np.save(place / f"{index}.npy", shapes.clouds[index].numpy())
            run = ea_pointcloud.train(
                "folder",
                {
                    "data.root": f"{folder}/data", "model.init": weights, "optim.lr": 1e-3,
                    "trainer.batch_size": 25, "trainer.epochs": EPOCHS, "eval.votes": 0,
                },
                run_dir=f"{folder}/run",
            )  # fmt: skip
            report = ea_pointcloud.evaluate(run, split="test").reports[-1]
            found.append(float(report.mean_class_accuracy))
    return found


def encoder_of(weights: str, data: str, root: str, classes: list[str]) -> Encoder:
    """Weights, and the embedding that lies beside them or is fitted to their training classes."""
    model = load_model(weights)
    assert isinstance(model, Classifier)
    if model.embedding is not None:
        return Encoder(model, stored_embedding(model))
    dataset = open_dataset(data, split="train", data_root=root)
    assert isinstance(dataset, ModelNet)
    label = dataset.label.clone()
    if classes:
        known = torch.tensor([name in classes for name in dataset.class_names])
        label[~known[label]] = -1
    return Encoder(model, fit_embedding(model, dataset, label))


def read(name: str, title: str, root: str, without: list[str], model: Classifier) -> Shapes:
    """At most ``MOST`` shapes of each class of a set, but for some classes."""
    clouds, labels, counts = [], [], {}
    for split in ("test", "train"):
        dataset = open_dataset(name, split=split, data_root=root)
        parts = not isinstance(dataset, ModelNet)
        names = dataset.category_names if parts else dataset.class_names
        label = dataset.category if parts else dataset.label
        for index, own in enumerate(label.tolist()):
            if names[own] in without or counts.get(own, 0) == MOST:
                continue
            sample = dataset[index]
            xyz = sample["xyz"][sample["mask"]] if "mask" in sample else sample["xyz"]
            clouds.append(preprocess(xyz.numpy(), model.data_spec).xyz)
            labels.append(own)
            counts[own] = counts.get(own, 0) + 1
    return Shapes(title, clouds, torch.tensor(labels))


def main() -> None:
    """Print the tables, or write them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", help="run folder of a classifier of some classes")
    parser.add_argument("--data-root", required=True, help="folder of data sets")
    parser.add_argument("--fine-tune", action="store_true", help="also train, which takes minutes")
    parser.add_argument("--output", type=Path, help="Markdown file")
    arguments = parser.parse_args()
    root, data = arguments.data_root, "modelnet40_rebuilt"
    known = list(load_model(arguments.run).data_spec.class_names)
    held, pretrained = (
        encoder_of(arguments.run, data, root, known),
        encoder_of(PRETRAINED, data, root, []),
    )
    earlier = encoder_of(EARLIER, "modelnet10", root, [])
    unseen = read(data, "ModelNet40 rebuilt, classes held out", root, known, held.model)
    psb = read("psb_part", "PSB categories", root, [], pretrained.model)
    made = read("procedural", "procedural", root, [], pretrained.model)
    tables = [
        list(compare(unseen, held, earlier, (5, 0))),
        list(compare(psb, pretrained, earlier, (5, 10, 0))),
        list(compare(made, pretrained, earlier, (5, 0))),
        list(poses(psb, pretrained)),
        list(poses(unseen, held)),
    ]
    text = "\n\n".join("\n".join(map(row_text, with_rule(table))) for table in tables) + "\n"
    if arguments.fine_tune:
        text += f"\nFine-tuned on the same examples ({unseen.title}, all-way, 5; {EPOCHS} epochs, "
        text += f"{FEW_DRAWS} draws): {cell(fine_tuned(unseen, arguments.run))}\n"
    sys.stdout.write(text)
    if arguments.output:
        arguments.output.write_text(text, encoding="utf-8")


def with_rule(table: list[list[str]]) -> list[list[str]]:
    """A table of Markdown: the first row is the heading."""
    return [table[0], ["---"] * len(table[0]), *table[1:]]


def row_text(row: list[str]) -> str:
    """A row in Markdown."""
    return f"| {' | '.join(row)} |"


if __name__ == "__main__":
    main()
