"""Few-shot classifiers: the head against refitting, the embedding, reports, files and commands."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ea_pointcloud import Predictor, cli
from ea_pointcloud.datasets import ProceduralShapes, list_examples
from ea_pointcloud.datasets.procedural import CATEGORIES
from ea_pointcloud.export import Deployed
from ea_pointcloud.inference.few_shot import fit_head
from ea_pointcloud.inference.support_report import SupportReport, train_advice
from ea_pointcloud.models import Classifier, create_model, load_model
from ea_pointcloud.nn import UnitEmbedding

NAMES = ("bottle", "chair", "mug")


def rows(count: int, channels: int = 6, seed: int = 0) -> Tensor:
    draw = torch.randn(count, channels, generator=torch.Generator().manual_seed(seed))
    return F.normalize(draw, dim=-1)


@pytest.fixture(scope="module")
def clouds() -> dict[str, list[np.ndarray]]:
    """Six generated shapes of three categories."""
    shapes = ProceduralShapes("test", num_points=512, num_shapes=84)
    label = shapes.category
    return {
        name: [
            shapes[int(index)]["xyz"].numpy()
            for index in (label == CATEGORIES.index(name)).nonzero()[:6, 0]
        ]
        for name in NAMES
    }


@pytest.fixture(scope="module")
def fitted(clouds: dict[str, list[np.ndarray]]) -> Predictor:
    support = {name: each[:4] for name, each in clouds.items()}
    return Predictor.from_pretrained("eagraph-tiny-modelnet40", "cpu").with_support(support)


@pytest.fixture
def folder(tmp_path: Path, clouds: dict[str, list[np.ndarray]]) -> Path:
    """``support/CLASS/FILE`` with three examples each, and ``queries``."""
    for name, each in clouds.items():
        for index, cloud in enumerate(each):
            place = tmp_path / "support" / name if index < 3 else tmp_path / "queries"
            place.mkdir(parents=True, exist_ok=True)
            np.save(place / f"{name}{index}.npy", cloud)
    return tmp_path


def call(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["ea-pointcloud", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return int(stop.value.code or 0)


@pytest.mark.parametrize("method", ["mean", "ridge"])
def test_logits_without_an_example_are_those_of_a_fit_without_it(method: str) -> None:
    """Oracle: the fit again, less one example and its copy, with the weights of all."""
    embedded, label = rows(9), torch.tensor([0, 0, 0, 0, 1, 1, 1, 2, 2])
    group = torch.tensor([0, 0, 1, 2, 3, 4, 5, 6, 7])
    head = fit_head(embedded, label, group, method=method)
    wide, target = embedded.double(), F.one_hot(label).double() - 1 / 3
    weight = torch.tensor([9 / 12] * 4 + [9 / 9] * 3 + [9 / 6] * 2, dtype=torch.float64)
    penalty = float(head.method.split()[-1]) if method == "ridge" else 0.0
    for each in group.unique():
        rest = group != each
        if method == "ridge":
            scaled = wide[rest] * weight[rest, None]
            normal = wide[rest].T @ scaled + penalty * torch.eye(6, dtype=torch.float64)
            expected = wide[~rest] @ torch.linalg.solve(normal, scaled.T @ target[rest])
        else:
            means = torch.stack([wide[rest & (label == k)].mean(0) for k in range(3)])
            expected = F.cosine_similarity(wide[~rest][:, None], means[None], dim=-1)
        torch.testing.assert_close(head.logits[~rest].double(), 10 * expected, atol=1e-5, rtol=0)


def test_a_single_example_of_a_class_is_not_left_out() -> None:
    head = fit_head(rows(5), torch.tensor([0, 0, 0, 0, 1]))
    assert head.tested.tolist() == [True] * 4 + [False]
    alone = fit_head(rows(2), torch.tensor([0, 1]))
    assert alone.method == "nearest class mean"
    assert alone.temperature == 1.0
    assert not alone.tested.any()
    assert alone.calibration().detector is None


def test_embedding_whitens_the_covariance_within_classes() -> None:
    """Expected: along kept eigenvectors the shrunk variance becomes that of the rest."""
    generator = torch.Generator().manual_seed(0)
    label = torch.arange(4).repeat_interleave(50)
    spread = torch.tensor([5.0, 3.0, 1.0, 1.0, 1.0, 1.0])
    features = torch.randn(4, 6, generator=generator)[label] * 3
    features = features + torch.randn(200, 6, generator=generator) * spread
    found = UnitEmbedding.fit(features, label, 2)
    standard = (features - features.mean(0)) / features.std(0)
    offset = torch.cat([own - own.mean(0) for own in standard.split(50)]).double()
    variance, vectors = torch.linalg.eigh(offset.T @ offset / 196)
    shrunk = 0.2 * variance + 0.8 * variance.mean()
    expected = (shrunk[:-2].mean() / shrunk[-2:]).sqrt() - 1
    torch.testing.assert_close(found.gain.double(), expected, atol=1e-3, rtol=0)
    along = (vectors[:, -2:].T.float() * found.directions).sum(1).abs()
    torch.testing.assert_close(along, torch.ones(2), atol=1e-3, rtol=0)
    torch.testing.assert_close(found(features).norm(dim=1), torch.ones(200))


def test_classifies_classes_that_the_weights_do_not_have(
    fitted: Predictor, clouds: dict[str, list[np.ndarray]]
) -> None:
    queries = [(name, cloud) for name, each in clouds.items() for cloud in each[4:]]
    results = fitted.classify([cloud for _, cloud in queries])
    assert sum(found.label == name for found, (name, _) in zip(results, queries, strict=True)) >= 5
    assert fitted.model.data_spec.class_names == NAMES
    report = fitted.support
    assert report is not None
    assert report.counts == dict.fromkeys(NAMES, 4)
    assert report.tested == 12
    assert all(found.ood_score is not None for found in results)


def test_embedding_of_an_example_is_that_of_its_classifier(
    fitted: Predictor, clouds: dict[str, list[np.ndarray]]
) -> None:
    cloud = clouds["mug"][0]
    base = Predictor.from_pretrained("eagraph-tiny-modelnet40", "cpu")
    own, theirs = fitted.embed(cloud), base.embed([cloud])
    assert own.shape == (1280,)
    np.testing.assert_allclose(own, theirs[0], atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(own), 1, atol=1e-5)
    # A mirror image in x or z shares two of the three views.
    assert own @ base.embed(cloud * [-1, 1, 1]) > 0.9


def test_saved_as_ordinary_weights(
    fitted: Predictor, clouds: dict[str, list[np.ndarray]], tmp_path: Path
) -> None:
    fitted.model.save_pretrained(tmp_path / "mine")
    loaded = Predictor.from_pretrained(tmp_path / "mine", "cpu")
    queries = [each[5] for each in clouds.values()]
    assert loaded.classify(queries) == fitted.classify(queries)
    again = loaded.with_support({name: each[:2] for name, each in clouds.items()})
    np.testing.assert_allclose(again.embed(queries), fitted.embed(queries), atol=1e-5)


def test_an_embedding_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    model = load_model("eagraph-tiny-modelnet40")
    assert model.embedding is not None
    model.embedding = UnitEmbedding(7, 2).state_dict()
    model.save_pretrained(tmp_path / "w")
    with pytest.raises(ValueError, match=r"must have 1280 channels, got 7; copy the folder"):
        Predictor.from_pretrained(tmp_path / "w", "cpu").embed(np.eye(3))
    model.embedding["gain"] = torch.zeros(3)
    model.save_pretrained(tmp_path / "w")
    with pytest.raises(ValueError, match=r"embedding.safetensors is damaged .*copy the folder"):
        load_model(str(tmp_path / "w"))


def test_what_is_exported_answers_alike(
    fitted: Predictor, clouds: dict[str, list[np.ndarray]]
) -> None:
    """The form ``few-shot`` of ``test_export.py`` compares the file itself."""
    assert isinstance(fitted.model, Classifier)
    cloud = clouds["mug"][5]
    with torch.inference_mode():
        found = Deployed(fitted.model)(torch.from_numpy(cloud)[None].float())["probs"][0]
    expected = {each.label: each.prob for each in fitted.classify(cloud).top}
    assert {name: float(found[NAMES.index(name)]) for name in NAMES} == pytest.approx(
        expected, abs=1e-4
    )


@pytest.mark.parametrize("name", ["ea_classifier_tiny", "eamlp_classifier_small", "pointnet"])
def test_any_classifier_takes_examples(name: str, clouds: dict[str, list[np.ndarray]]) -> None:
    torch.manual_seed(0)
    name = name if "classifier" in name else "pointnet_classifier_base"
    model = create_model(name, num_classes=4).eval()
    model.data_spec = replace(model.data_spec, num_points=256)
    fitted = Predictor(model, "cpu").with_support({k: v[:3] for k, v in clouds.items()})
    assert fitted.classify(clouds["mug"][4]).label in NAMES


def test_rotations_and_views_are_left_out_with_their_example(
    clouds: dict[str, list[np.ndarray]],
) -> None:
    base = Predictor.from_pretrained("eagraph-tiny-modelnet40", "cpu")
    support = {name: each[:3] for name, each in clouds.items()}
    report = base.with_support(support, rotations=2, partial_views=1).support
    assert report is not None
    assert report.counts == dict.fromkeys(NAMES, 3)
    assert report.tested == 9


def test_report_says_what_to_expect() -> None:
    """Worked by hand: 16 of 20 is 0.8; Wilson's interval as in published tables."""
    confusions = (("mug", "cup", 3), ("cup", "mug", 1))
    report = SupportReport({"cup": 10, "mug": 10}, "ridge", 20, 16, confusions, (), 0.7)
    assert report.accuracy == 0.8
    assert report.interval == pytest.approx((0.584, 0.919), abs=1e-3)
    assert report.doubled == pytest.approx(1 - 0.2 * 0.2 / 0.3)
    text = "\n".join(report.lines())
    assert "80% (16 of 20; 95 % interval 58% to 92%)" in text
    assert "confused: mug as cup (3), cup as mug (1)" in text
    assert train_advice(report, "shapes", "w", "z") == ""
    many = replace(report, counts={"cup": 31, "mug": 40})
    advice = train_advice(many, "shapes", "w", "z")
    assert advice.endswith("ea-pointcloud train folder data.root=shapes model.init=w data.up=z")


def test_an_example_of_another_class_is_doubted(clouds: dict[str, list[np.ndarray]]) -> None:
    base = Predictor.from_pretrained("eagraph-tiny-modelnet40", "cpu")
    support = {name: each[:5] for name, each in clouds.items()}
    support["chair"] = [*support["chair"], clouds["bottle"][5]]
    report = base.with_support(support).support
    assert report is not None
    assert [(each.name, each.predicted) for each in report.doubtful][:1] == [("chair[5]", "bottle")]


def test_what_cannot_be_learned_from(clouds: dict[str, list[np.ndarray]]) -> None:
    base = Predictor.from_pretrained("eagraph-tiny-modelnet40", "cpu")
    mugs = clouds["mug"]
    with pytest.raises(ValueError, match=r"2 classes or more, got only 'mug'; add a class"):
        base.with_support({"mug": mugs[:2]})
    with pytest.raises(ValueError, match=r"2 classes or more, got 1 example; add one folder"):
        base.with_support({"mug": mugs[:1]})
    with pytest.raises(ValueError, match=r"cup\[1\] \(cup\) and mug\[0\] \(mug\) are the same"):
        base.with_support({"cup": [mugs[1], mugs[0]], "mug": mugs[:1]})
    report = base.with_support({"mug": [mugs[0], mugs[0]], "bottle": clouds["bottle"][:1]}).support
    assert report is not None
    assert report.counts == {"bottle": 1, "mug": 1}
    assert report.notes == ("mug[1] is the same cloud as mug[0] and is left out",)
    assert "accuracy unknown: no class has a second example to leave out" in report.lines()


def test_folders_of_another_layout_are_explained(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"give a folder of examples, CLASS/FILE"):
        list_examples(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"holds no class folder; put the examples into"):
        list_examples(tmp_path)
    (tmp_path / "train" / "mug").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"holds splits \(train\), no classes; give .*train"):
        list_examples(tmp_path)
    np.save(tmp_path / "train" / "mug" / "a.npy", np.eye(3))
    assert list_examples(tmp_path / "train") == [(tmp_path / "train" / "mug" / "a.npy", "mug")]
    (tmp_path / "b.ply").write_text("")
    with pytest.raises(ValueError, match=r"1 clouds that are in no class folder \(b.ply\)"):
        list_examples(tmp_path)


def test_command(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = folder / "mine"
    options = ["--up", "y", "--json", "--workers", 0]
    support = ["--support", folder / "support"]
    assert call(monkeypatch, "classify", folder / "queries", *support, *options,
                "--save-model", mine) == 0  # fmt: skip
    captured = capsys.readouterr()
    assert "3 classes, 3 examples each; ridge regression" in captured.err
    assert f"wrote {mine}" in captured.err
    found = json.loads(captured.out)
    assert {each["label"] for each in found} <= set(NAMES)
    assert call(monkeypatch, "classify", folder / "queries", "--model", mine, *options) == 0
    again = json.loads(capsys.readouterr().out)
    assert [each["top"] for each in again] == [each["top"] for each in found]
    assert load_model(str(mine)).data_spec.class_names == NAMES

    assert call(monkeypatch, "classify", folder / "queries", *support, "--save-model", mine) != 0
    assert f"{mine} exists; choose another name or add --force" in capsys.readouterr().err
    assert call(monkeypatch, "classify", folder / "queries", "--save-model", folder / "b") != 0
    assert "--save-model belongs to --support; add it" in capsys.readouterr().err
    (folder / "support" / "mug" / "bad.npy").write_text("no")
    assert call(monkeypatch, "classify", folder / "queries", *support, *options) != 0
    assert "1 of 10 examples cannot be read; repair or remove them" in capsys.readouterr().err
