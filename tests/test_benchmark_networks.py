"""The benchmarks of training, inference and segmentation, beside plain PyTorch and others."""

import json

import pytest
import torch

from ea_pointcloud.models import create_model
from ea_pointcloud.ops import farthest_point_sample
from ea_pointcloud.ops.sampling import outermost_point
from scripts.benchmarks import networks, segment
from scripts.benchmarks.networks import benchmark_infer, benchmark_train, tables
from scripts.benchmarks.peers_networks import make_peers
from scripts.benchmarks.plain_network import PlainClassifier, farthest_points
from scripts.benchmarks.report import failures, not_measured
from scripts.benchmarks.segment import benchmark_segment
from tests.test_fuse_bn import trained

CPU = torch.device("cpu")


@pytest.mark.parametrize("size", ["tiny", "base"])
def test_the_plain_network_is_ours_with_the_same_weights(size: str) -> None:
    model = trained(f"ea_classifier_{size}")
    plain = PlainClassifier(model).eval()  # pyright: ignore[reportArgumentType]
    xyz = torch.randn(2, 600, 3)
    with torch.inference_mode():
        expected = model(xyz)
        torch.testing.assert_close(plain(xyz), expected, atol=1e-4, rtol=1e-4)
    assert float(expected.std()) > 0.05  # not a constant


def test_the_plain_network_trains_as_ours() -> None:
    torch.manual_seed(0)
    model = create_model("ea_classifier_tiny", num_classes=5, dropout=0.0).double().train()
    plain = PlainClassifier(model).double().train()
    xyz, label = torch.randn(4, 300, 3).double(), torch.arange(4)  # no ties but by rounding
    for network in (model, plain):
        torch.nn.functional.cross_entropy(network(xyz), label).backward()
    for ours, theirs in (
        (model.encoder.embeddings[0].mix, plain.embeddings[0][3]),
        (model.encoder.stem_in.linear, plain.stem[0][0]),
    ):
        grads = theirs.weight.grad[..., 0], ours.weight.grad
        torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-6)  # the attention's sums are float32
    norm = plain.stem[0][1]
    torch.testing.assert_close(norm.running_var, model.encoder.stem_in.norm.running_var)


def test_the_loop_of_the_plain_network_picks_the_same_points() -> None:
    xyz = torch.randn(3, 200, 3)
    expected = farthest_point_sample(xyz, 50, start=outermost_point(xyz))
    assert torch.equal(farthest_points(xyz, 50, outermost_point(xyz)), expected)


def test_peers_take_part_where_their_libraries_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scripts.benchmarks.peers_networks.find_spec", lambda name: None)
    why = "needs torch-geometric and torch-cluster"
    assert make_peers(5) == ({}, {"PointNet++ (PyG)": why, "DGCNN (PyG)": why})


def test_peers_classify() -> None:
    pytest.importorskip("torch_cluster")
    found, skipped = make_peers(5)
    assert (len(found), skipped) == (2, {})
    for network in found.values():
        assert network.eval()(torch.randn(2, 128, 3)).shape == (2, 5)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clouds and batches that take no time, and no networks of others."""
    monkeypatch.setattr(networks, "NUM_POINTS", 64)
    monkeypatch.setattr(networks, "make_peers", lambda count: ({}, {"DGCNN": "not here"}))
    monkeypatch.setattr(networks, "INFER_BATCHES", {"cpu": (2,)})
    monkeypatch.setattr("scripts.benchmarks.timing._BATCH_SECONDS", 1e-3)


@pytest.mark.usefixtures("small")
def test_inference_beside_plain_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "has_bfloat16", lambda device: False)
    models = ["ea_classifier_tiny", "pointnet_classifier_tiny"]
    report = benchmark_infer(CPU, only=models, quick=True)
    rows = {(row["model"], row["name"]): row for row in report["rows"]}
    ours = ("ours", "ours, batch norm not fused")
    assert set(rows) == {
        *((models[0], name) for name in (*ours, "plain PyTorch")),
        *((models[1], name) for name in ours),
    }
    own, plain = (rows[models[0], name] for name in ("ours", "plain PyTorch"))
    assert plain["ratio"] == pytest.approx(plain["median_ms"] / own["median_ms"])
    assert plain["met"] == (plain["ratio"] >= 3)
    assert own["clouds_per_second"] == pytest.approx(2e3 / own["median_ms"])
    assert report["models"][0]["parameters"] == 887_816
    assert report["skipped"] == {"DGCNN": "not here"}
    assert failures(report) == []
    text = "\n".join([*tables(report), *not_measured(report)])
    assert "plain PyTorch" in text
    assert "skipped: not here" in text
    json.dumps(report, allow_nan=False)
    with pytest.raises(ValueError, match=r"--only must be one of .*, got 'tin"):
        benchmark_infer(CPU, only=["tiny"])


@pytest.mark.usefixtures("small")
def test_training_beside_plain_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "has_bfloat16", lambda device: True)
    report = benchmark_train(CPU, only=["ea_classifier_tiny"], quick=True)
    rows = {(row["name"], row["precision"]): row for row in report["rows"]}
    both = ("float32", "bfloat16")
    assert set(rows) == {(name, kind) for name in ("ours", "plain PyTorch") for kind in both}
    for row in rows.values():
        assert row["epoch"] == "from steps"
        assert row["epoch_seconds"] == pytest.approx(row["median_ms"] / 1e3 * 9843 / 4)
    assert failures(report) == []
    assert "s/epoch" in tables(report)[0]
    json.dumps(report, allow_nan=False)


def test_segmentation_of_larger_clouds(monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(function: object, device: str, kind: str, count: int, threads: int) -> tuple:
        if count > 10**5:
            return None, "no memory"
        return {"seconds": count / 1e4, "cpu_seconds": 1.0, "peak_mb": 500.0}, ""

    monkeypatch.setattr(segment, "in_own_process", measured)
    monkeypatch.setattr(segment, "available_memory", lambda device: 10**10)
    report = benchmark_segment(CPU)
    asked = [(row["attention"], row["num_points"], row["growth"]) for row in report["rows"]]
    assert asked == [("external", 10**4, None), ("external", 10**5, 10.0), ("self", 10**4, None)]
    assert report["failed"] == {"external, 1,000,000 points": "no memory"}
    assert report["skipped"] == {"self, 100,000 points": "needs 120.0 GB, 10.0 GB are free"}
    assert "100,000" in segment.tables(report)[0]
    with pytest.raises(ValueError, match="--only must be one of 'external', 'self', got 'none'"):
        benchmark_segment(CPU, only=["none"])


def test_one_cloud_is_segmented() -> None:
    found = segment.measure("cpu", "external", 1500, torch.get_num_threads())
    assert found["seconds"] > 0
    assert found["peak_mb"] is None or found["peak_mb"] > 50
