"""Parts of one's own clouds: the Predictor, the command, the colours."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ea_pointcloud import Cloud, Predictor, create_model, read_cloud, write_cloud
from ea_pointcloud.descriptors import eigen_features
from ea_pointcloud.inference import segment
from ea_pointcloud.models import (
    Calibration,
    DataSpec,
    EAClassifier,
    EASegmenter,
    MahalanobisDetector,
)
from ea_pointcloud.ops.frames import normalize_unit_sphere
from ea_pointcloud.viz import part_colors
from tests.oracles import cloud
from tests.test_cli import call
from tests.test_segmenter import lively

CATEGORIES = ("Mug", "Table", "Cap")
PARTS = ((0, 1), (2, 3, 4), (5,))
NAMES = ("Mug/body", "Mug/handle", "Table/top", "Table/leg", "Table/shelf", "Cap/brim")
SPEC = DataSpec(NAMES, num_points=64, category_names=CATEGORIES, parts=PARTS)
GROUPED = {"num_centers": (32, 16), "num_neighbors": (8, 8)}


def segmenter(size: str = "tiny", *, spec: DataSpec = SPEC, **options: object) -> EASegmenter:
    """Untrained, with statistics and logits that differ from point to point."""
    torch.manual_seed(0)
    model = lively(create_model(f"ea_segmenter_{size}", data_spec=spec, **options))
    told = torch.tensor([1]) if model.config.num_categories else None
    channels = model.config.feature_channels
    features = torch.zeros(1, 300, channels) if channels else None
    with torch.no_grad():  # else one part is ahead everywhere
        logits = model(cloud("surface", 300), features, category=told)
        model.out.bias.sub_(logits.mean((0, 1)))
        model.out.weight.mul_(30.0)
        model.out.bias.mul_(30.0)
    return model


def grouped(**options: object) -> EASegmenter:
    return segmenter("grouped_tiny", **GROUPED, **options)


FORMS = pytest.mark.parametrize("form", [segmenter, grouped])
Form = Callable[..., EASegmenter]


def classifier(*names: str, says: int) -> Predictor:
    model = create_model("ea_classifier_tiny", data_spec=DataSpec(names, num_points=64)).eval()
    for parameter in model.parameters():
        parameter.data.zero_()
    *_, bias = model.parameters()
    assert bias.shape == (len(names),)
    bias.data[says] = 5.0
    return Predictor(model, "cpu")


@pytest.fixture
def xyz() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(300, 3)) * [1.0, 2.0, 0.5]


def posed(xyz: np.ndarray) -> Tensor:
    return normalize_unit_sphere(torch.from_numpy(xyz)[None]).float()


# --- the Predictor


def test_labels_are_the_best_parts_of_the_given_category(xyz: np.ndarray) -> None:
    model = segmenter()
    result = Predictor(model, "cpu").segment(xyz, category="table")
    assert (result.category, result.category_from, result.names) == ("Table", "given", NAMES)
    assert (result.labels.dtype, result.confidence.dtype) == (np.int64, np.float32)
    with torch.no_grad():
        logits = model(posed(xyz), category=torch.tensor([1]))[0].numpy()
    exp = np.exp(logits[:, 2:5] - logits[:, 2:5].max(1, keepdims=True))
    assert (result.labels == 2 + exp.argmax(1)).all()
    assert len(set(result.labels)) > 1
    np.testing.assert_allclose(result.confidence, exp.max(1) / exp.sum(1), atol=1e-5)


@FORMS
def test_a_network_that_is_not_told_takes_the_most_probable_category(
    form: Form, xyz: np.ndarray
) -> None:
    model = form(num_categories=0)
    predictor = Predictor(model, "cpu")
    result = predictor.segment(xyz[:60])  # as many as the model sees, so none are interpolated
    with torch.no_grad():
        probs = model(posed(xyz[:60]))[0].double().softmax(-1).sum(0)
    best = int(np.argmax([float(probs[list(ids)].sum()) for ids in PARTS]))
    assert (result.category, result.category_from) == (CATEGORIES[best], "network")
    assert set(result.labels) <= set(PARTS[best])
    for points in (xyz[:60], xyz):
        chosen = predictor.segment(points)
        given = predictor.segment(points, category=chosen.category)
        assert given.category_from == "given"
        assert (given.labels == chosen.labels).all()
        assert (given.confidence == chosen.confidence).all()


@FORMS
def test_a_network_that_is_told_tries_each_category(form: Form, xyz: np.ndarray) -> None:
    model = form()
    predictor = Predictor(model, "cpu")
    with torch.no_grad():
        told = [
            model(posed(xyz[:60]), category=torch.tensor([place]))[0].double().softmax(-1)
            for place in range(len(PARTS))
        ]
    own = [float(probs[:, list(ids)].sum()) for probs, ids in zip(told, PARTS, strict=True)]
    expected = CATEGORIES[int(np.argmax(own))]
    for up in ("y", "auto"):
        result = predictor.segment(xyz[:60], up=up)
        if up == "y":
            assert (result.category, result.category_from) == (expected, "network")
        assert result.category is not None
        given = predictor.segment(xyz[:60], up=result.up, category=result.category)
        assert (given.labels == result.labels).all()
        assert (given.confidence == result.confidence).all()


def test_the_most_probable_category_is_that_of_the_parts(xyz: np.ndarray) -> None:
    model = segmenter()
    with torch.no_grad():  # whatever the network is told, it sees parts of a table
        model.out.bias[2:5] += 100
    result = Predictor(model, "cpu").segment(xyz)
    assert (result.category, result.category_from) == ("Table", "network")


def test_weights_without_categories_choose_among_all_parts(xyz: np.ndarray) -> None:
    model = segmenter(spec=DataSpec(NAMES))
    result = Predictor(model, "cpu").segment(xyz)
    assert (result.category, result.category_from) == (None, "network")
    with torch.no_grad():
        probs = model(posed(xyz))[0].softmax(-1).numpy()
    assert (result.labels == probs.argmax(1)).all()
    np.testing.assert_allclose(result.confidence, probs.max(1), atol=1e-6)


@FORMS
def test_a_classifier_may_name_the_category(form: Form, xyz: np.ndarray) -> None:
    namer = classifier("vase", "CAP", "table", says=2)
    for model in (form(), form(num_categories=0)):
        result = Predictor(model, "cpu").segment(xyz, classifier=namer)
        given = Predictor(model, "cpu").segment(xyz, category="Table")
        assert (result.category, result.category_from) == ("Table", "classifier")
        assert (result.labels == given.labels).all()
    predictor, stranger = Predictor(form(), "cpu"), classifier("vase", "mug", says=0)
    own, result = predictor.segment(xyz), predictor.segment(xyz, classifier=stranger)
    assert (result.category, result.category_from) == (own.category, "network")
    assert result.warning == "looks like vase (99%), of which there are no parts"


def test_grouped_networks_carry_probabilities_to_all_points(xyz: np.ndarray) -> None:
    model, seen = grouped(), []
    embed = model.embed
    model.embed = lambda xyz, *rest, **options: seen.append(xyz) or embed(xyz, *rest, **options)
    result = Predictor(model, "cpu").segment(xyz, category="table")
    (sampled,) = seen
    assert sampled.shape == (1, 64, 3)
    assert float(torch.pdist(sampled[0]).min()) > 0.05  # random points would include close pairs
    with torch.no_grad():
        probs = model(sampled, category=torch.tensor([1]))[0, :, 2:5].softmax(-1).double().numpy()
    # By hand: the mean of the three nearest, weighted by inverse squared distance.
    sq_dist = torch.cdist(posed(xyz)[0].double(), sampled[0].double()).square().numpy()
    nearest = np.argsort(sq_dist, axis=1)[:, :3]
    weight = 1 / np.maximum(np.take_along_axis(sq_dist, nearest, 1), 1e-20)
    weight /= weight.sum(1, keepdims=True)
    expected = (probs[nearest] * weight[..., None]).sum(1)
    np.testing.assert_allclose(result.confidence, expected.max(1), atol=1e-4)
    assert ((result.labels - 2 == expected.argmax(1)) | (np.ptp(expected, 1) < 1e-3)).all()


@FORMS
def test_work_in_parts_gives_the_same(
    form: Form, xyz: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = Predictor(form(num_categories=0), "cpu")
    whole = predictor.segment(xyz)
    monkeypatch.setattr(segment, "CHUNK", 41)
    parts = predictor.segment(xyz)
    assert whole.category == parts.category
    assert (whole.labels == parts.labels).mean() > 0.99
    np.testing.assert_allclose(whole.confidence, parts.confidence, atol=1e-4)


def test_attention_between_all_points_is_not_worked_in_parts(
    xyz: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segment, "CHUNK", 41)
    predictor = Predictor(segmenter(attention="offset"), "cpu")
    assert len(predictor.segment(xyz, category="mug").labels) == 300


@FORMS
def test_neither_company_nor_pose_matters(form: Form, xyz: np.ndarray) -> None:
    predictor = Predictor(form(), "cpu")
    alone = predictor.segment(xyz, category="table")
    others = predictor.segment([xyz[:7], xyz, xyz * 3], category="table")
    assert [len(result.labels) for result in others] == [7, 300, 300]
    assert (others[1].labels == alone.labels).all()
    assert (others[1].confidence == alone.confidence).all()
    z_up = np.stack([-xyz[:, 0], xyz[:, 2], xyz[:, 1]], 1) * 0.001 + [4e5, 5e6, 120.0]
    far = predictor.segment(z_up, category="table", up="z")
    assert (far.labels == alone.labels).mean() > 0.97
    order = np.random.default_rng(1).permutation(300)
    shuffled = predictor.segment(xyz[order], category="table")
    assert (shuffled.labels == alone.labels[order]).mean() > 0.99


@FORMS
def test_few_points(form: Form) -> None:
    predictor = Predictor(form(num_categories=0), "cpu")
    for count in (2, 3):
        result = predictor.segment(np.eye(3)[:count])
        assert len(result.labels) == count
        assert np.isfinite(result.confidence).all()
        assert (result.confidence > 0).all()


@FORMS
def test_normals_are_taken_from_the_file(form: Form, xyz: np.ndarray, tmp_path: Path) -> None:
    model, seen = form(spec=replace(SPEC, features="normals")), []
    embed = model.embed
    model.embed = lambda *inputs, **options: seen.append(inputs[:2]) or embed(*inputs, **options)
    normals = (xyz / np.linalg.norm(xyz, axis=1, keepdims=True)).astype(np.float32)
    scan = Cloud(xyz.astype(np.float32), np.zeros(3), normals=normals)
    write_cloud(tmp_path / "a.ply", scan)
    predictor = Predictor(model, "cpu")
    assert len(predictor.segment(tmp_path / "a.ply", up="z", category="mug").labels) == 300
    points, features = seen[0]
    # The normal of a sampled point is that of the same point, turned as it was.
    turned = np.stack([-xyz[:, 0], xyz[:, 2], xyz[:, 1]], 1)
    place = torch.cdist(points[0], posed(turned)[0]).argmin(1).numpy()
    expected = np.stack([-normals[:, 0], normals[:, 2], normals[:, 1]], 1)[place]
    np.testing.assert_allclose(features[0], expected, atol=1e-5)
    with pytest.raises(ValueError, match="trained with normals, which this cloud has not; give a"):
        predictor.segment(xyz, category="mug")
    broken = Cloud(scan.xyz, scan.center, normals=np.full_like(normals, np.nan))
    with pytest.raises(ValueError, match="the cloud must have finite normals"):
        predictor.segment(broken, category="mug")


@FORMS
@pytest.mark.parametrize(
    ("features", "channels"),
    [("eigen_features", 19), ("surface_features", 36), ("shape_features", 139)],
)
def test_descriptors_are_found_for_what_the_network_sees(
    form: Form, xyz: np.ndarray, features: str, channels: int
) -> None:
    model, seen = form(spec=replace(SPEC, features=features)), []
    embed = model.embed
    model.embed = lambda *inputs, **options: seen.append(inputs[:2]) or embed(*inputs, **options)
    result = Predictor(model, "cpu").segment(xyz, category="mug")
    assert len(result.labels) == 300
    points, described = seen[0]
    assert described.shape == (*points.shape[:2], channels)
    # A scan comes in order; what its points are given must not show it.
    seen.clear()
    order = xyz[:, 1].argsort()
    again = Predictor(model, "cpu").segment(xyz[order], category="mug")
    assert (again.labels == result.labels[order]).mean() > 0.9


def test_the_order_of_a_scan_does_not_shift_local_shape() -> None:
    # 64 of about 300 neighbours: in the file's own order they would all lie on one side.
    xyz = normalize_unit_sphere(cloud("surface", 2000))
    xyz = xyz[:, xyz[0, :, 1].argsort()]
    seen = []
    model = segmenter(spec=replace(SPEC, features="eigen_features"))
    embed = model.embed
    model.embed = lambda *inputs, **options: seen.append(inputs[1]) or embed(*inputs, **options)
    Predictor(model, "cpu").segment(xyz[0].numpy(), category="mug")
    offset = seen[0][0, :, 17]  # of the mean, in the largest ball
    sorted_offset = eigen_features(xyz)[0, :, 17]
    assert float(offset.mean()) < 0.6 * float(sorted_offset.mean())


def test_what_cannot_be_segmented(xyz: np.ndarray) -> None:
    predictor = Predictor(segmenter(), "cpu")
    free = Predictor(segmenter(num_categories=0), "cpu")
    namer = classifier("mug", "table", says=0)
    with pytest.raises(ValueError, match="a cloud must have finite coordinates; drop rows with Na"):
        free.segment([xyz, np.full((5, 3), np.nan)])
    with pytest.raises(ValueError, match="a cloud must have an extent, got 5 points in one place"):
        free.segment(np.ones((5, 3)))
    with pytest.raises(
        ValueError, match=r"a cloud must be an array \(N, 3\) with N >= 1, got shap"
    ):
        free.segment(np.zeros((0, 3)))
    with pytest.raises(ValueError, match="up must be one of 'x', 'y', 'z', 'auto', got 'w'"):
        free.segment(xyz, up="w")
    with pytest.raises(FileNotFoundError, match="no such file"):
        free.segment("missing.ply")
    for either in (predictor, free):
        with pytest.raises(ValueError, match="category must be one of Mug, Table, Cap, got 'Lamp'"):
            either.segment(xyz, category="Lamp")
    with pytest.raises(ValueError, match="category and classifier both name the category; give on"):
        predictor.segment(xyz, category="mug", classifier=namer)
    with pytest.raises(ValueError, match="of EASegmenter, which labels points; use segment, or"):
        predictor.classify(xyz)
    with pytest.raises(ValueError, match="of EASegmenter, which labels points; use segment, or"):
        predictor.segment(xyz, classifier=free)
    with pytest.raises(ValueError, match="of EAClassifier, which classifies whole clouds; use"):
        namer.segment(xyz)
    nameless = Predictor(segmenter(spec=DataSpec(NAMES)), "cpu")
    with pytest.raises(ValueError, match="category is 'Mug', but these weights have no categories"):
        nameless.segment(xyz, category="Mug")
    partless = DataSpec(NAMES, category_names=("Mug", "Bag"), parts=((0, 1), ()))
    with pytest.raises(ValueError, match="category is 'bag', of which these weights have no parts"):
        Predictor(segmenter(spec=partless), "cpu").segment(xyz, category="bag")


def test_either_network_comes_from_its_folder(tmp_path: Path) -> None:
    segmenter().save_pretrained(tmp_path / "weights")
    predictor = Predictor.from_pretrained(tmp_path / "weights", "cpu")
    assert repr(predictor) == "Predictor(EASegmenter, 6 parts, cpu)"


# --- the command


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights") / "told"
    grouped().save_pretrained(folder)
    return folder


@pytest.fixture
def files(tmp_path: Path, xyz: np.ndarray) -> list[Path]:
    """A cloud with normals, one without, and three that cannot be segmented."""
    normals = np.tile(np.array([0, 0, 1], np.float32), (300, 1))
    scan = Cloud(xyz.astype(np.float32), np.array([5e5, 4e6, 10.0]), normals=normals)
    write_cloud(tmp_path / "a.ply", scan)
    np.save(tmp_path / "b.npy", xyz[:200])
    (tmp_path / "nan.xyz").write_text("nan 0 0\n0 0 0\n0 1 0\n1 0 0\n")
    (tmp_path / "same.xyz").write_text("1 1 1\n1 1 1\n")
    return [tmp_path / name for name in ("a.ply", "nan.xyz", "b.npy", "same.xyz", "gone.off")]


def test_bad_files_are_reported_and_the_others_done(
    weights: Path,
    files: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "new" / "out"
    options = ("--model", weights, "--category", "TABLE", "--output", out)
    assert call(monkeypatch, "segment", *files, *options, "--json") == 1
    rows = json.loads(capsys.readouterr().out)
    assert [row["file"] for row in rows] == [str(path) for path in files]
    assert [("error" in row) for row in rows] == [False, True, False, True, True]
    assert "--drop-invalid" in rows[1]["error"]
    assert "must have an extent, got 2 points in one place" in rows[3]["error"]
    assert "no such file" in rows[4]["error"]
    for row, count, name in ((rows[0], 300, "a.ply"), (rows[2], 200, "b.ply")):
        assert list(row) == [
            *("file", "category", "category_from", "categories", "category_margin"),
            *("points", "parts"),
            *("up", "up_margin", "ood_score", "warning", "output", "weights"),
        ]
        assert (row["category"], row["category_from"], row["points"]) == ("Table", "given", count)
        assert (row["categories"], row["category_margin"]) == ([], None)
        assert row["output"] == str(out / name)
        counts = [part["points"] for part in row["parts"]]
        assert sum(counts) == count
        assert counts == sorted(counts, reverse=True)
        assert {part["part"] for part in row["parts"]} <= set(NAMES[2:5])
        assert all(part["part"] == NAMES[part["label"]] for part in row["parts"])
        assert all(0 < part["confidence"] <= 1 for part in row["parts"])
    assert sorted(path.name for path in out.iterdir()) == ["a.ply", "b.ply", "segment.json"]

    settings = json.loads((out / "segment.json").read_text())
    assert settings["parts"] == {str(label): name for label, name in enumerate(NAMES)}
    expected = Predictor.from_pretrained(weights, "cpu").segment(files[0], category="Table")
    written, original = read_cloud(out / "a.ply"), read_cloud(files[0])
    assert written.up == "y"
    assert written.label_names == {label: NAMES[label] for label in np.unique(expected.labels)}
    assert (written.xyz == original.xyz).all()
    assert (written.center == original.center).all()
    assert written.normals is not None
    assert (written.normals == original.normals).all()
    assert written.labels is not None
    assert (written.labels == expected.labels).all()
    assert written.confidence is not None
    assert (written.confidence == expected.confidence).all()
    assert written.colors is not None
    assert (written.colors == part_colors(expected.labels)).all()

    again = ("segment", *files, "--model", weights, "--category", "cap", "--drop-invalid")
    assert call(monkeypatch, *again) == 1
    lines = capsys.readouterr().out.splitlines()
    assert sum("error" in line for line in lines) == 2
    (shown,) = (line for line in lines if "nan.xyz" in line)
    assert "brim 100.0%" in shown
    assert "given" in shown
    assert "1.000" in shown


def test_the_ply_opens_in_open3d(
    weights: Path, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open3d = pytest.importorskip("open3d")
    arguments = ("segment", files[0], "--model", weights, "--category", "table")
    assert call(monkeypatch, *arguments, "--output", tmp_path / "out") == 0
    expected = Predictor.from_pretrained(weights, "cpu").segment(files[0], category="Table")
    point = open3d.t.io.read_point_cloud(str(tmp_path / "out" / "a.ply")).point
    assert (point["label"].numpy()[:, 0] == expected.labels).all()
    assert (point["confidence"].numpy()[:, 0] == expected.confidence).all()
    assert point["colors"].numpy().dtype == np.uint8
    assert (point["colors"].numpy() == np.round(part_colors(expected.labels) * 255)).all()
    assert (point["normals"].numpy() == [0, 0, 1]).all()


@pytest.mark.parametrize("suffix", ["npz", "csv"])
def test_other_formats(
    weights: Path, files: list[Path], suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--model", weights, "--category", "table", "--format", suffix)
    assert call(monkeypatch, "segment", files[0], *options, "--output", tmp_path / "out") == 0
    expected = Predictor.from_pretrained(weights, "cpu").segment(files[0], category="Table")
    written = read_cloud(tmp_path / "out" / f"a.{suffix}")
    assert written.labels is not None
    assert (written.labels == expected.labels).all()
    assert written.confidence is not None
    assert (written.confidence == expected.confidence).all()
    assert written.label_names == {label: NAMES[label] for label in np.unique(expected.labels)}
    assert written.up == ("y" if suffix == "npz" else None)
    if suffix == "npz":
        assert np.load(tmp_path / "out" / "a.npz")["labels"].dtype == np.uint8


def test_nothing_is_written_unless_asked(
    weights: Path,
    files: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = sorted(tmp_path.rglob("*"))
    arguments = ("segment", files[0], "--model", weights, "--category", "mug")
    assert call(monkeypatch, *arguments, "--json") == 0
    assert json.loads(capsys.readouterr().out)[0]["output"] is None
    assert sorted(tmp_path.rglob("*")) == before


def test_pictures_and_files_are_replaced_with_force_only(
    weights: Path,
    files: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("open3d")
    picture, out = tmp_path / "parts.png", tmp_path / "out"
    arguments = ("segment", files[0], files[2], "--model", weights, "--category", "table")
    assert call(monkeypatch, *arguments, "--render", picture, "--output", out) == 0
    with Image.open(picture) as image:
        assert image.width == 720
    capsys.readouterr()
    before = (out / "a.ply").stat().st_mtime_ns
    assert call(monkeypatch, *arguments, "--render", picture) == 1
    assert "exists; choose another" in capsys.readouterr().err
    other = (*arguments[:-1], "mug", "--output", out)
    assert call(monkeypatch, *other) == 1
    output = capsys.readouterr()
    assert "was made with category=table, not category=mug; choose another" in output.err
    assert output.out == ""
    assert (out / "a.ply").stat().st_mtime_ns == before
    assert call(monkeypatch, *arguments, "--render", picture, "--force") == 0
    assert call(monkeypatch, *other, "--force") == 0
    labels = read_cloud(out / "a.ply").labels
    assert labels is not None
    assert set(labels) <= set(PARTS[0])


def test_a_classifier_for_files(
    weights: Path,
    files: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = classifier("mug", "table", says=0).model
    assert isinstance(model, EAClassifier)
    model.save_pretrained(tmp_path / "classes")
    arguments = ("segment", files[0], "--model", weights, "--classifier", tmp_path / "classes")
    assert call(monkeypatch, *arguments, "--json") == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["category"], row["category_from"]) == ("Mug", "classifier")


def test_mistakes_are_told_before_the_work(
    weights: Path,
    files: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    classifier("mug", "lamp", says=1).model.save_pretrained(tmp_path / "classes")  # pyright: ignore
    a, model = files[0], ("--model", weights)
    mug = (*model, "--category", "mug")
    twin = tmp_path / "more" / "a.off"
    (tmp_path / "file").touch()
    cases: dict[tuple[object, ...], str] = {
        (a, *model, "--category", "lamp"): "category must be one of Mug, Table, Cap, got 'lamp'",
        (a, *mug, "--up", "w"): "--up must be one of 'x', 'y', 'z', 'auto', got 'w'",
        (a, *mug, "--format", "obj"): "--format must be one of 'ply', 'npz', 'csv', got 'obj'",
        (
            a,
            twin,
            *mug,
            "--output",
            "o",
        ): f"{a} and {twin} would both be written to o/a.ply; rename",
        (
            a,
            *mug,
            "--output",
            a.parent,
        ): f"a.ply would replace the input {a}; choose another folder",
        (a, *mug, "--output", tmp_path / "file"): "file is a file; name a folder",
        (a, *mug, "--render", "a.jpg"): "--render must name a .png file, got a.jpg",
        (a, *mug, "--classifier", "b"): "--category and --classifier both name the category; give",
        (a, *model, "--classifier", weights): "of EASegmenter, which labels points; use segment",
        (a, "--model", tmp_path / "classes"): "of EAClassifier, which classifies whole clouds",
        (a, "--model", "nowhere"): "no folder nowhere; give a folder of weights",
    }
    for arguments, words in cases.items():
        assert call(monkeypatch, "segment", *arguments, "--force") == 1
        output = capsys.readouterr()
        assert words in output.err
        lines = [each for each in output.err.splitlines() if not each.startswith("Assuming")]
        assert len(lines) == 1
        assert output.out == ""
    assert call(monkeypatch, "classify", a, "--model", weights) == 1
    assert "of EASegmenter, which labels points; use segment" in capsys.readouterr().err
    # A class that is no category leaves the choice to the network.
    options = (*model, "--classifier", tmp_path / "classes", "--json")
    assert call(monkeypatch, "segment", a, *options) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["category_from"] == "network"
    assert [each["category"] for each in row["categories"]] != []
    assert row["warning"] == "looks like lamp (99%), of which there are no parts"


def test_out_of_distribution_objects_and_one_pass_of_the_backbone(
    xyz: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, passes = grouped(), []
    predictor = Predictor(model, "cpu")
    assert predictor.segment(xyz).ood_score is None
    encode = type(model.trunk).encode
    monkeypatch.setattr(
        type(model.trunk), "encode", lambda self, *rest: passes.append(1) or encode(self, *rest)
    )
    plain = predictor.segment(xyz)
    assert len(passes) == 1  # not one for each category
    width = model.trunk.out_channels
    mean = torch.zeros(1, width)
    model.calibration = Calibration(
        1.0, MahalanobisDetector(mean, torch.eye(width), torch.zeros(60))
    )
    far = Predictor(model, "cpu").segment(xyz)
    assert far.ood_score == 1
    assert far.warning == "out of distribution: the prediction is unreliable"
    near = MahalanobisDetector(mean, torch.eye(width), torch.full((60,), 9.0))
    model.calibration = Calibration(1.0, near)
    known = Predictor(model, "cpu").segment(xyz)
    assert (known.ood_score, known.warning) == (0, None)
    assert (far.labels == plain.labels).all()


def test_next_categories_and_the_margin(xyz: np.ndarray) -> None:
    model = grouped()
    result = Predictor(model, "cpu").segment(xyz[:60])
    with torch.no_grad():
        told = [
            model(posed(xyz[:60]), category=torch.tensor([place]))[0].double().softmax(-1)
            for place in range(len(PARTS))
        ]
    own = [float(probs[:, list(ids)].sum(1).mean()) for probs, ids in zip(told, PARTS, strict=True)]
    order = sorted(range(len(own)), key=lambda place: -own[place])
    assert [each.label for each in result.categories] == [CATEGORIES[place] for place in order]
    assert [each.prob for each in result.categories] == pytest.approx([own[i] for i in order])
    first, following = (1 - own[place] for place in order[:2])
    assert result.category_margin == pytest.approx(1 - first / following, rel=1e-4)
    given = Predictor(model, "cpu").segment(xyz, category="mug")
    assert (given.categories, given.category_margin) == ((), None)


def test_a_classifier_decides_where_it_is_sure(xyz: np.ndarray) -> None:
    predictor, sure = Predictor(grouped(), "cpu"), classifier("mug", "Table", says=1)
    own = predictor.segment(xyz)
    named = predictor.segment(xyz, classifier=sure, min_class_prob=0.99)
    assert (named.category, named.category_from) == ("Table", "classifier")
    assert [each.label for each in named.categories] == ["Table", "mug"]
    unsure = predictor.segment(xyz, classifier=sure, min_class_prob=0.999)  # it has 0.993
    assert (unsure.category, unsure.category_from) == (own.category, "network")
    assert unsure.categories == own.categories
    with pytest.raises(ValueError, match="min_class_prob must be at least 0 and below 1, got 2"):
        predictor.segment(xyz, classifier=sure, min_class_prob=2)
