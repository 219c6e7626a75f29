"""Classifiers under corruptions, from the arithmetic to the command, and unknown objects."""

import json
import runpy
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ea_pointcloud.datasets import ModelNet
from ea_pointcloud.datasets.corrupted import MODELNET40_CLASSES, CorruptedFiles, find_corrupted
from ea_pointcloud.datasets.subset import select_classes
from ea_pointcloud.inference.calibration import ClassifierOutput, extract_features
from ea_pointcloud.inference.ood import (
    auroc,
    compare_scores,
    false_positive_rate,
    ood_metrics,
)
from ea_pointcloud.models import create_model
from ea_pointcloud.report import corruptions as shown
from ea_pointcloud.robustness import MODELNET40_C, MODELNET_C, Corruption
from ea_pointcloud.robustness.corrupted_sets import GeneratedSet, PublishedSet
from ea_pointcloud.robustness.evaluation import (
    DGCNN,
    Reference,
    corruption_errors,
    evaluate_corruptions,
    mean_error_rate,
    mean_of,
    relative_errors,
)
from ea_pointcloud.robustness.options import InferenceOptions
from ea_pointcloud.training import evaluate_corruptions as training_corruptions
from ea_pointcloud.training.data import open_split
from ea_pointcloud.training.evaluate_corruptions import check_corruptions, evaluate_run_corruptions
from ea_pointcloud.training.recipe import load_recipe, save_recipe
from tests.test_cli import call
from tests.test_training import QUICK

CPU = torch.device("cpu")
SMALL: dict[str, Any] = {"num_centers": (8, 4), "num_neighbors": (4, 4), "depth": 1}


def test_mean_error_rate_by_hand() -> None:
    assert mean_error_rate({"a": (0.9, 0.7), "b": (0.5, 0.5)}) == pytest.approx(0.35)


def test_relative_measures_by_hand() -> None:
    reference = Reference("other", 0.9, {"a": 0.8, "b": 0.5})
    errors = corruption_errors({"a": 0.9, "b": 0.25}, reference)
    assert errors == {"a": pytest.approx(0.5), "b": pytest.approx(1.5)}
    assert mean_of(errors) == pytest.approx(1.0)
    relative = relative_errors(0.95, {"a": 0.9, "b": 0.25}, reference)
    assert relative == {"a": pytest.approx(0.5), "b": pytest.approx(1.75)}
    assert mean_of(relative) == pytest.approx(1.125)


def test_the_published_reference_is_1_by_definition() -> None:
    assert set(DGCNN.accuracy) == set(MODELNET_C)
    assert mean_of(corruption_errors(DGCNN.accuracy, DGCNN)) == 1.0
    assert mean_of(relative_errors(DGCNN.clean_accuracy, DGCNN.accuracy, DGCNN)) == 1.0


def test_nothing_is_relative_to_no_error() -> None:
    perfect = Reference("perfect", 1.0, {"a": 1.0, "b": 0.9})
    errors = corruption_errors({"a": 0.9, "b": 0.8}, perfect)
    assert errors == {"a": None, "b": pytest.approx(2.0)}
    assert mean_of(errors) is None
    assert relative_errors(1.0, {"a": 0.9, "b": 0.8}, perfect)["a"] is None


class Counting(nn.Module):
    """Takes a cloud of at least 100 points for class 1, any other for class 0."""

    calibration = None

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, xyz: Tensor, *, mask: Tensor | None = None) -> Tensor:
        lengths = torch.full((len(xyz),), xyz.shape[1]) if mask is None else mask.sum(1)
        assert xyz.norm(dim=-1).amax() <= 1 + 1e-5  # centred and scaled before
        many = lengths >= 100
        return torch.stack([~many, many], dim=1) * self.weight


@pytest.fixture(scope="module")
def objects() -> GeneratedSet:
    """Clouds of 128 of 256 stored points, most of class 1; in three batches."""
    xyz = torch.randn(130, 256, 3, generator=torch.Generator().manual_seed(0))
    xyz /= xyz.norm(dim=-1).amax(1)[:, None, None]
    label = torch.ones(130, dtype=torch.long)
    label[:13] = 0
    return GeneratedSet("modelnet-c", xyz, label, 128, reason="for a test")


def test_the_accuracy_of_every_set(objects: GeneratedSet) -> None:
    lines = []
    model = Counting()
    report = evaluate_corruptions(
        model,  # pyright: ignore[reportArgumentType]
        objects,
        "modelnet-c",
        reference=DGCNN,
        say=lines.append,
    )
    assert report.benchmark == "modelnet-c (generated)"
    assert report.shapes == 130
    assert report.clean_accuracy == pytest.approx(0.9)
    # 128 points lose 32, 48, ...; 12, 25, 38, ...; the others none.
    assert report.accuracy["dropout_global"] == pytest.approx((0.1,) * 5)
    assert report.accuracy["dropout_local"] == pytest.approx((0.9, 0.9, 0.1, 0.1, 0.1))
    assert report.accuracy["add_local"] == pytest.approx((0.9,) * 5)
    others = 5 * 5 * 0.1
    assert report.mean_error_rate == pytest.approx((others + 5 * 0.9 + 2 * 0.1 + 3 * 0.9) / 35)
    assert report.corruption_error["dropout_global"] == pytest.approx(0.9 / 0.248)
    assert report.relative_error["dropout_global"] == pytest.approx(0.8 / 0.174)
    assert report.mce == mean_of(report.corruption_error)
    assert report.rmce == mean_of(report.relative_error)
    assert lines[0] == "modelnet-c (generated): clean 0.9000, 130 shapes"
    assert len(lines) == 1 + len(MODELNET_C)
    assert report.mean_accuracy()["dropout_local"] == pytest.approx(0.42)

    table = shown.corruption_table(report, "title")
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["dropout_local"][:7] == (
        "density", "10.0", "10.0", "90.0", "90.0", "90.0", "58.0",
    )  # fmt: skip
    assert rows["mean"][-3:-1] == (f"{100 * report.mean_error_rate:.1f}", f"{report.mce:.3f}")
    assert "relative to DGCNN, published on ModelNet-C, clean 7.4 % wrong" in (
        shown.corruption_line(report)
    )
    heat = shown.corruption_chart(report).data[0]
    assert next(iter(heat.y)) == "clean"  # pyright: ignore[reportAttributeAccessIssue]
    assert np.allclose(heat.z[list(heat.y).index("dropout_local")], [0.1, 0.1, 0.9, 0.9, 0.9])  # pyright: ignore[reportAttributeAccessIssue]

    few = Reference("few", 1, {"scale": 1, "jitter": 1})
    with pytest.raises(ValueError, match=r"'few' must have all corruptions .* lacks add_global, "):
        evaluate_corruptions(model, objects, "modelnet-c", reference=few)  # pyright: ignore[reportArgumentType]
    none = GeneratedSet("modelnet-c", objects.xyz[:0], objects.label[:0], 128)
    with pytest.raises(ValueError, match=r"shapes must be at least 1, got 0"):
        evaluate_corruptions(model, none, "modelnet-c")  # pyright: ignore[reportArgumentType]


def test_generated_clouds_repeat_and_differ(objects: GeneratedSet) -> None:
    def clouds(name: str, severity: int) -> Tensor:
        return torch.cat([xyz for xyz, _, _ in objects.corrupted(name, severity)])

    first = clouds("jitter", 2)
    assert torch.equal(first, clouds("jitter", 2))
    noise = (first - objects.xyz[:, :128]) / 0.02
    other = (clouds("jitter", 3) - objects.xyz[:, :128]) / 0.03
    assert abs(float((noise * other).mean())) < 0.02  # another severity, other random numbers
    assert abs(float((noise[:60] * noise[64:124]).mean())) < 0.02  # so has another batch
    assert clouds("rotate", 1).shape[1] == 128
    halved = GeneratedSet("modelnet40-c", objects.xyz, objects.label, 128)
    assert {xyz.shape[1] for xyz, _, _ in halved.corrupted("density_inc", 1)} == {128}


def write_modelnet40_c(folder: Path) -> None:
    folder.mkdir(parents=True)
    np.save(folder / "label.npy", np.array([[8], [0], [39]]))
    for name in MODELNET40_C:
        for severity in (1, 2, 3, 4, 5):
            xyz = np.full((3, 4 + severity, 3), severity / 10)
            np.save(folder / f"data_{name}_{severity}.npy", xyz)


def write_modelnet_c(folder: Path) -> None:
    folder.mkdir(parents=True)
    files = {f"{name}_{level}": level + 1 for name in MODELNET_C for level in range(5)}
    for name, severity in {**files, "clean": 0}.items():
        with h5py.File(folder / f"{name}.h5", "w") as file:
            file["data"] = np.full((3, 4 + severity, 3), severity / 10, np.float32)
            file["label"] = np.array([[8], [0], [39]])


def test_published_files_are_read_under_their_own_name(tmp_path: Path) -> None:
    assert len(MODELNET40_CLASSES) == 40
    assert list(MODELNET40_CLASSES) == sorted(MODELNET40_CLASSES)
    assert find_corrupted(tmp_path, "modelnet-c") is None
    write_modelnet_c(tmp_path / "modelnet_c")
    folder = find_corrupted(tmp_path, "modelnet-c")
    assert folder is not None
    files = CorruptedFiles(folder, "modelnet-c", MODELNET_C)
    # A model that counts its classes the other way round.
    source = PublishedSet("modelnet-c", files, MODELNET40_CLASSES[::-1], 2)
    assert source.title == "modelnet-c"
    assert source.shapes == 2
    ((xyz, mask, label),) = source.corrupted("rotate", 4)
    assert xyz.shape == (2, 8, 3)
    assert torch.equal(xyz, 0.4 * torch.tensor([-1.0, 1, 1]).expand(2, 8, 3))  # a mirrored set
    assert mask is None
    assert label.tolist() == [39 - 8, 39]
    assert next(source.clean())[0].shape == (2, 4, 3)

    write_modelnet40_c(tmp_path / "modelnet40_c")
    folder = find_corrupted(tmp_path, "modelnet40-c")
    assert folder is not None
    files = CorruptedFiles(folder, "modelnet40-c", MODELNET40_C)
    clean = GeneratedSet("modelnet40-c", torch.zeros(3, 9, 3), torch.zeros(3, dtype=torch.long), 9)
    source = PublishedSet("modelnet40-c", files, MODELNET40_CLASSES, uncorrupted=clean)
    ((xyz, _, label),) = source.corrupted("lidar", 2)
    assert torch.equal(xyz, 0.2 * torch.tensor([-1.0, 1, 1]).expand(3, 6, 3))
    assert label.tolist() == [8, 0, 39]
    assert next(source.clean())[0].shape == (3, 9, 3)


@pytest.mark.parametrize(
    ("benchmark", "names"), [("modelnet40-c", MODELNET40_C), ("modelnet-c", MODELNET_C)]
)
def test_published_files_as_they_are_or_right_handed(
    tmp_path: Path, benchmark: str, names: dict[str, Corruption]
) -> None:
    write_modelnet40_c(tmp_path / "modelnet40_c")
    write_modelnet_c(tmp_path / "modelnet_c")
    folder = find_corrupted(tmp_path, benchmark)
    assert folder is not None
    for mirrored, mirroring, sign in (
        ("auto", "undone", -1),
        (True, "undone", -1),
        (False, "kept", 1),
    ):
        files = CorruptedFiles(folder, benchmark, names, mirrored=mirrored)
        assert files.mirroring == mirroring
        xyz, _ = files.read(next(iter(names)), 3)
        assert torch.equal(xyz, 0.3 * torch.tensor([sign, 1.0, 1.0]).expand(3, 7, 3))
    with pytest.raises(ValueError, match=r"mirrored must be one of 'auto', True, False, got 'no'"):
        CorruptedFiles(folder, benchmark, names, mirrored="no")


def test_incomplete_or_damaged_files_say_so(tmp_path: Path) -> None:
    folder = tmp_path / "modelnet40_c"
    write_modelnet40_c(folder)
    files = CorruptedFiles(folder, "modelnet40-c", MODELNET40_C)
    (folder / "data_shear_3.npy").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"data_shear_3.npy cannot be read .* download it again"):
        files.read("shear", 3)
    np.save(folder / "data_shear_3.npy", np.zeros((2, 4, 3)))
    with pytest.raises(ValueError, match=r"clouds \(n, N, 3\) with n labels, got \(2, 4, 3\) and"):
        files.read("shear", 3)
    np.save(folder / "label.npy", np.array([1, 2, 40]))
    with pytest.raises(ValueError, match=r"data_shear_4.npy must have labels from 0 to 39"):
        files.read("shear", 4)
    (folder / "data_shear_3.npy").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks 1 of 75 sets, data_shear_3.npy first; run"):
        CorruptedFiles(folder, "modelnet40-c", MODELNET40_C)
    write_modelnet_c(tmp_path / "modelnet_c")
    (tmp_path / "modelnet_c" / "scale_0.h5").write_bytes(b"nothing")
    files = CorruptedFiles(tmp_path / "modelnet_c", "modelnet-c", MODELNET_C)
    with pytest.raises(ValueError, match=r"scale_0.h5 cannot be read"):
        files.read("scale", 1)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patch:
        options = ("eval.votes=0", "trainer.epochs=1", "--run-dir", run)
        assert call(patch, "train", "procedural", *QUICK, *options) == 0
    return run


def test_the_command(
    run_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ("evaluate", run_folder, "--corruptions", "all", "--limit", 7)
    capsys.readouterr()
    assert call(monkeypatch, *arguments, "--json") == 0
    printed = capsys.readouterr()
    (row,) = json.loads(printed.out)
    first, second = row["corruptions"]
    assert (first["benchmark"], second["benchmark"]) == (
        "modelnet40-c (generated)",
        "modelnet-c (generated)",
    )
    assert first["reason"] == "the published files are of ModelNet40's test split"
    assert first["shapes"] == 7
    assert set(first["accuracy"]) == set(MODELNET40_C)
    assert all(len(values) == 5 for values in first["accuracy"].values())
    values = [value for each in first["accuracy"].values() for value in each]
    assert first["mean_error_rate"] == pytest.approx(1 - sum(values) / 75)
    assert first["mce"] is None
    assert first["options"] == {"tta_rotations": 1, "remove_outliers": False, "adaptation": None}
    assert "modelnet-c (generated): add_local 0." in printed.err

    reference = tmp_path / "reference.json"
    reference.write_text(printed.out)
    report = tmp_path / "report"
    arguments = ("evaluate", run_folder, "--corruptions", "modelnet-c", "--reference", reference)
    assert call(monkeypatch, *arguments, "--limit", 7, "--report", report) == 0
    text = capsys.readouterr().out
    assert f"CE and RCE relative to procedural (tiny) in {reference.name}" in text
    assert text.count("1.000") > 7  # relative to itself
    page = (report / "index.html").read_text(encoding="utf-8")
    assert "<h2>Corruptions</h2>" in page
    assert 'id="corruptions-0"' in page

    assert call(monkeypatch, *arguments, "--limit", 5) == 1
    expected = "7 shapes of modelnet-c (generated), these are 5 shapes of modelnet-c (generated)"
    assert expected in capsys.readouterr().err
    assert call(monkeypatch, *arguments, "--split", "val") == 1
    expected = "has figures of procedural, test split, the run is measured on procedural, val split"
    assert expected in capsys.readouterr().err


def test_options_of_the_command(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def measured(*_: object, options: InferenceOptions, **__: object) -> list[object]:
        asked.append(options)
        return []

    monkeypatch.setattr(training_corruptions, "evaluate_run_corruptions", measured)
    arguments = ("evaluate", run_folder, "--corruptions", "all")
    options = ("--tta-rotations", 2, "--remove-outliers", "--adapt", 0.5)
    assert call(monkeypatch, *arguments, *options) == 0
    assert asked == [InferenceOptions(tta_rotations=2, remove_outliers=True, adaptation=0.5)]
    assert call(monkeypatch, *arguments, "--adapt", 2) == 1


def test_several_runs_are_summed_up(objects: GeneratedSet) -> None:
    report = evaluate_corruptions(Counting(), objects, "modelnet-c")  # pyright: ignore[reportArgumentType]
    table = shown.corruption_summary([[report], [report]])
    error = f"{100 * report.mean_error_rate:.1f}"
    assert table.rows == [("modelnet-c (generated)", "10.0 ± 0.0", f"{error} ± 0.0", "-", "-")]
    assert "no mCE: give a reference" in shown.corruption_line(report)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--corruptions", "fog"], "--corruptions must be one of 'modelnet40-c', 'modelnet-c'"),
        (["--adapt", "1"], "--adapt belongs to corruptions; add --corruptions all"),
        (["--corruptions", "all", "--farthest-of", "9"], "its own points; leave out --farthest-of"),
        (["--reference", "x.json"], "--reference belongs to corruptions"),
        (["--corruptions", "all", "--reference", "x.json"], "no x.json; make it by"),
        (["--corruptions", "all", "--reference", "recipe.yaml"], "must be what 'evaluate RUN"),
    ],
)
def test_what_the_command_refuses(
    options: list[str],
    message: str,
    run_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(run_folder)
    assert call(monkeypatch, "evaluate", run_folder, *options) == 1
    assert message in capsys.readouterr().err


def test_a_segmenter_is_refused() -> None:
    recipe = load_recipe("psb_part", ["data.root=data"])
    with pytest.raises(ValueError, match=r"--corruptions measures classifiers"):
        check_corruptions("all", recipe)


def test_published_files_are_for_modelnet40_alone(modelnet_folder: Path, tmp_path: Path) -> None:
    write_modelnet_c(tmp_path / "modelnet_c")
    root = modelnet_folder.parent
    recipe = load_recipe("modelnet40_ea", [f"data.root={root}", "data.num_points=32"])
    names = ModelNet(root, split="test").class_names
    found = {}
    for kind, known in (("other", names), ("same", MODELNET40_CLASSES)):
        (modelnet_folder / "shape_names.txt").write_text("\n".join(known))
        model = create_model("ea_classifier_tiny", num_classes=40, **SMALL)
        model.data_spec = replace(model.data_spec, class_names=tuple(known))
        model.save_pretrained(tmp_path / kind / "best")
        (found[kind],) = evaluate_run_corruptions(
            tmp_path / kind, recipe, "test", "modelnet-c", CPU, limit=2
        )
    assert found["other"].benchmark == "modelnet-c (generated)"
    assert "are of ModelNet40's 40 classes" in found["other"].reason
    assert found["same"].benchmark == "modelnet-c"
    reason = f"the published files in {tmp_path / 'modelnet_c'}, stored mirrored"
    assert found["same"].reason == f"{reason}, x negated"
    assert found["same"].reference == DGCNN
    # A network that was trained on mirror images sees mirror images here too.
    model.data_spec = replace(model.data_spec, mirroring="kept")
    model.save_pretrained(tmp_path / "same" / "best")
    (kept,) = evaluate_run_corruptions(
        tmp_path / "same", recipe, "test", "modelnet-c", CPU, limit=2
    )
    assert kept.reason == f"{reason} and left so"


def test_separation_by_hand() -> None:
    known = torch.tensor([0.1, 0.2, 0.3, 0.4])
    unknown = torch.tensor([0.35, 0.2, 0.9])
    # Pairs in the right order: 3, 1 and a tie, 4 of 4.
    assert auroc(known, unknown) == pytest.approx((3 + 1.5 + 4) / 12)
    assert auroc(unknown, known) == pytest.approx(1 - 8.5 / 12)
    # All four known have to pass for 95 %; three for 75 %.
    assert false_positive_rate(known, unknown) == pytest.approx(2 / 3)
    assert false_positive_rate(known, unknown, 0.75) == pytest.approx(1 / 3)
    hundred = torch.arange(100.0)
    assert false_positive_rate(hundred, torch.tensor([94.0, 95.0])) == 0.5
    assert ood_metrics(hundred, hundred + 100).auroc == 1.0
    with pytest.raises(ValueError, match=r"known and unknown clouds, got 4 and 0"):
        auroc(known, unknown[:0])


def test_every_score_tells_far_features_from_near_ones() -> None:
    """Two classes on two axes, and clouds between them on a third."""
    generator = torch.Generator().manual_seed(0)

    def answers(centers: Tensor) -> ClassifierOutput:
        noise = torch.randn(len(centers), 3, generator=generator)
        features = 5 * centers + 0.3 * noise
        return ClassifierOutput(features, 2 * features[:, :2])

    axes = torch.eye(3)
    label = torch.arange(200) % 2
    train, known = answers(axes[label]), answers(axes[label])
    found = compare_scores(train, label, known, answers(axes[2].expand(100, 3)))
    assert len(found) == 8
    for name, each in found.items():
        assert each.auroc > 0.99, name
        assert each.fpr95 < 0.05, name
    same = compare_scores(train, label, known, answers(axes[label]))
    assert all(0.4 < each.auroc < 0.6 for each in same.values())
    with pytest.raises(ValueError, match=r"between 1 and training clouds=3, got 10"):
        compare_scores(ClassifierOutput(*(rows[:3] for rows in train)), label[:3], known, known)


def test_asking_prepares_as_the_predictor_does() -> None:
    model = create_model("ea_classifier_tiny", num_classes=3).eval()
    xyz = torch.randn(2, 60, 3, generator=torch.Generator().manual_seed(0))
    mask = torch.arange(60) < 50

    def samples() -> Iterator[dict[str, Tensor]]:
        yield {"xyz": xyz[0], "mask": mask}
        yield {"xyz": 7 * xyz[0, :50] + 3}

    features, logits = extract_features(model, samples())
    assert features.shape[0] == 2
    assert torch.allclose(logits[0], logits[1], atol=1e-4)


def test_a_set_with_some_of_its_classes(modelnet_folder: Path) -> None:
    whole = ModelNet(modelnet_folder, split="train")
    some = select_classes(whole, ["shape07", "shape02"])
    assert some.class_names == ("shape07", "shape02")
    assert len(some) == int(((whole.label == 7) | (whole.label == 2)).sum())
    sevens = whole.xyz[whole.label == 7]
    assert torch.equal(some.xyz[some.label == 0], sevens)
    assert len(whole.class_names) == 40
    with pytest.raises(ValueError, match=r"classes must be some of .* got \['shape07', 'fog'\]"):
        select_classes(whole, ["shape07", "fog"])
    with pytest.raises(ValueError, match=r"each once"):
        select_classes(whole, ["shape07", "shape07"])


def test_a_recipe_can_leave_classes_out(modelnet_folder: Path, tmp_path: Path) -> None:
    root = f"data.root={modelnet_folder}"
    recipe = load_recipe("modelnet40_ea", [root, "data.classes=[shape01,shape05]"])
    for split in ("train", "val", "test"):
        dataset = open_split(recipe.data, split)
        assert dataset.class_names == ("shape01", "shape05")  # pyright: ignore[reportAttributeAccessIssue]
        assert set(dataset.label.tolist()) <= {0, 1}  # pyright: ignore[reportAttributeAccessIssue]
    for options, message in (
        (["data.classes=[shape01]"], r"data.classes must name two classes or more"),
        (["data.classes=[a,b]", "data.in_memory=false"], r"held in memory, got \['a', 'b'\]"),
        (["data.classes=[a,b]", "data.dataset=procedural"], r"data.dataset with data.classes must"),
    ):
        with pytest.raises(ValueError, match=message):
            load_recipe("modelnet40_ea", [root, *options])


def test_the_script_compares_scores_on_the_classes_left_out(
    modelnet_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    classes = [f"shape{place:02d}" for place in range(38)]
    listed = f"data.classes=[{','.join(classes)}]"
    options = [f"data.root={modelnet_folder}", "data.num_points=16", listed]
    save_recipe(load_recipe("modelnet40_ea", options), tmp_path / "recipe.yaml")
    model = create_model("ea_classifier_tiny", num_classes=38, **SMALL)
    model.data_spec = replace(model.data_spec, class_names=tuple(classes), num_points=16)
    model.save_pretrained(tmp_path / "best")
    module = "scripts.research.unknown_objects"
    monkeypatch.setattr(sys, "argv", [module, str(tmp_path), "--device", "cpu"])
    runpy.run_module(module, run_name="__main__")
    text = capsys.readouterr().out
    assert text.startswith("38 known clouds of shape00, ")
    assert "; 2 unknown ones\n" in text
    rows = dict(line.rsplit(maxsplit=2)[:2] for line in text.splitlines()[2:])
    assert len(rows) == 8
    assert all(0 <= float(value) <= 1 for value in rows.values())
