"""Examples of one's own classes, and what can be said of them by leaving each out in turn."""

import math
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ea_pointcloud.inference.classify import class_probs
from ea_pointcloud.inference.few_shot import FewShotHead, fit_head
from ea_pointcloud.inference.preprocess import CloudLike, ModelInput
from ea_pointcloud.models import Classifier

MANY = 30  # examples a class beyond which training is worth its time
_WORST = 5  # confusions and examples that are listed
_MISLABELLED = 0.05  # probability of an example's class, without it, below which that is doubtful
_DRAWS = 8  # of half the examples


class Example(NamedTuple):
    """A cloud of a known class, and how it is called in messages."""

    name: str
    class_name: str
    cloud: CloudLike | ModelInput


Examples = Mapping[str, Sequence[CloudLike | ModelInput]] | Sequence[Example]


@dataclass(frozen=True)
class Doubt:
    """An example that looks like one of another class.

    Args:
        name: of the example.
        given: its class.
        predicted: the class that the others suggest.
        prob: the probability of that class.
    """

    name: str
    given: str
    predicted: str
    prob: float


@dataclass(frozen=True)
class SupportReport:
    """What a few-shot classifier can be expected to do, each example being left out in turn.

    Args:
        counts: class -> examples.
        method: how the head was fitted.
        tested: examples that were left out: those of classes that have others.
        correct: those of them that were classified correctly without being seen.
        confusions: (class, predicted as, examples), the most frequent first.
        doubtful: examples that may have the wrong class, the least probable first.
        half: accuracy with half the examples of each class; None where that cannot be told.
        notes: what was left out and why.
    """

    counts: dict[str, int]
    method: str
    tested: int
    correct: int
    confusions: tuple[tuple[str, str, int], ...]
    doubtful: tuple[Doubt, ...]
    half: float | None
    notes: tuple[str, ...] = ()

    @property
    def accuracy(self) -> float | None:
        """The fraction of the examples left out that is classified correctly."""
        return self.correct / self.tested if self.tested else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Its 95 % interval (Wilson 1927), if the examples are typical of what is classified."""
        if not self.tested:
            return None
        z, count, correct = 1.96, self.tested, self.correct
        middle = (correct + z * z / 2) / (count + z * z)
        spread = math.sqrt(correct * (count - correct) / count + z * z / 4)
        half = z / (count + z * z) * spread
        return max(0.0, middle - half), min(1.0, middle + half)

    @property
    def doubled(self) -> float | None:
        """The accuracy to expect of twice as many examples, if errors fall as they did so far."""
        if self.half is None or self.accuracy is None or self.half >= 1:
            return None
        error = 1 - self.accuracy
        return 1 - min(error, error * error / (1 - self.half))

    def lines(self) -> list[str]:
        """The report as text."""
        fewest, most = min(self.counts.values()), max(self.counts.values())
        each = f"{fewest}" if fewest == most else f"{fewest} to {most}"
        lines = [
            f"{len(self.counts)} classes, {each} examples each; {self.method}",
            *self.notes,
        ]
        if self.accuracy is None or self.interval is None:
            lines.append("accuracy unknown: no class has a second example to leave out")
        else:
            low, high = self.interval
            lines.append(
                f"accuracy on examples left out: {self.accuracy:.0%} ({self.correct} of "
                f"{self.tested}; 95 % interval {low:.0%} to {high:.0%})"
            )
        if self.doubled is not None:
            lines.append(
                f"with half the examples {self.half:.0%}; with twice as many perhaps "
                f"{self.doubled:.0%}"
            )
        elif fewest < 3:
            lines.append("more examples help most now: 5 of each class are a good start")
        pairs = [f"{one} as {other} ({count})" for one, other, count in self.confusions[:_WORST]]
        if pairs:
            lines.append(f"confused: {', '.join(pairs)}")
        lines += [
            f"check {each.name}: labelled {each.given}, looks like {each.predicted} "
            f"({each.prob:.0%})"
            for each in self.doubtful[:_WORST]
        ]
        if len(self.doubtful) > _WORST:
            lines.append(f"... and {len(self.doubtful) - _WORST} more doubtful examples")
        return lines


def train_advice(report: SupportReport, folder: str, weights: str, up: str | None) -> str:
    """The command that trains on examples in a folder, where there are enough; else empty."""
    if sorted(report.counts.values())[len(report.counts) // 2] <= MANY:
        return ""
    words = ["ea-pointcloud", "train", "folder", f"data.root={folder}", f"model.init={weights}"]
    words += [f"data.up={up}"] if up in ("x", "y", "z") else []
    return f"more than {MANY} examples a class: training is likely better, {shlex.join(words)}"


def listed_examples(examples: Examples) -> list[Example]:
    """Examples one by one, with names where they have none."""
    if not isinstance(examples, Mapping):
        return list(examples)
    return [
        Example(
            str(cloud) if isinstance(cloud, (str, Path)) else f"{class_name}[{index}]",
            class_name,
            cloud,
        )
        for class_name, clouds in examples.items()
        for index, cloud in enumerate(clouds)
    ]


def check_examples(
    examples: Sequence[Example], inputs: Sequence[ModelInput]
) -> tuple[list[int], tuple[str, ...]]:
    """Indices of the examples to keep, and notes on those that are not.

    Raises:
        ValueError: if there are fewer than two classes, or one cloud has two of them.
    """
    names = list(dict.fromkeys(each.class_name for each in examples))
    if len(examples) < 2:
        raise ValueError(
            f"there must be examples of 2 classes or more, got {len(examples)} example"
            f"{'' if examples else 's'}; add one folder for each class, CLASS/FILE"
        )
    if len(names) < 2:
        raise ValueError(
            f"there must be examples of 2 classes or more, got only {names[0]!r}; add a class of "
            "what else may occur"
        )
    seen: dict[bytes, Example] = {}
    kept, notes = [], []
    for index, (each, cloud) in enumerate(zip(examples, inputs, strict=True)):
        points = cloud.xyz.numpy().tobytes()
        first = seen.setdefault(points, each)
        if first is each:
            kept.append(index)
        elif first.class_name != each.class_name:
            raise ValueError(
                f"{first.name} ({first.class_name}) and {each.name} ({each.class_name}) are the "
                "same cloud in two classes; remove one of them"
            )
        else:
            notes.append(f"{each.name} is the same cloud as {first.name} and is left out")
    return kept, tuple(notes)


def support_report(
    model: Classifier,
    head: FewShotHead,
    examples: Sequence[Example],
    embedded: Tensor,
    group: Tensor,
    notes: tuple[str, ...],
) -> SupportReport:
    """The report on examples.

    Args:
        model: the few-shot classifier, calibrated.
        head: that was fitted to them.
        examples: n of them.
        embedded: (m, C) of the examples and their copies, an example before its copies.
        group: (m,) int64, index of the example.
        notes: to pass on.
    """
    names = model.data_spec.class_names
    own = torch.tensor([names.index(each.class_name) for each in examples])
    first = torch.tensor([int((group == index).nonzero()[0]) for index in range(len(examples))])
    probs = class_probs(model, head.logits[first])
    tested, predicted = head.tested[first], probs.argmax(1)
    wrong = (tested & (predicted != own)).nonzero()[:, 0].tolist()
    pairs = Counter((names[own[index]], names[predicted[index]]) for index in wrong)
    doubtful = sorted(
        (float(probs[index, own[index]]), index)
        for index in wrong
        if float(probs[index, own[index]]) < _MISLABELLED
    )
    counts = Counter(each.class_name for each in examples)
    return SupportReport(
        counts={name: counts[name] for name in names},
        method=head.method,
        tested=int(tested.sum()),
        correct=int(tested.sum()) - len(wrong),
        confusions=tuple((*pair, count) for pair, count in pairs.most_common()),
        doubtful=tuple(
            Doubt(
                examples[index].name,
                examples[index].class_name,
                names[predicted[index]],
                float(probs[index].max()),
            )
            for _, index in doubtful
        ),
        half=_half_accuracy(embedded[first], own),
        notes=notes,
    )


def _half_accuracy(embedded: Tensor, label: Tensor) -> float | None:
    """Accuracy on the other half, with half of each class; None with fewer than four of one."""
    counts = label.bincount()
    if int(counts.min()) < 4:
        return None
    generator = torch.Generator().manual_seed(0)
    correct = total = 0
    for _ in range(_DRAWS):
        order = torch.randperm(len(label), generator=generator)
        own = [order[label[order] == each] for each in range(len(counts))]
        fit = torch.cat([rows[: len(rows) // 2] for rows in own])
        test = torch.cat([rows[len(rows) // 2 :] for rows in own])
        head = fit_head(embedded[fit], label[fit])
        found = (embedded[test] @ head.weight.T).argmax(1)
        correct += int((found == label[test]).sum())
        total += len(test)
    return correct / total
