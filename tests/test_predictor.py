import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from ea_pointcloud import Cloud, Predictor, create_model, write_cloud
from ea_pointcloud.inference.preprocess import inliers, preprocess
from ea_pointcloud.models import DataSpec, EAClassifier
from ea_pointcloud.nn import PointBatchNorm

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
    many = predictor.classify([xyz, xyz[:5], *[xyz[:100]] * 33, xyz], topk=1)
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
    model.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
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


def test_classify_takes_preprocessed_inputs(model: EAClassifier, xyz: np.ndarray) -> None:
    predictor = Predictor(model, "cpu")
    clouds = [xyz, xyz[:50], xyz[:7] * 3]
    options = {"tta_rotations": 3, "topk": 2}
    for up in ("z", "auto"):
        prepared = [predictor.preprocess(each, up=up, remove_outliers=True) for each in clouds]
        # As it comes back from a worker process, which has the description and no model.
        sent = [preprocess(each, model.data_spec, up=up, remove_outliers=True) for each in clouds]
        sent = pickle.loads(pickle.dumps(sent))
        assert all(torch.equal(one.xyz, two.xyz) for one, two in zip(prepared, sent, strict=True))
        expected = predictor.classify(clouds, up=up, remove_outliers=True, **options)
        assert predictor.classify(sent, **options) == expected
    assert predictor.classify([]) == []


def test_auto_gives_the_same_alone_and_in_a_batch(model: EAClassifier, xyz: np.ndarray) -> None:
    predictor = Predictor(model, "cpu")
    alone = predictor.classify(xyz, up="auto", tta_rotations=2)
    among = [xyz[:40], xyz[:100], xyz]  # 36 poses: more than one batch
    beside = predictor.classify(among, up="auto", tta_rotations=2)[-1]
    assert (beside.label, beside.up) == (alone.label, alone.up)
    assert beside.prob == pytest.approx(alone.prob, abs=1e-5)
    assert beside.up_margin == pytest.approx(alone.up_margin, abs=1e-4)


def test_rotations_average_the_probabilities(model: EAClassifier, xyz: np.ndarray) -> None:
    predictor = Predictor(model, "cpu")
    turned = []
    for step in range(4):
        cos, sin = np.cos(step * np.pi / 2), np.sin(step * np.pi / 2)
        turned.append(xyz @ np.array([[cos, 0, -sin], [0, 1, 0], [sin, 0, cos]]))
    each = [
        {candidate.label: candidate.prob for candidate in result.top}
        for result in predictor.classify(turned)
    ]
    found = predictor.classify(xyz, tta_rotations=4)
    for candidate in found.top:
        mean = np.mean([probs[candidate.label] for probs in each])
        assert candidate.prob == pytest.approx(mean, abs=1e-4)


def with_outliers(xyz: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A surface, with stray points at places of its own."""
    rng = np.random.default_rng(2)
    ball = xyz / np.linalg.norm(xyz, axis=1, keepdims=True)
    stray = rng.normal(size=(6, 3))
    stray *= 4 / np.linalg.norm(stray, axis=1, keepdims=True)
    return np.concatenate([ball[:150], stray, ball[150:]]), np.arange(150, 156)


def test_denoise_leaves_planted_outliers_out(model: EAClassifier, xyz: np.ndarray) -> None:
    noisy, stray = with_outliers(xyz)
    kept = inliers(torch.from_numpy(noisy)).numpy()
    assert not kept[stray].any()
    assert kept.sum() >= 290
    predictor = Predictor(model, "cpu")
    clean = predictor.classify(noisy[kept])
    assert predictor.classify(noisy, remove_outliers=True) == clean
    assert predictor.classify(noisy).prob != pytest.approx(clean.prob, abs=1e-4)


def test_outliers_are_those_of_the_definition(xyz: np.ndarray) -> None:
    noisy, _ = with_outliers(xyz)
    apart = np.linalg.norm(noisy[:, None] - noisy[None], axis=2)
    mean = np.sort(apart, axis=1)[:, 1:17].mean(1)
    expected = mean <= mean.mean() + 2.5 * mean.std(ddof=1)
    assert (inliers(torch.from_numpy(noisy)).numpy() == expected).all()


@pytest.mark.parametrize("count", [1, 2, 3, 10])
def test_few_points_are_no_outliers_of_each_other(count: int) -> None:
    assert inliers(torch.eye(3, dtype=torch.float64).repeat(4, 1)[:count]).all()


def test_denoised_parts_come_back_for_every_point(xyz: np.ndarray) -> None:
    noisy, stray = with_outliers(xyz)
    torch.manual_seed(0)
    spec = DataSpec(("a", "b", "c"), category_names=("cup",), parts=((0, 1, 2),))
    grouped = {"num_centers": (64, 16), "num_neighbors": (8, 8), "embed_channels": (32, 32)}
    for overrides in ({}, grouped):
        segmenter = create_model("ea_segmenter_tiny", data_spec=spec, **overrides).eval()
        predictor = Predictor(segmenter, "cpu")
        kept = inliers(torch.from_numpy(noisy)).numpy()
        clean = predictor.segment(noisy[kept], category="cup")
        found = predictor.segment(noisy, category="cup", remove_outliers=True)
        assert (found.labels[kept] == clean.labels).all()
        assert (found.confidence[kept] == clean.confidence).all()
        assert (found.confidence[~kept] == 0).all()
        for place in stray:
            nearest = np.linalg.norm(noisy[kept] - noisy[place], axis=1).argmin()
            assert found.labels[place] == clean.labels[nearest]
        assert (found.up, found.up_margin, found.warning) == ("y", None, None)


def test_parts_with_the_axis_left_open(xyz: np.ndarray) -> None:
    torch.manual_seed(0)
    spec = DataSpec(("a", "b", "c"), category_names=("cup",), parts=((0, 1, 2),))
    segmenter = create_model("ea_segmenter_tiny", data_spec=spec).eval()
    with torch.no_grad():
        segmenter.out.weight.mul_(20)
    predictor = Predictor(segmenter, "cpu")
    found = predictor.segment(xyz, category="cup", up="auto", tta_rotations=2)
    each = {up: predictor.segment(xyz, category="cup", up=up) for up in "xyz"}
    assert found.up == max(each, key=lambda up: float(each[up].confidence.mean()))
    assert found.up_margin is not None
    assert 0 <= found.up_margin <= 1
    known = predictor.segment(xyz, category="cup", up=found.up, tta_rotations=2)
    assert (known.labels == found.labels).all()


def test_rotations_of_parts_average_the_probabilities(xyz: np.ndarray) -> None:
    torch.manual_seed(0)
    spec = DataSpec(("a", "b"), category_names=("cup",), parts=((0, 1),))
    segmenter = create_model("ea_segmenter_tiny", data_spec=spec).eval()
    predictor = Predictor(segmenter, "cpu")
    first = []  # the probability of part a at each point, under each turn
    for sign in (1, -1):  # half a turn about y
        found = predictor.segment(xyz * [sign, 1, sign], category="cup")
        first.append(np.where(found.labels == 0, found.confidence, 1 - found.confidence))
    mean = np.mean(first, axis=0)
    found = predictor.segment(xyz, category="cup", tta_rotations=2)
    assert np.allclose(found.confidence, np.maximum(mean, 1 - mean), atol=1e-4)


def test_a_classifier_names_the_axis_too(model: EAClassifier, xyz: np.ndarray) -> None:
    spec = DataSpec(("a", "b"), category_names=NAMES, parts=((0, 1),) * 3)
    segmenter = create_model("ea_segmenter_tiny", data_spec=spec).eval()
    namer = Predictor(model, "cpu")
    named = namer.classify(xyz, up="auto", remove_outliers=True)
    found = Predictor(segmenter, "cpu").segment(
        xyz, classifier=namer, up="auto", remove_outliers=True
    )
    assert (found.category, found.up, found.up_margin) == (named.label, named.up, named.up_margin)


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
    with pytest.raises(ValueError, match="up must be one of 'x', 'y', 'z', 'auto', got 'w'"):
        predictor.classify(np.zeros((5, 3)), up="w")
    with pytest.raises(ValueError, match="a cloud must have an extent, got 5 points in one place"):
        predictor.classify(np.ones((5, 3)))
    with pytest.raises(ValueError, match="tta_rotations must be at least 1, got 0"):
        predictor.classify(np.zeros((5, 3)), tta_rotations=0)
    with pytest.raises(ValueError, match="topk must be at least 1, got 0"):
        predictor.classify(np.zeros((5, 3)), topk=0)
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
        ValueError, match="device must be 'auto', 'cpu', 'cuda', 'cuda:N' or 'mps', got 'g"
    ):
        Predictor(model, "gpu")
    if not torch.cuda.is_available():
        with pytest.raises(
            ValueError, match="'cuda' is not available: PyTorch finds 0 CUDA GPUs; use 'cp"
        ):
            Predictor(model, "cuda")


def test_layers_may_run_in_bfloat16(model: EAClassifier, xyz: np.ndarray) -> None:
    exact = Predictor(model, "cpu").classify(xyz)
    rough = Predictor(model, "cpu", precision="bfloat16").classify(xyz)
    assert rough.prob != exact.prob
    probs = {each.label: each.prob for each in exact.top}
    assert {each.label: each.prob for each in rough.top} == pytest.approx(probs, abs=0.02)
    parts = DataSpec(("a", "b"), num_points=64)
    torch.manual_seed(0)
    segmenter = create_model("ea_segmenter_grouped_tiny", data_spec=parts, num_categories=0)
    found = [
        Predictor(segmenter, "cpu", precision=precision).segment(xyz)
        for precision in ("float32", "bfloat16")
    ]
    assert found[1].confidence.dtype == np.float32
    assert not np.array_equal(found[0].confidence, found[1].confidence)
    np.testing.assert_allclose(found[0].confidence, found[1].confidence, atol=0.02)
    with pytest.raises(ValueError, match="precision must be one of 'float32', 'bfloat16', got 'fp"):
        Predictor(model, "cpu", precision="fp16")


def test_a_predictor_runs_folded_layers_and_keeps_the_model(model: EAClassifier) -> None:
    predictor = Predictor(model, "cpu")
    assert predictor.model is model
    assert any(isinstance(module, PointBatchNorm) for module in predictor.model.modules())
    running = predictor._classifier()
    assert not any(isinstance(module, PointBatchNorm) for module in running.modules())
