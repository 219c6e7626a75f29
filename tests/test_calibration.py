"""Honest probabilities, unusual clouds, and which way up: what is fitted on val and used later."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ea_pointcloud import Predictor, create_model
from ea_pointcloud.augment.transforms import random_jitter
from ea_pointcloud.datasets import ProceduralShapes
from ea_pointcloud.inference.calibration import calibrate_temperature, fit_detector
from ea_pointcloud.inference.classify import OOD_WARNING
from ea_pointcloud.metrics import CalibrationError
from ea_pointcloud.models import (
    Calibration,
    DataSpec,
    EAClassifier,
    EASegmenter,
    MahalanobisDetector,
    load_model,
)
from ea_pointcloud.training import calibrate
from ea_pointcloud.training.calibrate import calibrate_classifier, labelled_points
from ea_pointcloud.training.evaluate_run import calibrate_run
from ea_pointcloud.training.fit import train
from ea_pointcloud.training.recipe import load_recipe, save_recipe
from tests.test_cli import call
from tests.test_training import PARTS, QUICK

NAMES = ("airplane", "chair", "lamp", "sofa")
SMALL = {
    "stem_channels": 16,
    "num_centers": (32, 16),
    "num_neighbors": (8, 8),
    "embed_channels": (32, 32),
    "fuse_channels": 64,
    "head_channels": (32, 32),
    "depth": 1,
    "memory_size": 8,
    "dropout": 0.1,
}


class Some(torch.utils.data.Dataset[dict[str, Tensor]]):
    """Shapes of the four classes."""

    def __init__(self, split: str, num_shapes: int) -> None:
        shapes = ProceduralShapes(split, num_shapes=num_shapes, num_points=128)
        places = torch.tensor([shapes.class_names.index(name) for name in NAMES])
        keep = torch.isin(shapes.label, places)
        self.xyz = shapes.xyz[keep]
        self.label = (shapes.label[keep][:, None] == places).long().argmax(1)

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"xyz": self.xyz[index], "label": self.label[index]}


@pytest.fixture(scope="module")
def val() -> Some:
    return Some("val", 420)


@pytest.fixture(scope="module")
def model(val: Some) -> EAClassifier:
    """Trained for seconds: enough to know its four classes from everything else."""
    torch.manual_seed(0)
    model = create_model("ea_classifier_tiny", data_spec=DataSpec(NAMES, num_points=128), **SMALL)
    train = Some("train", 840)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(120):
        drawn = torch.randint(len(train), (24,))
        xyz = random_jitter(train.xyz[drawn], 0.02, 0.1)
        loss = F.cross_entropy(model(xyz), train.label[drawn], label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    model.calibration = calibrate_classifier(model, val, train)
    return model


@pytest.fixture(scope="module")
def clouds() -> list[np.ndarray]:
    return [xyz.numpy() for xyz in Some("test", 140).xyz]


def far_clouds() -> list[np.ndarray]:
    """Lines and clusters, of which training has seen nothing."""
    rng = np.random.default_rng(0)
    lines = [rng.normal(size=(200, 3)) * [1.0, 0.01, 0.01] for _ in range(8)]
    return lines + [rng.normal(size=(200, 3)) ** 3 for _ in range(8)]


# --- temperature


@pytest.mark.parametrize("true", [0.4, 1.0, 2.5])
def test_a_known_temperature_is_found(true: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(20_000, 5, generator=generator) * 3
    label = torch.multinomial((logits / true).softmax(-1), 1, generator=generator)[:, 0]
    assert calibrate_temperature(logits, label) == pytest.approx(true, rel=0.04)


def test_a_temperature_is_found_whatever_the_caller_does_with_gradients() -> None:
    label = torch.tensor([0, 1, 1, 0])
    with torch.inference_mode():
        logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [1.0, 0.0], [3.0, 0.0]])
        inside = calibrate_temperature(logits, label)
    with torch.no_grad():
        assert calibrate_temperature(logits, label) == inside


def test_a_few_clouds_that_are_all_right_give_no_certainty() -> None:
    # The likelihood alone has its maximum at temperature 0.
    logits = torch.eye(4) * 2
    temperature = calibrate_temperature(logits, torch.arange(4))
    assert 0.2 < temperature < 1
    assert (logits / temperature).softmax(-1).max() < 0.9999


def test_what_cannot_be_calibrated(model: EAClassifier, val: Some) -> None:
    with pytest.raises(ValueError, match="logits must have at least one row, got none"):
        calibrate_temperature(torch.empty(0, 3), torch.empty(0, dtype=torch.long))
    with pytest.raises(ValueError, match="features and held_out must have rows, got 0 and 2"):
        fit_detector(torch.empty(0, 3), torch.empty(0, dtype=torch.long), torch.ones(2, 3))
    nothing = torch.utils.data.Subset(val, [])
    with pytest.raises(ValueError, match="needs clouds of the train and the val split, got none"):
        calibrate_classifier(model, nothing, val)
    with pytest.raises(ValueError, match=r"the model must be in evaluation mode; call model.eval"):
        calibrate_classifier(create_model("ea_classifier_tiny", num_classes=4), val, val)
    with pytest.raises(ValueError, match=r"temperature must be in 0\.001\.\.1000\.0, got 0"):
        Calibration(0.0)


# --- expected calibration error


def slow_error(logits: Tensor, label: Tensor, temperature: float) -> float:
    """The definition, bin by bin: the share of answers times |mean probability - share right|."""
    probs = (logits.double() / temperature).softmax(-1).numpy()
    confidence, right = probs.max(1), probs.argmax(1) == label.numpy()
    total = 0.0
    for place in range(15):
        low, high = place / 15, (place + 1) / 15
        inside = (confidence >= low) & ((confidence < high) | (place == 14))
        if inside.any():
            total += inside.mean() * abs(confidence[inside].mean() - right[inside].mean())
    return total


@pytest.mark.parametrize("temperature", [0.05, 1.0, 3.0])  # the first: many of exactly 1
def test_calibration_error_is_the_definition(temperature: float) -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(500, 4, generator=generator) * 3
    label = torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]
    metric = CalibrationError(temperature)
    for rows in (slice(0, 200), slice(200, 500)):
        metric.update(logits[rows], label[rows])
    assert float(metric.compute()) == pytest.approx(slow_error(logits, label, temperature))


def test_points_are_judged_among_the_parts_of_their_category() -> None:
    spec = DataSpec(("leg", "top", "body", "handle"), category_names=("table", "mug"),
                    parts=((0, 1), (2, 3)))  # fmt: skip
    logits = torch.arange(16.0).view(2, 2, 4)
    batch = {
        "part_label": torch.tensor([[0, 1], [3, -1]]),
        "category": torch.tensor([0, 1]),
        "mask": torch.tensor([[True, True], [True, False]]),
    }
    rows, label = labelled_points(logits, batch, spec)
    assert label.tolist() == [0, 1, 3]
    expected = torch.zeros(3, 4)
    expected[:2, :2] = torch.tensor([0.0, 1.0]).softmax(-1)
    expected[2, 2:] = torch.tensor([0.0, 1.0]).softmax(-1)
    assert torch.allclose(rows.softmax(-1), expected)


# --- OOD detector


def test_distance_is_that_of_mahalanobis() -> None:
    generator = torch.Generator().manual_seed(0)
    label = torch.arange(600) % 3
    features = torch.randn(3, 4, generator=generator)[label] * 2
    features = features + torch.randn(600, 4, generator=generator)
    # The fifth class of five does not occur, and the second neither.
    found = fit_detector(features, label * 2 - (label == 2).long(), features[:100])
    scaled = (features / features.norm(dim=1, keepdim=True)).double().numpy()
    means = np.stack([scaled[label.numpy() == place].mean(0) for place in range(3)])
    offset = scaled - means[label.numpy()]
    covariance = offset.T @ offset / 600
    covariance += 1e-3 * np.trace(covariance) / 4 * np.eye(4)
    inverse = np.linalg.inv(covariance)
    for row in (0, 17, 599):
        apart = scaled[row] - means
        expected = np.sqrt(np.einsum("kc,cd,kd->k", apart, inverse, apart).min())
        assert float(found.distance(features[row : row + 1])) == pytest.approx(expected, rel=1e-4)
    assert torch.equal(found.distances, found.distance(features[:100]).sort().values)


def test_shares_and_warnings_count_validation_clouds() -> None:
    def detector(count: int) -> MahalanobisDetector:
        return MahalanobisDetector(torch.zeros(1, 2), torch.eye(2), torch.arange(count) / count)

    assert detector(200).ood_score(0.5) == 0.5
    assert detector(200).ood_score(-1.0) == 0.0
    assert detector(200).ood_score(9.0) == 1.0
    assert detector(200).is_ood(0.99)
    assert not detector(200).is_ood(0.97)
    # Too few to tell one in fifty.
    assert not detector(48).is_ood(9.0)
    assert detector(49).is_ood(9.0)


def test_features_that_do_not_vary() -> None:
    found = fit_detector(torch.ones(5, 3), torch.zeros(5, dtype=torch.long), torch.ones(2, 3))
    assert found.distances.isfinite().all()


def test_far_objects_score_higher_than_val(model: EAClassifier, clouds: list[np.ndarray]) -> None:
    predictor = Predictor(model, "cpu")
    near, far = predictor.classify(clouds), predictor.classify(far_clouds())
    shares = [np.array([each.ood_score for each in results], float) for results in (near, far)]
    below = shares[0][:, None] < shares[1]
    assert below.mean() > 0.8  # the area under the ROC curve
    assert np.mean(shares[0]) == pytest.approx(0.5, abs=0.15)  # like val, as it should be
    # Hints at another axis, which a network this small gives too often, are not counted.
    warned = sum(OOD_WARNING in (each.warning or "") for each in near)
    assert warned <= 0.1 * len(near)


def test_the_warning(model: EAClassifier, clouds: list[np.ndarray]) -> None:
    assert model.calibration is not None
    known = model.calibration.detector
    assert known is not None
    strict = MahalanobisDetector(known.class_means, known.whitening, torch.zeros(60))
    plain = create_model("ea_classifier_tiny", data_spec=model.data_spec, **SMALL)
    plain.calibration = Calibration(1.0, strict)
    result = Predictor(plain, "cpu").classify(clouds[0])
    assert result.ood_score == 1
    expected = "out of distribution: the prediction is unreliable"
    assert result.warning == expected  # no axis fits better
    assert Predictor(plain, "cpu").classify(clouds[0], up="z").warning == expected


def test_a_better_axis_is_suggested(model: EAClassifier, clouds: list[np.ndarray]) -> None:
    predictor = Predictor(model, "cpu")
    lying = [as_if_up("z", xyz) for xyz in clouds]
    right = predictor.classify(lying, up="z")
    hints = [each.warning or "" for each in predictor.classify(lying)]
    advised = [hint for hint in hints if "up fits better" in hint]
    assert len(advised) > len(clouds) / 4
    for hint, known in zip(hints, right, strict=True):
        if hint.endswith("try --up z"):
            assert f"z up fits better ({known.label} {known.prob:.0%}): try --up z" in hint
    assert sum(hint.endswith("try --up z") for hint in hints) >= 0.7 * len(advised)
    false = [each for each in right if "fits better" in (each.warning or "")]
    assert len(false) < len(advised)  # by a network of a few epochs


# --- which way up


def as_if_up(axis: str, xyz: np.ndarray) -> np.ndarray:
    """The cloud, y up, in a frame where ``axis`` is up, turned by a right angle about it."""
    x, y, z = xyz.T
    turned = {"x": (y, x, -z), "y": (z, y, -x), "z": (x, -z, y)}[axis]
    return np.stack(turned, axis=1)


@pytest.mark.parametrize("axis", ["x", "y", "z"])
def test_auto_finds_the_axis_however_the_object_faces(
    model: EAClassifier, clouds: list[np.ndarray], axis: str
) -> None:
    predictor = Predictor(model, "cpu")
    known = predictor.classify(clouds)
    found = predictor.classify([as_if_up(axis, xyz) for xyz in clouds], up="auto")
    assert np.mean([each.up == axis for each in found]) > 0.5  # by chance 0.33
    same = [one.label == other.label for one, other in zip(known, found, strict=True)]
    assert np.mean(same) > 0.5
    margins = [each.up_margin for each in found if each.up_margin is not None]
    assert len(margins) == len(found)
    assert all(0 <= margin <= 1 for margin in margins)
    assert all(each.up_margin is None for each in known)


def test_auto_without_calibration_takes_the_most_certain_pose(
    model: EAClassifier, clouds: list[np.ndarray]
) -> None:
    plain = create_model("ea_classifier_tiny", data_spec=model.data_spec, **SMALL)
    plain.load_state_dict(model.state_dict())
    predictor = Predictor(plain, "cpu")
    auto = predictor.classify(clouds[:5], up="auto")
    for xyz, found in zip(clouds, auto, strict=False):
        tried = {axis: predictor.classify(xyz, up=axis).prob for axis in "xyz"}
        assert found.prob >= max(tried.values()) - 1e-5
        assert (found.ood_score, found.warning) == (None, None)


# --- probabilities


def test_the_predictor_divides_by_the_temperature(
    model: EAClassifier, clouds: list[np.ndarray]
) -> None:
    calibration = model.calibration
    assert calibration is not None
    with torch.inference_mode():
        logits = model(torch.from_numpy(clouds[0])[None])
    expected = (logits / calibration.temperature).softmax(-1).max()
    assert Predictor(model, "cpu").classify(clouds[0]).prob == pytest.approx(
        float(expected), abs=1e-4
    )


def test_calibration_makes_val_more_honest(model: EAClassifier, val: Some) -> None:
    with torch.inference_mode():
        logits = model(val.xyz)
    assert model.calibration is not None
    fitted = model.calibration.temperature
    nll = {each: float(F.cross_entropy(logits / each, val.label)) for each in (1.0, fitted)}
    assert nll[fitted] < nll[1.0]


class Answers(torch.utils.data.Dataset[dict[str, Tensor]]):
    """Points of three-part objects, with answers that are twice too certain."""

    def __init__(self, spec: DataSpec) -> None:
        generator = torch.Generator().manual_seed(0)
        self.category = torch.arange(40) % 2
        self.logits = torch.randn(40, 200, 6, generator=generator) * 4
        own = torch.tensor(spec.parts)[self.category][:, None].expand(-1, 200, -1)
        probs = (self.logits.gather(2, own) / 2).softmax(-1)
        drawn = torch.multinomial(probs.flatten(0, 1), 1, generator=generator).view(40, 200, 1)
        self.part_label = own.gather(2, drawn)[..., 0]
        self.mask = torch.rand(40, 200, generator=generator) < 0.9
        self.part_label[~self.mask] = -1
        self.xyz = torch.randn(40, 200, 3, generator=generator)
        self.xyz[self.category == 1, :, 1] *= 4  # lamps are tall

    def __len__(self) -> int:
        return len(self.category)

    def __getitem__(self, index: int | list[int]) -> dict[str, Tensor]:
        names = ("category", "logits", "part_label", "mask", "xyz")
        return {name: getattr(self, name)[index] for name in names}


def test_a_segmenter_is_calibrated_among_the_parts_of_the_category(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = tuple("abcdef")
    spec = DataSpec(names, category_names=("cup", "lamp"), parts=((0, 1, 2), (3, 4, 5)))
    segmenter = create_model("ea_segmenter_tiny", data_spec=spec).eval()
    monkeypatch.setattr(calibrate, "part_logits", lambda _, batch: batch["logits"])
    shapes = Answers(spec)
    calibration = calibrate.calibrate_segmenter(segmenter, shapes, shapes, 16)  # pyright: ignore
    assert calibration.temperature == pytest.approx(2, rel=0.05)
    assert calibration.detector is not None
    segmenter.calibration = calibration
    flat = shapes.xyz[0] * torch.tensor([1.0, 0.02, 1.0])
    known, unknown = (
        Predictor(segmenter, "cpu").segment(each.numpy(), category="cup", up="y").ood_score
        for each in (shapes.xyz[0], flat)
    )
    assert known is not None
    assert unknown is not None
    assert unknown > known


def test_confidence_of_points_is_divided_by_the_temperature() -> None:
    torch.manual_seed(0)
    spec = DataSpec(NAMES, category_names=("cup",), parts=((0, 1, 2, 3),))
    segmenter = create_model("ea_segmenter_tiny", data_spec=spec).eval()
    assert isinstance(segmenter, EASegmenter)
    xyz = np.random.default_rng(0).normal(size=(60, 3))
    before = Predictor(segmenter, "cpu").segment(xyz, category="cup")
    segmenter.calibration = Calibration(0.01)
    after = Predictor(segmenter, "cpu").segment(xyz, category="cup")
    assert (after.labels == before.labels).all()
    assert after.confidence.mean() > before.confidence.mean() + 0.1


# --- on disk


def test_calibration_is_saved_with_the_weights(
    model: EAClassifier, clouds: list[np.ndarray], tmp_path: Path
) -> None:
    expected = Predictor(model, "cpu").classify(clouds[:3] + far_clouds()[:2])
    for _ in range(2):  # the second time it replaces what is there
        model.save_pretrained(tmp_path / "weights")
    names = sorted(path.name for path in (tmp_path / "weights").iterdir())
    assert names == ["calibration.safetensors", "config.json", "model.safetensors"]
    loaded = Predictor.from_pretrained(tmp_path / "weights", "cpu")
    assert loaded.classify(clouds[:3] + far_clouds()[:2]) == expected
    assert loaded.model.calibration is not None
    assert loaded.model.calibration.detector is not None
    assert loaded.model.calibration.detector.threshold == 0.98


def test_weights_without_calibration(
    model: EAClassifier, clouds: list[np.ndarray], tmp_path: Path
) -> None:
    model.save_pretrained(tmp_path / "weights")
    path = tmp_path / "weights" / "config.json"
    description = json.loads(path.read_text())
    del description["calibration"]  # as older weights have none
    path.write_text(json.dumps(description))
    loaded = load_model(str(tmp_path / "weights"))
    assert loaded.calibration is None
    result = Predictor(loaded, "cpu").classify(clouds[0])
    with torch.inference_mode():
        plain = loaded(torch.from_numpy(clouds[0])[None]).softmax(-1).max()
    assert result.prob == pytest.approx(float(plain), abs=1e-4)
    assert (result.ood_score, result.warning, result.up_margin) == (None, None, None)
    # What was calibrated before does not stay beside new weights.
    loaded.save_pretrained(tmp_path / "weights")
    names = sorted(path.name for path in (tmp_path / "weights").iterdir())
    assert names == ["config.json", "model.safetensors"]


@pytest.mark.parametrize("damage", ["missing", "cut", "temperature"])
def test_a_damaged_calibration(model: EAClassifier, tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "weights"
    model.save_pretrained(folder)
    tensors = folder / "calibration.safetensors"
    if damage == "missing":
        tensors.unlink()
    elif damage == "cut":
        tensors.write_bytes(tensors.read_bytes()[:50])
    else:
        description = json.loads((folder / "config.json").read_text())
        description["calibration"]["temperature"] = "warm"
        (folder / "config.json").write_text(json.dumps(description))
    with pytest.raises(ValueError, match=r"the calibration in .* is damaged .*; copy the folder"):
        load_model(str(folder))


# --- runs


def strip(weights: Path) -> None:
    """Take the calibration away, as older weights have none."""
    path = weights / "config.json"
    description = json.loads(path.read_text())
    del description["calibration"]
    path.write_text(json.dumps(description))
    (weights / "calibration.safetensors").unlink(missing_ok=True)


@pytest.mark.parametrize("options", [QUICK, PARTS], ids=["classifier", "segmenter"])
def test_a_training_ends_with_calibration_and_evaluate_can_do_it_later(
    options: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = train(load_recipe("procedural", [*options, "trainer.epochs=1"]), tmp_path / "run")
    trained = [load_model(str(run / name)).calibration for name in ("best", "last")]
    for name in ("best", "last"):
        strip(run / name)
    monkeypatch.setenv("COLUMNS", "200")

    def evaluate(*arguments: str) -> str:
        assert call(monkeypatch, "evaluate", run, *arguments) == 0
        return capsys.readouterr().out

    assert ", not calibrated, --calibrate does that" in evaluate("--split", "val")
    assert load_model(str(run / "best")).calibration is None
    assert "fitted on val" in evaluate("--split", "val", "--calibrate")
    for name, expected in zip(("best", "last"), trained, strict=True):
        found = load_model(str(run / name)).calibration
        assert expected is not None
        assert found is not None
        assert found.temperature == expected.temperature
        assert found.detector is not None
        assert expected.detector is not None
        assert torch.equal(found.detector.distances, expected.detector.distances)
        if options is QUICK:
            assert len(found.detector.distances) == 28
    first = json.loads(evaluate("--json"))[0]["reports"][0]["calibration"]
    assert first["temperature"] == pytest.approx(trained[0].temperature)  # pyright: ignore
    assert 0 <= first["ece"] <= 1
    assert 0 <= first["ece_calibrated"] <= 1


def test_a_run_that_was_trained_on_val_is_not_calibrated(tmp_path: Path) -> None:
    recipe = load_recipe("modelnet10", ["data.train_split=trainval"])
    for name in ("best", "last"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    save_recipe(recipe, tmp_path / "recipe.yaml")
    with pytest.raises(ValueError, match=r"trained on its val split too; nothing is left to calib"):
        calibrate_run(tmp_path, torch.device("cpu"))
