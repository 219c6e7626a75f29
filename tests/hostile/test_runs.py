"""Run folders and recipes from elsewhere: nothing outside is deleted, written or read."""

import json
from importlib import resources
from pathlib import Path

import pytest
import torch

from ea_pointcloud.models import load_model
from ea_pointcloud.training.callbacks import RunCheckpoint, export_weights, read_metrics
from ea_pointcloud.training.checkpoints import (
    WholeCheckpoints,
    furthest,
    refuse_links,
    remove_leftovers,
)
from ea_pointcloud.training.fit import train
from ea_pointcloud.training.recipe import load_recipe, own_up
from ea_pointcloud.training.run_folder import resume_recipe
from tests.damaged.folders import SMALL, copied


@pytest.mark.parametrize("path", ["/x/..", "..", "/etc/passwd", "checkpoints/../../precious", ""])
def test_no_path_is_taken_from_a_checkpoint(tmp_path: Path, path: str) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    own = folder / "best.ckpt"
    own.write_bytes(b"weights")
    callback = RunCheckpoint(folder, filename="best", monitor="val/oa", mode="max")
    score = torch.tensor(0.5)
    callback.load_state_dict(
        {
            "dirpath": path,
            "best_model_path": path,
            "kth_best_model_path": path,
            "last_model_path": path,
            "best_k_models": {path: score},
            "best_model_score": score,
            "kth_value": score,
        }
    )
    assert callback.best_model_path == callback.kth_best_model_path == str(own)
    assert callback.best_k_models == {str(own): score}
    assert callback.last_model_path == ""
    assert Path(str(callback.dirpath)) == folder


def test_a_score_without_its_checkpoint_is_none(tmp_path: Path) -> None:
    callback = RunCheckpoint(tmp_path, filename="best", monitor="val/oa", mode="max")
    callback.load_state_dict({"best_model_score": torch.tensor(0.5)})
    assert (callback.best_model_path, callback.best_k_models) == ("", {})


def test_removing_a_checkpoint_never_removes_a_folder(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "precious").write_text("kept")
    with pytest.raises(OSError, match="inner"):
        WholeCheckpoints().remove_checkpoint(tmp_path / "inner")
    with pytest.raises(OSError, match=r"\.\."):
        WholeCheckpoints().remove_checkpoint(tmp_path / "inner" / "..")
    (tmp_path / "link").symlink_to(tmp_path / "inner" / "precious")
    WholeCheckpoints().remove_checkpoint(tmp_path / "link")
    assert (tmp_path / "inner" / "precious").read_text() == "kept"


class Payload:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("ran"),)  # pyright: ignore[reportReturnType]


def test_reading_a_checkpoint_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    path = tmp_path / "checkpoints" / "last.ckpt"
    torch.save({"epoch": Payload()}, path)
    with pytest.raises(ValueError, match="is damaged"):
        furthest(tmp_path)
    with pytest.raises(Exception, match="Weights only load failed"):
        WholeCheckpoints().load_checkpoint(path, weights_only=False)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "content",
    [[1], {"epoch": "one"}, {"epoch": {}}, {"epoch": 1, "batches_done": "x"}, b"\x80junk"],
)
def test_what_a_checkpoint_may_hold(tmp_path: Path, content: object) -> None:
    (tmp_path / "checkpoints").mkdir()
    path = tmp_path / "checkpoints" / "within.ckpt"
    torch.save(content, path)
    with pytest.raises(ValueError, match=r"within\.ckpt is damaged"):
        furthest(tmp_path)


@pytest.mark.parametrize("link", ["checkpoints", "metrics.csv", ".lock", "checkpoints/best.ckpt"])
def test_links_are_refused(tmp_path: Path, link: str) -> None:
    run, away = tmp_path / "run", tmp_path / "away"
    (run / "checkpoints").mkdir(parents=True)
    away.mkdir()
    if link == "checkpoints":
        (run / link).rmdir()
    (run / link).symlink_to(away)
    with pytest.raises(ValueError, match="is a link, which is not followed"):
        refuse_links(run)
    (tmp_path / "runs").symlink_to(away)
    refuse_links(tmp_path / "runs")  # one's own name for the folder itself


def test_leftovers_are_removed_inside_alone(tmp_path: Path) -> None:
    run, away = tmp_path / "run", tmp_path / "away"
    (run / ".best-1").mkdir(parents=True)
    away.mkdir()
    (away / "precious").write_text("kept")
    (run / ".last-2").symlink_to(away)
    remove_leftovers(run)
    assert (away / "precious").read_text() == "kept"
    assert not (run / ".best-1").exists()


NAMES = ["../../x", "/etc/x", "..", ".hidden", "a\\b", "a\x1b[2J", "x" * 101]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_no_path(tmp_path: Path, name: str) -> None:
    path = tmp_path / "own.yaml"
    packaged = (resources.files("ea_pointcloud") / "recipes" / "procedural.yaml").read_text()
    path.write_text(f"name: {json.dumps(name)}\n{packaged}")
    with pytest.raises(ValueError, match="name must be a plain name"):
        load_recipe(path)


def test_nothing_is_filled_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "hunter2")
    path = tmp_path / "own.yaml"
    for key in ("name", "data.root"):
        with pytest.raises(ValueError, match=r"\$\{\.\.\.\} is not replaced") as error:
            load_recipe("procedural", [f"{key}=${{oc.env:SECRET}}"])
        assert "hunter2" not in str(error.value)
    path.write_text("name: ${oc.env:SECRET}\n")
    with pytest.raises(ValueError, match=r"own\.yaml: \$\{\.\.\.\} is not replaced"):
        load_recipe(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: " + "[" * 50_000, "nested more than 16 deep"),
        ("name: " + "{a: " * 5_000, "nested more than 16 deep"),
        ("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n", r"\*a repeats another value"),
        ("name: " + "x" * 200_000, "a recipe at most"),
        ("- 1\n- 2\n", "own.yaml"),
        ("5", "own.yaml"),
        ("name: !!python/object/apply:os.system [touch ran]", "own.yaml"),
        ("\x00", "own.yaml"),
    ],
    ids=["lists", "maps", "laughs", "long", "list", "number", "python", "bytes"],
)
def test_yaml_that_exhausts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "own.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=words):
        load_recipe(path)
    assert not (tmp_path / "ran").exists()


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has done one of two epochs."""
    run = train(load_recipe("procedural", SMALL), tmp_path_factory.mktemp("runs") / "run")
    recipe = run / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("epochs: 1\n", "epochs: 2\n", 1))
    (run / "checkpoints" / "complete").unlink()
    return run


@pytest.mark.parametrize("damage", ["layer", "optimizer", "loops", "best"])
def test_a_run_whose_checkpoint_does_not_fit(stopped: Path, tmp_path: Path, damage: str) -> None:
    run = copied(stopped, tmp_path)
    path = run / "checkpoints" / ("best.ckpt" if damage == "best" else "last.ckpt")
    content = torch.load(path, weights_only=True)
    if damage == "loops":
        content["loops"] = 5
    elif damage == "optimizer":
        for state in content["optimizer_states"][0]["state"].values():
            state["exp_avg"] = torch.zeros(1, 7)
    else:
        del content["state_dict"][next(iter(content["state_dict"]))]
    torch.save(content, path)
    if damage == "best":  # is read once the epoch is over
        with pytest.raises(ValueError, match=r"best\.ckpt is damaged .*; copy the run folder"):
            export_weights(path, load_model(run / "last"), run / "best")
        return
    with pytest.raises(ValueError, match=r"last\.ckpt cannot be continued .*; copy the run folder"):
        train(resume_recipe(run), run, resume=True)


@pytest.mark.parametrize(
    "text", ["epoch,val/oa\nx,1\n", "epoch,val/oa\n1,1,1\n", "val/oa\n1\n", "epoch\n\xff\n"]
)
def test_metrics_that_are_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=r"metrics\.csv is damaged"):
        read_metrics(path)


@pytest.mark.parametrize("key", ["a" + ".b" * 20_000, "a" + "[0]" * 20_000])
def test_overrides_that_exhaust(key: str) -> None:
    with pytest.raises(ValueError, match=r"nested more than 16 deep") as error:
        load_recipe("procedural", [f"{key}=1"])
    assert len(str(error.value)) < 300


def test_text_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_bytes(b"name: \xff")
    for read in (load_recipe, own_up):
        with pytest.raises(ValueError, match=r"own\.yaml is not UTF-8 text"):
            read(path)
