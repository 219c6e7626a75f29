"""Training and evaluation in one call each, from Python."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import ea_pointcloud
from ea_pointcloud import Predictor, evaluate, train
from ea_pointcloud.models.pretrained import resolve_weights
from ea_pointcloud.training import api
from ea_pointcloud.training.api import full_key
from ea_pointcloud.training.recipe import load_recipe, save_recipe
from ea_pointcloud.training.run_folder import load_run_recipe

KEYS = {"data.shapes": [28, 14, 14], "model.overrides.num_centers": [16, 8], "optim.lr": 2e-3}


def test_train_and_evaluate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run = train("procedural", KEYS, epochs=1, num_points=64, device="cpu", votes=0)
    assert run == Path("runs/procedural-seed0")
    recipe = load_run_recipe(run)
    assert (recipe.trainer.epochs, recipe.data.num_points) == (1, 64)
    assert recipe.optim.lr == 2e-3
    assert recipe.model.overrides["num_centers"] == [16, 8]
    assert "epoch 1/1" in capsys.readouterr().err
    report = evaluate(run, device="cpu")
    assert report.epochs_done == 1
    assert 0 <= report.reports[0].overall_accuracy <= 1
    assert Predictor.from_pretrained(run, device="cpu") is not None
    with pytest.raises(FileExistsError, match="exists and is not empty"):
        train("procedural", KEYS, epochs=1, num_points=64, device="cpu", votes=0)
    assert train("procedural", KEYS, epochs=1, run_dir=run, resume=True, num_points=64, votes=0)
    with pytest.raises(FileNotFoundError, match=r"no run to resume in none; leave out resume"):
        train("procedural", run_dir="none", resume=True)
    with pytest.raises(ValueError, match="of the recipe procedural, not procedural_eamlp"):
        train("procedural_eamlp", run_dir=run, resume=True)


def test_a_recipe_that_is_invalid_alone_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "train_recipe", lambda recipe, run, *, resume: (recipe, run, resume))
    save_recipe(load_recipe("folder", [f"data.root={tmp_path}"]), tmp_path / "recipe.yaml")
    recipe, run, resume = train("folder", run_dir=tmp_path, resume=True)  # pyright: ignore
    assert (recipe.data.root, run, resume) == (str(tmp_path), tmp_path, True)


def test_keys_without_their_section() -> None:
    assert full_key("epochs") == "trainer.epochs"
    assert full_key("task") == "task"
    with pytest.raises(
        ValueError, match=r"batch_size is ambiguous; give one of 'trainer.batch_size', 'eval.batch_"
    ):
        full_key("batch_size")
    with pytest.raises(ValueError, match=r"unknown recipe key 'epoch'; did you mean epochs"):
        full_key("epoch")
    with pytest.raises(ValueError, match=r"data.root must be set"):
        train("folder", epochs=1)
    with pytest.raises(ValueError, match=r"trainer.epochs must be at least 1, got 0"):
        train("procedural", epochs=0)


def test_weights_need_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EA_POINTCLOUD_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="no data set modelnet10: neither a folder nor"):
        evaluate("eamlp-small-modelnet10")
    shutil.copytree(resolve_weights("eamlp-small-modelnet10"), tmp_path / "own")
    (tmp_path / "own" / "figures.json").unlink()
    with pytest.raises(ValueError, match=r"is not a run folder.*with --data SET or --data-root"):
        evaluate(tmp_path / "own")
    with pytest.raises(ValueError, match="split must be one of 'train', 'val', 'test', got 'all'"):
        evaluate("eamlp-small-modelnet10", split="all")


def test_the_package_shows_its_public_names_alone() -> None:
    shown = [name for name in dir(ea_pointcloud) if not name.startswith("_")]
    assert set(shown) == set(ea_pointcloud.__all__)
    for name in ("train", "evaluate", "Predictor", "read_cloud", "create_model"):
        assert name in shown
    for room in ea_pointcloud._MODULES:
        module = getattr(ea_pointcloud, room)
        assert all(hasattr(module, name) for name in module.__all__)


def test_the_import_is_light() -> None:
    code = "import sys, ea_pointcloud; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


def test_version() -> None:
    command = [sys.executable, "-m", "ea_pointcloud", "--version"]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == ea_pointcloud.__version__
