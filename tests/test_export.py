"""Networks as files: ONNX in onnxruntime and torch.export in plain torch, beside the package."""

import contextlib
import importlib.util
import io
import json
import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ea_pointcloud import cli
from ea_pointcloud.export import METADATA, Deployed, export_model, writing
from ea_pointcloud.export.checking import example_inputs
from ea_pointcloud.inference.predictor import Predictor
from ea_pointcloud.io import write_mesh
from ea_pointcloud.models import Calibration, DataSpec, EAClassifier, EASegmenter, create_model
from tests.oracles import CLOUDS, cloud, fps_oracle, knn_oracle, seeded
from tests.test_cli import call

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

EXAMPLE = Path(__file__).parent.parent / "scripts" / "onnx_example.py"
SMALL: dict[str, Any] = {
    "num_centers": (32,),
    "num_neighbors": (8,),
    "embed_channels": (32,),
    "input_layers": 0,
    "depth": 1,
}
NAMES = ("chair", "café", "table", "lamp")
NUM_POINTS = 64
SIZES = (2, 5, 31, 64, 65, 200)  # below neighbours, centres and points of training, and beyond


def lively(model: Any, **options: Tensor) -> Any:
    """In evaluation mode, with running statistics of real clouds instead of 0 and 1."""
    for seed in range(3):
        model.train()(cloud("surface", 80, batch=4, seed=seed), **options)
    return model.eval()


def small_classifier(**overrides: Any) -> EAClassifier:
    torch.manual_seed(0)
    spec = DataSpec(NAMES, num_points=NUM_POINTS)
    return create_model("ea_classifier_tiny", data_spec=spec, **{**SMALL, **overrides})


def small_segmenter(size: str = "grouped_tiny", **overrides: Any) -> EASegmenter:
    torch.manual_seed(0)
    spec = DataSpec(
        ("seat", "leg", "top", "leg of a table"),
        num_points=NUM_POINTS,
        category_names=("chair", "table"),
        parts=((0, 1), (2, 3)),
    )
    sizes = SMALL if size.startswith("grouped") else {"depth": 1}
    return create_model(f"ea_segmenter_{size}", data_spec=spec, **{**sizes, **overrides})


@pytest.fixture(scope="module")
def classifier() -> EAClassifier:
    model = lively(small_classifier())
    model.calibration = Calibration(0.4)
    return model


@pytest.fixture(scope="module")
def segmenter() -> EASegmenter:
    return lively(small_segmenter(), category=torch.tensor([0, 1, 1, 0]))


def command(*arguments: object) -> tuple[str, str]:
    """What the command prints and what it says meanwhile."""
    out, err = io.StringIO(), io.StringIO()
    redirected = contextlib.redirect_stdout(out), contextlib.redirect_stderr(err)
    with pytest.MonkeyPatch.context() as patch, redirected[0], redirected[1]:
        assert call(patch, "export", *arguments) == 0
    return out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def onnx_file(
    classifier: EAClassifier, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str, str]:
    """The classifier for any number of points, with what the command said."""
    folder = tmp_path_factory.mktemp("onnx")
    classifier.save_pretrained(folder / "weights")
    path = folder / "shapes.onnx"
    said = command(folder / "weights", "--dynamic-points", "--output", path, "--json")
    return path, *said


@pytest.fixture(scope="module")
def torch_file(
    classifier: EAClassifier, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str, str]:
    """The same by torch.export, for clouds as in training, named by the command."""
    folder = tmp_path_factory.mktemp("torch")
    classifier.save_pretrained(folder / "weights")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        said = command("weights", "--format", "torch-export")
    return folder / "weights.pt2", *said


def onnx_runner(path: Path) -> Callable[..., list[np.ndarray]]:
    session = onnxruntime.InferenceSession(path)
    names = [value.name for value in session.get_inputs()]
    return lambda *inputs: session.run(None, dict(zip(names, inputs, strict=True)))


def scan(num_points: int, seed: int, batch: int = 1) -> np.ndarray:
    """Raw clouds (B, N, 3) float32: far off and large, as files have them."""
    xyz = cloud("surface", num_points, batch=batch, seed=seed).numpy()
    return (40 * xyz + [7, -3, 100]).astype(np.float32)


def model_bytes(function: Any) -> bytes:
    return function.to_model_proto().SerializeToString()


@pytest.mark.parametrize("kind", [kind for kind in CLOUDS if kind != "overflow"])
def test_the_operators_return_the_integers_of_all_others(kind: str) -> None:
    from ea_pointcloud.export.onnx_operators import nearest, pick_in_turn

    xyz, start = cloud(kind, 40, batch=2), torch.tensor([3, 39])
    sample = onnxruntime.InferenceSession(model_bytes(pick_in_turn))
    names = [value.name for value in sample.get_inputs()]
    for count in (1, 30, 90):  # 90: more than there are
        given = dict(zip(names, (xyz.numpy(), np.array([count]), start.numpy()), strict=True))
        assert sample.run(None, given)[0].tolist() == fps_oracle(xyz, count, start=start.tolist())
    find = onnxruntime.InferenceSession(model_bytes(nearest))
    names = [value.name for value in find.get_inputs()]
    query = cloud(kind, 7, batch=2, seed=1)
    for k in (1, 16, 50):
        given = dict(zip(names, (query.numpy(), xyz.numpy(), np.array([k])), strict=True))
        sq_dist, idx = find.run(None, given)
        expected, expected_idx = knn_oracle(query, xyz, k)
        assert np.array_equal(idx, expected_idx)
        assert np.array_equal(sq_dist, expected)


def test_onnx_answers_as_the_predictor(
    classifier: EAClassifier, onnx_file: tuple[Path, str, str]
) -> None:
    run, predictor = onnx_runner(onnx_file[0]), Predictor(classifier, "cpu")
    confidences = []
    for seed, num_points in enumerate(SIZES):
        xyz = scan(num_points, seed, batch=3)
        probs, logits = run(xyz)
        for row, one, row_logits in zip(probs, xyz, logits, strict=True):
            expected = predictor.classify(one, topk=len(NAMES))
            assert NAMES[int(row.argmax())] == expected.label
            for candidate in expected.top:
                np.testing.assert_allclose(
                    row[NAMES.index(candidate.label)], candidate.prob, atol=1e-5
                )
            # Beside other clouds as alone, and before the temperature.
            np.testing.assert_allclose(run(one[None])[0][0], row, atol=1e-6)
            scaled = torch.from_numpy(row_logits / 0.4).softmax(-1).numpy()
            np.testing.assert_allclose(scaled, row, atol=1e-6)
            confidences.append(expected.prob)
    assert np.ptp(confidences) > 1e-3  # other clouds, other answers


@pytest.mark.data
def test_onnx_on_real_clouds(
    classifier: EAClassifier, onnx_file: tuple[Path, str, str], data_root: Path
) -> None:
    from ea_pointcloud.datasets import open_dataset

    # Their coordinates are rounded, so that distances tie.
    shapes = open_dataset(data_root / "modelnet10_ply_hdf5_2048", split="test")
    run, predictor = onnx_runner(onnx_file[0]), Predictor(classifier, "cpu")
    for place in range(8):
        xyz = shapes.xyz[place * 100, : 40 + 150 * place].numpy()
        expected = predictor.classify(xyz, topk=len(NAMES))
        probs = run(xyz[None])[0][0]
        assert NAMES[int(probs.argmax())] == expected.label
        np.testing.assert_allclose(probs.max(), expected.prob, atol=1e-5)


def test_the_file_says_what_it_is(onnx_file: tuple[Path, str, str]) -> None:
    path, out, err = onnx_file
    meta = onnxruntime.InferenceSession(path).get_modelmeta()
    about = json.loads(meta.custom_metadata_map[METADATA])
    assert about["class_names"] == list(NAMES)
    assert about["temperature"] == pytest.approx(0.4)
    expected = {
        "task": "classification",
        "up_axis": "y",
        "normalization": "unit_sphere",
        "normalized_inside": True,
        "num_points": NUM_POINTS,
        "sampling": "random",
        "dynamic_points": True,
        "min_points": 1,
        "format_version": 1,
    }
    assert about | expected == about
    assert about["inputs"][0]["shape"] == ["batch", "points", 3]
    assert [output["name"] for output in about["outputs"]] == ["probs", "logits"]
    printed = json.loads(out)
    assert printed["difference"] < 1e-4
    assert printed["clouds"] == 7
    assert {name: printed[name] for name in about} == about
    assert len(err.splitlines()) == 1  # what exporters have to remark on themselves stays there
    # Where the network was written is nobody's business.
    assert str(Path(__file__).parent.parent).encode() not in path.read_bytes()


def test_the_example_needs_numpy_and_onnxruntime_alone(
    classifier: EAClassifier, onnx_file: tuple[Path, str, str], tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    xyz = rng.normal(size=(150, 3)) * [1.0, 2.0, 3.0]
    np.savetxt(tmp_path / "cloud.xyz", xyz)
    code = (
        "import runpy, sys; sys.modules['torch'] = sys.modules['ea_pointcloud'] = None; "
        "del sys.argv[0]; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    arguments = [EXAMPLE, onnx_file[0], tmp_path / "cloud.xyz", "z"]
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
        encoding="utf-8",
        env={"PYTHONIOENCODING": "utf-8"},
    )
    # The example reads float64 and moves it before it rounds, so the last digit may differ.
    expected = Predictor(classifier, "cpu").classify(xyz, up="z", topk=3)
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [row[0] for row in rows] == [candidate.label for candidate in expected.top]
    for row, candidate in zip(rows, expected.top, strict=True):
        assert float(row[1]) == pytest.approx(candidate.prob, abs=2e-3)


def test_the_example_reads_meshes_and_arrays(tmp_path: Path) -> None:
    read = runpy.run_path(str(EXAMPLE))["read"]
    # Two triangles, one three times as large: as many more points.
    corners = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 3], [1, 0, 3], [0, 3, 3]], float)
    write_mesh(tmp_path / "mesh.off", corners, np.array([[0, 1, 2], [3, 4, 5]]))
    points = read(tmp_path / "mesh.off")
    assert points.shape == (4096, 3)
    assert (points[:, 2] > 1.5).mean() == pytest.approx(0.75, abs=0.03)
    assert (points[points[:, 2] < 1.5].sum(1) <= 1 + 1e-9).all()
    np.save(tmp_path / "cloud.npy", corners.astype(np.float32))
    assert np.array_equal(read(tmp_path / "cloud.npy"), corners)


def test_torch_runs_its_file_without_the_package(
    classifier: EAClassifier, torch_file: tuple[Path, str, str], tmp_path: Path
) -> None:
    path, out, err = torch_file
    assert "weights.pt2" in out
    assert f"xyz (batch, {NUM_POINTS}, 3) float32" in out
    assert len(err.splitlines()) == 1
    clouds = {str(batch): scan(NUM_POINTS, batch, batch=batch) for batch in (1, 2, 5)}
    np.savez(tmp_path / "clouds.npz", **clouds)
    code = (
        "import json, sys; sys.modules['ea_pointcloud'] = None; import numpy, torch\n"
        "extra = {'ea_pointcloud.json': ''}\n"
        "run = torch.export.load(sys.argv[1], extra_files=extra).module()\n"
        "clouds = numpy.load(sys.argv[2])\n"
        "answers = {k: run(torch.from_numpy(clouds[k]))['probs'].numpy() for k in clouds}\n"
        "numpy.savez(sys.argv[3], **answers)\n"
        "print(json.loads(extra['ea_pointcloud.json'])['class_names'])\n"
        "try: run(torch.rand(1, 65, 3))\n"
        "except Exception as error: print(error)\n"
    )
    arguments = [path, tmp_path / "clouds.npz", tmp_path / "answers.npz"]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
        encoding="utf-8",
        env={"PYTHONIOENCODING": "utf-8", "OMP_NUM_THREADS": "1"},
    )
    names, refusal = done.stdout.split("\n", 1)
    assert names == str(list(NAMES))
    assert "== 64" in refusal
    predictor, answers = Predictor(classifier, "cpu"), np.load(tmp_path / "answers.npz")
    for batch, xyz in clouds.items():
        for row, one in zip(answers[batch], xyz, strict=True):
            expected = predictor.classify(one)
            assert NAMES[int(row.argmax())] == expected.label
            np.testing.assert_allclose(row.max(), expected.prob, atol=1e-5)


def test_a_segmenter_labels_as_the_predictor(segmenter: EASegmenter, tmp_path: Path) -> None:
    found = export_model(segmenter, tmp_path / "parts.onnx", dynamic_points=True)
    assert found.difference is not None
    assert found.difference < 1e-4
    assert found.description["parts"] == [[0, 1], [2, 3]]
    run, predictor = onnx_runner(found.path), Predictor(segmenter, "cpu")
    for size in SIZES:
        xyz = scan(size, size)
        for place, category in enumerate(segmenter.data_spec.category_names):
            (probs,) = run(xyz, np.array([place]))
            expected = predictor.segment(xyz[0], category=category)
            assert np.array_equal(probs[0].argmax(-1), expected.labels)
            np.testing.assert_allclose(probs[0].max(-1), expected.confidence, atol=1e-5)
            others = segmenter.data_spec.parts[1 - place]
            assert not probs[0][:, others].any()


# What the tests above leave out.
FORMS: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "normals": (
        lambda: small_classifier(feature_channels=3, pooling="top"),
        {"dynamic_points": True},
    ),
    "posed": (lambda: small_classifier(attention="offset"), {"normalize": False}),
    "two levels": (lambda: create_model("ea_classifier_tiny"), {"dynamic_points": True}),
    "heads": (lambda: small_classifier(attention="multihead_external", norm="softmax"), {}),
    "dynamic": (
        lambda: small_classifier(attention="multihead_dynamic_external"),
        {"dynamic_points": True},
    ),
    "all points": (lambda: small_segmenter("tiny"), {"dynamic_points": True}),
    "category-free": (lambda: small_segmenter(num_categories=0), {}),
    "described": (lambda: described(), {"dynamic_points": True}),
    "eamlp": (lambda: eamlp("classifier", num_classes=4), {"dynamic_points": True}),
    "pointnet": (lambda: create_model("pointnet_classifier_tiny"), {"dynamic_points": True}),
    "dgcnn": (lambda: of_graphs("dgcnn", edge_channels=(8, 8, 8)), {"dynamic_points": True}),
    "eagraph": (lambda: of_graphs("eagraph", depth=2), {"dynamic_points": True}),
    "memory pooling": (
        lambda: of_graphs("eagraph", depth=2, attention="none", pooling="max_mean_memory"),
        {"dynamic_points": True},
    ),
    "few-shot": (
        lambda: of_graphs("eagraph", depth=2, attention="none", few_shot_rank=4),
        {"dynamic_points": True},
    ),
    "eamlp parts": (
        lambda: eamlp("segmenter", num_parts=4, num_categories=2),
        {"dynamic_points": True},
    ),
    "eagraph parts": (
        lambda: of_graphs("eagraph", "segmenter", depth=2, num_parts=4, num_categories=2),
        {"dynamic_points": True},
    ),
}


def described() -> EASegmenter:
    spec = replace(small_segmenter().data_spec, features="eigen_features")
    return create_model("ea_segmenter_grouped_tiny", data_spec=spec, **SMALL)


def eamlp(kind: str, **counts: int) -> Any:
    torch.manual_seed(0)
    model = create_model(f"eamlp_{kind}_small", depth=1, **counts)
    model.data_spec = replace(model.data_spec, num_points=NUM_POINTS)
    return model


def of_graphs(name: str, kind: str = "classifier", **options: Any) -> Any:
    model = create_model(f"{name}_{kind}_tiny", **options)
    model.data_spec = replace(model.data_spec, num_points=NUM_POINTS)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMS)
def test_every_form_of_network(name: str, tmp_path: Path) -> None:
    wanted = os.environ.get("EA_POINTCLOUD_EXPORTS", "").split(",")
    if not {"all", name} & set(wanted):
        pytest.skip("set EA_POINTCLOUD_EXPORTS=all, or to names of forms, to run this for minutes")
    build, options = FORMS[name]
    model = build().eval()
    for file_format, suffix in writing.FORMATS.items():
        found = export_model(model, tmp_path / f"model{suffix}", file_format, **options)
        assert found.difference is not None
        assert found.difference < 1e-4


def test_what_a_network_takes() -> None:
    network = Deployed(described().eval(), dynamic_points=True)
    assert network.input_names == ["xyz", "features", "category"]
    # Descriptors fit the points that they were computed from, as these are.
    assert not network.normalize
    assert not network.chooses
    about = network.description()
    assert about["inputs"][0]["meaning"].endswith("mean at 0, farthest point at 1")
    assert about["inputs"][1]["shape"] == ["batch", "points", 19]
    assert about["inputs"][1]["meaning"] == (
        "eigen_features of the points, as ea_pointcloud.descriptors.eigen_features gives them"
    )
    inputs = example_inputs(network, 2, 50, seeded())
    expected = network.model(inputs[0], inputs[1], category=inputs[2])
    expected[0, :, [2, 3] if inputs[2][0] == 0 else [0, 1]] = -torch.inf
    expected[1, :, [2, 3] if inputs[2][1] == 0 else [0, 1]] = -torch.inf
    torch.testing.assert_close(network(*inputs)["probs"], expected.softmax(-1))
    with pytest.raises(ValueError, match="normalize must be left out: these weights read eigen_fe"):
        Deployed(described(), normalize=True)


def test_a_wrong_file_is_not_kept(
    classifier: EAClassifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.pt2"
    path.write_text("before")
    network = Deployed(classifier)

    def off_by(difference: float) -> Callable[..., Any]:
        def run(inputs: list[Tensor]) -> dict[str, np.ndarray]:
            return {name: value.numpy() + difference for name, value in network(*inputs).items()}

        return lambda *_: run

    monkeypatch.setattr(writing, "_write_torch", lambda *_: {"min_points": 8})
    for difference in (0.5, float("nan")):
        monkeypatch.setattr(writing, "_torch_run", off_by(difference))
        with pytest.raises(ValueError, match=r"was not kept: it differs from the network by \S+,"):
            export_model(classifier, path, "torch-export", force=True)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_without_onnxruntime_a_file_is_not_compared(
    classifier: EAClassifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_spec = importlib.util.find_spec

    def without(name: str) -> Any:
        return None if name == "onnxruntime" else find_spec(name)

    def write(_: Deployed, path: Path) -> dict[str, Any]:
        path.write_bytes(b"onnx")
        return {"min_points": 1}

    monkeypatch.setattr(writing, "find_spec", without)
    monkeypatch.setattr(writing, "_write_onnx", write)
    found = export_model(classifier, tmp_path / "model.onnx")
    assert found.difference is None
    assert found.path.read_bytes() == b"onnx"


def test_mistakes(
    classifier: EAClassifier,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    there = tmp_path / "there.onnx"
    there.write_text("")
    with pytest.raises(FileExistsError, match=r"there.onnx exists; choose another name or add --f"):
        export_model(classifier, there)
    with pytest.raises(FileNotFoundError, match="no such folder; create it first"):
        export_model(classifier, tmp_path / "no" / "model.onnx")
    with pytest.raises(ValueError, match="format must be one of 'onnx', 'torch-export', got 'tf'"):
        export_model(classifier, tmp_path / "model", "tf")
    cases = {
        ("--format", "tensorrt"): "error: --format must be one of 'onnx', 'torch-export', got",
        ("--output", tmp_path / "model.pt2"): "error: --output must name a .onnx file, got",
        ("--output", there): "exists; choose another name or add --force",
    }
    for arguments, words in cases.items():
        assert call(monkeypatch, "export", "nowhere", *arguments) == 1
        assert words in capsys.readouterr().err
    monkeypatch.setattr(writing, "find_spec", lambda _: None)
    assert call(monkeypatch, "export", "nowhere", "--output", tmp_path / "model.onnx") == 1
    error = capsys.readouterr().err
    assert "ONNX files are written by onnx and onnxscript; install them with: pip inst" in error
    assert cli.export.NAME == "export"


def test_padding_cannot_be_exported() -> None:
    from ea_pointcloud.export.onnx_operators import translations

    translate = translations()[torch.ops.ea_pointcloud.knn.default]
    with pytest.raises(ValueError, match="lengths cannot be exported; export the network without"):
        translate(None, None, 3, torch.tensor([3]))
