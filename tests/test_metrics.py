import pytest
import torch

from ea_pointcloud.metrics import MeanClassAccuracy, class_accuracy, classification_metrics


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
