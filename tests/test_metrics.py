import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ea_pointcloud.metrics import (
    CalibrationError,
    MeanClassAccuracy,
    MeanLoss,
    PartIoU,
    class_accuracy,
    classification_metrics,
    part_segmentation_metrics,
)

PARTS = ((0, 1), (2, 3, 4), (5,), ())


def test_hand_worked_case() -> None:
    # Class 0: 3 of 4 right; class 1: 0 of 1; class 2 never occurs but is predicted once.
    truth = torch.tensor([0, 0, 0, 0, 1])
    pred = torch.tensor([0, 0, 0, 2, 0])
    metrics = classification_metrics(3, "val/")
    metrics.update(pred, truth)
    values = metrics.compute()
    assert float(values["val/overall_accuracy"]) == pytest.approx(3 / 5)
    assert float(values["val/mean_class_accuracy"]) == pytest.approx((3 / 4 + 0) / 2)


def test_updates_add_up_and_logits_are_accepted() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(50, 4, generator=generator)
    truth = torch.randint(4, (50,), generator=generator)
    whole, parts = MeanClassAccuracy(4), MeanClassAccuracy(4)
    whole.update(logits.argmax(1), truth)
    for start in range(0, 50, 7):
        parts.update(logits[start : start + 7], truth[start : start + 7])
    expected = torch.stack(
        [(logits.argmax(1)[truth == c] == c).float().mean() for c in range(4)]
    ).mean()  # recall of each class, from the definition
    assert float(whole.compute()) == pytest.approx(float(expected))
    assert float(parts.compute()) == pytest.approx(float(expected))


def test_class_accuracy_reads_rows_as_truth() -> None:
    assert class_accuracy(torch.tensor([[3, 1, 0], [0, 2, 0], [0, 0, 0]])) == [0.75, 1.0, None]


def test_mean_loss_weighs_batches_by_their_clouds() -> None:
    mean = MeanLoss()
    mean.update(torch.tensor(2.0), 3)
    mean.update(torch.tensor(6.0), 1)
    assert float(mean.compute()) == 3.0
    mean.reset()
    mean.update(torch.tensor(math.nan), 1)
    assert math.isnan(mean.compute())


def test_bins_are_what_the_calibration_error_sums_up() -> None:
    # Logits of two classes whose larger probability is .51, .52, .95 and .999 (15 bins of 1/15).
    prob = torch.tensor([0.51, 0.52, 0.95, 0.999], dtype=torch.float64)
    logits = torch.stack([prob.log(), (1 - prob).log()], dim=1)
    error = CalibrationError()
    error.update(logits[:2], torch.tensor([0, 1]))
    error.update(logits[2:], torch.tensor([0, 0]))
    first, second = error.bins()
    assert (first.count, first.prob, first.accuracy) == (2, pytest.approx(0.515), 0.5)
    assert (second.count, second.prob, second.accuracy) == (2, pytest.approx(0.9745), 1.0)
    assert float(error.compute()) == pytest.approx((0.015 + 0.0255) / 2)

    logits = torch.randn(500, 5, generator=torch.Generator().manual_seed(0)) * 3
    error = CalibrationError(temperature=1.7)
    error.update(logits, torch.arange(500) % 5)
    bins = error.bins()
    assert sum(each.count for each in bins) == 500
    assert sum(each.count * abs(each.prob - each.accuracy) for each in bins) / 500 == (
        pytest.approx(float(error.compute()), abs=1e-6)
    )


def part_batch(seed: int, batch: int = 12, points: int = 30) -> tuple[Tensor, ...]:
    """Logits, labels, categories of the first two rows of ``PARTS``, and a mask."""
    generator = torch.Generator().manual_seed(seed)
    category = torch.randint(2, (batch,), generator=generator)
    local = torch.randint(2, (batch, points), generator=generator)
    part_label = torch.where(category[:, None] == 0, local, 2 + 2 * local)  # part 3 never in truth
    logits = torch.randn(batch, points, 6, generator=generator)
    mask = torch.rand(batch, points, generator=generator) < 0.8
    return logits, part_label, category, mask


def slow_part_iou(
    batches: list[tuple[Tensor, ...]], restrict: bool
) -> tuple[float, list[float], float]:
    """Instance mIoU, category IoUs and point accuracy by loops, from the definition."""
    shape_ious: list[list[float]] = [[] for _ in PARTS]
    right = points = 0
    for logits, part_label, category, mask in batches:
        for b in range(len(logits)):
            own = PARTS[int(category[b])]
            truth, pred = [], []
            for n in range(logits.shape[1]):
                if not mask[b, n]:
                    continue
                scores = logits[b, n].tolist()
                truth.append(int(part_label[b, n]))
                pred.append(max(own if restrict else range(6), key=lambda p: scores[p]))
            ious = []
            for part in own:
                is_true = {n for n, value in enumerate(truth) if value == part}
                is_pred = {n for n, value in enumerate(pred) if value == part}
                both = is_true | is_pred
                ious.append(len(is_true & is_pred) / len(both) if both else 1.0)
            shape_ious[int(category[b])].append(sum(ious) / len(ious))
            right += sum(t == p for t, p in zip(truth, pred, strict=True))
            points += len(truth)
    every = [iou for ious in shape_ious for iou in ious]
    means = [sum(ious) / len(ious) if ious else math.nan for ious in shape_ious]
    return sum(every) / len(every), means, right / points


def test_part_iou_by_hand() -> None:
    metric = PartIoU(PARTS)
    pred = torch.tensor([[0, 0, 0, 1], [2, 2, 4, 4], [2, 2, 2, 2]])
    truth = torch.tensor([[0, 0, 0, 0], [2, 2, 2, 4], [2, 2, 2, 2]])
    metric.update(pred, truth, torch.tensor([0, 1, 1]))
    values = metric.compute()
    # One wrong point of four: part 0 has 3/4, part 1 is predicted but not there: 0.
    first = (3 / 4 + 0) / 2
    # Part 2 has 2/3, part 4 has 1/2, and part 3 is absent from truth and prediction: 1.
    second = (2 / 3 + 1 + 1 / 2) / 3
    third = 1.0
    assert float(values["instance_miou"]) == pytest.approx((first + second + third) / 3)
    # The first category has a single shape, the last two have none and do not count.
    assert float(values["category_miou"]) == pytest.approx((first + (second + third) / 2) / 2)
    assert values["category_iou"][:2].tolist() == pytest.approx([first, (second + third) / 2])
    assert values["category_iou"][2:].isnan().all()
    assert float(values["point_accuracy"]) == pytest.approx(10 / 12)


def test_part_iou_ignores_padding() -> None:
    pred = torch.tensor([[0, 1, 1, 0], [2, 2, 3, 0]])
    truth = torch.tensor([[0, 1, 0, 1], [2, 3, 3, 4]])
    category = torch.tensor([0, 1])
    mask = torch.tensor([[True, True, False, False], [True, True, True, False]])
    masked, unlabelled, cropped = PartIoU(PARTS), PartIoU(PARTS), PartIoU(PARTS)
    masked.update(pred, truth, category, mask)
    unlabelled.update(pred, truth.masked_fill(~mask, -1), category)
    cropped.update(pred[:1, :2], truth[:1, :2], category[:1])
    cropped.update(pred[1:, :3], truth[1:, :3], category[1:])
    assert float(masked.compute()["instance_miou"]) == pytest.approx((1 + (0.5 + 0.5 + 1) / 3) / 2)
    for other in (unlabelled, cropped):
        for name, value in masked.compute().items():
            torch.testing.assert_close(other.compute()[name], value, equal_nan=True)
    # A shape of padding alone is no shape.
    masked.update(pred, truth, category, torch.zeros_like(mask))
    assert float(masked.compute()["instance_miou"]) == float(cropped.compute()["instance_miou"])


def test_part_iou_argmax_among_the_parts_of_the_category_or_all() -> None:
    # Part 5 of another category has the highest logit at both points, then the right ones.
    logits = torch.tensor([[[5.0, 1, 0, 0, 0, 9], [1.0, 5, 0, 0, 0, 9]]])
    truth, category = torch.tensor([[0, 1]]), torch.tensor([0])
    own, every = PartIoU(PARTS), PartIoU(PARTS, restrict=False)
    own.update(logits, truth, category)
    every.update(logits, truth, category)
    assert float(own.compute()["instance_miou"]) == 1
    assert float(every.compute()["all_parts_instance_miou"]) == 0
    assert float(every.compute()["all_parts_point_accuracy"]) == 0
    assert repr(every) == "PartIoU(categories=4, parts=6, restrict=False)"


@pytest.mark.parametrize("restrict", [True, False])
def test_part_iou_equals_the_definition(restrict: bool) -> None:
    batches = [part_batch(seed) for seed in range(3)]
    metric = PartIoU(PARTS, restrict=restrict)
    collection = part_segmentation_metrics(PARTS, "val/", restrict=restrict)
    for batch in batches:
        metric.update(*batch)
        collection.update(*batch)
    instance, category, accuracy = slow_part_iou(batches, restrict)
    prefix = "" if restrict else "all_parts_"
    expected = {
        "instance_miou": instance,
        "category_miou": sum(category[:2]) / 2,
        "point_accuracy": accuracy,
    }
    values = metric.compute()
    per_category = values.pop(prefix + "category_iou").tolist()
    assert per_category == pytest.approx(category, nan_ok=True)
    expected = {prefix + name: value for name, value in expected.items()}
    assert {name: float(value) for name, value in values.items()} == pytest.approx(expected)
    logged = {name: float(value) for name, value in collection.compute().items()}
    assert logged == pytest.approx({f"val/{name}": value for name, value in expected.items()})


def test_part_iou_starts_anew() -> None:
    metric = PartIoU(PARTS)
    metric.update(*part_batch(0))
    metric.reset()
    metric.update(*part_batch(1))
    assert float(metric.compute()["instance_miou"]) == pytest.approx(
        slow_part_iou([part_batch(1)], restrict=True)[0]
    )


def part_iou_process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2
    )
    metric, collection = PartIoU(PARTS), part_segmentation_metrics(PARTS)
    for seed in ((0,), (1, 2))[rank]:  # the processes have unequal shares
        metric.update(*part_batch(seed))
        collection.update(*part_batch(seed))
    values = metric.compute() | {f"logged/{n}": v for n, v in collection.compute().items()}
    torch.save(values, Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch has no distributed part")
def test_part_iou_is_the_same_in_two_processes(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(part_iou_process, (str(tmp_path),), nprocs=2)  # pyright: ignore
    whole, collection = PartIoU(PARTS), part_segmentation_metrics(PARTS)
    for seed in range(3):
        whole.update(*part_batch(seed))
        collection.update(*part_batch(seed))
    expected = whole.compute() | {f"logged/{n}": v for n, v in collection.compute().items()}
    for rank in range(2):
        values = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        torch.testing.assert_close(values, expected, equal_nan=True)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"logits": torch.zeros(2, 4, 5)}, r"\(B, N, P\) with P >= 6, or be part ids .* got torch"),
        ({"logits": torch.zeros(2, 4)}, r"or be part ids \(B, N\), got torch.float32 \(2, 4\)"),
        ({"part_label": torch.zeros(2, 3).long()}, r"shapes \(2, 4\) and \(2,\) as the logits"),
        ({"mask": torch.ones(2, 3).bool()}, r"mask must have shape \(B, N\) = \(2, 4\)"),
        ({"category": torch.tensor([0, 4])}, r"category must be between 0 and 3, got \[0, 4\]"),
        ({"category": torch.tensor([0, 1])}, "part_label has a part that is not in the shape's"),
    ],
)
def test_part_iou_errors(wrong: dict[str, Any], message: str) -> None:
    right = {
        "logits": torch.zeros(2, 4, 6),
        "part_label": torch.zeros(2, 4).long(),
        "category": torch.zeros(2).long(),
    }
    PartIoU(PARTS).update(**right)
    with pytest.raises(ValueError, match=message):
        PartIoU(PARTS).update(**(right | wrong))


@pytest.mark.parametrize("parts", [((),), ((0, 1), (1,)), ((-1, 0),)])
def test_part_iou_needs_a_table(parts: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(ValueError, match="parts must give each category its own part ids"):
        PartIoU(parts)
