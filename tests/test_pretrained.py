"""Weights that come with the package, the tool that makes them, and commands without --model."""

import fnmatch
import hashlib
import json
import re
import runpy
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from safetensors import safe_open

from ea_pointcloud import Predictor, create_model, list_pretrained
from ea_pointcloud.datasets.procedural import generate_mesh
from ea_pointcloud.io import write_mesh
from ea_pointcloud.models import (
    Classifier,
    Segmenter,
    load_model,
)
from ea_pointcloud.models import (
    pretrained as shipped,
)
from ea_pointcloud.models.pretrained import (
    DEFAULT_CLASSIFIER,
    DEFAULT_SEGMENTER,
    SHIPPED_FOLDER,
    rounded_state,
)
from ea_pointcloud.training.recipe import load_recipe, save_recipe
from ea_pointcloud.training.run_folder import load_run_recipe
from scripts.publish import card, weights
from scripts.publish.weights import LIMIT, publish_weights, train_command
from tests.test_cli import call, run_folder  # noqa: F401

ROOT = Path(__file__).parent.parent
CPU = torch.device("cpu")
each_name = pytest.mark.parametrize("name", list_pretrained())


@pytest.fixture
def chair(tmp_path: Path) -> Path:
    mesh = generate_mesh("chair", torch.Generator().manual_seed(1))
    write_mesh(tmp_path / "chair.off", mesh.vertices, mesh.faces)
    return tmp_path / "chair.off"


def read(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text())


# --- what ships


@each_name
def test_weights_load_by_name(name: str) -> None:
    model = load_model(name)
    assert isinstance(model, Classifier | Segmenter)
    assert not model.training
    assert {each.dtype for each in model.parameters()} == {torch.float32}
    assert all(bool(value.isfinite().all()) for value in model.state_dict().values())
    assert model.data_spec.up_axis == "y"


@each_name
def test_weights_are_small_and_stored_in_half_precision(name: str) -> None:
    folder = SHIPPED_FOLDER / name
    assert sum(path.stat().st_size for path in folder.iterdir()) <= LIMIT
    model = load_model(name)
    with safe_open(folder / "model.safetensors", "pt") as file:
        stored = {key: file.get_tensor(key).dtype for key in file.keys()}  # noqa: SIM118
    half = {key for key, dtype in stored.items() if dtype == torch.float16}
    assert half == {key for key, _ in model.named_parameters()}
    assert set(stored) == set(model.state_dict())


@each_name
def test_a_card_tells_what_its_figures_say(name: str) -> None:
    folder = SHIPPED_FOLDER / name
    told, text = read(folder, "figures.json"), (folder / "README.md").read_text()
    assert text == card.card_text(folder)
    report = told["evaluation"][0]["reports"][0]
    segments = told["evaluation"][0]["recipe"]["task"] == "segmentation"
    figure = report["instance_miou" if segments else "overall_accuracy"]
    rows = [line for line in text.splitlines() if line.startswith(f"| {report['selection']} | ")]
    assert f" {figure:.4f} " in rows[0]  # other seeds and their mean follow
    seeds = len(told["evaluation"])
    assert len(rows) == seeds + (seeds > 1)
    assert told["training"]["command"] in text
    weights = (folder / "model.safetensors").read_bytes()
    assert told["sha256"] == hashlib.sha256(weights).hexdigest()
    assert told["sha256"] in text
    assert told["name"] == name
    assert told["rounding"]["agreement"] >= 0.999
    assert abs(told["rounding"]["as_trained"] - told["rounding"]["as_stored"]) <= 0.001
    spec = load_model(name).data_spec
    assert all(each.split("/")[-1] in text for each in (*spec.class_names, *spec.category_names))
    assert f"Up axis: **{spec.up_axis}**" in text
    # What the hub shows as facts.
    assert ModelCard(text).data.to_dict()["library_name"] == "ea-pointcloud"


@each_name
def test_no_path_of_a_machine_is_told(name: str) -> None:
    for file in ("config.json", "figures.json", "README.md"):
        text = (SHIPPED_FOLDER / name / file).read_text()
        assert not re.search(r"(?<![\w.])/(home|work|root|tmp|data|mnt|Users)\b", text)
    one = read(SHIPPED_FOLDER / name, "figures.json")["evaluation"][0]
    assert one["recipe"]["data"]["root"] is None


def test_a_classifier_and_a_segmenter_ship() -> None:
    classifier = Predictor.from_pretrained(device="cpu").model
    assert isinstance(classifier, Classifier)
    assert classifier.calibration is not None
    assert isinstance(load_model(DEFAULT_SEGMENTER), Segmenter)


def test_the_wheel_takes_every_file() -> None:
    tomllib = pytest.importorskip("tomllib")
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    patterns = settings["tool"]["setuptools"]["package-data"]["ea_pointcloud"]
    package = ROOT / "ea_pointcloud"
    for path in SHIPPED_FOLDER.rglob("*"):
        inside = path.relative_to(package).as_posix()
        assert path.is_dir() or any(fnmatch.fnmatch(inside, each) for each in patterns), inside


@pytest.mark.parametrize("load", [load_model, Predictor.from_pretrained])
def test_an_unknown_name_lists_those_there_are(load: Callable[[str], object]) -> None:
    words = rf"no folder ea-huge-everything; .*{', '.join(list_pretrained())}$"
    with pytest.raises(FileNotFoundError, match=words):
        load("ea-huge-everything")


def test_a_folder_goes_before_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create_model("ea_classifier_tiny", num_classes=3).save_pretrained(tmp_path / DEFAULT_CLASSIFIER)
    monkeypatch.chdir(tmp_path)
    assert load_model(DEFAULT_CLASSIFIER).config.num_classes == 3


# --- commands without --model


def test_classify_takes_what_ships(
    chair: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "classify", chair, "--json", "--device", "cpu") == 0
    output = capsys.readouterr()
    (row,) = rows = json.loads(output.out)
    names = load_model(DEFAULT_CLASSIFIER).data_spec.class_names
    assert row["weights"] == DEFAULT_CLASSIFIER
    assert row["label"] in names
    expected = Predictor.from_pretrained(device="cpu").classify(chair, up="z")  # an OFF file
    assert (row["label"], row["prob"]) == (expected.label, pytest.approx(expected.prob))
    said = f"Using pretrained {DEFAULT_CLASSIFIER} ({len(names)} classes: {', '.join(names[:10])}"
    assert said in output.err
    assert "Change with --model." in output.err
    schema = read(ROOT / "ea_pointcloud" / "schemas", "classify.schema.json")
    jsonschema.validate(rows, schema)
    # Those who name weights are not told.
    named = ("classify", chair, "--json", "--model", DEFAULT_CLASSIFIER)
    assert call(monkeypatch, *named) == 0
    output = capsys.readouterr()
    assert json.loads(output.out) == rows
    assert "Using pretrained" not in output.err


def test_segment_takes_what_ships(
    chair: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "segment", chair, "--json", "--device", "cpu") == 0
    output = capsys.readouterr()
    (row,) = json.loads(output.out)
    assert (row["weights"], row["category_from"]) == (DEFAULT_SEGMENTER, "network")
    assert row["category"] in load_model(DEFAULT_SEGMENTER).data_spec.category_names
    assert f"Using pretrained {DEFAULT_SEGMENTER} (19 categories: " in output.err


def test_info_lists_what_ships(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "info", "--json") == 0
    assert json.loads(capsys.readouterr().out)["weights"] == ", ".join(list_pretrained())


# --- half precision


def test_parameters_are_rounded_and_buffers_kept(tmp_path: Path) -> None:
    model = create_model("ea_classifier_tiny", num_classes=3).eval()
    for name, value in model.named_buffers():
        if name.endswith("running_var"):
            value.fill_(1e-9)  # 0 in half precision
    model.save_pretrained(tmp_path / "w", dtype=torch.float16)
    again = load_model(str(tmp_path / "w")).state_dict()
    parameters = dict(model.named_parameters())
    for name, value in model.state_dict().items():
        expected = value.half().float() if name in parameters else value
        assert torch.equal(again[name], expected)


@pytest.mark.parametrize("value", [1e5, 1e-9])
def test_parameters_that_half_precision_cannot_hold(value: float, tmp_path: Path) -> None:
    model = create_model("ea_classifier_tiny", num_classes=3)
    with torch.no_grad():
        model.head[-1].weight.fill_(value)
    words = (
        rf"head\.\d\.weight must keep its values as torch.float16, got magnitudes .* {value:.3g}"
    )
    with pytest.raises(ValueError, match=words.replace("+", r"\+")):
        rounded_state(model, torch.float16)
    with pytest.raises(ValueError, match="store the weights as they are"):
        model.save_pretrained(tmp_path / "w", dtype=torch.float16)
    assert list(tmp_path.iterdir()) == []


# --- the tool


@pytest.fixture
def figures(
    run_folder: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Path:
    assert call(monkeypatch, "evaluate", run_folder, "--json", "--device", "cpu") == 0
    path = tmp_path / "evaluate.json"
    path.write_text(capsys.readouterr().out)
    return path


def test_a_run_becomes_weights_with_a_card(
    run_folder: Path,  # noqa: F811
    figures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "out" / "ea-tiny-procedural"
    found = publish_weights(run_folder, folder, CPU, figures=figures, note="28 shapes of val")
    assert (found.shapes, found.labels) == (28, 28)
    assert found.agreement == 1
    assert found.as_trained == found.as_stored
    told = read(folder, "figures.json")
    (measured,) = json.loads(figures.read_text())
    measured["recipe"]["data"]["root"] = None
    assert told["evaluation"] == [measured]
    assert told["rounding"] == vars(found)
    text = (folder / "README.md").read_text()
    for words in (
        f"| validation (primary) | 0 | {measured['reports'][0]['overall_accuracy']:.4f} | ",
        "ea-pointcloud train procedural ",
        "'data.shapes=[56,28,28]'",
        "with a warning where it is out of distribution",
        "28 shapes of val",
        "Seed 0, 3 epochs, ",
    ):
        assert words in text
    assert sorted(path.stat().st_mode & 0o777 for path in folder.iterdir()) == [0o644] * 5

    xyz = np.random.default_rng(0).normal(size=(100, 3))
    trained, stored = (Predictor.from_pretrained(one, "cpu") for one in (run_folder, folder))
    assert stored.classify(xyz).prob == pytest.approx(trained.classify(xyz).prob, abs=0.01)

    # What stops it leaves what is there.
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(
        FileExistsError, match=r"ea-tiny-procedural exists; choose another name, or"
    ):
        publish_weights(run_folder, folder, CPU, figures=figures)
    with pytest.raises(ValueError, match=r"must take at most 0.0 MB, got 0.\d MB; train a smaller"):
        publish_weights(run_folder, folder, CPU, figures=figures, limit=1000, force=True)
    monkeypatch.setattr(weights, "AGREEMENT", 1.1)
    words = r"half precision must leave 110.0% of the labels on val .*, got 100.00% and 0\.\d+ -> "
    with pytest.raises(ValueError, match=words):
        publish_weights(run_folder, folder, CPU, figures=figures, force=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    monkeypatch.undo()
    publish_weights(run_folder, folder, CPU, figures=figures, force=True)
    assert "28 shapes of val" not in (folder / "README.md").read_text()


def test_figures_of_something_else_are_refused(
    run_folder: Path,  # noqa: F811
    figures: Path,
    tmp_path: Path,
) -> None:
    (own,) = json.loads(figures.read_text())
    other = json.loads(json.dumps(own))
    other["recipe"]["trainer"]["seed"] = 5
    for content, words in (
        (
            [other],
            r"must have the figures of this run \(seed 0\) once, got 0 times among seeds \[5\]",
        ),
        ([{**own, "farthest_of": 64}], r"figures of other points than the run's"),
        ([own, own], r"got 2 times among seeds \[0, 0\]; evaluate the run that is published"),
        ({"reports": []}, r"is not what 'ea-pointcloud evaluate RUN --json' prints \(TypeError"),
    ):
        figures.write_text(json.dumps(content))
        with pytest.raises(ValueError, match=words):
            publish_weights(run_folder, tmp_path / "w", CPU, figures=figures)
    figures.write_text("Killed")
    with pytest.raises(
        ValueError, match=r"is not what .* prints \(JSONDecodeError.*; write it again"
    ):
        publish_weights(run_folder, tmp_path / "w", CPU, figures=figures)
    assert not (tmp_path / "w").exists()


def test_several_seeds_are_summarised_in_the_card(
    run_folder: Path,  # noqa: F811
    figures: Path,
    tmp_path: Path,
) -> None:
    (own,) = json.loads(figures.read_text())
    other = json.loads(json.dumps(own))
    other["recipe"]["trainer"]["seed"] = 1
    for measured, accuracy in ((own, 0.5), (other, 0.75)):
        measured["reports"][0]["overall_accuracy"] = accuracy
    figures.write_text(json.dumps([other, own]))
    publish_weights(run_folder, tmp_path / "w", CPU, figures=figures)
    text = (tmp_path / "w" / "README.md").read_text()
    rows = re.findall(r"\| validation \(primary\) \| (.+?) \| (.+?) \|", text)
    assert rows == [("0", "0.5000"), ("1", "0.7500"), ("mean ± std", "0.6250 ± 0.1768")]


def test_a_card_of_weights_that_began_with_others_and_met_corruptions(
    run_folder: Path,  # noqa: F811
    figures: Path,
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    shutil.copytree(run_folder, run)
    recipe = load_run_recipe(run)
    recipe.model.init, recipe.model.size = str(run_folder / "best"), None
    save_recipe(recipe, run / "recipe.yaml")
    (measured,) = json.loads(figures.read_text())
    measured["recipe"] = asdict(load_run_recipe(run))
    spoiled = {"benchmark": "modelnet-c (generated)", "clean_accuracy": 0.9, "mean_error_rate": 0.2}
    measured["corruptions"] = [spoiled]
    figures.write_text(json.dumps([measured]))
    publish_weights(run, tmp_path / "w", CPU, figures=figures)
    told, text = read(tmp_path / "w", "figures.json"), (tmp_path / "w" / "README.md").read_text()
    assert told["evaluation"][0]["recipe"]["model"]["init"] == f"runs/{run_folder.name}"
    assert f"begun with the weights `runs/{run_folder.name}`" in text
    assert "| modelnet-c (generated) | 10.0 % | 20.0 % |" in text
    assert str(run_folder) not in text + json.dumps(told)


def test_the_command_that_trained() -> None:
    plain = load_recipe("psb_part", ["data.root=somewhere"])
    assert train_command(plain) == "ea-pointcloud train psb_part data.root=DATA"
    changed = load_recipe("psb_part", ["model.overrides.dropout=0.5", "augment.mirror=false",
                                       "trainer.device=cuda", "augment.scale=[1, 2]"])  # fmt: skip
    command = train_command(changed)
    assert command == (
        "ea-pointcloud train psb_part model.overrides.dropout=0.5 augment.mirror=false "
        "'augment.scale=[1.0,2.0]'"
    )
    begun = load_recipe("modelnet10_eamlp")
    for folder in ("runs/a-seed1", "runs/a-seed1/best"):
        begun.model.init = str(Path("/home/somebody/work") / folder)
        command = train_command(begun)
        assert command == "ea-pointcloud train modelnet10_eamlp model.init=runs/a-seed1"


def test_the_script_ends_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = tmp_path / "none"
    arguments = [str(missing), "ea-tiny-none", "--output", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["publish", *arguments])
    with pytest.raises(SystemExit) as stop:
        runpy.run_module("scripts.publish", run_name="__main__")
    assert stop.value.code == f"error: {missing} is not a run folder: it holds no recipe.yaml"


def test_weights_half_written_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipped, "SHIPPED_FOLDER", tmp_path)
    create_model("ea_classifier_tiny", num_classes=3).save_pretrained(tmp_path / "ea-one")
    (tmp_path / "ea-one").rename(tmp_path / ".ea-one-123")
    assert list_pretrained() == []
    (tmp_path / ".ea-one-123").rename(tmp_path / "ea-one")
    assert list_pretrained() == ["ea-one"]
