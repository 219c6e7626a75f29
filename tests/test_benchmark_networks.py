import json
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from ea_pointcloud.benchmark import benchmark_infer, benchmark_train, infer, scaling, train
from ea_pointcloud.benchmark._step import PARTS
from ea_pointcloud.benchmark.peers_networks import OPENPOINTS, PEERS, make_peers
from ea_pointcloud.benchmark.plain_network import PlainClassifier, farthest_points
from ea_pointcloud.benchmark.report import failures, tables
from ea_pointcloud.models import create_model
from ea_pointcloud.ops import farthest_point_sample
from ea_pointcloud.ops.sampling import outermost_point
from ea_pointcloud.viz.curves import Panel, draw_curves
from tests.test_folded import trained

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
    assert torch.equal(farthest_points(xyz, 50), expected)


def test_the_plain_network_is_of_one_kind() -> None:
    with pytest.raises(ValueError, match=r"has external attention .* got attention='self', norm"):
        PlainClassifier(create_model("ea_classifier_tiny", attention="self"))


def test_peers_take_part_where_their_libraries_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ea_pointcloud.benchmark.peers_networks.find_spec", lambda name: None)
    monkeypatch.delenv(OPENPOINTS, raising=False)
    why = "needs torch-geometric and torch-cluster"
    checkout = f"needs {OPENPOINTS}, the folder of a PointNeXt checkout"
    assert make_peers(5) == ({}, dict(zip(PEERS, (why, why, checkout), strict=True)))


def test_peers_classify(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch_cluster")
    monkeypatch.delenv(OPENPOINTS, raising=False)
    networks, skipped = make_peers(5)
    assert (set(networks), set(skipped)) == (set(PEERS[:2]), {PEERS[2]})
    for network in networks.values():
        assert network.eval()(torch.randn(2, 128, 3)).shape == (2, 5)


# What PointNeXt's own example calls: its configuration, its builder, clouds as points and channels.
STAND_IN = {
    "cfgs/modelnet40ply2048/pointnext-s.yaml": "model:\n  cls_args:\n    num_classes: 40\n",
    "openpoints/__init__.py": "",
    "openpoints/utils.py": """
from pathlib import Path
from types import SimpleNamespace as Space
import yaml
class EasyConfig:
    def load(self, path, *, recursive=False):
        classes = yaml.safe_load(Path(path).read_text())["model"]["cls_args"]["num_classes"]
        self.model = Space(cls_args=Space(num_classes=classes))
""",
    "openpoints/models.py": """
from torch import nn
class Network(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.layer = nn.Conv1d(3, classes, 1)
    def forward(self, data):
        assert data["pos"].shape[-1] == 3
        return self.layer(data["x"]).amax(-1)
def build_model_from_cfg(config):
    return Network(config.cls_args.num_classes)
""",
}


def test_pointnext_comes_from_its_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv(OPENPOINTS, str(tmp_path))
    name = "PointNeXt-S (openpoints)"
    assert "No module named 'openpoints'" in make_peers(5)[1][name]
    for file, text in STAND_IN.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(text)
    try:
        network = make_peers(5)[0][name]
        assert network(torch.randn(2, 128, 3)).shape == (2, 5)
    finally:
        for module in [each for each in sys.modules if each.split(".")[0] == "openpoints"]:
            del sys.modules[module]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clouds and batches that take no time, and nobody else's networks."""
    for module in (infer, train):
        monkeypatch.setattr(module, "NUM_POINTS", 64)
        monkeypatch.setattr(module, "make_peers", lambda count: ({}, {PEERS[0]: "not here"}))
        monkeypatch.setattr(module, "matmul_rate", lambda device, dtype: 1e9)
    monkeypatch.setattr(infer, "BATCHES", {"cpu": (2,)})
    monkeypatch.setattr("ea_pointcloud.benchmark._measure._BATCH_SECONDS", 1e-3)


@pytest.mark.usefixtures("small")
def test_inference_beside_plain_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(infer, "has_bfloat16", lambda device: False)
    report = benchmark_infer(CPU, only=["tiny"], quick=True)
    rows = {row["contestant"]: row for row in report["rows"]}
    assert set(rows) == {"ours", "ours, not folded", "plain PyTorch"}
    ours, plain = rows["ours"], rows["plain PyTorch"]
    assert plain["ratio"] == pytest.approx(plain["median_ms"] / ours["median_ms"])
    assert plain["met"] == (plain["ratio"] >= 3)
    assert ours["floor_share"] == pytest.approx(1e3 * 2 * ours["macs"] / 1e9 / ours["median_ms"])
    assert report["skipped"] == {
        PEERS[0]: "not here", "growth with the points": "not with --quick",
    }  # fmt: skip
    assert failures(report) == []
    text = "\n".join(map(str, tables(report)))
    assert "plain PyTorch" in text
    assert "not with --quick" in text
    json.dumps(report, allow_nan=False)
    with pytest.raises(ValueError, match="--only must be one of 'tiny', 'small', 'base', got 'la"):
        benchmark_infer(CPU, only=["large"])


@pytest.mark.usefixtures("small")
def test_training_beside_plain_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(infer, "has_bfloat16", lambda device: True)
    report = benchmark_train(CPU, only=["tiny"], quick=True)
    rows = {(row["contestant"], row["precision"]): row for row in report["rows"]}
    both = ("float32", "bfloat16")
    assert set(rows) == {(name, kind) for name in ("ours", "plain PyTorch") for kind in both}
    for row in rows.values():
        assert row["epoch"] == "from steps"
        assert row["epoch_seconds"] == pytest.approx(row["median_ms"] / 1e3 * 9843 / 4)
    assert failures(report) == []
    assert "s/epoch" in "\n".join(map(str, tables(report)))
    json.dumps(report, allow_nan=False)


@pytest.mark.parametrize("other", [{"attention": "none"}, {"pooling": "top"}])
def test_what_the_plain_network_is_not(other: dict[str, str]) -> None:
    model = create_model("ea_classifier_tiny", **other)
    ((name, value),) = other.items()
    with pytest.raises(ValueError, match=rf"the plain network has .* got .*{name}='{value}'"):
        PlainClassifier(model)


@pytest.mark.parametrize("kind", ["external", "none"])
def test_one_size_is_measured(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "matmul_rate", lambda device, dtype: 1e9)
    found = scaling.measure_inference(CPU, kind, 512)
    assert (found["attention"], found["num_points"]) == (kind, 512)
    assert found["clouds_per_second"] == pytest.approx(1e3 / found["ms"])
    step = scaling.measure_training(CPU, kind, 512)
    assert tuple(step["parts"]) == PARTS
    assert min(step["parts"].values()) > 0
    assert step["ms"] == pytest.approx(sum(step["parts"].values()))
    report = {"rows": [], "growth": [found], "parts": [step], "skipped": {"a": "b"}, "failed": {},
              "num_points": 1, "batch": 1, "goal": 3.0, "machine": {
                  "versions": {}, "device_name": "x", "threads": 1, "load_average": None,
                  "cores": 1}}  # fmt: skip
    for table in ("infer", "train"):
        assert "512" in "\n".join(map(str, tables({**report, "kind": table})))


def test_sizes_are_measured_apart(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(scaling, "measure_inference", lambda *asked: {"asked": str(asked)})
    scaling.main("infer", "cpu", "self", "64")
    assert json.loads(capsys.readouterr().out)["asked"].endswith("'self', 64)")
    # A program that fails plays a size that runs out of memory.
    monkeypatch.setattr(sys, "executable", "/bin/false")
    rows, skipped = scaling.measure_scaling("infer", CPU, ["self"], [64, 128], lambda line: None)
    assert (rows, skipped) == ([], {"self, 64 points": "exit status 1"})
    monkeypatch.setattr(scaling, "available_memory", lambda device: 10**9)
    rows, skipped = scaling.measure_scaling("infer", CPU, ["self"], [10**5], lambda line: None)
    expected = "its affinities take about 160.0 GB, 1.0 GB are free"
    assert (rows, skipped) == ([], {"self, 100,000 points": expected})


def test_curves_rise_in_the_picture(tmp_path: Path) -> None:
    path = tmp_path / "curves.png"
    curves = {"linear": [(10, 1.0), (1000, 100.0)], "flat": [(10, 1.0), (1000, 1.0)]}
    draw_curves([Panel("time, ms", "points", curves), Panel("none", "points", {})], path)
    image = Image.open(path)
    assert image.size == (1120, 440)

    def lowest_and_highest(color: tuple[int, int, int]) -> tuple[int, int]:
        pixels = image.crop((300, 48, 560, 382)).load()
        rows = [y for y in range(334) for x in range(260) if pixels[x, y] == color]  # pyright: ignore
        return max(rows), min(rows)

    low, high = lowest_and_highest((0, 114, 178))  # linear: over two of two decades
    assert low - high > 100
    low, high = lowest_and_highest((213, 94, 0))
    assert low - high <= 10
    with pytest.raises(ValueError, match="must hold at least one point to draw, got none"):
        draw_curves([Panel("", "", {"a": []})], path)
    with pytest.raises(ValueError, match="logarithmic axes must be positive, got 0"):
        draw_curves([Panel("", "", {"a": [(1, 0), (2, 5)]})], path)
