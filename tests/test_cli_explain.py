"""``view`` on what a network looks at, and ``explain``."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ea_pointcloud import viz
from ea_pointcloud.explain import (
    attention_maps,
    critical_points,
    most_used,
    saliency,
    subject_of,
)
from ea_pointcloud.models import EAClassifier, load_model
from ea_pointcloud.training.data import data_spec, open_split
from ea_pointcloud.training.recipe import load_recipe, save_recipe
from ea_pointcloud.viz import attention
from tests.test_cli import call
from tests.test_training import QUICK


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run as training leaves it, but for the training."""
    run = tmp_path_factory.mktemp("runs") / "run"
    recipe = load_recipe("procedural", QUICK)
    spec = data_spec(recipe, open_split(recipe.data, "val"))
    model = EAClassifier(recipe.model_config(len(spec.class_names)), spec)
    model.save_pretrained(run / "best")
    save_recipe(recipe, run / "recipe.yaml")
    return run


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    paths = [tmp_path / "one.npy", tmp_path / "two.npy"]
    for path in paths:
        np.save(path, rng.normal(size=(150, 3)) * [1, 2, 3])
    return paths


def test_view_draws_the_tensors_values(
    run_folder: Path, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = []

    def grid(clouds: list, values: list, columns: list, titles: list, *args: object, **options):
        shown.append((clouds, values, columns, titles))
        return scalar_grid(clouds, values, columns, titles, *args, **options)

    scalar_grid = attention.scalar_grid
    monkeypatch.setattr(attention, "scalar_grid", grid)
    picture = tmp_path / "slots.png"
    common = [*files, "--up", "z", "--model", run_folder, "--size", 96, "--force"]
    render = ["--render", picture]
    assert call(monkeypatch, "view", *common, "--attention", -1, *render) == 0
    assert np.asarray(Image.open(picture)).shape == (2 * 96, 6 * 96, 3)
    model = load_model(str(run_folder))
    assert isinstance(model, EAClassifier)
    subjects = [subject_of(model, path, up="z") for path in files]
    maps = [attention_maps(model, subject.seen, layers=[3])[0] for subject in subjects]
    slots = most_used(maps, 6)
    clouds, values, columns, titles = shown[0]
    assert columns == [f"slot {slot}" for slot in slots]
    assert titles == ["one.npy", "two.npy"]
    for row, (one, subject) in enumerate(zip(maps, subjects, strict=True)):
        assert np.array_equal(clouds[row], subject.xyz[0].numpy())
        expected = one.at(subject.xyz)[0][:, list(slots)].numpy()
        np.testing.assert_allclose(values[row], expected, rtol=1e-6)

    options = ["--attention", 0, "--slots", "9,2", "--saliency", "--critical"]
    assert call(monkeypatch, "view", *common, *options, *render) == 0
    clouds, values, columns, _ = shown[1]
    assert columns == ["slot 9", "slot 2", "saliency", "channels won"]
    seen = subjects[0].seen
    first = attention_maps(model, seen, layers=[0], slots=[9, 2])[0]
    assert np.array_equal(clouds[0], seen[0].numpy())
    np.testing.assert_allclose(values[0][:, :2], first.at(seen)[0].numpy(), rtol=1e-6)
    np.testing.assert_allclose(values[0][:, 2], saliency(model, seen)[0].numpy(), rtol=1e-6)
    assert np.array_equal(values[0][:, 3], critical_points(model, seen)[0].numpy())


def test_view_writes_a_page_or_opens_windows(
    run_folder: Path, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "slots.html"
    common = [files[0], "--model", run_folder, "--attention", 1, "--topk", 2]
    assert call(monkeypatch, "view", *common, "--html", page) == 0
    assert "slot" in page.read_text(encoding="utf-8")
    opened = []
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(viz, "show", lambda xyz, *, title, **_: opened.append((len(xyz), title)))
    assert call(monkeypatch, "view", *common) == 0
    assert [count for count, _ in opened] == [150, 150]
    assert all(title.startswith("one.npy: slot ") for _, title in opened)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--attention", 0], "need --model WEIGHTS"),
        (["--model", "RUN"], "--model needs --attention LAYER, --saliency or --critical"),
        (["--model", "RUN", "--topk", 3], "choose the slots of a layer; add --attention LAYER"),
        (
            ["--model", "RUN", "--attention", 0, "--slots", "1", "--topk", 3],
            "--slots and --topk both choose the slots",
        ),
        (["--model", "RUN", "--attention", 0, "--slots", "a"], "must be numbers such as 3,17"),
        (["--model", "RUN", "--attention", 4], "--attention must be between -4 and 3, got 4"),
        (
            ["--model", "RUN", "--saliency", "--color-by", "height"],
            "--color-by does not go with --attention, --saliency or --critical",
        ),
    ],
)
def test_view_says_what_does_not_go_together(
    options: list[object],
    message: str,
    run_folder: Path,
    files: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = [run_folder if option == "RUN" else option for option in options]
    picture = tmp_path / "a.png"
    assert call(monkeypatch, "view", files[0], *options, "--render", picture) == 1
    assert message in capsys.readouterr().err
    assert not picture.exists()


def test_slots(
    run_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    picture = tmp_path / "slots.png"
    assert call(monkeypatch, "explain", run_folder, "--layer", 1, "--render", picture) == 0
    out = capsys.readouterr().out
    assert f"{run_folder}: 28 val shapes" in out
    assert "layer 1, by class" in out
    assert "airplane" in out
    assert np.asarray(Image.open(picture)).shape[1] > 64 * 14
    assert call(monkeypatch, "explain", run_folder, "--split", "test", "--json") == 0
    layers = json.loads(capsys.readouterr().out)
    assert [layer["layer"] for layer in layers] == [0, 1, 2, 3]
    for layer in layers:
        assert sum(layer["usage"]) == pytest.approx(1)
        assert layer["classes"]["mug"]["shapes"] == 2
        assert 1 <= layer["slots_per_point"] <= layer["effective_slots"] <= 64
    assert call(monkeypatch, "explain", run_folder, "--layer", 4) == 1
    assert "--layer must be between -4 and 3, got 4" in capsys.readouterr().err
    assert call(monkeypatch, "explain", run_folder, "--render", picture) == 1
    assert "exists; choose another name or add --force" in capsys.readouterr().err
