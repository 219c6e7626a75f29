from pathlib import Path

import numpy as np
import pytest
import torch

from ea_pointcloud import Cloud, Predictor, create_model, write_cloud
from ea_pointcloud.models import DataSpec, EAClassifier

NAMES = ("bowl", "cone", "vase")


@pytest.fixture(scope="module")
def model() -> EAClassifier:
    torch.manual_seed(0)
    spec = DataSpec(NAMES, num_points=64)
    return create_model("ea_classifier_tiny", data_spec=spec).eval()


@pytest.fixture
def xyz() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(300, 3)) * [1.0, 2.0, 0.5]


def test_result_of_one_and_of_many(model: EAClassifier, xyz: np.ndarray) -> None:
    predictor = Predictor(model, "cpu")
    one = predictor.classify(xyz)
    assert one.label == one.top[0].label
    assert one.prob == one.top[0].prob
    probs = [candidate.prob for candidate in one.top]
    assert probs == sorted(probs, reverse=True)
    assert sum(probs) == pytest.approx(1.0, abs=1e-6)
    assert {candidate.label for candidate in one.top} == set(NAMES)
    # Batch independence: alone, or beside clouds of other sizes (and over more than one batch).
    many = predictor.classify([xyz, xyz[:5], *[xyz[:100]] * 33, xyz], top=1)
    assert len(many) == 36
    assert many[0].label == many[-1].label == one.label
    assert many[0].prob == pytest.approx(one.prob, abs=1e-5)
    assert len(many[0].top) == 1


def test_place_size_and_repetition_do_not_matter(model: EAClassifier, xyz: np.ndarray) -> None:
    predictor = Predictor(model, "cpu")
    expected = predictor.classify(xyz)
    assert predictor.classify(xyz) == expected
    far = predictor.classify(xyz * 0.001 + [4.0e5, 5.0e6, 120.0])  # UTM metres, millimetre object
    assert far.label == expected.label
    assert far.prob == pytest.approx(expected.prob, abs=1e-3)


def test_up_axis_is_turned_to_the_models(model: EAClassifier, xyz: np.ndarray) -> None:
    predictor = Predictor(model, "cpu")
    z_up = np.stack([-xyz[:, 0], xyz[:, 2], xyz[:, 1]], 1)  # so that (-x, z, y) gives xyz back
    assert predictor.classify(z_up, up="z").prob == pytest.approx(
        predictor.classify(xyz).prob, abs=1e-6
    )


def test_files_and_clouds(model: EAClassifier, xyz: np.ndarray, tmp_path: Path) -> None:
    cloud = Cloud((xyz - xyz.mean(0)).astype(np.float32), center=xyz.mean(0))
    write_cloud(tmp_path / "a.ply", cloud)
    model.save_pretrained(tmp_path / "weights")
    predictor = Predictor.from_pretrained(tmp_path / "weights", device="cpu")
    by_file, by_cloud, by_array = predictor.classify([tmp_path / "a.ply", cloud, xyz])
    assert by_file.prob == pytest.approx(by_array.prob, abs=1e-4)
    assert by_cloud.prob == pytest.approx(by_array.prob, abs=1e-4)


def test_order_of_the_points_does_not_matter(model: EAClassifier, xyz: np.ndarray) -> None:
    predictor = Predictor(model, "cpu")
    shuffled = np.random.default_rng(1).permutation(xyz)
    assert predictor.classify(shuffled).prob == pytest.approx(
        predictor.classify(xyz).prob, abs=1e-5
    )


def test_the_model_sees_farthest_points(xyz: np.ndarray) -> None:
    spec = DataSpec(NAMES, num_points=16)
    model = create_model("ea_classifier_tiny", data_spec=spec)
    seen = []
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    Predictor(model, "cpu").classify(xyz)
    sampled = seen[0][0]
    assert float(torch.pdist(sampled).min()) > 0.15  # random points would include close pairs


def test_small_clouds_are_not_filled_up_with_copies(xyz: np.ndarray) -> None:
    model = create_model("ea_classifier_tiny", data_spec=DataSpec(NAMES, num_points=64))
    seen = []
    model.encoder.register_forward_pre_hook(
        lambda _, inputs, options: seen.append((inputs[0].shape, options["mask"])),
        with_kwargs=True,
    )
    Predictor(model, "cpu").classify([xyz[:10], xyz])
    shape, mask = seen[0]
    assert shape == (2, 64, 3)
    assert mask.sum(1).tolist() == [10, 64]


def test_repr(model: EAClassifier) -> None:
    assert repr(Predictor(model, "cpu")) == "Predictor(EAClassifier, 3 classes, cpu)"


def test_what_is_no_cloud(model: EAClassifier) -> None:
    predictor = Predictor(model, "cpu")
    with pytest.raises(
        ValueError, match=r"a cloud must be an array \(N, 3\) with N >= 1, got shap"
    ):
        predictor.classify(np.zeros((0, 3)))
    with pytest.raises(ValueError, match=r"got shape \(5, 4\)"):
        predictor.classify(np.zeros((5, 4)))
    with pytest.raises(
        ValueError, match="a cloud must have finite coordinates; drop rows with NaN"
    ):
        predictor.classify(np.full((5, 3), np.nan))
    with pytest.raises(ValueError, match="up must be one of 'x', 'y', 'z', got 'w'"):
        predictor.classify(np.zeros((5, 3)), up="w")
    with pytest.raises(ValueError, match="a cloud must have an extent, got 5 points in one place"):
        predictor.classify(np.ones((5, 3)))
    with pytest.raises(ValueError, match="top must be at least 1, got 0"):
        predictor.classify(np.zeros((5, 3)), top=0)
    tipped = create_model("ea_classifier_tiny", data_spec=DataSpec(NAMES, up_axis="z"))
    with pytest.raises(ValueError, match="the model must be one with y up, got z up"):
        Predictor(tipped, "cpu")
    with pytest.raises(FileNotFoundError, match="no such file"):
        predictor.classify("missing.ply")
    with pytest.raises(
        FileNotFoundError, match="no folder nowhere; give a folder of weights, a ru"
    ):
        Predictor.from_pretrained("nowhere")
    with pytest.raises(
        ValueError, match="device must be 'auto', 'cpu', 'cuda' or 'cuda:N', got 'g"
    ):
        Predictor(model, "gpu")
    if not torch.cuda.is_available():
        with pytest.raises(
            ValueError, match="'cuda' was asked for, but 0 GPUs are usable; take 'cp"
        ):
            Predictor(model, "cuda")
