"""What a few-shot classifier can be expected to do, from leaving out each example in turn."""

import math
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ea_pointcloud.inference.classify import class_probs
from ea_pointcloud.inference.few_shot import FewShotHead, fit_head
from ea_pointcloud.models import Classifier

MANY = 30  # examples a class beyond which training is worth its time
_WORST = 5  # confusions and examples that are listed
# Probabilities of an example left out: of its class at most, of another at least. Of 10 % of wrong
# labels among 10 examples a class, two thirds are found so, and of those named 9 of 10 are wrong
# (PSB's categories, procedural shapes, ModelNet40 rebuilt).
_MISLABELLED = 0.02, 0.5
_DRAWS = 8  # of half the examples


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
        correct: those of them that were classified correctly.
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


def support_report(
    model: Classifier,
    head: FewShotHead,
    names_of: Sequence[str],
    label: Tensor,
    embedded: Tensor,
    group: Tensor,
    notes: tuple[str, ...],
) -> SupportReport:
    """The report on examples.

    Args:
        model: the few-shot classifier, calibrated.
        head: that was fitted to them.
        names_of: of the n examples.
        label: (n,) int64, their classes.
        embedded: (m, C) of the examples and their copies, an example before its copies.
        group: (m,) int64, index of the example.
        notes: to pass on.
    """
    classes = model.data_spec.class_names
    first = torch.tensor([int((group == index).nonzero()[0]) for index in range(len(label))])
    probs = class_probs(model, head.logits[first])
    tested, predicted = head.tested[first], probs.argmax(1)
    wrong: list[int] = (tested & (predicted != label)).nonzero()[:, 0].tolist()
    pairs = Counter((classes[label[index]], classes[predicted[index]]) for index in wrong)
    own = probs.gather(1, label[:, None])[:, 0].tolist()
    (low, high), best = _MISLABELLED, probs.amax(1).tolist()
    doubtful: list[int] = sorted(
        filter(lambda index: own[index] < low and best[index] > high, wrong), key=own.__getitem__
    )
    return SupportReport(
        counts=dict(zip(classes, label.bincount().tolist(), strict=True)),
        method=head.method,
        tested=int(tested.sum()),
        correct=int(tested.sum()) - len(wrong),
        confusions=tuple((*pair, count) for pair, count in pairs.most_common()),
        doubtful=tuple(
            Doubt(
                names_of[index],
                classes[label[index]],
                classes[predicted[index]],
                best[index],
            )
            for index in doubtful
        ),
        half=_half_accuracy(embedded[first], label),
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
